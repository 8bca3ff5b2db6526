"""The main job on real sentences and the real MiniLM."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bayes_lora import FitSettings, Posterior, Task, fit, load_backbone, read
from bayes_lora.data import Example
from bayes_lora.scorers import keep_scorable
from calibration import accuracy, ece, nll


def _sst2(data_folder: Path, split: str, rows: int) -> Task:
    path = data_folder / "classification" / f"stsa.binary.{split}"
    lines = path.read_text(encoding="latin-1").splitlines()[:rows]
    return Task(
        split,
        tuple(
            Example(input=line[2:], options=("0", "1"), label=int(line[0]), where=f"{split}, {i}")
            for i, line in enumerate(lines, 1)
        ),
    )


def test_200_sentences_teach_sentiment_and_honesty(data_folder: Path) -> None:
    """Better than always saying 0.5 by a wide margin, and not overconfident; no dev split used."""
    train, dev = _sst2(data_folder, "train", 200), _sst2(data_folder, "dev", 200)
    backbone = load_backbone("minilm", max_length=32)
    posterior = fit([train], backbone, settings=FitSettings(max_steps=60))
    predictions = posterior.predict(dev.examples, draws=4)
    assert accuracy(predictions.probabilities, dev.labels) > 0.68
    assert nll(predictions.probabilities, dev.labels) < 0.6
    assert ece(predictions.probabilities, dev.labels) < 0.12
    uncertain = predictions.mutual_information > 0
    assert uncertain.all(), "draws must differ on every row"


TASKS = ("emotion", "openbookqa", "rotten_tomatoes", "trec")


@pytest.mark.parametrize(
    ("model", "scorer"), [("minilm", "similarity"), ("tinystories-656K", "likelihood")]
)
def test_one_fit_of_four_tasks_beats_zero_shot(data_folder: Path, model: str, scorer: str) -> None:
    """Classification and multiple choice together; rows of the test files, shuffled."""
    path = model if model == "minilm" else str(data_folder / "causal_lm" / model)
    zero_shot = Posterior.pretrained(load_backbone(path, max_length=32), scorer)
    specs = [f"crossfit:{data_folder / 'crossfit_tsv' / task}" for task in TASKS]
    tasks = read(specs, split="test")
    tasks = keep_scorable(tasks, zero_shot.config.scorer, zero_shot.model.backbone)
    assert len(tasks) == len(TASKS)
    rows = [random.Random(0).sample(task.examples, 240) for task in tasks]
    train, test = (
        [replace(task, examples=tuple(own[part])) for task, own in zip(tasks, rows, strict=True)]
        for part in (slice(200), slice(200, 240))
    )
    backbone = load_backbone(path, max_length=32)
    settings = FitSettings(max_steps=40, batch_size=16)
    posterior = fit(train, backbone, scorer=scorer, settings=settings)
    before, after = (_macro_nll(p, test) for p in (zero_shot, posterior))
    assert after < before - 0.1, (before, after)


def _macro_nll(posterior: Posterior, tasks: list[Task]) -> float:
    values = []
    for task in tasks:
        predictions = posterior.predict(task.examples, draws=4)
        values.append(nll(predictions.probabilities, task.labels))
    return float(np.mean(values))


def test_pretrained_language_models_are_loaded_whole(data_folder: Path) -> None:
    """Tied embeddings that a checkpoint holds only as its head must not come out random."""
    for name in ("tinystories-656K", "stories260K"):
        path = str(data_folder / "causal_lm" / name)
        fingerprints = {load_backbone(path).fingerprint for _ in range(2)}
        assert len(fingerprints) == 1, name

"""The main job on real sentences and the real MiniLM."""

from pathlib import Path

from bayes_lora import FitSettings, Task, fit, load_backbone
from bayes_lora.data import Example
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
    train, dev = _sst2(data_folder, "train", 200), _sst2(data_folder, "dev", 300)
    posterior = fit([train], load_backbone("minilm"), settings=FitSettings(max_steps=100))
    predictions = posterior.predict(dev.examples, draws=6)
    assert accuracy(predictions.probabilities, dev.labels) > 0.68
    assert nll(predictions.probabilities, dev.labels) < 0.6
    assert ece(predictions.probabilities, dev.labels) < 0.12
    uncertain = predictions.mutual_information > 0
    assert uncertain.all(), "draws must differ on every row"


def test_pretrained_language_models_are_loaded_whole(data_folder: Path) -> None:
    """Tied embeddings that a checkpoint holds only as its head must not come out random."""
    for name in ("tinystories-656K", "stories260K"):
        path = str(data_folder / "causal_lm" / name)
        fingerprints = {load_backbone(path).fingerprint for _ in range(2)}
        assert len(fingerprints) == 1, name

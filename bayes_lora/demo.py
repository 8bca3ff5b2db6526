"""The demo on messages the project generates: two fits, then many tasks and a few new ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bayes_lora.backbone import MINILM, load_backbone
from bayes_lora.data import (
    Task,
    generate,
    generate_tasks,
    remove_overlap,
    sample_support,
    split_tasks,
    write_csv,
)
from bayes_lora.files import atomic_folder
from bayes_lora.inference import FitSettings, fit
from bayes_lora.meta import EpisodeSettings, MetaPosterior, MetaSettings, meta_fit
from bayes_lora.output import write_predictions
from bayes_lora.predict import joined
from bayes_lora.run_config import check_free
from calibration import write_report

TRAIN_ROWS = 200
TEST_ROWS = 400
EPOCHS = 16  # fewer than the default, to be done in two minutes on two cores
GUIDES_SHOWN = {"mle": "mle-lora", "mean-field": "bayesian-lora"}

NEW_TASKS = ("clinic", "landlord", "software")  # the other inboxes are to learn from
INBOX_ROWS = 60  # of each, to learn from
QUESTIONS = 50  # of each new one
SUPPORT_SIZES = (0, 4, 16)  # in all
HELD_OUT = 0.1  # of the inboxes to learn from, for meta-dev
ALONE = 40  # steps of LoRA on the support alone, which starts from nothing
# Fewer, smaller and shorter steps than the defaults, to be done in a minute.
META = MetaSettings(
    max_steps=30,
    tasks_per_step=4,
    steps=8,
    evaluations=1,
    episodes=EpisodeSettings(support=(1, 4), query=16),
)


def run_demo(out: Path, seed: int = 0) -> tuple[Path, Path]:
    """Compare two fits to one task, and two ways to a new task from a few examples.

    First MLE LoRA and Bayesian LoRA on generated support messages. Then ABMLL, which learns from
    the inboxes of nine places and adapts to three others from 0, 4 and 16 examples, and LoRA on
    these examples alone, which without any is the pretrained model. How the messages are made:
    ``bayes_lora.data.generated``. Everything is kept in ``out``: data, runs, predictions, reports.

    Args:
        out: A new or empty folder.
        seed: Of the data and the fits.

    Returns:
        Where the two ``report.html`` lie.

    Raises:
        RunFolderError: ``out`` is not empty.
        ConfigError: MiniLM is not installed, or ``out`` cannot be written.
    """
    check_free(out)
    with atomic_folder(out) as unfinished:
        compare_fits(unfinished, seed)
        compare_support(unfinished, seed)
    return out / "report" / "report.html", out / "few-shot-report" / "report.html"


def compare_fits(out: Path, seed: int) -> None:
    """Fit MLE LoRA and Bayesian LoRA to the same task, and report on both."""
    train = generate(TRAIN_ROWS, seed=2 * seed)
    test = generate(TEST_ROWS, seed=2 * seed + 1)
    write_csv(train, out / "train.csv")
    write_csv(test, out / "test.csv")
    files = []
    for guide, name in GUIDES_SHOWN.items():
        settings = FitSettings(epochs=EPOCHS, seed=seed)
        posterior = fit(
            [train], load_backbone(MINILM), guide=guide, settings=settings, progress=True
        )
        posterior.save_pretrained(out / name)
        files.append(out / f"{name}.jsonl")
        write_predictions([test], posterior.predict(test.examples, seed=seed), files[-1])
    write_report(files, out / "report", title="Support messages: MLE LoRA and Bayesian LoRA")


def compare_support(out: Path, seed: int) -> None:
    """Learn from many inboxes, adapt to new ones, and report by the number of examples."""
    known, new, test = _inboxes(out / "inboxes", seed)
    train, dev = split_tasks(known, HELD_OUT, seed)
    settings = replace(META, seed=seed)
    abmll = meta_fit(train, load_backbone(MINILM), dev=dev, settings=settings, progress=True)
    abmll.save_pretrained(out / "abmll")
    alone = replace(settings, method="lora", steps=ALONE)
    lora = meta_fit(train, load_backbone(MINILM), dev=dev, scorer="similarity", settings=alone)
    files = [out / "abmll.jsonl", out / "lora-on-support-alone.jsonl"]
    for learned, file in zip((abmll, lora), files, strict=True):
        _answer(learned, new, test, file, seed)
    title = "New inboxes: ABMLL, and LoRA on the support examples alone"
    write_report(files, out / "few-shot-report", title=title)


def _inboxes(folder: Path, seed: int) -> tuple[list[Task], list[Task], list[Task]]:
    """Make and write what to learn from, and of the new tasks, rows to adapt to and to ask."""
    made = generate_tasks(INBOX_ROWS, seed=2 * seed)
    asked = generate_tasks(QUESTIONS, seed=2 * seed + 1)
    test = [task for task in asked if task.name in NEW_TASKS]
    known = [task for task in made if task.name not in NEW_TASKS]
    new = remove_overlap([task for task in made if task.name in NEW_TASKS], (), test).train
    for name, tasks in (("train", known), ("few", new), ("test", test)):
        for task in tasks:
            write_csv(task, folder / name / f"{task.name}.csv")
    return known, list(new), test


def _answer(
    learned: MetaPosterior, new: Sequence[Task], test: Sequence[Task], file: Path, seed: int
) -> None:
    """Adapt to each new task from samples of several sizes, and predict."""
    predicted, asked, support = [], [], []
    for size in SUPPORT_SIZES:
        for task, questions in zip(new, test, strict=True):
            shown = sample_support(task, size, per_class=False, rng=np.random.default_rng(seed))
            predicted.append(learned.adapt(shown).predict(questions.examples, seed=seed))
            asked.append(questions)
            support.append((size, seed if size else None))
    write_predictions(asked, joined(predicted), file, support=support)

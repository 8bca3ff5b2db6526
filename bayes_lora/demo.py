"""The demo on texts the project generates: two fits, a few new tasks, users who differ."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bayes_lora.backbone import MINILM, load_backbone
from bayes_lora.data import (
    Task,
    generate,
    generate_reviews,
    generate_tasks,
    remove_overlap,
    sample_support,
    split_tasks,
    write_csv,
)
from bayes_lora.files import atomic_folder
from bayes_lora.heterogeneity import describe_levels
from bayes_lora.inference import FitSettings, fit
from bayes_lora.inference.levels import MEASURED
from bayes_lora.level_page import PAGE, write_levels
from bayes_lora.meta import EpisodeSettings, MetaPosterior, MetaSettings, meta_fit
from bayes_lora.output import write_predictions
from bayes_lora.posterior import Posterior
from bayes_lora.predict import joined
from bayes_lora.run_config import check_free
from calibration import write_report

TRAIN_ROWS = 200
TEST_ROWS = 300
EPOCHS, BATCH_ROWS = 10, 16  # fewer than the defaults, to be done in a minute on two slow cores
GUIDES_SHOWN = {"mle": "mle-lora", "mean-field": "bayesian-lora"}

NEW_TASKS = ("clinic", "landlord", "software")  # the other inboxes are to learn from
INBOX_ROWS = 60  # of each, to learn from
QUESTIONS = 40  # of each new one
SUPPORT_SIZES = (0, 16)  # in all
HELD_OUT = 0.1  # of the inboxes to learn from, for meta-dev
ALONE = 24  # steps of LoRA on the support alone, which starts from nothing
# Fewer, smaller and shorter steps than the defaults, to be done in a minute.
META = MetaSettings(
    max_steps=30,
    tasks_per_step=4,
    steps=8,
    evaluations=1,
    episodes=EpisodeSettings(support=(1, 4), query=16),
)

USERS, REVIEWS = 40, 320  # to learn from
UNSEEN, ASKED = 10, 180  # more users, and all users' reviews to predict
USER_EPOCHS, USER_DRAWS = 3, 8  # fewer than the defaults, to be done in a minute on one core


def run_demo(out: Path, seed: int = 0) -> tuple[Path, ...]:
    """Compare two fits to one task, two ways to a new task, and knowing users with not.

    First MLE LoRA and Bayesian LoRA on generated support messages. Then ABMLL, which learns from
    the inboxes of nine places and adapts to three others from none and from 16 examples, and LoRA
    on these examples alone, which without any is the pretrained model. Last, one fit to reviews by
    users some of whom are severe, asked about new ones with their users and without. How the texts
    are made: ``bayes_lora.data.generated`` and ``reviews``. Everything is kept in ``out``: data,
    runs, predictions, reports.

    Args:
        out: A new or empty folder.
        seed: Of the data and the fits.

    Returns:
        Where the three ``report.html`` lie, and the page on users.

    Raises:
        RunFolderError: ``out`` is not empty.
        ConfigError: MiniLM is not installed, or ``out`` cannot be written.
    """
    check_free(out)
    with atomic_folder(out) as unfinished:
        compare_fits(unfinished, seed)
        compare_support(unfinished, seed)
        compare_users(unfinished, seed)
    reports = ("report", "few-shot-report", "users-report")
    return *(out / name / "report.html" for name in reports), out / "users" / PAGE


def compare_fits(out: Path, seed: int) -> None:
    """Fit MLE LoRA and Bayesian LoRA to the same task, and report on both."""
    train = generate(TRAIN_ROWS, seed=2 * seed)
    test = generate(TEST_ROWS, seed=2 * seed + 1)
    write_csv(train, out / "train.csv")
    write_csv(test, out / "test.csv")
    files = []
    for guide, name in GUIDES_SHOWN.items():
        settings = FitSettings(epochs=EPOCHS, batch_size=BATCH_ROWS, seed=seed)
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


def compare_users(out: Path, seed: int) -> None:
    """Fit reviews with their users, predict others with and without, and report on users."""
    train = generate_reviews(USERS, REVIEWS, seed)
    test = generate_reviews(USERS, ASKED, seed, unseen=UNSEEN)
    write_csv(train, out / "reviews" / "train.csv")
    write_csv(test, out / "reviews" / "test.csv")
    settings = FitSettings(epochs=USER_EPOCHS, batch_size=BATCH_ROWS, seed=seed)
    backbone = load_backbone(MINILM)
    posterior = fit([train], backbone, settings=settings, attributes=["user"], progress=True)
    posterior.save_pretrained(out / "by-user")
    files = [out / "users-known.jsonl", out / "users-unknown.jsonl"]
    _ask(posterior, test, files, seed)
    write_report(files, out / "users-report", title="Reviews: users known, and unknown")
    reports = describe_levels(posterior, train.examples, seed=seed)
    rows = min(len(train), MEASURED)
    write_levels(reports, out / "users", run="by-user", rows=rows, seed=seed)


def _ask(posterior: Posterior, test: Task, files: Sequence[Path], seed: int) -> None:
    """Predict with users and without, and write both by how often the users were seen."""
    nobody = replace(test, examples=tuple(replace(row, attributes={}) for row in test.examples))
    counts = posterior.level_counts(test.examples)
    for task, file in zip((test, nobody), files, strict=True):
        predicted = posterior.predict(task.examples, draws=USER_DRAWS, seed=seed)
        write_predictions([task], predicted, file, level_counts=counts)

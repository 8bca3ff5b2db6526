"""What is compared: how each method uses the labelled rows that it is given, and predicts.

All adapt the same layers of the same backbone with LoRA of rank 8, for as many steps. A method that
stops early or recalibrates takes a fifth of the labelled rows for it (`early`); who needs none of
that learns from all. That is the comparison which matters to a user, who has so many labels and no
more.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from sets import Data, held_back

from bayes_lora import Posterior, Predictions, Task, fit
from bayes_lora.backbone import Backbone
from bayes_lora.inference import FitSettings
from calibration import (
    UndefinedMetricError,
    accuracy,
    aurc,
    auroc,
    brier,
    detection,
    ece,
    fit_recalibration,
    nll,
)

DRAWN = {"draws": 10}
METRICS = {
    "accuracy": accuracy,
    "nll": nll,
    "ece": ece,
    "brier": brier,
    "auroc": auroc,
    "aurc": aurc,
}


@dataclass(frozen=True)
class Contender:
    """One way to fit and predict.

    Args:
        guide: Its name.
        early: Whether rows are held back, to stop early on.
        temperature: Whether a temperature is fitted to these rows too.
        how: What ``Posterior.predict`` is told of how to predict; empty: as it does by default.
        single: Whether it costs a single fit.
    """

    guide: str
    early: bool = False
    temperature: bool = False
    how: Mapping[str, Any] = field(default_factory=dict)
    single: bool = True

    @property
    def fitted_as(self) -> tuple[str, bool]:
        """What its fit depends on: contenders that agree here differ in prediction alone."""
        return self.guide, self.early


CONTENDERS = {
    "mle": Contender("mle"),
    "mle-early": Contender("mle", early=True),
    "mle-early-temperature": Contender("mle", early=True, temperature=True),
    "map": Contender("map"),
    "mean-field": Contender("mean-field"),
    "mean-field-10-draws": Contender("mean-field", how=DRAWN),
    "mean-field-2-draws": Contender("mean-field", how={"draws": 2}),
    "low-rank": Contender("low-rank"),
    "ivon": Contender("ivon"),
    "blob": Contender("blob"),
    "laplace-10-draws": Contender("laplace", how=DRAWN),
    "laplace-linearised": Contender("laplace"),
    "laplace-diagonal-linearised": Contender("laplace-diagonal"),
    "swag": Contender("swag", early=True),
    "mc-dropout": Contender("mc-dropout", early=True),
    "training-free": Contender("training-free", early=True),
    "svgd": Contender("svgd", single=False),
    "ensemble-early": Contender("ensemble", early=True, single=False),
}


@dataclass
class Cost:
    """What a stage took.

    Args:
        seconds: Wall time.
        mebibytes: Most memory at a time above what was in use before: the GPU's, or without one
            the process's.
    """

    seconds: float = 0.0
    mebibytes: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """A method after its fit, and what that cost."""

    contender: Contender
    posterior: Posterior
    held: Task | None
    cost: Cost = field(default_factory=Cost)

    def predict(self, task: Task, seed: int) -> Predictions:
        """Answer rows."""
        kind = self.contender
        predictions = self.posterior.predict(task.examples, seed=seed, **kind.how)
        if not kind.temperature:
            return predictions
        assert self.held is not None
        own = self.posterior.predict(self.held.examples, seed=seed, **kind.how).probabilities
        options = [len(example.options) for example in self.held.examples]
        return predictions.recalibrated(
            fit_recalibration("temperature", own, self.held.labels, options)
        )


def learn(contender: Contender, data: Data, seed: int, backbone: Backbone) -> Fitted:
    """Fit a method to the rows that are given."""
    train, held = held_back(data.given, seed) if contender.early else (data.given, None)
    with measured() as cost:
        posterior = fit(
            [train],
            backbone,
            scorer=data.scorer,
            guide=contender.guide,
            settings=FitSettings(seed=seed),
            dev=[held] if held else [],
        )
    return Fitted(contender, posterior, held, cost)


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure time and memory of what is done inside."""
    cost, done = Cost(), threading.Event()
    watch = threading.Thread(target=_watch, args=(cost, done))
    watch.start()
    started = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        done.set()
        watch.join()


def _watch(cost: Cost, done: threading.Event) -> None:
    """Look at the memory every 20 ms."""
    before = _memory()
    while not done.wait(0.02):
        cost.mebibytes = max(cost.mebibytes, (_memory() - before) / 2**20)


def _memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


def judge(fitted: Fitted, data: Data, seed: int) -> dict[str, Any]:
    """Measure a method on the rows to be judged, shifted ones, and its doubt of those outside."""
    with measured() as cost:
        inside = fitted.predict(data.judged, seed)
    found: dict[str, Any] = {"test": scores(inside, data.judged), "predicting": cost.seconds}
    for name, task in data.shifted.items():
        found[f"shifted {name}"] = scores(fitted.predict(task, seed), task)
    for name, task in data.outside.items():
        found[f"outside {name}"] = doubts(inside, fitted.predict(task, seed))
    return found


def scores(predictions: Predictions, task: Task) -> dict[str, float | None]:
    """Measure predictions of labelled rows; None where a metric has no value."""
    options = np.array([len(example.options) for example in task.examples])
    found: dict[str, float | None] = {}
    for name, metric in METRICS.items():
        try:
            found[name] = metric(predictions.probabilities, task.labels, num_options=options)
        except UndefinedMetricError:
            found[name] = None
    return found


def doubts(inside: Predictions, outside: Predictions) -> dict[str, float]:
    """Say how well doubt tells rows outside: of the answer, and of the weights alone."""
    pairs = {
        "entropy": (inside.predictive_entropy, outside.predictive_entropy),
        "mutual information": (inside.mutual_information, outside.mutual_information),
    }
    return {name: detection(*own).auroc for name, own in pairs.items()}

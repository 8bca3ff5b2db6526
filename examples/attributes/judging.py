"""What is said of a method's answers to the test rows."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bayes_lora.data import Task, level_of, levels_of
from calibration import accuracy, brier, ece, nll, validate
from calibration.levels import BUCKETS, bucket
from calibration.metrics import losses

METRICS: Mapping[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "nll": nll,
    "ece": ece,
    "brier": brier,
}


def judge(probabilities: np.ndarray, test: Task, train: Task, group: str | None) -> dict[str, Any]:
    """Judge all rows, each group's, and those of each bucket of level counts.

    Args:
        probabilities: Of the test rows' options, ``[n, options]``.
        test: The rows.
        train: What the methods learned from: its levels are counted.
        group: An attribute with few, large levels, whose mean is also given; None: none.

    Returns:
        JSON. Of each row, log p(label), whether the answer was right, and its buckets, as
        positions in BUCKETS: enough for paired differences.
    """
    labels = np.array(test.labels)
    checked = validate(probabilities, labels)
    buckets = {name: _buckets(test, train, name) for name in train.attributes}
    judged = measured(probabilities, labels)
    if group is not None:
        levels = np.array([level_of(row, group) for row in test.examples])
        judged["groups"] = _by(levels, probabilities, labels)
        judged["macro"] = _mean(list(judged["groups"].values()))
    judged["buckets"] = {
        name: _by(np.array(BUCKETS)[own], probabilities, labels) for name, own in buckets.items()
    }
    judged["rows"] = {
        "log_p": [round(float(loss), 4) for loss in -losses(checked)],
        "correct": _digits(checked.correct),
        "buckets": {name: _digits(own) for name, own in buckets.items()},
    }
    return judged


def measured(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Count and measure some rows."""
    values = {name: metric(probabilities, labels) for name, metric in METRICS.items()}
    return {"n": len(labels)} | {name: round(value, 5) for name, value in values.items()}


def _buckets(test: Task, train: Task, attribute: str) -> np.ndarray:
    """Say which bucket each row falls into, as positions in BUCKETS."""
    levels = levels_of([train], attribute)
    counts = [levels.count(level_of(row, attribute)) for row in test.examples]
    return np.array([BUCKETS.index(bucket(count)) for count in counts])


def _by(names: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure the rows of each name."""
    found = {}
    for name in sorted(set(names.tolist())):
        own = names == name
        found[name] = measured(probabilities[own], labels[own])
    return found


def _mean(parts: list[dict[str, Any]]) -> dict[str, float]:
    """Give the metrics' means over groups, each counting alike."""
    return {name: round(float(np.mean([own[name] for own in parts])), 5) for name in METRICS}


def _digits(values: np.ndarray) -> str:
    return "".join(str(int(value)) for value in values)

"""Measure one predictions file, and pick the rows of it that are worth reading."""

from dataclasses import dataclass

import numpy as np

from calibration.bootstrap import Interval, check_settings, percentile_interval
from calibration.errors import UndefinedMetricError
from calibration.metrics import METRICS
from calibration.reading import PredictionsFile
from calibration.resampling import resampled_metrics
from calibration.validation import Floats, Integers


@dataclass(frozen=True)
class Measured:
    """What the report says about one file.

    Attributes:
        values: The metrics of `METRICS` by name; None where undefined.
        intervals: Their bootstrap intervals, by name; None where undefined.
        undefined: Why a metric is undefined, by name, for those that are.
    """

    values: dict[str, float | None]
    intervals: dict[str, Interval | None]
    undefined: dict[str, str]


def measure(file: PredictionsFile, *, resamples: int, level: float, seed: int) -> Measured:
    """Compute every metric with its interval.

    Args:
        file: Checked predictions with their options.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        Values and intervals; an undefined metric is None with the reason beside it. The intervals
        are those of `bootstrap_interval`, to rounding.

    Raises:
        ParameterError: For `resamples` below 1 or a `level` outside (0, 1).
    """
    check_settings(resamples, level)
    values, undefined = metric_values(file)
    drawn = resampled_metrics(
        file.predictions, classwise=_same_options(file), resamples=resamples, seed=seed
    )
    intervals: dict[str, Interval | None] = dict.fromkeys(values)
    for name in [name for name in values if name not in undefined]:
        try:
            defined = drawn[name][~np.isnan(drawn[name])]
            intervals[name] = percentile_interval(defined, level)
        except UndefinedMetricError as error:
            undefined[name] = str(error)
    return Measured(values, intervals, undefined)


def metric_values(file: PredictionsFile) -> tuple[dict[str, float | None], dict[str, str]]:
    """The metrics of `METRICS` by name, None where undefined, and why some have no value."""
    data = file.predictions
    values: dict[str, float | None] = {}
    undefined = {}
    for name, metric in METRICS.items():
        try:
            if name == "classwise_ece" and not _same_options(file):
                raise UndefinedMetricError("rows have different options, so there are no classes")
            values[name] = metric(data.probabilities, data.labels, data.num_options)
        except UndefinedMetricError as error:
            values[name] = None
            undefined[name] = str(error)
    return values, undefined


def _same_options(file: PredictionsFile) -> bool:
    """Whether option k is the same class in every row."""
    return len({row.options for row in file.rows}) == 1


def entropy(probabilities: Floats) -> Floats:
    """Entropy in nats over the last axis, with ``0 log 0 = 0``."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return -(safe * np.log(safe)).sum(axis=-1)


def most_uncertain(file: PredictionsFile, count: int) -> Integers:
    """The rows of highest predictive entropy, int64 [<= count], highest first."""
    return np.argsort(-entropy(file.predictions.probabilities), kind="stable")[:count]


def most_confidently_wrong(file: PredictionsFile, count: int) -> Integers:
    """The wrongly answered rows of highest confidence, int64 [<= count], highest first."""
    confidences, correct = file.predictions.confidences, file.predictions.correct
    wrong = np.flatnonzero(~correct)
    return wrong[np.argsort(-confidences[wrong], kind="stable")[:count]]

"""Bootstrap intervals: how much would a metric move on other rows of the same kind?"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from calibration.errors import ParameterError, UndefinedMetricError
from calibration.metrics import Metric
from calibration.validation import Floats, Predictions, validate

RESAMPLES = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """The two ends of an interval, in the metric's units."""

    low: float
    high: float


def bootstrap_interval(
    metric: Metric,
    probabilities: ArrayLike,
    labels: ArrayLike,
    num_options: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a metric: rows are drawn again with replacement.

    It says how far chance in the choice of test rows carries the metric; it knows nothing of the
    chance in training. Binned errors (`ece` and its relatives) take absolute values, so noise only
    adds to them: their intervals lean upwards and, for a well calibrated model on few rows, can
    lie wholly above the value itself.

    Args:
        metric: A function of this package, or any other taking (probabilities, labels,
            num_options) and returning a float.
        probabilities: [n, K] array or n rows of unequal lengths.
        labels: int [n].
        num_options: int [n], for zero-padded rows.
        resamples: How many times the rows are drawn again. Draws for which the metric is
            undefined are left out.
        level: The share of the resampled values between the two ends, between 0 and 1.
        seed: Fixes the draws; for the same number of rows the same seed draws the same rows.

    Returns:
        The interval's ends.

    Raises:
        InvalidPredictionsError: For arrays that are not class probabilities with labels.
        ParameterError: For `resamples` below 1 or a `level` outside (0, 1).
        UndefinedMetricError: If the metric is undefined on the data or on every resample.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    check_settings(resamples, level)
    data = validate(probabilities, labels, num_options)
    metric(data.probabilities, data.labels, data.num_options)  # undefined here: says so
    values = _resampled(metric, data, resamples, np.random.default_rng(seed))
    return percentile_interval(values, level)


def check_settings(resamples: int, level: float) -> None:
    """Raise `ParameterError` for `resamples` below 1 or a `level` outside (0, 1)."""
    if resamples < 1:
        raise ParameterError(f"resamples is {resamples}; give 1 or more")
    if not 0 < level < 1:
        raise ParameterError(f"level is {level}; give a share between 0 and 1, such as 0.95")


def percentile_interval(values: Sequence[float] | Floats, level: float) -> Interval:
    """The interval that holds the middle of a metric's resampled values.

    Args:
        values: One number per resample on which the metric is defined.
        level: The share of them between the two ends, between 0 and 1.

    Raises:
        UndefinedMetricError: If there are no values.
    """
    if len(values) == 0:
        raise UndefinedMetricError("the metric is undefined on every resample of these rows")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _resampled(
    metric: Metric, data: Predictions, resamples: int, generator: np.random.Generator
) -> list[float]:
    """The metric on each resample for which it is defined."""
    values = []
    for _ in range(resamples):
        rows = generator.integers(len(data), size=len(data))
        arrays = (data.probabilities[rows], data.labels[rows], data.num_options[rows])
        with suppress(UndefinedMetricError):
            values.append(metric(*arrays))
    return values

import time

import numpy as np
import pytest

from calibration import (
    InvalidPredictionsError,
    ParameterError,
    UndefinedMetricError,
    accuracy,
    auroc,
    bootstrap_interval,
    brier,
    classwise_ece,
    ece,
    nll,
)


def with_accuracy(right: int, n: int):
    return np.tile([0.8, 0.2], (n, 1)), np.repeat([0, 1], [right, n - right])


def test_interval_of_accuracy_has_the_binomial_width():
    low, high = bootstrap_interval(accuracy, *with_accuracy(700, 1000))
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(0.7 - half, abs=0.005)
    assert high == pytest.approx(0.7 + half, abs=0.005)


def test_interval_covers_the_truth_as_often_as_it_says(rng):
    hits = 0
    for trial in range(200):
        right = rng.binomial(150, 0.75)
        low, high = bootstrap_interval(
            accuracy, *with_accuracy(right, 150), resamples=200, level=0.9, seed=trial
        )
        hits += low <= 0.75 <= high
    # 0.9 of 200, give or take four standard errors and the grid of 1/150.
    assert 0.80 <= hits / 200 <= 0.98


def test_the_seed_fixes_the_interval(rng):
    data = (rng.dirichlet([1, 1, 1], size=50), rng.integers(0, 3, 50))
    first = bootstrap_interval(nll, *data, seed=3)
    assert first == bootstrap_interval(nll, *data, seed=3)
    assert first != bootstrap_interval(nll, *data, seed=4)


def test_rows_of_unequal_lengths_stay_whole():
    ragged = [[0.9, 0.1], [0.2, 0.2, 0.6], [0.25, 0.25, 0.25, 0.25]]
    # Whatever rows are drawn, the mean lies between the best row's and the worst one's.
    low, high = bootstrap_interval(nll, ragged, [0, 2, 3], level=0.999)
    assert -np.log(0.9) == pytest.approx(low)
    assert -np.log(0.25) == pytest.approx(high)


def test_resamples_without_a_value_are_left_out():
    # One wrong row of four: a resample without it has no AUROC.
    p = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    assert bootstrap_interval(auroc, p, [0, 0, 0, 1]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("metric", "p", "labels"),
    [
        (auroc, [[0.9, 0.1], [0.8, 0.2]], [0, 0]),
        (classwise_ece, [[0.9, 0.1], [0.5, 0.3, 0.2]], [0, 0]),
    ],
)
def test_an_undefined_metric_has_no_interval(metric, p, labels):
    with pytest.raises(UndefinedMetricError):
        bootstrap_interval(metric, p, labels)


def test_says_which_parameter_is_wrong():
    data = with_accuracy(3, 5)
    with pytest.raises(ParameterError, match="resamples is 0"):
        bootstrap_interval(accuracy, *data, resamples=0)
    for level in (0, 1, 95):
        with pytest.raises(ParameterError, match="level"):
            bootstrap_interval(accuracy, *data, level=level)
    with pytest.raises(InvalidPredictionsError, match="row 0"):
        bootstrap_interval(accuracy, [[0.5, 0.6]], [0])


def test_two_thousand_rows_take_seconds(rng):
    p = rng.dirichlet(np.ones(4), size=2000)
    labels = rng.integers(0, 4, 2000)
    start = time.process_time()
    for metric in (accuracy, nll, ece, brier, auroc):
        bootstrap_interval(metric, p, labels)
    assert time.process_time() - start < 15  # 2 s on an idle machine

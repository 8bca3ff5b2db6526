"""What netcal 1.4.0 does by itself, and what stands in front of it here.

The first half of each test pins netcal's behaviour: when a later release mends it, the test says
so and the guard can be looked at again.
"""

import matplotlib.pyplot as plt
import netcal.metrics
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from netcal.presentation import ReliabilityDiagram

from calibration import InvalidPredictionsError, adaptive_ece, ece
from calibration.diagrams import reliability_bins, wilson_interval


def netcal_ece(p, labels) -> float:
    return netcal.metrics.ECE(15).measure(np.asarray(p), np.asarray(labels))


def test_four_options_of_which_two_occur_as_labels():
    p, labels = np.full((6, 4), 0.1) + 0.6 * np.eye(4)[[0, 1, 2, 3, 0, 1]], [0, 1, 0, 1, 0, 1]
    with pytest.raises(RuntimeError, match="binary"):
        netcal_ece(p, labels)
    # Confidence 0.7 throughout, 4 of 6 right.
    assert ece(p, labels) == pytest.approx(abs(0.7 - 4 / 6), abs=1e-12)


def test_two_options_are_about_the_predicted_one_not_the_positive_one():
    # 16 of 20 answers of confidence 0.8 are right: honest. But class 1 has probability 0.2 in ten
    # rows of which none is positive, and 0.8 in ten of which six are: gaps of 0.2.
    p = np.repeat([[0.8, 0.2], [0.2, 0.8]], 10, axis=0)
    labels = [0] * 10 + [1] * 6 + [0] * 4
    assert ece(p, labels) == pytest.approx(0.0, abs=1e-12)
    assert netcal_ece(p, labels) == pytest.approx(0.2, abs=1e-12)


def test_nan():
    p = np.array([[0.7, 0.2, 0.1], [np.nan, 0.3, 0.2], [0.2, 0.2, 0.6]])
    # The row is left out without a word: gaps of 0.3 and 0.4 remain.
    assert netcal_ece(p, [0, 1, 2]) == pytest.approx((0.3 + 0.4) / 2, abs=1e-12)
    with pytest.raises(InvalidPredictionsError, match="row 1"):
        ece(p, [0, 1, 2])


@pytest.mark.parametrize(
    ("p", "labels", "words"),
    [
        ([[4.0, -2.0, 0.5], [0.2, 3.0, 0.1], [1.0, 0.0, 7.0]], [0, 1, 2], "row 0.*softmax"),
        ([[0.9, 0.9, 0.9], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], [0, 1, 2], "row 0.*sum to 2.7"),
        ([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], [0, 1, 7], "row 2.*out of range"),
    ],
)
def test_what_netcal_takes_silently_is_refused_by_row(p, labels, words):
    assert 0 <= netcal_ece(p, labels) <= 1
    with pytest.raises(InvalidPredictionsError, match=words):
        ece(p, labels)


def test_error_bars_are_binomial_and_of_the_predicted_option():
    # 40 rows at confidence 0.75, 30 right.
    bins = reliability_bins(np.full(40, 0.75), np.repeat([True, False], [30, 10]))
    assert bins.counts.tolist() == [40]
    assert bins.accuracy == pytest.approx(0.75)
    # Wilson's interval of 30 of 40, as the score test inverts: |p^ - p| = z sqrt(p (1-p) / n).
    for end in (bins.low[0], bins.high[0]):
        assert abs(0.75 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 40), abs=1e-6)


@pytest.mark.parametrize(
    ("draws", "drawn"),
    [
        # The predicted option moves between 0.6 and 0.8, class 0 does not: no error bars.
        ([[0.1, 0.6, 0.3], [0.1, 0.8, 0.1]], False),
        # The predicted option is the same in both draws, class 0 is not: error bars.
        ([[0.05, 0.25, 0.7], [0.15, 0.15, 0.7]], True),
    ],
)
def test_netcal_takes_its_error_bars_from_class_0(draws, drawn):
    samples = np.repeat(np.array(draws)[:, None], 6, axis=1)
    figure = ReliabilityDiagram(15).plot(samples, np.array([0, 1, 2, 0, 1, 2]), uncertainty="mean")
    containers = [container for axes in figure.axes for container in axes.containers]
    plt.close(figure)
    assert any(isinstance(container, ErrorbarContainer) for container in containers) == drawn


def test_what_netcal_calls_ace_is_the_average_over_bins_not_the_adaptive_error(rng):
    # 90 rows at 0.9, all right, and 10 at 0.6, all wrong: gaps of 0.1 and 0.6.
    p = np.repeat([[0.9, 0.1], [0.6, 0.4]], [90, 10], axis=0)
    labels = np.repeat([0, 1], [90, 10])
    average = netcal.metrics.ACE(15).measure(p.max(axis=1), 1 - labels)
    assert average == pytest.approx((0.1 + 0.6) / 2, abs=1e-12)
    # Weighted by the rows, as in every bin of equal mass.
    assert adaptive_ece(p, labels) == pytest.approx(0.9 * 0.1 + 0.1 * 0.6, abs=1e-12)


def test_netcals_equal_mass_bins_fail_on_ties():
    confidences, right = np.repeat([0.9, 0.6], [90, 10]), np.repeat([1, 0], [90, 10])
    with pytest.raises(ValueError, match="edge"):
        netcal.metrics.ECE(15, equal_intervals=False).measure(confidences, right)


def test_wilson_interval_of_none_and_of_all():
    low, high = wilson_interval(np.array([0.0, 10.0]), np.array([10, 10]))
    z2 = 1.959964**2
    assert low == pytest.approx([0, 10 / (10 + z2)], abs=1e-6)
    assert high == pytest.approx([z2 / (10 + z2), 1], abs=1e-6)

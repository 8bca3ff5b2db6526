"""Metrics against other libraries, hand-computed numbers and data whose truth is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score
from torchmetrics.classification import MulticlassCalibrationError

from calibration import (
    ParameterError,
    UndefinedMetricError,
    accuracy,
    adaptive_ece,
    aurc,
    auroc,
    brier,
    classwise_ece,
    ece,
    mce,
    nll,
    validate,
)
from calibration.metrics import METRICS


def calibrated(rng, n, k):
    """Draws whose labels follow their probabilities: every calibration error is 0 in truth."""
    p = rng.dirichlet(np.ones(k), size=n)
    labels = (rng.uniform(size=(n, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return p, labels


def sharpened(rng, n, k):
    """Draws of an overconfident predictor."""
    p, labels = calibrated(rng, n, k)
    return p**2 / (p**2).sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("k", range(2, 11))
@pytest.mark.parametrize(("ours", "norm"), [(ece, "l1"), (mce, "max")])
def test_binned_errors_agree_with_torchmetrics(rng, k, ours, norm):
    p, labels = sharpened(rng, 700, k)
    p = p.astype(np.float32)
    theirs = MulticlassCalibrationError(num_classes=k, n_bins=15, norm=norm)
    expected = theirs(torch.tensor(p), torch.tensor(labels)).item()
    assert ours(p, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", range(8, 15))
def test_a_confidence_on_an_edge_belongs_to_the_bin_above(k):
    edge = np.linspace(0, 1, 16)[k]
    p = [[edge, 1 - edge], [edge + 0.03, 0.97 - edge]]
    # Right, then wrong. In one bin: half are right, of mean confidence edge + 0.015.
    assert ece(p, [0, 1]) == pytest.approx(abs(0.5 - (edge + 0.015)), abs=1e-12)
    below = [[edge, 1 - edge], [edge - 0.03, 1.03 - edge]]
    if edge - 0.03 > 0.5:
        apart = ((1 - edge) + (edge - 0.03)) / 2
        assert ece(below, [0, 1]) == pytest.approx(apart, abs=1e-12)


def test_full_confidence_shares_the_last_bin():
    # (torchmetrics gives a confidence of exactly 1 a sixteenth bin of its own: 0.025 + 0.475.)
    assert ece([[1.0, 0.0], [0.95, 0.05]], [0, 1]) == pytest.approx(abs(0.5 - 0.975), abs=1e-12)


@pytest.mark.parametrize("k", [2, 4, 10])
@pytest.mark.parametrize("metric", [ece, adaptive_ece, classwise_ece])
def test_a_calibrated_predictor_has_no_calibration_error(rng, k, metric):
    assert metric(*calibrated(rng, 100_000, k)) < 0.01


def test_a_known_overconfidence_is_found(rng):
    # Right 70 times in 100 at a confidence of 0.9.
    p = np.tile([0.9, 0.1], (1000, 1))
    labels = np.repeat([0, 1], [700, 300])
    for metric in (ece, adaptive_ece, mce, classwise_ece):
        assert metric(p, labels) == pytest.approx(0.2, abs=1e-12)


def test_classwise_ece_is_the_mean_of_each_options_error(rng):
    p, labels = sharpened(rng, 500, 4)
    expected = 0.0
    for k in range(4):
        for low in range(15):
            inside = (p[:, k] >= low / 15) & (p[:, k] < (low + 1) / 15)
            if inside.any():
                gap = abs((labels[inside] == k).mean() - p[inside, k].mean())
                expected += inside.mean() * gap / 4
    assert classwise_ece(p, labels) == pytest.approx(expected, abs=1e-12)


def test_adaptive_ece_has_bins_of_equal_mass(rng):
    p, labels = sharpened(rng, 15 * 40, 3)
    order = np.argsort(p.max(axis=1))
    gap = (p.argmax(axis=1) == labels).astype(float) - p.max(axis=1)
    parts = gap[order].reshape(15, 40)
    assert adaptive_ece(p, labels) == pytest.approx(np.abs(parts.mean(axis=1)).mean(), abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_means_over_rows_agree_with_sklearn(rng, k):
    p, labels = sharpened(rng, 400, k)
    assert accuracy(p, labels) == pytest.approx(accuracy_score(labels, p.argmax(axis=1)))
    assert nll(p, labels) == pytest.approx(log_loss(labels, p, labels=range(k)), abs=1e-9)
    expected = brier_score_loss(labels, p, labels=range(k), scale_by_half=False)
    assert brier(p, labels) == pytest.approx(expected, abs=1e-12)


def test_auroc_agrees_with_sklearn_with_and_without_ties(rng):
    for decimals in (1, 12):
        first = np.round(rng.uniform(size=500), decimals)
        p, labels = np.stack([first, 1 - first], axis=1), rng.integers(0, 2, 500)
        right = p.argmax(axis=1) == labels
        expected = roc_auc_score(right, p.max(axis=1))
        assert auroc(p, labels) == pytest.approx(expected, abs=1e-12)


def test_aurc_by_hand():
    # By confidence: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 2/4.
    p = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]
    assert aurc(p, [0, 1, 0, 1]) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4, abs=1e-15)


def test_aurc_of_ties_is_the_mean_over_their_orders():
    # 0.9 right; then 0.6 right and 0.6 wrong, in either order: risks 0, 0 or 1/2, 1/3.
    p = [[0.6, 0.4], [0.9, 0.1], [0.6, 0.4]]
    either = ((0 + 0 + 1 / 3) / 3 + (0 + 1 / 2 + 1 / 3) / 3) / 2
    assert aurc(p, [0, 0, 1]) == pytest.approx(either, abs=1e-15)


def test_of_tied_options_the_first_is_predicted():
    assert accuracy([[0.5, 0.5], [0.2, 0.4, 0.4]], [0, 1]) == 1
    assert accuracy([[0.5, 0.5], [0.2, 0.4, 0.4]], [1, 2]) == 0


def test_an_impossible_truth_costs_a_finite_number_of_nats():
    assert nll([[1.0, 0.0]], [1]) == pytest.approx(-np.log(1.1754944e-38), abs=1e-6)
    assert nll([[1 - 1e-9, 1e-9]], [1]) == pytest.approx(9 * np.log(10), abs=1e-9)
    assert brier([[1.0, 0.0]], [1]) == 2


def test_rows_of_unequal_lengths():
    ragged = [[0.2, 0.8], [0.1, 0.2, 0.7], [0.4, 0.1, 0.3, 0.2]]
    labels = [1, 2, 3]
    assert accuracy(ragged, labels) == pytest.approx(2 / 3)
    assert nll(ragged, labels) == pytest.approx(-np.log([0.8, 0.7, 0.2]).mean())
    assert brier(ragged, labels) == pytest.approx((0.08 + 0.14 + 0.9) / 3)
    assert ece(ragged, labels) == pytest.approx((0.2 + 0.3 + 0.4) / 3)
    assert mce(ragged, labels) == pytest.approx(0.4)
    assert auroc(ragged, labels) == 1
    assert aurc(ragged, labels) == pytest.approx(1 / 9)
    with pytest.raises(UndefinedMetricError, match="number differs"):
        classwise_ece(ragged, labels)


def test_padding_changes_nothing(rng):
    p, labels = sharpened(rng, 200, 3)
    padded = np.pad(p, ((0, 0), (0, 2)))
    for metric in METRICS.values():
        assert metric(padded, labels, np.full(200, 3)) == pytest.approx(metric(p, labels))


def test_auroc_needs_right_and_wrong_answers():
    with pytest.raises(UndefinedMetricError, match="all here are right"):
        auroc([[0.9, 0.1], [0.2, 0.8]], [0, 1])
    with pytest.raises(UndefinedMetricError, match="all here are wrong"):
        auroc([[0.9, 0.1], [0.2, 0.8]], [1, 0])


@pytest.mark.parametrize("bins", [0, -1, 2.5, True, "15"])
@pytest.mark.parametrize("metric", [ece, mce, adaptive_ece, classwise_ece])
def test_refuses_a_number_of_bins_that_is_none(metric, bins):
    with pytest.raises(ParameterError, match="bins"):
        metric([[0.9, 0.1]], [0], bins=bins)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_metrics_stay_in_range_and_ignore_the_order_of_rows(data):
    n = data.draw(st.integers(1, 12))
    sizes = data.draw(st.lists(st.integers(2, 5), min_size=n, max_size=n))
    # Small integers make ties, edges, zeros and ones likely.
    rows = []
    for size in sizes:
        weights = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size).filter(any))
        rows.append([w / sum(weights) for w in weights])
    labels = [data.draw(st.integers(0, size - 1)) for size in sizes]
    order = data.draw(st.permutations(range(n)))
    for name, metric in METRICS.items():
        try:
            value = metric(rows, labels)
        except UndefinedMetricError:
            assert name in ("auroc", "classwise_ece")
            continue
        limit = {"brier": 2.0, "nll": 87.4}.get(name, 1.0)
        assert -1e-12 <= value <= limit + 1e-12
        shuffled = metric([rows[i] for i in order], [labels[i] for i in order])
        assert shuffled == pytest.approx(value, abs=1e-12)


def test_every_metric_validates_its_input():
    for metric in METRICS.values():
        with pytest.raises(ValueError, match="row 1: NaN"):
            metric([[0.5, 0.5], [np.nan, 0.5]], [0, 1])
    assert len(validate([[0.5, 0.5]], [0])) == 1

"""The metrics on all resamples at once against the metrics on each resample's rows."""

import numpy as np
import pytest

import calibration.resampling
from calibration import UndefinedMetricError, bootstrap_interval, read_predictions, validate
from calibration.metrics import METRICS
from calibration.resampling import resampled_metrics
from calibration.summary import measure

RESAMPLES, SEED = 40, 3


def one_by_one(data, metric):
    """The metric on rows drawn as `bootstrap_interval` draws them; NaN where undefined."""
    generator = np.random.default_rng(SEED)
    values = []
    for _ in range(RESAMPLES):
        rows = generator.integers(len(data), size=len(data))
        try:
            values.append(
                metric(data.probabilities[rows], data.labels[rows], data.num_options[rows])
            )
        except UndefinedMetricError:
            values.append(np.nan)
    return np.array(values)


def smooth(rng):
    return rng.dirichlet(np.ones(4), size=83), rng.integers(0, 4, 83)


def tied(rng):
    """Multiples of a tenth: many rows of one confidence, zeros, and confidences of 1."""
    return rng.multinomial(10, rng.dirichlet(np.ones(3) / 2, size=60)) / 10, rng.integers(0, 3, 60)


def nearly_all_right(rng):
    """Some resamples have no wrong row, and then no AUROC."""
    return np.tile([0.9, 0.1], (9, 1)) - np.arange(9)[:, None] * [0.02, -0.02], [0] * 8 + [1]


def one_row(rng):
    return [[0.2, 0.5, 0.3]], [2]


def unequal_lengths(rng):
    sizes = rng.integers(2, 7, 50)
    return [rng.dirichlet(np.ones(k)).tolist() for k in sizes], [int(k) - 1 for k in sizes]


@pytest.mark.parametrize("cells", [1, 200, 1 << 17])
@pytest.mark.parametrize("make", [smooth, tied, nearly_all_right, one_row, unequal_lengths])
def test_equal_to_the_metrics_of_the_drawn_rows(rng, monkeypatch, make, cells):
    monkeypatch.setattr(calibration.resampling, "CELLS", cells)
    data = validate(*make(rng))
    classwise = make is not unequal_lengths
    values = resampled_metrics(data, classwise=classwise, resamples=RESAMPLES, seed=SEED)
    assert set(values) == METRICS.keys() - (set() if classwise else {"classwise_ece"})
    for name in values:
        expected = one_by_one(data, METRICS[name])
        np.testing.assert_allclose(values[name], expected, rtol=0, atol=1e-12, err_msg=name)


def test_the_reports_intervals_are_those_of_bootstrap_interval(write_rows, make_rows):
    file = read_predictions(write_rows(make_rows(70)))
    data = (file.predictions.probabilities, file.predictions.labels)
    measured = measure(file, resamples=50, level=0.8, seed=5)
    for name, metric in METRICS.items():
        expected = bootstrap_interval(metric, *data, resamples=50, level=0.8, seed=5)
        assert measured.intervals[name] == pytest.approx(expected, abs=1e-12), name


def test_a_metric_undefined_on_every_resample_has_a_value_and_a_reason(write_rows):
    # The one resample that seed 0 draws of these two rows is twice the same row.
    rows = [{"options": ["a", "b"], "probabilities": [0.9, 0.1], "label": x} for x in "ab"]
    drawn = np.random.default_rng(0).integers(2, size=2)
    assert drawn[0] == drawn[1]
    measured = measure(read_predictions(write_rows(rows)), resamples=1, level=0.95, seed=0)
    assert measured.values["auroc"] == 0.5
    assert measured.intervals["auroc"] is None
    assert "every resample" in measured.undefined["auroc"]

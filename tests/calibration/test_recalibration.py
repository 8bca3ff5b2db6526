"""Temperature scaling against data whose temperature is known."""

import numpy as np
import pytest

from calibration import (
    ParameterError,
    apply_temperature,
    ece,
    fit_recalibration,
    fit_temperature,
    nll,
)
from calibration.recalibration import RECALIBRATIONS


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("options", [2, 5])
@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_data_is_found(options: int, truth: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2, size=(40_000, options))
    honest = _softmax(logits)
    labels = (honest.cumsum(1) > generator.random((len(logits), 1))).argmax(1)
    stated = _softmax(logits * truth)
    found = fit_temperature(stated, labels)
    assert found == pytest.approx(truth, rel=0.03)
    assert ece(apply_temperature(stated, found), labels) < 0.01


def test_equal_to_softmax_of_divided_logits() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 4))
    scaled = apply_temperature(_softmax(logits), 1.7)
    np.testing.assert_allclose(scaled, _softmax(logits / 1.7), atol=1e-12)


def test_padded_options_stay_at_zero() -> None:
    probabilities = np.array([[0.7, 0.3, 0.0], [0.2, 0.5, 0.3]])
    scaled = apply_temperature(probabilities, 2.0)
    assert scaled[0, 2] == 0
    np.testing.assert_allclose(scaled.sum(1), 1)
    found = fit_temperature(probabilities, [1, 1], [2, 3])
    assert nll(apply_temperature(probabilities, found), [1, 1], [2, 3]) <= nll(
        probabilities, [1, 1], [2, 3]
    )


@pytest.mark.parametrize("options", [2, 4])
@pytest.mark.parametrize("method", RECALIBRATIONS)
def test_overconfidence_is_undone_on_other_rows(method: str, options: int) -> None:
    generator = np.random.default_rng(2)
    logits = generator.normal(scale=1.5, size=(8000, options))
    honest = _softmax(logits)
    labels = (honest.cumsum(1) > generator.random((len(logits), 1))).argmax(1)
    stated = _softmax(logits * 3)
    apply = fit_recalibration(method, stated[:4000], labels[:4000])
    found = apply(stated[4000:])
    np.testing.assert_allclose(found.sum(1), 1)
    assert found.shape == stated[4000:].shape
    rest = labels[4000:]
    assert ece(stated[4000:], rest) > 0.1
    assert ece(found, rest) < 0.04
    assert nll(found, rest) < 0.85 * nll(stated[4000:], rest)


@pytest.mark.parametrize("method", [own for own in RECALIBRATIONS if own != "temperature"])
def test_rows_that_cannot_fit_it(method: str) -> None:
    probabilities = np.array([[0.7, 0.3, 0.0], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    with pytest.raises(ParameterError, match="none has label 2"):
        fit_recalibration(method, probabilities, [0, 1, 1])
    with pytest.raises(ParameterError, match="the same options in every row"):
        fit_recalibration(method, probabilities, [0, 1, 2], [2, 3, 3])


def test_an_unknown_recalibration_is_named() -> None:
    with pytest.raises(ParameterError, match="no recalibration 'sharpness'"):
        fit_recalibration("sharpness", [[0.5, 0.5]], [0])

"""Temperature scaling against data whose temperature is known."""

import numpy as np
import pytest

from calibration import apply_temperature, ece, fit_temperature, nll


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

"""Temperature scaling: one number, fitted on held-out rows (Guo et al. 2017, arXiv 1706.04599).

Ours and not netcal's: netcal 1.4.0 gives back only class 1's probability for K = 2, and takes the
number of classes from the labels seen.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from calibration.metrics import nll
from calibration.validation import Floats, validate

# Beyond these the probabilities are one-hot or uniform to three digits.
LOG_TEMPERATURES = (np.log(0.01), np.log(100.0))


def fit_temperature(
    probabilities: ArrayLike, labels: ArrayLike, num_options: ArrayLike | None = None
) -> float:
    """Find the temperature that gives held-out rows the least NLL.

    Args:
        probabilities: [n, K] array, or n rows of unequal lengths.
        labels: int [n].
        num_options: int [n], for zero-padded rows.

    Returns:
        The temperature: above 1 for overconfident probabilities.

    Raises:
        InvalidPredictionsError: The arrays are not class probabilities with labels.
    """
    rows = validate(probabilities, labels, num_options)

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(rows.probabilities, float(np.exp(log_temperature)))
        return nll(scaled, rows.labels, rows.num_options)

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x))


def apply_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Return ``p^(1/T)``, normalised by row: ``softmax(logits / T)`` without the logits.

    Args:
        probabilities: float64 [n, K]; a probability of 0 stays 0.
        temperature: T, positive.
    """
    with np.errstate(divide="ignore"):  # log 0 is -inf, whose power is 0 again
        logs = np.log(np.asarray(probabilities, dtype=float)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

"""Recalibration: a map of probabilities to probabilities, fitted on held-out rows.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599) is ours, and works for rows of unequal
options. The others are netcal's, for one set of classes, behind our validation: netcal 1.4.0 takes
the number of classes from the labels seen, and for two gives back only the second's probability.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from netcal.binning import HistogramBinning, IsotonicRegression
from netcal.scaling import BetaCalibration, LogisticCalibration
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from calibration.errors import ParameterError
from calibration.metrics import BINS, nll
from calibration.validation import Floats, Predictions, validate

# Beyond these the probabilities are one-hot or uniform to three digits.
LOG_TEMPERATURES = (np.log(0.01), np.log(100.0))
# Of netcal, one class against the others.
ONE_BY_ONE: dict[str, Callable[[], Any]] = {
    "beta": partial(BetaCalibration, method="mle"),  # Kull et al. 2017
    "histogram": partial(HistogramBinning, bins=BINS),  # Zadrozny and Elkan 2001
    "isotonic": IsotonicRegression,  # Zadrozny and Elkan 2002
    "logistic": partial(LogisticCalibration, method="mle"),  # Platt 1999
}
RECALIBRATIONS = ("temperature", *ONE_BY_ONE)


def fit_recalibration(
    method: str, probabilities: ArrayLike, labels: ArrayLike, num_options: ArrayLike | None = None
) -> Callable[[Floats], Floats]:
    """Fit a recalibration on held-out rows.

    Args:
        method: ``temperature``, ``beta``, ``histogram``, ``isotonic`` or ``logistic``. Histograms
            and isotonic regression can say 0, which an NLL does not forgive.
        probabilities: [n, K] array; for ``temperature`` also n rows of unequal lengths.
        labels: int [n]; but for ``temperature`` each class must be among them.
        num_options: int [n], for zero-padded rows.

    Returns:
        What turns probabilities ``[m, K]`` of other rows into recalibrated ones.

    Raises:
        InvalidPredictionsError: The arrays are not class probabilities with labels.
        ParameterError: No such method, or these rows cannot fit it.
    """
    if method not in RECALIBRATIONS:
        raise ParameterError(
            f"There is no recalibration {method!r}: choose from {', '.join(RECALIBRATIONS)}."
        )
    if method == "temperature":
        found = fit_temperature(probabilities, labels, num_options)
        return partial(apply_temperature, temperature=found)
    rows = validate(probabilities, labels, num_options)
    _check_classes(method, rows)
    fitted = ONE_BY_ONE[method]()
    with warnings.catch_warnings():
        # netcal 1.4.0 calls a method of pyro's that has another name now.
        warnings.simplefilter("ignore", DeprecationWarning)
        fitted.fit(_columns(rows.probabilities), rows.labels)
    return partial(_apply, fitted)


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


def _check_classes(method: str, rows: Predictions) -> None:
    classes = rows.probabilities.shape[1]
    if (rows.num_options != classes).any():
        raise ParameterError(
            f"Recalibration by {method!r} needs the same options in every row: use 'temperature'."
        )
    missing = sorted(set(range(classes)) - set(rows.labels.tolist()))
    if missing:
        raise ParameterError(
            f"Recalibration by {method!r} needs rows of every class, and none has label "
            f"{missing[0]}: give more rows, or use 'temperature'."
        )


def _columns(probabilities: Floats) -> Floats:
    """Give netcal what it expects: of two classes, the second's probability alone."""
    return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities


def _apply(fitted: Any, probabilities: Floats) -> Floats:
    changed = np.asarray(fitted.transform(_columns(np.asarray(probabilities, dtype=float))))
    if changed.ndim == 1:
        changed = np.stack([1 - changed, changed], axis=1)
    return changed / changed.sum(axis=1, keepdims=True)

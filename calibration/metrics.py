"""How good, and how honest, are class probabilities? One function per question.

Every function takes raw arrays, validates them and returns a float:

    probabilities: [n, K] array, or n rows of unequal lengths (see `calibration.validate`).
    labels: int [n], the true option of each row.
    num_options: int [n], for zero-padded rows; default: every column is an option.

The predicted option is the most probable one (of tied ones, the first) and its probability is the
row's *confidence*. Every function raises `InvalidPredictionsError` for arrays that are not class
probabilities with labels; those for which data can leave the metric undefined say so.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from netcal.metrics import ECE, MCE
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from calibration.errors import ParameterError, UndefinedMetricError
from calibration.validation import Booleans, Floats, Integers, Predictions, validate

BINS = 15

# The least probability the log sees. A float32 softmax underflows to 0 below this number (its
# smallest normal one), so 0 means "less than this": 87.3 nats, where the formula says infinity.
NLL_FLOOR = float(np.finfo(np.float32).tiny)

Metric = Callable[..., float]


def accuracy(
    probabilities: ArrayLike, labels: ArrayLike, num_options: ArrayLike | None = None
) -> float:
    """Share of rows whose predicted option is the label, 0 to 1."""
    return float(validate(probabilities, labels, num_options).correct.mean())


def nll(probabilities: ArrayLike, labels: ArrayLike, num_options: ArrayLike | None = None) -> float:
    """Mean negative log-likelihood of the labels in nats, from 0 up, smaller is better.

    A label given less than 1.2e-38 (float32's smallest normal number) counts as 87.3 nats.
    """
    return float(losses(validate(probabilities, labels, num_options)).mean())


def brier(
    probabilities: ArrayLike, labels: ArrayLike, num_options: ArrayLike | None = None
) -> float:
    """Brier score: squared distance to the one-hot truth, summed over options, mean over rows.

    From 0 to 2, smaller is better. For K = 2 this is twice the one-column score that
    `sklearn.metrics.brier_score_loss` gives.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    return float(squared_distances(validate(probabilities, labels, num_options)).mean())


def ece(
    probabilities: ArrayLike,
    labels: ArrayLike,
    num_options: ArrayLike | None = None,
    *,
    bins: int = BINS,
) -> float:
    """Expected calibration error of the top label, equal-width bins, 0 to 1.

    The mean over rows of |accuracy - mean confidence| of the row's confidence bin. Bins are
    closed on the left, [i/bins, (i+1)/bins), the last one on both sides. For K = 2 too it is about
    the predicted option, not about the positive class.

    Source: Guo et al., "On calibration of modern neural networks", 2017.
    """
    predictions = validate(probabilities, labels, num_options)
    return _netcal(ECE, predictions.confidences, predictions.correct, bins)


def mce(
    probabilities: ArrayLike,
    labels: ArrayLike,
    num_options: ArrayLike | None = None,
    *,
    bins: int = BINS,
) -> float:
    """Maximum calibration error: the largest |accuracy - mean confidence| of the bins of `ece`.

    A bin with one row counts like any other, so read it only where bins are well filled.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015.
    """
    predictions = validate(probabilities, labels, num_options)
    return _netcal(MCE, predictions.confidences, predictions.correct, bins)


def classwise_ece(
    probabilities: ArrayLike,
    labels: ArrayLike,
    num_options: ArrayLike | None = None,
    *,
    bins: int = BINS,
) -> float:
    """Class-wise calibration error: the ECE of each option's probability, mean over options.

    Source: Kull et al., "Beyond temperature scaling", 2019 (called static calibration error by
    Nixon et al., "Measuring calibration in deep learning", 2019).

    Raises:
        UndefinedMetricError: If rows have unequal numbers of options, as option k is then not
            the same class in each row.
    """
    predictions = validate(probabilities, labels, num_options)
    count = predictions.num_options[0]
    if (predictions.num_options != count).any():
        raise UndefinedMetricError(
            "class-wise ECE needs the same options in every row, and here their number differs"
        )
    options = np.arange(count)
    p = predictions.probabilities[:, :count]
    # Every option's bins at once; netcal has no class-wise error.
    members = equal_width_bins(p, _bin_count(bins)) + bins * options
    gaps = (predictions.labels[:, None] == options) - p
    summed = np.bincount(members.ravel(), weights=gaps.ravel())
    return float(np.abs(summed).sum() / p.size)


def adaptive_ece(
    probabilities: ArrayLike,
    labels: ArrayLike,
    num_options: ArrayLike | None = None,
    *,
    bins: int = BINS,
) -> float:
    """Expected calibration error of the top label with bins of equal mass, 0 to 1.

    Rows sorted by confidence are cut into `bins` parts of equal size (to within a row). Rows of
    equal confidence stay in one bin, so the order of the rows does not matter.

    Source: Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural
    language processing models", 2015.
    """
    predictions = validate(probabilities, labels, num_options)
    members = equal_mass_bins(predictions.confidences, _bin_count(bins))
    gaps = np.bincount(members, weights=predictions.correct - predictions.confidences)
    return float(np.abs(gaps).sum() / len(predictions))


def auroc(
    probabilities: ArrayLike, labels: ArrayLike, num_options: ArrayLike | None = None
) -> float:
    """How well confidence separates right answers from wrong ones, 0 to 1; 0.5 is chance.

    The probability that a right answer has more confidence than a wrong one, ties counting half.

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks", 2017.

    Raises:
        UndefinedMetricError: If every answer is right or every answer is wrong.
    """
    predictions = validate(probabilities, labels, num_options)
    correct = predictions.correct
    right, wrong = int(correct.sum()), int((~correct).sum())
    if right == 0 or wrong == 0:
        which = "right" if wrong == 0 else "wrong"
        raise UndefinedMetricError(f"AUROC needs right and wrong answers; all here are {which}")
    # Mann-Whitney's U from mid-ranks is the area under the curve.
    ranks = rankdata(predictions.confidences)[correct].sum()
    return float((ranks - right * (right + 1) / 2) / (right * wrong))


def aurc(
    probabilities: ArrayLike, labels: ArrayLike, num_options: ArrayLike | None = None
) -> float:
    """Area under the risk-coverage curve, 0 to 1, smaller is better.

    The error rate when only the k most confident rows are answered, mean over k = 1..n. Rows of
    equal confidence count as if in random order (their expected value).

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017.
    """
    predictions = validate(probabilities, labels, num_options)
    return float(risk_at_coverage(predictions.confidences, predictions.correct).mean())


# The metrics of the report, by their names there.
METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "nll": nll,
    "ece": ece,
    "brier": brier,
    "adaptive_ece": adaptive_ece,
    "classwise_ece": classwise_ece,
    "mce": mce,
    "auroc": auroc,
    "aurc": aurc,
}


def losses(predictions: Predictions) -> Floats:
    """What `nll` averages: the negative log-likelihood of each row's label, float64 [n]."""
    of_label = predictions.probabilities[np.arange(len(predictions)), predictions.labels]
    return -np.log(np.maximum(of_label, NLL_FLOOR))


def squared_distances(predictions: Predictions) -> Floats:
    """What `brier` averages: each row's squared distance to the one-hot truth, float64 [n]."""
    distance = predictions.probabilities.copy()
    distance[np.arange(len(predictions)), predictions.labels] -= 1
    return (distance**2).sum(axis=1)


def equal_width_bins(probabilities: Floats, bins: int) -> Integers:
    """The equal-width bin of each value, int64 of the same shape, from 0 to bins - 1.

    Closed on the left, the last bin on both sides: the convention of netcal's `ECE`.
    """
    edges = np.linspace(0, 1, bins + 1)
    return np.minimum(np.searchsorted(edges, probabilities, side="right") - 1, bins - 1)


def equal_mass_bins(confidences: Floats, bins: int) -> Integers:
    """The equal-mass bin of each row, int64 [n], from 0 to bins - 1.

    netcal's equal-mass bins (its `equal_intervals=False`) are not used: they fail when many rows
    share a confidence, as the edges then coincide.
    """
    rows_below = np.searchsorted(np.sort(confidences), confidences, side="left")
    return rows_below * bins // len(confidences)


def risk_at_coverage(confidences: Floats, correct: Booleans) -> Floats:
    """Error rate among the k most confident rows for k = 1..n, float64 [n]."""
    _, group, size = np.unique(-confidences, return_inverse=True, return_counts=True)
    wrong_share = np.bincount(group, weights=~correct) / size
    errors_expected = np.cumsum(np.repeat(wrong_share, size))
    return errors_expected / np.arange(1, len(confidences) + 1)


def _netcal(measure: Any, probabilities: Floats, happened: Booleans, bins: int) -> float:
    """A binned error of netcal's for events given by their probability.

    netcal decides by the labels it sees whether a problem is binary, and takes the positive
    class's probability if so. One column of probabilities and a 0/1 outcome is the one form that
    it can read in one way only, whichever labels occur.
    """
    outcome = happened.astype(np.int64)
    return float(measure(bins=_bin_count(bins)).measure(probabilities, outcome))


def _bin_count(bins: int) -> int:
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ParameterError(f"bins is {bins!r}; give a whole number, 1 or more")
    return bins

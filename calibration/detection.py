"""Finding rows that lie outside of what a model knows, by how unsure it is of them.

Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution
examples in neural networks", 2017.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from calibration.errors import InvalidPredictionsError
from calibration.validation import Floats

FOUND = 0.95  # of the rows outside, for ``fpr95``


@dataclass(frozen=True)
class Detection:
    """How well a score tells rows outside from rows inside.

    Args:
        auroc: Probability that a row outside has the higher score, ties counting half.
        aupr: Average precision of "outside".
        fpr95: Share of rows inside that are taken for outside where 95 % of those outside are
            found; smaller is better.
    """

    auroc: float
    aupr: float
    fpr95: float


def detection(inside: ArrayLike, outside: ArrayLike) -> Detection:
    """Measure how well uncertainty tells rows outside from rows inside.

    Args:
        inside: How unsure the model is of rows like those it learned from, float [n].
        outside: The same of other rows, float [m].

    Raises:
        InvalidPredictionsError: No rows of one kind, or a score that is not finite.
    """
    scores = [_scores(inside, "inside"), _scores(outside, "outside")]
    is_outside = np.repeat([0, 1], [len(own) for own in scores])
    joined = np.concatenate(scores)
    false, true, _ = roc_curve(is_outside, joined, drop_intermediate=False)
    return Detection(
        float(roc_auc_score(is_outside, joined)),
        float(average_precision_score(is_outside, joined)),
        float(false[np.argmax(true >= FOUND)]),
    )


def _scores(values: ArrayLike, kind: str) -> Floats:
    scores = np.asarray(values, dtype=float)
    if scores.ndim != 1 or not len(scores):
        raise InvalidPredictionsError(
            f"The scores {kind} must be a list of at least one number, not shape {scores.shape}."
        )
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise InvalidPredictionsError(f"a score {kind} is {scores[wrong[0]]}", row=int(wrong[0]))
    return scores

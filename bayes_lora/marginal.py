"""Draws of what an unknown level may be, around the prediction that holds for all levels together.

The population was fitted to the rows of all levels, so its probabilities are averages over levels
already. Draws of a level from the prior say how far apart the levels' own predictions are; each
row's draws are shifted so that their average is the population's probability: the marginalized
model of Heagerty & Zeger (2000, Statistical Science 15), with its offset found row by row.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bayes_lora.predict import Predictions
from calibration import entropy

Array = NDArray[np.float64]

MOST_STEPS, TOLERANCE = 500, 1e-6


def around(marginal: Predictions, rows: list[int], drawn: Predictions) -> Predictions:
    """Say of some rows how much their predictions would differ by level.

    Args:
        marginal: Predictions of all rows, as the population's.
        rows: The places of those whose levels are not known.
        drawn: Their predictions under draws of their levels, with every draw's kept.

    Returns:
        The same probabilities, and so the same predictive entropy; in these rows, the draws differ
        by level, and the expected entropy is theirs.
    """
    assert drawn.per_draw is not None
    wanted = marginal.probabilities[rows]
    # Other rows may have more options than any of these.
    wider = wanted.shape[1] - drawn.per_draw.shape[2]
    own = shifted(np.pad(drawn.per_draw, ((0, 0), (0, 0), (0, wider))), wanted)
    expected = marginal.expected_entropy.copy()
    expected[rows] = entropy(own).mean(0)
    per_draw = None if marginal.per_draw is None else marginal.per_draw.copy()
    if per_draw is not None:
        per_draw[:, rows] = own
    return replace(marginal, expected_entropy=expected, per_draw=per_draw)


def shifted(per_draw: Array, wanted: Array) -> Array:
    """Add to each row's logits what makes the draws' average the probabilities that are wanted.

    Args:
        per_draw: Probabilities ``[S, n, options]``; zero: no such option.
        wanted: Probabilities ``[n, options]``.

    Returns:
        Probabilities ``[S, n, options]``.
    """
    there = (wanted > 0) & (per_draw > 0).all(0)
    target = np.where(there, wanted, 1.0)
    current = per_draw
    for _ in range(MOST_STEPS):
        mean = np.where(there, current.mean(0), 1.0)
        if np.abs(mean - target).max() < TOLERANCE:
            break
        # The logarithm of the ratio, added to logits: what is too likely on average gets less so.
        current = current * (target / mean)
        current /= current.sum(-1, keepdims=True)
    return current

"""How the views of a model with attributes become one prediction (M2A, arXiv 2503.06085, eq. 4).

Views are the population's weights (coarse) and those of each attribute's level (fine).
"""

import math
from collections.abc import Callable, Mapping
from enum import StrEnum

import torch
from torch import Tensor

from bayes_lora.level_effect import LevelRows

Levels = Mapping[str, LevelRows]
Run = Callable[[float, Levels], Tensor]


class Fusion(StrEnum):
    """How views are fused.

    ``SUM``: the updates add up, a mixed-effects model. ``AVERAGE``: one set of weights, the mean
    over attributes and granularities, as M2A's text has it. ``PREDICTIONS``: each view predicts
    with its own weights, and probabilities are averaged.
    """

    SUM = "sum"
    AVERAGE = "average"
    PREDICTIONS = "predictions"


def fused(fusion: Fusion, run: Run, levels: Levels) -> Tensor:
    """Give the logits of rows with these levels, ``[B, options]``.

    Args:
        fusion: How.
        run: Gives logits under some levels, with the population's updates multiplied by a weight.
        levels: The attributes that are views of these rows; none: the population alone predicts.
    """
    if not levels or fusion is Fusion.SUM:
        return run(1.0, levels)
    count = 2 * len(levels)  # views: each attribute has a coarse one and a fine one
    if fusion is Fusion.AVERAGE:
        shared = {n: LevelRows(own.values / count, own.rows) for n, own in levels.items()}
        return run(len(levels) / count, shared)
    coarse = run(1.0, {}).log_softmax(-1) + math.log(len(levels) / count)
    fine = [run(0.0, {n: own}).log_softmax(-1) - math.log(count) for n, own in levels.items()]
    views = torch.stack([coarse, *fine])
    missing = views == -torch.inf  # no such option, in all views: there is no derivative there
    return views.masked_fill(missing, 0.0).logsumexp(0).masked_fill(missing[0], -torch.inf)

"""What M2A's loss has beside the labels' likelihood (arXiv 2503.06085, eq. 5 to 8)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor

from bayes_lora.errors import ConfigError
from bayes_lora.level_effect import LevelRows
from bayes_lora.reconstruction import log_likelihood
from bayes_lora.scorers import Batch

if TYPE_CHECKING:
    from bayes_lora.model import BayesianModel

TERM_SITES = ("tokens", "coarse-label", "distillation")  # what may be observed beside the label


@dataclass(frozen=True)
class Terms:
    """Which terms there are.

    Args:
        reconstruction: Weight alpha of the rows' own tokens' log-likelihood, a mean over tokens.
        distillation: Whether the population alone (the coarse network) also learns the labels, and
            is held near the full one by their KL divergence, for rows whose levels are unknown.
    """

    reconstruction: float = 0.0
    distillation: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.reconstruction < math.inf:
            raise ConfigError(
                f"reconstruction must be a weight of 0 or more, not {self.reconstruction}."
            )


def observe_terms(
    model: "BayesianModel",
    batch: Batch,
    labels: Tensor,
    logits: Tensor,
    values: Mapping[str, Tensor],
    levels: Mapping[str, LevelRows],
) -> None:
    """Observe what else the loss has, as Pyro sites beside the label.

    Args:
        model: The program, which is running.
        batch: The scorer's tensors.
        labels: Option indices.
        logits: The full network's.
        values: Site name to draws ``[R, *shape]``.
        levels: Effect name to its levels' coordinates and the rows that have them.
    """
    if model.terms.reconstruction:
        with model.under(values, levels):
            tokens = log_likelihood(model.backbone, batch).view(logits.shape[:-1])
        pyro.factor("tokens", model.terms.reconstruction * tokens)
    if model.terms.distillation and levels:
        coarse = model.logits(batch, values).view_as(logits)
        pyro.sample("coarse-label", model.scorer.label_distribution(coarse), obs=labels)
        full, held = logits.log_softmax(-1), coarse.log_softmax(-1)
        divergence = (full.exp() * (full - held).masked_fill(full == -torch.inf, 0.0)).sum(-1)
        pyro.factor("distillation", -divergence)

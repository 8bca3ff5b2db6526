"""What M2A's loss has beside the labels' likelihood (arXiv 2503.06085, eq. 5 to 8)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.errors import ConfigError

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


def divergence(full: Tensor, coarse: Tensor) -> Tensor:
    """Give the KL divergence of each row's options from the full network's to the coarse one's.

    Args:
        full: Logits ``[..., options]``; -inf where a row has no such option.
        coarse: The same.

    Returns:
        In nats, ``[...]``.
    """
    full, coarse = full.log_softmax(-1), coarse.log_softmax(-1)
    return (full.exp() * (full - coarse).masked_fill(full == -torch.inf, 0.0)).sum(-1)

"""HydraLoRA: one A, several B, and a gate (Tian et al. 2024, arXiv 2404.19245, eq. 4)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer
from bayes_lora.adapters.checks import check_counts
from bayes_lora.adapters.experts import gates, summed
from bayes_lora.errors import check_positive


@dataclass(frozen=True)
class HydraLoRA(Adapter):
    """The update ``scale sum over i of softmax(G x)_i B_i A x``.

    A, all B and the gate G are random: a draw is one way to send vectors to experts. AsymLoRA,
    one A and a B for each task, is LoRA as the adapter of an attribute that names the task: its
    levels share A and have a B each.

    Args:
        rank: Rank of each expert.
        experts: How many B there are.
        scale: The factor in front.
    """

    rank: int = 8
    experts: int = 3
    scale: float = 2.0

    def __post_init__(self) -> None:
        check_counts(self, "rank", "experts")
        check_positive("HydraLoRA scale", self.scale)

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """A and the gate start random, or experts that start alike would stay alike."""
        return {
            "A": Factor((self.rank, d_in), unit=d_in**-0.5, starts_at_zero=False),
            "G": Factor((self.experts, d_in), unit=d_in**-0.5, starts_at_zero=False),
            "B": Factor((self.experts, d_out, self.rank), self.rank**-0.5, starts_at_zero=True),
        }

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Weigh the experts before their product."""
        hidden = torch.bmm(x, factors["A"].transpose(1, 2)) * self.scale
        return summed(hidden, gates(x, factors["G"]), factors["B"])

"""MTL-LoRA: tasks differ between shared projections (Yang et al. 2024, arXiv 2410.09437)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer, Layers
from bayes_lora.adapters.checks import check_counts
from bayes_lora.adapters.experts import summed
from bayes_lora.errors import check_positive


@dataclass(frozen=True)
class MTLLoRA(Adapter):
    """The update ``scale sum over i of w_i B_i L A x`` with ``w = softmax(mix / temperature)``.

    A and all B are shared. L, ``[rank, rank]``, and the mix are each task's own where the adapter
    belongs to an attribute that names the task; as the population's adapter they are one task's.
    L is a change from the identity, and the mix from a random one: with equal weights, experts
    that start alike would stay alike. All four are random.

    Args:
        rank: Rank of the projections.
        experts: How many B there are.
        temperature: Of the softmax.
        scale: The factor in front.
    """

    rank: int = 8
    experts: int = 3
    temperature: float = 1.0
    scale: float = 2.0

    def __post_init__(self) -> None:
        check_counts(self, "rank", "experts")
        check_positive("MTLLoRA temperature", self.temperature)
        check_positive("MTLLoRA scale", self.scale)

    @property
    def level_factors(self) -> frozenset[str]:
        """The tasks' own."""
        return frozenset({"L", "mix"})

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """A starts random; all else, as changes, at zero."""
        return {
            "A": Factor((self.rank, d_in), unit=d_in**-0.5, starts_at_zero=False),
            "B": Factor((self.experts, d_out, self.rank), self.rank**-0.5, starts_at_zero=True),
            "L": Factor((self.rank, self.rank), unit=self.rank**-0.5, starts_at_zero=True),
            "mix": Factor((self.experts,), unit=1.0, starts_at_zero=True),
        }

    def constants(
        self, layers: Layers, starts: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Draw the mix that tasks differ from."""
        return {"mix0": torch.randn(layers.number, self.experts, generator=generator)}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Mix features of low rank, then weigh the experts."""
        hidden = torch.bmm(x, factors["A"].transpose(1, 2)) * self.scale
        hidden = hidden + torch.bmm(hidden, factors["L"].transpose(1, 2))
        weights = ((factors["mix0"] + factors["mix"]) / self.temperature).softmax(-1)
        return summed(hidden, weights.unsqueeze(1), factors["B"])

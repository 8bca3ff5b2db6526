"""MultiLoRA: parallel LoRAs of one layer (Wang et al. 2023, arXiv 2311.11501, section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer
from bayes_lora.adapters.checks import check_counts
from bayes_lora.errors import check_positive


@dataclass(frozen=True)
class MultiLoRA(Adapter):
    """The update ``scale sum over i of s_i * B_i A_i x``, with a vector s_i for each LoRA.

    The s_i start at zero, so that no B has to: the LoRAs start in different places and lean less
    on one direction than one of their joint rank. No code is published; that s_i has an entry
    for each output is our reading. All three are random.

    Args:
        rank: Rank of each LoRA.
        number: How many LoRAs.
        scale: The factor in front.
    """

    rank: int = 4
    number: int = 3
    scale: float = 2.0

    def __post_init__(self) -> None:
        check_counts(self, "rank", "number")
        check_positive("MultiLoRA scale", self.scale)

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """Units keep the sum near the scale."""
        down, up = (self.number * self.rank, d_in), (self.number, d_out, self.rank)
        return {
            "A": Factor(down, unit=d_in**-0.5, starts_at_zero=False),
            "B": Factor(up, unit=self.rank**-0.5, starts_at_zero=False),
            "s": Factor((self.number, d_out), unit=self.number**-0.5, starts_at_zero=True),
        }

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Scale the B, which are smaller than what they make; then two batched products."""
        hidden = torch.bmm(x, factors["A"].transpose(1, 2)) * self.scale
        up = factors["s"].unsqueeze(3) * factors["B"]
        return torch.bmm(hidden, up.transpose(2, 3).flatten(1, 2))

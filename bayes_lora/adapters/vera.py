"""VeRA: scaling vectors around random matrices (Kopiczko et al. 2024, arXiv 2310.11454, eq. 2)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer, Layers
from bayes_lora.adapters.checks import check_counts
from bayes_lora.errors import check_positive


@dataclass(frozen=True)
class VeRA(Adapter):
    """The update ``b * B (d * A x)``; A and B are random, frozen and shared by all layers.

    The vectors d, ``[rank]``, and b, ``[d_out]``, are random: a posterior over the scaling
    vectors, as PVeRA (in PEFT) has one, but of weights and not of each input's.

    Args:
        rank: Rows of A.
        start: What d starts at; the paper has 0.1.
    """

    rank: int = 256
    start: float = 0.1

    def __post_init__(self) -> None:
        check_counts(self, "rank")
        check_positive("VeRA start", self.start)

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """Units keep the update near 1, however small d starts."""
        return {
            "d": Factor((self.rank,), unit=self.start, starts_at_zero=False),
            "b": Factor((d_out,), unit=1 / self.start, starts_at_zero=True),
        }

    def starts(self, layers: Layers, generator: torch.Generator) -> dict[str, Tensor]:
        """Start d at a constant."""
        shapes = {n: f.stacked(layers.number) for n, f in self.factors(1, layers.d_out).items()}
        return {"d": torch.full(shapes["d"], self.start), "b": torch.zeros(shapes["b"])}

    def constants(
        self, layers: Layers, starts: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Draw A and B once for all layers."""
        A = torch.randn(1, self.rank, layers.d_in, generator=generator) * layers.d_in**-0.5
        B = torch.randn(1, layers.d_out, self.rank, generator=generator) * self.rank**-0.5
        return {"A": A, "B": B}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Two batched products, each scaled."""
        hidden = torch.bmm(x, factors["A"].transpose(1, 2)) * factors["d"].unsqueeze(1)
        return torch.bmm(hidden, factors["B"].transpose(1, 2)) * factors["b"].unsqueeze(1)

"""DoRA: a weight's direction and magnitude apart (Liu et al. 2024, arXiv 2402.09353, eq. 5)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters.base import Factor, FrozenLayer, Layers
from bayes_lora.adapters.lora import LoRA, LoRAStart
from bayes_lora.errors import ConfigError


@dataclass(frozen=True)
class DoRA(LoRA):
    """The weight ``m (W + V) / |W + V|`` for W, where V is LoRA's ``scale B A``.

    Norms are each output's. The factor ``magnitude`` is relative: ``m = |W| (1 + magnitude)``, so
    that it starts at zero. All three factors are random, as LoRA's; a draw of the magnitudes says
    how sure the data are of each output's size. The gradient is the whole one; the paper's leaves
    out how the norm moves with V, which is a cheaper one of another function.

    Args:
        rank: As LoRA's, with all that follows.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is LoRAStart.PISSA:
            raise ConfigError("DoRA divides by the whole weight's norm: PiSSA is a start of LoRA.")

    @property
    def level_factors(self) -> frozenset[str]:
        """None: what a level would add depends on what the population has."""
        return frozenset()

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """LoRA's, and the magnitudes; a prior scale of 1 lets outputs change by a third."""
        magnitude = Factor((d_out,), unit=0.3, starts_at_zero=True)
        return super().factors(d_in, d_out) | {"magnitude": magnitude}

    def constants(
        self, layers: Layers, starts: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Keep the norms of the frozen weight's rows."""
        return {"norm": torch.stack([weight.norm(dim=1) for weight in layers.weights()])}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Add the rescaled difference; no ``d_out x d_in`` matrix is formed.

        ``|W + s B A|^2 = |W|^2 + 2 s B (A W^T) + s^2 B (A A^T) B^T``, output by output; what the
        frozen layer makes of A's rows is ``A W^T``.
        """
        A, B = factors["A"], factors["B"]
        change = super().update(x, factors, layer)
        crossed = 2 * self.scale * layer.linear(A).transpose(1, 2)  # [R, d_out, rank]
        squared = self.scale**2 * torch.bmm(B, torch.bmm(A, A.transpose(1, 2)))
        norm = (factors["norm"].square() + (B * (crossed + squared)).sum(2)).clamp(min=0).sqrt()
        size = (1 + factors["magnitude"]) * factors["norm"] / norm
        return size.unsqueeze(1) * (layer.output + change) - layer.output

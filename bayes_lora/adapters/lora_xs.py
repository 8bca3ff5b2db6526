"""LoRA-XS: a small matrix of singular vectors (Bałazy et al. 2024, arXiv 2405.17604)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer, Layers
from bayes_lora.adapters.checks import check_counts
from bayes_lora.adapters.svd import truncated_svd
from bayes_lora.errors import ConfigError, check_positive


@dataclass(frozen=True)
class LoRAXS(Adapter):
    """The update ``scale U S R V^T x``, where ``U S V^T`` is the weight's leading singular part.

    R, ``[rank, rank]``, is random and all there is: so few latents (64 a layer) that NUTS can
    sample them. It starts at zero, where the paper has Normal(0, 1e-5).

    Args:
        rank: Singular vectors kept.
        scale: The factor in front.
    """

    rank: int = 8
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_counts(self, "rank")
        check_positive("LoRAXS scale", self.scale)

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """Units keep ``R h`` near h, so that a prior scale of 1 is a change as large as W's own."""
        shape = (self.rank, self.rank)
        return {"R": Factor(shape, unit=self.rank**-0.5, starts_at_zero=True)}

    def constants(
        self, layers: Layers, starts: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Decompose the frozen weights."""
        most = min(layers.d_in, layers.d_out)
        if self.rank > most:
            raise ConfigError(
                f"LoRA-XS has at most rank {most} in a layer of {layers.d_in} to {layers.d_out} "
                f"features, not {self.rank}: lower the rank."
            )
        left, values, right = truncated_svd(layers, self.rank)
        return {"down": right, "up": left * values.unsqueeze(1)}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Three batched products."""
        hidden = torch.bmm(x, factors["down"].transpose(1, 2)) * self.scale
        mixed = torch.bmm(hidden, factors["R"].transpose(1, 2))
        return torch.bmm(mixed, factors["up"].transpose(1, 2))

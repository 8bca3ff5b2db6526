"""LoRA: a low-rank product (Hu et al. 2022, arXiv 2106.09685, section 4.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer, Layers
from bayes_lora.adapters.checks import check_counts
from bayes_lora.adapters.svd import truncated_svd
from bayes_lora.errors import ConfigError


class LoRAStart(StrEnum):
    """Where A and B start, and where their priors are centred.

    ``RANDOM``: A is Normal, B zero. ``ORTHOGONAL``: the rows of a random A are made orthonormal, B
    is zero. ``PISSA``: A and B are the leading singular part of the frozen weight, which the
    update has taken away (Meng et al. 2024, arXiv 2404.02948, eq. 2 to 4).
    """

    RANDOM = "random"
    ORTHOGONAL = "orthogonal"
    PISSA = "pissa"


@dataclass(frozen=True)
class LoRA(Adapter):
    """The update ``(alpha / rank) B A x``; A is ``[rank, d_in]``, B is ``[d_out, rank]``.

    Both are random by default: A near where it starts, which costs little and says how the
    update may turn; B around zero, no update.

    Args:
        rank: Rank of the update.
        alpha: Numerator of the scale ``alpha / rank``; ``None`` means ``2 * rank``, a scale of 2.
        dropout: Share of the inputs to A dropped in training. Off by default: a likelihood with
            random inputs is not the one the posterior belongs to.
        rank_stabilized: Whether the scale is ``alpha / sqrt(rank)`` (rsLoRA: Kalajdzievski 2023,
            arXiv 2312.03732); needs an alpha.
        start: Where A and B start.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    rank_stabilized: bool = False
    start: LoRAStart = LoRAStart.RANDOM

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", LoRAStart(self.start))
        check_counts(self, "rank")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"LoRA dropout must lie in [0, 1), not {self.dropout}.")
        if self.rank_stabilized and self.alpha is None:
            raise ConfigError(
                "A rank-stabilized LoRA needs an alpha: its scale is alpha / sqrt(r)."
            )

    @property
    def scale(self) -> float:
        """The factor ``alpha / rank``, or ``alpha / sqrt(rank)``."""
        if self.alpha is None:
            return 2.0
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    @property
    def product(self) -> tuple[str, str] | None:
        """B and A."""
        return "B", "A"

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """A starts random and B at zero, as published; units keep ``A x`` and ``B h`` near 1."""
        pissa = self.start is LoRAStart.PISSA
        return {
            "A": Factor((self.rank, d_in), unit=d_in**-0.5, starts_at_zero=False),
            "B": Factor((d_out, self.rank), unit=self.rank**-0.5, starts_at_zero=not pissa),
        }

    def starts(self, layers: Layers, generator: torch.Generator) -> dict[str, Tensor]:
        """Start as ``start`` says."""
        self._check_rank(layers)
        starts = super().starts(layers, generator)
        if self.start is LoRAStart.ORTHOGONAL:
            starts["A"] = torch.linalg.qr(starts["A"].transpose(1, 2)).Q.transpose(1, 2)
        if self.start is LoRAStart.PISSA:
            left, values, right = truncated_svd(layers, self.rank)
            root = (values / self.scale).sqrt()
            starts |= {"A": root.unsqueeze(2) * right, "B": left * root.unsqueeze(1)}
        return starts

    def constants(
        self, layers: Layers, starts: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Keep what PiSSA starts at: the update is the change since then."""
        if self.start is not LoRAStart.PISSA:
            return {}
        return {"A0": starts["A"], "B0": starts["B"]}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Two batched products; the ``d_out x d_in`` update is never formed."""
        x = F.dropout(x, self.dropout, layer.training)
        update = self._product(x, factors["A"], factors["B"])
        if self.start is LoRAStart.PISSA:
            update = update - self._product(x, factors["A0"], factors["B0"])
        return update

    def _product(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        hidden = torch.bmm(x, down.transpose(1, 2)) * self.scale
        return torch.bmm(hidden, up.transpose(1, 2))

    def _check_rank(self, layers: Layers) -> None:
        most = min(layers.d_in, layers.d_out if self.start is LoRAStart.PISSA else layers.d_in)
        if self.start is not LoRAStart.RANDOM and self.rank > most:
            raise ConfigError(
                f"LoRA's {self.start} start has at most rank {most} in a layer of "
                f"{layers.d_in} to {layers.d_out} features, not {self.rank}: lower the rank."
            )

"""LoRA: a low-rank product (Hu et al. 2022, arXiv 2106.09685, section 4.1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters.base import Adapter, Factor
from bayes_lora.errors import ConfigError


@dataclass(frozen=True)
class LoRA(Adapter):
    """The update ``(alpha / rank) B A x``; A is ``[rank, d_in]``, B is ``[d_out, rank]``.

    Args:
        rank: Rank of the update.
        alpha: Numerator of the scale ``alpha / rank``; ``None`` means ``2 * rank``, a scale of 2.
        dropout: Share of the inputs to A dropped in training. Off by default: a likelihood with
            random inputs is not the one the posterior belongs to.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"LoRA rank must be at least 1, not {self.rank}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"LoRA dropout must lie in [0, 1), not {self.dropout}.")

    @property
    def scale(self) -> float:
        """The factor ``alpha / rank``."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """A starts random and B at zero, as published; units keep ``A x`` and ``B h`` near 1."""
        return {
            "A": Factor((self.rank, d_in), unit=d_in**-0.5, starts_at_zero=False),
            "B": Factor((d_out, self.rank), unit=self.rank**-0.5, starts_at_zero=True),
        }

    def update(self, x: Tensor, factors: Mapping[str, Tensor], training: bool) -> Tensor:
        """Two batched products; the ``d_out x d_in`` update is never formed."""
        x = F.dropout(x, self.dropout, training)
        hidden = torch.bmm(x, factors["A"].transpose(1, 2)) * self.scale
        return torch.bmm(hidden, factors["B"].transpose(1, 2))

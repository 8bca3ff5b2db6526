"""MASA: several A's shared by adjacent layers, one B a layer (arXiv 2510.06005)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer
from bayes_lora.adapters.checks import check_counts
from bayes_lora.adapters.experts import gates
from bayes_lora.errors import check_positive


class Mixing(StrEnum):
    """How what several A's make becomes B's input.

    ``GATE``: their sum, weighted by ``softmax(G x)``; the gate is shared as they are, and there
    is none for one A. ``CONCATENATION``: side by side; B has a column for each.
    """

    GATE = "gate"
    CONCATENATION = "concatenation"


@dataclass(frozen=True)
class MASA(Adapter):
    """The update ``scale B h``, where h mixes ``A_1 x ... A_n x``.

    The A's are one factor for all layers of a group: one Pyro site, one posterior, and what a
    layer's data say of them holds for its neighbours. A, B and the gate are random.

    The paper does not say how the A's are mixed, and its code is not public. A plain sum of
    ``A_i x`` is one A again, so both of these are our readings: with one A, and a group for each
    layer, both are LoRA.

    Args:
        rank: Rows of each A.
        number: How many A's.
        group: Adjacent layers that share them, of one kind, such as queries.
        mixing: How they are mixed.
        scale: The factor in front.
    """

    rank: int = 8
    number: int = 2
    group: int = 2
    mixing: Mixing = Mixing.GATE
    scale: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mixing", Mixing(self.mixing))
        check_counts(self, "rank", "number", "group")
        check_positive("MASA scale", self.scale)

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """The A's start random and B at zero; units as LoRA's."""
        columns = self.rank * (1 if self._gated else self.number)
        down = Factor((self.number * self.rank, d_in), d_in**-0.5, False, self.group)
        factors = {
            "A": down,
            "B": Factor((d_out, columns), unit=columns**-0.5, starts_at_zero=True),
        }
        if self._gated and self.number > 1:
            factors["G"] = Factor((self.number, d_in), d_in**-0.5, False, self.group)
        return factors

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """All A's in one product; the gate weighs their outputs."""
        hidden = torch.bmm(x, factors["A"].transpose(1, 2)) * self.scale
        if "G" in factors:
            weights = gates(x, factors["G"]).unsqueeze(3)
            hidden = (weights * hidden.unflatten(2, (self.number, self.rank))).sum(2)
        return torch.bmm(hidden, factors["B"].transpose(1, 2))

    @property
    def _gated(self) -> bool:
        return self.mixing is Mixing.GATE

"""KronA: a Kronecker product (Edalati et al. 2022, arXiv 2212.10650: ``W + s [A_k kron B_k]``)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor
from bayes_lora.errors import ConfigError, check_positive


@dataclass(frozen=True)
class KronA(Adapter):
    """The update ``scale (C kron D) x``; C is ``[a_out, a_in]``, D ``[d_out/a_out, d_in/a_in]``.

    Each ``a`` is the largest divisor of its width up to the width's square root: 16 of 384, so
    that D is ``[24, 24]``; 1 of a prime. The names are those of M2A (Zhang et al. 2025, arXiv
    2503.06085), where an attribute's values share C and have a D each. The low-rank form,
    ``D = V U``, is Kron-LoRA's (arXiv 2508.01961).

    Args:
        rank: Rank of D; ``None`` for a full matrix.
        scale: The factor in front, ``s``.
    """

    rank: int | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"KronA rank must be at least 1, or None for all, not {self.rank}.")
        check_positive("KronA scale", self.scale)

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """C (and U) start random, D (or V) at zero; units keep what each product gives near 1."""
        a_in, a_out = _split(d_in), _split(d_out)
        b_in, b_out = d_in // a_in, d_out // a_out
        shared = {"C": Factor((a_out, a_in), unit=a_in**-0.5, starts_at_zero=False)}
        if self.rank is None:
            return shared | {"D": Factor((b_out, b_in), unit=b_in**-0.5, starts_at_zero=True)}
        return shared | {
            "U": Factor((self.rank, b_in), unit=b_in**-0.5, starts_at_zero=False),
            "V": Factor((b_out, self.rank), unit=self.rank**-0.5, starts_at_zero=True),
        }

    def update(self, x: Tensor, factors: Mapping[str, Tensor], training: bool) -> Tensor:
        """Write x as an ``[a_in, b_in]`` matrix X: the update is ``C X D^T``, read by rows."""
        rows, vectors, d_in = x.shape
        C = factors["C"] * self.scale
        blocks = x.reshape(rows, vectors, C.shape[2], d_in // C.shape[2])
        if self.rank is None:
            # A small product a vector: measured faster than one large product of x turned around.
            mixed, last = torch.matmul(C.unsqueeze(1), blocks), factors["D"]
        else:
            mixed, last = _mix(blocks, C, factors["U"]), factors["V"]
        update = torch.bmm(mixed.flatten(1, 2), last.transpose(1, 2))
        return update.view(rows, vectors, C.shape[1] * last.shape[1])


def _mix(blocks: Tensor, C: Tensor, U: Tensor) -> Tensor:
    """Compute ``C X U^T``, ``[R, N, a_out, r]``, of blocks X ``[R, N, a_in, b_in]``.

    U comes first: it leaves so little that turning it around for C's product costs nearly nothing.
    """
    (rows, vectors, a_in, _), rank = blocks.shape, U.shape[1]
    hidden = torch.bmm(blocks.flatten(1, 2), U.transpose(1, 2)).view(rows, vectors, a_in, rank)
    mixed = torch.bmm(hidden.transpose(2, 3).flatten(1, 2), C.transpose(1, 2))
    return mixed.view(rows, vectors, rank, C.shape[1]).transpose(2, 3)


def _split(width: int) -> int:
    """Return the largest divisor of a width up to its square root."""
    return max(a for a in range(1, math.isqrt(width) + 1) if width % a == 0)

"""KronA: a Kronecker product (Edalati et al. 2022, arXiv 2212.10650: ``W + s [A_k kron B_k]``)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer
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

    def joined(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Make factors whose update is the sum of those of several effects, for ``update``.

        The effects' C stand side by side, column by column in turns, and their D (or U and V) one
        below the other: what one product gives is what the next one sums.

        Args:
            parts: Each effect's factors, all with the same number of entries, R.
        """
        C = torch.stack(torch.broadcast_tensors(*[own["C"] for own in parts]), 3).flatten(2)
        if self.rank is None:
            return {"C": C, "D": torch.cat([own["D"] for own in parts], 1)}
        U, V = (torch.cat([own[n] for own in parts], d) for n, d in (("U", 1), ("V", 2)))
        return {"C": C, "U": U, "V": V}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Write x as an ``[a_in, b_in]`` matrix X: the update is ``C X D^T``, read by rows."""
        rows, vectors, d_in = x.shape
        C, right = factors["C"], factors["D" if self.rank is None else "U"] * self.scale
        blocks = x.reshape(rows, -1, right.shape[2])
        if self.rank is None:
            update: Tensor = _Product.apply(blocks, C, right, vectors)
        else:
            hidden = torch.bmm(blocks, right.transpose(1, 2))
            mixed = _mix(hidden.view(rows, vectors, d_in // right.shape[2], -1, self.rank), C)
            update = torch.bmm(mixed, factors["V"].transpose(1, 2))
        return update.view(rows, vectors, -1)


class _Product(torch.autograd.Function):
    """``C X D^T`` of each vector, or the sum of several effects', as ``joined`` has them.

    D comes first, on all vectors of a row at once: it makes of a row of X as many rows as there
    are effects, and C sums over these as it mixes them. What is between is as large as all
    effects' updates together. The backward pass computes it again, which costs less time than
    memory that is new in every step.
    """

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, C: Tensor, D: Tensor, vectors: int) -> Tensor:
        """Take blocks ``[R, N * a_in, b_in]``, and give ``[R * N, a_out, b_out]``."""
        ctx.save_for_backward(blocks, C, D)
        ctx.vectors = vectors
        return torch.bmm(_of_vectors(C, vectors), _between(blocks, C, D, vectors))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Derive by what needs it; made of what autograd can derive once more."""
        blocks, C, D = ctx.saved_tensors
        needs_x, needs_C, needs_D, _ = ctx.needs_input_grad
        of_x = of_C = of_D = None
        if needs_C:
            between = _between(blocks, C, D, ctx.vectors)
            of_vectors = torch.bmm(gradient, between.transpose(1, 2))
            of_C = of_vectors.unflatten(0, (-1, ctx.vectors)).sum(1)
        if needs_x or needs_D:
            between = torch.bmm(_of_vectors(C, ctx.vectors).transpose(1, 2), gradient)
            between = between.view(*blocks.shape[:2], -1)
            of_x = torch.bmm(between, D) if needs_x else None
            of_D = torch.bmm(between.transpose(1, 2), blocks) if needs_D else None
        return of_x, of_C, of_D, None


def _between(blocks: Tensor, C: Tensor, D: Tensor, vectors: int) -> Tensor:
    """Multiply by D alone, ``[R * N, a_in * E, b_out]``."""
    return torch.bmm(blocks, D.transpose(1, 2)).view(len(C) * vectors, C.shape[2], -1)


def _of_vectors(C: Tensor, vectors: int) -> Tensor:
    """Give each vector its row's C, ``[R * N, ...]``; one that rows share is not copied."""
    return C.unsqueeze(1).expand(-1, vectors, -1, -1).flatten(0, 1)


def _mix(hidden: Tensor, C: Tensor) -> Tensor:
    """Multiply by each of E effects' C what U leaves of the vectors.

    It is so little that turning it around costs nearly nothing.

    Args:
        hidden: ``[R, N, a_in, E, rank]``.
        C: ``[R, a_out, a_in * E]``.

    Returns:
        ``[R, N * a_out, E * rank]``.
    """
    rows, vectors, _, effects, rank = hidden.shape
    C = C.unflatten(2, (-1, effects))
    parts = [
        torch.bmm(own.transpose(2, 3).flatten(1, 2), C[..., i].transpose(1, 2))
        for i, own in enumerate(hidden.unbind(3))
    ]
    mixed = torch.stack([own.view(rows, vectors, rank, -1) for own in parts], 4)
    return mixed.permute(0, 1, 3, 4, 2).reshape(rows, -1, effects * rank)


def _split(width: int) -> int:
    """Return the largest divisor of a width up to its square root."""
    return max(a for a in range(1, math.isqrt(width) + 1) if width % a == 0)

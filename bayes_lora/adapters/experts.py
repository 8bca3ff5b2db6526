"""What adapters with several up-projections share: the weighted sum of their outputs."""

import torch
from torch import Tensor


def summed(hidden: Tensor, weights: Tensor, up: Tensor) -> Tensor:
    """Add up what up-projections make of the same features, each with a weight for each vector.

    One product of ``N x (n rank)`` with ``(n rank) x d_out``: no expert's output is formed.

    Args:
        hidden: Features, ``[R, N, rank]``.
        weights: ``[R, N, n]``, or ``[R, 1, n]`` for one of all vectors.
        up: Up-projections, ``[R, n, d_out, rank]``.

    Returns:
        ``[R, N, d_out]``.
    """
    weighted = weights.unsqueeze(3) * hidden.unsqueeze(2)  # [R, N, n, rank]
    return torch.bmm(weighted.flatten(2), up.transpose(2, 3).flatten(1, 2))


def gates(x: Tensor, router: Tensor) -> Tensor:
    """Say how much of each expert a vector gets: ``softmax(G x)``, ``[R, N, n]``."""
    return torch.bmm(x, router.transpose(1, 2)).softmax(-1)

"""The leading singular part of frozen weights, where some adapters start or stay."""

import torch
from torch import Tensor

from bayes_lora.adapters.base import Layers


def truncated_svd(layers: Layers, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values of each layer's weight.

    A singular vector has no sign of its own: each left one's largest entry is made positive, so
    that a run loaded on another machine has the same.

    Returns:
        Left vectors ``[layers, d_out, rank]``, values ``[layers, rank]``, right vectors
        ``[layers, rank, d_in]``.
    """
    parts = [_of_weight(weight, rank) for weight in layers.weights()]
    left, values, right = (torch.stack(part) for part in zip(*parts, strict=True))
    return left, values, right


def _of_weight(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(weight.float().cpu(), full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    sign = largest.sign()
    return left * sign, values[:rank], right * sign.T

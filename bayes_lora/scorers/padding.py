"""Ragged lists of integers as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]], value: int = -1) -> Tensor:
    """Pad lists on the right to the longest: int64 ``[n, longest]``."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def padded_twice(rows: Sequence[Sequence[Sequence[int]]], value: int = -1) -> Tensor:
    """Pad lists of lists on both levels: int64 ``[n, most, longest]``."""
    most = max(len(row) for row in rows)
    longest = max(len(item) for row in rows for item in row)
    out = torch.full((len(rows), most, longest), value)
    for i, row in enumerate(rows):
        for j, item in enumerate(row):
            out[i, j, : len(item)] = torch.tensor(item)
    return out

"""A language model's head that is applied only where its logits are needed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelectiveHead(nn.Module):
    """Wraps the frozen head; ``[N, T, d]`` becomes ``[P, tokens]`` for the P positions needed.

    Standing in the head's place, it leaves everything the model does before and after its head
    (scaling, soft caps) to the model.

    Args:
        base: The head, wrapped and not copied.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self._needed: Tensor | None = None
        self._tokens: Tensor | None = None

    @contextmanager
    def only(self, needed: Tensor, tokens: Tensor | None) -> Iterator[None]:
        """Restrict the head to positions ``needed``, bool ``[N, T]``, and to rows ``tokens``."""
        self._needed, self._tokens = needed, tokens
        try:
            yield
        finally:
            self._needed = self._tokens = None

    def forward(self, states: Tensor) -> Tensor:
        """Give logits, ``[P, vocabulary or tokens]``; of every position outside ``only``."""
        if self._needed is None:
            return self.base(states)
        chosen = states[self._needed]
        if self._tokens is None:
            return self.base(chosen)
        assert isinstance(self.base, nn.Linear)
        bias = None if self.base.bias is None else self.base.bias[self._tokens]
        return F.linear(chosen, self.base.weight[self._tokens], bias)


def gather_rows(needed: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Find where position ``positions`` of row ``rows`` stands among the needed ones.

    Args:
        needed: Bool ``[N, T]``, as given to ``SelectiveHead.only``.
        rows: Row indices, any shape.
        positions: Positions in those rows, the same shape.

    Returns:
        Indices into the first dimension of the head's output, the same shape.
    """
    order = torch.cumsum(needed.reshape(-1), 0) - 1
    return order[rows * needed.shape[1] + positions]

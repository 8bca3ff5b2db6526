"""A frozen linear layer as an adapter sees it, for tests of adapters alone."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrozenLinear:
    """A layer with a weight ``[d_out, d_in]``, in a pass over inputs ``[R, N, d_in]``."""

    matrix: Tensor
    x: Tensor
    training: bool = False

    @property
    def output(self) -> Tensor:
        return self.linear(self.x)

    def linear(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T


NO_LAYER = FrozenLinear(torch.empty(0, 0), torch.empty(0))

"""The loop of steps that gradient amortizations and the point baselines share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def descend(
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Callable[[], Tensor]],
    after: Callable[[], Any] = lambda: None,
) -> None:
    """Take a step down each loss in turn; no gradient reaches anything but the parameters.

    Args:
        optimizer: Of the parameters to move.
        losses: Of each step; what does not use a parameter leaves it where it is.
        after: Called after each step, such as a schedule's.
    """
    parameters: Sequence[Tensor] = [p for g in optimizer.param_groups for p in g["params"]]
    for loss in losses:
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        after()


def falling(optimizer: torch.optim.Optimizer, steps: int) -> Callable[[], None]:
    """Let the learning rate fall linearly to zero; to be called after each step."""
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps).step

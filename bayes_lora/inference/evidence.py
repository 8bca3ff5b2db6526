"""The Laplace evidence of prior scales, with the mode held fixed (MacKay 1992, Neural Comp. 4).

With deviations d of the mode from the prior's centre and curvature eigenvalues h, a prior scale s
has, up to a constant, the log evidence ``-sum(d^2) / (2 s^2) - sum(log(1 + h s^2)) / 2``.
"""

import math

import torch
from torch import Tensor

from bayes_lora.errors import FitError

LEAST, MOST = 1e-3, 1e2  # a scale, in units of a factor's natural size
HALVINGS = 60  # of the interval between them: to the last digit


def log_evidence(moved: Tensor, curvature: Tensor, log_scale: Tensor) -> Tensor:
    """Give the log evidence of a prior scale, up to a constant.

    Args:
        moved: Sum of squared deviations of the mode from the prior's centre, float64 scalar.
        curvature: Eigenvalues of the log-likelihood's curvature, float64 ``[D]``.
        log_scale: Logarithm of the scale, float64 scalar.
    """
    spread = (curvature * (2 * log_scale).exp()).log1p().sum()
    return -0.5 * moved * (-2 * log_scale).exp() - 0.5 * spread


def slope(moved: Tensor, curvature: Tensor, log_scale: Tensor) -> Tensor:
    """Derive the log evidence by the logarithm of the scale.

    ``sum(d^2) / s^2`` less the number of directions that the data determine; it falls throughout.
    """
    informed = curvature * (2 * log_scale).exp()
    return moved * (-2 * log_scale).exp() - (informed / (1 + informed)).sum()


def best_scale(moved: Tensor, curvature: Tensor) -> float:
    """Find the scale of the highest evidence between 0.001 and 100 units.

    Args:
        moved: As above, in squared units.
        curvature: As above, per squared unit.

    Raises:
        FitError: They are not finite.
    """
    if not bool(torch.isfinite(moved)) or not bool(torch.isfinite(curvature).all()):
        raise FitError(
            "The curvature at the mode is not finite, so no prior scale can be found: lower the "
            "learning rate."
        )
    low, high = math.log(LEAST), math.log(MOST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rises = slope(moved, curvature, moved.new_tensor(middle)) > 0
        low, high = (middle, high) if rises else (low, middle)
    return math.exp((low + high) / 2)

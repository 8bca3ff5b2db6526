"""What the levels of an attribute have in common, by algebra: their mean, and who is how far off.

The population was fitted without levels, and not to the end. What all levels still want of it is
no difference between them; without a mean of its own it would be taken for one, and tau for large.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Common:
    """What the levels' mean is at some tau, in units of shape.

    Args:
        loc: Its posterior mean, ``[K]``.
        covariance: Its posterior covariance, ``[K, K]``.
        log_weight: What integrating it out adds to the log density at ``loc``.
    """

    loc: Tensor
    covariance: Tensor
    log_weight: float


@dataclass(frozen=True)
class Turned:
    """Levels in axes of their own, in which what their rows say of each coordinate is independent.

    Args:
        values: Information along each axis, in units of shape, ``[L, K]``.
        vectors: The axes, as columns, ``[L, K, K]``.
        along: Scores of the rows at zero along them, ``[L, K]``.
        mean_scale: Of the mean's prior.
    """

    values: Tensor
    vectors: Tensor
    along: Tensor
    mean_scale: float

    def at(self, mean: Tensor) -> Tensor:
        """Say where the mean lies in each level's axes, ``[L, K]``."""
        return mean @ self.vectors

    def mean(self, tau: float) -> Common:
        """Estimate the mean by generalised least squares: a level knows it but for its tau."""
        known = 1 / (1 + tau**2 * self.values)
        score = torch.einsum("lkj,lj->k", self.vectors, known * self.along)
        weighted = self.vectors * (known * self.values).unsqueeze(1)
        information = torch.einsum("lkj,lij->ki", weighted, self.vectors)
        factor = torch.eye(len(score)).to(score) + self.mean_scale**2 * information
        covariance = self.mean_scale**2 * torch.linalg.inv(factor)
        loc = covariance @ score
        # The log density at loc, of which the quadratic part of its prior is to be taken.
        penalty = float((loc / self.mean_scale).square().sum()) if self.mean_scale else 0.0
        return Common(loc, covariance, -(penalty + float(torch.logdet(factor))) / 2)

    def scale(self, tau: float, common: Common) -> Tensor:
        """Give the standard deviations of levels' deviations from the mean, ``[L, K]``."""
        free = tau**2 / (1 + tau**2 * self.values)
        # What rows say is where a level lies; how far that is from the mean, the mean says.
        bound = (self.vectors * (free * self.values).unsqueeze(1)) @ self.vectors.transpose(1, 2)
        by_mean = (bound @ common.covariance * bound).sum(2)
        return (torch.einsum("lkj,lj->lk", self.vectors.square(), free) + by_mean).sqrt()

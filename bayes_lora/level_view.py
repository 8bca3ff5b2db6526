"""One attribute in numbers: the algebra behind the heterogeneity report."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from bayes_lora.guides import LevelNormals
from bayes_lora.level_effect import LevelEffect

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class LevelView:
    """An attribute's levels, and how they move the logits of some rows.

    Args:
        effect: Its prior and information.
        table: The posterior of its levels.
        features: Derivatives of the rows' centred logits, ``[N, O, K]``; zero where no option is.
        there: Which options there are, ``[N, O]``.
    """

    def __init__(
        self, effect: LevelEffect, table: LevelNormals, features: Array, there: Mask
    ) -> None:
        self.effect = effect
        self.features = features
        self.shape = array(effect.shape)
        self.prior = float(effect.tau) * self.shape
        self.loc, self.scale = array(table.loc), array(table.scales)
        # z' H z: the mean square, over rows and options, of what z adds to the logits.
        self.metric = np.einsum("nok,nol->kl", features, features) / there.sum()

    @property
    def variance(self) -> float:
        """Of logits, by levels drawn from the prior."""
        return float(self.prior**2 @ self.metric.diagonal())

    def effective(self) -> Array:
        """Count average rows in each level's posterior, ``[L]``."""
        gain = np.maximum(self.scale**-2.0 - self.prior**-2.0, 0)  # float32 may round below 0
        return gain @ self.shape**2 / (array(self.effect.information) @ self.shape**2)

    def weight(self, along: Array) -> Array:
        """Give the share of the prior variance removed, over coordinates weighted so, ``[L]``."""
        return np.clip(1 - self.scale**2 @ along / (self.prior**2 @ along), 0, 1)

    def deviation(self) -> Array:
        """Measure the means, ``[L]``."""
        return np.sqrt(np.einsum("lk,kj,lj->l", self.loc, self.metric, self.loc).clip(0))

    def sure(self) -> Array:
        """Give the probability that a level lies on its mean's side of the population, ``[L]``.

        Along the mean m, in the metric H, a level's z is ``m' H z / |m|``, Normal around |m|.
        """
        along = self.loc @ self.metric
        square = (along * self.loc).sum(1)
        sd = np.sqrt((along**2 * self.scale**2).sum(1))  # both times |m|
        ratio: Array = np.divide(square, sd, out=np.zeros_like(square), where=sd > 0)
        return ndtr(ratio)

    def shift(self) -> tuple[Array, Array]:
        """Average over rows what levels add to options: mean and sd, ``[L, O]``."""
        mean = self.features.mean(0)
        return self.loc @ mean.T, np.sqrt(self.scale**2 @ (mean**2).T)

    @cached_property
    def leading(self) -> Array:
        """The direction in which the means differ most: ``z @ leading`` is in nats, ``[K]``."""
        values, vectors = np.linalg.eigh(self.metric)
        root = np.sqrt(values.clip(0))[:, None] * vectors.T  # root' root = H
        moved = self.loc @ root.T
        axis: Array = np.linalg.eigh(moved.T @ moved)[1][:, -1] @ root
        return -axis if self._points_down(axis) else axis

    def contrast(self, axis: Array) -> Array:
        """Regress the levels' shifts on where they lie along an axis, ``[O]``."""
        along = self.loc @ axis
        square = max(float(along @ along), 1e-30)
        return self.shift()[0].T @ along / square

    def _points_down(self, axis: Array) -> bool:
        """Whether the option that moves most goes down along an axis, whose sign means nothing."""
        contrast = self.contrast(axis)
        size = np.abs(contrast)
        (largest,) = np.nonzero(size >= (1 - 1e-6) * size.max())
        return bool(contrast[largest[-1]] < 0)  # of two options, both: up is the latter


def centred(values: Array, there: Mask) -> Array:
    """Take from ``[N, O, K]`` values their mean over a row's options; zero where none is."""
    mask = there[:, :, None]
    return mask * (values - (mask * values).sum(1, keepdims=True) / mask.sum(1, keepdims=True))


def array(tensor: Tensor) -> Array:
    """Copy a tensor to the processor, as float64."""
    return tensor.detach().cpu().double().numpy()

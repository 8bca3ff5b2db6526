"""An effect that differs by the levels of an attribute: each user, each item, each domain."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from bayes_lora.backbone import FactorKey
from bayes_lora.backbone.targets import LayerGroup
from bayes_lora.data.attributes import Levels
from bayes_lora.effects import Effect, Flat, Normal, Pooled

DIRECTIONS = 64  # most coordinates of a level under a Pooled prior


@dataclass(frozen=True)
class LevelRows:
    """The levels that the rows of a batch have.

    Args:
        values: Each level's coordinates, ``[R, width]``.
        rows: Which entry each row uses, int64 ``[B]``; -1: none, the row is the population's.
    """

    values: Tensor
    rows: Tensor

    def padded(self) -> Tensor:
        """The values, and behind them zeros for the rows that have no level."""
        return torch.cat([self.values, self.values.new_zeros(1, self.values.shape[1])])

    def entries(self) -> Tensor:
        """Which of these each row uses."""
        return torch.where(self.rows < 0, len(self.values), self.rows)


@dataclass(frozen=True)
class LevelBatch:
    """The levels of one attribute in a minibatch; no other level is touched.

    Args:
        present: The levels that occur, positions in the training data's, int64 ``[U]``.
        rows: Which of them each row has, int64 ``[B]``; -1: none.
        weights: What each level's prior counts, ``[U]``: the share of the level's rows that the
            batch stands for, so that over an epoch every level's prior counts once, however
            often the level occurs.
    """

    present: Tensor
    rows: Tensor
    weights: Tensor

    @contextmanager
    def plate(self, effect: str) -> Iterator[None]:
        """Sample the levels' sites, of model or guide, inside the ``with`` block."""
        with pyro.plate(f"{effect}.present", len(self.present)), poutine.scale(scale=self.weights):
            yield


class LevelEffect(nn.Module):
    """How a level's coordinates become adapter weights, and their prior.

    A point (``mle``, ``map``) has all weights of a level as coordinates. Under a Pooled prior they
    are coordinates along a few directions in the space of these weights, those in which the data
    tell most (``inference/linearise.py`` measures them); the factors that levels share are fixed
    at their random start there, because the directions replace what they would learn.

    Args:
        effect: An effect with an attribute.
        groups: The backbone's adapted layers.
        levels: The attribute's levels in the training data.
        starts: Of the factors that levels share, ``[layers, *shape]``.
        coordinates: Of a level under a Pooled prior, as a fit chose them; None: as many as a fit
            may choose.
    """

    def __init__(
        self,
        effect: Effect,
        groups: Sequence[LayerGroup],
        levels: Levels,
        starts: Mapping[FactorKey, Tensor],
        coordinates: int | None = None,
    ) -> None:
        super().__init__()
        self.name = effect.name
        self.levels = levels
        self.prior_settings = effect.prior
        self.shapes: dict[FactorKey, tuple[int, ...]] = {}
        self._shared = {key: "/".join(key).replace(".", "-") for key in starts}
        units = []
        for group in groups:
            for name, factor in effect.adapter.factors(group.d_in, group.d_out).items():
                if name in effect.adapter.level_factors:
                    shape = factor.stacked(len(group.layers))
                    self.shapes[effect.name, group.name, name] = shape
                    units.append(torch.full((math.prod(shape),), factor.unit))
        self.units: Tensor
        self.counts: Tensor
        self.register_buffer("counts", torch.tensor(levels.counts), persistent=False)
        self.register_buffer("units", torch.cat(units), persistent=False)
        self.register_buffer("attenuation", torch.zeros(()), persistent=self.pooled)
        if self.pooled:
            self._register_pooled(starts, coordinates or DIRECTIONS)

    directions: Tensor
    shape: Tensor
    information: Tensor
    tau: Tensor
    interval: Tensor
    attenuation: Tensor  # see inference/attenuation.py

    def _register_pooled(self, starts: Mapping[FactorKey, Tensor], coordinates: int) -> None:
        count = min(coordinates, len(self.units))
        self.register_buffer("directions", torch.zeros(len(self.units), count))
        self.register_buffer("shape", torch.ones(count))
        self.register_buffer("information", torch.zeros(count))
        self.register_buffer("tau", torch.zeros(()))
        self.register_buffer("interval", torch.zeros(2))
        for key, start in starts.items():
            self.register_buffer(self._shared[key], start.clone())

    @property
    def pooled(self) -> bool:
        """Whether tau is learned, and coordinates run along measured directions."""
        return isinstance(self.prior_settings, Pooled)

    @property
    def width(self) -> int:
        """Coordinates of a level."""
        return self.directions.shape[1] if self.pooled else len(self.units)

    def keep(self, count: int) -> None:
        """Keep the first coordinates of a Pooled prior, those in which rows tell most."""
        self.directions = self.directions[:, :count].clone()
        self.shape = self.shape[:count].clone()
        self.information = self.information[:count].clone()

    def scale(self) -> Tensor:
        """Standard deviations of a level's coordinates under the prior, ``[width]``."""
        if self.pooled:
            return self.tau * self.shape
        assert isinstance(self.prior_settings, Normal)
        return self.prior_settings.scale * self.units

    def prior(self) -> dist.TorchDistribution:
        """Return the prior of one level's coordinates, of event shape ``[width]``."""
        if isinstance(self.prior_settings, Flat):
            return dist.ImproperUniform(dist.constraints.real, torch.Size(), (self.width,))
        scale = self.scale()
        return dist.Normal(torch.zeros_like(scale), scale).to_event(1)

    def factors(self, values: Tensor) -> dict[FactorKey, Tensor]:
        """Turn coordinates into weights.

        Args:
            values: ``[R, width]``.

        Returns:
            The factors in which levels differ, ``[R, layers, *shape]``, and, under a Pooled prior,
            those they share, ``[1, layers, *shape]``.
        """
        return self.of_weights(values @ self.directions.T if self.pooled else values)

    def of_weights(self, weights: Tensor) -> dict[FactorKey, Tensor]:
        """The same of a level's weights themselves, ``[R, all of them]``, side by side."""
        parts = weights.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        own = {
            key: part.unflatten(1, shape)
            for (key, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        if not self.pooled:
            return own
        return own | {key: getattr(self, name)[None] for key, name in self._shared.items()}

    def batch(self, levels: Tensor, num_rows: int) -> LevelBatch:
        """Say which levels a minibatch has.

        Args:
            levels: Each row's level in the training data, int64 ``[B]``; -1: none.
            num_rows: Rows in the training data, N.
        """
        known = levels[levels >= 0]
        present, times = known.unique(return_counts=True)
        rows = torch.full_like(levels, -1)
        rows[levels >= 0] = torch.searchsorted(present, known)
        return LevelBatch(present, rows, times * (num_rows / len(levels)) / self.counts[present])

"""Posteriors of the levels of an effect: tables of which a minibatch touches its own rows alone."""

from abc import ABC, abstractmethod

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayes_lora.errors import ConfigError
from bayes_lora.level_effect import LevelEffect

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as in torch.optim


class LevelGuide(nn.Module, ABC):
    """A row for every level in the training data.

    Args:
        effect: The effect; its levels start at the population, where nothing is known of them.
    """

    def __init__(self, effect: LevelEffect) -> None:
        super().__init__()
        self.loc: Tensor
        self.register_buffer("loc", torch.zeros(len(effect.levels.names), effect.width))

    @abstractmethod
    def sample(self, site: str, present: Tensor) -> Tensor:
        """Sample the coordinates of some levels, ``[U, width]``, as a Pyro site."""

    @abstractmethod
    def scale(self, levels: Tensor) -> Tensor:
        """Return the standard deviations of some levels' coordinates, ``[U, width]``."""


class LevelNormals(LevelGuide):
    """An independent Normal for every coordinate of every level.

    Args:
        effect: An effect with a Pooled prior.

    Raises:
        ConfigError: The prior is another one.
    """

    def __init__(self, effect: LevelEffect) -> None:
        if not effect.pooled:
            raise ConfigError(
                f"A mean-field posterior of the levels of {effect.levels.attribute!r} needs a "
                "Pooled prior, whose spread is learned."
            )
        super().__init__(effect)
        self.scales: Tensor
        self.register_buffer("scales", torch.zeros_like(self.loc))

    def sample(self, site: str, present: Tensor) -> Tensor:
        """Sample some levels."""
        normal = dist.Normal(self.loc[present], self.scales[present]).to_event(1)
        drawn: Tensor = pyro.sample(site, normal)
        return drawn

    def scale(self, levels: Tensor) -> Tensor:
        """Return the standard deviations."""
        return self.scales[levels]


class LevelPoints(LevelGuide):
    """One value for every level, learned by Adam whose moments move only where gradients are.

    Args:
        effect: The effect.

    Raises:
        ConfigError: Its prior is Pooled, whose best point is a spread of zero.
    """

    def __init__(self, effect: LevelEffect) -> None:
        if effect.pooled:
            raise ConfigError(
                f"A point cannot learn the spread of the levels of {effect.levels.attribute!r}: "
                "give them a Normal or Flat prior, or take the guide 'mean-field'."
            )
        super().__init__(effect)
        self._gathered: list[tuple[Tensor, Tensor]] = []
        self._moments: tuple[Tensor, Tensor, Tensor] | None = None

    def sample(self, site: str, present: Tensor) -> Tensor:
        """Return the points of some levels as a draw, and remember them for the next step."""
        values = self.loc[present]
        if torch.is_grad_enabled():
            values.requires_grad_()
            self._gathered.append((present, values))
        drawn: Tensor = pyro.sample(site, dist.Delta(values, event_dim=1))
        return drawn

    def scale(self, levels: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(self.loc[levels])

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Take an Adam step on the levels of the last passes (Kingma & Ba 2015, algorithm 1)."""
        gathered = [(levels, v.grad) for levels, v in self._gathered if v.grad is not None]
        self._gathered.clear()
        if not gathered:
            return
        levels, where = torch.cat([levels for levels, _ in gathered]).unique(return_inverse=True)
        gradient = self.loc.new_zeros(len(levels), self.loc.shape[1])
        gradient.index_add_(0, where, torch.cat([g for _, g in gathered if g is not None]))
        first, second, times = self._moments or self._new_moments()
        taken = times[levels] + 1
        mean = first[levels].lerp(gradient, 1 - BETAS[0])
        square = second[levels].lerp(gradient.square(), 1 - BETAS[1])
        times[levels], first[levels], second[levels] = taken, mean, square
        mean /= 1 - BETAS[0] ** taken
        square /= 1 - BETAS[1] ** taken
        self.loc[levels] -= learning_rate * mean / (square.sqrt() + EPSILON)

    def _new_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        zeros = torch.zeros_like(self.loc)
        self._moments = zeros, zeros.clone(), self.loc.new_zeros(len(zeros), 1)
        return self._moments

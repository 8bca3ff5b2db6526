"""A point: MAP under the model's prior, maximum likelihood under a flat one."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from bayes_lora.guides.base import Guide
from bayes_lora.guides.family import Family
from bayes_lora.guides.levels import LevelPoints
from bayes_lora.level_effect import LevelEffect
from bayes_lora.model import BayesianModel, parameter_name


@dataclass(frozen=True)
class MLE(Family):
    """Maximum likelihood: a point under a flat prior."""

    def build(self, model: BayesianModel) -> "PointGuide":
        """Make the guide."""
        return PointGuide(model)


@dataclass(frozen=True)
class MAP(MLE):
    """The posterior's mode: a point under a proper prior."""


class PointGuide(Guide):
    """A Delta at one value of every site; every draw is the same.

    Args:
        model: The program whose sites the guide samples.
    """

    most_draws = 1

    def __init__(self, model: BayesianModel) -> None:
        super().__init__(model)
        self.loc = nn.ParameterDict(
            {parameter_name(n): nn.Parameter(site.start.clone()) for n, site in self.sites.items()}
        )

    def make_levels(self, effect: LevelEffect) -> LevelPoints:
        """Give each level a point of its own."""
        return LevelPoints(effect)

    def sample_sites(self) -> dict[str, Tensor]:
        """Return the point as a draw."""
        return {
            name: pyro.sample(
                name, dist.Delta(self.loc[parameter_name(name)], event_dim=len(site.shape))
            )
            for name, site in self.sites.items()
        }

    @property
    def first_random(self) -> dict[str, int]:
        """No site."""
        return {}

    def roots(self, derivatives: Mapping[str, Tensor]) -> Tensor:
        """Nothing varies: ``[B, 0]``."""
        first = next(iter(derivatives.values()))
        return first.new_empty(len(first), 0)

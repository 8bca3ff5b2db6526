"""Mean-field: an independent Normal for every weight (Blundell et al. 2015, arXiv 1505.05424)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from bayes_lora.errors import check_positive
from bayes_lora.guides.base import Guide, scaled
from bayes_lora.guides.family import Family
from bayes_lora.guides.levels import LevelNormals
from bayes_lora.level_effect import LevelEffect
from bayes_lora.model import BayesianModel, parameter_name


@dataclass(frozen=True)
class MeanField(Family):
    """An independent Normal for every weight.

    Args:
        initial_scale: Where scales start, in units of each factor's natural size. Narrow, so that
            the means find their way before the noise grows to what the data allow.
    """

    initial_scale: float = 0.12

    def __post_init__(self) -> None:
        check_positive("initial_scale", self.initial_scale)

    def build(self, model: BayesianModel) -> "MeanFieldGuide":
        """Make the guide."""
        return MeanFieldGuide(model, self.initial_scale)


class MeanFieldGuide(Guide):
    """Normal(loc, scale^2) for every entry of every site.

    Args:
        model: The program whose sites the guide samples.
        initial_scale: Where scales start, in units of each factor's natural size.
    """

    def __init__(self, model: BayesianModel, initial_scale: float) -> None:
        super().__init__(model)
        self.loc = nn.ParameterDict()
        self.log_scale = nn.ParameterDict()
        for name, site in self.sites.items():
            key = parameter_name(name)
            self.loc[key] = nn.Parameter(site.start.clone())
            log_scale = torch.full_like(site.start, math.log(initial_scale * site.unit))
            self.log_scale[key] = nn.Parameter(log_scale)

    def make_levels(self, effect: LevelEffect) -> LevelNormals:
        """Give each level a Normal along the effect's directions."""
        return LevelNormals(effect)

    @property
    def symmetric(self) -> bool:
        """It is."""
        return True

    def sample_sites(self) -> dict[str, Tensor]:
        """Sample every site; reparameterised, so gradients reach loc and scale."""
        return {name: pyro.sample(name, self.distribution(name)) for name in self.sites}

    @property
    def closed(self) -> frozenset[str]:
        """All sites."""
        return frozenset(self.sites)

    def divergence(self, prior: Callable[[str], dist.TorchDistribution]) -> Tensor | float:
        """Sum the sites' divergences."""
        return sum(kl_divergence(self.distribution(name), prior(name)) for name in self.sites)

    def distribution(self, site: str) -> dist.TorchDistribution:
        """Return a site's Normals, with the site's event shape."""
        key = parameter_name(site)
        normal = dist.Normal(self.loc[key], self.log_scale[key].exp())
        return normal.to_event(len(self.sites[site].shape))

    def stddev(self) -> dict[str, Tensor]:
        """Return every site's scale."""
        return {n: self.log_scale[parameter_name(n)].detach().exp() for n in self.sites}

    def roots(self, derivatives: Mapping[str, Tensor]) -> Tensor:
        """Each weight's derivative times its scale."""
        scale = self.stddev()
        return scaled([(own, scale[name]) for name, own in derivatives.items()])

    def mean(self) -> dict[str, Tensor]:
        """Return every site's loc."""
        return {name: self.loc[parameter_name(name)].detach() for name in self.sites}

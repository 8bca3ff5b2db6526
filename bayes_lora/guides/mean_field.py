"""Mean-field: an independent Normal for every weight (Blundell et al. 2015, arXiv 1505.05424)."""

import math
from collections.abc import Callable, Collection, Mapping
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

    def linearises(self, class_head: bool) -> bool:
        """Linearise under a class head; where options are read, draws of weights are better."""
        return class_head


class NormalsGuide(Guide):
    """Normal(loc, scale^2) for every entry of some sites, a Delta at loc for the others.

    Args:
        model: The program whose sites the guide samples.
        initial_scale: Where scales start, in units of each factor's natural size.
        normal: The sites that are Normal.
    """

    symmetric = True

    def __init__(self, model: BayesianModel, initial_scale: float, normal: Collection[str]) -> None:
        super().__init__(model)
        self.normal = [name for name in self.sites if name in normal]
        self.loc = nn.ParameterDict()
        self.log_scale = nn.ParameterDict()
        for name, site in self.sites.items():
            self.loc[parameter_name(name)] = nn.Parameter(site.start.clone())
        for name in self.normal:
            site = self.sites[name]
            log_scale = torch.full_like(site.start, math.log(initial_scale * site.unit))
            self.log_scale[parameter_name(name)] = nn.Parameter(log_scale)

    def sample_sites(self) -> dict[str, Tensor]:
        """Sample every site; reparameterised, so gradients reach loc and scale."""
        return {name: pyro.sample(name, self.distribution(name)) for name in self.sites}

    @property
    def closed(self) -> frozenset[str]:
        """The Normal sites; the points' prior density is in the trace."""
        return frozenset(self.normal)

    def divergence(self, prior: Callable[[str], dist.TorchDistribution]) -> Tensor | float:
        """Sum the Normal sites' divergences."""
        return sum(kl_divergence(self.distribution(name), prior(name)) for name in self.normal)

    def distribution(self, site: str) -> dist.TorchDistribution:
        """Return a site's Normals or its point, with the site's event shape."""
        key, dims = parameter_name(site), len(self.sites[site].shape)
        if key not in self.log_scale:
            return dist.Delta(self.loc[key], event_dim=dims)
        return dist.Normal(self.loc[key], self.log_scale[key].exp()).to_event(dims)

    def stddev(self) -> dict[str, Tensor]:
        """Return the Normal sites' scales."""
        return {n: self.log_scale[parameter_name(n)].detach().exp() for n in self.normal}

    @property
    def first_random(self) -> dict[str, int]:
        """The Normal sites, whole."""
        return dict.fromkeys(self.normal, 0)

    def roots(self, derivatives: Mapping[str, Tensor]) -> Tensor:
        """Each random weight's derivative times its scale."""
        scale = self.stddev()
        return scaled([(own, scale[name]) for name, own in derivatives.items() if name in scale])


class MeanFieldGuide(NormalsGuide):
    """Normal(loc, scale^2) for every entry of every site.

    Args:
        model: The program whose sites the guide samples.
        initial_scale: Where scales start, in units of each factor's natural size.
    """

    def __init__(self, model: BayesianModel, initial_scale: float) -> None:
        super().__init__(model, initial_scale, model.sites)

    def make_levels(self, effect: LevelEffect) -> LevelNormals:
        """Give each level a Normal along the effect's directions."""
        return LevelNormals(effect)

"""Half a posterior: Normals on what reads the inputs, points elsewhere (BLoB, arXiv 2406.11675)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from bayes_lora.errors import check_positive
from bayes_lora.guides.base import Guide
from bayes_lora.guides.family import Family
from bayes_lora.guides.projections import projections
from bayes_lora.model import BayesianModel, parameter_name


@dataclass(frozen=True)
class BLoB(Family):
    """Variance on LoRA's A alone, as Wang et al. 2024 (arXiv 2406.11675, section 3.1) choose it.

    B and the head are points, with a prior. The rest is not BLoB's: A's prior is centred where A
    starts, and theirs at zero; the KL has one weight, and theirs another at every step; the rows
    of a step share a few draws, where their flipout gives each row random signs; a scale is a
    parameter's exponential, theirs its square.

    Args:
        initial_scale: Where A's scales start, in units of the factor's natural size.
    """

    initial_scale: float = 0.12

    def __post_init__(self) -> None:
        check_positive("initial_scale", self.initial_scale)

    def build(self, model: BayesianModel) -> "HalfGuide":
        """Make the guide."""
        return HalfGuide(model, self.initial_scale)


class HalfGuide(Guide):
    """Normal(loc, scale^2) for every entry of the projections, a Delta at loc elsewhere.

    Args:
        model: The program whose sites the guide samples; see ``projections`` for which are random.
        initial_scale: Where scales start, in units of each factor's natural size.
    """

    def __init__(self, model: BayesianModel, initial_scale: float) -> None:
        super().__init__(model)
        normal = projections(model)
        self.normal = [name for name in self.sites if name in normal]
        self.loc = nn.ParameterDict()
        self.log_scale = nn.ParameterDict()
        for name, site in self.sites.items():
            self.loc[parameter_name(name)] = nn.Parameter(site.start.clone())
        for name in self.normal:
            site = self.sites[name]
            log_scale = torch.full_like(site.start, math.log(initial_scale * site.unit))
            self.log_scale[parameter_name(name)] = nn.Parameter(log_scale)

    @property
    def symmetric(self) -> bool:
        """It is."""
        return True

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

    def roots(self, derivatives: Mapping[str, Tensor]) -> Tensor:
        """Give what the logits' covariance is the product of, where they are linear in weights.

        Args:
            derivatives: Site name to derivatives of one logit of each row, ``[B, *shape]``.

        Returns:
            Those of the Normal sites times their scales, ``[B, D]``.
        """
        scales = self.stddev()
        return torch.cat([(derivatives[n] * scales[n]).flatten(1) for n in self.normal], dim=1)

    def stddev(self) -> dict[str, Tensor]:
        """Return the Normal sites' scales."""
        return {n: self.log_scale[parameter_name(n)].detach().exp() for n in self.normal}

    def mean(self) -> dict[str, Tensor]:
        """Return every site's loc."""
        return {name: self.loc[parameter_name(name)].detach() for name in self.sites}

"""What tasks have in common: theta = (mu, tau), its hyper-priors and its posterior."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayes_lora.errors import ConfigError
from bayes_lora.model import BayesianModel, Site, parameter_name

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Theta:
    """One value of theta: where tasks' weights lie, and how far from there.

    Args:
        mean: mu by site, ``[*shape]``.
        scale: tau by site, ``[layers, 1, ...]``.
    """

    mean: Values
    scale: Values

    def detach(self) -> "Theta":
        """The same value, out of reach of gradients."""
        return Theta(
            {name: value.detach() for name, value in self.mean.items()},
            {name: value.detach() for name, value in self.scale.items()},
        )


@dataclass(frozen=True)
class HyperPriors:
    """Priors on theta, as published (arXiv 2508.14285; ABML, Ravi & Beatson 2019, section 4).

    Args:
        mean_scale: mu ~ Normal(start, mean_scale^2), with LoRA's A starting at its projection.
        shape: 1 / tau^2 ~ Gamma(shape, rate).
        rate: As above.
    """

    mean_scale: float = 1.0
    shape: float = 1.0
    rate: float = 0.01

    def sample(self, sites: dict[str, Site], device: torch.device) -> Theta:
        """Draw theta from its priors, or take the values that a guide drew."""
        mean, scale = {}, {}
        for name, site in sites.items():
            start = site.start.to(device)
            normal = dist.Normal(start, self.mean_scale).to_event(len(site.shape))
            mean[name] = pyro.sample(f"mu.{name}", normal)
            layers = start.new_ones(_per_layer(site))
            gamma = dist.Gamma(self.shape * layers, self.rate * layers).to_event(len(site.shape))
            scale[name] = pyro.sample(f"precision.{name}", gamma).rsqrt()
        return Theta(mean, scale)


class ThetaGuide(nn.Module, ABC):
    """The posterior of theta given all tasks; a Pyro guide with the sites of ``HyperPriors``.

    To add one: a subclass and a line in ``THETA_GUIDES``.

    Args:
        sites: The adapter's sites.
        scale: Where tau starts, in units of each factor's natural size.
    """

    def __init__(self, sites: dict[str, Site], scale: float) -> None:
        super().__init__()
        self.names = tuple(sites)
        self.loc = nn.ParameterDict()
        self.log_scale_loc = nn.ParameterDict()
        for name, site in sites.items():
            start = torch.full(_per_layer(site), scale * site.unit).log()
            self.loc[parameter_name(name)] = nn.Parameter(site.start.clone())
            self.log_scale_loc[parameter_name(name)] = nn.Parameter(start.to(site.start))

    def forward(self) -> Theta:
        """Sample theta with ``pyro.sample``; reparameterised."""
        mean, scale = {}, {}
        for name in self.names:
            mean[name] = pyro.sample(f"mu.{name}", self._mean(name))
            scale[name] = pyro.sample(f"precision.{name}", self._precision(name)).rsqrt()
        return Theta(mean, scale)

    def fix_scale(self) -> None:
        """Keep tau where it is."""
        self.log_scale_loc.requires_grad_(False)

    def take_over(self, other: "ThetaGuide", *, with_scale: bool) -> None:
        """Start from another's posterior of mu, and of tau or not, as far as this kind has it.

        Raises:
            ConfigError: It belongs to another adapter or backbone.
        """
        mine, state = self.state_dict(), other.state_dict()
        kept = {
            name: value
            for name, value in state.items()
            if name in mine and (with_scale or not name.startswith("log_scale"))
        }
        if {n: v.shape for n, v in self.loc.items()} != {n: v.shape for n, v in other.loc.items()}:
            raise ConfigError(
                "The theta to start from has weights of other names or sizes: give the same "
                "backbone, adapter, rank and targets."
            )
        self.load_state_dict(mine | kept)

    def predictive(self) -> Theta:
        """The prior of a new task: theta's uncertainty is part of the scale.

        mu and phi given mu are both Normal, so a task's weights have the variance
        ``tau^2 + Var(mu)``, with the median of tau.
        """
        scale = {}
        for name in self.names:
            tau = self.log_scale_loc[parameter_name(name)].exp()
            scale[name] = (tau.square() + self.mean_variance(name)).sqrt().detach()
        return Theta({n: self.loc[parameter_name(n)].detach() for n in self.names}, scale)

    @abstractmethod
    def mean_variance(self, name: str) -> Tensor:
        """Posterior variance of mu, broadcastable to the site's shape."""

    @abstractmethod
    def _mean(self, name: str) -> dist.TorchDistribution:
        """The posterior of a site's mu."""

    @abstractmethod
    def _precision(self, name: str) -> dist.TorchDistribution:
        """The posterior of a site's 1 / tau^2."""


class PointTheta(ThetaGuide):
    """One value of theta: the most probable, as published."""

    def mean_variance(self, name: str) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.log_scale_loc[parameter_name(name)])

    def _mean(self, name: str) -> dist.TorchDistribution:
        loc = self.loc[parameter_name(name)]
        return dist.Delta(loc, event_dim=loc.dim())

    def _precision(self, name: str) -> dist.TorchDistribution:
        log_scale = self.log_scale_loc[parameter_name(name)]
        return dist.Delta((-2 * log_scale).exp(), event_dim=log_scale.dim())


class MeanFieldTheta(ThetaGuide):
    """An independent Normal for every entry of mu and every log tau.

    Args:
        sites: The adapter's sites.
        scale: Where tau starts, in units of each factor's natural size.
        initial_scale: Standard deviation that mu starts with, as a share of tau.
    """

    def __init__(self, sites: dict[str, Site], scale: float, initial_scale: float = 0.1) -> None:
        super().__init__(sites, scale)
        self.loc_log_scale = nn.ParameterDict()
        self.log_scale_log_scale = nn.ParameterDict()
        for name, site in sites.items():
            key = parameter_name(name)
            narrow = torch.full_like(site.start, initial_scale * scale * site.unit).log()
            self.loc_log_scale[key] = nn.Parameter(narrow)
            of_scale = torch.full_like(self.log_scale_loc[key], initial_scale).log()
            self.log_scale_log_scale[key] = nn.Parameter(of_scale)

    def fix_scale(self) -> None:
        """Keep tau's posterior where it is."""
        super().fix_scale()
        self.log_scale_log_scale.requires_grad_(False)

    def mean_variance(self, name: str) -> Tensor:
        """Variance of the Normal."""
        return self.loc_log_scale[parameter_name(name)].exp().square()

    def _mean(self, name: str) -> dist.TorchDistribution:
        key = parameter_name(name)
        normal = dist.Normal(self.loc[key], self.loc_log_scale[key].exp())
        return normal.to_event(self.loc[key].dim())

    def _precision(self, name: str) -> dist.TorchDistribution:
        key = parameter_name(name)
        loc, spread = self.log_scale_loc[key], self.log_scale_log_scale[key].exp()
        return dist.LogNormal(-2 * loc, 2 * spread).to_event(loc.dim())


THETA_GUIDES: dict[str, type[ThetaGuide]] = {"point": PointTheta, "mean-field": MeanFieldTheta}


def adapter_sites(model: BayesianModel) -> dict[str, Site]:
    """The sites that vary between tasks: the adapter's, and not the scorer's own."""
    return {name: site for name, site in model.sites.items() if site.key is not None}


def _per_layer(site: Site) -> list[int]:
    return [site.shape[0], *[1] * (len(site.shape) - 1)]

"""A finite set of weights: an ensemble's members, Stein's particles, a chain's samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn

from bayes_lora.adapters.checks import check_counts
from bayes_lora.errors import ConfigError
from bayes_lora.guides.base import Guide
from bayes_lora.guides.family import Family
from bayes_lora.model import BayesianModel, parameter_name

LEAST_SAMPLES = 4  # of a chain, for its split R-hat
PARTICLES = "num_particles_vectorized"  # Pyro's plate of an ELBO's particles


@dataclass(frozen=True)
class DeepEnsemble(Family):
    """Points fitted alone, from random starts (Lakshminarayanan et al. 2017, arXiv 1612.01474).

    Args:
        members: How many.
    """

    members: int = 5

    def __post_init__(self) -> None:
        check_counts(self, "members")

    def build(self, model: BayesianModel) -> "MembersGuide":
        """Make the guide."""
        return MembersGuide(model, self.members)


@dataclass(frozen=True)
class SVGD(DeepEnsemble):
    """Particles that follow the posterior and repel each other (Liu & Wang 2016, arXiv 1608.04471).

    Args:
        members: How many particles.
    """


@dataclass(frozen=True)
class NUTS(Family):
    """Samples of one Markov chain (Hoffman & Gelman 2014, arXiv 1111.4246).

    Exact as the chain grows: a reference for posteriors of few weights.

    Args:
        samples: How many are kept; at least 4, as the halves of a chain are compared.
        warmup: Steps before them, in which step size and mass matrix are adapted.
    """

    samples: int = 100
    warmup: int = 100

    def __post_init__(self) -> None:
        check_counts(self, "samples", "warmup")
        if self.samples < LEAST_SAMPLES:
            raise ConfigError(
                f"NUTS samples must be at least {LEAST_SAMPLES}, not {self.samples}: the halves of "
                "a chain are compared."
            )

    def build(self, model: BayesianModel) -> "MembersGuide":
        """Make the guide."""
        return MembersGuide(model, self.samples)


class MembersGuide(Guide):
    """Equal probability on each of M values of all sites; draw i is member i.

    Args:
        model: The program whose sites the guide samples.
        members: How many values, M; all start where the model does.
    """

    def __init__(self, model: BayesianModel, members: int) -> None:
        super().__init__(model)
        self.most_draws = self.members = members
        self.loc = nn.ParameterDict(
            {
                parameter_name(name): nn.Parameter(torch.stack([site.start] * members))
                for name, site in self.sites.items()
            }
        )
        self._centres: dict[str, Tensor] = {}  # of priors, if they differ by member

    @torch.no_grad()
    def place(self, values: Mapping[str, Tensor]) -> None:
        """Put the members somewhere.

        Args:
            values: Site name to values, ``[M, *shape]``.
        """
        for name in self.sites:
            self.loc[parameter_name(name)].copy_(values[name])

    def centre_priors(self) -> None:
        """Centre each member's priors where it is, as the model's are at its own start."""
        self._centres = {name: values.clone() for name, values in self.values().items()}

    def sample_sites(self) -> dict[str, Tensor]:
        """Draw one member; under as many of Pyro's vectorised particles, give each its own."""
        if any((p.name, p.size) == (PARTICLES, self.members) for p in get_plates()):
            values = {name: self._loc(name).unsqueeze(1) for name in self.sites}
        else:
            member = int(torch.randint(self.members, ()))
            values = {name: self._loc(name)[member] for name in self.sites}
        return {
            name: pyro.sample(name, dist.Delta(value, event_dim=len(self.sites[name].shape)))
            for name, value in values.items()
        }

    def draw(self, number: int) -> dict[str, Tensor]:
        """Return the member of that number."""
        return {name: values[number] for name, values in self.values().items()}

    @property
    def closed(self) -> frozenset[str]:
        """All sites."""
        return frozenset(self.sites)

    def divergence(self, prior: Callable[[str], dist.TorchDistribution]) -> Tensor | float:
        """Return minus the log prior density, the members' mean; a Delta's own counts as zero."""
        return -sum(prior(n).log_prob(self._centred(n)).mean() for n in self.sites)

    def values(self) -> dict[str, Tensor]:
        """Return all members, ``[M, *shape]``; a view."""
        return {name: self._loc(name).detach() for name in self.sites}

    def mean(self) -> dict[str, Tensor]:
        """Return the members' mean."""
        return {name: values.mean(0) for name, values in self.values().items()}

    def stddev(self) -> dict[str, Tensor]:
        """Return the members' standard deviations; none of a single one."""
        if self.members == 1:
            return {}
        return {name: values.std(0, correction=0) for name, values in self.values().items()}

    def _loc(self, site: str) -> Tensor:
        return self.loc[parameter_name(site)]

    def _centred(self, site: str) -> Tensor:
        """Move members as far as their priors' centres are from the model's."""
        loc, centre = self._loc(site), self._centres.get(site)
        if centre is None:
            return loc
        return self.sites[site].start.to(loc) + (loc - centre)  # at its centre: without rounding

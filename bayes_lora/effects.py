"""Effects: an adapter, who shares it, and the prior of its factors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayes_lora.adapters import ADAPTERS, Adapter, LoRA
from bayes_lora.errors import ConfigError, check_positive
from bayes_lora.named import named_from_json, named_to_json


class PriorModule(nn.Module, ABC):
    """The prior of one site, with its learned parameters, if it has any."""

    @abstractmethod
    def distribution(self) -> dist.TorchDistribution:
        """Return the prior, with the site's event shape."""


class Prior(ABC):
    """The settings of a prior; a frozen dataclass that builds the module above.

    To add one: a subclass and a line in ``PRIORS``.
    """

    @abstractmethod
    def build(self, start: Tensor, unit: float) -> PriorModule:
        """Make the prior of a site.

        Args:
            start: Where a fit of the site starts, of the site's shape (the first dimension of an
                adapter's site counts layers). Priors are centred there: zero for most factors,
                a random projection for LoRA's A (docs/maths.md says why).
            unit: How wide a prior of scale 1 is: a factor's natural size times its spread (see
                ``Factor``).
        """

    def to_json(self) -> dict[str, Any]:
        """Describe the prior: its name in ``PRIORS`` and its settings."""
        return named_to_json(self, PRIORS)

    @staticmethod
    def from_json(described: dict[str, Any]) -> "Prior":
        """Make the prior that ``to_json`` described."""
        return named_from_json(described, PRIORS)


@dataclass(frozen=True)
class Normal(Prior):
    """Normal(start, (scale * unit)^2) for every entry.

    Args:
        scale: Standard deviation in units of the factor's natural size (times the spread of a class
            head's weights, which is above 1 for more than 6 options).
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("A prior scale", self.scale)

    def build(self, start: Tensor, unit: float) -> PriorModule:
        """Build the prior with a scale that does not move."""
        return _NormalPrior(start, start.new_tensor(self.scale * unit), learned=False)


@dataclass(frozen=True)
class LearnedNormal(Prior):
    """Normal(start, tau^2) with a tau for each layer, learned with the ELBO (empirical Bayes).

    Args:
        scale: Where tau starts, in units of the factor's natural size.
        by_column: Whether each column, an index of the last dimension, has a tau of its own.
    """

    scale: float = 1.0
    by_column: bool = False

    def __post_init__(self) -> None:
        check_positive("A prior scale", self.scale)

    def build(self, start: Tensor, unit: float) -> PriorModule:
        """Build the prior with its scales as a parameter, one for each layer or column."""
        shape = [start.shape[0], *[1] * (start.dim() - 1)]
        if self.by_column:
            shape[-1] = start.shape[-1]
        return _NormalPrior(start, start.new_full(shape, self.scale * unit), learned=True)


@dataclass(frozen=True)
class Flat(Prior):
    """No preference at all: the improper uniform prior, under which MAP is maximum likelihood."""

    def build(self, start: Tensor, unit: float) -> PriorModule:
        """Build the prior; it has no parameters."""
        return _FlatPrior(start.shape)


@dataclass(frozen=True)
class Pooled(Prior):
    """The prior of levels whose spread tau is learned from how much they differ.

    A level's deviation is Normal(0, (tau * shape)^2) along a few directions measured in the data
    (see ``LevelEffect``); tau, in nats of a logit, is what a level's logits typically deviate by.

    Args:
        scale: Of the half-normal prior of tau.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("A prior scale", self.scale)

    def build(self, start: Tensor, unit: float) -> PriorModule:
        """Refuse: only the levels of an attribute have a spread that can be learned so."""
        raise ConfigError(
            "A Pooled prior is for the levels of an attribute: give the effect an attribute, or "
            "take a LearnedNormal prior."
        )


PRIORS: dict[str, type[Prior]] = {
    "normal": Normal,
    "learned-normal": LearnedNormal,
    "flat": Flat,
    "pooled": Pooled,
}


@dataclass(frozen=True)
class Effect:
    """A term of the model: an adapter, who shares its factors, and their prior.

    Args:
        name: Names the effect's sites, such as ``population.query.A``.
        adapter: What the update is made of.
        prior: Prior of every factor that ``priors`` does not name.
        priors: Factor name to a prior of its own.
        by: The attribute whose levels (each user, each domain) differ in the adapter's level
            factors; the others they share. None: everybody shares all.
    """

    name: str
    adapter: Adapter = field(default_factory=LoRA)
    prior: Prior = field(default_factory=Normal)
    priors: dict[str, Prior] = field(default_factory=dict)
    by: str | None = None

    def __post_init__(self) -> None:
        unknown = set(self.priors) - set(self.adapter.factors(1, 1))
        if unknown:
            raise ConfigError(
                f"Effect {self.name!r} has a prior for {', '.join(sorted(unknown))}, but its "
                f"adapter has the factors {', '.join(self.adapter.factors(1, 1))}."
            )

    def prior_of(self, factor: str) -> Prior:
        """Return the prior of one factor."""
        return self.priors.get(factor, self.prior)

    def to_json(self) -> dict[str, Any]:
        """Describe the effect."""
        return {
            "name": self.name,
            "adapter": named_to_json(self.adapter, ADAPTERS),
            "prior": self.prior.to_json(),
            "priors": {factor: prior.to_json() for factor, prior in self.priors.items()},
            "by": self.by,
        }

    @staticmethod
    def from_json(described: dict[str, Any]) -> "Effect":
        """Make the effect that ``to_json`` described."""
        return Effect(
            described["name"],
            named_from_json(described["adapter"], ADAPTERS),
            Prior.from_json(described["prior"]),
            {factor: Prior.from_json(prior) for factor, prior in described["priors"].items()},
            described.get("by"),
        )


class _NormalPrior(PriorModule):
    def __init__(self, start: Tensor, scale: Tensor, learned: bool) -> None:
        super().__init__()
        self.shape = start.shape
        self.centre: Tensor
        self.log_scale: Tensor
        self.register_buffer("centre", start.clone() if start.any() else start.new_zeros(()))
        if learned:
            self.log_scale = nn.Parameter(scale.log())
        else:
            self.register_buffer("log_scale", scale.log())

    def distribution(self) -> dist.TorchDistribution:
        normal = dist.Normal(self.centre, self.log_scale.exp())
        return normal.expand(self.shape).to_event(len(self.shape))


class _FlatPrior(PriorModule):
    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def distribution(self) -> dist.TorchDistribution:
        return dist.ImproperUniform(dist.constraints.real, torch.Size(), self.shape)

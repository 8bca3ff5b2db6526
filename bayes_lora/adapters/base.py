"""What an adapter is: named factors with shapes, and a function of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factor:
    """One tensor of an adapter, for one layer or for adjacent layers that share it.

    Args:
        shape: The tensor's shape, without rows and without layers.
        unit: The natural size of one entry. Prior scales, initial values and initial posterior
            scales are multiples of it, so that they mean the same at every width and rank.
        starts_at_zero: Whether the initial value is zero (else, if the adapter does not say
            otherwise, Normal(0, unit^2)).
        span: At most how many adjacent layers share one such tensor.
        spread: How many units wide a prior of scale 1 is.
    """

    shape: tuple[int, ...]
    unit: float
    starts_at_zero: bool
    span: int = 1
    spread: float = 1.0

    def stacked(self, layers: int) -> tuple[int, ...]:
        """Return the shape of all layers' tensors together, shared ones once."""
        return (-(-layers // self.span), *self.shape)

    def start(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Make the value that a fit starts at, float32: zero, or Normal(0, unit^2)."""
        if self.starts_at_zero:
            return torch.zeros(shape)
        return torch.randn(shape, generator=generator) * self.unit


@dataclass(frozen=True)
class Layers:
    """The frozen layers of one shape, as an adapter sees them before a fit.

    Args:
        d_in: Input features.
        d_out: Output features.
        number: How many.
        weights: Gives each one's weight, ``[d_out, d_in]``, float32.
    """

    d_in: int
    d_out: int
    number: int
    weights: Callable[[], Iterator[Tensor]]


class FrozenLayer(Protocol):
    """The layer under an adapter, in one pass."""

    @property
    def training(self) -> bool:
        """Whether the model is being fitted (for dropout)."""

    @property
    def output(self) -> Tensor:
        """What it made of the adapter's inputs, without its bias, ``[R, N, d_out]``."""

    def linear(self, x: Tensor) -> Tensor:
        """Map other vectors, ``[..., d_in]``, to ``[..., d_out]``, without its bias."""


class Adapter(ABC):
    """A weight update of a linear layer as a function of factors.

    A subclass is a frozen dataclass of its settings; it holds no tensors. To add one: a new file
    here, a line in ``ADAPTERS``, and the conformance suite runs it.
    """

    @abstractmethod
    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """Name and describe the factors of one layer that maps ``d_in`` to ``d_out`` features."""

    @property
    def zero_factors(self) -> frozenset[str]:
        """The factors that start at zero."""
        factors = self.factors(1, 1)
        return frozenset(name for name, factor in factors.items() if factor.starts_at_zero)

    @property
    def level_factors(self) -> frozenset[str]:
        """The factors in which the levels of an attribute differ, around zero.

        None, if the update is not what several effects could add up.
        """
        return self.zero_factors

    @property
    def product(self) -> tuple[str, str] | None:
        """Two factors, "B" and "A", of which the update knows only the product B A; most: none."""
        return None

    @property
    def relevance_factors(self) -> frozenset[str]:
        """The factors whose columns have prior scales of their own, to be learned; most: none."""
        return frozenset()

    def starts(self, layers: Layers, generator: torch.Generator) -> dict[str, Tensor]:
        """Make the values that a fit starts at, at which the update must be none at all.

        Args:
            layers: The layers of one shape.
            generator: Of what is random.

        Returns:
            Factor name to ``[layers, *shape]``, float32, layers that share one counted once.
        """
        return {
            name: factor.start(factor.stacked(layers.number), generator)
            for name, factor in self.factors(layers.d_in, layers.d_out).items()
        }

    def constants(
        self, layers: Layers, starts: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Make what the update takes beside the factors and nobody learns.

        Args:
            layers: The layers of one shape.
            starts: What ``starts`` returned.
            generator: Of what is random.

        Returns:
            Name to ``[layers, *shape]``, or ``[1, *shape]`` where all layers share it; float32.
        """
        return {}

    @abstractmethod
    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Compute what is added to the frozen layer's output.

        Args:
            x: Inputs, ``[R, N, d_in]``: R groups of N vectors, in the factors' dtype.
            factors: Factors and constants by name, ``[R, *shape]``: group i uses row i.
            layer: The frozen layer.

        Returns:
            The update, ``[R, N, d_out]``.
        """

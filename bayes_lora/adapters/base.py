"""What an adapter is: named factors with shapes, and a function of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Factor:
    """One tensor of an adapter, for one layer.

    Args:
        shape: The tensor's shape for a single layer, without rows and without layers.
        unit: The natural size of one entry. Prior scales, initial values and initial posterior
            scales are multiples of it, so that they mean the same at every width and rank.
        starts_at_zero: Whether the initial value is zero (else Normal(0, unit^2)). An adapter must
            start as no update at all, so at least one factor of a product starts at zero.
    """

    shape: tuple[int, ...]
    unit: float
    starts_at_zero: bool


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
        """The factors that start at zero: those in which the levels of an attribute differ."""
        factors = self.factors(1, 1)
        return frozenset(name for name, factor in factors.items() if factor.starts_at_zero)

    @abstractmethod
    def update(self, x: Tensor, factors: Mapping[str, Tensor], training: bool) -> Tensor:
        """Compute what is added to the frozen layer's output.

        Args:
            x: Inputs, ``[R, N, d_in]``: R groups of N vectors, in the factors' dtype.
            factors: Factor name to values, ``[R, *shape]``: group i uses row i.
            training: Whether the model is being fitted (for dropout).

        Returns:
            The update, ``[R, N, d_out]``.
        """

"""Frozen linear layers whose rows may each use other adapter weights (docs/maths.md, "Rows")."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from bayes_lora.adapters import Adapter, FrozenLayer
from bayes_lora.errors import ConfigError, UnsupportedError

PROBES = 2  # random inputs on which an update must be the matrix that it is taken for


@runtime_checkable
class Joins(Protocol):
    """An adapter that can make one update of those of several effects, for the price of less."""

    def joined(self, parts: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Make factors whose update is the sum of those of several effects."""

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Compute it, as every adapter does."""


@dataclass(frozen=True)
class Update:
    """What one effect adds to one layer.

    Args:
        adapter: Computes it.
        factors: Factor name to values, ``[R, *shape]``.
        levels: For an effect with levels: which entry of the factors in ``of_level`` each row of
            the batch uses, int64 ``[B]``.
        of_level: The factors whose entries are levels, and not draws.
        weight: What the update is multiplied by.
    """

    adapter: Adapter
    factors: Mapping[str, Tensor]
    levels: Tensor | None = None
    of_level: frozenset[str] = frozenset()
    weight: float = 1.0


@dataclass(frozen=True)
class Sequences:
    """How the sequences of a pass belong to the rows of a batch.

    Args:
        entries: Which draw of the weights each sequence uses, int64 ``[sequences]``; None where
            they are aligned: equally many for each draw, in order.
        rows: Which row of the batch each sequence is, int64 ``[sequences]``; None where equally
            many belong to each row, in order.
        of_rows: Whether they belong to rows at all; texts that all rows share, such as options,
            have no level and are seen by the effects that everybody shares alone.
    """

    entries: Tensor | None = None
    rows: Tensor | None = None
    of_rows: bool = True


class ActiveUpdates:
    """The updates in force while a backbone runs, by layer, and how they belong to its sequences.

    One object is shared by all adapted layers of a backbone. It is set around a forward pass, and
    again around the recomputation of a checkpointed block, which happens in the backward pass when
    the forward pass is long over (and, on a GPU, in another thread).
    """

    def __init__(self) -> None:
        self.by_layer: Mapping[str, list[Update]] = {}
        self.sequences = Sequences()

    @contextmanager
    def use(
        self, by_layer: Mapping[str, list[Update]], sequences: Sequences = Sequences()
    ) -> Iterator[None]:
        """Put ``by_layer`` in force inside the ``with`` block, for such sequences."""
        previous = self.by_layer, self.sequences
        self.by_layer, self.sequences = by_layer, sequences
        try:
            yield
        finally:
            self.by_layer, self.sequences = previous

    def checkpoint_contexts(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts for ``torch.utils.checkpoint``: recompute with the updates of this forward."""
        return nullcontext(), self.use(self.by_layer, self.sequences)


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus the updates that are in force; without any, the layer itself.

    Args:
        base: The frozen layer, wrapped and not copied: ``nn.Linear``, a quantised one, or
            transformers' ``Conv1D``.
        name: The layer's name in its backbone.
        active: The backbone's updates in force.
    """

    def __init__(self, base: nn.Module, name: str, active: ActiveUpdates) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self._active = active

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, d_in]`` (or ``[B, d_in]``) to ``[B, T, d_out]``, row by row."""
        output = self.base(x)
        changed = output
        for change in self._changes(x, output):
            changed = changed + change.view_as(output).to(output.dtype)
        return changed

    def _changes(self, x: Tensor, output: Tensor) -> Iterator[Tensor]:
        """Yield what the updates in force add to the layer's output, each in its own dtype."""
        sequences, updates = self._active.sequences, self._active.by_layer.get(self.name, ())
        seen = [own for own in updates if own.levels is None or sequences.of_rows]
        for adapter, factors, weight in _joined(seen, sequences, x.shape[0]):
            change = self._update(x, output, adapter, factors)
            yield change if weight == 1 else change * weight

    def linear(self, x: Tensor) -> Tensor:
        """Map ``[..., d_in]`` to ``[..., d_out]`` without the bias, in x's dtype."""
        own = x.to(self._like.dtype)
        if type(self.base) is nn.Linear:
            return F.linear(own, self.base.weight).to(x.dtype)
        if isinstance(self.base, Conv1D):
            return (own @ self.base.weight).to(x.dtype)
        return self.without_bias(self.base(own)).to(x.dtype)  # quantised: it can multiply

    def without_bias(self, output: Tensor) -> Tensor:
        """Take the layer's bias, if it has one, from its output."""
        bias = getattr(self.base, "bias", None)
        return output if bias is None else output - bias

    def weight(self) -> Tensor:
        """Return the frozen weight, ``[d_out, d_in]``, float32, however it is stored."""
        size = linear_size(self.base)
        assert size is not None
        with torch.no_grad():
            return self.linear(torch.eye(size[0], device=self._like.device)).T

    def matrix_of_updates(self) -> Tensor:
        """Return the matrix ``[d_out, d_in]`` that the updates in force add to the weight.

        Raises:
            UnsupportedError: They are no linear function of the input, as with a gate.
        """
        size = linear_size(self.base)
        assert size is not None
        probes = torch.randn(PROBES, size[0], generator=torch.Generator().manual_seed(0))
        inputs = torch.cat([torch.eye(size[0]), probes]).to(self._like.device).unsqueeze(0)
        output = self.base(inputs.to(self._like.dtype))
        change = sum(own.view_as(output) for own in self._changes(inputs, output))
        assert isinstance(change, Tensor)
        matrix = change[0, : size[0]].T
        expected = inputs[0, size[0] :].to(matrix) @ matrix.T
        if not torch.allclose(change[0, size[0] :], expected, atol=1e-3, rtol=1e-3):
            raise UnsupportedError(
                f"The update of layer {self.name!r} depends on its input in a way that no matrix "
                "has, as where a gate weighs experts: it cannot be merged."
            )
        return matrix

    @property
    def _like(self) -> Tensor:
        """A tensor of the layer's dtype and device."""
        tensors = itertools.chain(self.base.parameters(), self.base.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def _update(
        self,
        x: Tensor,
        output: Tensor,
        adapter: Adapter | Joins,
        factors: Mapping[str, Tensor],
    ) -> Tensor:
        number = max(len(value) for value in factors.values())
        if x.shape[0] % number:
            raise ConfigError(
                f"{number} sets of adapter weights cannot be shared evenly by "
                f"{x.shape[0]} rows: the number of rows must be a multiple of it."
            )
        # Factors stay fp32 on a bf16 backbone: bf16 would round small posterior noise away.
        groups = x.reshape(number, -1, x.shape[-1]).to(next(iter(factors.values())).dtype)
        everywhere = {n: v.expand(number, *v.shape[1:]) for n, v in factors.items()}
        return adapter.update(groups, everywhere, _Pass(self, groups, output))


class _Pass:
    """An adapter's view of its frozen layer while one update is computed.

    Args:
        layer: The layer.
        x: The update's inputs, ``[R, N, d_in]``.
        output: What the frozen layer made of them, bias included, in any shape.
    """

    def __init__(self, layer: AdaptedLinear, x: Tensor, output: Tensor) -> None:
        self._layer, self._x, self._output = layer, x, output
        self.linear = layer.linear

    @property
    def training(self) -> bool:
        """Whether the model is being fitted."""
        return self._layer.training

    @property
    def output(self) -> Tensor:
        """What the layer made of the inputs, without its bias, in the factors' dtype."""
        output = self._layer.without_bias(self._output).to(self._x.dtype)
        return output.reshape(*self._x.shape[:2], -1)


def _joined(
    updates: Sequence[Update], sequences: Sequences, number: int
) -> Iterator[tuple[Adapter | Joins, Mapping[str, Tensor], float]]:
    """Yield updates aligned with a pass's sequences, those of attributes as one if they can be.

    A pass over all vectors of a batch costs more than what is computed there: one update for user
    and item makes a training step a tenth faster (examples/benchmarks/attributes.py).
    """
    own: dict[tuple[Joins, float], list[Mapping[str, Tensor]]] = {}
    for update in updates:
        factors = _aligned(update, sequences, number)
        if update.levels is None or not isinstance(update.adapter, Joins):
            yield update.adapter, factors, update.weight
        else:
            own.setdefault((update.adapter, update.weight), []).append(factors)
    for (adapter, weight), parts in own.items():
        yield adapter, parts[0] if len(parts) == 1 else adapter.joined(parts), weight


def _aligned(update: Update, sequences: Sequences, number: int) -> Mapping[str, Tensor]:
    """Align an update's factors with a pass's sequences; levels make an entry for each of them.

    What all sequences share stays one entry.
    """
    factors, entries = update.factors, sequences.entries
    levels = update.levels
    if levels is not None:
        levels = levels if sequences.rows is None else levels[sequences.rows]
        levels = levels.repeat_interleave(number // len(levels))

    def of_sequences(name: str, value: Tensor) -> Tensor:
        if levels is not None and name in update.of_level:
            return value[levels]
        if len(value) == 1 or (levels is None and entries is None):
            return value
        if entries is not None:
            return value[entries]
        return value.repeat_interleave(number // len(value), 0)

    return {name: of_sequences(name, value) for name, value in factors.items()}


def linear_size(layer: nn.Module) -> tuple[int, int] | None:
    """Return ``(d_in, d_out)`` of a linear layer, or None for any other module.

    Known by its attributes, which quantised layers have as well, and not by its class.
    """
    for names in (("in_features", "out_features"), ("nx", "nf")):  # the second: GPT-2's Conv1D
        sizes = tuple(getattr(layer, name, None) for name in names)
        if all(isinstance(size, int) for size in sizes):
            return sizes  # type: ignore[return-value]
    return None


def wrap_layers(model: nn.Module, names: list[str], active: ActiveUpdates) -> None:
    """Replace the named linear layers of ``model`` by adapted ones, in place."""
    for name in names:
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, AdaptedLinear(getattr(parent, child), name, active))

"""Frozen linear layers whose rows may each use other adapter weights (docs/maths.md, "Rows")."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn

from bayes_lora.adapters import Adapter
from bayes_lora.errors import ConfigError

Update = tuple[Adapter, Mapping[str, Tensor]]


class ActiveUpdates:
    """The updates in force while a backbone runs: layer name to its adapters and their factors.

    One object is shared by all adapted layers of a backbone. It is set around a forward pass, and
    again around the recomputation of a checkpointed block, which happens in the backward pass when
    the forward pass is long over (and, on a GPU, in another thread).
    """

    def __init__(self) -> None:
        self.by_layer: Mapping[str, list[Update]] = {}
        self.entries: Tensor | None = None

    @contextmanager
    def use(
        self, by_layer: Mapping[str, list[Update]], entries: Tensor | None = None
    ) -> Iterator[None]:
        """Put ``by_layer`` in force inside the ``with`` block.

        Args:
            by_layer: Updates, with factors ``[R, ...]``.
            entries: Which of the R entries each row uses, int64 ``[B]``; None where the rows are
                aligned: equally many for each entry, in order.
        """
        previous = self.by_layer, self.entries
        self.by_layer, self.entries = by_layer, entries
        try:
            yield
        finally:
            self.by_layer, self.entries = previous

    def checkpoint_contexts(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts for ``torch.utils.checkpoint``: recompute with the updates of this forward."""
        return nullcontext(), self.use(self.by_layer, self.entries)


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
        for adapter, factors in self._active.by_layer.get(self.name, ()):
            output = output + self._update(x, adapter, factors).view_as(output).to(output.dtype)
        return output

    def _update(self, x: Tensor, adapter: Adapter, factors: Mapping[str, Tensor]) -> Tensor:
        if self._active.entries is not None:
            factors = {name: value[self._active.entries] for name, value in factors.items()}
        value = next(iter(factors.values()))
        if x.shape[0] % value.shape[0]:
            raise ConfigError(
                f"{value.shape[0]} sets of adapter weights cannot be shared evenly by "
                f"{x.shape[0]} rows: the number of rows must be a multiple of it."
            )
        # Factors stay fp32 on a bf16 backbone: bf16 would round small posterior noise away.
        groups = x.reshape(value.shape[0], -1, x.shape[-1]).to(value.dtype)
        return adapter.update(groups, factors, self.training)


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

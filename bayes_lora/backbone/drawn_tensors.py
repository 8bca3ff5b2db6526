"""A module's own tensors replaced by draws, a pass for each draw."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_lora.errors import ConfigError

Inputs = Mapping[str, Tensor]


class DrawnTensors:
    """Some parameters of a model, draws of them, and which draw each row of a pass uses.

    Args:
        parameters: By name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self._values: Mapping[str, Tensor] = {}
        self._entries: Tensor | None = None
        self._slots: dict[nn.Module, list[tuple[str, nn.Parameter]]] = {}

    @contextmanager
    def in_force(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Put draws, ``[R, *shape]`` by name, in force inside the ``with`` block."""
        previous, self._values = self._values, values
        try:
            yield
        finally:
            self._values = previous

    @contextmanager
    def using(self, entries: Tensor | None) -> Iterator[None]:
        """Say which draw each row uses, int64 ``[B]``; None: equally many each, in order."""
        previous, self._entries = self._entries, entries
        try:
            yield
        finally:
            self._entries = previous

    @contextmanager
    def held(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Put values into the model itself inside the ``with`` block."""
        before = {name: own.detach().clone() for name, own in self.parameters.items()}
        try:
            self._copy(values)
            yield
        finally:
            self._copy(before)

    def passes(self, inputs: Inputs) -> Iterator[tuple[Tensor, dict[str, Tensor], dict[str, Any]]]:
        """Yield each draw with its rows: their places, the draw's tensors, and their inputs.

        Raises:
            ConfigError: The rows cannot be shared evenly.
        """
        rows = len(next(iter(inputs.values())))
        draws = len(next(iter(self._values.values()))) if self._values else 1
        entries = self._entries
        if entries is None:
            if rows % draws:
                raise ConfigError(f"{draws} draws cannot be shared evenly by {rows} rows.")
            entries = torch.arange(rows) // (rows // draws)
        for draw in entries.unique().tolist():
            own = (entries == draw).nonzero().squeeze(1).to(next(iter(inputs.values())).device)
            tensors = {name: value[draw] for name, value in self._values.items()}
            yield own, tensors, {key: value[own] for key, value in inputs.items()}

    def call(self, module: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs) -> Any:
        """Call a part of the model with a draw in the place of its parameters."""
        values = {id(self.parameters[name]): value for name, value in tensors.items()}
        named = {
            name: values[id(own)].to(own.dtype)
            for name, own in self._places(module)
            if id(own) in values
        }
        # Every place of a parameter is in `named`. Left to find them by itself, torch puts a draw
        # twice into a module that several layers share (VB-LoRA's), and leaves it there.
        return functional_call(module, named, (), dict(inputs), tie_weights=False)

    def unreached(self, module: nn.Module, inputs: Inputs) -> list[str]:
        """List the parameters that a pass takes from elsewhere, where no draw can be put."""
        own = {name: parameter.detach() for name, parameter in self.parameters.items()}
        originals = list(self.parameters.values())
        used: Sequence[Tensor | None] = [None] * len(originals)
        try:
            with torch.enable_grad():
                for original in originals:
                    original.requires_grad_(True)
                output = self.call(module, own, inputs)[0]
                if output.requires_grad:
                    used = torch.autograd.grad(output.sum(), originals, allow_unused=True)
        finally:
            for original in originals:
                original.requires_grad_(False)
        return [name for name, gradient in zip(own, used, strict=True) if gradient is not None]

    def _places(self, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """List the places where a part of the model has these parameters, by name."""
        if module not in self._slots:
            wanted = {id(own) for own in self.parameters.values()}
            self._slots[module] = [
                (f"{prefix}.{name}" if prefix else name, own)
                for prefix, part in module.named_modules()  # shared ones once
                for name, own in part.named_parameters(recurse=False, remove_duplicate=False)
                if id(own) in wanted
            ]
        return self._slots[module]

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)


def in_order(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Join passes, in the order of their rows."""
    rows = torch.cat([own for own, _ in parts])
    return torch.cat([value for _, value in parts])[rows.argsort(stable=True)]

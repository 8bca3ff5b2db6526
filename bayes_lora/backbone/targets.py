"""Which layers are adapted, and which of them share a shape and so a site."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from bayes_lora.backbone.adapted_linear import linear_size
from bayes_lora.errors import ConfigError

# The attention projections LoRA's authors adapt (arXiv 2106.09685, section 7.1), as the common
# architectures name them; the first entry whose names all exist is the default.
DEFAULT_TARGETS = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
    ("Wqkv",),
)


@dataclass(frozen=True)
class LayerGroup:
    """Adapted layers that differ only in depth: their factors are stacked in one site.

    Args:
        name: Shortest distinguishing name, such as ``query`` or ``attention.output.dense``.
        layers: Module names, in the backbone's order.
        d_in: Input features of each layer.
        d_out: Output features of each layer.
    """

    name: str
    layers: tuple[str, ...]
    d_in: int
    d_out: int


def find_layer_groups(model: nn.Module, targets: str | Sequence[str] | None) -> list[LayerGroup]:
    """Find the layers to adapt, named as PEFT's ``target_modules`` names them.

    A language-modelling head is never one of them.

    Args:
        model: The backbone.
        targets: Module names, each matched whole or as the end of a dotted name; or one string,
            a regular expression matched against the whole name; or None for the architecture's
            query and value projections.

    Raises:
        ConfigError: A name matches nothing; the message lists the linear layers there are.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    linears = {
        name: size
        for name, module in model.named_modules()
        if module is not head and (size := linear_size(module))
    }
    matched = _match(linears, _default(linears) if targets is None else targets)
    stacks: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    for name in matched:
        stacks[(without_depth(name), *linears[name])].append(name)
    names = short_names([pattern for pattern, _, _ in stacks])
    return [
        LayerGroup(name, tuple(layers), d_in, d_out)
        for name, ((_, d_in, d_out), layers) in zip(names, stacks.items(), strict=True)
    ]


def _match(linears: dict[str, tuple[int, int]], targets: str | Sequence[str]) -> list[str]:
    if isinstance(targets, str):
        try:
            matched = [name for name in linears if re.fullmatch(targets, name)]
        except re.error as error:
            raise ConfigError(f"Target {targets!r} is not a regular expression: {error}.") from None
        missing = [] if matched else [targets]
    else:
        matched = [name for name in linears if any(_ends_with(name, t) for t in targets)]
        missing = [t for t in targets if not any(_ends_with(name, t) for name in linears)]
    if missing or not matched:
        kinds = sorted({without_depth(name).rpartition(".")[2] for name in linears})
        raise ConfigError(
            f"No linear layer of the backbone matches target {', '.join(missing) or '(none)'}. "
            f"Its linear layers are: {', '.join(kinds)}."
        )
    return matched


def _default(linears: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    for names in DEFAULT_TARGETS:
        if all(any(_ends_with(linear, name) for linear in linears) for name in names):
            return names
    return ("query", "value")  # matches nothing, so the error lists what there is


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def without_depth(name: str) -> str:
    """Drop the numbers that count layers: ``encoder.layer.3.x`` and ``.4.x`` are one kind."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def short_names(patterns: list[str]) -> list[str]:
    """Give each pattern its shortest suffix that no other has; equal patterns get a number."""
    names = []
    for i, pattern in enumerate(patterns):
        parts = pattern.split(".")
        others = [p.split(".") for p in patterns if p != pattern]
        length = next(
            (k for k in range(1, len(parts)) if all(o[-k:] != parts[-k:] for o in others)),
            len(parts),
        )
        twins = patterns[:i].count(pattern)
        names.append(".".join(parts[-length:]) + (f"-{twins + 1}" if twins else ""))
    return names

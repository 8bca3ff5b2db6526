"""What the commands read, and what they warn of: data, backbones, flags."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bayes_lora.adapters import ADAPTERS, Adapter, LoRA
from bayes_lora.backbone import MINILM, Backbone, load_backbone
from bayes_lora.backbone.peft_loading import load_peft
from bayes_lora.data import TaskSet, read
from bayes_lora.data.wording import listed, meant
from bayes_lora.errors import ConfigError
from bayes_lora.inference import FitSettings
from bayes_lora.inference.attributes import RECIPES, AttributeSettings
from bayes_lora.inference.methods import DEFAULTS, family_of
from bayes_lora.scorers import Scorer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WARNINGS_SHOWN = 10
FIT_FLAGS = (
    "draws",
    "epochs",
    "max_steps",
    "batch_size",
    "accumulate",
    "learning_rate",
    "checkpointing",
    "seed",
)


def read_data(
    arguments: argparse.Namespace, specs: Sequence[str], split: str, part: str, **labels: Any
) -> TaskSet:
    """Read SPECs.

    Args:
        arguments: Of the command.
        specs: What to read.
        split: The split where a SPEC names none.
        part: The part of the partition where the user names none.
        labels: ``options`` or ``label_sets`` of ``read``.
    """
    default = part if arguments.partition else None
    return read(
        specs,
        split=split,
        partition=arguments.partition,
        part=arguments.part or default,
        strict=arguments.strict,
        **labels,
    )


def load_named(name: str, arguments: argparse.Namespace) -> Backbone:
    """Load a backbone with the command's flags."""
    targets = _targets(getattr(arguments, "targets", None))
    return load_backbone(name, targets=targets, **_reading(arguments))


def load_adapted(arguments: argparse.Namespace) -> Backbone:
    """Load what ``fit`` is to adapt: a backbone, or one that PEFT has adapted."""
    if arguments.from_peft is None:
        return load_named(arguments.model or MINILM, arguments)
    return load_peft(arguments.from_peft, arguments.model, **_reading(arguments))


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say how a backbone is to read: its precision, and how much of a text."""
    return {
        "dtype": DTYPES[arguments.dtype or "float32"],
        "max_length": arguments.max_length or 256,
    }


def given(make: Any, arguments: argparse.Namespace, names: Sequence[str]) -> Any:
    """Call ``make`` with the flags the user gave, so that defaults stand in one place."""
    values = {name: getattr(arguments, name) for name in names}
    return make(**{name: value for name, value in values.items() if value is not None})


def fit_choices(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read what the flags say of a fit; they win over a recipe, and that over the defaults.

    Returns:
        Keyword arguments of ``fit``.

    Raises:
        ConfigError: A flag's value is out of range, or flags do not go together.
    """
    _check_attribute_flags(arguments)
    _check_peft_flags(arguments)
    columns = arguments.attributes or ()
    recipe = RECIPES[arguments.recipe](columns) if arguments.recipe else {}
    guide = arguments.guide or recipe.get("guide", "mean-field")
    views = _views(arguments, recipe.get("attributes") or AttributeSettings(columns))
    views.check(family_of(guide))  # before the work, not after it
    settings = partial(replace, recipe.get("settings") or FitSettings())
    return {
        "guide": guide,
        "adapter": _adapter(arguments, recipe.get("adapter") or LoRA()),
        "model_settings": given(partial(replace, DEFAULTS[guide]), arguments, ("kl_weight",)),
        "settings": given(settings, arguments, FIT_FLAGS),
        "attributes": views,
    }


def _check_attribute_flags(arguments: argparse.Namespace) -> None:
    for flag in ("recipe", "fusion", "attribute_adapter"):
        if getattr(arguments, flag) is not None and not arguments.attributes:
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is for a fit with attributes: give --attributes too.")


def _check_peft_flags(arguments: argparse.Namespace) -> None:
    for flag in ("adapter", "rank", "targets", "attributes", "checkpointing"):
        if arguments.from_peft is not None and getattr(arguments, flag) is not None:
            raise ConfigError(
                f"--{flag} does not go with --from-peft: the checkpoint has its adapter, and its "
                "rows cannot have weights of their own."
            )


def _adapter(arguments: argparse.Namespace, otherwise: Adapter) -> Adapter | None:
    """Make the adapter that is named; the same one keeps the settings that no flag changes."""
    if arguments.from_peft is not None:
        return None
    make: Any = ADAPTERS.get(arguments.adapter, type(otherwise))
    if make is type(otherwise):
        make = partial(replace, otherwise)
    return given(make, arguments, ("rank",))


def _views(arguments: argparse.Namespace, otherwise: AttributeSettings) -> AttributeSettings:
    terms = given(partial(replace, otherwise.terms), arguments, ("reconstruction",))
    adapter = otherwise.adapter
    if arguments.attribute_adapter:
        adapter = ADAPTERS[arguments.attribute_adapter]()
    return given(partial(replace, otherwise, adapter=adapter, terms=terms), arguments, ("fusion",))


def lacking(tasks: TaskSet, columns: Sequence[str]) -> list[str]:
    """Say which attributes' columns some tasks do not have at all."""
    lines = []
    for column in columns:
        without = [task for task in tasks if column not in task.attributes]
        if without:
            found = list(dict.fromkeys(name for task in without for name in task.attributes))
            there = f"the attribute columns are {listed(found)}" if found else "there are none"
            lines.append(
                f"there is no attribute column {column!r}{meant(column, found)} in "
                f"{listed([task.name for task in without])}: all rows there count as unknown "
                f"levels; {there}"
            )
    return lines


def warnings(tasks: TaskSet) -> list[str]:
    """List what a reader should know of the data, at most ``WARNINGS_SHOWN`` lines of it."""
    lines = [*tasks.warnings, *(f"{task.name}: {w}" for task in tasks for w in task.warnings)]
    more = len(lines) - WARNINGS_SHOWN
    tail = [f"and {more} more; bayes-lora tasks lists them"] if more > 0 else []
    return lines[:WARNINGS_SHOWN] + tail


def cut(scorer: Scorer, backbone: Backbone, tasks: TaskSet) -> list[str]:
    """Say of which tasks texts are too long."""
    lines = []
    for task in tasks:
        shortened = sum(row.cut for row in scorer.rows(backbone, task.examples))
        if shortened:
            length = backbone.max_length
            lines.append(
                f"{task.name}: {shortened} of {len(task)} texts are cut to {length} tokens"
            )
    return lines


def warn(*lines: str) -> None:
    """Print warnings, a line each."""
    for line in lines:
        print(f"bayes-lora: warning: {' '.join(line.split())}", file=sys.stderr)


def _targets(text: str | None) -> str | list[str] | None:
    """Read ``--targets``: names with commas, or one regular expression."""
    if text is None or not re.fullmatch(r"[\w.,\s]+", text):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]

"""What the commands read, and what they warn of: data, backbones, flags."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

import torch

from bayes_lora.backbone import Backbone, load_backbone
from bayes_lora.data import TaskSet, read
from bayes_lora.scorers import Scorer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WARNINGS_SHOWN = 10


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
    dtype = DTYPES[arguments.dtype or "float32"]
    targets = _targets(getattr(arguments, "targets", None))
    return load_backbone(name, targets=targets, dtype=dtype, max_length=arguments.max_length or 256)


def given(make: Any, arguments: argparse.Namespace, names: Sequence[str]) -> Any:
    """Call ``make`` with the flags the user gave, so that defaults stand in one place."""
    values = {name: getattr(arguments, name) for name in names}
    return make(**{name: value for name, value in values.items() if value is not None})


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

"""What the benchmarks share: reading rows, and JSON that says how it was made."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bayes_lora import load_backbone
from bayes_lora.backbone import Backbone
from bayes_lora.backbone.precision import multiplies_bfloat16
from bayes_lora.data import Example, Task

PACKAGES = ("bayes-lora", "torch", "transformers", "pyro-ppl", "peft", "netcal", "numpy")


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Read (text, label) pairs from a file of lines ``label text`` (latin-1)."""
    # Not splitlines: latin-1's \x85 is an ellipsis here and would end a line.
    lines = path.read_text(encoding="latin-1").split("\n")
    return [(text, label) for label, _, text in (line.partition(" ") for line in lines) if text]


def to_task(name: str, rows: list[tuple[str, str]], all_rows: list[tuple[str, str]]) -> Task:
    """Make a task of some rows, with the labels of ``all_rows`` as its options."""
    options = tuple(sorted({label for _, label in all_rows}))
    examples = (
        Example(input=text, options=options, label=options.index(label), where=f"{name}, row {i}")
        for i, (text, label) in enumerate(rows, 1)
    )
    return Task(name, tuple(examples))


def load_minilm() -> Backbone:
    """Load MiniLM as the long comparisons use it, texts cut at 128 tokens."""
    return load_backbone("minilm", max_length=128, dtype=faster_dtype())


def faster_dtype() -> torch.dtype:
    """Say which dtype's training steps are faster here.

    On processors with tiles for matrices (AMX) those of bfloat16 take two thirds of float32's
    time; where there are only AVX-512's products of pairs, 1.6 times as long.
    """
    tiles = torch.cpu._is_amx_tile_supported()  # torch has no public name for it
    return torch.bfloat16 if torch.cuda.is_available() or tiles else torch.float32


def describe_run() -> dict[str, Any]:
    """Say how a run is made: command, versions, machine; with an empty table of results.

    Of an absolute path in the command, its last name is kept: the others are of one machine.
    """
    return {
        "command": "python " + " ".join([Path(sys.argv[0]).name, *map(_portable, sys.argv[1:])]),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "multiplies bfloat16": multiplies_bfloat16(),
            "load_minilm gives": str(faster_dtype()),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "results": {},
    }


def write_json(results: dict[str, Any], path: Path) -> None:
    """Write results whole or not at all, so that an interrupted run can go on."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results, indent=2) + "\n")
    unfinished.replace(path)


def _portable(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

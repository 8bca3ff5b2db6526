"""Results as files, one a set, size, seed and method: OUT/SET/SIZE/SEED/METHOD.json."""

import json
from pathlib import Path
from typing import Any

from bayes_lora.errors import InputDataError
from bayes_lora.files import atomic_text

# Raised by hand whenever what a method does, or how it is judged, changes.
VERSION = 1
Result = dict[str, Any]


def path_of(out: Path, name: str, size: int | None, seed: int, method: str) -> Path:
    """Say where a result lies."""
    return out / name / size_name(size) / str(seed) / f"{method}.json"


def size_name(size: int | None) -> str:
    """Write a size as the command line has it."""
    return "all" if size is None else str(size)


def write_result(path: Path, result: Result) -> None:
    """Write a result, whole or not at all."""
    with atomic_text(path) as file:
        json.dump({"version": VERSION, **result}, file, separators=(",", ":"))
        file.write("\n")


def read_result(path: Path) -> Result | None:
    """Read a result; None where there is none.

    Raises:
        InputDataError: It is of another version of the comparison, or no result at all.
    """
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
        version = result["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputDataError(f"{path}: this is no result of compare.py; remove it") from error
    if version != VERSION:
        raise InputDataError(
            f"{path}: a result of version {version}, and compare.py is at version {VERSION}; "
            "remove it, or name another folder with --out"
        )
    return result


def read_results(out: Path, name: str, size: int | None, method: str) -> list[Result]:
    """Read a method's results of all seeds there are, in the seeds' order."""
    folder = path_of(out, name, size, 0, method).parents[1]
    seeds = sorted(int(own.name) for own in folder.glob("*") if own.name.isdigit())
    found = [read_result(path_of(out, name, size, seed, method)) for seed in seeds]
    return [result for result in found if result is not None]

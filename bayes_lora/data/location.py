"""Where a SPEC points: a path, a support seed, a split."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from bayes_lora.data.wording import listed
from bayes_lora.errors import ConfigError, InputDataError

_SEED = re.compile(r"(?P<path>.+)@(?P<seed>[0-9]{1,9})", re.DOTALL)
_SPLIT = re.compile(r"(?P<path>.+)#(?P<split>[^#]*)", re.DOTALL)


@dataclass(frozen=True)
class Location:
    """A path with what the SPEC says behind it; None where it says nothing."""

    path: str
    seed: int | None = None
    split: str | None = None


def locate(text: str, *, seeds: bool = False) -> Location:
    """Take `PATH[@SEED][#SPLIT]` apart.

    "@" and "#" belong to the path where a folder of that name exists; where none exists, the
    path is what stands before them.

    Args:
        text: The SPEC without its scheme.
        seeds: Whether the reader knows seeds; "@" is a part of the path for others.

    Raises:
        ConfigError: The split is empty.
    """
    *_, plainest = readings = list(_readings(text, seeds=seeds))
    found = next((reading for reading in readings if is_folder(Path(reading.path))), plainest)
    if found.split == "":
        raise ConfigError(f"{text!r}: there is no split after '#'; name one, such as '#test'")
    return found


def _readings(text: str, *, seeds: bool) -> Iterator[Location]:
    """The ways to read it, the longest path first."""
    split = _SPLIT.fullmatch(text)
    for path, name in [(text, None), *([(split["path"], split["split"])] if split else [])]:
        yield Location(path, split=name)
        match = _SEED.fullmatch(path) if seeds else None
        if match:
            yield Location(match["path"], int(match["seed"]), name)


def is_folder(path: Path) -> bool:
    """Whether there is a folder; False for what cannot be a path at all."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def entries(folder: Path) -> list[Path]:
    """What stands in a folder, by name.

    Raises:
        InputDataError: There is no such folder, or it cannot be read.
    """
    if not is_folder(folder):
        raise InputDataError(f"{str(folder)!r}: no such folder; {_neighbours(folder)}")
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputDataError(f"{str(folder)!r}: cannot be read ({error.strerror})") from None


def folders_holding(
    folder: Path, holds: Callable[[list[Path]], object], missing: str
) -> list[Path]:
    """The folders in a folder that hold a task, by name; the folder itself if it does.

    Args:
        folder: Where to look.
        holds: Says of what stands in a folder whether a task does.
        missing: What to say where there is none, behind the folder's name.

    Raises:
        InputDataError: There are none, or there is no such folder.
    """
    inside = entries(folder)
    if holds(inside):
        return [folder]
    found = [path for path in inside if is_folder(path) and holds(entries(path))]
    if not found:
        raise InputDataError(f"{str(folder)!r}: {missing}")
    return found


def _neighbours(missing: Path) -> str:
    """What may have been meant by a folder that is missing."""
    if not is_folder(missing.parent):
        return "check the path"
    names = [path.name for path in entries(missing.parent) if is_folder(path)]
    likely = get_close_matches(missing.name, names, cutoff=0.5) or names
    return f"there are {listed(likely)}" if likely else "check the path"

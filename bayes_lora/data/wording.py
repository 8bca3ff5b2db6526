"""How lists are put in messages."""

from collections.abc import Sequence
from difflib import get_close_matches

_SHOWN = 12


def listed(names: Sequence[str]) -> str:
    """Quote the names, with commas between; a long list is cut, and says by how much."""
    return _cut([repr(name) for name in names])


def places(wheres: Sequence[str]) -> str:
    """Places in one file, "x.tsv, line 3" and more, the file named once; a long list is cut."""
    return _cut([*wheres[:1], *(where.rpartition(" ")[2] for where in wheres[1:])])


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 row", "2 rows"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cut(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def meant(name: str, names: Sequence[str]) -> str:
    """Ask after names that may have been meant; empty if none is alike."""
    by_lower = {there.lower(): there for there in names}
    likely = [by_lower[own] for own in get_close_matches(name.strip().lower(), by_lower)]
    return f" (did you mean {' or '.join(map(repr, likely))}?)" if likely else ""

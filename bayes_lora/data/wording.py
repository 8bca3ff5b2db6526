"""How lists are put in messages."""

from collections.abc import Sequence

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

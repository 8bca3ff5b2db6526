"""The page's part on level counts: for each attribute its buckets side by side, and the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calibration.entry import Entry
from calibration.level_diagram import level_diagram
from calibration.levels import BUCKETS, LevelMeasured
from calibration.tables import COMPARED, Line, SideBySide, cells, count_text, side_by_side


@dataclass(frozen=True)
class LevelSection:
    """What the page shows about one attribute.

    Attributes:
        attribute: Its name.
        buckets: A line a bucket of level counts, of the files that have the attribute.
        same_counts: Whether these files have the same counts row by row, so that a line is of the
            same rows in each.
        diagram: An `<svg>` element; None where no file has two buckets.
    """

    attribute: str
    buckets: SideBySide
    same_counts: bool
    diagram: str | None


def level_sections(entries: Sequence[Entry]) -> list[LevelSection]:
    """The page's part by level count.

    Args:
        entries: The report's files.

    Returns:
        A section an attribute that any file has, in order of first appearance.
    """
    return [
        _section(attribute, entries)
        for attribute in dict.fromkeys(name for entry in entries for name in entry.levels)
    ]


def _section(attribute: str, entries: Sequence[Entry]) -> LevelSection:
    curves = {entry.name: entry.levels.get(attribute, ()) for entry in entries}
    known = {name: levels for name, levels in curves.items() if levels}
    counts = [
        [(row.level_counts or {})[attribute] for row in entry.file.rows]
        for entry in entries
        if entry.name in known
    ]
    return LevelSection(
        attribute=attribute,
        buckets=_side_by_side(known),
        same_counts=all(own == counts[0] for own in counts),
        diagram=level_diagram(curves) if max(map(len, known.values())) > 1 else None,
    )


def _side_by_side(of_files: Mapping[str, Sequence[LevelMeasured]]) -> SideBySide:
    """A line a bucket that any file has; a file without it has dashes there."""
    by_count = [{level.count: level for level in levels} for levels in of_files.values()]
    lines = []
    for count in BUCKETS:
        in_files = [levels.get(count) for levels in by_count]
        if rows := [level.n for level in in_files if level]:
            shown = [cells(level.measured, COMPARED) if level else None for level in in_files]
            lines.append(Line(count, count_text(rows, "row"), side_by_side(shown, COMPARED)))
    return SideBySide(list(of_files), COMPARED, lines)

"""The page's part on few-shot files: their support sizes side by side, differences, the picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from calibration.differences import Difference
from calibration.entry import Entry
from calibration.summary import Measured
from calibration.support import SizeMeasured
from calibration.support_diagram import support_diagram
from calibration.tables import (
    COMPARED,
    Cell,
    Column,
    Line,
    SideBySide,
    cells,
    count_text,
    difference_cells,
    side_by_side,
)


@dataclass(frozen=True)
class SupportSection:
    """What the page shows by support size.

    Attributes:
        sizes: A line a support size.
        differences: The same of the first file minus others; None where there are none.
        first: The name of the first file.
        diagram: An `<svg>` element; None where no file has two sizes.
        without_interval: Whether some numbers are of too few tasks for an interval.
    """

    sizes: SideBySide
    differences: SideBySide | None
    first: str
    diagram: str | None
    without_interval: bool


def support_section(
    entries: Sequence[Entry], differences: Sequence[Difference]
) -> SupportSection | None:
    """The page's part by support size.

    Args:
        entries: The report's files.
        differences: From `compare_files`.

    Returns:
        None if no file has support sizes.
    """
    curves = {entry.name: entry.support.sizes if entry.support else () for entry in entries}
    few_shot = {name: sizes for name, sizes in curves.items() if sizes}
    if not few_shot:
        return None
    second = {difference.second: difference.sizes for difference in differences}
    shown = [size for sizes in (*few_shot.values(), *second.values()) for size in sizes]
    return SupportSection(
        sizes=_side_by_side(few_shot, cells),
        differences=_side_by_side(second, difference_cells) if second else None,
        first=next(iter(few_shot)),
        diagram=support_diagram(curves) if max(map(len, few_shot.values())) > 1 else None,
        without_interval=any(None in size.measured.intervals.values() for size in shown),
    )


def _side_by_side(
    of_files: Mapping[str, Sequence[SizeMeasured]],
    show: Callable[[Measured, Sequence[Column]], list[Cell]],
) -> SideBySide:
    """A line a support size that any file has; a file without it has dashes there."""
    by_size = [{size.size: size for size in sizes} for sizes in of_files.values()]
    lines = []
    for size in sorted(set().union(*by_size)):
        known = [sizes[size] for sizes in by_size if size in sizes]
        in_files = [
            show(sizes[size].measured, COMPARED) if size in sizes else None for sizes in by_size
        ]
        lines.append(Line(f"{size}", _counts(known), side_by_side(in_files, COMPARED)))
    return SideBySide(list(of_files), COMPARED, lines)


def _counts(sizes: Sequence[SizeMeasured]) -> str:
    tasks = count_text([len(size.seeds) for size in sizes], "task")
    return f"{tasks}, {count_text([count for size in sizes for count in size.seeds], 'seed')}"

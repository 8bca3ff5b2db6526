"""Metrics as the page's tables show them: which columns there are, and values as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from calibration.bootstrap import Interval
from calibration.summary import Measured

NO_VALUE = "\N{EN DASH}"
SIGNED = "+z"  # no minus before what is rounded to 0


@dataclass(frozen=True)
class Column:
    """A metric as a table column.

    Attributes:
        name: Its name in `METRICS`.
        title: The column's head.
        meaning: One plain sentence.
        higher_is_better: Which end is the good one.
        percent: Shown as a percentage rather than as a plain number.
    """

    name: str
    title: str
    meaning: str
    higher_is_better: bool = False
    percent: bool = False


HEADLINE = (
    Column("accuracy", "Accuracy", "How often the predicted option is right.", True, True),
    Column(
        "nll",
        "NLL",
        "Surprise at the truth, in nats; a wrong answer given with certainty costs most.",
    ),
    Column(
        "ece",
        "ECE",
        "How far confidence and accuracy lie apart, on average; 0 means that of answers given "
        "with 80 % confidence 80 % are right.",
    ),
    Column(
        "brier",
        "Brier",
        "Squared distance between the probabilities and the truth, from 0 to 2; rewards being "
        "right and being honest.",
    ),
)
FURTHER = (
    Column("adaptive_ece", "Adaptive ECE", "ECE with the same number of rows in each bin."),
    Column(
        "classwise_ece",
        "Class-wise ECE",
        "ECE of each option's probability, not the predicted one's only; mean over options.",
    ),
    Column("mce", "MCE", "The worst bin's gap; jumps about where a bin has few rows."),
    Column(
        "auroc",
        "AUROC of correctness",
        "How well confidence tells right answers from wrong ones; 0.5 is chance.",
        True,
    ),
    Column("aurc", "AURC", "Error rate when only the surest rows are answered, over all shares."),
)
COMPARED = tuple(column for column in HEADLINE if column.name in ("accuracy", "nll", "ece"))


@dataclass(frozen=True)
class Cell:
    """A metric as shown: texts, whether it is the best, why there is no value."""

    value: str
    below: str
    best: bool
    reason: str


@dataclass(frozen=True)
class Line:
    """A line of a metric table: whose metrics these are, a note on it, a cell per column.

    `overall` marks a line about several others, such as an average.
    """

    name: str
    note: str
    cells: list[Cell]
    overall: bool = False


@dataclass(frozen=True)
class SideBySide:
    """The same lines for several files.

    Attributes:
        files: The files' names.
        columns: The metrics, each shown for every file.
        lines: Each has a cell per file for the first metric, then for the next.
    """

    files: list[str]
    columns: tuple[Column, ...]
    lines: list[Line]


def side_by_side(
    in_files: Iterable[Sequence[Cell] | None], columns: Sequence[Column]
) -> list[Cell]:
    """A line's cells in the order of `SideBySide`.

    Args:
        in_files: Each file's cells, one a column; None for a file without the line: it has dashes.
        columns: The metrics.
    """
    nothing = [Cell(NO_VALUE, "", False, "")] * len(columns)
    of_files = [nothing if own is None else own for own in in_files]
    return [cell for of_column in zip(*of_files, strict=True) for cell in of_column]


def cells(
    measured: Measured, columns: Iterable[Column], best: Mapping[str, str | None] | None = None
) -> list[Cell]:
    """The metrics as shown.

    Args:
        measured: Values, intervals and reasons.
        columns: The metrics to show.
        best: From `best_shown`, to mark the best values; by default none is.
    """
    return [_cell(measured, column, (best or {}).get(column.name)) for column in columns]


def difference_cells(measured: Measured, columns: Iterable[Column]) -> list[Cell]:
    """Differences of metrics as shown, with their signs; those of percentages are in points.

    Args:
        measured: Values, none of them undefined, and intervals.
        columns: The metrics to show.
    """
    shown = []
    for column in columns:
        value, interval = measured.values[column.name], measured.intervals[column.name]
        unit = " points" if column.percent else ""
        text = NO_VALUE if value is None else _number(value, column, SIGNED) + unit
        shown.append(Cell(text, _range(interval, column, SIGNED), False, ""))
    return shown


def _cell(measured: Measured, column: Column, best: str | None) -> Cell:
    shown = value_text(measured.values[column.name], column)
    return Cell(
        value=shown,
        below=_range(measured.intervals[column.name], column),
        best=shown == best,
        reason=measured.undefined.get(column.name, ""),
    )


def best_shown(values: Sequence[Mapping[str, float | None]], column: Column) -> str | None:
    """The best value as shown, so that values that look equal are marked alike.

    Args:
        values: Of each that is compared, the metrics by name.
        column: The metric.

    Returns:
        None if there are not two values to compare.
    """
    known = [value for of_one in values if (value := of_one[column.name]) is not None]
    if len(known) < 2:
        return None
    return value_text(max(known) if column.higher_is_better else min(known), column)


def value_text(value: float | None, column: Column) -> str:
    """The metric's value as shown, with its unit; a dash for none."""
    if value is None:
        return NO_VALUE
    return _number(value, column) + (" %" if column.percent else "")


def count_text(counts: Sequence[int], noun: str) -> str:
    """How many there are, in one thing or in several that may differ in it."""
    least, most = min(counts), max(counts)
    shown = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{shown} {noun}{'' if most == 1 else 's'}"


def _range(interval: Interval | None, column: Column, sign: str = "") -> str:
    if interval is None:
        return ""
    return f"{_number(interval.low, column, sign)} to {_number(interval.high, column, sign)}"


def _number(value: float, column: Column, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" if column.percent else f"{value:{sign}.3f}"

"""The report as a page to read: one self-contained HTML text, without scripts or network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from calibration.bootstrap import Interval
from calibration.diagrams import reliability_diagram, risk_coverage_diagram
from calibration.reading import PredictionsFile, Row
from calibration.summary import Measured, entropy, most_confidently_wrong, most_uncertain

EXAMPLES = 10
OPTIONS_SHOWN = 5
NO_VALUE = "\N{EN DASH}"


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


@dataclass(frozen=True)
class Entry:
    """One predictions file in the report: what to call it, its rows and what was measured."""

    name: str
    file: PredictionsFile
    measured: Measured


@dataclass(frozen=True)
class Cell:
    """A metric of one file as shown: texts, whether it is the best, why there is no value."""

    value: str
    interval: str
    best: bool
    reason: str


@dataclass(frozen=True)
class Choice:
    """An option of an example as shown."""

    option: str
    percent: float
    true: bool
    predicted: bool


@dataclass(frozen=True)
class Example:
    """A row of a predictions file as shown."""

    line: int
    input: str | None
    choices: list[Choice]
    hidden: int
    entropy: float
    mutual_information: float | None


def render(entries: Sequence[Entry], *, title: str, settings: dict[str, float | int]) -> str:
    """The page for some predictions files.

    Args:
        entries: The files in the order to show them, at least one.
        title: The page's head.
        settings: `bins`, `resamples`, `level` and `seed`, named on the page.

    Returns:
        HTML text; whatever comes from the data is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        settings=settings,
        sections=[_section(entry) for entry in entries],
        same_rows=_same_rows(entries),
        tables=[(columns, _table(entries, columns)) for columns in (HEADLINE, FURTHER)],
        risk_coverage=risk_coverage_diagram({e.name: e.file.predictions for e in entries}),
    )


def _section(entry: Entry) -> dict[str, Any]:
    """What the page shows of one file below the tables."""
    data = entry.file.predictions
    return {
        "name": entry.name,
        "reliability": reliability_diagram(data.probabilities, data.labels, data.num_options),
        "uncertain": _examples(entry.file, most_uncertain(entry.file, EXAMPLES)),
        "wrong": _examples(entry.file, most_confidently_wrong(entry.file, EXAMPLES)),
    }


def _same_rows(entries: Sequence[Entry]) -> bool:
    """Whether the files answer the same questions, so that comparing them is fair."""
    asked = [[(row.input, row.options, row.label) for row in entry.file.rows] for entry in entries]
    return all(questions == asked[0] for questions in asked)


def _table(entries: Sequence[Entry], columns: Sequence[Column]) -> list[tuple[Entry, list[Cell]]]:
    best = {column.name: _best(entries, column) for column in columns}
    return [
        (entry, [_cell(entry.measured, column, best[column.name]) for column in columns])
        for entry in entries
    ]


def _best(entries: Sequence[Entry], column: Column) -> str | None:
    """The best value as shown, so that values that look equal are marked alike."""
    values = [entry.measured.values[column.name] for entry in entries]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return _number(max(known) if column.higher_is_better else min(known), column)


def _cell(measured: Measured, column: Column, best: str | None) -> Cell:
    value, interval = measured.values[column.name], measured.intervals[column.name]
    shown = NO_VALUE if value is None else _number(value, column)
    return Cell(
        value=shown + (" %" if column.percent and value is not None else ""),
        interval=_range(interval, column),
        best=value is not None and shown == best,
        reason=measured.undefined.get(column.name, ""),
    )


def _number(value: float, column: Column) -> str:
    return f"{100 * value:.1f}" if column.percent else f"{value:.3f}"


def _range(interval: Interval | None, column: Column) -> str:
    if interval is None:
        return ""
    return f"{_number(interval.low, column)} to {_number(interval.high, column)}"


def _examples(file: PredictionsFile, rows: np.ndarray) -> list[Example]:
    entropies = entropy(file.predictions.probabilities)
    return [_example(file.rows[row], float(entropies[row])) for row in rows]


def _example(row: Row, row_entropy: float) -> Example:
    """The row's most probable options, and the true one wherever it ranks."""
    order = sorted(range(len(row.options)), key=lambda k: -row.probabilities[k])
    shown = [k for i, k in enumerate(order) if i < OPTIONS_SHOWN or k == row.label]
    choices = [
        Choice(row.options[k], 100 * row.probabilities[k], k == row.label, k == order[0])
        for k in shown
    ]
    hidden = len(order) - len(shown)
    return Example(row.line, row.input, choices, hidden, row_entropy, row.mutual_information)

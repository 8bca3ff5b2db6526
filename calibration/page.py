"""The report as a page to read: one self-contained HTML text, without scripts or network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from calibration.diagrams import reliability_diagram, risk_coverage_diagram
from calibration.differences import Difference
from calibration.entry import Entry
from calibration.level_tables import level_sections
from calibration.macro import LEAST_TASKS
from calibration.reading import PredictionsFile, Row, Support
from calibration.summary import entropy, most_confidently_wrong, most_uncertain
from calibration.support_tables import support_section
from calibration.tables import FURTHER, HEADLINE, Column, Line, best_shown, cells, count_text
from calibration.task_tables import compare_tasks, task_lines

EXAMPLES = 10
OPTIONS_SHOWN = 5


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
    task: str | None
    support: Support | None
    input: str | None
    choices: list[Choice]
    hidden: int
    entropy: float
    mutual_information: float | None


def render(
    entries: Sequence[Entry],
    differences: Sequence[Difference],
    *,
    title: str,
    settings: dict[str, float | int],
) -> str:
    """The page for some predictions files.

    Args:
        entries: The files in the order to show them, at least one.
        differences: Between those of them that have support sizes.
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
        least_tasks=LEAST_TASKS,
        tables={
            "headline": (HEADLINE, _file_lines(entries, HEADLINE)),
            "further": (FURTHER, _file_lines(entries, FURTHER)),
        },
        support=support_section(entries, differences),
        mixing=any(entry.support is not None and entry.support.mixes for entry in entries),
        comparison=compare_tasks(entries),
        levels=level_sections(entries),
        sections=[_section(entry) for entry in entries],
        same_rows=_same_rows(entries),
        risk_coverage=risk_coverage_diagram({e.name: e.file.predictions for e in entries}),
    )


def _section(entry: Entry) -> dict[str, Any]:
    """What the page shows of one file apart from the tables of files."""
    data = entry.file.predictions
    return {
        "name": entry.name,
        "draws": entry.file.num_draws,
        "tasks": (HEADLINE, task_lines(entry, HEADLINE)),
        "tasks_further": (FURTHER, task_lines(entry, FURTHER)),
        "reliability": reliability_diagram(data.probabilities, data.labels, data.num_options),
        "uncertain": _examples(entry.file, most_uncertain(entry.file, EXAMPLES)),
        "wrong": _examples(entry.file, most_confidently_wrong(entry.file, EXAMPLES)),
    }


def _same_rows(entries: Sequence[Entry]) -> bool:
    """Whether the files answer the same questions from the same support, so that it is fair."""
    asked = [
        [(row.input, row.options, row.label, row.support) for row in entry.file.rows]
        for entry in entries
    ]
    return all(questions == asked[0] for questions in asked)


def _file_lines(entries: Sequence[Entry], columns: Sequence[Column]) -> list[Line]:
    """Each file's metrics over all its rows."""
    values = [entry.measured.values for entry in entries]
    best = {column.name: best_shown(values, column) for column in columns}
    return [
        Line(entry.name, _size(entry), cells(entry.measured, columns, best)) for entry in entries
    ]


def _size(entry: Entry) -> str:
    size = count_text([len(entry.file.rows)], "row")
    if entry.tasks is not None:
        size += f" of {entry.tasks.count} tasks"
    if entry.support is not None:
        size += f" with support size {', '.join(f'{own.size}' for own in entry.support.sizes)}"
    pooled = entry.tasks is not None or (entry.support is not None and entry.support.mixes)
    return f"{size}, pooled" if pooled else size


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
    return Example(
        line=row.line,
        task=row.task,
        support=row.support,
        input=row.input,
        choices=choices,
        hidden=hidden,
        entropy=row_entropy,
        mutual_information=row.mutual_information,
    )

"""One predictions file of a report: its rows, what was measured, its entry in report.json."""

from dataclasses import dataclass
from typing import Any

from calibration.reading import PredictionsFile
from calibration.summary import Measured
from calibration.tasks import Tasks


@dataclass(frozen=True)
class Entry:
    """A predictions file in the report.

    Attributes:
        name: What to call it.
        file: Its rows.
        measured: The metrics over all its rows.
        tasks: The metrics of each of its tasks; None for a file with one task or without tasks.
    """

    name: str
    file: PredictionsFile
    measured: Measured
    tasks: Tasks | None


def describe(entry: Entry) -> dict[str, Any]:
    """The file's entry in report.json.

    Args:
        entry: The file and what was measured.

    Returns:
        `file`, `name`, `n`, `num_draws` and the metrics over all rows by name, with `intervals`
        (pairs) and `undefined` (reasons) by name. For a file of several tasks also `tasks`, a list
        of `task`, `n` and the same metrics, `intervals` and `undefined` of each; `macro`, their
        unweighted means in the same form; and `macro_tasks`, by metric how many tasks have it and
        are in its mean. A metric or interval without a value is None.
    """
    described = {
        "file": str(entry.file.path),
        "name": entry.name,
        "n": len(entry.file.rows),
        "num_draws": entry.file.num_draws,
        **_figures(entry.measured),
    }
    if entry.tasks is not None:
        described["tasks"] = [
            {"task": task.task, "n": task.n, **_figures(task.measured)} for task in entry.tasks.each
        ]
        described["macro"] = _figures(entry.tasks.macro.measured)
        described["macro_tasks"] = entry.tasks.macro.counts
    return described


def _figures(measured: Measured) -> dict[str, Any]:
    return {
        **measured.values,
        "intervals": {
            name: None if interval is None else list(interval)
            for name, interval in measured.intervals.items()
        },
        "undefined": measured.undefined,
    }

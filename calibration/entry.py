"""One predictions file of a report: its rows, what was measured, its entry in report.json."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from calibration.levels import LevelMeasured
from calibration.reading import PredictionsFile
from calibration.summary import Measured
from calibration.support import SizeMeasured, SupportMeasured
from calibration.tasks import TaskMeasured, Tasks


@dataclass(frozen=True)
class Entry:
    """A predictions file in the report.

    Attributes:
        name: What to call it.
        file: Its rows.
        measured: The metrics over all its rows.
        tasks: The metrics of each of its tasks; None for a file with one task or without tasks.
        support: The metrics of each of its support sizes; None for a file without them.
        levels: The metrics by level count, by attribute; empty for a file without level counts.
    """

    name: str
    file: PredictionsFile
    measured: Measured
    tasks: Tasks | None
    support: SupportMeasured | None
    levels: dict[str, tuple[LevelMeasured, ...]]


def describe(entry: Entry) -> dict[str, Any]:
    """The file's entry in report.json.

    Args:
        entry: The file and what was measured.

    Returns:
        `file`, `name`, `n`, `num_draws` and the metrics over all rows by name, with `intervals`
        (pairs) and `undefined` (reasons) by name. For a file of several tasks also `tasks`, a list
        of `task`, `n` and the same metrics, `intervals` and `undefined` of each; `macro`, their
        unweighted means in the same form; and `macro_tasks`, by metric how many tasks have it and
        are in its mean. A metric or interval without a value is None. For a file with support
        sizes the `tasks` are of one task and size each, with `support_size` and `seeds`, and in
        place of the macro average is `support`, a list as `describe_size` gives it, with `n`. For
        a file with level counts also `levels`: by attribute a list of `count` (a name of
        `BUCKETS`), `n` and the same metrics, `intervals` and `undefined` of the rows so counted.
    """
    described = {
        "file": str(entry.file.path),
        "name": entry.name,
        "n": len(entry.file.rows),
        "num_draws": entry.file.num_draws,
        **_figures(entry.measured),
    }
    if entry.tasks is not None:
        described["tasks"] = [_describe_task(task) for task in entry.tasks.each]
        if entry.tasks.macro is not None:
            described["macro"] = _figures(entry.tasks.macro.measured)
            described["macro_tasks"] = entry.tasks.macro.counts
    if entry.support is not None:
        rows = Counter(row.support.size for row in entry.file.rows if row.support is not None)
        described["support"] = [
            describe_size(size) | {"n": rows[size.size]} for size in entry.support.sizes
        ]
    if entry.levels:
        described["levels"] = {
            attribute: [_describe_level(level) for level in levels]
            for attribute, levels in entry.levels.items()
        }
    return described


def describe_size(size: SizeMeasured) -> dict[str, Any]:
    """A support size, of a file or of two files' difference, as report.json has it.

    Args:
        size: What was measured.

    Returns:
        `size`; `tasks`, how many there are; `seeds`, how many support samples a task has, the most
        where tasks differ; `accuracy`, `nll` and `ece`; and their `intervals` (pairs, None where
        there are too few tasks for one).
    """
    values, intervals = size.measured.values, _pairs(size.measured)
    counts = {"size": size.size, "tasks": len(size.seeds), "seeds": max(size.seeds)}
    return {**counts, **values, "intervals": intervals}


def _describe_task(task: TaskMeasured) -> dict[str, Any]:
    support = {} if task.size is None else {"support_size": task.size, "seeds": task.seeds}
    return {"task": task.task, **support, "n": task.n, **_figures(task.measured)}


def _describe_level(level: LevelMeasured) -> dict[str, Any]:
    return {"count": level.count, "n": level.n, **_figures(level.measured)}


def _figures(measured: Measured) -> dict[str, Any]:
    return {
        **measured.values,
        "intervals": _pairs(measured),
        "undefined": measured.undefined,
    }


def _pairs(measured: Measured) -> dict[str, list[float] | None]:
    return {
        name: None if interval is None else list(interval)
        for name, interval in measured.intervals.items()
    }

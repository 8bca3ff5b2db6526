"""The page's tables of tasks: those of one file, and the same tasks in several files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from calibration.entry import Entry
from calibration.tables import (
    HEADLINE,
    Cell,
    Column,
    Line,
    best_shown,
    cells,
    rows_text,
    value_text,
)
from calibration.tasks import TaskMeasured, Tasks, macro_values

COMPARED = tuple(column for column in HEADLINE if column.name in ("accuracy", "nll", "ece"))


def task_lines(entry: Entry, columns: Sequence[Column]) -> list[Line]:
    """A file's metrics: over all rows, averaged over tasks, and of each task.

    Args:
        entry: The file.
        columns: The metrics to show.

    Returns:
        The table's lines; none for a file that has not several tasks.
    """
    if entry.tasks is None:
        return []
    each = entry.tasks.each
    pooled = f"{rows_text([len(entry.file.rows)])}, each counting the same"
    macro = f"mean over {len(each)} tasks, each counting the same"
    return [
        Line("All rows pooled", pooled, cells(entry.measured, columns), overall=True),
        Line("Macro average", macro, _macro_cells(entry.tasks, columns), overall=True),
        *(Line(t.task, rows_text([t.n]), cells(t.measured, columns)) for t in each),
    ]


def _macro_cells(tasks: Tasks, columns: Sequence[Column]) -> list[Cell]:
    """The means; one over fewer tasks than there are says so."""
    total = len(tasks.each)
    shown = []
    for column, cell in zip(columns, cells(tasks.macro.measured, columns), strict=True):
        count = tasks.macro.counts[column.name]
        note = f"{cell.below} ({count} of {total} tasks)".strip()
        shown.append(replace(cell, below=note) if 0 < count < total else cell)
    return shown


@dataclass(frozen=True)
class Comparison:
    """The tasks that several files share, by file.

    Attributes:
        files: The files' names.
        columns: The metrics, each shown for every file.
        lines: The average over the shared tasks and then each of them; a line has a cell per file
            for the first metric, then for the next.
        unshared: How many tasks are left out, as not every file has them.
    """

    files: list[str]
    columns: tuple[Column, ...]
    lines: list[Line]
    unshared: int


def compare_tasks(entries: Sequence[Entry]) -> Comparison | None:
    """Set the tasks of files with several tasks side by side.

    Args:
        entries: The report's files; those without several tasks are not compared.

    Returns:
        None unless two files or more have two tasks or more in common.
    """
    by_task = {
        entry.name: {task.task: task for task in entry.tasks.each}
        for entry in entries
        if entry.tasks is not None
    }
    if len(by_task) < 2:
        return None
    first, *others = by_task.values()
    shared = [task for task in first if all(task in other for other in others)]
    if len(shared) < 2:
        return None
    of_files = [[tasks[task] for task in shared] for tasks in by_task.values()]
    lines = [_average_line(of_files), *map(_task_line, zip(*of_files, strict=True))]
    unshared = len(set().union(*by_task.values())) - len(shared)
    return Comparison(list(by_task), COMPARED, lines, unshared)


def _average_line(of_files: Sequence[Sequence[TaskMeasured]]) -> Line:
    note = f"mean over {len(of_files[0])} tasks"
    return Line("Macro average", note, _side_by_side([*map(macro_values, of_files)]), overall=True)


def _task_line(in_files: Sequence[TaskMeasured]) -> Line:
    """One task as each file has it."""
    values = [task.measured.values for task in in_files]
    return Line(in_files[0].task, rows_text([task.n for task in in_files]), _side_by_side(values))


def _side_by_side(of_files: Sequence[Mapping[str, float | None]]) -> list[Cell]:
    """The compared metrics of each file; where all files look equal, none is marked the best."""
    shown = []
    for column in COMPARED:
        best = best_shown(of_files, column)
        texts = [value_text(values[column.name], column) for values in of_files]
        differ = len(set(texts)) > 1
        shown += [Cell(text, "", differ and text == best, "") for text in texts]
    return shown

"""The page's tables of tasks: those of one file, and the same tasks in several files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from calibration.entry import Entry
from calibration.tables import (
    COMPARED,
    Cell,
    Column,
    Line,
    SideBySide,
    best_shown,
    cells,
    count_text,
    value_text,
)
from calibration.tasks import MacroAverage, TaskMeasured, mean_values


def task_lines(entry: Entry, columns: Sequence[Column]) -> list[Line]:
    """A file's metrics: over all rows, averaged over tasks, and of each task and support size.

    Args:
        entry: The file.
        columns: The metrics to show.

    Returns:
        The table's lines; none for a file that has not several tasks.
    """
    if entry.tasks is None:
        return []
    total, macro = entry.tasks.count, entry.tasks.macro
    pooled = f"{count_text([len(entry.file.rows)], 'row')}, each counting the same"
    lines = [Line("All rows pooled", pooled, cells(entry.measured, columns), overall=True)]
    if macro is not None:
        note = f"mean over {total} tasks, each counting the same"
        lines.append(Line("Macro average", note, _macro_cells(macro, total, columns), overall=True))
    lines += [Line(t.task, _task_note(t), cells(t.measured, columns)) for t in entry.tasks.each]
    return lines


def _task_note(task: TaskMeasured) -> str:
    rows = count_text([task.n], "row")
    if task.size is None:
        return rows
    return f"support size {task.size}, {count_text([task.seeds], 'seed')}, {rows}"


def _macro_cells(macro: MacroAverage, total: int, columns: Sequence[Column]) -> list[Cell]:
    """The means; one over fewer tasks than there are says so."""
    shown = []
    for column, cell in zip(columns, cells(macro.measured, columns), strict=True):
        count = macro.counts[column.name]
        note = f"{cell.below} ({count} of {total} tasks)".strip()
        shown.append(replace(cell, below=note) if 0 < count < total else cell)
    return shown


@dataclass(frozen=True)
class Comparison(SideBySide):
    """The average over the tasks that several files share, and each of these tasks.

    Attributes:
        unshared: How many tasks are left out, as not every file has them.
    """

    unshared: int


def compare_tasks(entries: Sequence[Entry]) -> Comparison | None:
    """Set the tasks of files with several tasks side by side.

    Args:
        entries: The report's files; those without several tasks and those with support sizes,
            which are compared size by size (`calibration.support_tables`), are left out.

    Returns:
        None unless two files or more have two tasks or more in common.
    """
    by_task = {
        entry.name: {task.task: task for task in entry.tasks.each}
        for entry in entries
        if entry.tasks is not None and entry.support is None
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
    means = [mean_values([task.measured.values for task in tasks]) for tasks in of_files]
    return Line("Macro average", note, _side_by_side(means), overall=True)


def _task_line(in_files: Sequence[TaskMeasured]) -> Line:
    """One task as each file has it."""
    values = [task.measured.values for task in in_files]
    rows = count_text([task.n for task in in_files], "row")
    return Line(in_files[0].task, rows, _side_by_side(values))


def _side_by_side(of_files: Sequence[Mapping[str, float | None]]) -> list[Cell]:
    """The compared metrics of each file; where all files look equal, none is marked the best."""
    shown = []
    for column in COMPARED:
        best = best_shown(of_files, column)
        texts = [value_text(values[column.name], column) for values in of_files]
        differ = len(set(texts)) > 1
        shown += [Cell(text, "", differ and text == best, "") for text in texts]
    return shown

"""A predictions file that holds several tasks: each task by itself, and their macro average."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.bootstrap import Interval
from calibration.macro import macro_interval
from calibration.metrics import METRICS
from calibration.reading import PredictionsFile
from calibration.summary import Measured, measure, metric_values
from calibration.validation import Floats


@dataclass(frozen=True)
class TaskMeasured:
    """What the report says about one task, or about one support size of it.

    Attributes:
        task: Its name.
        n: Its number of rows.
        measured: Its metrics; of several support samples their means, without intervals.
        size: The support size of its rows, if the file has it.
        seeds: How many support samples its rows are of.
    """

    task: str
    n: int
    measured: Measured
    size: int | None = None
    seeds: int = 1


@dataclass(frozen=True)
class MacroAverage:
    """The unweighted mean of each metric over tasks.

    Attributes:
        measured: The means; None where no task has the metric.
        counts: How many tasks have the metric and are averaged, by its name.
    """

    measured: Measured
    counts: dict[str, int]


@dataclass(frozen=True)
class Tasks:
    """The tasks of a file, two or more.

    Attributes:
        each: In order of first appearance; of a task with several support sizes the sizes apart,
            from small to large.
        macro: Their average; None for a file with support sizes, which has one for each size
            (`calibration.support`).
    """

    each: tuple[TaskMeasured, ...]
    macro: MacroAverage | None

    @property
    def count(self) -> int:
        """How many tasks there are, whatever their support sizes."""
        return len({task.task for task in self.each})


def measure_tasks(
    file: PredictionsFile, *, resamples: int, level: float, seed: int
) -> Tasks | None:
    """Measure each task of a file by itself, and each support size of a task.

    Args:
        file: Checked predictions.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        The tasks and their macro average, or None for a file with one task or without tasks.

    Raises:
        ParameterError: For `resamples` below 1 or a `level` outside (0, 1).
    """
    parts = file.split(lambda row: (row.task, row.support and row.support.size))
    order = list(dict.fromkeys(task for task, _ in parts))
    if len(order) < 2:
        return None
    each = tuple(
        _measure_task(task, size, part, resamples=resamples, level=level, seed=seed)
        for (task, size), part in sorted(
            parts.items(), key=lambda item: (order.index(item[0][0]), item[0][1] or 0)
        )
        if task is not None
    )
    if each[0].size is not None:
        return Tasks(each, None)
    return Tasks(each, macro_average(each, resamples=resamples, level=level, seed=seed))


def _measure_task(
    task: str, size: int | None, part: PredictionsFile, *, resamples: int, level: float, seed: int
) -> TaskMeasured:
    """One task, or one support size of it.

    The rows of several support samples ask the same questions again, so an interval from drawing
    rows would be too narrow, and there is none.
    """
    samples = part.split(lambda row: row.support)
    if len(samples) == 1:
        measured = measure(part, resamples=resamples, level=level, seed=seed)
    else:
        values = mean_values([metric_values(sample)[0] for sample in samples.values()])
        undefined = _reasons(values, "undefined for every support sample")
        measured = Measured(values, dict.fromkeys(METRICS), undefined)
    return TaskMeasured(task, len(part.rows), measured, size, len(samples))


def macro_average(
    tasks: Sequence[TaskMeasured], *, resamples: int, level: float, seed: int
) -> MacroAverage:
    """The mean of each metric over tasks, each counting the same however many rows it has.

    A task in which a metric is undefined is left out of that metric's mean. The interval is
    `macro_interval`'s over tasks: it says how far the choice of tasks carries the mean, so it is
    wide where tasks differ, however many rows each has. For fewer than `LEAST_TASKS` there is none.

    Args:
        tasks: At least one.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        Means and intervals, None where there is none, and how many tasks each mean is over.
    """
    of_tasks = [task.measured.values for task in tasks]
    values = mean_values(of_tasks)
    intervals: dict[str, Interval | None] = dict.fromkeys(METRICS)
    counts = {}
    for name in METRICS:
        known = _known(of_tasks, name)
        counts[name] = len(known)
        if len(known):
            intervals[name] = macro_interval(
                known[:, None], resamples=resamples, level=level, seed=seed
            ).interval
    undefined = _reasons(values, "undefined in every task")
    return MacroAverage(Measured(values, intervals, undefined), counts)


def mean_values(of_each: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each metric over those that have it, by name; None where none has it."""
    known = {name: _known(of_each, name) for name in METRICS}
    return {name: float(values.mean()) if len(values) else None for name, values in known.items()}


def _known(of_each: Sequence[Mapping[str, float | None]], name: str) -> Floats:
    """The metric's value in each that has it, float64 [<= how many there are]."""
    return np.array([value for values in of_each if (value := values[name]) is not None])


def _reasons(values: Mapping[str, float | None], reason: str) -> dict[str, str]:
    return {name: reason for name, value in values.items() if value is None}

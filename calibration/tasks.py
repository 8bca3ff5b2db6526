"""A predictions file that holds several tasks: each task by itself, and their macro average."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.bootstrap import Interval, percentile_interval
from calibration.metrics import METRICS
from calibration.reading import PredictionsFile
from calibration.summary import Measured, measure
from calibration.validation import Floats

# One resample of three tasks in 27 is the lowest one three times over, so their 95 % interval is
# just the range of their values; that of four covers the truth 79 % of the time.
LEAST_TASKS = 5


@dataclass(frozen=True)
class TaskMeasured:
    """What the report says about one task: its name, its number of rows and its metrics."""

    task: str
    n: int
    measured: Measured


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
    """The tasks of a file, two or more in order of first appearance, and their average."""

    each: tuple[TaskMeasured, ...]
    macro: MacroAverage


def measure_tasks(
    file: PredictionsFile, *, resamples: int, level: float, seed: int
) -> Tasks | None:
    """Measure each task of a file by itself.

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
    parts = by_task(file)
    if len(parts) < 2:
        return None
    each = tuple(
        TaskMeasured(
            task, len(part.rows), measure(part, resamples=resamples, level=level, seed=seed)
        )
        for task, part in parts.items()
    )
    return Tasks(each, macro_average(each, resamples=resamples, level=level, seed=seed))


def by_task(file: PredictionsFile) -> dict[str, PredictionsFile]:
    """The rows of each task by its name, in order of first appearance; none without tasks."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(file.rows):
        if row.task is not None:
            places.setdefault(row.task, []).append(place)
    return {
        task: replace(
            file,
            rows=tuple(file.rows[place] for place in own),
            predictions=file.predictions.take(np.array(own)),
        )
        for task, own in places.items()
    }


def macro_average(
    tasks: Sequence[TaskMeasured], *, resamples: int, level: float, seed: int
) -> MacroAverage:
    """The mean of each metric over tasks, each counting the same however many rows it has.

    A task in which a metric is undefined is left out of that metric's mean. The interval is a
    percentile bootstrap over tasks: the tasks' values are drawn again with replacement. It says
    how far the choice of tasks carries the mean, so it is wide where tasks differ, however many
    rows each has. With few tasks it is too narrow (of normal values, a nominal 95 % interval covers
    the truth 83 % of the time with five tasks, 90 % with ten); below `LEAST_TASKS` there is none.

    Args:
        tasks: At least one.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        Means and intervals, None where there is none, and how many tasks each mean is over.
    """
    intervals: dict[str, Interval | None] = dict.fromkeys(METRICS)
    counts = {}
    for name in METRICS:
        known = _known(tasks, name)
        counts[name] = len(known)
        if len(known) >= LEAST_TASKS:
            intervals[name] = percentile_interval(_resampled_mean(known, resamples, seed), level)
    undefined = {name: "undefined in every task" for name, count in counts.items() if not count}
    return MacroAverage(Measured(macro_values(tasks), intervals, undefined), counts)


def macro_values(tasks: Sequence[TaskMeasured]) -> dict[str, float | None]:
    """The mean of each metric over the tasks that have it, by name; None where none has it."""
    known = {name: _known(tasks, name) for name in METRICS}
    return {name: float(values.mean()) if len(values) else None for name, values in known.items()}


def _known(tasks: Sequence[TaskMeasured], name: str) -> Floats:
    """The metric's value in each task that has it, float64 [<= number of tasks]."""
    values = [task.measured.values[name] for task in tasks]
    return np.array([value for value in values if value is not None])


def _resampled_mean(values: Floats, resamples: int, seed: int) -> Floats:
    """The mean of as many values drawn with replacement, float64 [resamples]."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return values[drawn].mean(axis=1)

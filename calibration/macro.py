"""Means over tasks and seeds: how far would they move with other tasks and seeds of their kind?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from calibration.bootstrap import LEVEL, RESAMPLES, Interval, check_settings, percentile_interval
from calibration.errors import ParameterError, UndefinedMetricError
from calibration.validation import Floats

# One resample of three tasks in 27 is the lowest one three times over, so their 95 % interval is
# just the range of their values; that of four covers the truth 79 % of the time.
LEAST_TASKS = 5

# Numbers drawn at a time: 8 MiB of them.
CELLS = 1 << 20


class Estimate(NamedTuple):
    """A mean and the ends of its interval, both None where there are too few tasks for one."""

    value: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> Interval | None:
        """The two ends, or None where there is no interval."""
        return None if self.low is None or self.high is None else Interval(self.low, self.high)


def macro_interval(
    values: ArrayLike,
    *,
    these_tasks: bool = False,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """The mean over tasks of the mean over seeds, with an interval over tasks and seeds.

    A percentile bootstrap of two levels: as many tasks are drawn again with replacement, and in
    each drawn task, anew every time it is drawn, as many of its seeds. It covers the choice of
    tasks and, of each task, the choice of its seeds (of support samples, say) and whatever else
    differs between its values. Seeds belong to a task: one seed number in two tasks is two
    samples. So it does not cover what all values share, such as the one trained model behind them.
    Where a method was trained several times, give the runs an axis of their own: they are drawn
    again first, the same ones for all tasks, and a seed's value is its mean over the drawn runs,
    since all runs are asked with the same seeds. Of two or three runs no draw tells much; the
    interval is then too narrow as far as runs differ.

    With few tasks it is too narrow, as every percentile bootstrap over them (of normal values with
    one seed, a nominal 95 % interval covers the truth 83 % of the time with five tasks, 90 % with
    ten). With several seeds it is a little too wide where they differ more than tasks do, as the
    spread of the tasks' means has the spread of seeds in it already. Of these tasks alone, five
    seeds each cover the truth 85 % of the time.

    Args:
        values: [tasks, seeds] or [tasks, runs, seeds], a metric's values. NaN marks a missing
            one; tasks may have different numbers of seeds, and each task counts the same.
        these_tasks: Draw runs and seeds alone: the interval is of the mean over these very tasks,
            and there may be few of them.
        resamples: How many times tasks and seeds are drawn again.
        level: The share of the resampled means between the two ends, between 0 and 1.
        seed: Fixes the draws.

    Returns:
        The mean in the metric's units, and the ends: None for fewer than `LEAST_TASKS` tasks,
        unless it is of these.

    Raises:
        ParameterError: For `values` that are no numbers in two or three dimensions, or infinite;
            for `resamples` below 1 or a `level` outside (0, 1).
        UndefinedMetricError: If every value is missing.

    Source: Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8
    (hierarchical data, replacement at both levels).
    """
    check_settings(resamples, level)
    table = _table(values, "values")
    known = table[~np.isnan(table).all(axis=(1, 2))]
    if len(known) == 0:
        raise UndefinedMetricError("every value is missing; a mean over tasks needs at least one")
    value = float(np.nanmean(known, axis=(1, 2)).mean())
    if len(known) < LEAST_TASKS and not these_tasks:
        return Estimate(value, None, None)
    means = _resampled_means(known, resamples, np.random.default_rng(seed), these_tasks)
    return Estimate(value, *percentile_interval(means, level))


def paired_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    *,
    these_tasks: bool = False,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """How much higher a metric of method a is than of method b, on the same tasks and seeds.

    The `macro_interval` of the differences, value by value. What the two methods share, such as
    how hard a task is and how lucky a support sample, cancels out, so the interval is narrower
    than those of the two means; that they overlap says nothing against a difference. What it
    covers and what not is said there: one fit of each method, two trained models, stay as they are.

    Args:
        values_a: [tasks, seeds] or [tasks, runs, seeds], the first method's values; NaN where
            missing.
        values_b: The second one's, of the same tasks, runs and seeds. A value that is missing in
            either is left out of both.
        these_tasks: As for `macro_interval`.
        resamples: How many times tasks and seeds are drawn again.
        level: The share of the resampled means between the two ends, between 0 and 1.
        seed: Fixes the draws.

    Returns:
        The mean of a minus b in the metric's units, and the ends: None for fewer than
        `LEAST_TASKS` tasks that both have, unless it is of these.

    Raises:
        ParameterError: For arrays of different shapes, and as `macro_interval`.
        UndefinedMetricError: If no value is there in both.

    Source: as `macro_interval`.
    """
    first, second = _table(values_a, "values_a"), _table(values_b, "values_b")
    if np.shape(values_a) != np.shape(values_b):
        raise ParameterError(
            f"values_a is {np.shape(values_a)} and values_b {np.shape(values_b)}; give both for "
            "the same tasks and seeds, with NaN where one has no value"
        )
    return macro_interval(
        first - second, these_tasks=these_tasks, resamples=resamples, level=level, seed=seed
    )


def _table(values: ArrayLike, name: str) -> Floats:
    """The values as float64 [tasks, runs, seeds]."""
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} are not numbers in rows of one length ({error})") from error
    if table.ndim not in (2, 3):
        raise ParameterError(
            f"{name} have {table.ndim} dimension(s); give tasks x seeds, or tasks x runs x seeds"
        )
    if np.isinf(table).any():
        raise ParameterError(f"{name} hold infinity; give NaN where a value is missing")
    return table if table.ndim == 3 else table[:, np.newaxis]


def _resampled_means(
    values: Floats, resamples: int, generator: np.random.Generator, these_tasks: bool
) -> Floats:
    """The mean on each resample, float64 [resamples]; every task has a value."""
    runs = values.shape[1]
    if runs == 1 and not these_tasks:
        step = max(1, CELLS // values.size)
        sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
        return np.concatenate([_means(values[:, 0], n, generator, False) for n in sizes])
    means = []
    for _ in range(resamples):
        drawn = values[:, generator.integers(runs, size=runs)]
        counts = (~np.isnan(drawn)).sum(axis=1)
        seeds = np.where(counts > 0, np.nansum(drawn, axis=1) / np.maximum(counts, 1), np.nan)
        known = seeds[(counts > 0).any(axis=1)]  # a task may have values of other runs only
        if len(known):
            means.append(_means(known, 1, generator, these_tasks))
    return np.concatenate(means)


def _means(
    values: Floats, resamples: int, generator: np.random.Generator, these_tasks: bool
) -> Floats:
    """The mean on resamples of tasks and seeds, at once; values are [tasks, seeds]."""
    counts = (~np.isnan(values)).sum(axis=1)
    known_first = np.sort(values, axis=1)  # NaN goes last
    tasks, seeds = values.shape
    rows = generator.integers(tasks, size=(resamples, tasks))
    if these_tasks:
        rows = np.broadcast_to(np.arange(tasks), rows.shape)
    own = counts[rows]
    picks = (generator.random((*rows.shape, seeds)) * own[..., None]).astype(np.int64)
    drawn = known_first[rows[..., None], picks]
    # A task draws as many seeds as it has, and no more.
    drawn[np.arange(seeds) >= own[..., None]] = 0
    return (drawn.sum(axis=2) / own).mean(axis=1)

"""Few-shot predictions: the metrics at each support size, and by how much two files differ.

A cell is what one posterior was adapted on: a task, a support size and a seed. Each metric is
computed in each cell; a size has the mean over tasks of the mean over seeds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from calibration.macro import Estimate, macro_interval, paired_difference
from calibration.metrics import METRICS
from calibration.reading import PredictionsFile, Support
from calibration.summary import Measured
from calibration.validation import Floats

MEASURES = ("accuracy", "nll", "ece")


class Cell(NamedTuple):
    """A task (None in a file without tasks) and the support sample it was adapted on."""

    task: str | None
    support: Support


# The metrics of `MEASURES` by name, in each cell.
Cells = Mapping[Cell, Mapping[str, float]]


@dataclass(frozen=True)
class SizeMeasured:
    """What the report says about one support size, of one file or about two files' difference.

    Attributes:
        size: Labelled examples.
        seeds: Of each task, how many support samples it has.
        measured: The metrics of `MEASURES`.
    """

    size: int
    seeds: tuple[int, ...]
    measured: Measured


@dataclass(frozen=True)
class SupportMeasured:
    """A file's cells and its support sizes, from small to large."""

    cells: Cells
    sizes: tuple[SizeMeasured, ...]

    @property
    def mixes(self) -> bool:
        """Whether the file's rows are of several support samples, so that pooling mixes them."""
        return len({cell.support for cell in self.cells}) > 1


def measure_support(
    file: PredictionsFile, *, resamples: int, level: float, seed: int
) -> SupportMeasured | None:
    """Measure each support size of a file.

    Args:
        file: Checked predictions.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        The sizes with intervals over tasks and seeds, as `macro_interval` gives them; None for a
        file without support sizes.

    Raises:
        ParameterError: For `resamples` below 1 or a `level` outside (0, 1).
    """
    cells = {
        Cell(task, support): _measure_cell(part)
        for (task, support), part in file.split(lambda row: (row.task, row.support)).items()
        if support is not None
    }
    sizes = []
    for size, own in _by_size(cells).items():
        estimates = {
            name: macro_interval(table, resamples=resamples, level=level, seed=seed)
            for name, table in _tables(cells, own).items()
        }
        sizes.append(_size_measured(size, own, estimates))
    return SupportMeasured(cells, tuple(sizes)) if sizes else None


def compare_support(
    first: SupportMeasured, second: SupportMeasured, *, resamples: int, level: float, seed: int
) -> tuple[SizeMeasured, ...]:
    """How much higher the first file's metrics are, at each support size, on what both have.

    Args:
        first: A file's cells.
        second: Another's.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        First minus second over the tasks and seeds of which both have the size, as
        `paired_difference` gives it; no entry for a size of which they share none.

    Raises:
        ParameterError: For `resamples` below 1 or a `level` outside (0, 1).
    """
    shared = [cell for cell in first.cells if cell in second.cells]
    sizes = []
    for size, own in _by_size(shared).items():
        a, b = _tables(first.cells, own), _tables(second.cells, own)
        estimates = {
            name: paired_difference(a[name], b[name], resamples=resamples, level=level, seed=seed)
            for name in MEASURES
        }
        sizes.append(_size_measured(size, own, estimates))
    return tuple(sizes)


def _measure_cell(part: PredictionsFile) -> dict[str, float]:
    data = part.predictions
    arrays = (data.probabilities, data.labels, data.num_options)
    return {name: METRICS[name](*arrays) for name in MEASURES}


def _by_size(cells: Iterable[Cell]) -> dict[int, list[Cell]]:
    """The cells of each support size, sizes from small to large."""
    groups: dict[int, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.support.size, []).append(cell)
    return dict(sorted(groups.items()))


def _tables(cells: Cells, own: Iterable[Cell]) -> dict[str, Floats]:
    """Each metric in these cells of one size, float64 [tasks, seeds]; NaN where none is."""
    places = [(cell.task, cell.support.seed) for cell in own]
    tasks = {task: i for i, task in enumerate(dict.fromkeys(task for task, _ in places))}
    seeds = {seed: j for j, seed in enumerate(dict.fromkeys(seed for _, seed in places))}
    tables = {name: np.full((len(tasks), len(seeds)), np.nan) for name in MEASURES}
    for cell in own:
        for name, table in tables.items():
            table[tasks[cell.task], seeds[cell.support.seed]] = cells[cell][name]
    return tables


def _size_measured(
    size: int, own: Iterable[Cell], estimates: Mapping[str, Estimate]
) -> SizeMeasured:
    values: dict[str, float | None] = {name: e.value for name, e in estimates.items()}
    intervals = {name: estimate.interval for name, estimate in estimates.items()}
    seeds = Counter(cell.task for cell in own)
    return SizeMeasured(size, tuple(seeds.values()), Measured(values, intervals, {}))

"""Predictions by level count: how many training rows had the level (the user, say) of a row."""

from bisect import bisect_left
from dataclasses import dataclass

from calibration.reading import PredictionsFile, Row
from calibration.summary import Measured, measure

BUCKETS = ("unseen", "1", "2-5", "6-20", "more")
# The most training rows of each bucket but the last, which has no end.
MOST = (0, 1, 5, 20)


@dataclass(frozen=True)
class LevelMeasured:
    """What the report says about the rows whose level counts fall into one bucket.

    Attributes:
        count: The bucket's name in `BUCKETS`.
        n: Its number of rows.
        measured: Its metrics.
    """

    count: str
    n: int
    measured: Measured


def bucket(count: int) -> str:
    """The name in `BUCKETS` for a level with so many training rows, from 0 up."""
    return BUCKETS[bisect_left(MOST, count)]


def measure_levels(
    file: PredictionsFile, *, resamples: int, level: float, seed: int
) -> dict[str, tuple[LevelMeasured, ...]]:
    """Measure the rows of each bucket of level counts, attribute by attribute.

    Args:
        file: Checked predictions.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        By attribute the buckets that have rows, in the order of `BUCKETS`, with intervals over
        rows; empty for a file without level counts.

    Raises:
        ParameterError: For `resamples` below 1 or a `level` outside (0, 1).
    """
    measured = {}
    for attribute in file.rows[0].level_counts or ():
        parts = _by_bucket(file, attribute)
        measured[attribute] = tuple(
            LevelMeasured(
                count, len(part.rows), measure(part, resamples=resamples, level=level, seed=seed)
            )
            for count, part in parts.items()
        )
    return measured


def _by_bucket(file: PredictionsFile, attribute: str) -> dict[str, PredictionsFile]:
    """The rows of each bucket that has some, from few training rows to many."""

    def own(row: Row) -> str:
        return bucket((row.level_counts or {})[attribute])

    return dict(sorted(file.split(own).items(), key=lambda part: BUCKETS.index(part[0])))

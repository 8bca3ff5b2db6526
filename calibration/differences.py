"""By how much the first few-shot file of a report differs from each other one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calibration.entry import Entry, describe_size
from calibration.support import SizeMeasured, compare_support


@dataclass(frozen=True)
class Difference:
    """The metrics of the file `first` minus those of `second`, at each size that they share."""

    first: str
    second: str
    sizes: tuple[SizeMeasured, ...]


def compare_files(
    entries: Sequence[Entry], *, resamples: int, level: float, seed: int
) -> list[Difference]:
    """Compare the first file with support sizes to each other one.

    Args:
        entries: The report's files; those without support sizes are left out.
        resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Seed of the resampling.

    Returns:
        One entry a file that shares a task, support size and seed with the first.
    """
    few_shot = [(entry.name, entry.support) for entry in entries if entry.support is not None]
    differences = []
    for name, support in few_shot[1:]:
        first_name, first = few_shot[0]
        sizes = compare_support(first, support, resamples=resamples, level=level, seed=seed)
        if sizes:
            differences.append(Difference(first_name, name, sizes))
    return differences


def describe_difference(difference: Difference) -> dict[str, Any]:
    """An entry of `comparisons` in report.json.

    Args:
        difference: What was measured.

    Returns:
        The names of `first` and `second`, and `support`, a list as `describe_size` gives it, of
        first minus second.
    """
    return {
        "first": difference.first,
        "second": difference.second,
        "support": [describe_size(size) for size in difference.sizes],
    }

"""The comparison's tables, in Markdown, of the results that are there; a missing cell is "-"."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import GROUPS, methods_of
from noise import SEED, SHARES, SIZES
from stored import Result, path_of, read_result, read_results, size_name

from calibration.levels import BUCKETS

METRICS = {"accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "brier": "Brier"}
OURS, WITHOUT = "ours", "bayesian-lora"
NONE = "-"


def tables(out: Path, name: str, sizes: Sequence[int | None]) -> str:
    """Write all tables of a set: methods, levels by their rows in train, and shuffled levels."""
    parts: dict[str, Iterator[str]] = {}
    for size in sizes:
        where = f"{name}, {size_name(size)}"
        parts[where] = method_table(out, name, size)
        pairs = pairs_of(out, name, size)
        for attribute in pairs[0][0]["spread"] if pairs else ():
            parts[f"{where}, by {attribute}"] = level_table(attribute, pairs)
    size = SIZES.get(name)
    parts[f"{name}, {size_name(size)}, attributes shuffled"] = noise_table(out, name, size)
    return "\n".join(line for title in parts for line in (f"### {title}", "", *parts[title], ""))


def method_table(out: Path, name: str, size: int | None) -> Iterator[str]:
    """Give a row for each method: means over seeds, and their standard deviations."""
    columns: dict[str, tuple[str, ...]] = {title: (metric,) for metric, title in METRICS.items()}
    if GROUPS[name]:
        columns |= {f"macro {title}": ("macro", metric) for metric, title in METRICS.items()}
    yield from _head("method", "seeds", *columns)
    for method in methods_of(name):
        results = read_results(out, name, size, method)
        seeds = str(len(results)) if results else NONE
        yield _line(method, seeds, *(over_seeds(results, *keys) for keys in columns.values()))


def over_seeds(results: Sequence[Result], *keys: str) -> str:
    """Write the mean of a figure over seeds, and with several of them the standard deviation."""
    found = [value for result in results if (value := _figure(result["test"], keys)) is not None]
    if not found:
        return NONE
    spread = f" ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else ""
    return f"{np.mean(found):.3f}{spread}"


def pairs_of(out: Path, name: str, size: int | None) -> list[tuple[Result, Result]]:
    """Pair the results with levels and without, of one fit, for the seeds that have both."""
    without = {result["seed"]: result for result in read_results(out, name, size, WITHOUT)}
    ours = read_results(out, name, size, OURS)
    return [(own, without[own["seed"]]) for own in ours if own["seed"] in without]


def level_table(attribute: str, pairs: Sequence[tuple[Result, Result]]) -> Iterator[str]:
    """Say what an attribute's levels change, by how many training rows a level has."""
    nlls = f"NLL of {OURS}", f"NLL of {WITHOUT}"
    sides = list(zip(*pairs, strict=True))
    yield from _head("rows in train", "test rows", *nlls, "difference, standard error")
    for place, bucket in enumerate(BUCKETS):
        changes = differences(attribute, place, pairs)
        cells = [over_seeds(side, "buckets", attribute, bucket, "nll") for side in sides]
        yield _line(bucket, str(len(changes) or NONE), *cells, mean_with_error(changes))
    yield ""
    for own, _ in pairs:
        yield f"Seed {own['seed']}: tau {_tau(own['spread'][attribute])}."


def differences(attribute: str, place: int, pairs: Sequence[tuple[Result, Result]]) -> np.ndarray:
    """Give the change of NLL of each test row in a bucket, mean over the seeds it is in there.

    Rows are what a standard error is over: the seeds' fits of one row are no new rows.
    """
    changes = np.array([log_p(without) - log_p(own) for own, without in pairs])
    buckets = [list(own["test"]["rows"]["buckets"][attribute]) for own, _ in pairs]
    there = np.array(buckets) == str(place)
    times = there.sum(0)
    return (changes * there).sum(0)[times > 0] / times[times > 0]


def log_p(result: Result, part: str = "test") -> np.ndarray:
    """Read the log-probability of each row's label."""
    return np.array(result[part]["rows"]["log_p"])


def mean_with_error(changes: np.ndarray) -> str:
    """Write a mean over rows, and its standard error."""
    if not len(changes):
        return NONE
    error = f" ± {changes.std(ddof=1) / len(changes) ** 0.5:.4f}" if len(changes) > 1 else ""
    return f"{changes.mean():+.4f}{error}"


def noise_table(out: Path, name: str, size: int | None) -> Iterator[str]:
    """Give a row for each share of shuffled training rows; the population is always the same."""
    heads = "accuracy", "NLL", "population's accuracy", "population's NLL", "difference", "tau"
    yield from _head("rows shuffled", *heads)
    for share in SHARES:
        found = read_result(path_of(out, name, size, SEED, f"shuffle-{share:g}"))
        cells = _noise_cells(found) if found else [NONE] * len(heads)
        yield _line(f"{share:.0%}", *cells)


def _noise_cells(found: Result) -> list[str]:
    parts = found["test"], found["population"]
    figures = [f"{part[metric]:.3f}" for part in parts for metric in ("accuracy", "nll")]
    change = mean_with_error(log_p(found, "population") - log_p(found))
    taus = [f"{attribute} {_tau(own)}" for attribute, own in found["spread"].items()]
    return [*figures, change, "; ".join(taus)]


def _tau(spread: Any) -> str:
    low, high = spread["interval"]
    return f"{spread['tau']:.3f} ({low:.3f} to {high:.3f})"


def _figure(judged: Any, keys: Sequence[str]) -> float | None:
    for key in keys:
        judged = judged.get(key)
        if judged is None:
            return None
    return judged


def _head(*titles: str) -> Iterator[str]:
    yield _line(*titles)
    yield "|" + "---|" * len(titles)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

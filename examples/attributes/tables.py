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
    parts: list[str] = []
    for size in sizes:
        where = f"{name}, {_rows_of(name, size)}"
        parts += [f"### {where}", *method_table(out, name, size), ""]
        for attribute, lines in level_tables(out, name, size).items():
            parts += [f"### {where}, by {attribute}", *lines, ""]
    if name in SIZES:
        where = f"{name}, {_rows_of(name, SIZES[name])}, seed {SEED}"
        parts += [f"### {where}: attributes shuffled", *noise_table(out, name), ""]
    return "\n".join(parts)


def method_table(out: Path, name: str, size: int | None) -> Iterator[str]:
    """Give a row for each method: means over seeds, and standard deviations."""
    parts = ["test", "macro"] if GROUPS[name] else ["test"]
    heads = [f"macro {own}" if part == "macro" else own for part in parts for own in METRICS.values()]
    yield from _head("method", "seeds", *heads)
    for method in methods_of(name):
        results = read_results(out, name, size, method)
        cells = [_over_seeds(results, part, metric) for part in parts for metric in METRICS]
        yield _line(method, str(len(results)) if results else NONE, *cells)


def level_tables(out: Path, name: str, size: int | None) -> dict[str, list[str]]:
    """Give each attribute's table: what levels change, by their number of training rows."""
    ours = read_results(out, name, size, OURS)
    without = {result["seed"]: result for result in read_results(out, name, size, WITHOUT)}
    pairs = [(own, without[own["seed"]]) for own in ours if own["seed"] in without]
    attributes = dict.fromkeys(attribute for own in ours for attribute in own["spread"])
    return {attribute: list(_level_table(attribute, pairs)) for attribute in attributes}


def _level_table(attribute: str, pairs: Sequence[tuple[Result, Result]]) -> Iterator[str]:
    heads = [f"{method}'s NLL" if method != OURS else "NLL of ours" for method in (OURS, WITHOUT)]
    yield from _head("rows in train", "test rows", *heads, "difference, standard error")
    for place, name in enumerate(BUCKETS):
        gains = _by_row(attribute, place, pairs)
        nlls = [
            _over_seeds([pair[side] for pair in pairs], "buckets", "nll", attribute, name)
            for side in (0, 1)
        ]
        yield _line(name, str(len(gains)) if len(gains) else NONE, *nlls, difference(gains))
    for own, _ in pairs:
        low, high = own["spread"][attribute]["interval"]
        tau = own["spread"][attribute]["tau"]
        yield f"\nSeed {own['seed']}: tau {tau:.3f} ({low:.3f} to {high:.3f})."


def _by_row(attribute: str, place: int, pairs: Sequence[tuple[Result, Result]]) -> np.ndarray:
    """Give what NLL each row of a bucket gains, mean over the seeds in which it is in there."""
    if not pairs:
        return np.zeros(0)
    gains = np.array([_log_p(b["test"]) - _log_p(a["test"]) for a, b in pairs])
    buckets = [list(own["test"]["rows"]["buckets"][attribute]) for own, _ in pairs]
    there = np.array(buckets) == str(place)
    times = there.sum(0)
    return (gains * there).sum(0)[times > 0] / times[times > 0]


def noise_table(out: Path, name: str) -> Iterator[str]:
    """Give a row for each share of shuffled rows; the population is the same throughout."""
    heads = ["accuracy", "NLL", "ECE", "NLL minus the population's, standard error", "tau"]
    yield from _head("rows shuffled", *heads)
    for share in SHARES:
        found = read_result(path_of(out, name, SIZES[name], SEED, f"shuffle-{share:g}"))
        if found is None:
            yield _line(f"{share:.0%}", *[NONE] * len(heads))
            continue
        own, population = found["test"], found["population"]
        cells = [f"{own[metric]:.3f}" for metric in ("accuracy", "nll", "ece")]
        tau = ", ".join(f"{attribute} {s['tau']:.3f}" for attribute, s in found["spread"].items())
        yield _line(f"{share:.0%}", *cells, difference(_log_p(population) - _log_p(own)), tau)

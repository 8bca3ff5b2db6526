"""The benchmark's page, of the results that are there; a missing cell is "-".

A cell is the mean over seeds, with a 95 % interval of Student's t where there are several. A mean
rank is over sets: on each, methods are ranked by their mean over seeds. Only methods that have a
result on all sets shown get an average, so that averages can be compared.
"""

import html
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contenders import CONTENDERS
from scipy.stats import rankdata, t
from sets import SETS

from bayes_lora.files import atomic_text

NONE = "-"
BASE = "mle"  # of the ratios
Result = dict[str, Any]
Table = list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A column's worth of the results: a title, and where a result has it."""

    title: str
    of: Callable[[Result], float | None]
    digits: int = 3
    smaller_is_better: bool = True


def _of_test(metric: str) -> Callable[[Result], float | None]:
    return lambda result: result["test"][metric]


FIGURES = (
    Figure("NLL", _of_test("nll")),
    Figure("Accuracy", _of_test("accuracy"), smaller_is_better=False),
    Figure("ECE", _of_test("ece")),
    Figure("Brier", _of_test("brier")),
    Figure("AUROC of correctness", _of_test("auroc"), smaller_is_better=False),
    Figure("AURC", _of_test("aurc")),
)
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;"
    "border-bottom:1px solid #8884}td:first-child,th:first-child{text-align:left}"
    "h2{margin-top:2.5rem}"
)


def write_page(out: Path) -> str:
    """Write OUT/benchmark.md and OUT/benchmark.html.

    Returns:
        The Markdown.
    """
    results = read(out)
    parts = [(f"{figure.title}", by_set(results, figure)) for figure in FIGURES]
    parts += [("Shifted: NLL", elsewhere(results, "shifted ", "nll"))]
    parts += [
        (f"Outside: AUROC of the {doubt}", elsewhere(results, "outside ", doubt))
        for doubt in ("entropy", "mutual information")
    ]
    parts.append((f"Cost, as ratios to {BASE}", costs(results)))
    markdown = "\n\n".join(f"## {title}\n\n{_markdown(table)}" for title, table in parts) + "\n"
    with atomic_text(out / "benchmark.md") as file:
        file.write(f"# Uncertainty benchmark\n\n{__doc__}\n{markdown}")
    body = "".join(f"<h2>{html.escape(title)}</h2>{_html(table)}" for title, table in parts)
    with atomic_text(out / "benchmark.html") as file:
        file.write(
            f"<!doctype html><meta charset='utf-8'><title>Uncertainty benchmark</title>"
            f"<style>{STYLE}</style><h1>Uncertainty benchmark</h1>"
            f"<p>{html.escape(__doc__)}</p>{body}\n"
        )
    return markdown


def read(out: Path) -> list[Result]:
    """Read all results there are."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*/*/*.json"))]


def by_set(results: Sequence[Result], figure: Figure) -> Table:
    """A row for each method, a column for each set; then the average and the mean ranks."""
    sets = [name for name in SETS if any(result["set"] == name for result in results)]
    values = {
        method: [_over_seeds(results, name, method, figure.of) for name in sets]
        for method in _methods(results)
    }
    whole = {
        method: [float(np.mean(cell)) for cell in own] for method, own in values.items() if all(own)
    }
    ranks = mean_ranks(whole, figure)
    alone = mean_ranks({own: whole[own] for own in whole if CONTENDERS[own].single}, figure)
    rows = [["method", *sets, "average", "mean rank", "of single fits"]]
    for method, own in values.items():
        cells = [_cell(cell, figure.digits) for cell in own]
        average = f"{np.mean(whole[method]):.{figure.digits}f}" if method in whole else NONE
        places = [f"{of[method]:.1f}" if method in of else NONE for of in (ranks, alone)]
        rows.append([method, *cells, average, *places])
    return rows


def mean_ranks(means: dict[str, list[float]], figure: Figure) -> dict[str, float]:
    """Rank methods on each set, 1 for the best, and average over sets.

    Args:
        means: Each method's figure on each set.
        figure: Which, for which end is the better.
    """
    if not means:
        return {}
    table = np.array(list(means.values()))
    places = rankdata(table if figure.smaller_is_better else -table, axis=0).mean(axis=1)
    return dict(zip(means, places.tolist(), strict=True))


def elsewhere(results: Sequence[Result], prefix: str, key: str) -> Table:
    """A row for each method, a column for each pair of a set and another source."""
    places = {
        (result["set"], name): None
        for result in results
        for name in result
        if name.startswith(prefix)
    }
    columns = sorted(places, key=lambda own: list(SETS).index(own[0]))
    rows = [["method", *(f"{own} → {name.removeprefix(prefix)}" for own, name in columns)]]
    for method in _methods(results):
        cells = [
            _over_seeds(results, own, method, lambda result, name=name: result[name][key])
            for own, name in columns
        ]
        rows.append([method, *(_cell(cell, 3) for cell in cells)])
    return rows


def costs(results: Sequence[Result]) -> Table:
    """Time and memory of each method over those of maximum likelihood, median over its fits."""
    base = {(own["set"], own["seed"]): own for own in results if own["method"] == BASE}
    stages: dict[str, Callable[[Result], float]] = {
        "fit": lambda result: result["fit"]["seconds"],
        "prediction": lambda result: result["predicting"],
        "memory of the fit": lambda result: result["fit"]["mebibytes"],
    }
    rows = [["method", *stages]]
    for method in _methods(results):
        own = [r for r in results if r["method"] == method and (r["set"], r["seed"]) in base]
        cells = []
        for of in stages.values():
            pairs = [(of(result), of(base[result["set"], result["seed"]])) for result in own]
            ratios = [value / least for value, least in pairs if least > 0]
            cells.append(f"{np.median(ratios):.2f}" if ratios else NONE)
        rows.append([method, *cells])
    return rows


def _methods(results: Sequence[Result]) -> list[str]:
    there = {result["method"] for result in results}
    return [method for method in CONTENDERS if method in there]


def _over_seeds(
    results: Iterable[Result], name: str, method: str, of: Callable[[Result], float | None]
) -> list[float]:
    own = [of(r) for r in results if r["set"] == name and r["method"] == method]
    return [value for value in own if value is not None]


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return NONE
    text = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return text
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{text} ± {half:.{digits}f}"


def _markdown(table: Table) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


def _html(table: Table) -> str:
    head, *rows = table
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"

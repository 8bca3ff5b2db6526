"""A suite's table: each method by support size, and what ABMLL gains on it, cell by cell."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from methods import ONCE
from suites import Suite

from calibration import macro_interval, paired_difference
from calibration.macro import LEAST_TASKS

METRICS = ("accuracy", "nll", "ece")
OURS = "abmll, gradient"
# By method and size: [tasks, meta-training seeds, support seeds, metrics].
Cells = dict[str, dict[int, np.ndarray]]


def write_table(folder: Path, path: Path, folds: Sequence[Suite], protocol: dict[str, Any]) -> None:
    """Write a suite's figures as JSON, and its table as Markdown beside it.

    Results of another protocol are left out.
    """
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    runs = [run for run in found if run["protocol"] == protocol]
    if not runs:
        return
    cells = collect(runs)
    rows = [row for method in cells for row in method_rows(method, cells)]
    described = {
        "versions": runs[0]["versions"],
        "machine": runs[0]["machine"],
        "commands": sorted({run["command"] for run in runs}),
        "protocol": protocol,
        "folds": [describe_fold(fold) for fold in folds],
        "seconds": {
            m: round(sum(sum(r["seconds"].values()) for r in runs if r["method"] == m))
            for m in cells
        },
        "chosen": {
            f"{r['method']} {r['fold']} {r['seed']}": r["chosen"] for r in runs if r["chosen"]
        },
        "results": rows,
    }
    path.write_text(json.dumps(described, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(rows))


def describe_fold(fold: Suite) -> dict[str, Any]:
    """Say which tasks a fold has, and what was removed and left out."""
    return {
        "fold": fold.fold,
        "train": [task.name for task in fold.train],
        "dev": [task.name for task in fold.dev],
        "test": [task.name for task in fold.test],
        "removed": dict(fold.removed),
        "left_out": list(fold.left_out),
    }


def collect(runs: Sequence[dict[str, Any]]) -> Cells:
    """Sort cells into arrays; what does not depend on the meta-training seed stands for all."""
    cells = [(run, cell) for run in runs for cell in run["results"]]
    seeds = sorted({run["seed"] for run in runs})
    tasks = sorted({cell["task"] for _, cell in cells})
    supports = sorted({cell["support_seed"] for _, cell in cells})
    found: Cells = {}
    for run, cell in cells:
        values = found.setdefault(run["method"], {}).setdefault(
            cell["size"], np.full((len(tasks), len(seeds), len(supports), len(METRICS)), np.nan)
        )
        which = slice(None) if run["method"] in ONCE else seeds.index(run["seed"])
        place = tasks.index(cell["task"]), which, supports.index(cell["support_seed"])
        values[place] = [cell[metric] for metric in METRICS]
    return found


def method_rows(method: str, cells: Cells) -> list[dict[str, Any]]:
    """Give a method's means with intervals, and ABMLL's minus its, by support size.

    Intervals are over tasks, meta-training seeds and support seeds; where there are fewer tasks
    than an interval needs, over the seeds alone.
    """
    rows = []
    for size, values in sorted(cells[method].items()):
        row: dict[str, Any] = {"method": method, "size": size}
        few = len(values) < LEAST_TASKS
        for i, metric in enumerate(METRICS):
            own = macro_interval(values[..., i], these_tasks=few)
            row[metric] = [own.value, own.low, own.high]
            if method != OURS and size in cells.get(OURS, {}):
                gain = paired_difference(cells[OURS][size][..., i], values[..., i], these_tasks=few)
                row[f"{metric} gained"] = [gain.value, gain.low, gain.high]
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Write the table for docs."""
    lines = [
        "| support | method | accuracy | NLL | ECE | ABMLL's accuracy minus its "
        "| ABMLL's NLL minus its |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["size"], row["nll"][0])):
        means = " | ".join(f"{row[metric][0]:.3f}" for metric in METRICS)
        gains = " | ".join(with_interval(row.get(f"{m} gained")) for m in ("accuracy", "nll"))
        lines.append(f"| {row['size']} | {row['method']} | {means} | {gains} |")
    return "\n".join(lines) + "\n"


def with_interval(estimate: Sequence[float | None] | None) -> str:
    """Write a value and its interval; nothing where there is none."""
    if estimate is None:
        return ""
    value, low, high = estimate
    interval = "" if low is None or high is None else f" ({low:+.3f}, {high:+.3f})"
    return f"{value:+.3f}{interval}"

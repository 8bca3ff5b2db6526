"""Run suites: every method on every fold, seed after seed, resumable; then their tables.

    python examples/meta_learning/compare.py clinc150 fdu_mtl --data DATA_ROOT --out results

Each method, fold and seed is a file in OUT/SUITE, written when it is done; what is there is not
done again unless the budget or the choices in methods.py have changed. DATA_ROOT is described in
suites.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import BUDGETS, NAMES, ONCE, WITHOUT_SUPPORT, Learner, Predict, protocol
from suites import SEEDS, SUITES, Suite, TestTask, load_suite
from table import write_table
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, write_json

from bayes_lora import load_backbone
from bayes_lora.backbone import Backbone
from calibration import accuracy, ece, nll

# What is learned from other tasks is learned anew with each of these.
META_SEEDS = {"fdu_mtl": (0, 1, 2), "clinc150": (0, 1, 2)}  # elsewhere with 0 alone


def main(suites: Sequence[str] = tuple(SUITES)) -> None:
    """Run what is not there yet.

    Args:
        suites: Those to choose from; one alone need not be named.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("suite", nargs="*", help=f"of {', '.join(suites)}; all if not given")
    parser.add_argument("--data", required=True, type=Path, help="see suites.py")
    parser.add_argument("--out", required=True, type=Path, help="folder for results")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES, metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, help="meta-training seeds")
    parser.add_argument("--folds", nargs="+", help="by number; all if not given")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    arguments = parser.parse_args()
    unknown = set(arguments.suite) - set(suites)
    if unknown:
        parser.error(f"there is no suite {unknown.pop()!r}: choose from {', '.join(suites)}")
    logging.disable_progress_bar()
    for suite in arguments.suite or suites:
        run_suite(suite, arguments)


def run_suite(name: str, arguments: argparse.Namespace) -> None:
    """Run a suite's folds, and write its table."""
    folder = arguments.out / name
    folder.mkdir(parents=True, exist_ok=True)
    folds = load_suite(name, arguments.data)
    for seed in arguments.seeds or META_SEEDS.get(name, (0,)):
        for fold in folds:
            if arguments.folds is None or fold.fold in arguments.folds:
                run_fold(fold, seed, arguments.methods, folder, getattr(torch, arguments.dtype))
    asked = protocol(folds[0], str(getattr(torch, arguments.dtype)))
    write_table(folder, arguments.out / f"{name}.json", folds, asked)


def run_fold(
    suite: Suite, seed: int, methods: Sequence[str], folder: Path, dtype: torch.dtype
) -> None:
    """Run a fold's methods that have no file yet."""
    asked = protocol(suite, str(dtype))
    paths = {name: folder / f"{file_name(name)}-{suite.fold}-{seed}.json" for name in methods}
    missing = [
        name
        for name, path in paths.items()
        if not done(path, asked) and not (seed and name in ONCE)
    ]
    if not missing:
        return
    learner = Learner(suite, load(dtype, suite), seed, chosen_before(suite, asked, folder))
    for name in missing:
        started = time.perf_counter()
        predict = learner.predict(name)
        learned = time.perf_counter()
        cells = [cell for task in suite.test for cell in judge(task, suite.sizes, name, predict)]
        result = {"suite": suite.name, "fold": suite.fold, "seed": seed, "method": name}
        result |= {"protocol": asked, "chosen": learner.chosen.get(name)}
        result |= {"seconds": {"learning": round(learned - started, 1)}}
        result["seconds"]["testing"] = round(time.perf_counter() - learned, 1)
        write_json(describe_run() | result | {"results": cells}, paths[name])
        print(f"{suite.name} {suite.fold} seed {seed} {name}: {summary(cells)}", flush=True)


def done(path: Path, asked: dict[str, Any]) -> bool:
    """Say whether a result is there, and of the protocol as it is now."""
    return path.exists() and json.loads(path.read_text())["protocol"] == asked


def chosen_before(suite: Suite, asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read what the first seed chose on the meta-dev tasks; the other seeds keep it."""
    paths = {name: folder / f"{file_name(name)}-{suite.fold}-0.json" for name in NAMES}
    runs = {n: json.loads(path.read_text()) for n, path in paths.items() if done(path, asked)}
    return {name: run["chosen"] for name, run in runs.items() if run["chosen"]}


def load(dtype: torch.dtype, suite: Suite) -> Backbone:
    """Load MiniLM, texts cut as the suite has it."""
    return load_backbone("minilm", dtype=dtype, max_length=BUDGETS[suite.name].max_length)


def judge(
    task: TestTask, sizes: Sequence[int], name: str, predict: Predict
) -> list[dict[str, Any]]:
    """Answer a task's queries after each support; accuracy, NLL and ECE of each."""
    queries = task.queries.examples
    labels = np.array(task.queries.labels)
    options = np.array([len(query.options) for query in queries])
    cells, known = [], None
    for size in sizes:
        supports = [task.supports[size, seed] for seed in SEEDS]
        if name in WITHOUT_SUPPORT or size == 0:
            known = known if name in WITHOUT_SUPPORT and known else predict(supports[:1], queries)
            answers = [known[0]] * len(SEEDS)
        else:
            answers = predict(supports, queries)
        for seed, probabilities in zip(SEEDS, answers, strict=True):
            cells.append(
                {
                    "task": task.name,
                    "size": size,
                    "support_seed": seed,
                    "n": len(labels),
                    "accuracy": accuracy(probabilities, labels, options),
                    "nll": nll(probabilities, labels, options),
                    "ece": ece(probabilities, labels, options),
                }
            )
    return cells


def summary(cells: Sequence[dict[str, Any]]) -> str:
    """Write accuracy, NLL and ECE by support size, means over tasks and seeds."""
    parts = []
    for size in dict.fromkeys(cell["size"] for cell in cells):
        own = [cell for cell in cells if cell["size"] == size]
        means = [np.mean([cell[key] for cell in own]) for key in ("accuracy", "nll", "ece")]
        parts.append(f"{size}: " + " / ".join(f"{mean:.3f}" for mean in means))
    return "; ".join(parts)


def file_name(method: str) -> str:
    """Make a method's name one for a file."""
    return "".join(c if c.isalnum() else "-" for c in method).replace("--", "-")


if __name__ == "__main__":
    main()

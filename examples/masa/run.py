"""MASA beside LoRA, HydraLoRA and MultiLoRA with as many parameters, on many tasks at once.

    python examples/masa/run.py --data DATA --out examples/results/masa [--seeds 0 1 2]

DATA has the folders `crossfit` and `unifiedqa`. Two sets, MiniLM, one adapter for all tasks of a
set, options read as text (the scorer similarity), guide mean-field with its defaults:

    crossfit       24 of the classification tasks that have a test file and that MiniLM can read:
                   the rows of train and dev of all five seeds, at most 150; at most 100 test rows
    commonsenseqa  1,000 of UnifiedQA's training questions, and all of its test questions

Rows to learn from that stand in any task's test rows are left out; tasks, and rows where there are
too many, are chosen by hash.
Each adapter's rank is the one at which it has as nearly as possible as many parameters as LoRA of
rank 8. Nothing is chosen by test rows, nor by dev rows: all adapters have the defaults.

A result is written to OUT/SET/SEED/ADAPTER.json when it is done, and what is there is not done
again. At the end, or with --table-only, it prints the tables.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[1] / "meta_learning"))
from common import describe_run, load_minilm, write_json
from suites import SEEDS as CROSSFIT_SEEDS
from suites import UNREADABLE, crossfit_rows

from bayes_lora import FitSettings, LoRA, Task, fit
from bayes_lora.adapters import MASA, Adapter, HydraLoRA, Mixing, MultiLoRA
from bayes_lora.backbone import Backbone
from bayes_lora.budget import matched, parameters
from bayes_lora.data import cap_queries, remove_overlap, remove_repeats
from bayes_lora.data.crossfit import read_crossfit
from bayes_lora.data.unifiedqa import read_unifiedqa
from bayes_lora.errors import BayesLoraError
from calibration import accuracy, ece, nll

TASKS, TRAIN_ROWS, TEST_ROWS, QUESTIONS = 24, 150, 100, 1000
STEPS = {"crossfit": 400, "commonsenseqa": 200}
DRAWS = 10
BASE = LoRA(rank=8)
# Before their ranks are matched with BASE's parameters.
ADAPTERS: dict[str, Adapter] = {
    "lora": BASE,
    "masa-gate": MASA(number=2, group=2),
    "masa-concatenation": MASA(number=2, group=2, mixing=Mixing.CONCATENATION),
    "hydra-lora": HydraLoRA(experts=3),
    "multi-lora": MultiLoRA(number=3),
}
Tasks = tuple[list[Task], list[Task]]  # to learn from, and to be judged on


def crossfit(data: Path) -> Tasks:
    """Read CrossFit's classification tasks."""
    folder = data / "crossfit"
    lines = [line.split("\t") for line in (folder / "TASKS.tsv").read_text().splitlines()[1:]]
    names = [own[0] for own in lines if own[1] == "classification" and own[0] not in UNREADABLE]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    train, test = [], []
    for task in (folder / "data" / name for name in names):
        splits = read_crossfit(task, CROSSFIT_SEEDS[0]).splits
        if "test" in splits and len(test) < TASKS:
            train.append(cap_queries(remove_repeats(crossfit_rows(task)), TRAIN_ROWS))
            test.append(cap_queries(splits["test"], TEST_ROWS))
    return _apart(train, test)


def commonsenseqa(data: Path) -> Tasks:
    """Read CommonsenseQA as UnifiedQA has it."""
    splits = read_unifiedqa(data / "unifiedqa" / "commonsenseqa").splits
    return _apart([cap_queries(splits["train"], QUESTIONS)], [splits["test"]])


SETS: dict[str, Callable[[Path], Tasks]] = {"crossfit": crossfit, "commonsenseqa": commonsenseqa}


def _apart(train: Sequence[Task], test: Sequence[Task]) -> Tasks:
    return list(remove_overlap(train, [], test).train.tasks), list(test)


def run(name: str, seed: int, adapter: Adapter, backbone: Backbone, tasks: Tasks) -> dict[str, Any]:
    """Fit one adapter to all tasks, and only then look at their test rows, once."""
    train, test = tasks
    settings = FitSettings(max_steps=STEPS[name], seed=seed)
    started = time.perf_counter()
    posterior = fit(train, backbone, scorer="similarity", adapter=adapter, settings=settings)
    learning = time.perf_counter() - started
    by_task = {}
    for task in test:
        found = posterior.predict(task.examples, draws=DRAWS, seed=seed).probabilities
        by_task[task.name] = _measured(found, task)
    return {
        **{key: value for key, value in describe_run().items() if key != "results"},
        "adapter": repr(adapter),
        "parameters": parameters(adapter, backbone),
        "tasks": len(test),
        "rows": sum(map(len, train)),
        "test rows": sum(map(len, test)),
        "seconds of learning": round(learning, 1),
        "by task": by_task,
    }


def _measured(probabilities: np.ndarray, task: Task) -> dict[str, float]:
    labels = np.array(task.labels)
    options = np.array([len(example.options) for example in task.examples])
    return {
        "accuracy": accuracy(probabilities, labels, num_options=options),
        "nll": nll(probabilities, labels, num_options=options),
        "ece": ece(probabilities, labels, num_options=options),
    }


def table(out: Path, name: str) -> str:
    """Average over tasks, then over seeds; the spread is the seeds' standard deviation."""
    lines = [f"### {name}", "", "| adapter | parameters | seeds | accuracy | NLL | ECE |"]
    lines.append("|---|---|---|---|---|---|")
    for adapter in ADAPTERS:
        files = sorted((out / name).glob(f"*/{adapter}.json"))
        results = [json.loads(file.read_text()) for file in files]
        if results:
            figures = [_over_seeds(results, key) for key in ("accuracy", "nll", "ece")]
            count = f"{results[0]['parameters']:,}"
            lines.append(f"| {adapter} | {count} | {len(results)} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _over_seeds(results: Iterable[dict[str, Any]], key: str) -> str:
    means = [statistics.mean(own[key] for own in result["by task"].values()) for result in results]
    spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):.3f}{spread}"


@cache
def load() -> Backbone:
    """Load the backbone, once and not before something is to be run."""
    return load_minilm()


def main() -> None:
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, help="folder with crossfit and unifiedqa")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--adapters", nargs="+", choices=list(ADAPTERS), default=list(ADAPTERS))
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.table_only:
        parser.error("--data is needed to run anything")
    try:
        for name in () if arguments.table_only else arguments.sets:
            tasks = SETS[name](arguments.data)
            for seed in arguments.seeds:
                for adapter in arguments.adapters:
                    path = arguments.out / name / str(seed) / f"{adapter}.json"
                    if path.exists():
                        continue
                    own = matched(ADAPTERS[adapter], BASE, load())
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(run(name, seed, own, load(), tasks), path)
                    print(path, file=sys.stderr, flush=True)
        print("\n".join(table(arguments.out, name) for name in arguments.sets))
    except BayesLoraError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()

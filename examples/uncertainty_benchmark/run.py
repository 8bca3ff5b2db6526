"""Which posterior for a small fine-tune? Methods x data sets x seeds, resumable, and one page.

    python examples/uncertainty_benchmark/run.py --data DATA --out OUT

DATA has the folders `classification`, `clinc150` and `unifiedqa`. sets.py says what is learned from
and judged, contenders.py what is compared. A result is written to OUT/SET/SEED/METHOD.json when it
is done, and what is there is not done again: kill it when you like. Without a GPU each core has a
fit of its own, of one thread; OMP_NUM_THREADS says how many cores to take. At the end, or with
--table-only, OUT/benchmark.html and OUT/benchmark.md are written of what is there.

With --development it is for choosing: other seeds, and no row is judged that stands in a test file.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, judge, learn
from page import write_page
from sets import SETS, load
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, load_minilm

from bayes_lora.errors import BayesLoraError
from bayes_lora.files import atomic_text

SEEDS = (0, 1, 2)
STARTED = get_context("forkserver")  # new processes need not import everything again
STARTED.set_forkserver_preload(["contenders"])


def main() -> None:
    """Run what is not there yet, and write the page."""
    logging.disable_progress_bar()
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.table_only:
        parser.error("--data is needed to run anything")
    try:
        if not arguments.table_only:
            run_fits(arguments)
        print(write_page(arguments.out))
    except BayesLoraError as error:
        parser.exit(2, f"{error}\n")


def make_parser() -> argparse.ArgumentParser:
    """Say what the command line has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, help="folder that has the sets' folders")
    parser.add_argument("--out", required=True, type=Path, help="folder for results")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument(
        "--methods", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="METHOD"
    )
    parser.add_argument("--development", action="store_true", help="judge on no test rows")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    return parser


def run_fits(arguments: argparse.Namespace) -> None:
    """Run what has no result yet: without a GPU a fit on each core, else one after the other.

    Each is a process of its own: memory that another fit has freed would be taken for none.
    """
    side_by_side = 1 if torch.cuda.is_available() else torch.get_num_threads()
    folder, development = arguments.data, arguments.development
    pool = ProcessPoolExecutor(side_by_side, mp_context=STARTED, max_tasks_per_child=1)
    try:
        running = [
            pool.submit(run_fit, methods, name, seed, folder, development)
            for name in arguments.sets
            for seed in arguments.seeds
            for methods in together(missing(name, seed, arguments))
        ]
        for done in as_completed(running):
            for result in done.result():
                write(result, arguments.out)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def missing(name: str, seed: int, arguments: argparse.Namespace) -> list[str]:
    """Name the methods that have no result yet for a set and seed."""
    return [
        own for own in arguments.methods if not result_path(arguments.out, name, seed, own).exists()
    ]


def result_path(out: Path, name: str, seed: int, method: str) -> Path:
    """Say where a result is written."""
    return out / name / str(seed) / f"{method}.json"


def together(methods: Iterable[str]) -> list[list[str]]:
    """Group methods whose fit is the same, which then is done once."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for method in methods:
        groups.setdefault(CONTENDERS[method].fitted_as, []).append(method)
    return list(groups.values())


def run_fit(
    methods: Sequence[str], name: str, seed: int, folder: Path, development: bool
) -> list[dict[str, Any]]:
    """Fit once, and measure each of the methods that predict from this fit."""
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    data = load(name, folder, seed, development=development)
    fitted = learn(CONTENDERS[methods[0]], data, seed, load_minilm())
    described = {
        **{key: value for key, value in describe_run().items() if key != "results"},
        "set": name,
        "seed": seed,
        "development": development,
        "rows": len(data.given),
        "fit": asdict(fitted.cost),
        "guide": repr(fitted.posterior.config.guide),
    }
    return [
        {
            **described,
            "method": method,
            **judge(replace(fitted, contender=CONTENDERS[method]), data, seed),
        }
        for method in methods
    ]


def write(result: dict[str, Any], out: Path) -> None:
    """Write a result, and say what it is."""
    path = result_path(out, result["set"], result["seed"], result["method"])
    with atomic_text(path) as file:
        file.write(json.dumps(result, indent=1) + "\n")
    figures = ", ".join(f"{key} {result['test'][key]:.4f}" for key in ("accuracy", "nll", "ece"))
    print(f"{path}: {figures}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""Which posterior for a small fine-tune? Methods x data sets x seeds, resumable, and one page.

    python examples/uncertainty_benchmark/run.py --data DATA --out OUT

DATA has the folders `classification`, `clinc150` and `unifiedqa`. sets.py says what is learned from
and judged, contenders.py what is compared. A result is written to OUT/SET/SEED/METHOD.json when it
is done, and what is there is not done again: kill it when you like, and run several at once with
other --seeds or --sets. At the end, or with --table-only, OUT/benchmark.html and OUT/benchmark.md
are written of what is there.

With --development it is for choosing: other seeds, and no row is judged that stands in a test file.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, judge, learn
from page import write_page
from sets import SETS, Data, load
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
        for name in () if arguments.table_only else arguments.sets:
            for seed in arguments.seeds:
                run_methods(name, seed, arguments)
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


def run_methods(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Run the methods that have no result yet, for one set and seed."""
    paths = {own: arguments.out / name / str(seed) / f"{own}.json" for own in arguments.methods}
    missing = [method for method, path in paths.items() if not path.exists()]
    if not missing:
        return
    data = load(name, arguments.data, seed, development=arguments.development)
    for methods in together(missing):
        # A process of its own: memory that another method has freed would be taken for none.
        with ProcessPoolExecutor(1, mp_context=STARTED) as alone:
            found = alone.submit(run_fit, methods, data, seed).result()
        for method, own in found.items():
            result = {
                **{key: value for key, value in describe_run().items() if key != "results"},
                "set": name,
                "seed": seed,
                "method": method,
                "development": arguments.development,
                **own,
            }
            write(result, paths[method])


def together(methods: Iterable[str]) -> list[list[str]]:
    """Group methods whose fit is the same, which then is done once."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for method in methods:
        groups.setdefault(CONTENDERS[method].fitted_as, []).append(method)
    return list(groups.values())


def run_fit(methods: Sequence[str], data: Data, seed: int) -> dict[str, dict[str, Any]]:
    """Fit once, and measure each of the methods that predict from this fit."""
    logging.disable_progress_bar()
    fitted = learn(CONTENDERS[methods[0]], data, seed, load_minilm())
    found = {
        "rows": len(data.given),
        "fit": asdict(fitted.cost),
        "guide": repr(fitted.posterior.config.guide),
    }
    return {
        method: {**found, **judge(replace(fitted, contender=CONTENDERS[method]), data, seed)}
        for method in methods
    }


def write(result: dict[str, Any], path: Path) -> None:
    """Write a result, and say what it is."""
    with atomic_text(path) as file:
        file.write(json.dumps(result, indent=1) + "\n")
    figures = ", ".join(f"{key} {result['test'][key]:.4f}" for key in ("accuracy", "nll", "ece"))
    print(f"{path}: {figures}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

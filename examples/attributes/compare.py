"""Compare methods on a set whose rows have attributes: every size, seed and method, resumable.

    python examples/attributes/compare.py SET --data DATA --out examples/results/attributes

SET is one of sets.py, the methods are those of contenders.py. DATA has a folder for each set:
fdu_mtl, pang_lee_scaledata_4authors and yelp10k_users. A method's result is written to
OUT/SET/SIZE/SEED/METHOD.json when it is done, and what is there is not done again: kill it when
you like, and run several at once with different --seeds. At the end, or with --table-only, it
prints the tables of what is there.

With --shuffle it fits one population and, in place of the comparison, levels whose attributes are
shuffled in ever more of the training rows, and writes shuffle-SHARE.json.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from contenders import (
    METHODS,
    Given,
    Learned,
    fit_with_levels,
    methods_of,
    of_levels,
    of_population,
    read_given,
)
from judging import judge
from noise import SEED, SHARES, SIZES, refitted
from sets import SETS, shuffled
from stored import path_of, read_result, write_result
from tables import tables
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, load_minilm

from bayes_lora.backbone import Backbone
from bayes_lora.data import Task
from bayes_lora.errors import BayesLoraError

SEEDS = (0, 1, 2)
TRAIN_SIZES: dict[str, tuple[int | None, ...]] = {"fdu-mtl": (100, 400, None)}  # elsewhere all


def main(name: str | None = None) -> None:
    """Run what is not there yet, and print the tables.

    Args:
        name: The set; None where the command line names it.
    """
    logging.disable_progress_bar()
    parser = make_parser(named=name is not None)
    arguments = parser.parse_args()
    name = name or arguments.set
    sizes = arguments.sizes or TRAIN_SIZES.get(name, (None,))
    check(parser, name, arguments)
    try:
        if arguments.shuffle and not arguments.table_only:
            run_noise(name, arguments.data, arguments.out)
        elif not arguments.table_only:
            methods = arguments.methods or methods_of(name)
            for size in sizes:
                for seed in arguments.seeds:
                    run_methods(name, size, seed, methods, arguments.data, arguments.out)
        print(tables(arguments.out, name, sizes))
    except BayesLoraError as error:
        parser.exit(2, f"{error}\n")


def make_parser(named: bool) -> argparse.ArgumentParser:
    """Say what the command line has; no set where the script names it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    if not named:
        parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--data", type=Path, help="folder that has the sets' folders")
    parser.add_argument("--out", required=True, type=Path, help="folder for results")
    parser.add_argument("--sizes", nargs="+", type=size, help="rows of train, of a domain; or all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--shuffle", action="store_true", help="shuffle attributes, seed 0")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    return parser


def size(text: str) -> int | None:
    """Read a size of the command line."""
    return None if text == "all" else int(text)


def check(parser: argparse.ArgumentParser, name: str, arguments: argparse.Namespace) -> None:
    """Exit with a message where arguments do not go together."""
    if arguments.data is None and not arguments.table_only:
        parser.error("--data is needed to run anything")
    for method in arguments.methods or ():
        if method not in methods_of(name):
            parser.error(f"{method} is not for {name}: choose from {', '.join(methods_of(name))}")


@cache
def backbone() -> Backbone:
    """Load the backbone, once and not before something is to be run."""
    return load_minilm()


def run_methods(
    name: str, size: int | None, seed: int, methods: Sequence[str], data: Path, out: Path
) -> None:
    """Run the methods that have no result yet, for one set, size and seed."""
    paths = {method: path_of(out, name, size, seed, method) for method in methods}
    missing = [method for method, path in paths.items() if read_result(path) is None]
    if not missing:
        return
    given, test = read_given(name, data, size, seed, backbone())
    for method in missing:
        # One fit may answer for two methods.
        if read_result(paths[method]) is None:
            run_method(method, given, test, out)


def run_method(method: str, given: Given, test: Task, out: Path) -> None:
    """Fit a method, and only then look at the test rows, once."""
    started = time.perf_counter()
    learned = METHODS[method](given)
    learning = time.perf_counter() - started
    for name, own in learned.items():
        write(name, given, out, own, test, {"seconds of learning": round(learning, 1)})


def run_noise(name: str, data: Path, out: Path) -> None:
    """Shuffle the attributes of ever more training rows, around one population."""
    size = SIZES.get(name)
    paths = {share: path_of(out, name, size, SEED, f"shuffle-{share:g}") for share in SHARES}
    missing = [share for share, path in paths.items() if read_result(path) is None]
    if not missing:
        return
    given, test = read_given(name, data, size, SEED, backbone())
    fitted = fit_with_levels(given)
    judged = judge(of_population(fitted)(test.examples), test, given.labelled, given.group)
    for share in missing:
        task = shuffled(given.labelled, given.labelled.attributes, share, SEED)
        own = of_levels(refitted(fitted, task))
        write(paths[share].stem, given, out, own, test, {"share": share, "population": judged})


def write(
    method: str, given: Given, out: Path, learned: Learned, test: Task, more: Mapping[str, Any]
) -> None:
    """Let a method answer the test rows, and write what is to be said of it."""
    started = time.perf_counter()
    probabilities = learned.predict(test.examples)
    result = {
        "set": given.name,
        "size": given.size,
        "seed": given.seed,
        "method": method,
        "rows": len(given.labelled),
        "steps": given.steps,
        **{key: value for key, value in describe_run().items() if key != "results"},
        **learned.found,
        **more,
        "seconds of testing": round(time.perf_counter() - started, 1),
        "test": judge(probabilities, test, given.labelled, given.group),
    }
    path = path_of(out, given.name, given.size, given.seed, method)
    write_result(path, result)
    figures = ", ".join(f"{key} {result['test'][key]:.4f}" for key in ("accuracy", "nll", "ece"))
    print(f"{path}: {figures}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

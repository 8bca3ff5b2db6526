"""The suites that meta-learning is judged on: tasks to train on, to tune on, to test on.

    python examples/meta_learning/suites.py DATA_ROOT

prints their tasks, and what had to be removed or left out. DATA_ROOT has the folders `crossfit`
(with `data/`, a folder a task, and `config/`, the partitions), `fdu_mtl`, `clinc150` and
`unifiedqa`.

    class_to_class    CrossFit's classification tasks, its own partition and 16-row support sets
    multiple_choice   CrossFit's questions with choices; supports of 0, 4 and 16 rows
    fdu_mtl           sentiment in 16 domains; supports of 1, 4 and 16 rows a class
    clinc150          intents in 10 domains, 5 folds; supports of 1 and 5 rows an intent
    unifiedqa         four sets of questions, each tested once; supports of 0, 4 and 16 rows

No input stands in two of meta-train, meta-dev and test, and no query in its own task's supports.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from clinc150 import read_domains
from fdu_mtl import read_domain

from bayes_lora.data import (
    Example,
    Task,
    cap_queries,
    check_disjoint,
    remove_overlap,
    remove_repeats,
    sample_support,
    split_tasks,
)
from bayes_lora.data.crossfit import read_crossfit
from bayes_lora.data.partition import read_partition
from bayes_lora.data.unifiedqa import read_unifiedqa
from bayes_lora.errors import ConfigError

# CrossFit's own; the others' supports are drawn with the same.
SEEDS = (13, 21, 42, 87, 100)
MOST_QUERIES = 500
DEV_SHARE = 0.2
# The lowest with which no task of meta-dev has the texts of another, which would then be lost to
# meta-train (the ethos tasks, trec-finegrained and trec) or count twice (the two of RTE).
SPLIT_SEED = 3

CHOICE_TRAIN = (
    "commonsense_qa",
    "openbookqa",
    "social_i_qa",
    "dream",
    "quail",
    "swag",
    "hellaswag",
    "race-high",
    "superglue-copa",
)
CHOICE_TEST = (
    "ai2_arc",
    "qasc",
    "sciq",
    "codah",
    "quarel",
    "quartz-no_knowledge",
    "piqa",
    "wino_grande",
)

FDU_TEST = ("software", "sports_outdoors", "imdb", "MR")
FDU_DEV = ("baby", "magazines")
FDU_TRAIN = (
    "apparel",
    "books",
    "camera_photo",
    "dvd",
    "electronics",
    "health_personal_care",
    "kitchen_housewares",
    "music",
    "toys_games",
    "video",
)

CLINC_FOLDS = 5
CLINC_TEST = 2
CLINC_DEV = 3
CLINC_ORDER_SEED = 0

# Its options are emoji, which MiniLM's vocabulary does not have.
UNREADABLE = ("tweet_eval-emoji",)

UNIFIEDQA = ("arc_easy", "openbookqa", "commonsenseqa", "mctest")
MOST_TRAINING_ROWS = 1000  # of a UnifiedQA set, chosen as queries are


@dataclass(frozen=True)
class TestTask:
    """A task to adapt to and be judged on.

    Args:
        name: The task's name.
        queries: What is asked, at most 500 rows.
        supports: What to adapt to, by (size, seed); the smaller of a seed are in the larger.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    name: str
    queries: Task
    supports: Mapping[tuple[int, int], tuple[Example, ...]]


@dataclass(frozen=True)
class Suite:
    """One fold of a suite.

    Args:
        name: The suite's name.
        fold: Which fold, counted from "1".
        train: The tasks of meta-train.
        dev: The tasks of meta-dev, for choosing settings.
        test: The tasks to be judged on.
        sizes: The support sizes there are.
        per_class: Whether a size counts rows of each label, or in all.
        removed: How many rows were removed: "repeats" within a task, rows of "train" and "dev"
            that also stand further on, rows of test tasks' "support" that are queries.
        left_out: The tasks the suite should have and has not, and why.
    """

    name: str
    fold: str
    train: tuple[Task, ...]
    dev: tuple[Task, ...]
    test: tuple[TestTask, ...]
    sizes: tuple[int, ...]
    per_class: bool
    removed: Mapping[str, int]
    left_out: tuple[str, ...]


def load_suite(name: str, root: Path) -> tuple[Suite, ...]:
    """Read all folds of a suite.

    Args:
        name: One of SUITES.
        root: The folder that holds the suite's own, such as `crossfit`.

    Raises:
        ConfigError: There is no such suite.
        InputDataError: A file is missing or malformed.
    """
    if name not in SUITES:
        raise ConfigError(f"there is no suite {name!r}; the suites are {', '.join(SUITES)}")
    return SUITES[name](root)


@dataclass(frozen=True)
class _Pool:
    """A test task before its supports are drawn: its test rows, and the rows to draw from.

    Args:
        test: All test rows.
        support: The rows to draw supports from, by the seeds that draw from them.
    """

    test: Task
    support: Mapping[tuple[int, ...], Task]


def _class_to_class(root: Path) -> tuple[Suite, ...]:
    partition = read_partition(root / "crossfit" / "config" / "class_to_class.json")
    partition.check_leaks()
    train, test = (tuple(partition.tasks(part)) for part in ("train", "test"))
    return _crossfit("class_to_class", root, train, test, sizes=(16,))


def _multiple_choice(root: Path) -> tuple[Suite, ...]:
    return _crossfit("multiple_choice", root, CHOICE_TRAIN, CHOICE_TEST, sizes=(0, 4, 16))


def _crossfit(
    name: str, root: Path, train: Sequence[str], test: Sequence[str], sizes: tuple[int, ...]
) -> tuple[Suite, ...]:
    folder = root / "crossfit" / "data"
    absent = [task for task in (*train, *test) if not (folder / task).is_dir()]
    unread = [task for task in (*train, *test) if task in UNREADABLE and task not in absent]
    out = {*absent, *unread}
    rows = [crossfit_rows(folder / task) for task in train if task not in out]
    pools = {task: _crossfit_pool(folder / task) for task in test if task not in out}
    untested = [task for task, pool in pools.items() if pool is None]
    left_out = [f"{task}: no data" for task in absent] + [f"{t}: no test file" for t in untested]
    left_out += [f"{task}: options that MiniLM cannot read" for task in unread]
    meta_train, meta_dev = split_tasks(rows, DEV_SHARE, SPLIT_SEED)
    suite = Suite(name, "1", meta_train, meta_dev, (), sizes, False, {}, tuple(left_out))
    return (_fill(suite, [pool for pool in pools.values() if pool]),)


def crossfit_rows(folder: Path) -> Task:
    """All rows of train and dev, of every seed."""
    read = [read_crossfit(folder, seed) for seed in SEEDS]
    tasks = [task.splits[split] for task in read for split in ("train", "dev")]
    warnings = dict.fromkeys(warning for task in tasks for warning in task.warnings)
    examples = tuple(example for task in tasks for example in task.examples)
    return replace(tasks[0], examples=examples, warnings=tuple(warnings))


def _crossfit_pool(folder: Path) -> _Pool | None:
    """The test file, and a train file a seed; None where there is no test file."""
    read = {seed: read_crossfit(folder, seed) for seed in SEEDS}
    splits = read[SEEDS[0]].splits
    if "test" not in splits:
        return None
    return _Pool(splits["test"], {(seed,): task.splits["train"] for seed, task in read.items()})


def _fdu_mtl(root: Path) -> tuple[Suite, ...]:
    read = partial(read_domain, root / "fdu_mtl")
    train, dev = (tuple(read(d, "train") for d in part) for part in (FDU_TRAIN, FDU_DEV))
    pools = [_Pool(read(d, "test"), {SEEDS: read(d, "train")}) for d in FDU_TEST]
    return (_fill(Suite("fdu_mtl", "1", train, dev, (), (1, 4, 16), True, {}, ()), pools),)


def _clinc150(root: Path) -> tuple[Suite, ...]:
    rows = read_domains(root / "clinc150", "train", "val")
    test = read_domains(root / "clinc150", "test")
    order = [str(name) for name in np.random.default_rng(CLINC_ORDER_SEED).permutation(list(rows))]
    suites = []
    for fold in range(CLINC_FOLDS):
        start = fold * CLINC_TEST
        turned = order[start:] + order[:start]
        asked, rest = turned[:CLINC_TEST], [rows[name] for name in turned[CLINC_TEST:]]
        dev, train = tuple(rest[:CLINC_DEV]), tuple(rest[CLINC_DEV:])
        suite = Suite("clinc150", str(fold + 1), train, dev, (), (1, 5), True, {}, ())
        suites.append(_fill(suite, [_Pool(test[name], {SEEDS: rows[name]}) for name in asked]))
    return tuple(suites)


def _unifiedqa(root: Path) -> tuple[Suite, ...]:
    read = {name: read_unifiedqa(root / "unifiedqa" / name).splits for name in UNIFIEDQA}
    rows = {name: cap_queries(splits["train"], MOST_TRAINING_ROWS) for name, splits in read.items()}
    suites = []
    for fold, asked in enumerate(UNIFIEDQA):
        dev, *train = UNIFIEDQA[fold + 1 :] + UNIFIEDQA[:fold]
        train_tasks = tuple(rows[name] for name in train)
        suite = Suite(
            "unifiedqa", str(fold + 1), train_tasks, (rows[dev],), (), (0, 4, 16), False, {}, ()
        )
        suites.append(_fill(suite, [_Pool(read[asked]["test"], {SEEDS: rows[asked]})]))
    return tuple(suites)


SUITES: dict[str, Callable[[Path], tuple[Suite, ...]]] = {
    "class_to_class": _class_to_class,
    "multiple_choice": _multiple_choice,
    "fdu_mtl": _fdu_mtl,
    "clinc150": _clinc150,
    "unifiedqa": _unifiedqa,
}


def _fill(suite: Suite, pools: Iterable[_Pool]) -> Suite:
    """The suite with its test tasks, and without the rows that stand in two places."""
    removed: Counter[str] = Counter()
    test = tuple(_test_task(pool, suite, removed) for pool in pools)
    check_disjoint(
        train=[task.name for task in suite.train],
        dev=[task.name for task in suite.dev],
        test=[task.name for task in test],
    )
    train, dev = (_distinct(tasks, removed) for tasks in (suite.train, suite.dev))
    overlap = remove_overlap(train, dev, map(_all_rows, test))
    removed.update(overlap.counts)
    left_out = (*suite.left_out, *overlap.train.warnings, *overlap.dev.warnings)
    return replace(
        suite,
        train=overlap.train.tasks,
        dev=overlap.dev.tasks,
        test=test,
        removed={what: removed[what] for what in ("repeats", "train", "dev", "support")},
        left_out=left_out,
    )


def _test_task(pool: _Pool, suite: Suite, removed: Counter[str]) -> TestTask:
    queries = cap_queries(pool.test, MOST_QUERIES)
    supports = {}
    for seeds, rows in pool.support.items():
        (distinct,) = _distinct([rows], removed)
        kept = _without(distinct, queries)
        removed["support"] += len(distinct) - len(kept)
        for size in suite.sizes:
            # A train file that lost a row gives what it has.
            drawn = size if suite.per_class else min(size, len(kept))
            for seed in seeds:
                rng = np.random.default_rng(seed)
                support = sample_support(kept, drawn, per_class=suite.per_class, rng=rng)
                supports[size, seed] = support
    return TestTask(queries.name, queries, supports)


def _distinct(tasks: Iterable[Task], removed: Counter[str]) -> list[Task]:
    """The tasks without rows repeated within them, which are counted."""
    tasks = list(tasks)
    distinct = list(map(remove_repeats, tasks))
    removed["repeats"] += sum(map(len, tasks)) - sum(map(len, distinct))
    return distinct


def _without(pool: Task, queries: Task) -> Task:
    kept = remove_overlap([pool], [], [queries]).train.tasks
    return kept[0] if kept else replace(pool, examples=())


def _all_rows(task: TestTask) -> Task:
    """The rows of a test task that meta-train must not hold: queries and supports."""
    supports = [example for support in task.supports.values() for example in support]
    return replace(task.queries, examples=(*task.queries.examples, *supports))


def describe(suite: Suite) -> str:
    """A table of the tasks of one fold, and below it what was removed or left out."""
    lines = [f"{suite.name}, fold {suite.fold}"]
    for part, tasks in (("train", suite.train), ("dev", suite.dev)):
        lines += [_line(part, task) for task in tasks]
    for test in suite.test:
        drawn = [min(len(test.supports[size, seed]) for seed in SEEDS) for size in suite.sizes]
        lines.append(_line("test", test.queries) + f"   supports of {drawn}")
    lines.append("removed: " + ", ".join(f"{n} {what}" for what, n in suite.removed.items()))
    lines += [f"left out: {sentence}" for sentence in suite.left_out]
    return "\n".join(lines)


def _line(part: str, task: Task) -> str:
    sizes = sorted({len(example.options) for example in task.examples})
    options = f"{sizes[0]}-{sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    return f"{part:6}{task.name:32}{len(task):6} rows {options:>5} options"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", metavar="DATA_ROOT", type=Path)
    root = parser.parse_args().root
    for name in SUITES:
        for suite in load_suite(name, root):
            print(describe(suite), end="\n\n", flush=True)


if __name__ == "__main__":
    main()

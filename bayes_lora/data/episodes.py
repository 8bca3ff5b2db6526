"""Episodes of a task, and partitions of tasks that share no row.

Meta-learning trains on many tasks and is judged on others: it adapts to a new task from a small
support set and answers the task's queries. A row or a task that stands on both sides makes that
judgement worthless, so what is shared is removed and counted here, or refused.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from bayes_lora.data.published import collapse
from bayes_lora.data.task import Example, Kind, Task, TaskSet
from bayes_lora.data.wording import counted, listed
from bayes_lora.errors import ConfigError, InputDataError, check_positive

_Content = tuple[str, frozenset[str]]


@dataclass(frozen=True)
class Episode:
    """One small problem drawn from a task.

    Args:
        name: The task's name.
        support: The labelled rows to adapt to.
        query: The rows to be judged on; none of them is a support row, unless the episode was
            drawn with 0 queries, which makes the support rows its queries.
    """

    name: str
    support: tuple[Example, ...]
    query: tuple[Example, ...]


def sample_support(
    task: Task, size: int, *, per_class: bool, rng: np.random.Generator
) -> tuple[Example, ...]:
    """Draw a support set without replacement, its rows in random order.

    Generators in equal states draw nested sets: the smaller one's rows are all in the larger one.

    Args:
        task: The rows to draw from.
        size: How many rows: of each label that occurs, or in all. 0 draws none.
        per_class: Whether `size` counts each label by itself.
        rng: Where the randomness comes from.

    Raises:
        InputDataError: There are too few rows, of a label or in all, or a row has no label that
            `per_class` needs.
        ConfigError: `size` is negative.
    """
    _check_size("support", size)
    if size == 0:
        return ()
    if not task.examples:
        raise InputDataError(f"{task.name}: there are no rows to draw a support set from; add rows")
    drawn = _shuffled(task, per_class, rng)
    for group, available in Counter(row.group for row in drawn).items():
        if available < size:
            labelled = f" labelled {group!r}" if per_class else ""
            raise InputDataError(
                f"{task.name}: a support set of {size} needs as many rows{labelled}, and there "
                f"are {available}; ask for a smaller one, or add rows"
            )
    return tuple(row.example for row in drawn if row.rank < size)


def sample_episode(
    task: Task, *, support: int, query: int, per_class: bool, rng: np.random.Generator
) -> Episode:
    """Draw an episode: a support set, and queries from the other rows.

    A task with fewer rows gives a smaller episode: at least one row, of every label if
    `per_class`, is kept for the queries, and the support is what is left of `support`. So a label
    with one row is asked about and not shown.

    Args:
        task: The rows to draw from, without replacement.
        support: How many support rows: of each label if `per_class`, else in all.
        query: How many queries in all; if `per_class`, as equally many of each label as the rows
            allow. 0 makes the support rows the queries, as the plain hierarchical ELBO has it.
        per_class: Whether labels are balanced; else rows are drawn whatever their labels.
        rng: Where the randomness comes from.

    Raises:
        InputDataError: The task has no rows, or a row has no label that `per_class` needs.
        ConfigError: A size is negative, or both are 0.
    """
    _check_size("support", support)
    _check_size("query", query)
    if not support and not query:
        raise ConfigError("an episode of 0 support rows and 0 queries is empty; ask for some")
    if not task.examples:
        raise InputDataError(f"{task.name}: there are no rows to make an episode of; add rows")
    drawn = _shuffled(task, per_class, rng)
    kept_back = 1 if query else 0
    size = {
        group: min(support, available - kept_back)
        for group, available in Counter(row.group for row in drawn).items()
    }
    shown = tuple(row.example for row in drawn if row.rank < size[row.group])
    # Round by round: one row of each label, then a second of each, as long as there are some.
    others = [row for row in drawn if row.rank >= size[row.group]]
    others.sort(key=lambda row: row.rank - size[row.group])
    asked = tuple(row.example for row in others[:query]) if query else shown
    return Episode(task.name, shown, asked)


def split_tasks(
    tasks: Iterable[Task], share: float, seed: int
) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Hold out whole tasks, to choose settings on tasks that training has not seen.

    The tasks with the lowest hashes of seed and name are held out, so that a task that is added
    to the others moves at most one of them to the other side.

    Args:
        tasks: All tasks there are to train on.
        share: What share of the tasks to hold out, between 0 and 1; rounded, one at least.
        seed: Another seed holds out other tasks.

    Returns:
        The tasks to train on and those held out, at least one of each, in the order given.

    Raises:
        InputDataError: There are fewer than two tasks.
        ConfigError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of tasks to hold out must lie between 0 and 1, not {share}")
    tasks = tuple(tasks)
    names = sorted({task.name for task in tasks}, key=lambda name: _hash(seed, name))
    if len(names) < 2:
        raise InputDataError(
            f"only {counted(len(names), 'task')} ({listed(names)}): to hold one out takes two; "
            "add tasks"
        )
    held = names[: min(max(round(share * len(names)), 1), len(names) - 1)]
    train = tuple(task for task in tasks if task.name not in held)
    return train, tuple(task for task in tasks if task.name in held)


class Overlap(NamedTuple):
    """What `remove_overlap` leaves.

    Args:
        train: The tasks to train on; its warnings name the tasks that were left empty.
        dev: The same of the held-out tasks.
        counts: How many rows were removed from "train" and from "dev".
    """

    train: TaskSet
    dev: TaskSet
    counts: Mapping[str, int]


def remove_overlap(train: Iterable[Task], dev: Iterable[Task], test: Iterable[Task]) -> Overlap:
    """Remove rows from train that also stand in dev or test, and from dev those in test.

    Two rows are the same if their inputs are, but for case and white space; between two
    multiple-choice tasks their sets of options must be the same too, since there a question like
    "What happened next?" is asked of many stories. The answers do not count, nor, where options
    are fixed labels, the labels: a text is a leak whatever was asked of it. Test is never touched.
    Every task that loses rows says so in its warnings, and one that loses all of them is left out.
    """
    test = tuple(test)
    clean_dev, from_dev = _without(dev, _Rows(test), "the test tasks")
    unseen = _Rows((*clean_dev, *test))
    clean_train, from_train = _without(train, unseen, "the dev or test tasks")
    return Overlap(clean_train, clean_dev, {"train": from_train, "dev": from_dev})


def remove_repeats(task: Task) -> Task:
    """Keep the first of the rows of a task that are the same, as `remove_overlap` compares them."""
    first: dict[_Content, Example] = {}
    for row in task.examples:
        first.setdefault(_content(row, task.kind), row)
    repeats = len(task) - len(first)
    if not repeats:
        return task
    warning = f"{counted(repeats, 'row')} dropped, repeated within the task"
    return replace(task, examples=tuple(first.values()), warnings=(*task.warnings, warning))


def check_disjoint(**parts: Iterable[str]) -> None:
    """Check that no task is in two parts of a partition.

    Args:
        parts: The names of the tasks in each part.

    Raises:
        InputDataError: A task is in two.
    """
    named = [(part, dict.fromkeys(names)) for part, names in parts.items()]
    for (one, names), (other, others) in combinations(named, 2):
        shared = [name for name in names if name in others]
        if shared:
            raise InputDataError(
                f"in part {one!r} and in part {other!r}: {', '.join(shared)}: a leak between "
                "partitions; take each task out of one of them"
            )


def cap_queries(task: Task, limit: int) -> Task:
    """Keep at most `limit` rows, in the file's order.

    A hash of a row's input and options decides, so that the choice is the same whatever the order
    of the file, and a row that is added displaces one other at most.

    Raises:
        ConfigError: `limit` is not positive.
    """
    check_positive("limit", limit)
    if len(task) <= limit:
        return task
    ranked = sorted(range(len(task)), key=lambda n: _rank(task.examples[n]))
    kept = tuple(task.examples[n] for n in sorted(ranked[:limit]))
    warning = f"{limit} of {len(task)} rows kept, chosen by a hash of their text"
    return replace(task, examples=kept, warnings=(*task.warnings, warning))


class _Drawn(NamedTuple):
    """A row, the group it is counted with, and how many of its group were drawn before it."""

    example: Example
    group: str
    rank: int


def _shuffled(task: Task, per_class: bool, rng: np.random.Generator) -> list[_Drawn]:
    """The rows in random order; a group is a label, or all rows."""
    groups = [""] * len(task)
    if per_class:
        rows = zip(task.examples, task.labels, strict=True)
        groups = [example.options[label] for example, label in rows]
    drawn: Counter[str] = Counter()
    ranked = []
    for n in rng.permutation(len(task)):
        ranked.append(_Drawn(task.examples[n], groups[n], drawn[groups[n]]))
        drawn[groups[n]] += 1
    # In the order of the ranks, low ranks of a common label would stand before those of a rare one.
    return [ranked[n] for n in rng.permutation(len(task))]


def _check_size(what: str, size: int) -> None:
    if size < 0:
        raise ConfigError(f"the {what} size must be 0 or more, not {size}")


def _hash(*parts: object) -> str:
    # JSON keeps the parts apart: ("ab", "c") is not ("a", "bc").
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _rank(example: Example) -> tuple[str, str]:
    """What `cap_queries` sorts by: a hash, and the answer where input and options are the same."""
    answer = "" if example.label is None else example.options[example.label]
    return _hash(example.input, *example.options), answer


class _Rows:
    """The rows of some tasks, to ask whether another task's row is among them."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.inputs: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        self.contents: set[_Content] = set()
        for task in tasks:
            contents = {_content(row, task.kind) for row in task.examples}
            self.inputs[task.kind] |= {text for text, _ in contents}
            self.contents |= contents

    def has(self, example: Example, kind: Kind) -> bool:
        content = _content(example, kind)
        other = next(other for other in Kind if other is not kind)
        return content in self.contents or content[0] in self.inputs[other]


def _content(example: Example, kind: Kind) -> _Content:
    """What makes a row the same as another of its kind."""
    options = example.options if kind is Kind.MULTIPLE_CHOICE else ()
    return _plain(example.input), frozenset(map(_plain, options))


def _plain(text: str) -> str:
    return collapse(text).casefold()


def _without(tasks: Iterable[Task], rows: _Rows, whose: str) -> tuple[TaskSet, int]:
    """The tasks without some rows, and how many rows that were."""
    kept_tasks = []
    left_out = []
    removed = 0
    for task in tasks:
        shared = [row.where for row in task.examples if rows.has(row, task.kind)]
        kept = tuple(row for row in task.examples if not rows.has(row, task.kind))
        removed += len(shared)
        if not kept:
            left_out.append(f"{task.name} left out: all its rows also stand in {whose}")
        else:
            warning = f"{counted(len(shared), 'row')} dropped, also in {whose}: {listed(shared)}"
            warnings = (*task.warnings, warning) if shared else task.warnings
            kept_tasks.append(replace(task, examples=kept, warnings=warnings))
    return TaskSet(tuple(kept_tasks), tuple(left_out)), removed

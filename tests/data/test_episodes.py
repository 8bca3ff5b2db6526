from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_lora.data import (
    Example,
    Kind,
    Task,
    cap_queries,
    check_disjoint,
    remove_overlap,
    remove_repeats,
    sample_episode,
    sample_support,
    split_tasks,
)
from bayes_lora.data.partition import Partition
from bayes_lora.errors import ConfigError, InputDataError

OPTIONS = ("bad", "good", "so-so")
# A busy machine must not fail a test that is only slow.
patient = settings(deadline=None)
seeds = st.integers(0, 2**32 - 1)
# How many rows there are of each label.
class_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=3)
names = st.lists(st.text(min_size=1, max_size=4), unique=True, min_size=2, max_size=12)


def task_of(*inputs: str, name: str = "reviews", options: tuple[str, ...] = OPTIONS) -> Task:
    """A task of fixed labels, every row with the first."""
    rows = (
        Example(input=text, options=options, label=0, where=f"{name}.csv, row {n}")
        for n, text in enumerate(inputs, start=2)
    )
    return Task(name, tuple(rows))


def quiz_of(*rows: tuple[str, tuple[str, ...]], name: str = "quiz") -> Task:
    """A multiple-choice task of (question, options)."""
    examples = (
        Example(input=text, options=options, label=0, where=f"{name}.csv, row {n}")
        for n, (text, options) in enumerate(rows, start=2)
    )
    return Task(name, tuple(examples), Kind.MULTIPLE_CHOICE)


def labelled(sizes: list[int]) -> Task:
    """A task with so many rows of each label, each row with a text of its own."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    task = task_of(*(f"text {n}" for n in range(len(labels))))
    pairs = zip(task.examples, labels, strict=True)
    return replace(task, examples=tuple(replace(row, label=label) for row, label in pairs))


def counts(rows: tuple[Example, ...]) -> list[int]:
    """How many rows there are of each label."""
    found = Counter(row.label for row in rows)
    return [found[label] for label in range(len(OPTIONS))]


def inputs(task: Task) -> list[str]:
    return [row.input for row in task.examples]


# Supports and episodes


@patient
@given(class_sizes, st.data(), seeds)
def test_a_support_has_so_many_rows_of_each_label(
    sizes: list[int], data: st.DataObject, seed: int
) -> None:
    task = labelled(sizes)
    size = data.draw(st.integers(0, min(sizes)))
    support = sample_support(task, size, per_class=True, rng=np.random.default_rng(seed))
    assert counts(support)[: len(sizes)] == [size] * len(sizes)
    assert len(set(support)) == len(support)
    assert set(support) <= set(task.examples)


@patient
@given(class_sizes, st.booleans(), seeds)
def test_supports_of_one_seed_are_nested(sizes: list[int], per_class: bool, seed: int) -> None:
    most = min(sizes) if per_class else sum(sizes)
    drawn = [
        sample_support(labelled(sizes), size, per_class=per_class, rng=np.random.default_rng(seed))
        for size in range(most + 1)
    ]
    assert drawn[0] == ()
    for smaller, larger in pairwise(drawn):
        assert set(smaller) < set(larger)


def test_every_row_is_as_likely_in_a_support_and_in_every_place() -> None:
    task = labelled([4, 8])
    rng = np.random.default_rng(0)
    places = np.zeros((12, 4))
    for _ in range(4000):
        for place, row in enumerate(sample_support(task, 2, per_class=True, rng=rng)):
            places[task.examples.index(row), place] += 1 / 4000
    expected = np.repeat([[1 / 8], [1 / 16]], [4, 8], axis=0)
    # Five standard errors of a share of 4000.
    assert np.abs(places - expected).max() < 5 * np.sqrt(1 / 8 / 4000)


@pytest.mark.parametrize(
    ("task", "size", "per_class", "message"),
    [
        (
            labelled([3, 2]),
            3,
            True,
            "reviews: .* of 3 needs as many rows labelled 'good', .* are 2",
        ),
        (labelled([3, 2]), 6, False, "reviews: a support set of 6 needs as many rows, .* are 5;"),
        (task_of(), 1, False, "reviews: there are no rows to draw a support set from"),
    ],
)
def test_too_few_rows_name_task_and_label(
    task: Task, size: int, per_class: bool, message: str
) -> None:
    with pytest.raises(InputDataError, match=message):
        sample_support(task, size, per_class=per_class, rng=np.random.default_rng(0))


def test_a_row_without_the_label_that_balancing_needs_is_named() -> None:
    task = labelled([2])
    unlabelled = replace(task, examples=(*task.examples, replace(task.examples[0], label=None)))
    with pytest.raises(InputDataError, match="row 2: there is no label"):
        sample_support(unlabelled, 1, per_class=True, rng=np.random.default_rng(0))


@patient
@given(class_sizes, st.integers(0, 12), st.integers(1, 30), st.booleans(), seeds)
def test_support_and_queries_share_no_row_and_something_is_asked(
    sizes: list[int], support: int, query: int, per_class: bool, seed: int
) -> None:
    task = labelled(sizes)
    rng = np.random.default_rng(seed)
    episode = sample_episode(task, support=support, query=query, per_class=per_class, rng=rng)
    rows = episode.support + episode.query
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(task.examples)
    groups = sizes if per_class else [sum(sizes)]
    shown = [min(support, size - 1) for size in groups]
    assert len(episode.support) == sum(shown)
    assert len(episode.query) == min(query, sum(groups) - sum(shown)) > 0


@patient
@given(class_sizes, st.integers(0, 12), st.integers(1, 30), seeds)
def test_balanced_episodes_differ_by_one_where_rows_allow(
    sizes: list[int], support: int, query: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    episode = sample_episode(labelled(sizes), support=support, query=query, per_class=True, rng=rng)
    shown, asked = (counts(rows)[: len(sizes)] for rows in (episode.support, episode.query))
    assert shown == [min(support, size - 1) for size in sizes]
    for size, seen, own in zip(sizes, shown, asked, strict=True):
        # A label lags by more than one query only when it has no rows left.
        assert own >= max(asked) - 1 or own + seen == size


@patient
@given(class_sizes, st.booleans(), seeds)
def test_no_queries_makes_the_support_its_own_queries(
    sizes: list[int], per_class: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    episode = sample_episode(labelled(sizes), support=4, query=0, per_class=per_class, rng=rng)
    assert episode.query == episode.support
    groups = sizes if per_class else [sum(sizes)]
    assert len(episode.support) == sum(min(4, size) for size in groups)


def test_the_seed_decides_on_an_episode() -> None:
    task = labelled([9, 9])
    drawn = [
        sample_episode(task, support=3, query=6, per_class=True, rng=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].name == "reviews"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((-1, 1), "support size .* not -1"), ((1, -1), "query size .* not -1"), ((0, 0), "is empty")],
)
def test_sizes_that_cannot_work_are_refused(sizes: tuple[int, int], message: str) -> None:
    support, query = sizes
    with pytest.raises(ConfigError, match=message):
        sample_episode(
            labelled([2]),
            support=support,
            query=query,
            per_class=False,
            rng=np.random.default_rng(),
        )


def test_a_task_without_rows_has_no_episode() -> None:
    with pytest.raises(InputDataError, match="reviews: there are no rows to make an episode of"):
        sample_episode(task_of(), support=1, query=1, per_class=True, rng=np.random.default_rng(0))


# Tasks held out


@patient
@given(names, st.floats(0.01, 0.99), st.integers())
def test_whole_tasks_are_held_out_by_name_alone(names: list[str], share: float, seed: int) -> None:
    tasks = [task_of("text", name=name) for name in names]
    train, dev = split_tasks(tasks, share, seed)
    assert train
    assert dev
    assert sorted(task.name for task in train + dev) == sorted(names)
    assert abs(len(dev) - share * len(names)) <= 1
    turned = split_tasks(tasks[::-1], share, seed)
    assert (turned[0][::-1], turned[1][::-1]) == (train, dev)


@patient
@given(names, st.floats(0.01, 0.99), st.integers())
def test_a_task_that_is_added_moves_one_other_at_most(
    names: list[str], share: float, seed: int
) -> None:
    *some, added = [task_of("text", name=name) for name in [*names, "added task"]]
    before = {task.name for task in split_tasks(some, share, seed)[1]}
    after = {task.name for task in split_tasks([*some, added], share, seed)[1]}
    assert len((before ^ after) - {"added task"}) <= 1


def test_the_share_is_met_and_the_seed_decides() -> None:
    tasks = [task_of("text", name=f"task {n}") for n in range(20)]
    held = {tuple(task.name for task in split_tasks(tasks, 0.25, seed)[1]) for seed in range(40)}
    assert {len(names) for names in held} == {5}
    assert {name for names in held for name in names} == {task.name for task in tasks}


def test_one_task_cannot_be_split() -> None:
    with pytest.raises(InputDataError, match=r"only 1 task \('reviews'\): .* takes two; add tasks"):
        split_tasks([task_of("text")], 0.5, 0)
    with pytest.raises(ConfigError, match="must lie between 0 and 1, not 1"):
        split_tasks([task_of("text")], 1, 0)


# Rows and tasks in two places


def test_shared_inputs_go_from_train_and_dev_never_from_test() -> None:
    train = task_of("One  text", "two", "three", "four", name="train")
    dev = task_of("two", "FOUR ", "five", name="dev")
    test = task_of("one\ttext", "five", name="test", options=("other", "labels"))
    overlap = remove_overlap([train], [dev], [test])
    assert inputs(overlap.train.tasks[0]) == ["three"]
    assert inputs(overlap.dev.tasks[0]) == ["two", "FOUR "]
    assert overlap.counts == {"train": 3, "dev": 1}
    assert overlap.train.tasks[0].warnings == (
        "3 rows dropped, also in the dev or test tasks: 'train.csv, row 2', 'train.csv, row 3', "
        "'train.csv, row 5'",
    )
    (warning,) = overlap.dev.tasks[0].warnings
    assert warning == "1 row dropped, also in the test tasks: 'dev.csv, row 4'"


def test_a_task_left_empty_is_left_out_and_one_untouched_is_the_same() -> None:
    gone, kept = task_of("one", name="gone"), task_of("two", name="kept")
    overlap = remove_overlap([gone, kept], [], [task_of("one")])
    assert overlap.train.tasks == (kept,)
    assert overlap.train.warnings == (
        "gone left out: all its rows also stand in the dev or test tasks",
    )


@pytest.mark.parametrize(
    ("other", "remains"),
    [
        (quiz_of(("What next?", ("He ate.", "He slept."))), False),
        (quiz_of(("what  next?", ("he slept.", "HE ate."))), False),
        (quiz_of(("What next?", ("He ate.", "He ran."))), True),
        (quiz_of(("What then?", ("He ate.", "He slept."))), True),
        (task_of("What next?"), False),
        (task_of("What then?"), True),
    ],
)
def test_questions_are_the_same_if_their_options_are(other: Task, remains: bool) -> None:
    quiz = quiz_of(("What next?", ("He ate.", "He slept.")), name="own")
    assert len(remove_overlap([quiz], [], [other]).train) == remains
    assert len(remove_overlap([other], [], [quiz]).train) == remains


texts = st.lists(st.sampled_from(["a", "A", " a", "b", "c  d", "c d", "e"]), max_size=6)


@patient
@given(texts, texts, texts)
def test_after_removal_the_parts_share_no_input(
    train: list[str], dev: list[str], test: list[str]
) -> None:
    overlap = remove_overlap([task_of(*train)], [task_of(*dev)], [task_of(*test)])
    parts = [
        {" ".join(text.lower().split()) for task in tasks for text in inputs(task)}
        for tasks in (overlap.train, overlap.dev, [task_of(*test)])
    ]
    assert not any(one & other for one, other in combinations(parts, 2))
    left = [sum(map(len, tasks)) for tasks in (overlap.train, overlap.dev)]
    assert [len(train) - left[0], len(dev) - left[1]] == list(overlap.counts.values())


def test_the_first_of_repeated_rows_is_kept() -> None:
    task = task_of("one", "two", "ONE", "three", " two")
    once = remove_repeats(task)
    assert once.examples == tuple(task.examples[n] for n in (0, 1, 3))
    assert once.warnings == ("2 rows dropped, repeated within the task",)
    assert remove_repeats(once) is once
    quiz = quiz_of(("What next?", ("a", "b")), ("What next?", ("a", "c")))
    assert remove_repeats(quiz) is quiz


def test_a_task_in_two_parts_is_a_leak() -> None:
    check_disjoint(train=["a", "b"], dev=["c"], test=iter(["d"]))
    with pytest.raises(InputDataError, match="in part 'dev' and in part 'test': c, d: a leak"):
        check_disjoint(train=["a", "b"], dev=["c", "d"], test=["d", "e", "c"])


def test_a_partition_is_checked_for_leaks() -> None:
    parts = {"train": ("a", "b"), "test": ("c", "b"), "new_test": ("c",), "dev": ("d",)}
    partition = Partition("parts.json", parts)
    with pytest.raises(InputDataError, match=r"parts\.json: in part 'train' and .*'test': b: a le"):
        partition.check_leaks()
    with pytest.raises(InputDataError, match="'test' and in part 'new_test': c: a leak"):
        partition.check_leaks("test", "new_test")
    partition.check_leaks("train", "dev")
    with pytest.raises(ConfigError, match="there is no part 'tests'"):
        partition.check_leaks("train", "tests")


# Queries


@patient
@given(
    st.lists(st.tuples(st.text(max_size=2), st.integers(0, 2)), min_size=1, max_size=12),
    st.integers(1, 12),
    st.randoms(),
)
def test_the_queries_kept_do_not_depend_on_the_order_of_the_file(
    rows: list[tuple[str, int]], limit: int, random: Random
) -> None:
    examples = [Example(input=text, options=OPTIONS, label=n, where="") for text, n in rows]
    shuffled = random.sample(examples, len(examples))
    capped, again = (cap_queries(Task("t", tuple(e)), limit) for e in (examples, shuffled))
    assert Counter(capped.examples) == Counter(again.examples)
    assert len(capped) == min(limit, len(examples))
    left = iter(examples)
    assert all(row in left for row in capped.examples), "not in the file's order"


@patient
@given(st.lists(st.text(max_size=3), unique=True, min_size=2, max_size=12), st.integers(1, 12))
def test_a_row_that_is_added_displaces_one_query_at_most(texts: list[str], limit: int) -> None:
    before, after = (set(cap_queries(task_of(*t), limit).examples) for t in (texts[:-1], texts))
    assert len(before - after) <= 1


def test_capping_is_said_and_touches_no_small_task() -> None:
    task = task_of("one", "two", "three")
    assert cap_queries(task, 3) is task
    assert cap_queries(task, 2).warnings == ("2 of 3 rows kept, chosen by a hash of their text",)
    with pytest.raises(ConfigError, match="limit must be positive"):
        cap_queries(task, 0)

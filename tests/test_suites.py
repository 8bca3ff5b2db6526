"""The suites of examples/meta_learning on the real files: nothing leaks from test into train."""

import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType

import pytest

from bayes_lora.data import Example, Kind, Task, cap_queries
from bayes_lora.data.crossfit import read_crossfit
from bayes_lora.errors import ConfigError, InputDataError

FOLDER = Path(__file__).parents[1] / "examples" / "meta_learning"
SEEDS = (13, 21, 42, 87, 100)
NAMES = ("class_to_class", "multiple_choice", "fdu_mtl", "clinc150", "unifiedqa")


@pytest.fixture(scope="module")
def suites() -> ModuleType:
    """The script, which imports its siblings by plain name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import suites

        return suites


@pytest.fixture(scope="module")
def fdu_mtl(suites: ModuleType) -> ModuleType:
    return sys.modules["fdu_mtl"]


@pytest.fixture(scope="module")
def folds(suites: ModuleType, data_folder: Path) -> dict[str, tuple]:
    """All folds of every suite, read once."""
    return {name: suites.load_suite(name, data_folder) for name in NAMES}


@pytest.fixture(params=NAMES)
def own(request: pytest.FixtureRequest, folds: dict[str, tuple]) -> tuple:
    """All folds of each suite."""
    return folds[request.param]


def content(row: Example, kind: Kind) -> tuple[str, frozenset[str]]:
    options = row.options if kind is Kind.MULTIPLE_CHOICE else ()
    return " ".join(row.input.casefold().split()), frozenset(options)


def contents(task: Task) -> set[tuple[str, frozenset[str]]]:
    return {content(row, task.kind) for row in task.examples}


def shown(test) -> Task:
    """A test task's supports."""
    return replace(test.queries, examples=tuple(r for s in test.supports.values() for r in s))


def test_no_input_stands_in_two_of_train_dev_and_test(own: tuple) -> None:
    for fold in own:
        test = [task for t in fold.test for task in (t.queries, shown(t))]
        parts = [set().union(*map(contents, tasks)) for tasks in (fold.train, fold.dev, test)]
        assert all(parts)
        assert not any(one & other for one, other in combinations(parts, 2))


def test_no_support_holds_a_query_of_its_task(own: tuple) -> None:
    for fold in own:
        for test in fold.test:
            assert not contents(test.queries) & contents(shown(test)), test.name


def test_no_task_is_in_two_parts_and_no_row_twice_in_a_task(own: tuple) -> None:
    for fold in own:
        names = [task.name for task in (*fold.train, *fold.dev, *fold.test)]
        assert len(set(names)) == len(names)
        for task in (*fold.train, *fold.dev):
            assert len(contents(task)) == len(task), task.name


def test_supports_have_the_sizes_asked_for_and_are_nested(own: tuple) -> None:
    for fold in own:
        for test in fold.test:
            assert set(test.supports) == {(size, seed) for size in fold.sizes for seed in SEEDS}
            for (size, _), support in test.supports.items():
                found = Counter(row.options[row.label] for row in support)
                if fold.per_class:
                    assert found == dict.fromkeys(test.queries.options, size)
                else:
                    assert found.total() == size
            for seed in SEEDS:
                drawn = [test.supports[size, seed] for size in fold.sizes]
                assert all(set(less) <= set(more) for less, more in pairwise(drawn))
            assert len({test.supports[fold.sizes[-1], seed] for seed in SEEDS}) == len(SEEDS)


def test_every_query_has_a_label_and_there_are_at_most_500(own: tuple) -> None:
    for fold in own:
        for test in fold.test:
            assert 0 < len(test.queries) <= 500
            assert len(test.queries.labels) == len(test.queries)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("class_to_class", (33, 8, 14)),
        ("multiple_choice", (7, 2, 8)),
        ("fdu_mtl", (10, 2, 4)),
        ("clinc150", (5, 3, 2)),
    ],
)
def test_the_suites_have_their_tasks(
    folds: dict[str, tuple], name: str, parts: tuple[int, int, int]
) -> None:
    for fold in folds[name]:
        assert tuple(map(len, (fold.train, fold.dev, fold.test))) == parts


def test_tasks_without_data_or_test_file_are_listed(folds: dict[str, tuple]) -> None:
    (fold,) = folds["class_to_class"]
    assert fold.left_out == (
        "yahoo_answers_topics: no data",
        "amazon_polarity: no data",
        "dbpedia_14: no data",
        "financial_phrasebank: no data",
        "ag_news: no test file",
        "yelp_polarity: no test file",
        "tab_fact: no test file",
        "tweet_eval-emoji: options that MiniLM cannot read",
    )
    assert not any(f.left_out for name in NAMES[1:] for f in folds[name])


def test_what_was_removed_is_the_difference_to_the_files(
    folds: dict[str, tuple], data_folder: Path, fdu_mtl: ModuleType
) -> None:
    (fold,) = folds["fdu_mtl"]
    read = 0
    for part in (fold.train, fold.dev):
        for task in part:
            read += (
                len((data_folder / "fdu_mtl" / f"{task.name}.task.train").read_bytes().split(b"\n"))
                - 1
            )
    kept = sum(map(len, (*fold.train, *fold.dev)))
    pools = [fdu_mtl.read_domain(data_folder / "fdu_mtl", t.name, "train") for t in fold.test]
    repeats = sum(len(pool) - len(contents(pool)) for pool in pools)
    leaks = sum(
        len(contents(pool) & contents(test.queries))
        for pool, test in zip(pools, fold.test, strict=True)
    )
    assert fold.removed["support"] == leaks
    removed = fold.removed["repeats"] + fold.removed["train"] + fold.removed["dev"]
    assert read - kept == removed - repeats


def test_every_clinc_domain_is_tested_once(folds: dict[str, tuple]) -> None:
    tested = Counter(test.name for fold in folds["clinc150"] for test in fold.test)
    assert len(tested) == 10
    assert set(tested.values()) == {1}
    assert [fold.fold for fold in folds["clinc150"]] == ["1", "2", "3", "4", "5"]
    for fold in folds["clinc150"]:
        assert len({task.name for task in (*fold.train, *fold.dev, *fold.test)}) == 10
        for task in (*fold.train, *fold.dev, *(test.queries for test in fold.test)):
            assert len(task.options) == 15


def test_crossfit_supports_are_the_seeds_own_train_files(
    folds: dict[str, tuple], data_folder: Path
) -> None:
    for name in ("class_to_class", "multiple_choice"):
        (fold,) = folds[name]
        test = fold.test[0]
        for seed in SEEDS:
            file = read_crossfit(data_folder / "crossfit" / "data" / test.name, seed)
            assert set(test.supports[16, seed]) == set(file.splits["train"].examples)


def test_the_queries_do_not_depend_on_the_order_of_the_file(
    folds: dict[str, tuple], data_folder: Path
) -> None:
    capped = [t for t in folds["class_to_class"][0].test if len(t.queries) == 500]
    test = capped[0]
    file = read_crossfit(data_folder / "crossfit" / "data" / test.name).splits["test"]
    assert len(file) > 500
    backwards = cap_queries(replace(file, examples=file.examples[::-1]), 500)
    assert set(backwards.examples) == set(test.queries.examples)


def test_a_fold_is_described(suites: ModuleType, folds: dict[str, tuple]) -> None:
    lines = suites.describe(folds["fdu_mtl"][0]).split("\n")
    assert lines[0] == "fdu_mtl, fold 1"
    assert any(line.split()[:3] == ["test", "MR", "400"] for line in lines)
    assert lines[-1].startswith("removed: ")


# Without the real files


def test_an_unknown_suite_names_those_there_are(suites: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no suite 'clinc'; the suites are class_to_class, mult"):
        suites.load_suite("clinc", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_data_is_refused(
    suites: ModuleType, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputDataError):
        suites.load_suite(name, tmp_path)


def test_reviews_are_read_in_either_encoding(fdu_mtl: ModuleType, tmp_path: Path) -> None:
    # U+0085, as UTF-8 and as latin-1, ends no line.
    lines = [b"1\tcaf\xc3\xa9 \xc2\x85 .", b"0\tcaf\xe9 \x85 .", b"0\t ", b'1\t " good "']
    (tmp_path / "cafes.task.train").write_bytes(b"\n".join(lines) + b"\n")
    task = fdu_mtl.read_domain(tmp_path, "cafes", "train")
    assert [row.input for row in task.examples] == ["café \x85 .", "café \x85 .", '" good "']
    assert task.labels == [1, 0, 1]
    assert task.options == ("negative", "positive")
    assert task.warnings == ("dropped, without a text: cafes.task.train, line 3",)


def test_a_line_without_a_label_is_named(fdu_mtl: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cafes.task.test").write_text("1\tfine\nbad\t\n")
    with pytest.raises(InputDataError, match=r"cafes\.task\.test, line 2: the label is 'bad', not"):
        fdu_mtl.read_domain(tmp_path, "cafes", "test")

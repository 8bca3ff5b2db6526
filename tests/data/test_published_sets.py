"""The readers on the real data sets; skipped, loudly, where there is no folder of them."""

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bayes_lora.data import Example, Kind, Task, TaskSplits, inspect, read
from bayes_lora.data.crossfit import read_crossfit, task_folders
from bayes_lora.data.unifiedqa import read_unifiedqa
from bayes_lora.errors import InputDataError

SEEDS = (13, 21, 42, 87, 100)
READ = (13, 100)  # all files are read for any of them
TSV_TASKS = (
    *("ai2_arc", "emotion", "glue-mrpc", "glue-rte"),
    *("openbookqa", "rotten_tomatoes", "superglue-cb", "trec"),
)
MULTIPLE_CHOICE_SETS = ("arc_easy", "commonsenseqa", "mctest", "openbookqa")


@pytest.fixture(scope="module")
def crossfit(data_folder: Path) -> Path:
    return data_folder / "crossfit" / "data"


@pytest.fixture(scope="module")
def tasks(crossfit: Path) -> dict[tuple[str, int], TaskSplits]:
    """All tasks with the first seed and the last."""
    return {
        (folder.name, seed): read_crossfit(folder, seed)
        for folder in task_folders(crossfit)
        for seed in READ
    }


def rows_of(path: Path) -> int:
    return sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").split("\n"))


def test_all_rows_of_all_crossfit_tasks_are_read(
    crossfit: Path, tasks: dict[tuple[str, int], TaskSplits]
) -> None:
    assert len(tasks) == 90 * len(READ)
    for (name, seed), task in tasks.items():
        assert (task.name, task.seeds) == (name, SEEDS)
        files = {
            "train": crossfit / name / f"{name}_16_{seed}_train.jsonl",
            "dev": crossfit / name / f"{name}_16_{seed}_dev.jsonl",
            "test": crossfit / name / f"{name}_16_13_test.jsonl",
        }
        there = {split: path for split, path in files.items() if path.exists()}
        assert set(task.splits) == set(there)
        for split, path in there.items():
            assert len(task.splits[split]) == rows_of(path)  # none is dropped
            assert task.splits[split].split == split


def test_kinds_and_options_are_those_of_the_index(
    data_folder: Path, tasks: dict[tuple[str, int], TaskSplits]
) -> None:
    with (data_folder / "crossfit" / "TASKS.tsv").open(encoding="utf-8", newline="") as file:
        index = list(csv.DictReader(file, delimiter="\t"))
    assert len(index) == 90
    kinds = {"classification": Kind.FIXED_LABELS, "multiple-choice": Kind.MULTIPLE_CHOICE}
    for row in index:
        task = tasks[row["task"], 13]
        assert task.kind is kinds[row["kind"]]
        rows = [example for split in task.splits.values() for example in split.examples]
        numbers = {len(example.options) for example in rows}
        assert int(row["n_options"]) in numbers
        if task.kind is Kind.FIXED_LABELS:
            assert len({example.options for example in rows}) == 1
            assert list(rows[0].options) == sorted(rows[0].options)
        test = task.splits.get("test")
        if row["majority_test"] and test is not None:
            (_, most), *_ = Counter(test.labels).most_common()
            assert most / len(test) == pytest.approx(float(row["majority_test"]), abs=6e-4)


def content(task: Task) -> list[Example]:
    return [replace(example, where="") for example in task.examples]


@pytest.mark.parametrize("name", TSV_TASKS)
def test_a_task_reads_the_same_from_both_layouts(
    data_folder: Path, name: str, tasks: dict[tuple[str, int], TaskSplits]
) -> None:
    for seed in READ:
        ours = read_crossfit(data_folder / "crossfit_tsv" / name, seed)
        metaicl = tasks[name, seed]
        assert (ours.kind, ours.leaks) == (metaicl.kind, metaicl.leaks)
        assert set(ours.splits) == set(metaicl.splits)
        for split, task in ours.splits.items():
            assert content(task) == content(metaicl.splits[split])
        assert ours.warnings[0].startswith("the options are ")


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("tweet_eval-irony", "2 of 4 options are never a label: '0', '1'"),
        ("tweet_eval-irony", "'non-irony' is an option, but its opposite is not 'irony': 'hate'"),
        ("tweet_eval-offensive", "'non-offensive' is an option, but .* not 'offensive': 'hate'"),
        ("ethos-directed_vs_generalized", "'generalied' nearly spells 'generalized'"),
        ("sms_spam", "6 test rows also stand, with the same options, in train or dev of some seed"),
        ("trec", "2 test rows also stand, with the same options, in train or dev of some seed"),
    ],
)
def test_the_traps_are_warned_of(crossfit: Path, name: str, warning: str) -> None:
    (task,) = read(f"crossfit:{crossfit}/{name}", split="test")
    assert [text for text in task.warnings if re.search(warning, text)]


def test_there_are_few_other_warnings(tasks: dict[tuple[str, int], TaskSplits]) -> None:
    odd = {name: task.warnings for (name, seed), task in tasks.items() if seed == 13}
    labels = {
        name
        for name, warnings in odd.items()
        if any("option" in text and "same options" not in text for text in warnings)
    }
    assert labels == {
        *("tweet_eval-irony", "tweet_eval-offensive", "ethos-directed_vs_generalized"),
        *("discovery", "trec-finegrained"),  # labels that occur in no file
    }
    assert sum(map(bool, odd.values())) < 25


def test_equal_options_of_a_row_are_merged_and_counted(crossfit: Path) -> None:
    (task,) = read(f"crossfit:{crossfit}/commonsense_qa#test")
    (warning,) = task.warnings
    assert warning.startswith("24 rows with equal options, which are merged: commonsense_qa_16_13")
    assert Counter(len(example.options) for example in task.examples) == {5: 1197, 4: 24}


@pytest.mark.parametrize(
    ("partition", "part", "absent", "without_test"),
    [
        ("class_to_class", "train", {"yahoo_answers_topics"}, {"discovery", "imdb"}),
        ("class_to_class", "test", {"amazon_polarity", "dbpedia_14"}, {"ag_news", "tab_fact"}),
        ("qa_to_qa", "train", {"biomrc", "unifiedqa:squad2"}, {"boolq"}),
        ("qa_to_qa", "test", {"unifiedqa:mctest"}, {"hellaswag", "swag"}),
    ],
)
def test_partitions_list_what_is_left_out(
    data_folder: Path,
    crossfit: Path,
    partition: str,
    part: str,
    absent: set[str],
    without_test: set[str],
) -> None:
    file = data_folder / "crossfit" / "config" / f"{partition}.json"
    tasks = read(f"crossfit:{crossfit}#test", partition=file, part=part)
    missing, lacking = (set(text.rpartition(": ")[2].split(", ")) for text in tasks.warnings)
    assert absent <= missing
    assert not {name for name in missing if (crossfit / name).exists()}
    assert without_test <= lacking
    assert not lacking & {task.name for task in tasks}
    with pytest.raises(InputDataError, match=r"not in .* without a split 'test'"):
        read(f"crossfit:{crossfit}#test", partition=file, part=part, strict=True)


@pytest.mark.parametrize("name", MULTIPLE_CHOICE_SETS)
def test_all_rows_of_the_unifiedqa_sets_are_read(data_folder: Path, name: str) -> None:
    folder = data_folder / "unifiedqa" / name
    task = read_unifiedqa(folder)
    assert task.kind is Kind.MULTIPLE_CHOICE
    for split, rows in task.splits.items():
        lines = (folder / f"{split}.tsv").read_text(encoding="utf-8").split("\n")
        pairs = [line.split("\t") for line in lines if line.strip()]
        assert len(rows) == len(pairs)
        for example, (text, answer), label in zip(rows.examples, pairs, rows.labels, strict=True):
            assert example.options[label] == " ".join(answer.split())
            assert example.input.startswith(" ".join(text.split(r" \n ")[0].split()))
            assert text.count(r" \n ") == example.input.count(r" \n ") + 1
    assert len(task.splits) == 3


def test_letters_that_may_not_begin_an_option_are_warned_of(data_folder: Path) -> None:
    tasks = read(f"unifiedqa:{data_folder}/unifiedqa", split="train")
    warned = {task.name: text for task in tasks for text in task.warnings if "letter" in text}
    assert set(warned) == {"openbookqa"}
    commonsense = next(task for task in tasks if task.name == "commonsenseqa")
    assert commonsense.warnings[0].startswith("106 rows with equal options")


def test_the_table_has_a_row_for_every_task_and_all_warnings(crossfit: Path) -> None:
    text = inspect(f"crossfit:{crossfit}")
    table, _, rest = text.partition("\n\n")
    header, *rows = table.split("\n")
    assert header.split() == [
        *("task", "kind", "options", "train", "dev", "test", "seeds", "majority", "leaks")
    ]
    assert len(rows) == 90
    (row,) = (row for row in rows if row.startswith("glue-rte "))
    assert row.split()[-4:] == ["13,21,42,87,100", "0.527", "(test)", "0"]
    assert "total: 90 tasks (70 fixed labels, 20 multiple choice)" in rest
    assert "sms_spam\n    - 6 test rows" in rest
    assert max(map(len, table.split("\n"))) < 160

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bayes_lora.data import Kind, TaskSplits, read
from bayes_lora.data.crossfit import read_crossfit
from bayes_lora.errors import InputDataError

LABELLED = "one\ta\ntwo\tb\nthree\ta\nfour\tb\n"
QUESTIONS = "Hot? (A) ice (B) steam\tsteam\nCold? (A) ice (B) fire\tice\n"


def jsonl(*rows: tuple[str, str, Sequence[str]]) -> str:
    keys = ("input", "output", "options")
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


def task_of(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Files of a task "desks", by what their names end with: "13_train.tsv"."""
    folder = folder / "desks"
    folder.mkdir(exist_ok=True)
    for end, content in files.items():
        path = folder / f"desks_16_{end}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def refusal(folder: Path, files: Mapping[str, str | bytes]) -> str:
    """The one-line message the task is refused with."""
    with pytest.raises(InputDataError) as caught:
        read_crossfit(task_of(folder, files))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def inputs(task: TaskSplits, split: str) -> list[str]:
    return [example.input for example in task.splits[split].examples]


def test_the_lowest_seed_is_read_and_the_test_file_of_any(tmp_path: Path) -> None:
    folder = task_of(
        tmp_path,
        {
            **{f"{seed}_train.tsv": f"{LABELLED}of {seed}\ta\n" for seed in (100, 21)},
            **{f"{seed}_dev.tsv": LABELLED for seed in (100, 21)},
            "100_test.tsv": f"{LABELLED}of the test\tb\n",
        },
    )
    for seed in (None, 100, 21):
        task = read_crossfit(folder, seed)
        assert task.seeds == (21, 100)
        assert inputs(task, "train")[-1] == f"of {seed or 21}"
        assert inputs(task, "test")[-1] == "of the test"


def test_a_split_of_another_seed_is_not_taken(tmp_path: Path) -> None:
    folder = task_of(tmp_path, {"13_train.tsv": LABELLED, "21_dev.tsv": LABELLED})
    assert set(read_crossfit(folder).splits) == {"train"}
    assert set(read_crossfit(folder, 21).splits) == {"dev"}


def test_rows_that_share_their_options_have_fixed_labels_in_alphabetical_order(
    tmp_path: Path,
) -> None:
    rows = jsonl(("one", "b", ["b", "a"]), ("two", "a", ["a", "b"]))
    task = read_crossfit(task_of(tmp_path, {"13_train.jsonl": rows})).splits["train"]
    assert (task.kind, task.options, task.labels) == (Kind.FIXED_LABELS, ("a", "b"), [1, 0])
    assert task.examples[1].where == "desks_16_13_train.jsonl, line 2"


def test_the_kind_is_decided_over_all_files(tmp_path: Path) -> None:
    files = {
        "13_train.jsonl": jsonl(("one", "b", ["b", "a"])),
        "21_dev.jsonl": jsonl(("two", "c", ["a", "c"])),
    }
    task = read_crossfit(task_of(tmp_path, files)).splits["train"]
    assert (task.kind, task.examples[0].options) == (Kind.MULTIPLE_CHOICE, ("b", "a"))


def test_white_space_is_made_one_space(tmp_path: Path) -> None:
    files = {"13_train.jsonl": jsonl((" a\u00a0 b\n\u0085c ", " x ", ["x", "y  z"]))}
    (example,) = read_crossfit(task_of(tmp_path, files)).splits["train"].examples
    assert (example.input, example.options, example.label) == ("a b c", ("x", "y z"), 0)


def test_options_are_cut_out_of_the_text(tmp_path: Path) -> None:
    task = read_crossfit(task_of(tmp_path, {"13_train.tsv": QUESTIONS}))
    first, second = task.splits["train"].examples
    assert (first.input, first.options, first.label) == ("Hot?", ("ice", "steam"), 1)
    assert (second.input, second.options, second.label) == ("Cold?", ("ice", "fire"), 0)
    assert task.warnings == (
        "the options are cut out of the texts, where they stand as (A) .. (B) ..",
    )


def test_a_passage_behind_the_options_stands_where_metaicl_puts_it(tmp_path: Path) -> None:
    rows = "Hot? (A) ice (B) steam [SEP] Water (C) boils.\tsteam\n" + QUESTIONS
    task = read_crossfit(task_of(tmp_path, {"13_train.tsv": rows})).splits["train"]
    first = task.examples[0]
    assert (first.input, first.options) == ("Water (C) boils.Hot?", ("ice", "steam"))


def test_a_letter_in_brackets_alone_makes_no_multiple_choice(tmp_path: Path) -> None:
    rows = LABELLED + "poly (A) site (B) found\ta\n"
    task = read_crossfit(task_of(tmp_path, {"13_train.tsv": rows}))
    assert (task.kind, task.splits["train"].options) == (Kind.FIXED_LABELS, ("a", "b"))
    assert task.warnings == ("the options are the 2 labels that occur in its files",)
    rows = "Which? (A) ice (B) steam\tA\nWhich? (A) fire (B) ice\tB\n"
    task = read_crossfit(task_of(tmp_path, {"13_train.tsv": rows}))
    assert task.splits["train"].options == ("A", "B")


def test_an_answer_that_is_no_option_drops_the_row(tmp_path: Path) -> None:
    files = {"13_train.tsv": QUESTIONS * 5 + "Hot? (A) ice (B) steam\tlava\n"}
    (task,) = read(f"crossfit:{task_of(tmp_path, files)}#train")
    assert len(task) == 10
    assert task.warnings[0] == (
        "1 row dropped, whose answer is not among the options: desks_16_13_train.tsv, line 11"
    )
    rows = [("one", "x", ["x", "y"]), ("two", "z", ["x", "y"]), ("three", "Y", ["x", "y"])]
    files = {"13_train.jsonl": jsonl(*rows)}
    folder = tmp_path / "other"
    folder.mkdir()
    task = read_crossfit(task_of(folder, files)).splits["train"]
    assert len(task) == 1
    assert task.warnings[0].endswith("the options: desks_16_13_train.jsonl, line 2, 3")


def test_equal_options_are_merged_and_too_few_drop_the_row(tmp_path: Path) -> None:
    rows = [("one", "y", ["x", "y", " x"]), ("two", "x", ["x", "x"]), ("three", "x", ["x", "y"])]
    task = read_crossfit(task_of(tmp_path, {"13_train.jsonl": jsonl(*rows)})).splits["train"]
    assert [example.options for example in task.examples] == [("x", "y")] * 2
    assert task.labels == [1, 0]
    assert task.warnings == (
        "1 row with equal options, which are merged: desks_16_13_train.jsonl, line 1",
        "1 row dropped, with fewer than two options that differ: desks_16_13_train.jsonl, line 2",
    )


def test_crlf_a_byte_order_mark_and_blank_lines_are_read(tmp_path: Path) -> None:
    marked = b"\xef\xbb\xbf" + LABELLED.replace("\n", "\r\n\r\n").encode()
    plain = read_crossfit(task_of(tmp_path, {"13_train.tsv": LABELLED})).splits["train"]
    task = read_crossfit(task_of(tmp_path, {"13_train.tsv": marked})).splits["train"]
    assert [example.input for example in task.examples] == [e.input for e in plain.examples]
    assert task.labels == plain.labels
    assert task.examples[1].where == "desks_16_13_train.tsv, line 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\ta\ntwo\n", "line 2: 1 column where there must be two"),
        ("one\ta\ntwo\tb\tc\n", "line 2: 3 columns where"),
        ("one\ta\n \tb\n", "line 2: 'input' is missing or empty"),
        ("one\ta\ntwo\t \n", "line 2: 'output' is missing or empty"),
        ("\n\n", "the file is empty"),
        (b"one\ta\ncaf\xe9\tb\n", "line 2: byte 0xe9, which is not UTF-8"),
        ("one\ta\ntwo\ta\n", "desks: one class only"),
        ("one\tw\ntwo\tx\nthree\ty\nfour\tz\n", "desks: the answers look like free text"),
        ("(A) x (B) y\tx\n", "line 1: there is no question before the options"),
        ("one\tx\ntwo\ty\nthree (A) x (B) y\tz\n", "desks: the answers look like free text"),
    ],
)
def test_tsv_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path, {"13_train.tsv": content})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jsonl(("one", "a", ["a", "b"])) + "{'input'\n", "line 2: not valid JSON"),
        ('{"input": "one", "output": "a"}\n', "line 1: 'options' is not a list"),
        ('{"input": "one", "options": ["a", "b"]}\n', "line 1: 'output' is missing or empty"),
        ('{"output": "a", "options": ["a", "b"]}\n', "line 1: 'input' is missing or empty"),
        (jsonl((" ", "a", ["a", "b"])), "line 1: 'input' is missing or empty"),
        (jsonl(("one", "a", ["a", " "])), "line 1: an option is empty"),
        ('{"input": ["x"], "output": "a", "options": ["a", "b"]}', "line 1: 'input' is a list"),
        ("", "the file is empty"),
        (b'{"input": "caf\xe9"}\n', "line 1: byte 0xe9"),
        (jsonl(("one", "a", [])), "desks: no row lists options"),
        (jsonl(("one", "c", ["a", "b"])), "desks, train: no row can be used: 1 row dropped"),
    ],
)
def test_jsonl_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path, {"13_train.jsonl": content})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["desks_16_13_train.tsv", "desks_16_13_dev.jsonl"], "several layouts, 'jsonl', 'tsv'"),
        (["desks_16_13_train.tsv", "mails_16_13_dev.tsv"], "several tasks, 'desks', 'mails'"),
        (["desks_16_13_train.tsv", "desks_32_13_dev.tsv"], "several numbers of shots, '16', '32'"),
    ],
)
def test_a_mixed_folder_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text(LABELLED)
    with pytest.raises(InputDataError, match=message):
        read(f"crossfit:{tmp_path}#train")


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputDataError, match="there are no CrossFit tasks in it"):
        read(f"crossfit:{tmp_path}#train")


def test_a_task_of_free_text_is_left_out_of_a_collection(tmp_path: Path) -> None:
    task_of(tmp_path, {"13_train.tsv": LABELLED})
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "free_16_13_train.tsv").write_text("one\tx\ntwo\ty\nthree\tz\n")
    (tmp_path / "README").mkdir()
    tasks = read(f"crossfit:{tmp_path}#train")
    assert [task.name for task in tasks] == ["desks"]
    (warning,) = tasks.warnings
    assert warning.startswith("left out: free: the answers look like free text")
    with pytest.raises(InputDataError, match="free: the answers look like free text"):
        read(f"crossfit:{tmp_path}#train", strict=True)


def test_one_row_without_a_list_does_not_make_labels_of_all_answers(tmp_path: Path) -> None:
    questions = "".join(f"{i}? (A) ice (B) steam\t{('ice', 'steam')[i % 2]}\n" for i in range(20))
    folder = task_of(tmp_path, {"13_train.tsv": questions + "no list here\tice\n"})
    task = read_crossfit(folder)
    assert len(task.splits["train"]) == 20
    assert task.splits["train"].examples[0].input == "0?"
    (warning,) = task.splits["train"].warnings
    assert "1 row dropped" in warning
    assert "line 21" in warning

import json
from pathlib import Path

import pytest

from bayes_lora.data import TaskSet, inspect, read
from bayes_lora.data.partition import read_partition
from bayes_lora.errors import ConfigError, InputDataError

PARTS = {"train": ["desks"], "test": ["mails", "absent"], "unseen_domain_test": ["mails"]}


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    for task in ("desks", "mails", "unnamed"):
        (tmp_path / "tasks" / task).mkdir(parents=True)
        path = tmp_path / "tasks" / task / f"{task}_4_13_train.tsv"
        path.write_text("one\ta\ntwo\tb\nthree\ta\nfour\tb\n")
    return tmp_path / "tasks"


def read_parts(
    collection: Path, parts: object, part: str | None, *, strict: bool = False
) -> TaskSet:
    file = collection.parent / "parts.json"
    file.write_text(json.dumps(parts))
    return read(f"crossfit:{collection}", split="train", partition=file, part=part, strict=strict)


@pytest.mark.parametrize(
    ("part", "names"), [("train", ["desks"]), ("test", ["mails"]), (None, ["desks", "mails"])]
)
def test_the_tasks_of_a_part_are_read(collection: Path, part: str | None, names: list[str]) -> None:
    tasks = read_parts(collection, PARTS, part)
    assert [task.name for task in tasks] == names


def test_absent_tasks_are_listed_or_refused(collection: Path) -> None:
    (warning,) = read_parts(collection, PARTS, "test").warnings
    assert warning == f"1 task of parts.json left out, not in '{collection}': absent"
    with pytest.raises(InputDataError, match=r"1 task of parts\.json left out, not in .*: absent;"):
        read_parts(collection, PARTS, "test", strict=True)
    assert len(read_parts(collection, PARTS, "train", strict=True)) == 1
    with pytest.raises(InputDataError, match=r"no task is left to read: 1 task of parts\.json"):
        read_parts(collection, {"train": ["absent"]}, "train")


def test_a_name_is_not_a_path(collection: Path) -> None:
    tasks = read_parts(collection, {"train": ["desks", "../tasks/mails", "."]}, None)
    assert [task.name for task in tasks] == ["desks"]


def test_a_task_in_two_parts_is_warned_of_unless_one_part_is_a_selection(collection: Path) -> None:
    assert not any("in part" in text for text in read_parts(collection, PARTS, None).warnings)
    parts = {"train": ["desks", "mails"], "test": ["mails"]}
    assert read_parts(collection, parts, "train").warnings == (
        "parts.json: in part 'train' and in part 'test': mails",
    )


def test_the_table_says_which_part(collection: Path) -> None:
    read_parts(collection, PARTS, None)
    text = inspect(f"crossfit:{collection}", partition=collection.parent / "parts.json")
    header, desks, mails = (line.split() for line in text.split("\n\n")[0].split("\n"))
    assert header[:2] == ["task", "part"]
    assert (desks[:2], mails[:3]) == (["desks", "train"], ["mails", "test,", "unseen_domain_test"])
    with pytest.raises(InputDataError, match="left out"):
        inspect(f"crossfit:{collection}", partition=collection.parent / "parts.json", strict=True)


def test_an_unknown_part_names_those_there_are(collection: Path) -> None:
    with pytest.raises(ConfigError, match="no part 'dev'; the parts are 'train', 'test', 'unseen"):
        read_parts(collection, PARTS, "dev")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("crossfit:{}/desks", "desks' is one task; a partition goes with a folder of tasks"),
        ("unifiedqa:{}", "a partition goes with crossfit:DIR only"),
        ("x.csv", "a partition goes with crossfit:DIR only"),
    ],
)
def test_a_partition_goes_with_a_folder_of_tasks(collection: Path, spec: str, message: str) -> None:
    read_parts(collection, PARTS, None)
    with pytest.raises(ConfigError, match=message):
        read(spec.format(collection), split="train", partition=collection.parent / "parts.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ('{"train": ["a"]', "not valid JSON"),
        ("[]", "not a partition"),
        ("{}", "not a partition"),
        ('"train"', "not a partition"),
        ('{"train": "a"}', "part 'train' is not a list of task names"),
        ('{"train": ["a", null]}', "part 'train' is not a list of task names"),
        ('{"train": [["a"]]}', "part 'train' is not a list of task names"),
        ('{"train": {"a": 1}}', "part 'train' is not a list of task names"),
        ('{"train": ["a"], "train": ["b"]}', "part 'train' occurs twice"),
        (b'{"train": ["caf\xe9"]}', "line 1: byte 0xe9, which is not UTF-8"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "parts.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputDataError, match=message) as caught:
        read_partition(path)
    assert str(caught.value).startswith("parts.json")
    with pytest.raises(InputDataError, match="no such file"):
        read_partition(tmp_path / "none.json")

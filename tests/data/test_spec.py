from collections.abc import Callable
from pathlib import Path

import pytest

from bayes_lora.data import Kind, TaskSet, read
from bayes_lora.data.location import Location, locate
from bayes_lora.errors import ConfigError, InputDataError

CSV = "text,label\none,a\ntwo,b\n"
LINES = "one\ta\ntwo\tb\nthree\ta\nfour\tb\n"


@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "notes:2.csv", "x#test.csv", "x@13.csv"])
def test_a_file_is_read_by_its_extension(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(CSV)
    (task,) = read(str(path), split="train")
    assert (task.name, task.options, task.split) == (path.stem, ("a", "b"), None)
    (task,) = read([str(path)], options=["b", "a"])
    assert task.options == ("b", "a")


def test_jsonl_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "one", "label": 1}\n{"text": "two", "label": 0}\n')
    (task,) = read(str(path))
    assert task.labels == [1, 0]


@pytest.mark.parametrize("spec", ["", "x", ".csv", "x.tsv", "crossfit:", "unifiedqa:", "ftp:x"])
def test_what_no_reader_reads_names_the_forms_supported(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"FILE\.csv, FILE\.jsonl, crossfit:DIR") as caught:
        read(spec)
    assert repr(spec) in str(caught.value)


@pytest.mark.parametrize("spec", ["crossfit:nowhere/anli", "unifiedqa:nowhere#test"])
def test_a_folder_that_is_missing_is_named(spec: str) -> None:
    with pytest.raises(InputDataError, match=r"'nowhere.*': no such folder"):
        read(spec, split="train")


def test_what_may_have_been_meant_is_named(crossfit_folder: Path) -> None:
    with pytest.raises(InputDataError, match=r"no such folder; there are 'desks'$"):
        read(f"crossfit:{crossfit_folder}/deks", split="train")


def test_a_windows_drive_is_no_scheme() -> None:
    with pytest.raises(InputDataError, match="no such file"):
        read(r"C:\nowhere\x.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Location("a/b")),
        ("a/b#test", Location("a/b", split="test")),
        ("a/b@13", Location("a/b", seed=13)),
        ("a/b@13#test", Location("a/b", seed=13, split="test")),
        ("a#b@13#test", Location("a#b", seed=13, split="test")),
        ("a/b@x", Location("a/b@x")),
        ("@13", Location("@13")),
        ("#test", Location("#test")),
    ],
)
def test_a_location_is_taken_apart(text: str, expected: Location) -> None:
    assert locate(text, seeds=True) == expected


def test_only_readers_that_know_seeds_see_them() -> None:
    assert locate("a@13#test") == Location("a@13", split="test")


@pytest.mark.parametrize("name", ["x@13", "x#test", "x@13#test", "a@b#c@7"])
def test_a_folder_that_exists_is_taken_as_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert locate(str(folder), seeds=True) == Location(str(folder))
    assert locate(f"{folder}@21#dev", seeds=True) == Location(str(folder), 21, "dev")


def test_an_empty_split_is_refused(crossfit_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no split after '#'"):
        read(f"crossfit:{crossfit_folder}#")


@pytest.fixture
def crossfit_folder(tmp_path: Path) -> Path:
    """One task that has all splits, and one without a test file."""
    for task, splits in {"desks": ("train", "dev", "test"), "mails": ("train", "dev")}.items():
        folder = tmp_path / "collection" / task
        folder.mkdir(parents=True)
        for split in splits:
            (folder / f"{task}_4_13_{split}.tsv").write_text(LINES)
    return tmp_path / "collection"


def test_the_split_is_the_specs_or_else_the_callers(crossfit_folder: Path) -> None:
    spec = f"crossfit:{crossfit_folder}/desks"
    assert [task.split for task in read(spec, split="train")] == ["train"]
    assert [task.split for task in read(f"{spec}#dev", split="train")] == ["dev"]
    assert [task.split for task in read(spec, split="validation")] == ["dev"]
    with pytest.raises(ConfigError, match=r"name a split, such as .*desks#train'"):
        read(spec)


def test_an_unknown_split_or_seed_names_those_there_are(crossfit_folder: Path) -> None:
    for spec in (f"crossfit:{crossfit_folder}/desks", f"crossfit:{crossfit_folder}"):
        with pytest.raises(InputDataError, match=r"no split 'tset'; .* 'train', 'dev', 'test'"):
            read(f"{spec}#tset")
        with pytest.raises(InputDataError, match="desks: there is no seed 7; the seeds are 13"):
            read(f"{spec}@7#train")


def test_tasks_without_the_split_are_left_out_of_a_folder(crossfit_folder: Path) -> None:
    tasks = read(f"crossfit:{crossfit_folder}", split="test")
    assert [task.name for task in tasks] == ["desks"]
    assert tasks.warnings == ("1 task left out, without a split 'test': mails",)
    assert len(read(f"crossfit:{crossfit_folder}", split="train", strict=True)) == 2
    with pytest.raises(InputDataError, match="without a split 'test': mails"):
        read(f"crossfit:{crossfit_folder}", split="test", strict=True)
    with pytest.raises(InputDataError, match=r"no split 'test'.*'train', 'dev'"):
        read(f"crossfit:{crossfit_folder}/mails", split="test")


def test_several_specs_are_read_together(tmp_path: Path, crossfit_folder: Path) -> None:
    (tmp_path / "x.csv").write_text(CSV)
    tasks = read([str(tmp_path / "x.csv"), f"crossfit:{crossfit_folder}/desks"], split="train")
    assert isinstance(tasks, TaskSet)
    assert [task.name for task in tasks] == ["x", "desks"]


def test_two_tasks_of_one_name_are_refused(tmp_path: Path, crossfit_folder: Path) -> None:
    (tmp_path / "desks.csv").write_text(CSV)
    with pytest.raises(InputDataError, match="two tasks are named 'desks'"):
        read([str(tmp_path / "desks.csv"), f"crossfit:{crossfit_folder}"], split="train")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: read([]), "no data is given"),
        (lambda: read("x.csv", part="train"), "part 'train' is given without a partition"),
        (lambda: read("x.csv", options=["a"], label_sets=[["a"]]), "give one of them"),
    ],
)
def test_arguments_that_do_not_go_together(call: Callable[[], TaskSet], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_the_options_of_a_run_order_the_labels_of_any_reader(crossfit_folder: Path) -> None:
    spec = f"crossfit:{crossfit_folder}/desks#train"
    (task,) = read(spec, options=["b", "a"])
    assert (task.options, task.labels) == (("b", "a"), [1, 0, 1, 0])
    (task,) = read(spec, label_sets=[["x", "y"]])
    assert (task.options, task.labels) == (("a", "b"), [0, 1, 0, 1])


def test_other_options_than_those_of_the_run_are_refused(
    tmp_path: Path, crossfit_folder: Path
) -> None:
    with pytest.raises(
        InputDataError, match=r"desks_4_13_train\.tsv, line 1: .*'a', 'b'.*'a', 'c'"
    ):
        read(f"crossfit:{crossfit_folder}/desks#train", options=["a", "c"])
    (tmp_path / "qa").mkdir()
    lines = "q \\n (A) x (B) y\tx\nr \\n (A) v (B) w\tv\n"
    (tmp_path / "qa" / "test.tsv").write_text(lines)
    (task,) = read(f"unifiedqa:{tmp_path}/qa#test")
    assert task.kind is Kind.MULTIPLE_CHOICE
    with pytest.raises(InputDataError, match="qa: every row has options of its own"):
        read(f"unifiedqa:{tmp_path}/qa#test", options=["x", "y"])

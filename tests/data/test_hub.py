import builtins
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from bayes_lora.data import Kind, Task, inspect, read
from bayes_lora.errors import ConfigError, InputDataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def nothing_left_behind(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A cache that must stay empty: what is local leaves nothing behind."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    yield
    assert not list(cache.iterdir())


def saved(folder: Path, columns: Mapping[str, Sequence[object]], **features: object) -> Path:
    """A folder with one split, "test", some of its columns of a given type."""
    data = datasets.Dataset.from_dict(dict(columns))
    for column, feature in features.items():
        data = data.cast_column(column, feature)
    data.to_parquet(folder / "test.parquet")
    return folder


def only(folder: Path) -> Task:
    (task,) = read(f"hub:{folder}#test")
    return task


def test_a_folder_of_csv_files_is_read(tmp_path: Path) -> None:
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["text", "label", "store"], ["007", "None", "Rome"], ["null", "NA", "1.50"]]
        )
    (task,) = read(f"hub:{tmp_path}", split="train")
    assert (task.name, task.split, task.kind) == (tmp_path.name, "train", Kind.FIXED_LABELS)
    assert [example.input for example in task.examples] == ["007", "null"]
    assert (task.options, task.labels) == (("NA", "None"), [1, 0])
    assert task.examples[1].attributes == {"store": "1.50"}
    assert task.examples[1].where == f"{tmp_path.name}#train, row 2"


@pytest.mark.parametrize("split", ["dev", "validation"])
def test_dev_is_called_validation_on_the_hub(tmp_path: Path, split: str) -> None:
    for name, text in {"train": "one", "validation": "two"}.items():
        rows = [{"input": text, "output": "a"}, {"input": f"{text} more", "output": name}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task,) = read(f"hub:{tmp_path}#{split}")
    assert (task.examples[0].input, task.split) == ("two", "validation")
    assert task.options == ("a", "train", "validation")  # the labels of all splits
    with pytest.raises(InputDataError, match=r"no split 'test'; .* 'train', 'validation'"):
        read(f"hub:{tmp_path}#test")


def test_class_labels_give_the_options_and_minus_one_means_none(tmp_path: Path) -> None:
    columns = {"sentence": ["one", "two", "three"], "label": [1, 0, -1]}
    feature = datasets.ClassLabel(names=["pos", "neg"])
    task = only(saved(tmp_path, columns, label=feature))
    assert task.options == ("pos", "neg")
    assert [example.label for example in task.examples] == [1, 0, None]


def test_a_whole_number_without_names_is_a_label_as_it_is_written(tmp_path: Path) -> None:
    task = only(saved(tmp_path, {"text": ["one", "two", "three"], "label": [1, 0, -1]}))
    assert (task.options, task.labels) == (("-1", "0", "1"), [2, 1, 0])


@pytest.mark.parametrize("answers", [[1, 0], ["y", "v"]])
def test_options_of_a_row(tmp_path: Path, answers: list[object]) -> None:
    columns = {"question": ["Q", "R"], "choices": [["x", "y"], ["v", "w"]], "answer": answers}
    task = only(saved(tmp_path, columns))
    assert task.kind is Kind.MULTIPLE_CHOICE
    assert [example.options for example in task.examples] == [("x", "y"), ("v", "w")]
    assert task.labels == [1, 0]


def test_answers_that_are_no_option_drop_the_row(tmp_path: Path) -> None:
    columns = {
        "question": ["Q", "R", "S", "T"],
        "choices": [["x", "y", "x"], ["v", "w"], ["v", "w"], ["v", "w"]],
        "answer": [1, 2, -1, 0],
    }
    task = only(saved(tmp_path, columns))
    assert [example.label for example in task.examples] == [1, None, 0]
    assert task.warnings[:2] == (
        f"1 row with equal options, which are merged: {tmp_path.name}#test, row 1",
        f"1 row dropped, whose answer is not among the options: {tmp_path.name}#test, row 2",
    )


@pytest.mark.parametrize("single", [True, False])
def test_a_folder_written_by_save_to_disk_is_read(tmp_path: Path, single: bool) -> None:
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"text": ["one", "two"], "label": ["a", "b"]})
    (data if single else datasets.DatasetDict({"train": data})).save_to_disk(str(tmp_path / "mine"))
    (task,) = read(f"hub:{tmp_path}/mine#train")
    assert (task.name, task.options, task.labels) == ("mine", ("a", "b"), [0, 1])


def test_splits_that_differ_in_their_columns_are_refused(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    train = datasets.Dataset.from_dict({"text": ["one", "two"], "label": ["a", "b"]})
    both = datasets.DatasetDict({"train": train, "test": train.remove_columns("label")})
    both.save_to_disk(str(tmp_path / "mine"))
    with pytest.raises(InputDataError, match="splits 'train', 'test' differ in their columns"):
        read(f"hub:{tmp_path}/mine#train")
    datasets.DatasetDict({}).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(InputDataError, match="there are no splits in it"):
        read(f"hub:{tmp_path}/none#train")


def test_all_splits_are_in_the_table(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(
            '{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n'
        )
    text = inspect(f"hub:{tmp_path}")
    assert text.split("\n")[0].split()[:5] == ["task", "kind", "options", "train", "test"]
    assert "2 test rows also stand" in text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"premise": ["x"], "label": ["a"]}, r"no column for the text.*'premise', 'label'"),
        ({"text": ["x"], "stars": ["a"]}, r"no column for the label.*'text', 'stars'"),
        ({"text": ["x"], "input": ["y"], "label": ["a"]}, r"columns 'text', 'input', of which any"),
        ({"text": ["x", " "], "label": ["a", "b"]}, r"#test, row 2: 'text' is missing or empty"),
        ({"text": [["x"], ["y"]], "label": ["a", "b"]}, r"#test, row 1: \['x'\] is neither text"),
        ({"text": ["x", "y"], "label": [["a"], ["b"]]}, r"label: \['a'\] is neither text"),
        ({"text": ["x"], "label": ["a"], "options": ["a"]}, r"row 1: the options are not a list"),
        ({"text": ["x"], "label": ["a"], "options": [["a", ""]]}, r"row 1: an option is empty"),
        ({"text": ["x", "y"], "label": ["a", "a"]}, r"no row can be used: 2 rows dropped"),
        ({"text": ["x", "y"], "label": ["", ""]}, r"no row can be used: 2 rows dropped"),
    ],
)
def test_refused(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(InputDataError, match=message) as caught:
        only(saved(tmp_path, columns))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("train.jsonl", b'{"text": "x"'), ("train.csv", b"text,label\n\xff,a\n"), ("x.parquet", b"x")],
)
def test_what_the_library_cannot_read_is_one_line(
    tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputDataError, match=re.escape(f"'hub:{tmp_path}': the library")) as caught:
        read(f"hub:{tmp_path}#train")
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_an_empty_folder_and_an_unknown_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputDataError, match="the library datasets cannot read it"):
        read(f"hub:{tmp_path}#train")
    saved(tmp_path, {"text": ["x"], "label": ["a"]})
    with pytest.raises(InputDataError, match="BuilderConfig 'fr' not found"):
        read(f"hub:{tmp_path}/fr#test")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("imdb", ("imdb", None)), ("me/set", ("me/set", None)), ("me/set/fr", ("me/set", "fr"))],
)
def test_a_name_on_the_hub_and_its_config(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: tuple[str, str | None]
) -> None:
    asked = []

    def offline(path: str, config: str | None, **options: object) -> None:
        asked.append((path, config, options))
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", offline)
    with pytest.raises(InputDataError, match=f"'hub:{name}': .*ConnectionError: no network"):
        read(f"hub:{name}#train")
    assert asked == [(*expected, {"cache_dir": None})]


@pytest.mark.parametrize("name", ["a/b/c/d", "/nowhere", "a//b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no such folder, and no name on the hub"):
        read(f"hub:{name}#train")


def test_without_the_library_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'bayes-lora\[hub\]'"):
        read("hub:imdb#train")


def test_labels_that_are_held_back_are_unknown(tmp_path: Path) -> None:
    for name, labels in {"train": [0, 1, 2], "test": [-1, -1, -1]}.items():
        columns = {"text": [f"{name} {i}" for i in range(3)], "label": labels}
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / f"{name}.parquet")
    (task,) = read(f"hub:{tmp_path}#test")
    assert task.options == ("0", "1", "2")
    assert {example.label for example in task.examples} == {None}


def test_minus_one_is_a_label_beside_others(tmp_path: Path) -> None:
    columns = {"text": ["bad", "so-so", "good"], "label": [-1, 0, 1]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "test.parquet")
    assert only(tmp_path).options == ("-1", "0", "1")

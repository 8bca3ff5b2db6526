"""The command line as a user meets it, mostly when something is wrong."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bayes_lora import cli
from bayes_lora.errors import FitError

TRAIN = "text,label\n" + "".join(
    f"{word} film number {i},{label}\n"
    for i in range(6)
    for word, label in (("bright", "good"), ("dull", "bad"))
)


class Workplace:
    """A folder with data, a tiny backbone, and the command line run in it."""

    def __init__(self, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.model = model
        self.capsys = capsys
        self.write("train.csv", TRAIN)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command in the folder; return its status and stderr."""
        try:
            status = cli.main(list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, self.capsys.readouterr().err

    def fit(self, *arguments: str, data: str = "train.csv", out: str = "run") -> tuple[int, str]:
        flags = ["--data", data, "--out", out, "--model", str(self.model), "--max-steps", "2"]
        return self.run("fit", *flags, *arguments)


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_folders: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Workplace:
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path, tiny_folders / "tiny-encoder", capsys)


def _everything(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_fit_predict_and_report(place: Workplace) -> None:
    place.write(
        "test.jsonl", '{"text": "a bright film", "label": "good"}\n{"text": "x", "label": "bad"}\n'
    )
    assert place.fit("--dev", "train.csv")[0] == 0
    assert place.run("predict", "run", "--data", "test.jsonl", "--out", "p.jsonl")[0] == 0
    assert (
        place.run("predict", "run", "--data", "test.jsonl", "--out", "m.jsonl", "--draws", "0")[0]
        == 0
    )
    assert place.run("report", "p.jsonl", "m.jsonl", "--out", "report") == (0, "")
    report = json.loads((place.folder / "report" / "report.json").read_text())
    assert [row["num_draws"] for row in report["predictions"]] == [10, 0]
    for row in report["predictions"]:
        assert row["n"] == 2
        assert {"accuracy", "nll", "ece", "brier"} <= row.keys()
    assert "a bright film" in (place.folder / "report" / "report.html").read_text()


def test_predict_without_labels(place: Workplace) -> None:
    place.write("new.csv", "text\nno label here\n")
    assert place.fit()[0] == 0
    assert place.run("predict", "run", "--data", "new.csv", "--out", "p.jsonl")[0] == 0
    assert json.loads((place.folder / "p.jsonl").read_text())["label"] is None
    status, error = place.run("report", "p.jsonl", "--out", "report")
    assert status == 2
    assert "label" in error


BAD_INPUT: dict[str, tuple[Callable[[Workplace], object], list[str], str]] = {
    "missing file": (lambda p: None, ["--data", "no.csv"], r"no\.csv"),
    "missing column": (
        lambda p: p.write("x.csv", "sentence,label\na,b\n"),
        ["--data", "x.csv"],
        r"no column 'text'.*sentence",
    ),
    "empty file": (lambda p: p.write("x.csv", ""), ["--data", "x.csv"], r"x\.csv.*empty"),
    "one class only": (
        lambda p: p.write("x.csv", "text,label\na,yes\nb,yes\n"),
        ["--data", "x.csv"],
        r"x.*'yes'",
    ),
    "unseen dev label": (
        lambda p: p.write("dev.csv", "text,label\na,good\nb,awful\n"),
        ["--dev", "dev.csv"],
        r"dev\.csv, row 3.*'awful'",
    ),
    "unreadable utf-8": (
        lambda p: p.write("x.csv", b"text,label\na\xff,b\n"),
        ["--data", "x.csv"],
        r"x\.csv.*UTF-8",
    ),
    "unknown target": (lambda p: None, ["--targets", "nonsense"], r"nonsense.*query.*value"),
    "bad regex": (lambda p: None, ["--targets", "que(ry"], r"regular expression"),
    "unknown backbone": (lambda p: None, ["--model", "./nowhere"], r"nowhere.*cannot be loaded"),
    "unknown guide": (lambda p: None, ["--guide", "meanfield"], r"--guide.*mean-field"),
    "misspelt flag": (lambda p: None, ["--epoch", "3"], r"--epoch"),
    "rank of zero": (lambda p: None, ["--rank", "0"], r"rank"),
    "negative draws": (lambda p: None, ["--draws", "-1"], r"draws"),
    "kl weight of zero": (lambda p: None, ["--kl-weight", "0"], r"kl_weight"),
    "negative seed": (lambda p: None, ["--seed", "-1"], r"seed.*-1"),
    "epochs that are no number": (lambda p: None, ["--kl-weight", "nan"], r"kl_weight.*nan"),
    "infinite rate": (lambda p: None, ["--learning-rate", "inf"], r"learning_rate.*inf"),
    "more draws than a batch": (lambda p: None, ["--batch-size", "4"], r"batch_size 4.*draws 8"),
    "out under a file": (lambda p: None, ["--out", "train.csv/run"], r"cannot be written"),
    "prior weight without a prior": (
        lambda p: None,
        ["--guide", "mle", "--kl-weight", "0.5"],
        r"no prior to weigh",
    ),
    "two lengths": (lambda p: None, ["--epochs", "3"], r"--epochs.*--max-steps"),
    "unknown spec": (lambda p: None, ["--data", "crossfit:x"], r"crossfit"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_to_fit(place: Workplace, case: str) -> None:
    prepare, arguments, message = BAD_INPUT[case]
    prepare(place)
    before = _everything(place.folder)
    status, error = place.fit(*arguments)
    assert status == 2, error
    _assert_one_line(error, message)
    assert _everything(place.folder) == before


def test_a_folder_that_holds_another_run_is_refused_before_any_work(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.fit()[0] == 0
    before = _everything(place.folder)
    monkeypatch.setattr(cli, "load_backbone", lambda *a, **k: pytest.fail("it went to work"))
    status, error = place.fit()
    assert status == 2
    _assert_one_line(error, r"run holds another run")
    assert _everything(place.folder) == before


def test_a_folder_of_other_things_is_refused(place: Workplace) -> None:
    (place.folder / "run").mkdir()
    (place.folder / "run" / "thesis.txt").write_text("years of work")
    status, error = place.fit()
    assert status == 2
    _assert_one_line(error, r"run exists and is not an empty folder")


def test_nan_in_probabilities(place: Workplace) -> None:
    place.write("p.jsonl", '{"options": ["a", "b"], "probabilities": [NaN, 0.5], "label": "a"}\n')
    status, error = place.run("report", "p.jsonl", "--out", "report")
    assert status == 2
    _assert_one_line(error, r"p\.jsonl.*line 1")
    assert not (place.folder / "report").exists()


@pytest.mark.parametrize("broken", ["posterior.json", "posterior.safetensors"])
def test_a_broken_run(place: Workplace, broken: str) -> None:
    assert place.fit()[0] == 0
    (place.folder / "run" / broken).write_text("{")
    status, error = place.run("predict", "run", "--data", "train.csv", "--out", "p.jsonl")
    assert status == 2
    _assert_one_line(error, broken)
    assert not (place.folder / "p.jsonl").exists()


def test_predictions_cannot_be_a_folder(place: Workplace) -> None:
    assert place.fit()[0] == 0
    status, error = place.run("predict", "run", "--data", "train.csv", "--out", "run")
    assert status == 2
    _assert_one_line(error, r"'run' is a folder")


def test_a_truncated_backbone(place: Workplace) -> None:
    copy = place.folder / "copy"
    shutil.copytree(place.model, copy)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    status, error = place.fit("--model", "copy")
    assert status == 2
    _assert_one_line(error, r"'copy' cannot be loaded")


def test_texts_that_are_cut_are_counted(place: Workplace) -> None:
    place.write("long.csv", TRAIN + '"' + "very " * 90 + 'long film",good\n')
    status, error = place.fit(data="long.csv")
    assert status == 0
    assert "1 of 13 texts are cut to 64 tokens" in error


def test_a_run_with_a_guide_nobody_knows(place: Workplace) -> None:
    assert place.fit()[0] == 0
    path = place.folder / "run" / "posterior.json"
    path.write_text(path.read_text().replace('"mean-field"', '"oracle"'))
    status, error = place.run("predict", "run", "--data", "train.csv", "--out", "p.jsonl")
    assert status == 2
    _assert_one_line(error, r"posterior\.json does not describe.*oracle")


def test_no_run_at_all(place: Workplace) -> None:
    status, error = place.run("predict", "run", "--data", "train.csv", "--out", "p.jsonl")
    assert status == 2
    _assert_one_line(error, "run holds no run")


def test_a_label_the_run_never_saw(place: Workplace) -> None:
    place.write("test.csv", "text,label\na,good\nb,awful\n")
    assert place.fit()[0] == 0
    status, error = place.run("predict", "run", "--data", "test.csv", "--out", "p.jsonl")
    assert status == 2
    _assert_one_line(error, r"test\.csv, row 3.*'awful'")


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (FitError("The loss is no longer finite"), 1, "finite"),
        (RuntimeError("a bug"), 1, "a bug.*--debug"),
    ],
)
def test_a_fit_that_does_not_finish_leaves_nothing(
    place: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    status: int,
    message: str,
) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "fit", fail)
    before = _everything(place.folder)
    found, error = place.fit()
    assert found == status
    _assert_one_line(error, message)
    assert _everything(place.folder) == before


def test_debug_shows_the_trace(place: Workplace) -> None:
    status, error = place.fit("--debug", data="no.csv")
    assert status == 2
    assert "Traceback" in error


def _assert_one_line(error: str, message: str) -> None:
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    assert lines[0].startswith("bayes-lora"), error
    assert re.search(message, lines[0]), error

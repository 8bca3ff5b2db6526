"""The command line as a user meets it, mostly when something is wrong."""

import json
import re
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayes_lora import cli
from bayes_lora.errors import FitError
from bayes_lora.inference.svi import SVIModule
from bayes_lora.posterior import WEIGHTS_FILE
from calibration import apply_temperature, fit_temperature, read_predictions

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

    def write_deep(self, name: str, text: str) -> None:
        """Write a file and the folders it is in."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        self.write(name, text)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command in the folder; return its status and stderr."""
        try:
            status = cli.main(list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
        self.out, error = self.capsys.readouterr()
        return status, error

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
    assert [row["num_draws"] for row in report["predictions"]] == [256, 0]
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


def test_recalibration_on_labelled_rows(place: Workplace) -> None:
    """The temperature is that of the run's own predictions for the rows of --dev."""
    assert place.fit()[0] == 0
    predict = ("predict", "run", "--data", "train.csv")
    assert place.run(*predict, "--out", "p.jsonl")[0] == 0
    tempered = ("--recalibrate", "temperature", "--dev", "train.csv")
    assert place.run(*predict, *tempered, "--out", "t.jsonl")[0] == 0
    plain, scaled = (read_predictions(place.folder / f"{n}.jsonl").predictions for n in "pt")
    found = fit_temperature(plain.probabilities, plain.labels)
    expected = apply_temperature(plain.probabilities, found)
    np.testing.assert_allclose(scaled.probabilities, expected, atol=1e-6)
    assert abs(found - 1) > 0.01
    for lacking in (tempered[:2], tempered[2:]):
        status, error = place.run(*predict, *lacking, "--out", "x.jsonl")
        assert status == 2
        _assert_one_line(error, "--recalibrate and --dev go together")
    status, error = place.run(*predict, "--recalibrate", "sharp", "--out", "x.jsonl")
    assert status == 2
    _assert_one_line(error, "invalid choice: 'sharp'")


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
    "unknown spec": (lambda p: None, ["--data", "gym:x"], r"gym:x.*crossfit"),
    "no such gym": (lambda p: None, ["--data", "crossfit:x"], r"crossfit:x|'x'"),
    "broken json line": (
        lambda p: p.write("x.jsonl", '{"text": "a", "label": "b"}\n{"text": \n'),
        ["--data", "x.jsonl"],
        r"x\.jsonl, line 2.*JSON",
    ),
    "answer not among options": (
        lambda p: p.write("x.jsonl", '{"input": "a", "output": "c", "options": ["a", "b"]}\n'),
        ["--data", "x.jsonl"],
        r"x\.jsonl, line 1.*'c'",
    ),
    "an option twice": (
        lambda p: p.write("x.jsonl", '{"input": "a", "output": "b", "options": ["b", "b"]}\n'),
        ["--data", "x.jsonl"],
        r"x\.jsonl, line 1.*'b'",
    ),
    "unknown scorer": (lambda p: None, ["--scorer", "cosine"], r"--scorer.*similarity"),
    "a scorer that does not fit": (
        lambda p: None,
        ["--scorer", "likelihood"],
        r"'likelihood' needs a language model",
    ),
    "a partition of no gym": (
        lambda p: p.write("part.json", '{"train": ["a"]}'),
        ["--partition", "part.json"],
        r"partition",
    ),
    "one name twice": (lambda p: None, ["--data", "train.csv", "train.csv"], r"'?train"),
    "label sets that differ": (
        lambda p: p.write("other.csv", "text,label\na,yes\nb,no\n"),
        ["--data", "train.csv", "other.csv", "--scorer", "class-head"],
        r"one label set.*train.*other",
    ),
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


def test_a_misspelt_flag_and_the_one_that_is_meant(place: Workplace) -> None:
    status, error = place.fit("--max-stepz", "3")
    assert status == 2
    assert error.startswith("bayes-lora fit: error: unrecognized arguments: --max-stepz 3")
    assert "did you mean '--max-steps'" in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_holds_another_run_is_refused_before_any_work(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.fit()[0] == 0
    before = _everything(place.folder)
    monkeypatch.setattr(cli, "load_adapted", lambda *a, **k: pytest.fail("it went to work"))
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


def test_a_label_the_run_never_saw(place: Workplace) -> None:
    place.write("test.csv", "text,label\na,good\nb,awful\n")
    assert place.fit()[0] == 0
    status, error = place.run("predict", "run", "--data", "test.csv", "--out", "p.jsonl")
    assert status == 2
    _assert_one_line(error, r"test\.csv, row 3.*'awful'")


def test_an_interrupted_command_goes_on(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--max-steps", "24", "--resumable", "state"]
    assert place.fit(*flags, out="whole")[0] == 0
    forward, calls = SVIModule.forward, count()

    def interrupting(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        if next(calls) == 12:
            raise KeyboardInterrupt
        return forward(*arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(SVIModule, "forward", interrupting)
        status, error = place.fit(*flags)
    assert status == 130
    assert error.endswith("interrupted; the same command goes on from state\n")
    assert not (place.folder / "run").exists()
    status, error = place.fit(*flags, "--seed", "5")
    assert status == 2
    assert "differs in: fit.seed, seed" in error
    assert place.fit(*flags)[0] == 0
    assert not (place.folder / "state").exists()
    weights = [(place.folder / run / WEIGHTS_FILE).read_bytes() for run in ("whole", "run")]
    assert weights[0] == weights[1]


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


def _gym(place: Workplace) -> None:
    """Two tasks of a gym: one in CrossFit's layout, one in MetaICL's, and a partition."""
    for seed in (13, 21):
        for split in ("train", "dev", "test") if seed == 13 else ("train", "dev"):
            rows = [f"{word} {split} film {seed}\t{label}" for word, label in PAIRS]
            place.write_deep(f"gym/films/films_2_{seed}_{split}.tsv", "\n".join(rows) + "\n")
    choices = ["a red ball", "dog", "the moon at night"]
    for split in ("train", "dev", "test"):
        lines = [
            json.dumps(
                {
                    "task": "things",
                    "input": f"{split} what is {i}",
                    "output": choices[i % 2],
                    "options": choices[: 2 + i % 2],
                }
            )
            for i in range(4)
        ]
        place.write_deep(f"gym/things/things_2_13_{split}.jsonl", "\n".join(lines) + "\n")
    place.write("part.json", json.dumps({"train": ["films", "things", "gone"], "test": ["films"]}))


PAIRS = [("bright", "good"), ("dull", "bad"), ("warm", "good"), ("cold", "bad")]


@pytest.mark.parametrize(
    ("model", "scorer"),
    [
        ("tiny-encoder", "similarity"),
        ("tiny-decoder", "likelihood"),
        ("tiny-decoder", "likelihood-letter"),
        ("tiny-encoder-decoder", "likelihood"),
    ],
)
def test_a_gym_of_tasks_from_fit_to_report(
    place: Workplace, tiny_folders: Path, model: str, scorer: str
) -> None:
    _gym(place)
    place.model = tiny_folders / model
    flags = ["--scorer", scorer, "--dev", "crossfit:gym", "--partition", "part.json"]
    status, error = place.fit(*flags, data="crossfit:gym")
    assert status == 0, error
    assert f"2 task(s), 8 rows, scorer {scorer}" in place.out
    assert "gone" in error
    predict = ["predict", "run", "--data", "crossfit:gym#test", "--out", "p.jsonl", "--draws", "3"]
    assert place.run(*predict)[0] == 0
    rows = [json.loads(line) for line in (place.folder / "p.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["films"] * 4 + ["things"] * 4
    assert [len(row["probabilities"]) for row in rows] == [2, 2, 2, 2, 2, 3, 2, 3]
    assert all(sum(row["probabilities"]) == pytest.approx(1) for row in rows)
    assert place.run("report", "p.jsonl", "--out", "report") == (0, "")
    (entry,) = json.loads((place.folder / "report" / "report.json").read_text())["predictions"]
    assert [task["task"] for task in entry["tasks"]] == ["films", "things"]
    mean = (entry["tasks"][0]["nll"] + entry["tasks"][1]["nll"]) / 2
    assert entry["macro"]["nll"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("model", "scorer"),
    [("tiny-encoder", "similarity"), ("tiny-decoder", "likelihood")],
)
def test_zero_shot_with_a_backbone_in_place_of_a_run(
    place: Workplace, tiny_folders: Path, model: str, scorer: str
) -> None:
    _gym(place)
    name = str(tiny_folders / model)
    arguments = ["--data", "crossfit:gym", "--partition", "part.json", "--out", "z.jsonl"]
    status, _ = place.run("predict", name, *arguments)
    assert status == 0
    assert f"nothing fitted, scorer {scorer}" in place.out
    rows = [json.loads(line) for line in (place.folder / "z.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["films"] * 4
    assert {row["num_draws"] for row in rows} == {0}


def test_tasks_says_what_is_there(place: Workplace) -> None:
    _gym(place)
    assert cli.main(["tasks", "crossfit:gym", "--partition", "part.json"]) == 0
    out = place.capsys.readouterr().out
    for word in ("films", "things", "gone", "fixed labels", "multiple choice", "13,21"):
        assert word in out
    status, error = place.run("tasks", "crossfit:gym", "--partition", "part.json", "--strict")
    assert status == 2
    _assert_one_line(error, "gone")


def test_a_prefix_option_is_left_out_with_a_warning_or_refused(
    place: Workplace, tiny_folders: Path
) -> None:
    rows = [("a", ["more", "less"]), ("b", ["more", "more wine"]), ("c", ["less", "more"])]
    lines = [json.dumps({"input": i, "output": o[0], "options": o}) for i, o in rows]
    place.write("x.jsonl", "\n".join(lines))
    decoder = str(tiny_folders / "tiny-decoder")
    arguments = ["predict", decoder, "--data", "x.jsonl", "--out", "p.jsonl"]
    status, error = place.run(*arguments)
    assert status == 0
    assert re.search(r"1 of 3 rows cannot be scored.*x\.jsonl, line 2.*'more' is how", error)
    assert len((place.folder / "p.jsonl").read_text().splitlines()) == 2
    status, error = place.run(*arguments, "--strict")
    assert status == 2
    assert re.search(r"error: x\.jsonl, line 2.*'more' is how 'more wine' begins", error)


def test_a_run_with_options_read_predicts_new_labels(place: Workplace) -> None:
    place.write("new.csv", "text,label\na,awful\nb,great\n")
    place.write("bare.csv", "text\nno label here\n")
    assert place.fit("--scorer", "similarity")[0] == 0
    status, error = place.run("predict", "run", "--data", "new.csv", "--out", "p.jsonl")
    assert status == 0
    assert "labels" in error, "other labels than the run's, and nothing was said"
    row = json.loads((place.folder / "p.jsonl").read_text().splitlines()[0])
    assert row["options"] == ["awful", "great"]
    assert place.run("predict", "run", "--data", "bare.csv", "--out", "b.jsonl")[0] == 0
    row = json.loads((place.folder / "b.jsonl").read_text())
    assert sorted(row["options"]) == ["bad", "good"]
    for flag in (["--scorer", "similarity"], ["--max-length", "9"], ["--part", "test"]):
        status, error = place.run("predict", "run", "--data", "new.csv", "--out", "q.jsonl", *flag)
        assert status == 2
        _assert_one_line(error, "a run keeps the one of its fit|without a partition")


def test_a_run_of_several_tasks_knows_their_label_sets(place: Workplace) -> None:
    """A test file in which one label does not occur is scored over all of its task's labels."""
    stars = "text,label\n" + "".join(f"film {i},{i % 3 + 1} stars\n" for i in range(9))
    place.write("stars.csv", stars)
    place.write("test.csv", "text,label\na,1 stars\nb,3 stars\n")
    place.write("some.csv", "text,label\na,1 stars\nb,\n")
    assert place.fit(data="stars.csv", out="one")[0] == 0
    flags = ["--data", "train.csv", "stars.csv", "--out", "both", "--model", str(place.model)]
    status, error = place.run("fit", *flags, "--max-steps", "2", "--dev", "test.csv")
    assert status == 0, error
    for data in ("test.csv", "some.csv"):
        status, error = place.run("predict", "both", "--data", data, "--out", "p.jsonl")
        assert status == 0, error
        rows = [json.loads(line) for line in (place.folder / "p.jsonl").read_text().splitlines()]
        assert {tuple(row["options"]) for row in rows} == {("1 stars", "2 stars", "3 stars")}
    status, error = place.run("predict", str(place.model), "--data", "test.csv", "--out", "z.jsonl")
    assert status == 0
    assert "the options are the labels that occur in the file" in error
    status, error = place.run(
        "predict", str(place.model), "--data", "test.csv", "--out", "y.jsonl", "--model", "minilm"
    )
    assert status == 2
    _assert_one_line(error, "--model is for a run")


def test_neither_a_run_nor_a_backbone(place: Workplace) -> None:
    (place.folder / "empty").mkdir()
    for name in ("empty", "nowhere"):
        status, error = place.run("predict", name, "--data", "train.csv", "--out", "p.jsonl")
        assert status == 2
        _assert_one_line(error, f"'{name}' is neither a run .* nor a backbone")


def _assert_one_line(error: str, message: str) -> None:
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    assert lines[0].startswith("bayes-lora"), error
    assert re.search(message, lines[0]), error

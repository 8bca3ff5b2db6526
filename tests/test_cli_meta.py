"""meta-fit, adapt and what they leave, as a user meets them, mostly when something is wrong."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_cli import Workplace, _assert_one_line, _everything

from bayes_lora import MetaPosterior, cli, cli_meta, read
from bayes_lora.data import Example, Kind, Task
from bayes_lora.errors import InputDataError
from bayes_lora.meta import adapted
from bayes_lora.meta.adapted import AdaptedRun, Shots, write_adapted

# A gym of four tasks with two labels each, told apart by a word.
GYM = {
    "films": ("bright", "good", "dull", "bad"),
    "foods": ("sweet", "tasty", "stale", "awful"),
    "days": ("sunny", "warm", "icy", "cold"),
    "roads": ("straight", "fast", "bumpy", "slow"),
    "songs": ("lively", "merry", "gloomy", "sad"),
}
SHORT = ["--max-steps", "1", "--tasks-per-step", "2", "--support", "1", "--query", "4"]


def _rows(task: str, split: str, number: int) -> list[tuple[str, str]]:
    one, first, other, second = GYM[task]
    pairs = ((one, first), (other, second))
    return [(f"{word} {split} {task} {i}", label) for i in range(number) for word, label in pairs]


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_folders: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Workplace:
    """A folder with the gym, a partition of it, and the same tasks as files of one's own."""
    monkeypatch.chdir(tmp_path)
    made = Workplace(tmp_path, tiny_folders / "tiny-encoder", capsys)
    for task in GYM:
        for split, number in (("train", 6), ("test", 3)):
            lines = [f"{text}\t{label}\n" for text, label in _rows(task, split, number)]
            made.write_deep(f"gym/{task}/{task}_6_13_{split}.tsv", "".join(lines))
        lines = [f"{text},{label}\n" for text, label in _rows(task, "few", 5)]
        made.write_deep(f"csv/{task}.csv", "text,label\n" + "".join(lines))
    made.write("part.json", json.dumps({"train": ["films", "foods", "days"], "test": ["songs"]}))
    return made


def _meta_fit(place: Workplace, *flags: str, out: str = "meta") -> tuple[int, str]:
    data = ["--data", "crossfit:gym", "--partition", "part.json", "--model", str(place.model)]
    return place.run("meta-fit", *data, "--out", out, *SHORT, *flags)


def _adapt(place: Workplace, *flags: str, run: str = "meta", out: str = "few") -> tuple[int, str]:
    data = ["--data", "crossfit:gym", "--partition", "part.json"]
    return place.run("adapt", run, *data, "--out", out, *flags)


def _predict(place: Workplace, run: str, *flags: str) -> tuple[int, str]:
    data = ["--data", "crossfit:gym", "--partition", "part.json", "--out", f"{run}.jsonl"]
    return place.run("predict", run, *data, "--draws", "2", *flags)


def _predictions(place: Workplace, name: str) -> list[dict]:
    return [json.loads(line) for line in (place.folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs a meta run leaves it for the others."""
    return tmp_path_factory.mktemp("kept") / "meta"


@pytest.fixture
def meta(place: Workplace, kept: Path) -> Workplace:
    """A place with a meta run."""
    if not kept.exists():
        status, error = _meta_fit(place, out=str(kept))
        assert status == 0, error
    shutil.copytree(kept, "meta")
    return place


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("tiny-encoder discriminant", []),
        ("tiny-encoder discriminant", ["--amortization", "encoder", "--theta", "mean-field"]),
        ("tiny-encoder similarity", ["--method", "multi-task", "--scorer", "similarity"]),
        ("tiny-encoder discriminant", ["--method", "reptile", "--steps", "2"]),
        ("tiny-decoder likelihood", ["--kl-weight", "1", "--learning-rate", "0.002"]),
    ],
)
def test_from_meta_fit_to_a_report_by_support_size(
    place: Workplace, tiny_folders: Path, model: str, flags: list[str]
) -> None:
    name, scorer = model.split()
    place.model = tiny_folders / name
    status, error = _meta_fit(place, *flags)
    assert status == 0, error
    assert f"2 task(s), 24 rows, scorer {scorer}\n" in place.out
    assert re.search(r"1 meta-dev task\(s\) held out: (films|foods|days)\n", place.out)
    assert _predict(place, "meta")[0] == 0
    for shots in ("0", "2"):
        status, error = _adapt(place, "--support", shots, "--support-seed", "7", out=f"few{shots}")
        assert status == 0, error
        assert _predict(place, f"few{shots}")[0] == 0
    prior, zero, two = (_predictions(place, f"{run}.jsonl") for run in ("meta", "few0", "few2"))
    assert [row["task"] for row in prior] == ["songs"] * 6
    assert prior == zero, "no examples are not the prior predictive"
    assert {row["support_size"] for row in zero} == {0}
    assert not any("support_seed" in row for row in zero)
    assert {(row["support_size"], row["support_seed"]) for row in two} == {(2, 7)}
    assert any(a["probabilities"] != b["probabilities"] for a, b in zip(zero, two, strict=True))
    joined = "".join((place.folder / f"few{shots}.jsonl").read_text() for shots in ("0", "2"))
    place.write("ours.jsonl", joined)
    assert place.run("report", "ours.jsonl", "--out", "report") == (0, "")
    (entry,) = json.loads((place.folder / "report" / "report.json").read_text())["predictions"]
    assert [size["size"] for size in entry["support"]] == [0, 2]


def test_all_rows_are_taken_without_support(meta: Workplace) -> None:
    assert _adapt(meta)[0] == 0
    described = json.loads((meta.folder / "few" / "adapted.json").read_text())
    assert described["support"] is None
    assert described["meta_run"] == "../meta"
    assert described["tasks"] == {
        "songs": {
            "file": "tasks/00001-songs.safetensors",
            "rows": 12,
            "options": ["merry", "sad"],
        }
    }
    assert _predict(meta, "few")[0] == 0
    assert not any("support_size" in row for row in _predictions(meta, "few.jsonl"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], r"scorer (discriminant|similarity), (0|4|15) step\(s\), tau 0\.\d+; NLL"),
        (["--scorer", "discriminant", "--steps", "3"], r"scorer discriminant, 3 step\(s\), tau"),
        (["--method", "multi-task"], None),
    ],
)
def test_what_the_user_does_not_say_is_chosen_on_meta_dev_tasks(
    place: Workplace, flags: list[str], said: str | None
) -> None:
    status, error = _meta_fit(place, *flags)
    assert status == 0, error
    found = re.search("Chosen on meta-dev tasks: " + (said or ""), place.out)
    assert bool(found) == (said is not None), place.out


def test_meta_dev_tasks_of_ones_own(place: Workplace) -> None:
    plan = {"train": ["films", "foods"], "dev": ["days"], "test": ["songs"]}
    place.write("part.json", json.dumps(plan))
    status, error = _meta_fit(place, "--dev", "crossfit:gym")
    assert status == 0, error
    assert "2 task(s), 24 rows" in place.out
    assert "1 meta-dev task(s): days\n" in place.out
    loaded = MetaPosterior.from_pretrained("meta")
    assert (loaded.config.tasks, loaded.config.dev_tasks) == (("films", "foods"), ("days",))


def test_rows_shared_with_meta_dev_are_removed_and_counted(place: Workplace) -> None:
    text = (place.folder / "csv" / "films.csv").read_text() + "Sweet few foods  0,good\n"
    place.write("csv/films.csv", text)
    data = [f"csv/{name}.csv" for name in ("films", "days")]
    flags = ["--out", "meta", "--model", str(place.model), *SHORT]
    status, error = place.run("meta-fit", "--data", *data, "--dev", "csv/foods.csv", *flags)
    assert status == 0, error
    assert "warning: 1 training row(s) dropped: meta-dev tasks have them too" in error
    assert "films.csv, row 12" in error


def test_rows_of_the_tasks_to_be_judged_on_are_removed_and_counted(place: Workplace) -> None:
    """Gyms have data sets several times, under other names: test rows, and rows to adapt to."""
    films = place.folder / "gym" / "films" / "films_6_13_train.tsv"
    shared = [
        (place.folder / "gym" / "songs" / f"songs_6_13_{split}.tsv").read_text().split("\t")[0]
        for split in ("train", "test")
    ]
    films.write_text(films.read_text() + "".join(f"{text.upper()}\tgood\n" for text in shared))
    status, error = _meta_fit(place)
    assert status == 0, error
    removed = re.findall(r"(\d) (?:training|meta-dev) row\(s\) dropped: .*test tasks have", error)
    assert removed == ["2"]
    assert "2 task(s), 24 rows" in place.out


def test_a_file_that_was_not_adapted_to_is_named_before_it_is_read(meta: Workplace) -> None:
    few = ["--data", "csv/songs.csv", "csv/days.csv", "--out", "own", "--support", "1"]
    assert meta.run("adapt", "meta", *few)[0] == 0
    meta.write_deep("new/song.csv", "text\na lively one\n")
    status, error = meta.run("predict", "own", "--data", "new/song.csv", "--out", "p.jsonl")
    assert status == 2
    assert "no posterior of song: adapt to it (a file's task is called by" in error


def test_options_borrowed_from_a_training_task_are_said(meta: Workplace) -> None:
    known = json.loads((meta.folder / "meta" / "meta.json").read_text())["label_sets"]
    rows = "".join(f"the {n}th one,{label}\n" for n, label in enumerate(known[0] * 2))
    meta.write_deep("new/clinic.csv", "text,label\n" + rows)
    data = ["--data", "new/clinic.csv", "--draws", "2", "--out"]
    status, error = meta.run("predict", "meta", *data, "whole.jsonl")
    assert (status, "warning" in error) == (0, False)
    meta.write_deep("new/clinic.csv", f"text,label\nthe only one,{known[0][0]}\n")
    status, error = meta.run("predict", "meta", *data, "part.jsonl")
    assert status == 0
    assert f"'{known[0][1]}' occurs nowhere in the file" in error


def test_files_of_ones_own_without_labels_to_predict(meta: Workplace) -> None:
    """Each task is known by its file's name, and so are its labels."""
    few = ["--data", "csv/songs.csv", "csv/roads.csv", "--out", "own", "--support", "1"]
    assert meta.run("adapt", "meta", *few)[0] == 0
    meta.write_deep("new/songs.csv", "text\na lively one\n")
    meta.write_deep("new/roads.csv", "text,label\na bumpy one,slow\n")
    data = ["--data", "new/songs.csv", "new/roads.csv", "--out", "p.jsonl"]
    status, error = meta.run("predict", "own", *data)
    assert (status, "warning" in error) == (0, False), error
    rows = _predictions(meta, "p.jsonl")
    assert [row["options"] for row in rows] == [["merry", "sad"], ["fast", "slow"]]


BAD: dict[str, tuple[Callable[[Workplace], object], list[str], str]] = {
    "a leak between partitions": (
        lambda p: p.write("part.json", '{"train": ["films", "foods", "days"], "test": ["days"]}'),
        [],
        r"part\.json: in part 'train' and in part 'test': days: a leak",
    ),
    "a leak from dev": (
        lambda p: p.write(
            "part.json", '{"train": ["films", "foods"], "dev": ["songs"], "test": ["songs"]}'
        ),
        ["--dev", "crossfit:gym"],
        r"in part 'dev' and in part 'test': songs: a leak",
    ),
    "no part to be judged on": (
        lambda p: p.write("part.json", '{"train": ["films", "foods", "days"]}'),
        [],
        r"there is no part 'test'",
    ),
    "a task to train on is meta-dev": (
        lambda p: p.write(
            "part.json", '{"train": ["films", "foods"], "dev": ["foods"], "test": ["songs"]}'
        ),
        ["--dev", "crossfit:gym"],
        r"'--data' and in part '--dev': foods",
    ),
    "too few tasks": (
        lambda p: p.write("part.json", '{"train": ["films", "foods"], "test": ["songs"]}'),
        [],
        r"2 task\(s\) \(films, foods\): .* --dev",
    ),
    "a flag that is none": (lambda p: None, ["--amortisation", "encoder"], r"--amortisation"),
    "an unknown method": (lambda p: None, ["--method", "maml"], r"--method.*fomaml"),
    "a class head": (lambda p: None, ["--scorer", "class-head"], r"--scorer.*discriminant"),
    "reptile without steps": (
        lambda p: None,
        ["--method", "reptile", "--steps", "0"],
        r"'reptile' learns from steps",
    ),
    "a support below zero": (lambda p: None, ["--support", "-1"], r"support"),
    "no support and no queries": (lambda p: None, ["--support", "0", "--query", "0"], r"queries"),
    "steps below zero": (lambda p: None, ["--steps", "-1"], r"steps"),
    "kl weight of zero": (lambda p: None, ["--kl-weight", "0"], r"kl_weight"),
    "an encoder for a scorer without pooled states": (
        lambda p: setattr(p, "model", p.model.parent / "tiny-decoder"),
        ["--amortization", "encoder"],
        r"The encoder reads pooled embeddings",
    ),
    "out is taken": (
        lambda p: p.write_deep("meta/meta.json", "{}"),
        [],
        r"meta holds another run",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_to_meta_fit(place: Workplace, case: str) -> None:
    prepare, flags, message = BAD[case]
    prepare(place)
    before = _everything(place.folder)
    status, error = _meta_fit(place, *flags)
    assert status == 2, error
    (line,) = [line for line in error.splitlines() if "error:" in line]
    assert re.search(message, line), line
    assert _everything(place.folder) == before


BAD_ADAPT: dict[str, tuple[list[str], str]] = {
    "more than there are": (
        ["--support", "9"],
        r"songs: a support set of 9 .* labelled '(merry|sad)', and there are 6",
    ),
    "fewer than none": (["--support", "-1"], r"support size must be 0 or more, not -1"),
    "a seed alone": (["--support-seed", "1"], r"--support-seed .* give both"),
    "a seed below zero": (["--support", "1", "--support-seed", "-1"], r"[Ss]eed"),
    "a flag that is none": (["--shots", "4"], r"--shots"),
    "out is taken": (["--out", "meta"], r"meta holds another run"),
}


@pytest.mark.parametrize("case", BAD_ADAPT)
def test_bad_input_to_adapt(meta: Workplace, case: str) -> None:
    flags, message = BAD_ADAPT[case]
    before = _everything(meta.folder)
    status, error = _adapt(meta, *flags)
    assert status == 2, error
    (line,) = [line for line in error.splitlines() if "error:" in line]
    assert re.search(message, line), line
    assert _everything(meta.folder) == before


def test_adapt_takes_a_meta_run_only(place: Workplace) -> None:
    assert place.fit()[0] == 0
    for run in ("run", "nowhere"):
        status, error = _adapt(place, run=run)
        assert status == 2
        _assert_one_line(
            error, rf"'{run}' is no meta run .*no meta\.json.* give what meta-fit wrote"
        )


def test_a_task_without_a_posterior(meta: Workplace) -> None:
    assert _adapt(meta, "--support", "1")[0] == 0
    status, error = meta.run("predict", "few", "--data", "csv/roads.csv", "--out", "p.jsonl")
    assert status == 2
    _assert_one_line(error, r"'few' has no posterior of roads: adapt to it .*meta run")
    assert not (meta.folder / "p.jsonl").exists()


def test_runs_that_are_moved_or_replaced(meta: Workplace) -> None:
    assert _adapt(meta, "--support", "1")[0] == 0
    assert _predict(meta, "few")[0] == 0
    before = (meta.folder / "few.jsonl").read_bytes()
    (meta.folder / "elsewhere").mkdir()
    for run in ("meta", "few"):
        shutil.move(run, f"elsewhere/{run}")
    data = ["--data", "crossfit:gym", "--partition", "part.json", "--draws", "2"]
    assert meta.run("predict", "elsewhere/few", *data, "--out", "few.jsonl")[0] == 0
    assert (meta.folder / "few.jsonl").read_bytes() == before, "moved together: not the same"
    shutil.move("elsewhere/few", "few")
    status, error = _predict(meta, "few")
    assert status == 2
    _assert_one_line(error, r"'few' was adapted from the meta run 'meta', which is not there")
    assert _meta_fit(meta, "--seed", "1")[0] == 0
    status, error = _predict(meta, "few")
    assert status == 2
    _assert_one_line(error, r"'few' was adapted from another meta-fit than .* 'meta'")


@pytest.mark.parametrize("flag", [["--scorer", "similarity"], ["--max-length", "9"]])
def test_a_meta_run_keeps_its_own(meta: Workplace, flag: list[str]) -> None:
    status, error = _predict(meta, "meta", *flag)
    assert status == 2
    _assert_one_line(error, "a run keeps the one of its fit")


@pytest.mark.parametrize("broken", ["adapted.json", "tasks/00001-songs.safetensors"])
@pytest.mark.parametrize("content", ["{", '{"format": 1}'])
def test_a_broken_adapted_run(meta: Workplace, broken: str, content: str) -> None:
    assert _adapt(meta, "--support", "1")[0] == 0
    (meta.folder / "few" / broken).write_text(content)
    status, error = _predict(meta, "few")
    assert status == 2
    assert re.search(f"error: few/{broken} ", error), error


@pytest.mark.parametrize("command", ["meta-fit", "adapt"])
def test_an_interrupted_run_leaves_nothing(
    meta: Workplace, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupt(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    before = _everything(meta.folder)
    if command == "adapt":
        monkeypatch.setattr(MetaPosterior, "adapt_all", interrupt)
        status, error = _adapt(meta)
    else:
        monkeypatch.setattr(cli_meta, "meta_fit", interrupt)
        status, error = _meta_fit(meta, out="other")
    assert status == 130
    assert "interrupted; what was unfinished is not kept" in error
    assert _everything(meta.folder) == before
    assert not [path for path in meta.folder.iterdir() if path.name.startswith(".")]


def test_many_tasks_with_odd_names_a_few_at_a_time(
    meta: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a few are adapted to at once, and each keeps its own file and posterior."""
    source = MetaPosterior.from_pretrained("meta")
    (songs,) = read("crossfit:gym/songs", split="train")
    names = ["a/b", "a b", "../a?b", "é" * 90, "x" * 300, "", *map(str, range(60))]
    tasks = [Task(name, songs.examples[n % 3 :]) for n, name in enumerate(names)]
    sizes: list[int] = []
    adapt_all = MetaPosterior.adapt_all

    def counted(self: MetaPosterior, supports: list) -> list:
        sizes.append(len(supports) * max(map(len, supports)))
        return adapt_all(self, supports)

    monkeypatch.setattr(MetaPosterior, "adapt_all", counted)
    write_adapted(source, Path("meta"), tasks, Path("few"), shots=Shots(1, 0))
    assert max(sizes) <= adapted.ROWS_AT_ONCE < sum(sizes)
    run = AdaptedRun.from_pretrained("few")
    assert list(run.tasks) == names
    assert len(list((meta.folder / "few" / "tasks").iterdir())) == len(names)
    for task in (tasks[2], tasks[-1]):
        expected = source.config.scorer.rows(source.backbone, Shots(1, 0).of(task))
        assert run.posterior(task.name).support.rows == expected


def test_a_support_does_not_depend_on_other_tasks_and_grows(place: Workplace) -> None:
    (songs,) = read("crossfit:gym/songs", split="train")
    one, three = Shots(1, 5).of(songs), Shots(3, 5).of(songs)
    assert (len(one), len(three)) == (2, 6)
    assert set(one) < set(three)
    assert Shots(3, 6).of(songs) != three
    choices = tuple(
        Example(input=str(i), options=(f"a{i}", f"b{i}"), label=0, where=f"row {i}")
        for i in range(5)
    )
    chosen = Task("choices", choices, Kind.MULTIPLE_CHOICE)
    assert len(Shots(3).of(chosen)) == 3
    with pytest.raises(InputDataError, match="choices: a support set of 6"):
        Shots(6).of(chosen)


def test_a_saved_posterior_predicts_the_same(meta: Workplace) -> None:
    source = MetaPosterior.from_pretrained("meta")
    (songs,) = read("crossfit:gym/songs", split="train")
    write_adapted(source, Path("meta"), [songs], Path("few"))
    loaded = AdaptedRun.from_pretrained("few").posterior("songs")
    expected = source.adapt(songs.examples).predict(songs.examples, draws=3).probabilities
    np.testing.assert_array_equal(loaded.predict(songs.examples, draws=3).probabilities, expected)


def test_meta_fit_checks_out_before_any_work(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write_deep("meta/thesis.txt", "years of work")
    monkeypatch.setattr(cli_meta, "load_named", lambda *a, **k: pytest.fail("it went to work"))
    status, error = _meta_fit(place)
    assert status == 2
    _assert_one_line(error, "meta exists and is not an empty folder")


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert "meta-fit" in out
    assert "adapt" in out

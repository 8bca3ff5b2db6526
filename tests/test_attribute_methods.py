"""The comparison of examples/attributes: every method end to end, resumption, and its tables."""

import importlib.util
import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bayes_lora import load_backbone
from bayes_lora.data import Example, Task
from bayes_lora.errors import ConfigError

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDER = EXAMPLES / "attributes"
Call = Callable[..., str]
TOLD = ("good", "bad", "fine", "poor", "nice", "dull")


@pytest.fixture(scope="module")
def scripts() -> SimpleNamespace:
    """The scripts; `compare` under another name, as examples/meta_learning has one too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import contenders
        import sets
        import stored
        import tables

        spec = importlib.util.spec_from_file_location("compare_attributes", FOLDER / "compare.py")
        assert spec is not None
        assert spec.loader is not None
        compare = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compare)
        return SimpleNamespace(
            compare=compare, contenders=contenders, sets=sets, stored=stored, tables=tables
        )


def make_task(split: str, number: int, **attributes: tuple[str, ...]) -> Task:
    """Texts whose first word tells the label, rows taking turns in each attribute's levels."""
    rows = tuple(
        Example(
            input=f"{TOLD[n % 6]} thing number {n} of {split}",
            options=("no", "yes"),
            label=1 - n % 2,
            attributes={name: levels[n // 2 % len(levels)] for name, levels in attributes.items()},
            where=f"{split}, row {n}",
        )
        for n in range(number)
    )
    return Task("made up", rows, split=split)


@pytest.fixture
def small(
    scripts: SimpleNamespace, tiny_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """The scripts on made-up rows and a random encoder, taking three steps; fits are counted."""
    columns = {
        "fdu-mtl": {"domain": ("books", "toys")},
        "four-authors": {"author": ("Ann", "Bo")},
        "yelp": {"user_id": ("u", "v", "w"), "business_id": ("b", "c")},
    }

    def load(name: str, folder: Path, seed: int, size: int | None) -> object:
        parts = {split: make_task(split, 12, **columns[name]) for split in ("train", "dev")}
        # Levels that train has not seen, where a set may have such.
        later = {column: (*levels, "new") for column, levels in columns["yelp"].items()}
        own = later if name == "yelp" else columns[name]
        return scripts.sets.Split(**parts, test=make_task("test", 16, **own))

    backbone = load_backbone(str(tiny_folders / "tiny-encoder"), max_length=16)
    fits: list[str] = []
    fit = scripts.contenders.fit

    def counted(*given: object, **settings: object) -> object:
        fits.append(str(settings["guide"]))
        return fit(*given, **settings)

    monkeypatch.setattr(scripts.contenders, "load", load)
    monkeypatch.setattr(scripts.contenders, "fit", counted)
    monkeypatch.setattr(scripts.contenders, "STEPS", dict.fromkeys(columns, 3))
    monkeypatch.setattr(scripts.contenders, "BAYESIAN_STEPS", {})
    monkeypatch.setattr(scripts.contenders, "LEAST_STEPS", 2)
    monkeypatch.setattr(scripts.compare, "backbone", lambda: backbone)
    return SimpleNamespace(**vars(scripts), fits=fits, backbone=backbone)


@pytest.fixture
def call(
    small: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """Call compare.py as the command line does, with results below tmp_path; the tables."""

    def run(*arguments: str) -> str:
        given = [*arguments, "--data", str(tmp_path), "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["compare.py", *given])
        capsys.readouterr()
        small.compare.main()
        return capsys.readouterr().out

    return run


def read(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def cells(table: str, first: str) -> list[list[str]]:
    """The cells of the lines that begin with a cell."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [line[1:] for line in lines if line[0] == first]


def test_fdu_mtl_in_one_command_runs_every_method_and_tells_its_figures(
    small: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "compare", small.compare)
    monkeypatch.syspath_prepend(tmp_path)  # what run.py adds to the path is gone afterwards
    given = ["--data", str(tmp_path), "--out", str(tmp_path), "--sizes", "400", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["run.py", *given])
    runpy.run_path(str(EXAMPLES / "fdu_mtl_m2a" / "run.py"), run_name="__main__")
    # One LoRA, two domains' own, M2A and four ablations; one fit for both Bayesian methods.
    assert sorted(small.fits) == ["mean-field"] + ["mle"] * 8
    results, table = read(tmp_path / "fdu-mtl" / "400" / "0"), capsys.readouterr().out
    assert set(results) == set(small.contenders.METHODS)
    for method, result in results.items():
        check_figures(result["test"])
        ((seeds, accuracy, nll, *_),) = cells(table, method)
        assert seeds == "1"
        assert float(accuracy) == pytest.approx(result["test"]["accuracy"], abs=6e-4)
        assert float(nll) == pytest.approx(result["test"]["nll"], abs=6e-4)
    assert results["own-lora"]["steps of a level"] == 3
    assert results["ours"]["spread"]["domain"]["tau"] >= 0


def check_figures(test: dict) -> None:
    """See that what is said of rows, groups and buckets agrees with what is kept of each row."""
    log_p = np.array(test["rows"]["log_p"])
    correct = np.array(list(test["rows"]["correct"])) == "1"
    assert test["n"] == len(log_p) == len(correct)
    assert test["accuracy"] == pytest.approx(correct.mean(), abs=1e-5)
    assert test["nll"] == pytest.approx(-log_p.mean(), abs=1e-4)
    for metric in ("accuracy", "nll", "ece"):
        of_groups = [own[metric] for own in test["groups"].values()]
        assert test["macro"][metric] == pytest.approx(np.mean(of_groups), abs=2e-5)
    for attribute, buckets in test["buckets"].items():
        places = np.array(list(test["rows"]["buckets"][attribute]))
        for bucket, own in buckets.items():
            there = places == str(("unseen", "1", "2-5", "6-20", "more").index(bucket))
            assert own["n"] == there.sum()
            assert own["nll"] == pytest.approx(-log_p[there].mean(), abs=1e-4)


def test_what_is_there_is_not_done_again(
    call: Call, small: SimpleNamespace, tmp_path: Path
) -> None:
    asked = "four-authors", "--seeds", "0", "--methods", "one-lora", "ours"
    table = call(*asked)
    assert small.fits == ["mle", "mean-field"]
    assert call(*asked) == table
    assert len(small.fits) == 2
    # One fit answers for both; killed between the two, it is repeated.
    (tmp_path / "four-authors" / "all" / "0" / "ours.json").unlink()
    assert call(*asked, "bayesian-lora") == table
    assert small.fits == ["mle", "mean-field", "mean-field"]
    call("four-authors", "--seeds", "1", "--methods", "one-lora")
    assert len(small.fits) == 4


def test_levels_refitted_to_rows_as_they_are_are_ours(
    call: Call, small: SimpleNamespace, tmp_path: Path
) -> None:
    call("yelp", "--seeds", "0", "--methods", "ours")
    table = call("yelp", "--shuffle")
    assert small.fits == ["mean-field"] * 2
    results = read(tmp_path / "yelp" / "all" / "0")
    assert results["shuffle-0"]["test"] == results["ours"]["test"]
    assert results["shuffle-0"]["spread"] == results["ours"]["spread"]
    assert results["shuffle-1"]["test"] != results["ours"]["test"]
    for share, percent in {"0": "0%", "0.1": "10%", "0.3": "30%", "1": "100%"}.items():
        result = results[f"shuffle-{share}"]
        assert result["population"] == results["bayesian-lora"]["test"]
        assert float(cells(table, percent)[0][1]) == pytest.approx(result["test"]["nll"], abs=6e-4)
    assert call("yelp", "--shuffle") == table
    assert len(small.fits) == 2


def test_the_population_is_a_fit_that_knows_no_attribute(
    small: SimpleNamespace, tmp_path: Path
) -> None:
    given, test = small.contenders.read_given("fdu-mtl", tmp_path, 400, 0, small.backbone)
    bare = replace(
        given,
        labelled=replace(
            given.labelled,
            examples=tuple(replace(row, attributes={}) for row in given.labelled.examples),
        ),
    )
    with_levels = small.contenders.bayesian(given)
    alone = small.contenders.fit_with_levels(bare)
    expected = alone.predict(test.examples, draws=10, seed=0).probabilities
    population = with_levels["bayesian-lora"].predict(test.examples)
    np.testing.assert_allclose(population, expected, atol=1e-6)
    assert np.abs(with_levels["ours"].predict(test.examples) - expected).max() > 1e-5


def test_who_stops_early_holds_back_rows_of_what_all_are_given(
    small: SimpleNamespace, tmp_path: Path
) -> None:
    for size, back in ((400, 2), (None, 12)):
        given, _ = small.contenders.read_given("fdu-mtl", tmp_path, size, 0, small.backbone)
        assert len(given.dev) == back
        assert len(given.labelled) == len(given.train) + back
        assert set(given.labelled.examples) == {*given.train.examples, *given.dev.examples}


def test_users_and_unseen_ones_have_rows_of_their_own(call: Call, tmp_path: Path) -> None:
    table = call("yelp", "--seeds", "0")
    results = read(tmp_path / "yelp" / "all" / "0")
    assert set(results) == {"one-lora", "bayesian-lora", "ours", "m2a"}
    assert results["ours"]["test"]["buckets"].keys() == {"user_id", "business_id"}
    by_user = results["ours"]["test"]["buckets"]["user_id"]
    # Three users have eight labelled rows each; of the test rows, every fourth pair is new.
    assert {bucket: own["n"] for bucket, own in by_user.items()} == {"unseen": 4, "6-20": 12}
    assert [row[0] for row in cells(table, "unseen")] == ["4", "4"]
    assert cells(table, "1") == [["-"] * 4] * 2


def test_another_version_and_what_is_no_result_are_errors_that_name_the_file(
    call: Call, small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.stored.path_of(tmp_path, "yelp", None, 0, "ours")
    small.stored.write_result(path, {})
    for content in (json.dumps({"version": small.stored.VERSION + 1}), "{", "[]"):
        path.write_text(content)
        for more in ([], ["--table-only"]):
            with pytest.raises(SystemExit, match="2"):
                call("yelp", *more)
            assert str(path) in capsys.readouterr().err
    assert not small.fits


def test_cells_that_are_missing_are_dashes(call: Call, small: SimpleNamespace) -> None:
    table = call("fdu-mtl", "--table-only")
    for method in small.contenders.METHODS:
        assert cells(table, method) == [["-"] * 9] * 3  # as many sizes
    assert cells(table, "100%") == [["-"] * 6]
    assert cells(call("four-authors", "--table-only"), "m2a-no-fine") == []
    assert not small.fits


def made_up(seed: int, log_p: list[float], buckets: str) -> dict:
    figures = {"accuracy": seed / 10, "nll": float(-np.mean(log_p)), "ece": 0.1, "brier": 0.2}
    rows = {"log_p": log_p, "buckets": {"user_id": buckets}}
    spread = {"user_id": {"tau": 0.25, "interval": [0.1, 0.5]}}
    test = figures | {"rows": rows, "buckets": {"user_id": {"unseen": figures}}}
    return {"seed": seed, "spread": spread, "test": test}


def test_means_are_over_seeds_and_differences_over_rows(
    call: Call, small: SimpleNamespace, tmp_path: Path
) -> None:
    # By hand: of user_id, row 0 is unseen twice, row 1 and row 2 each in one seed's draw of train.
    runs = {
        "ours": [([-1.0, -1.0, -2.0], "011"), ([-1.0, -3.0, -1.0], "010")],
        "bayesian-lora": [([-1.5, -1.0, -2.0], "011"), ([-1.3, -3.0, -1.7], "010")],
    }
    for method, seeds in runs.items():
        for seed, (log_p, buckets) in enumerate(seeds):
            path = small.stored.path_of(tmp_path, "yelp", None, seed, method)
            small.stored.write_result(path, made_up(seed, log_p, buckets))
    table = call("yelp", "--table-only")
    seeds, accuracy, nll, *_ = cells(table, "ours")[0]
    assert (seeds, accuracy, nll) == ("2", "0.050 ± 0.071", "1.500 ± 0.236")
    rows, ours, without, difference = cells(table, "unseen")[0]
    assert (rows, ours, without) == ("2", "1.500 ± 0.236", "1.750 ± 0.354")
    assert difference == "-0.5500 ± 0.1500"  # of -0.4 and -0.7
    assert cells(table, "1")[0][3] == "+0.0000 ± 0.0000"
    assert "Seed 1: tau 0.250 (0.100 to 0.500)." in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["yelp", "--methods", "own-lora"], "own-lora is not for yelp"),
        (["fdu-mtl", "--sizes", "some"], "invalid size"),
    ],
)
def test_what_does_not_go_together_is_said(
    arguments: list[str], said: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(*arguments)
    assert said in capsys.readouterr().err


def test_data_are_needed_to_run(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", "yelp", "--out", "."])
    with pytest.raises(SystemExit, match="2"):
        scripts.compare.main()
    assert "--data is needed" in capsys.readouterr().err


def test_a_size_without_a_number_of_steps_is_an_error(scripts: SimpleNamespace) -> None:
    steps = scripts.contenders.steps_of
    assert [steps("fdu-mtl", size) for size in (100, 400, None)] == [300, 400, 1000]
    assert steps("four-authors", 50) == 400
    with pytest.raises(ConfigError, match="no number for size 101"):
        steps("fdu-mtl", 101)

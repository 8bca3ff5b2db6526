"""Attributes on the command line: every flag from fit to report, and what may be wrong."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli import Workplace, _assert_one_line, _everything

from bayes_lora import cli
from bayes_lora.posterior import Posterior

USERS = ("ann", "bob", "cid")
ROWS = [
    (f"{word} film number {i}", label, USERS[i % 3], f"shop{i % 2}")
    for i in range(6)
    for word, label in (("bright", "good"), ("dull", "bad"))
]
HEADER = "text,label,user_id,shop\n"
REVIEWS = HEADER + "".join(",".join(row) + "\n" for row in ROWS)
JSONL = "".join(
    json.dumps(dict(zip(("text", "label", "user_id", "shop"), row, strict=True))) + "\n"
    for row in ROWS
)
TEST = HEADER + "a bright film,good,ann,shop0\na dull film,bad,eve,shop1\nx,bad,,shop1\n"


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_folders: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Workplace:
    monkeypatch.chdir(tmp_path)
    made = Workplace(tmp_path, tiny_folders / "tiny-encoder", capsys)
    made.write("reviews.csv", REVIEWS)
    made.write("reviews.jsonl", JSONL)
    made.write("test.csv", TEST)
    return made


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs a run with attributes leaves it for the others."""
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def run(place: Workplace, kept: Path) -> str:
    if not kept.exists():
        status, error = _fit(place, out=str(kept))
        assert status == 0, error
    shutil.copytree(kept, place.folder / "run")
    return "run"


def _fit(
    place: Workplace, *flags: str, data: str = "reviews.csv", out: str = "run"
) -> tuple[int, str]:
    return place.fit("--attributes", "user_id,shop", *flags, data=data, out=out)


def _predict(place: Workplace, *flags: str, data: str = "test.csv") -> list[dict]:
    status, error = place.run("predict", "run", "--data", data, "--out", "p.jsonl", *flags)
    assert status == 0, error
    place.error = error
    return [json.loads(line) for line in (place.folder / "p.jsonl").read_text().splitlines()]


def _probabilities(rows: list[dict]) -> list[list[float]]:
    return [row["probabilities"] for row in rows]


def _written(place: Workplace) -> dict:
    return json.loads((place.folder / "run" / "posterior.json").read_text())


def _adapters(place: Workplace) -> dict[str, dict]:
    return {effect["name"]: effect["adapter"] for effect in _written(place)["effects"]}


def test_from_fit_to_a_report_by_level_count(place: Workplace, run: str) -> None:
    rows = _predict(place)
    assert [row["level_counts"] for row in rows] == [
        {"user_id": 4, "shop": 6},
        {"user_id": 0, "shop": 6},
        {"user_id": 0, "shop": 6},
    ]
    assert "warning" not in place.error
    assert place.run("report", "p.jsonl", "--out", "report") == (0, "")
    (entry,) = json.loads((place.folder / "report" / "report.json").read_text())["predictions"]
    buckets = {
        name: {part["count"]: part["n"] for part in own} for name, own in entry["levels"].items()
    }
    assert buckets == {"user_id": {"unseen": 2, "2-5": 1}, "shop": {"6-20": 3}}


def test_a_run_knows_its_levels(place: Workplace, run: str) -> None:
    written = _written(place)
    assert written["guide"]["type"] == "mean-field"
    assert written["fusion"] == "sum"
    assert [own["names"] for own in written["levels"].values()] == [
        list(USERS),
        ["shop0", "shop1"],
    ]
    adapters = _adapters(place)
    assert adapters["population"]["type"] == "lora"
    assert adapters["by user_id"]["type"] == "krona"


def test_several_files_share_one_set_of_levels(place: Workplace) -> None:
    place.write("more.csv", HEADER + "a warm film,good,eve,shop0\na cold film,bad,eve,shop1\n")
    data = ["--data", "reviews.jsonl", "more.csv", "--model", str(place.model), "--out", "run"]
    status, error = place.run("fit", *data, "--max-steps", "2", "--attributes", " user_id , ")
    assert (status, "warning" in error) == (0, False), error
    (own,) = _written(place)["levels"].values()
    assert dict(zip(own["names"], own["counts"], strict=True)) == {
        "ann": 4,
        "bob": 4,
        "cid": 4,
        "eve": 2,
    }


@pytest.mark.parametrize("scorer", ["similarity", "likelihood"])
def test_scorers_that_read_options(place: Workplace, tiny_folders: Path, scorer: str) -> None:
    if scorer == "likelihood":
        place.model = tiny_folders / "tiny-decoder"
    status, error = _fit(place, "--scorer", scorer)
    assert status == 0, error
    assert [row["level_counts"]["user_id"] for row in _predict(place)] == [4, 0, 0]


@pytest.mark.parametrize("fusion", ["sum", "average", "predictions"])
def test_fusion(place: Workplace, fusion: str) -> None:
    status, error = _fit(place, "--guide", "map", "--fusion", fusion)
    assert status == 0, error
    assert _written(place)["fusion"] == fusion
    assert len(_predict(place)) == 3


def test_adapters_and_ranks(place: Workplace) -> None:
    flags = ["--guide", "mle", "--adapter", "krona", "--rank", "2", "--attribute-adapter", "lora"]
    status, error = _fit(place, *flags)
    assert status == 0, error
    adapters = _adapters(place)
    assert (adapters["population"]["type"], adapters["population"]["rank"]) == ("krona", 2)
    assert (adapters["by shop"]["type"], adapters["by shop"]["rank"]) == ("lora", 8)


@pytest.mark.parametrize(("adapter", "rank"), [("lora", 8), ("krona", None)])
def test_an_adapter_has_its_own_default_rank(
    place: Workplace, adapter: str, rank: int | None
) -> None:
    assert place.fit("--adapter", adapter)[0] == 0
    assert _adapters(place)["population"]["rank"] == rank


@pytest.mark.parametrize("flags", [[], ["--attributes", "shop"]])
def test_reconstruction(place: Workplace, flags: list[str]) -> None:
    """A term of any fit, with attributes or without."""
    status, error = place.fit("--reconstruction", "0.5", *flags, data="reviews.csv")
    assert status == 0, error
    assert _written(place)["terms"]["reconstruction"] == 0.5
    assert len(_predict(place)) == 3


def test_reconstruction_is_passed_on(place: Workplace) -> None:
    """With attributes and without; 0 turns off what a recipe turns on."""
    choices = _choices(place, "--attributes", "shop", "--reconstruction", "0.25")
    assert choices["attributes"].terms.reconstruction == 0.25
    assert _choices(place, "--reconstruction", "0.5")["attributes"].terms.reconstruction == 0.5
    recipe = ["--attributes", "shop", "--recipe", "m2a", "--reconstruction", "0"]
    terms = _choices(place, *recipe)["attributes"].terms
    assert (terms.reconstruction, terms.distillation) == (0.0, True)


def _choices(place: Workplace, *flags: str) -> dict:
    """What the command line asks of `fit`, which does not run."""
    asked: dict = {}

    def fit(*arguments: object, **keywords: object) -> None:
        asked.update(keywords)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "fit", fit)
        data = ["--data", "reviews.csv", "--out", "run", "--model", str(place.model)]
        status, error = place.run("fit", *data, *flags)
    assert status == 130, error
    return asked


def test_the_recipe_has_the_papers_settings(place: Workplace) -> None:
    choices = _choices(place, "--attributes", "user_id,shop", "--recipe", "m2a")
    assert (choices["guide"], choices["adapter"].rank) == ("mle", 128)
    settings, views = choices["settings"], choices["attributes"]
    assert (settings.epochs, settings.learning_rate, settings.batch_size) == (30, 2e-5, 32)
    assert (settings.max_steps, settings.max_grad_norm) == (None, 2.0)
    assert (views.columns, views.fusion) == (("user_id", "shop"), "average")
    assert (views.separation, views.terms.reconstruction) == (100, 0.5)


def test_flags_win_over_the_recipe(place: Workplace) -> None:
    flags = ["--attributes", "shop", "--recipe", "m2a", "--rank", "4", "--epochs", "2"]
    choices = _choices(place, *flags, "--guide", "map", "--fusion", "sum", "--batch-size", "6")
    assert (choices["guide"], choices["adapter"].rank) == ("map", 4)
    assert choices["attributes"].fusion == "sum"
    settings = choices["settings"]
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (2, 6, 2e-5)
    flags = ["--attributes", "shop", "--recipe", "m2a", "--adapter", "krona"]
    assert _choices(place, *flags)["adapter"].rank is None
    flags[-1] = "lora"  # the recipe's, which has a rank of its own
    assert _choices(place, *flags)["adapter"].rank == 128


@pytest.mark.parametrize("flags", [["--reconstruction", "0"], ["--dev", "reviews.jsonl"]])
def test_the_recipe_end_to_end(place: Workplace, flags: list[str]) -> None:
    status, error = _fit(place, "--recipe", "m2a", *flags)
    assert status == 0, error
    assert ("stops early on --dev, and none is given" in error) == ("--dev" not in flags)
    written = _written(place)
    assert written["separated"]
    assert written["terms"]["reconstruction"] == (0.5 if "--dev" in flags else 0)
    rows = _predict(place)
    assert {row["num_draws"] for row in rows} == {1}
    assert [row["level_counts"]["user_id"] for row in rows] == [4, 0, 0]


def test_levels_of_dev_rows_are_used(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are stopped early with their levels, and dev rows have these."""
    place.write("dev.csv", TEST)
    svi = importlib.import_module("bayes_lora.inference.svi")
    seen = []

    def predict(model: object, draws: object, rows: list, **keywords: object) -> object:
        seen.append([row.levels for row in rows])
        return original(model, draws, rows, **keywords)

    original = svi.predict
    monkeypatch.setattr(svi, "predict", predict)
    status, error = _fit(place, "--guide", "map", "--dev", "dev.csv")
    assert (status, "warning" in error) == (0, False), error
    assert seen[-1] == [(0, 0), (-1, 1), (-1, 1)]


def test_dev_rows_without_the_column(place: Workplace) -> None:
    place.write("dev.csv", "text,label,user\na,good,ann\nb,bad,bob\n")
    status, error = place.fit(
        "--attributes", "user_id", "--dev", "dev.csv", "--guide", "map", data="reviews.csv"
    )
    assert status == 0, error
    (line,) = _warnings(error)
    assert "no attribute column 'user_id' (did you mean 'user'?) in 'dev'" in line


def _warnings(error: str) -> list[str]:
    return [line for line in error.splitlines() if "bayes-lora: warning:" in line]


def test_warnings_about_attributes_come_before_the_fit(place: Workplace) -> None:
    place.write(
        "x.csv", "text,label,user_id,visit\na,good,ann,1\nb,bad,bob,2\nc,good,NaN,3\nd,bad,ann,4\n"
    )
    status, error = place.fit("--attributes", "user_id,visit", data="x.csv")
    assert status == 0, error
    missing, single = _warnings(error)
    assert "attribute 'user_id': 1 row has no value (taken for none: 'NaN')" in missing
    assert "x.csv, row 4" in missing
    assert "attribute 'visit': every level has one row" in single
    assert error.index("every level has one row") < error.index("mean-field")  # the bar


BAD_FIT: dict[str, tuple[Callable[[Workplace], object], list[str], str]] = {
    "missing column": (
        lambda p: None,
        ["--attributes", "userid"],
        r"reviews: there is no attribute column 'userid' \(did you mean 'user_id'\?\).*'shop'",
    ),
    "no column at all": (
        lambda p: None,
        ["--attributes", "user_id", "--data", "train.csv"],
        r"train: .*'user_id'; there are none",
    ),
    "constant": (
        lambda p: p.write("x.csv", "text,label,shop\na,b,one\nc,d,one\n"),
        ["--attributes", "shop", "--data", "x.csv"],
        r"x: attribute 'shop' is 'one' wherever",
    ),
    "NaN in all rows": (
        lambda p: p.write("x.csv", "text,label,shop\na,b,NaN\nc,d,nan\n"),
        ["--attributes", "shop", "--data", "x.csv"],
        r"x: attribute 'shop' has no value in any row",
    ),
    "NaN in all rows of jsonl": (
        lambda p: p.write(
            "x.jsonl",
            '{"text": "a", "label": "b", "shop": NaN}\n{"text": "c", "label": "d", "shop": null}\n',
        ),
        ["--attributes", "shop", "--data", "x.jsonl"],
        r"x: attribute 'shop' has no value in any row",
    ),
    "the label itself": (lambda p: None, ["--attributes", "label"], r"column 'label'"),
    "one column twice": (lambda p: None, ["--attributes", "shop,shop"], r"'shop' is named twice"),
    "no name": (lambda p: None, ["--attributes", " , "], r"--attributes.*names no column"),
    "columns with spaces": (lambda p: None, ["--attributes", "shop", "user_id"], r"user_id"),
    "misspelt flag": (lambda p: None, ["--attribute", "shop"], r"--attribute\b"),
    "unknown recipe": (
        lambda p: None,
        ["--attributes", "shop", "--recipe", "m3a"],
        r"--recipe.*'m3a'.*m2a",
    ),
    "unknown fusion": (
        lambda p: None,
        ["--attributes", "shop", "--fusion", "mean"],
        r"--fusion.*'mean'.*'sum', 'average', 'predictions'|choose from sum, average",
    ),
    "recipe without attributes": (lambda p: None, ["--recipe", "m2a"], r"--recipe.*--attributes"),
    "fusion without attributes": (lambda p: None, ["--fusion", "sum"], r"--fusion.*--attributes"),
    "attribute adapter without attributes": (
        lambda p: None,
        ["--attribute-adapter", "lora"],
        r"--attribute-adapter.*--attributes",
    ),
    "negative reconstruction": (
        lambda p: None,
        ["--attributes", "shop", "--reconstruction", "-1"],
        r"reconstruction.*-1",
    ),
    "reconstruction that is no number": (
        lambda p: None,
        ["--reconstruction", "nan"],
        r"reconstruction.*nan",
    ),
    "recipe with a guide that cannot": (
        lambda p: None,
        ["--attributes", "shop", "--recipe", "m2a", "--guide", "mean-field"],
        r"Fusion by average.*'mle' and 'map'",
    ),
    "fusion that the guide cannot": (
        lambda p: None,
        ["--attributes", "shop", "--fusion", "predictions"],
        r"'mle' and 'map'",
    ),
    "recipe with a prior weight": (
        lambda p: None,
        ["--attributes", "shop", "--recipe", "m2a", "--kl-weight", "0.5"],
        r"no prior to weigh",
    ),
    "krona rank of zero": (lambda p: None, ["--adapter", "krona", "--rank", "0"], r"KronA rank"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_bad_input_to_fit(place: Workplace, case: str) -> None:
    prepare, flags, message = BAD_FIT[case]
    prepare(place)
    before = _everything(place.folder)
    status, error = place.fit(*flags, data="reviews.csv")
    assert status == 2, error
    # A warning may come before what only the fit itself finds.
    _assert_one_line("\n".join(set(error.splitlines()) - set(_warnings(error))), message)
    assert _everything(place.folder) == before


@pytest.mark.parametrize("flag", ["--attributes", "--recipe", "--fusion"])
def test_flags_of_attributes_are_for_fit(place: Workplace, flag: str) -> None:
    data = ["--data", "reviews.csv", "--out", "x"]
    for command in (["meta-fit"], ["predict", "run"]):
        status, error = place.run(*command, *data, flag, "sum")
        assert status == 2
        _assert_one_line(error, flag)


def test_interrupted_at_its_levels_a_fit_leaves_nothing(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    # By import_module, because the package has the function under the module's name.
    monkeypatch.setattr(
        importlib.import_module("bayes_lora.inference.fit"), "fit_levels", interrupt
    )
    before = _everything(place.folder)
    status, error = _fit(place)
    assert status == 130
    assert "interrupted; what was unfinished is not kept" in error.splitlines()[-1]
    assert _everything(place.folder) == before
    assert not (place.folder / "run").exists()


def test_unknown_levels(place: Workplace) -> None:
    """Rows of known levels are the same whatever predicts for unknown ones."""
    status, error = _fit(place, "--guide", "map", "--learning-rate", "0.1")
    assert status == 0, error
    average, population = (
        _probabilities(_predict(place, "--unknown", name)) for name in ("average", "population")
    )
    assert average[0] == pytest.approx(population[0], abs=1e-6)
    assert average[1] != pytest.approx(population[1], abs=1e-6)


def test_unknown_is_the_prior_by_default(
    place: Workplace, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = Posterior.predict

    def predict(self: Posterior, *arguments: object, **keywords: object) -> object:
        asked.append(str(keywords["unknown"]))
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Posterior, "predict", predict)
    assert _predict(place) == _predict(place, "--unknown", "prior")
    _predict(place, "--unknown", "population")
    assert asked == ["prior", "prior", "population"]


def test_a_column_that_is_not_there_to_predict(place: Workplace, run: str) -> None:
    place.write("new.csv", "text,label,User-ID,shop\na,good,ann,shop1\nb,bad,bob,shop1\n")
    rows = _predict(place, data="new.csv")
    (line,) = _warnings(place.error)
    assert "no attribute column 'user_id' (did you mean 'User-ID'?) in 'new'" in line
    assert "all rows there count as unknown levels" in line
    assert line.endswith("the attribute columns are 'User-ID', 'shop'")
    assert [row["level_counts"] for row in rows] == [{"user_id": 0, "shop": 6}] * 2
    place.write("bare.csv", "text\nno label here\n")
    (row,) = _predict(place, data="bare.csv")
    assert row["label"] is None
    assert [line.rpartition("; ")[2] for line in _warnings(place.error)] == ["there are none"] * 2
    status, error = place.run(
        "predict", "run", "--data", "test.csv", "new.csv", "--out", "both.jsonl"
    )
    assert status == 0
    (line,) = _warnings(error)
    assert "in 'new':" in line


def test_linearised_is_for_runs_without_attributes(place: Workplace, run: str) -> None:
    status, error = place.run(
        "predict", run, "--data", "test.csv", "--out", "p.jsonl", "--linearised"
    )
    assert status == 2
    _assert_one_line(error, "--linearised is for a run without attributes")
    assert not (place.folder / "p.jsonl").exists()


def test_unknown_is_for_runs_with_attributes(place: Workplace) -> None:
    assert place.fit()[0] == 0
    for name in ("run", str(place.model)):
        status, error = place.run(
            "predict", name, "--data", "test.csv", "--out", "p.jsonl", "--unknown", "prior"
        )
        assert status == 2
        assert "error: --unknown is for a run with attributes" in error.splitlines()[-1]
    status, error = place.run(
        "predict", "run", "--data", "test.csv", "--out", "p.jsonl", "--unknown", "mean"
    )
    assert status == 2
    _assert_one_line(error, r"--unknown.*'mean'")
    assert not (place.folder / "p.jsonl").exists()


def test_a_plain_run_writes_no_level_counts(place: Workplace) -> None:
    assert place.fit(data="reviews.csv")[0] == 0
    rows = _predict(place)
    assert place.error.count("warning") == 0
    assert all("level_counts" not in row for row in rows)
    assert rows[0]["attributes"] == {"user_id": "ann", "shop": "shop0"}


def test_a_run_whose_levels_are_broken(place: Workplace, run: str) -> None:
    path = place.folder / "run" / "posterior.json"
    text = path.read_text()
    assert '"cid"' in text
    path.write_text(text.replace('"cid"', '"cid", "dee"'))
    status, error = place.run("predict", "run", "--data", "test.csv", "--out", "p.jsonl")
    assert status == 2
    _assert_one_line(error, r"posterior\.\w+ ")

"""The heterogeneity report: its definitions in plain loops, what they must imply, its files."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from tiny_backbones import tiny_encoder

from bayes_lora import FitSettings, Task, cli, fit
from bayes_lora.backbone import Backbone, load_backbone
from bayes_lora.data import Example, Levels
from bayes_lora.errors import ConfigError
from bayes_lora.heterogeneity import (
    AttributeReport,
    Estimate,
    LevelReport,
    describe_levels,
    report_levels,
)
from bayes_lora.inference.linearise import Linearised
from bayes_lora.inference.mixed_model import Grouped, fit_mixed_model
from bayes_lora.level_page import DATA, PAGE, what_differs, write_levels

Array = NDArray[np.float64]
OPTIONS = ("bad", "so-so", "good")
COUNTS = (7, 2)


class HandMade:
    """Two attributes of two levels and three coordinates, on five rows of three options."""

    def __init__(self, missing: bool, tau: float = 0.7) -> None:
        rng = np.random.default_rng(3)
        self.offsets = rng.normal(size=(5, 3))
        self.features = {name: rng.normal(size=(5, 3, 3)) for name in ("by user", "by shop")}
        if missing:
            self.offsets[4, 2] = -np.inf
            for own in self.features.values():
                own[4, 2] = 0
        self.tau = {"by user": tau, "by shop": 0.4}
        self.shape = {name: rng.uniform(0.5, 2, size=3) for name in self.features}
        self.information = {name: rng.uniform(0.1, 0.3, size=3) for name in self.features}
        self.loc = {name: rng.normal(size=(2, 3)) * self.tau[name] for name in self.features}
        # As of 7 and 2 rows that each tell what the average row does.
        self.scale = {
            name: np.stack([self._posterior(name, count) for count in COUNTS])
            for name in self.features
        }

    def _posterior(self, name: str, count: int) -> Array:
        prior = self.tau[name] * self.shape[name]
        sd: Array = (1 / prior**2 + count * self.information[name]) ** -0.5
        return sd

    def reports(self, options: tuple[str, ...] | None = None) -> dict[str, AttributeReport]:
        measured = Linearised(
            torch.tensor(self.offsets),
            torch.zeros(5, dtype=torch.long),
            {name: torch.tensor(own) for name, own in self.features.items()},
        )
        effects: Any = {name: self._effect(name) for name in self.features}
        tables: Any = {
            name: SimpleNamespace(
                loc=torch.tensor(self.loc[name]), scales=torch.tensor(self.scale[name])
            )
            for name in self.features
        }
        found = report_levels(measured, effects, tables, options)
        return {f"by {report.attribute}": report for report in found}

    def _effect(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            levels=Levels(name.removeprefix("by "), ("one", "two"), COUNTS),
            tau=torch.tensor(self.tau[name]),
            interval=torch.tensor([0.1, 0.9]),
            shape=torch.tensor(self.shape[name]),
            information=torch.tensor(self.information[name]),
        )

    def there(self, row: int) -> list[int]:
        return [o for o in range(3) if self.offsets[row, o] > -np.inf]

    def centred(self, name: str, row: int) -> Array:
        """Derivatives of the centred logits of the row's options, [options there, K]."""
        own = self.features[name][row, self.there(row)]
        return own - own.mean(0)

    def moved(self, name: str, z: Array) -> list[float]:
        """What coordinates add to every logit there is."""
        return [float(x) for row in range(5) for x in self.centred(name, row) @ z]


@pytest.fixture(params=[False, True], ids=["label set", "an option missing"])
def made(request: pytest.FixtureRequest) -> HandMade:
    return HandMade(request.param)


def test_effective_rows_are_the_rows_that_the_posterior_was_made_of(made: HandMade) -> None:
    for report in made.reports().values():
        levels = {level.name: level for level in report.levels}
        assert [levels[name].count for name in ("one", "two")] == list(COUNTS)
        for name, count in zip(("one", "two"), COUNTS, strict=True):
            assert levels[name].effective == pytest.approx(count, rel=1e-4)


def test_share_deviation_weight_and_sure_are_their_definitions(made: HandMade) -> None:
    variances = {}
    for name in made.features:
        diagonals = [
            np.diag(
                made.centred(name, n) @ np.diag(made.shape[name] ** 2) @ made.centred(name, n).T
            )
            for n in range(5)
        ]
        variances[name] = made.tau[name] ** 2 * np.concatenate(diagonals).mean()
    explained = _population_variance(made) + sum(variances.values())
    for name, report in made.reports().items():
        assert report.share == pytest.approx(variances[name] / explained, rel=1e-5)
        for place, level in enumerate(sorted(report.levels, key=lambda own: own.name)):
            _check_level(made, name, place, level)


def _population_variance(made: HandMade) -> float:
    """The mean square distance from the option's mean over the rows that have it."""
    centred = np.full((5, 3), np.nan)
    for n in range(5):
        own = made.offsets[n, made.there(n)]
        centred[n, made.there(n)] = own - own.mean()
    return float(np.nanmean((centred - np.nanmean(centred, 0)) ** 2))


def _check_level(made: HandMade, name: str, place: int, level: LevelReport) -> None:
    metric = np.zeros((3, 3))
    for n in range(5):
        metric += made.centred(name, n).T @ made.centred(name, n)
    metric /= sum(len(made.there(n)) for n in range(5))
    mean, sd = made.loc[name][place], made.scale[name][place]
    prior = made.tau[name] * made.shape[name]
    deviation = np.sqrt(np.mean(np.square(made.moved(name, mean))))
    assert level.deviation == pytest.approx(deviation)
    removed = 1 - np.trace(metric @ np.diag(sd**2)) / np.trace(metric @ np.diag(prior**2))
    assert level.weight == pytest.approx(removed, rel=1e-4)
    # z on the mean's direction, in the metric: its mean is the deviation.
    along = metric @ mean / deviation
    assert along @ mean == pytest.approx(deviation)
    assert level.sure == pytest.approx(norm.cdf(deviation / np.sqrt(along**2 @ sd**2)))


def test_sure_is_a_probability_of_draws() -> None:
    made = HandMade(False)
    rng = np.random.default_rng(0)
    for level in made.reports()["by user"].levels:
        place = ("one", "two").index(level.name)
        mean = made.loc["by user"][place]
        drawn = mean + made.scale["by user"][place] * rng.normal(size=(20_000, 3))
        basis = np.stack([made.moved("by user", unit) for unit in np.eye(3)])  # [K, logits]
        same_way = (drawn @ basis) @ (mean @ basis) > 0
        assert level.sure == pytest.approx(same_way.mean(), abs=0.015)


def test_shift_is_the_mean_change_of_each_option() -> None:
    made = HandMade(False)
    report = made.reports(OPTIONS)["by user"]
    assert report.options == OPTIONS
    change = np.mean([made.centred("by user", n) for n in range(5)], 0)  # [O, K]
    for level in report.levels:
        place = ("one", "two").index(level.name)
        assert level.shift is not None
        means = change @ made.loc["by user"][place]
        sds = np.sqrt(change**2 @ made.scale["by user"][place] ** 2)
        assert [own.mean for own in level.shift] == pytest.approx(means.tolist())
        assert [own.sd for own in level.shift] == pytest.approx(sds.tolist())
        assert sum(own.mean for own in level.shift) == pytest.approx(0)
    assert all(level.shift is None for level in made.reports()["by user"].levels)


def test_no_direction_parts_the_levels_more_than_the_leading_one() -> None:
    made = HandMade(False)
    report = made.reports(OPTIONS)["by user"]
    places = {level.name: level.leading.mean for level in report.levels}
    best = sum(place**2 for place in places.values())
    basis = np.stack([made.moved("by user", unit) for unit in np.eye(3)])
    metric = basis @ basis.T / basis.shape[1]
    loc = made.loc["by user"]
    for direction in np.random.default_rng(0).normal(size=(200, 3)):
        along = metric @ direction / np.sqrt(direction @ metric @ direction)
        assert ((loc @ along) ** 2).sum() <= best + 1e-9
    # All there is of two levels whose deviations lie on one line.
    made.loc["by user"] = np.outer([1.0, -0.5], loc[0])
    report = made.reports(OPTIONS)["by user"]
    for level in report.levels:
        assert abs(level.leading.mean) == pytest.approx(level.deviation)
    assert report.contrast is not None
    assert max(report.contrast, key=abs) > 0, "up is where the option that moves most goes up"


def test_unpooled_is_what_the_posterior_was_shrunk_from() -> None:
    """In one dimension the posterior mean is the weight times what the rows alone say."""
    made = HandMade(False)
    for name in made.features:
        made.features[name][:, :, 1:] = 0
        made.loc[name][:, 1:] = 0
    alone = np.array([0.9, -1.3])
    weights = 1 - (made.scale["by user"][:, 0] / (0.7 * made.shape["by user"][0])) ** 2
    made.loc["by user"][:, 0] = weights * alone
    root = np.sqrt(np.mean(np.square(made.moved("by user", np.array([1.0, 0, 0])))))
    for level in made.reports()["by user"].levels:
        place = ("one", "two").index(level.name)
        assert level.unpooled is not None
        assert abs(level.unpooled) == pytest.approx(root * abs(alone[place]), rel=1e-4)


def test_levels_with_hardly_a_spread_are_the_population() -> None:
    made = HandMade(False, tau=1e-3)
    gradient = np.array([[1.0, -2.0, 0.5], [-3.0, 0.1, 2.0]])  # of the rows' log-likelihood
    made.loc["by user"] = made.scale["by user"] ** 2 * gradient
    report = made.reports(OPTIONS)["by user"]
    assert report.share < 1e-5
    for level in report.levels:
        assert level.deviation < 1e-4
        assert level.sure == pytest.approx(0.5, abs=0.01)
        assert level.weight < 1e-4
        assert level.unpooled is None


def test_a_level_of_which_nothing_is_known_is_a_toss_up() -> None:
    made = HandMade(False)
    made.loc["by user"][1] = 0
    made.scale["by user"][1] = 0.7 * made.shape["by user"]
    first, last = made.reports(OPTIONS)["by user"].levels
    assert (first.name, last.name) == ("one", "two")
    assert last.sure == 0.5
    assert last.deviation == 0
    assert last.effective == pytest.approx(0, abs=1e-4)
    assert last.weight == pytest.approx(0, abs=1e-6)


class Simulated:
    """Levels with so many rows each, and coordinates fitted to labels drawn from the model."""

    def __init__(self, counts: list[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        levels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        features = torch.randn(len(levels), 3, 4, generator=generator) * 0.5
        offsets = torch.randn(len(levels), 3, generator=generator)
        shape = torch.ones(4)
        self.z = torch.randn(len(counts), 4, generator=generator)
        logits = offsets + torch.einsum("nok,nk->no", features, self.z[levels])
        labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        grouped = Grouped(features, levels, len(counts), shape, 1.0)
        (self.fitted,) = fit_mixed_model(offsets, labels, [grouped])
        self.measured = Linearised(offsets, labels, {"by user": features})
        names = tuple(f"user {place:03}" for place in range(len(counts)))
        self.levels = Levels("user", names, tuple(counts))

    def report(self) -> AttributeReport:
        effect: Any = SimpleNamespace(
            levels=self.levels,
            tau=torch.tensor(self.fitted.tau),
            interval=torch.tensor(self.fitted.interval),
            shape=torch.ones(4),
            information=self.measured.information("by user").square().sum(0)
            / len(self.measured.labels),
        )
        table: Any = SimpleNamespace(loc=self.fitted.loc, scales=self.fitted.scale)
        (found,) = report_levels(self.measured, {"by user": effect}, {"by user": table}, OPTIONS)
        return found


def test_more_rows_tell_more() -> None:
    counts = [1, 4, 16, 64]
    report = Simulated([count for count in counts for _ in range(30)], seed=0).report()
    found: dict[str, list[float]] = {"effective": [], "weight": [], "sure": []}
    for count in counts:
        own = [level for level in report.levels if level.count == count]
        assert len(own) == 30
        for name, column in found.items():
            column.append(float(np.mean([getattr(level, name) for level in own])))
    for column in found.values():
        assert column == sorted(column)
    # Rows that say the same of several coordinates, or whose label is plain, count for less.
    for own, count in zip(found["effective"], counts, strict=True):
        assert 0.5 < own / count < 1.1


def test_the_surest_come_first_and_are_as_often_right_as_they_say() -> None:
    made = Simulated([5] * 400, seed=1)
    report = made.report()
    order = [(level.sure, level.deviation) for level in report.levels]
    assert order == sorted(order, reverse=True)
    features = made.measured.features["by user"].double()
    centred = (features - features.mean(1, keepdim=True)).flatten(0, 1)
    metric = centred.T @ centred
    right = torch.einsum("lk,kj,lj->l", made.z.double(), metric, made.fitted.loc) > 0
    said = np.mean([level.sure for level in report.levels])
    assert 0.6 < said < 0.95
    assert float(right.double().mean()) == pytest.approx(said, abs=0.06)


def attribute(levels: list[LevelReport], **changed: Any) -> AttributeReport:
    plain = AttributeReport(
        attribute="user",
        tau=0.5,
        interval=(0.2, 0.8),
        share=0.25,
        options=OPTIONS,
        spread=0.5,
        contrast=(-1.0, -0.2, 1.2),
        levels=tuple(levels),
    )
    return replace(plain, **changed)


MOVED = (-0.6, -0.2, 0.8)


def level(name: str, shift: tuple[float, ...] | None = MOVED, **changed: Any) -> LevelReport:
    own = LevelReport(
        name=name,
        count=12,
        effective=9.5,
        weight=0.6,
        deviation=0.65,
        sure=0.97,
        shift=None if shift is None else tuple(Estimate(mean, 0.2) for mean in shift),
        leading=Estimate(0.7, 0.2),
        unpooled=1.1,
    )
    return replace(own, **changed)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (level("a"), "more 'good', +0.8 ± 0.2 logits"),
        (level("a", (0.6, 0.2, -0.8)), "less 'good', \N{MINUS SIGN}0.8 ± 0.2 logits"),
        (level("a", (0.7, 0.0, -0.7)), "more 'bad', +0.7 ± 0.2 logits"),
        (level("a", deviation=2.0), "depends on the text, 2.0 logits"),
        (level("a", None), "0.7 logits"),
    ],
)
def test_what_differs_in_words(own: LevelReport, expected: str) -> None:
    assert what_differs(own, attribute([own])) == expected


class Checker(HTMLParser):
    """Counts table rows, and fails on what the page would load or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows = 0
        self.feed(html)
        assert "@import" not in html
        assert "url(http" not in html

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "b")
        assert not {"src", "onload"} & {name for name, _ in attrs}
        self.rows += tag == "tr"


def test_the_page_shows_the_surest_and_the_json_has_all(tmp_path: Path) -> None:
    odd = level("<b>\ud800$x$", sure=1.0, unpooled=None)
    others = [level(f"user {i}", count=1 + i % 7, sure=0.9 - i / 1000) for i in range(600)]
    shops = attribute([level("x", None)], attribute="shop", options=None, contrast=None, share=0.0)
    write_levels([attribute([odd, *others]), shops], tmp_path / "new", run="r", rows=9, seed=0)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [PAGE, DATA]
    html = (tmp_path / "new" / PAGE).read_text()
    assert Checker(html).rows == 1 + 2 + 1 + 20 + 1 + 1
    assert "&lt;b&gt;?$x$" in html
    assert "<strong>user 0</strong> differs: 0.90 — more &#39;good&#39;, +0.8 ± 0.2" in html
    assert ">0.99" in html.replace("&gt;", ">")
    assert "up: more &#39;good&#39;, less &#39;bad&#39;" in html
    assert html.count("<svg") == 2
    users, found = json.loads((tmp_path / "new" / DATA).read_text())["attributes"]
    assert len(users["levels"]) == 601
    assert users["levels"][1]["shift"]["good"] == {"mean": 0.8, "sd": 0.2}
    assert users["contrast"] == {"bad": -1.0, "so-so": -0.2, "good": 1.2}
    assert found["levels"][0]["shift"] is None


WORDS = {"good": ("warm", "bright", "funny", "moving"), "bad": ("dull", "cold", "slow", "flat")}
ABOUT = ("a farm", "a war", "two friends", "the sea", "money")


def film_rows(users: int, rows: int, generous: str | None = None) -> list[tuple[str, str, str]]:
    """Texts, labels and users; one user calls most films good, whatever they are."""
    rng = random.Random(0)
    made = []
    for user in (f"u{number}" for number in range(users)):
        for number in range(rows):
            label, other = rng.sample(("bad", "good"), 2)
            text = f"a {rng.choice(WORDS[label])} film about {rng.choice(ABOUT)}, {number}"
            label = label if rng.random() < 0.85 else other
            label = "good" if user == generous and rng.random() < 0.8 else label
            made.append((text, label, user))
    return made


def films(rows: list[tuple[str, str, str]], labels: tuple[str, ...] = ("bad", "good")) -> Task:
    """A task of such rows, under other labels if need be."""
    index = ("bad", "good").index
    return Task(
        f"films {labels[0]}",
        tuple(
            Example(
                input=text,
                options=labels,
                label=index(label),
                attributes={"user": user},
                where=f"row {number}",
            )
            for number, (text, label, user) in enumerate(rows)
        ),
    )


def write_films(path: Path, rows: list[tuple[str, str, str]]) -> None:
    lines = [f'"{text}",{label},{user}' for text, label, user in rows]
    path.write_text("\n".join(["text,label,user", *lines]) + "\n")


def test_one_generous_user_of_eight_comes_first(
    minilm: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = film_rows(8, 40, generous="u5")
    settings = FitSettings(max_steps=30, draws=4)
    posterior = fit([films(rows)], minilm, attributes=["user"], settings=settings)
    posterior.save_pretrained(tmp_path / "run")
    write_films(tmp_path / "films.csv", rows)
    arguments = ["--data", str(tmp_path / "films.csv"), "--out", str(tmp_path / "report")]
    assert cli.main(["levels", str(tmp_path / "run"), *arguments]) == 0
    assert str(tmp_path / "report" / PAGE) in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "report" / DATA).read_text())["attributes"]
    (effect,) = posterior.model.by_level.values()
    assert found["tau"] == pytest.approx(float(effect.tau))
    assert found["interval"][0] < found["tau"] < found["interval"][1]
    assert 0 < found["share"] < 1
    first, *others = found["levels"]
    assert first["name"] == "u5"
    assert {own["count"] for own in found["levels"]} == {40}
    shift = first["shift"]["good"]
    assert shift["mean"] > 2 * shift["sd"]
    assert shift["mean"] == pytest.approx(-first["shift"]["bad"]["mean"], abs=1e-6)
    assert all(abs(own["leading"]["mean"]) < first["leading"]["mean"] for own in others)
    assert "<strong>u5</strong> differs: >0.99" in (
        (tmp_path / "report" / PAGE).read_text().replace("&gt;", ">")
    )
    # The measure does not hang on which rows it is taken on.
    half = describe_levels(posterior, films(rows[::2]).examples, seed=1)[0]
    assert half.levels[0].name == "u5"
    assert half.levels[0].deviation == pytest.approx(first["deviation"], rel=0.1)


@pytest.fixture
def tiny_place(tmp_path: Path, tiny_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with films, where commands are run."""
    write_films(tmp_path / "films.csv", film_rows(3, 4))
    monkeypatch.chdir(tmp_path)
    return tiny_folders / "tiny-encoder"


def run_levels(*arguments: str) -> int:
    return cli.main(["levels", *arguments, "--data", "films.csv"])


SHORT = FitSettings(max_steps=2)


def test_runs_without_levels_are_refused(
    tiny_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, task = load_backbone(str(tiny_place)), films(film_rows(3, 4))
    fit([task], backbone, settings=SHORT).save_pretrained("plain")
    fit([task], backbone, guide="map", settings=SHORT, attributes=["user"]).save_pretrained("map")
    (tmp_path / "empty").mkdir()
    for run, message in (
        ("plain", "without attributes.*--attributes"),
        ("map", "'map' has points.*'mean-field'"),
        ("empty", "empty holds no run"),
    ):
        capsys.readouterr()
        assert run_levels(run, "--out", "report") == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert re.search(message, error), error
    assert run_levels("plain", "--out", "films.csv") == 2
    assert "films.csv/levels.json' cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    with pytest.raises(ConfigError, match="at least one"):
        describe_levels(fit([task], tiny_encoder(), settings=SHORT, attributes=["user"]), [])


def test_tasks_with_label_sets_of_their_own_have_no_shift(tiny_place: Path, tmp_path: Path) -> None:
    rows = film_rows(3, 4)
    tasks = [films(rows), films(rows, ("no", "yes"))]
    settings = replace(SHORT, seed=1)
    posterior = fit(
        tasks,
        load_backbone(str(tiny_place)),
        scorer="similarity",
        attributes=["user"],
        settings=settings,
    )
    posterior.save_pretrained("run")
    (report,) = describe_levels(posterior, [e for task in tasks for e in task.examples])
    assert report.options is None
    assert all(own.shift is None for own in report.levels)
    assert run_levels("run", "--out", "report", "--seed", "3") == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {PAGE, DATA}
    before = (tmp_path / "report" / DATA).read_bytes()
    assert run_levels("run", "--out", "report", "--seed", "3") == 0
    assert (tmp_path / "report" / DATA).read_bytes() == before

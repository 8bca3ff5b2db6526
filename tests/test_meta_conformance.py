"""The same checks for every method, amortization, theta, scorer and backbone of meta-learning."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_conformance import make_choices, make_task

from bayes_lora import Task, load_backbone
from bayes_lora.adapters import ADAPTERS, LoRA
from bayes_lora.data import Example
from bayes_lora.errors import ConfigError, InputDataError, RunFolderError, UnsupportedError
from bayes_lora.meta import EpisodeSettings, MetaPosterior, MetaSettings, meta_fit
from bayes_lora.meta.development import dev_nlls
from bayes_lora.meta.episodes import development_episodes
from bayes_lora.meta.meta_fit import POOLED
from bayes_lora.meta.settings import AMORTIZATIONS, METHODS
from bayes_lora.meta.theta import THETA_GUIDES

SHORT = MetaSettings(
    steps=2,
    train_steps=1,
    max_steps=2,
    evaluations=1,
    tasks_per_step=2,
    episodes=EpisodeSettings((1, 2), 4),
    seed=1,
)
# Backbones with their scorers, and each kind of amortization that these allow.
SETUPS = [
    ("tiny-encoder", "conjugate", "gradient"),
    ("tiny-encoder", "conjugate", "encoder"),
    ("tiny-encoder", "discriminant", "gradient"),
    ("tiny-encoder", "discriminant", "encoder"),
    ("tiny-encoder", "similarity", "gradient"),
    ("tiny-encoder", "similarity", "encoder"),
    ("tiny-decoder", "similarity", "encoder"),
    ("tiny-decoder", "likelihood", "gradient"),
    ("tiny-decoder", "likelihood-letter", "gradient"),
    ("tiny-encoder-decoder", "likelihood", "gradient"),
    ("minilm", "discriminant", "gradient"),
    ("minilm", "discriminant", "encoder"),
]
LABELS = ("good", "bad"), ("warm", "cold", "neither warm nor cold")


def make_tasks() -> list[Task]:
    """Fixed labels twice, two of them and three, and multiple choice."""
    other = [
        replace(example, options=LABELS[1], label=row % 3)
        for row, example in enumerate(make_task(24).examples)
    ]
    return [make_task(20, "films"), Task("weather", tuple(other)), make_choices(16)]


TASKS = make_tasks()
NEW = make_task(12, "new")
NAMES = [" ".join(setup) for setup in SETUPS]


def learn(name: str, scorer: str, amortization: str, **changes: object) -> MetaPosterior:
    settings = replace(SHORT, amortization=amortization, **changes)
    return meta_fit(TASKS, load_backbone(name), scorer=scorer, settings=settings)


@pytest.fixture(scope="module")
def backbones(tiny_folders: Path) -> Callable[[str], str]:
    """Where a backbone of this name lies."""
    return lambda name: str(tiny_folders / name) if name.startswith("tiny-") else name


@pytest.fixture(scope="module", params=SETUPS, ids=NAMES)
def learned(request, backbones) -> MetaPosterior:
    name, scorer, amortization = request.param
    return learn(backbones(name), scorer, amortization)


def probabilities(posterior, draws: int = 3) -> np.ndarray:
    return posterior.predict(NEW.examples, draws=draws).probabilities


def test_adapts_and_predicts_with_any_number_of_examples(learned) -> None:
    for support in ((), NEW.examples[:1], NEW.examples[:8]):
        found = probabilities(learned.adapt(support))
        assert found.shape == (12, 2)
        np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-9)
    choices = TASKS[2].examples
    assert learned.adapt(choices[:4]).predict(choices, draws=2).probabilities.shape == (16, 4)


def test_adapting_side_by_side_is_adapting_one_by_one(learned, monkeypatch) -> None:
    # Without noise, which differs with the number of tasks; Adam can still flip a sign where a
    # gradient is all but zero.
    monkeypatch.setattr(learned.module.amortization, "initial_scale", 1e-6)
    if learned.config.settings.amortization == "encoder":
        monkeypatch.setattr(learned.module.amortization, "steps", 0)
    supports = [NEW.examples[:4], TASKS[1].examples[:3], ()]
    start = learned.adapt().guide.mean()
    for support, together in zip(supports, learned.adapt_all(supports), strict=True):
        alone, other = learned.adapt(support).guide.mean(), together.guide.mean()
        for name, value in alone.items():
            step = (value - start[name]).abs().mean()
            assert (value - other[name]).abs().mean() <= 0.02 * step


def test_saving_and_loading_changes_no_prediction(learned, tmp_path: Path) -> None:
    learned.save_pretrained(tmp_path / "run")
    loaded = MetaPosterior.from_pretrained(tmp_path / "run")
    assert loaded.fingerprint == learned.fingerprint
    for name, support in (("prior", ()), ("adapted", NEW.examples[:4])):
        posterior = learned.adapt(support)
        posterior.save_pretrained(tmp_path / f"{name}.safetensors")
        again = loaded.load_task(tmp_path / f"{name}.safetensors")
        np.testing.assert_allclose(probabilities(again), probabilities(posterior), atol=1e-6)
    assert (tmp_path / "prior.safetensors").stat().st_size < 1000


def test_a_task_of_another_theta_is_refused(learned, tmp_path: Path) -> None:
    learned.adapt(NEW.examples[:2]).save_pretrained(tmp_path / "task.safetensors")
    learned.module.hierarchy.head["log_scale"].data.add_(0.5)
    try:
        with pytest.raises(RunFolderError, match="another theta"):
            learned.load_task(tmp_path / "task.safetensors")
    finally:
        learned.module.hierarchy.head["log_scale"].data.sub_(0.5)


def test_the_same_seed_gives_the_same_theta(backbones) -> None:
    one, other = (learn(backbones("tiny-encoder"), "conjugate", "gradient") for _ in range(2))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("theta", sorted(THETA_GUIDES))
@pytest.mark.parametrize("learn_tau", [False, True])
def test_every_theta_trains(theta: str, learn_tau: bool, backbones) -> None:
    before = MetaSettings().tau
    found = learn(
        backbones("tiny-encoder"), "conjugate", "gradient", theta=theta, learn_tau=learn_tau
    )
    sites = found.module.hierarchy.sites
    moved = [
        not torch.allclose(
            found.module.theta.log_scale_loc[n.replace(".", "/")].exp(),
            torch.tensor(before * site.unit),
        )
        for n, site in sites.items()
    ]
    assert moved == [learn_tau] * len(sites)
    assert np.isfinite(probabilities(found.adapt(NEW.examples[:4]))).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_adapts_saves_and_loads(method: str, backbones, tmp_path) -> None:
    found = learn(backbones("tiny-encoder"), "similarity", "gradient", method=method)
    posterior = found.adapt(NEW.examples[:4])
    assert posterior.guide.random == (method == "abmll")
    found.save_pretrained(tmp_path / "run")
    posterior.save_pretrained(tmp_path / "task.safetensors")
    again = MetaPosterior.from_pretrained(tmp_path / "run").load_task(tmp_path / "task.safetensors")
    np.testing.assert_allclose(probabilities(again), probabilities(posterior), atol=1e-6)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"lora"}))
def test_training_moves_theta(method: str, backbones) -> None:
    found = learn(backbones("tiny-encoder"), "similarity", "gradient", method=method, train_steps=2)
    start = found.config.build(found.backbone).theta.state_dict()
    moved = [not torch.equal(v, start[n]) for n, v in found.module.theta.state_dict().items()]
    assert any(moved)


def test_meta_dev_tasks_fit_the_scorers_weights(backbones) -> None:
    backbone = load_backbone(backbones("tiny-encoder"))
    found = meta_fit(TASKS[:2], backbone, dev=[NEW], settings=SHORT)
    without = meta_fit(TASKS[:2], backbone, settings=SHORT)
    assert found.dev_nll is not None
    assert without.dev_nll is None
    assert found.config.dev_tasks == ("new",)
    same = found.revised(found.config.settings, dev=[NEW])
    assert same.dev_nll == pytest.approx(found.dev_nll, abs=0.05)


def test_the_weights_fitted_on_meta_dev_tasks_are_no_worse_there(backbones) -> None:
    backbone = load_backbone(backbones("tiny-encoder"))
    found = meta_fit(TASKS[:2], backbone, dev=[NEW], settings=SHORT)
    wide = found.revised(found.config.settings)
    wide.module.hierarchy.head["log_scale"].data.add_(2.0)
    again = wide.revised(wide.config.settings, dev=[NEW])
    assert again.dev_nll == pytest.approx(found.dev_nll, abs=0.05)


@pytest.mark.parametrize("method", ["lora", "abmll"])
def test_the_dev_nll_is_that_of_what_is_returned(method: str, backbones) -> None:
    """Steps would undo a temperature that they were taken under."""
    settings = replace(SHORT, method=method, steps=40, learning_rate=0.02, train_steps=None)
    backbone = load_backbone(backbones("tiny-encoder"))
    found = meta_fit(TASKS[:2], backbone, dev=[NEW], scorer="similarity", settings=settings)
    episodes = development_episodes(found.module.hierarchy.model, [NEW], settings.episodes)
    assert found.dev_nlls == pytest.approx(dev_nlls(found.module, episodes), abs=1e-6)
    shift = found.module.hierarchy.shift["log_scale"]
    assert abs(float(shift)) > 0.1
    (used,) = found.adapt(NEW.examples[:2]).own.head.values()
    assert float(used - found.module.hierarchy.head["log_scale"]) == pytest.approx(float(shift))


def test_theta_starts_from_pooled_rows_and_episodes_move_it(backbones) -> None:
    backbone = load_backbone(backbones("tiny-encoder"))
    settings = replace(SHORT, max_steps=4)
    assert POOLED == 0.75
    pooled = meta_fit(
        TASKS,
        backbone,
        scorer="similarity",
        settings=replace(
            settings,
            method="multi-task",
            max_steps=3,
            steps=0,
            train_steps=0,
            episodes=replace(settings.episodes, support=(0,)),
        ),
    )
    found = meta_fit(TASKS, backbone, scorer="discriminant", settings=settings)
    start = meta_fit(
        TASKS,
        backbone,
        scorer="discriminant",
        settings=replace(settings, max_steps=1),
        start=pooled,
    )
    mean, other = found.module.theta.loc, start.module.theta.loc
    assert all(torch.equal(mean[name], other[name]) for name in mean)
    assert any(not torch.equal(mean[name], v) for name, v in pooled.module.theta.loc.items())


def test_training_that_makes_it_worse_is_not_kept(backbones) -> None:
    backbone = load_backbone(backbones("tiny-encoder"))
    start = meta_fit(TASKS[:2], backbone, dev=[NEW], settings=SHORT)
    wild = replace(SHORT, meta_learning_rate=100.0)
    found = meta_fit(TASKS[:2], backbone, dev=[NEW], settings=wild, start=start)
    assert all(
        torch.equal(value, start.module.theta.loc[name])
        for name, value in found.module.theta.loc.items()
    )


def test_theta_of_another_kind_can_be_started_from_and_of_another_rank_not(backbones) -> None:
    backbone = load_backbone(backbones("tiny-encoder"))
    point = meta_fit(TASKS, backbone, settings=SHORT)
    wide = meta_fit(TASKS, backbone, settings=replace(SHORT, theta="mean-field"), start=point)
    again = wide.revised(SHORT)
    assert torch.equal(*(next(iter(found.module.theta.loc.values())) for found in (wide, again)))
    with pytest.raises(ConfigError, match=r"other names or sizes.*rank"):
        meta_fit(TASKS, backbone, settings=SHORT, start=point, adapter=LoRA(rank=3))


def test_a_tau_that_is_not_learned_stays(backbones) -> None:
    found = learn(backbones("tiny-encoder"), "discriminant", "gradient", theta="mean-field")
    start = found.config.build(found.backbone).theta.state_dict()
    scales = {n: v for n, v in found.module.theta.state_dict().items() if "log_scale_l" in n}
    assert scales
    assert all(torch.equal(value, start[name]) for name, value in scales.items())


def test_without_steps_a_task_keeps_the_prior(backbones) -> None:
    found = learn(backbones("tiny-encoder"), "discriminant", "gradient", steps=0)
    prior, posterior = found.adapt().own.scale, found.adapt(NEW.examples[:4]).own.scale
    assert all(torch.equal(prior[name], value) for name, value in posterior.items())


def test_bad_input_is_refused(backbones) -> None:
    backbone = load_backbone(backbones("tiny-encoder"))
    published = replace(SHORT, method="abmll-published")
    decoder = load_backbone(backbones("tiny-decoder"))
    encoder = MetaSettings(amortization="encoder")
    for error, match, call in (
        (InputDataError, "two or more", lambda: meta_fit(TASKS[:1], backbone)),
        (InputDataError, "films", lambda: meta_fit(TASKS, backbone, dev=TASKS[:1])),
        (UnsupportedError, "class head", lambda: meta_fit(TASKS, backbone, scorer="class-head")),
        (UnsupportedError, "pooled", lambda: meta_fit(TASKS, decoder, settings=encoder)),
        (
            UnsupportedError,
            "without a head that learns",
            lambda: meta_fit(TASKS, backbone, scorer="discriminant", settings=published),
        ),
        (ConfigError, "size 0", lambda: replace(published, episodes=EpisodeSettings((0, 4)))),
        (ConfigError, "amortization", lambda: MetaSettings(amortization="magic")),
        (ConfigError, "method", lambda: MetaSettings(method="maml")),
        (ConfigError, "theta", lambda: MetaSettings(theta="nuts")),
        (ConfigError, "support", lambda: EpisodeSettings((), 4)),
        (ConfigError, "size 0", lambda: EpisodeSettings((0, 1), 0)),
    ):
        with pytest.raises(error, match=match):
            call()


def test_a_support_row_without_a_label_is_refused(learned) -> None:
    row = Example(input="a film", options=LABELS[0], label=None, where="reviews.csv, row 3")
    with pytest.raises(InputDataError, match=r"reviews.csv, row 3: there is no label"):
        learned.adapt([row])


def test_tables_list_what_is_tested() -> None:
    assert {amortization for _, _, amortization in SETUPS} == set(AMORTIZATIONS)
    assert "lora" in ADAPTERS

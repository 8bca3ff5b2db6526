"""What meta-dev tasks decide: the shift of the scorer's weights against brute force, and folds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_conformance import make_task
from test_meta_conformance import NEW, SHORT, TASKS

from bayes_lora import Task, load_backbone
from bayes_lora.backbone import Backbone
from bayes_lora.errors import ConfigError, InputDataError
from bayes_lora.meta import MetaPosterior, MetaSettings, meta_fit, training
from bayes_lora.meta.development import SHIFT_WEIGHT, dev_nlls, fit_shift
from bayes_lora.meta.episodes import development_episodes
from bayes_lora.meta.learned import MOST_SUPPORT

# Answered at random, so that the best scale for them is a small one.
OTHER = replace(make_task(12, "other"), examples=make_task(12, "other").examples[::-1])
NOISE = Task(
    "noise",
    tuple(replace(e, label=int(i % 3 == 0)) for i, e in enumerate(OTHER.examples)),
)


@pytest.fixture
def backbone(tiny_folders: Path) -> Backbone:
    return load_backbone(str(tiny_folders / "tiny-encoder"))


def learn(backbone: Backbone, *dev: Task, **changes: object) -> MetaPosterior:
    settings = replace(SHORT, **changes)
    return meta_fit(TASKS[:2], backbone, dev=dev, scorer="similarity", settings=settings)


def set_shift(found: MetaPosterior, value: float) -> None:
    found.module.hierarchy.shift["log_scale"].data.fill_(value)


@pytest.mark.parametrize("task", [NEW, NOISE], ids=["told apart", "noise"])
def test_the_shift_is_the_best_of_a_grid(task: Task, backbone: Backbone) -> None:
    found = learn(backbone, task)
    shift = float(found.module.hierarchy.shift["log_scale"])
    episodes = development_episodes(found.module.hierarchy.model, [task], SHORT.episodes)
    grid, objective = np.linspace(-4, 4, 41), []
    for value in (shift, *grid):
        set_shift(found, value)
        (nll,) = dev_nlls(found.module, episodes).values()
        objective.append(nll + SHIFT_WEIGHT * value**2 / 2)
    assert objective[0] <= min(objective[1:]) + 1e-6
    assert shift == pytest.approx(grid[int(np.argmin(objective[1:]))], abs=0.21)
    assert abs(shift) > 0.1


def test_the_dev_nll_of_a_task_is_under_the_shift_of_the_others(backbone: Backbone) -> None:
    found = learn(backbone, NEW, NOISE)
    model, expected = found.module.hierarchy.model, dict[str, float]()
    for asked, other in ((NEW, NOISE), (NOISE, NEW)):
        fit_shift(found.module, development_episodes(model, [other], SHORT.episodes))
        episodes = development_episodes(model, [asked], SHORT.episodes)
        expected |= dev_nlls(found.module, episodes)
    assert found.dev_nlls == pytest.approx(expected, abs=5e-4)
    assert found.dev_nll == pytest.approx(np.mean([*expected.values()]), abs=1e-4)
    together = development_episodes(model, [NEW, NOISE], SHORT.episodes)
    fit_shift(found.module, together)
    assert np.mean([*dev_nlls(found.module, together).values()]) < found.dev_nll


def test_what_is_saved_predicts_with_the_same_shift(backbone: Backbone, tmp_path: Path) -> None:
    found = learn(backbone, NOISE)
    assert abs(float(found.module.hierarchy.shift["log_scale"])) > 0.1
    found.save_pretrained(tmp_path / "meta")
    loaded = MetaPosterior.from_pretrained(tmp_path / "meta")
    assert loaded.dev_nlls == found.dev_nlls
    ours, theirs = (
        one.adapt(NEW.examples[:4]).predict(NEW.examples[4:], draws=2).probabilities
        for one in (found, loaded)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_last_steps_are_judged_too(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two evaluations of three steps fall on the second and, as the last, on the third."""
    asked: list[dict[str, float]] = []

    def counted(*given: Any) -> dict[str, float]:
        asked.append(dev_nlls(*given))
        return asked[-1]

    monkeypatch.setattr(training, "dev_nlls", counted)
    learn(backbone, NEW, max_steps=3, evaluations=2, method="multi-task", steps=0)
    assert len(asked) == 3  # and where it starts


def test_many_examples_are_refused_and_so_is_an_encoder_without_abmll(backbone: Backbone) -> None:
    found = learn(backbone)
    with pytest.raises(InputDataError, match=r"1001 examples.*--support"):
        found.adapt([NEW.examples[0]] * (MOST_SUPPORT + 1))
    for method in ("lora", "multi-task", "fomaml"):
        with pytest.raises(ConfigError, match="has no encoder"):
            MetaSettings(method=method, amortization="encoder")

"""How to adapt, chosen on meta-dev tasks: what is tried, and what is kept."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_meta_conformance import NEW, SHORT, TASKS

from bayes_lora import load_backbone
from bayes_lora.errors import ConfigError
from bayes_lora.meta import MetaPosterior, meta_fit, tuned
from bayes_lora.meta.tuning import last_better, surely_better


@dataclass(frozen=True)
class Tried:
    dev_nll: float


@pytest.fixture
def learned(tiny_folders: Path) -> MetaPosterior:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    return meta_fit(TASKS[:2], backbone, dev=[NEW], scorer="discriminant", settings=SHORT)


def test_steps_then_tau_then_the_scorer(learned: MetaPosterior) -> None:
    """The least meta-dev NLL of those that it says it tries, and of no other episodes."""
    found = tuned(learned, [NEW], scorers=["similarity"], steps=(0, 2), taus=(0.05, 0.3))
    tried = {}
    for scorer in ("discriminant", "similarity"):
        for steps in (0, 2):
            for tau in (SHORT.tau, 0.05, 0.3):
                settings = replace(SHORT, steps=steps, tau=tau)
                one = learned.revised(settings, dev=[NEW], scorer=scorer)
                tried[scorer, steps, tau] = one.dev_nll
    settings = found.config.settings
    assert found.dev_nll == tried[found.config.scorer_name, settings.steps, settings.tau]
    for name in ("discriminant", "similarity"):
        steps = min((0, 2), key=lambda s, n=name: tried[n, s, SHORT.tau])
        best = min(tried[name, steps, tau] for tau in (SHORT.tau, 0.05, 0.3))
        assert found.dev_nll <= best


def test_it_adapts_as_chosen_when_loaded(learned: MetaPosterior, tmp_path: Path) -> None:
    found = tuned(learned, [NEW], steps=(2,), taus=(0.3,))
    found.save_pretrained(tmp_path / "meta")
    loaded = MetaPosterior.from_pretrained(tmp_path / "meta")
    assert loaded.config.settings == found.config.settings
    support, asked = NEW.examples[:4], NEW.examples[4:]
    before, after = (one.adapt(support).predict(asked, draws=2) for one in (found, loaded))
    assert (before.probabilities == after.probabilities).all()


def test_choices_need_something_to_choose_by(learned: MetaPosterior) -> None:
    with pytest.raises(ConfigError, match="no meta-dev task to choose by"):
        tuned(learned, [])
    learned.config = replace(learned.config, settings=replace(SHORT, learn_tau=True, train_steps=1))
    with pytest.raises(ConfigError, match="tau was learned"):
        tuned(learned, [NEW])


@pytest.mark.parametrize(
    ("values", "best", "asked"),
    [([0.5, 0.4, 0.3], 0.3, 3), ([0.5, 0.4, 0.4, 0.1], 0.4, 3), ([0.5, 0.6, 0.1], 0.5, 2)],
)
def test_more_steps_are_tried_while_they_help(values: list[float], best: float, asked: int) -> None:
    tried = []

    def one(value: float) -> Tried:
        tried.append(value)
        return Tried(value)

    assert last_better(map(one, values)) == Tried(best)
    assert tried == values[:asked]


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ([0.5, 0.4, 0.6], [0.6, 0.5, 0.7], True),  # on every task, alike
        ([0.5, 0.4, 0.8], [0.9, 0.5, 0.5], False),  # better on the mean, by less than its error
        ([0.6, 0.5], [0.5, 0.4], False),
        ([0.4], [0.5], True),
    ],
)
def test_a_default_is_kept_unless_another_is_better_beyond_a_standard_error(
    one: list[float], other: list[float], better: bool
) -> None:
    found = [SimpleNamespace(dev_nlls=dict(enumerate(nlls))) for nlls in (one, other)]
    assert surely_better(*found) == better

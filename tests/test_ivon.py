"""IVON against the exact mean-field optimum, where the prior's centre and unit matter."""

import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from linear_gaussian import NOISE, PRIOR, FullUpdate, GaussianScorer, Problem
from tiny_backbones import WordTokenizer

from bayes_lora.adapters import Factor
from bayes_lora.effects import Effect, Normal
from bayes_lora.errors import ConfigError, UnsupportedError
from bayes_lora.guides import IVON, MeanFieldGuide
from bayes_lora.inference import ivon
from bayes_lora.inference.svi import FitSettings, SVITrainer
from bayes_lora.model import BayesianModel

# Second derivatives forget their start within the 900 steps of a test.
SHORT_MEMORY = 0.995
UNIT, SITE = 0.4, "population.lin.W"
LONG = FitSettings(max_steps=900, batch_size=24)
FAMILY = IVON(learning_rate=0.05, hess_init=0.03)


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivon, "BETA2", SHORT_MEMORY)


@dataclass(frozen=True)
class CentredUpdate(FullUpdate):
    """An update whose prior is centred where a projection starts."""

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        return {"W": Factor((d_out, d_in), unit=UNIT, starts_at_zero=False)}


class Centred:
    """The linear problem with the prior Normal(start, PRIOR^2), and mean-field's best answer.

    Minimising KL(q, posterior) over independent Normals q gives the posterior's mean and the
    inverse of its precision's diagonal.
    """

    def __init__(self, kl_weight: float = 1.0) -> None:
        self.problem = Problem(24, WordTokenizer(), torch.float32)
        self.model = BayesianModel(
            self.problem.model.backbone,
            [Effect("population", CentredUpdate(), Normal(PRIOR / UNIT))],
            GaussianScorer(self.problem.direction),
            head_prior=Normal(),
            num_rows=self.problem.rows,
            kl_weight=kl_weight,
        )
        start = self.model.sites[SITE].start.double().flatten().numpy()
        assert np.abs(start).max() > 0.2, "a centre of zero: nothing to test"
        design, noise = self.problem.design, NOISE**2 * kl_weight
        precision = design.T @ design / noise + np.eye(6) / PRIOR**2
        pull = design.T @ (self.problem.target - design @ start) / noise
        self.mean = start + np.linalg.solve(precision, pull)
        self.scale = 1 / np.sqrt(np.diag(precision))

    def fit(self, family: IVON = FAMILY, settings: FitSettings = LONG) -> MeanFieldGuide:
        guide = family.build(self.model)
        ivon.fit_ivon(self.model, guide, self.problem.data(), settings, family=family)
        return guide


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_fit_reaches_the_exact_mean_field_posterior(kl_weight: float) -> None:
    """The exact second derivatives are 0.004 to 0.22, and start at 0.03."""
    exact = Centred(kl_weight)
    guide = exact.fit()
    deviation = (guide.mean()[SITE].double().flatten().numpy() - exact.mean) / exact.scale
    assert np.abs(deviation).max() < 0.15
    scale = guide.stddev()[SITE].double().flatten().numpy()
    np.testing.assert_allclose(scale, exact.scale, rtol=0.1)


def test_accumulated_passes_are_draws_of_one_step() -> None:
    """Twice the passes a step leave the answer as it is: gradients are averaged, not added."""
    exact = Centred()
    guide = exact.fit(settings=replace(LONG, max_steps=500, batch_size=12, accumulate=2))
    deviation = (guide.mean()[SITE].double().flatten().numpy() - exact.mean) / exact.scale
    assert np.abs(deviation).max() < 0.2
    scale = guide.stddev()[SITE].double().flatten().numpy()
    np.testing.assert_allclose(scale, exact.scale, rtol=0.12)


def test_early_stopping_keeps_mean_and_scales_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dev loss is least at the second evaluation, and that state comes back, scales too."""
    exact = Centred()
    states: list[tuple[torch.Tensor, torch.Tensor]] = []
    losses = iter([2.0, 1.0, 3.0, 4.0])

    def evaluate(self: SVITrainer, *arguments: object, **own: object) -> dict[str, float]:
        posterior = self.svi.guide.posterior
        states.append((posterior.mean()[SITE].clone(), posterior.stddev()[SITE].clone()))
        metrics = {"eval_nll": next(losses)}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    monkeypatch.setattr(SVITrainer, "evaluate", evaluate)
    guide = FAMILY.build(exact.model)
    data = exact.problem.data()
    settings = replace(LONG, max_steps=100, patience=2)
    ivon.fit_ivon(exact.model, guide, data, settings, family=FAMILY, dev=data)
    assert len(states) == 4
    assert not torch.equal(states[1][0], states[3][0])
    assert not torch.equal(states[1][1], states[3][1])
    assert torch.equal(guide.mean()[SITE], states[1][0])
    assert torch.equal(guide.stddev()[SITE], states[1][1])


def test_levels_are_refused() -> None:
    model = SimpleNamespace(by_level={"by user": None})
    with pytest.raises(UnsupportedError, match="leave attributes out"):
        IVON().build(model)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ivon", None)
    with pytest.raises(ConfigError, match=r"bayes-lora\[ivon\]"):
        Centred().fit()

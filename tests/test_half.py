"""BLoB's choice: Normals on A, points on B and the head, against algebra."""

import math

import numpy as np
import pyro
import pytest
import torch
from linear_gaussian import D_IN, D_OUT, NOISE, Problem
from test_conformance import TASK
from tiny_backbones import WordTokenizer

from bayes_lora import FitSettings, fit
from bayes_lora.adapters import LoRA, LoRAStart, VeRA
from bayes_lora.backbone import Backbone
from bayes_lora.effects import Effect, LearnedNormal, Normal
from bayes_lora.errors import ConfigError
from bayes_lora.guides import BLoB, HalfGuide
from bayes_lora.inference import ModelSettings
from bayes_lora.inference.svi import SVIModule, fit_svi
from bayes_lora.model import BayesianModel

RANK = 2
A, B = "population/lin/A", "population/lin/B"
PRIOR_A, PRIOR_B = 0.3, 1.0  # in units of the factors


class Bilinear:
    """``y = offset + v' s B A e + noise``: linear in A at a given B, and in B at a given A."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.problem = Problem(24, WordTokenizer(), dtype)
        adapter = LoRA(rank=RANK)
        effect = Effect("population", adapter, Normal(PRIOR_B), {"A": Normal(PRIOR_A)})
        scorer = self.problem.model.scorer
        self.model = BayesianModel(
            self.problem.model.backbone, [effect], scorer, head_prior=Normal(), num_rows=24
        ).to(dtype)
        self.guide = BLoB().build(self.model).to(dtype)
        self.scale = adapter.scale
        self.direction = self.problem.direction.double().numpy()
        self.inputs = self.problem.design.reshape(24, D_OUT, D_IN)[:, 0] / self.direction[0]
        self.start = self.model.sites["population.lin.A"].start.double().numpy().ravel()
        self.widths = [
            own * self.model.sites[f"population.lin.{name}"].unit
            for name, own in (("A", PRIOR_A), ("B", PRIOR_B))
        ]

    def conditional(self, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The exact posterior of A given B: its mean and precision."""
        design = self.scale * np.einsum("o,ok,ni->nki", self.direction, up, self.inputs)
        design = design.reshape(24, -1)
        precision = design.T @ design / NOISE**2 + np.eye(RANK * D_IN) / self.widths[0] ** 2
        informed = design.T @ self.problem.target / NOISE**2 + self.start / self.widths[0] ** 2
        return np.linalg.solve(precision, informed), precision

    def best_point(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The B of largest ELBO, given independent Normals of A."""
        hidden = self.scale * np.einsum("ki,ni->nk", mean, self.inputs)
        spread = np.diag(self.scale**2 * (scale**2 @ (self.inputs**2).sum(0)))
        square = np.kron(np.outer(self.direction, self.direction), hidden.T @ hidden + spread)
        precision = square / NOISE**2 + np.eye(D_OUT * RANK) / self.widths[1] ** 2
        design = np.einsum("o,nk->nok", self.direction, hidden).reshape(24, -1)
        return np.linalg.solve(precision, design.T @ self.problem.target / NOISE**2)


def test_the_elbo_is_stationary_where_algebra_says() -> None:
    """Coordinate ascent in closed form, A's Normals and B's point in turns, to its fixed point.

    There the gradient of the loss is zero, the points' prior included.
    """
    case = Bilinear(torch.float64)
    up = np.random.default_rng(0).normal(size=(D_OUT, RANK))
    for _ in range(3000):
        mean, precision = case.conditional(up)
        scale = 1 / np.sqrt(np.diag(precision))
        up = case.best_point(mean.reshape(RANK, D_IN), scale.reshape(RANK, D_IN))
        up = up.reshape(D_OUT, RANK)
    assert np.abs(up).max() > 0.1, "B is zero: nothing is tested"
    _set(case.guide, mean, scale, up)
    assert _gradient_in_errors(case) < 4
    with torch.no_grad():
        case.guide.loc[B].mul_(1.05)
    assert _gradient_in_errors(case) > 6, "the test has no power"


def _set(guide: HalfGuide, mean: np.ndarray, scale: np.ndarray, up: np.ndarray) -> None:
    with torch.no_grad():
        guide.loc[A].copy_(torch.tensor(mean).view_as(guide.loc[A]))
        guide.log_scale[A].copy_(torch.tensor(scale).log().view_as(guide.loc[A]))
        guide.loc[B].copy_(torch.tensor(up).view_as(guide.loc[B]))


def _gradient_in_errors(case: Bilinear) -> float:
    """The largest entry of the loss's gradient by all parameters, in standard errors."""
    module = SVIModule(case.model, case.guide, 32)
    torch.manual_seed(0)
    passes = []
    for _ in range(150):
        loss = module(case.problem.labels, **case.problem.batch)["loss"]
        parts = torch.autograd.grad(loss, list(case.guide.parameters()))
        passes.append(torch.cat([part.flatten() for part in parts]).numpy())
    error = np.std(passes, 0) / math.sqrt(len(passes))
    return float(np.abs(np.mean(passes, 0) / error).max())


def test_a_fit_finds_the_conditional_posterior_of_a() -> None:
    case = Bilinear(torch.float32)
    settings = FitSettings(
        max_steps=400, batch_size=24, draws=24, learning_rate=0.05, scale_learning_rate=0.05
    )
    fit_svi(case.model, case.guide, case.problem.data(), settings)
    up = case.guide.loc[B].detach().double().numpy()[0]
    assert np.abs(up).max() > 0.1
    mean, precision = case.conditional(up)
    exact = 1 / np.sqrt(np.diag(precision))
    scale = case.guide.log_scale[A].exp().detach().numpy().ravel()
    np.testing.assert_allclose(scale, exact, rtol=0.1)
    deviation = (case.guide.loc[A].detach().numpy().ravel() - mean) / exact
    assert np.abs(deviation).max() < 0.15


@pytest.mark.parametrize(
    ("adapter", "random"),
    [(LoRA(rank=2), {"A"}), (LoRA(rank=2, start=LoRAStart.PISSA), {"A"}), (VeRA(rank=4), {"d"})],
)
def test_what_has_variance(adapter: LoRA | VeRA, random: set[str], tiny: Backbone) -> None:
    settings = FitSettings(max_steps=6, batch_size=8, learning_rate=0.02)
    posterior = fit([TASK], tiny, adapter=adapter, guide="blob", settings=settings)
    for name, value in posterior.draw(3).items():
        kind = name.rpartition(".")[2]
        assert (value.std(0) > 0).all() if kind in random else not value.std(0).any()
        assert (name in posterior.guide.stddev()) == (kind in random)
        assert (posterior.guide.mean()[name] != posterior.model.sites[name].start).any()


def test_roots_give_the_covariance_of_what_is_linear_in_weights() -> None:
    """Against 20,000 draws of the guide."""
    case = Bilinear(torch.float64)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        noise = torch.randn(case.guide.log_scale[A].shape, generator=generator)
        case.guide.log_scale[A].add_(noise)
    derivatives = {
        name: torch.randn(3, *site.shape, generator=generator, dtype=torch.float64)
        for name, site in case.model.sites.items()
    }
    roots = case.guide.roots(derivatives)
    assert roots.shape == (3, RANK * D_IN)
    torch.manual_seed(0)
    with torch.no_grad(), pyro.plate("draws", 20_000, dim=-1):
        drawn = case.guide()
    logits = sum(derivatives[name].flatten(1) @ drawn[name].flatten(1).T for name in drawn)
    exact = roots @ roots.T
    size = exact.diagonal().sqrt()
    torch.testing.assert_close(
        torch.cov(logits) / size / size[:, None], exact / size / size[:, None], atol=0.04, rtol=0
    )


def test_a_learned_prior_scale_is_refused(tiny: Backbone) -> None:
    """B is a point: the optimum for its prior's scale would be zero."""
    settings = ModelSettings(update_prior=LearnedNormal(1.0))
    with pytest.raises(ConfigError, match="optimum is a scale of zero"):
        fit([TASK], tiny, guide="blob", model_settings=settings)

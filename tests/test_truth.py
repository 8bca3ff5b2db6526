"""The Pyro program against algebra, NUTS and 2,000 repetitions."""

import math

import numpy as np
import pyro
import pytest
import torch
from linear_gaussian import NOISE, PRIOR, SITE, Problem
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from tiny_backbones import WordTokenizer

from bayes_lora.guides import MeanField, MeanFieldGuide
from bayes_lora.inference.svi import FitSettings, SVIModule, fit_svi

KEY = SITE.replace(".", "/")


@pytest.fixture
def problem() -> Problem:
    return Problem(24, WordTokenizer())


def _set(guide: MeanFieldGuide, mean: np.ndarray, scale: np.ndarray) -> None:
    with torch.no_grad():
        guide.loc[KEY].copy_(torch.tensor(mean).view_as(guide.loc[KEY]))
        guide.log_scale[KEY].copy_(torch.tensor(scale).log().view_as(guide.loc[KEY]))


def _mean_field(problem: Problem, seed: int) -> MeanFieldGuide:
    generator = np.random.default_rng(seed)
    guide = MeanField().build(problem.model).double()
    _set(guide, generator.normal(size=6), np.exp(generator.normal(size=6) - 2))
    return guide


@pytest.mark.parametrize("draws", [1, 4, 24])
def test_elbo_estimator_has_the_closed_form_as_its_mean(problem: Problem, draws: int) -> None:
    """Every row-sharing estimator is unbiased for the exact ELBO."""
    guide = _mean_field(problem, 3)
    flat = (value.detach().numpy().ravel() for value in (guide.loc[KEY], guide.log_scale[KEY]))
    mean, log_scale = flat
    problem.model.share_rows = True
    module = SVIModule(problem.model, guide, draws)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [module(problem.labels, **problem.batch)["loss"].item() for _ in range(1500)]
    error = np.std(losses) / math.sqrt(len(losses)) * problem.rows
    exact = problem.elbo(mean, np.exp(log_scale))
    assert abs(-np.mean(losses) * problem.rows - exact) < 3.5 * error
    assert error < 0.02 * abs(exact)


@pytest.mark.parametrize("draws", [1, 4])
def test_divergences_left_out_of_pyros_elbo_change_nothing(problem: Problem, draws: int) -> None:
    guide = _mean_field(problem, 4)
    problem.model.share_rows = True
    pyros = TraceMeanField_ELBO(
        num_particles=draws, vectorize_particles=draws > 1, max_plate_nesting=1
    )(problem.model, guide)
    module = SVIModule(problem.model, guide, draws)
    found = []
    for loss in (
        lambda: pyros(problem.batch, problem.labels, {}) / problem.rows,
        lambda: module(problem.labels, **problem.batch)["loss"],
    ):
        torch.manual_seed(0)
        value = loss()
        gradients = torch.autograd.grad(value, list(guide.parameters()))
        found.append(torch.cat([value.view(1), *[own.flatten() for own in gradients]]).detach())
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_at_the_exact_posterior_every_draw_gives_the_log_evidence(problem: Problem) -> None:
    """No Monte Carlo error at all: log p(y, w) - log p(w | y) does not depend on w."""
    guide = AutoMultivariateNormal(problem.model)
    guide(problem.batch, problem.labels)
    cholesky = torch.tensor(np.linalg.cholesky(problem.covariance))
    scale = cholesky.diagonal()
    with torch.no_grad():
        guide.loc.copy_(torch.tensor(problem.mean))
    guide.scale = scale.clone()
    guide.scale_tril = cholesky / scale.unsqueeze(-1)
    elbo = Trace_ELBO()(problem.model, guide)
    for _ in range(3):
        assert -elbo(problem.batch, problem.labels).item() == pytest.approx(
            problem.log_evidence(),
            abs=1e-6,  # the prior's log scale was set in float32
        )


def test_fit_reaches_the_exact_mean_field_posterior() -> None:
    """Minibatches, row groups and Trainer included: means and scales are the exact ones."""
    problem = Problem(24, WordTokenizer(), torch.float32)
    guide = MeanField().build(problem.model)
    settings = FitSettings(
        max_steps=1500, batch_size=12, draws=4, learning_rate=0.02, scale_learning_rate=0.02
    )
    fit_svi(problem.model, guide, problem.data(), settings)
    scale = guide.log_scale[KEY].exp().detach().numpy().ravel()
    exact_scale = 1 / np.sqrt(np.diag(problem.precision))  # mean-field: conditional, not marginal
    deviation = (guide.mean()[SITE].numpy().ravel() - problem.mean) / exact_scale
    assert np.abs(deviation).max() < 0.15
    np.testing.assert_allclose(scale, exact_scale, rtol=0.1)


def test_in_a_long_fit_scales_move_no_further_than_a_factor_e() -> None:
    """Of weights that no row tells of, whose exact scale is the prior's, far away."""
    problem = Problem(24, WordTokenizer(), torch.float32)
    problem.model.kl_weight = 1e6  # against which the rows say nothing
    moved = []
    for settings in (
        FitSettings(max_steps=800),
        FitSettings(max_steps=800, scale_learning_rate=0.02),
    ):
        guide = MeanField(initial_scale=0.01).build(problem.model)
        before = guide.log_scale[KEY].detach().clone()
        fit_svi(problem.model, guide, problem.data(), settings)
        moved.append(float((guide.log_scale[KEY].detach() - before).max()))
    assert 0.9 < moved[0] < 1.01
    assert moved[1] > 3


def test_nuts_runs_on_the_program_and_agrees(problem: Problem) -> None:
    pyro.set_rng_seed(0)
    sampler = MCMC(
        NUTS(problem.model, max_tree_depth=4), 400, warmup_steps=100, disable_progbar=True
    )
    sampler.run(problem.batch, problem.labels)
    draws = sampler.get_samples()[SITE].reshape(400, -1).numpy()
    effective = sampler.diagnostics()[SITE]["n_eff"].reshape(-1).numpy()
    deviation = np.sqrt(np.diag(problem.covariance))
    error = deviation / np.sqrt(np.minimum(effective, 400))
    assert (np.abs(draws.mean(0) - problem.mean) < 4 * error).all()
    np.testing.assert_allclose(draws.std(0), deviation, rtol=0.2)


@pytest.mark.parametrize(
    "autoguide",
    [
        AutoNormal,
        AutoDiagonalNormal,
        AutoMultivariateNormal,
        AutoLowRankMultivariateNormal,
        AutoLaplaceApproximation,
        AutoDelta,
    ],
)
def test_every_autoguide_finds_the_posterior_mean(problem: Problem, autoguide: type) -> None:
    """Pyro's own guides run unchanged, with several particles too."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    guide = autoguide(problem.model)
    guide(problem.batch, problem.labels)
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    module = elbo(problem.model, guide)
    module(problem.batch, problem.labels)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 200)
    for _ in range(200):
        optimizer.zero_grad()
        module(problem.batch, problem.labels).backward()
        optimizer.step()
        schedule.step()
    if autoguide is AutoLaplaceApproximation:
        guide = guide.laplace_approximation(problem.batch, problem.labels)
    median = guide.median()[SITE].detach().numpy().ravel()
    deviation = np.sqrt(np.diag(problem.covariance))
    assert (np.abs(median - problem.mean) < 0.3 * deviation).all()


def test_predictive_runs_in_parallel(problem: Problem) -> None:
    """Prior draws of labels have the prior predictive's moments."""
    pyro.set_rng_seed(0)
    predictive = Predictive(problem.model, num_samples=4000, parallel=True)
    with torch.no_grad():
        labels = predictive(problem.batch)["label"].reshape(4000, problem.rows).double().numpy()
    offset = problem.labels.numpy() - problem.target
    variance = PRIOR**2 * (problem.design**2).sum(1) + NOISE**2
    assert (np.abs(labels.mean(0) - offset) < 4 * np.sqrt(variance / 4000)).all()
    np.testing.assert_allclose(labels.var(0), variance, rtol=0.12)


def test_sharing_rows_among_draws_keeps_the_gradient_and_lowers_its_variance(
    problem: Problem,
) -> None:
    """2,000 repetitions each: equal means within 3 standard errors, smaller variance."""
    problem.model.share_rows = True
    guide = _mean_field(problem, 5)
    moments = {}
    for draws in (1, 8):
        module = SVIModule(problem.model, guide, draws)
        torch.manual_seed(draws)
        samples = []
        for _ in range(2000):
            loss = module(problem.labels, **problem.batch)["loss"]
            parts = torch.autograd.grad(loss, list(guide.parameters()))
            samples.append(torch.cat([part.flatten() for part in parts]).numpy())
        moments[draws] = np.mean(samples, 0), np.var(samples, 0)
    (mean_1, variance_1), (mean_8, variance_8) = moments[1], moments[8]
    error = np.sqrt((variance_1 + variance_8) / 2000)
    assert (np.abs(mean_1 - mean_8) < 3 * error).all()
    ratio = variance_8.sum() / variance_1.sum()
    print(f"gradient variance, 8 draws over 1: {ratio:.3f}")
    assert ratio < 0.5


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_the_weighted_closed_form_kl_minus_the_likelihood(
    problem: Problem, weight: float
) -> None:
    problem.model.kl_weight = weight
    guide = _mean_field(problem, 7)
    mean, scale = guide.loc[KEY].detach().numpy(), guide.log_scale[KEY].exp().detach().numpy()
    ratio = scale / PRIOR
    kl = (0.5 * (ratio**2 + (mean / PRIOR) ** 2 - 1) - np.log(ratio)).sum() / problem.rows
    module = SVIModule(problem.model, guide, 1)
    loss = module(problem.labels, **problem.batch)["loss"].item()
    likelihood, divergence = module.terms
    assert divergence == pytest.approx(kl, rel=1e-6)
    assert loss == pytest.approx(weight * kl - likelihood, rel=1e-6)

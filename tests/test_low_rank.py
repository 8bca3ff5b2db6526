"""The low-rank guide against dense algebra and an exact, strongly correlated posterior."""

import math

import numpy as np
import pytest
import torch
from linear_gaussian import NOISE, PRIOR, FullUpdate, Problem
from tiny_backbones import WordTokenizer
from torch.distributions import LowRankMultivariateNormal, kl_divergence

from bayes_lora.effects import Effect, Normal
from bayes_lora.errors import ConfigError
from bayes_lora.guides import LowRank, LowRankGuide, sample
from bayes_lora.inference.svi import FitSettings, SVIModule, fit_svi
from bayes_lora.model import BayesianModel

EFFECTS = (Effect("one", FullUpdate(), Normal(PRIOR)), Effect("two", FullUpdate(), Normal(0.3)))


@pytest.fixture
def problem() -> Problem:
    return Problem(24, WordTokenizer())


def _scattered(model: BayesianModel, rank: int) -> LowRankGuide:
    """A guide with parameters of no pattern."""
    guide = LowRank(rank).build(model).double()
    torch.manual_seed(2)
    with torch.no_grad():
        for value in guide.loc.values():
            value.normal_()
        for value in guide.log_scale.values():
            value.normal_(-1.5, 0.5)
        for value in guide.factor.values():
            value.normal_(0, 0.4)
    return guide


def _two_sites(problem: Problem) -> LowRankGuide:
    model = BayesianModel(
        problem.model.backbone,
        EFFECTS,
        problem.model.scorer,
        head_prior=Normal(),
        num_rows=problem.rows,
    ).double()
    return _scattered(model, 3)


def _joint(guide: LowRankGuide) -> LowRankMultivariateNormal:
    """Make torch's own distribution of all sites' entries, one site after the other."""
    loc = torch.cat([value.flatten() for value in guide.loc.values()])
    factor = torch.cat([value.flatten(1) for value in guide.factor.values()], 1)
    log_scale = torch.cat([value.flatten() for value in guide.log_scale.values()])
    return LowRankMultivariateNormal(loc, factor.T, (2 * log_scale).exp())


def test_divergence_and_its_gradient_are_those_of_the_joint_gaussian(problem: Problem) -> None:
    guide = _two_sites(problem)
    scale = torch.tensor([PRIOR] * 6 + [0.3] * 6).double()
    prior = LowRankMultivariateNormal(
        torch.zeros(12).double(), torch.zeros(12, 1).double(), scale.square()
    )
    priors = {
        f"{effect.name}.lin.W": effect.prior.build(torch.zeros(1, 2, 3).double(), 1.0)
        for effect in EFFECTS
    }
    found = guide.divergence(lambda name: priors[name].distribution())
    expected = kl_divergence(_joint(guide), prior)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
    parameters = list(guide.parameters())
    for own, other in zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-9)


def test_draws_have_the_covariance_over_sites(problem: Problem) -> None:
    guide = _two_sites(problem)
    draws = sample(guide, 3000, seed=0)
    flat = torch.cat([draws[name].flatten(1) for name in guide.sites], 1)
    exact = _joint(guide).covariance_matrix.detach()
    deviation = exact.diagonal().sqrt()
    assert ((flat.mean(0) - _joint(guide).mean).abs() < 4.5 * deviation / math.sqrt(3000)).all()
    # The standard error of a covariance is sqrt((s_ii s_jj + s_ij^2) / n).
    error = ((deviation[:, None] * deviation).square() + exact.square()).sqrt() / math.sqrt(3000)
    assert ((flat.T.cov() - exact).abs() < 4.5 * error).all()
    assert exact[:6, 6:].abs().max() > 20 * error.max(), "no covariance between sites to find"
    stddev = torch.cat([value.flatten() for value in guide.stddev().values()])
    torch.testing.assert_close(stddev, deviation)


def test_roots_have_the_covariance_of_linear_functions(problem: Problem) -> None:
    guide = _two_sites(problem)
    derivatives = {name: torch.randn(5, 1, 2, 3).double() for name in guide.sites}
    roots = guide.roots(derivatives)
    flat = torch.cat([derivatives[name].flatten(1) for name in guide.sites], 1)
    expected = flat @ _joint(guide).covariance_matrix @ flat.T
    torch.testing.assert_close(roots @ roots.T, expected.detach())


def _elbo(problem: Problem, mean: np.ndarray, covariance: np.ndarray) -> float:
    """The closed-form ELBO of any Normal guide."""
    residual = problem.target - problem.design @ mean
    spread = np.trace(problem.design @ covariance @ problem.design.T)
    fit = -0.5 * (residual @ residual + spread) / NOISE**2
    fit -= problem.rows * np.log(NOISE * np.sqrt(2 * np.pi))
    tau2 = PRIOR**2
    ratio = np.linalg.slogdet(covariance / tau2)[1]
    return fit - 0.5 * (np.trace(covariance) / tau2 + mean @ mean / tau2 - len(mean) - ratio)


@pytest.mark.parametrize("draws", [1, 4])
def test_elbo_estimator_has_the_closed_form_as_its_mean(problem: Problem, draws: int) -> None:
    """Vectorised particles too: each has a z of its own, and one for all of its rows."""
    guide = _scattered(problem.model, 2)
    problem.model.share_rows = True
    module = SVIModule(problem.model, guide, draws)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [module(problem.labels, **problem.batch)["loss"].item() for _ in range(1000)]
    error = np.std(losses) / math.sqrt(len(losses)) * problem.rows
    joint = _joint(guide)
    mean, covariance = joint.mean.detach().numpy(), joint.covariance_matrix.detach().numpy()
    exact = _elbo(problem, mean, covariance)
    assert abs(-np.mean(losses) * problem.rows - exact) < 3.5 * error
    assert error < 0.02 * abs(exact)


def _correlated() -> Problem:
    """A problem whose data see only sums of two weights, which so vary against each other."""
    problem = Problem(24, WordTokenizer(), torch.float32)
    problem.direction.fill_(1.0)
    problem._solve(problem.model.backbone, torch.float32)
    return problem


def _predictive(problem: Problem, covariance: np.ndarray) -> np.ndarray:
    """Variances of the rows' means under a covariance of the weights."""
    return np.einsum("ni,ij,nj->n", problem.design, covariance, problem.design)


def test_it_recovers_a_correlated_posterior_that_mean_field_cannot() -> None:
    """Six weights, of which three directions have data: rank 5 plus a diagonal has it exactly."""
    problem = _correlated()
    exact, best = problem.covariance, np.diag(1 / np.diag(problem.precision))  # mean-field's
    guide = LowRank(rank=5).build(problem.model)
    settings = FitSettings(
        max_steps=800, batch_size=24, draws=24, learning_rate=0.03, scale_learning_rate=0.03
    )
    fit_svi(problem.model, guide, problem.data(), settings)
    joint = _joint(guide)
    mean = joint.mean.detach().double().numpy()
    found = joint.covariance_matrix.detach().double().numpy()
    largest, variances = np.abs(exact).max(), _predictive(problem, exact)
    assert np.abs(best - exact).max() > 0.8 * largest
    assert np.abs(found - exact).max() < 0.12 * largest
    assert (_predictive(problem, best) / variances).max() > 3
    np.testing.assert_allclose(_predictive(problem, found), variances, rtol=0.3)
    evidence = problem.log_evidence()
    assert evidence - _elbo(problem, problem.mean, best) > 3
    assert 0 < evidence - _elbo(problem, mean, found) < 0.15


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        LowRank(rank=0)

"""MC dropout: masks of whole columns with the right moments, and the penalty that they are."""

import math

import numpy as np
import pyro
import pytest
import torch
from linear_gaussian import D_IN, D_OUT, NOISE, PRIOR, SITE, Problem
from test_conformance import EXAMPLES, TASK
from tiny_backbones import WordTokenizer, tiny_encoder

from bayes_lora import FitSettings, Posterior, fit
from bayes_lora.adapters import Adapter, HydraLoRA, LoRA, LoRAStart, LoRAXS, VeRA
from bayes_lora.errors import ConfigError
from bayes_lora.guides import DropoutGuide, MCDropout, sample
from bayes_lora.inference.svi import SVIModule, fit_svi
from bayes_lora.predict import predict

KEY = SITE.replace(".", "/")
RATE = 0.3
ODDS = RATE / (1 - RATE)


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    settings = FitSettings(max_steps=6, batch_size=8, draws=4, learning_rate=0.05)
    return fit(
        [TASK], tiny_encoder(), adapter=LoRA(rank=2), guide=MCDropout(RATE), settings=settings
    )


def test_draws_drop_whole_columns_of_what_reads_inputs(posterior: Posterior) -> None:
    """And have the moments that ``mean`` and ``stddev`` say."""
    guide, draws = posterior.guide, 1500
    mean, scales, masks = guide.mean(), guide.stddev(), []
    for name, value in sample(guide, draws, seed=0).items():
        masked = name.endswith(".A") or name == "head.weight"
        assert (name in scales) == masked
        if not masked:
            assert torch.equal(value, mean[name].expand_as(value))
            continue
        torch.testing.assert_close(scales[name], mean[name].abs() * math.sqrt(ODDS))
        assert ((value.mean(0) - mean[name]).abs() < 4.5 * scales[name] / math.sqrt(draws)).all()
        torch.testing.assert_close(value.std(0), scales[name], rtol=0.12, atol=0)
        share = (value / mean[name] * (1 - RATE)).double()
        kept = share > 0.5
        torch.testing.assert_close(share, kept.double(), atol=1e-5, rtol=0)
        assert torch.equal(kept, kept[..., :1, :].expand_as(kept)), "parts of columns"
        masks.append(kept[..., 0, :].flatten(1))
    columns = torch.cat(masks, 1).double()  # of all layers: every one by itself
    correlation = torch.corrcoef(columns.T) - torch.eye(columns.shape[1])
    assert correlation.abs().max() < 5.5 / math.sqrt(draws)


@pytest.mark.parametrize(
    ("adapter", "masked"),
    [
        (HydraLoRA(rank=2, experts=2), {"A", "G"}),
        (LoRA(rank=2, start=LoRAStart.PISSA), {"A"}),
        (VeRA(rank=4), {"d"}),
        (LoRAXS(rank=4), {"R"}),
    ],
)
def test_what_is_masked(adapter: Adapter, masked: set[str]) -> None:
    start = FitSettings(max_steps=0)
    posterior = fit([TASK], tiny_encoder(), adapter=adapter, guide="mc-dropout", settings=start)
    assert {n.rpartition(".")[2] for n in posterior.guide.stddev()} == masked | {"weight"}


def test_folded_draws_equal_one_at_a_time(posterior: Posterior) -> None:
    rows, draws = (
        posterior.config.scorer.rows(posterior.model.backbone, EXAMPLES),
        posterior.draw(4),
    )
    together = predict(posterior.model, draws, rows, keep_draws=True).per_draw
    assert together is not None
    for i in range(4):
        one = {site: value[i : i + 1] for site, value in draws.items()}
        alone = predict(posterior.model, one, rows).probabilities
        np.testing.assert_allclose(together[i], alone, atol=1e-5)


def _problem(dtype: torch.dtype = torch.float64) -> tuple[Problem, DropoutGuide]:
    problem = Problem(24, WordTokenizer(), dtype)
    return problem, MCDropout(RATE).build(problem.model).to(dtype)


def _penalty(problem: Problem) -> np.ndarray:
    """What dropping columns adds to ``X' X``: only entries of one column are dropped together."""
    gram = problem.design.T @ problem.design
    column = np.arange(D_OUT * D_IN) % D_IN
    return ODDS * gram * (column[:, None] == column)


@pytest.mark.parametrize("draws", [1, 4])
def test_the_loss_is_the_closed_form_of_dropout_in_linear_regression(draws: int) -> None:
    """Dropout is an L2 penalty by the data, and the prior's (Srivastava et al. 2014, section 9.1).

    One mask for all rows that a particle has, and another for each particle.
    """
    problem, guide = _problem()
    weights = np.random.default_rng(2).normal(size=D_OUT * D_IN)
    with torch.no_grad():
        guide.loc[KEY].copy_(torch.tensor(weights).view_as(guide.loc[KEY]))
    residual = problem.target - problem.design @ weights
    squares = residual @ residual + weights @ _penalty(problem) @ weights
    exact = 0.5 * squares / NOISE**2 + problem.rows * math.log(NOISE * math.sqrt(2 * math.pi))
    exact += 0.5 * (weights @ weights) / (1 - RATE) / PRIOR**2
    exact += len(weights) * math.log(PRIOR * math.sqrt(2 * math.pi))
    problem.model.share_rows = True
    module = SVIModule(problem.model, guide, draws)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [module(problem.labels, **problem.batch)["loss"].item() for _ in range(600)]
    error = np.std(losses) / math.sqrt(len(losses)) * problem.rows
    assert abs(np.mean(losses) * problem.rows - exact) < 3.5 * error
    assert error < 0.03 * exact


def test_a_fit_finds_the_ridge_solution() -> None:
    problem, guide = _problem(torch.float32)
    settings = FitSettings(max_steps=400, batch_size=24, draws=24, learning_rate=0.05)
    fit_svi(problem.model, guide, problem.data(), settings)
    ridge = np.eye(D_OUT * D_IN) * NOISE**2 / PRIOR**2 / (1 - RATE)
    gram = problem.design.T @ problem.design
    exact = np.linalg.solve(gram + _penalty(problem) + ridge, problem.design.T @ problem.target)
    without = np.linalg.solve(gram + ridge, problem.design.T @ problem.target)
    found = guide.mean()[SITE].numpy().ravel()
    assert np.abs(found - exact).max() < 0.2 * np.abs(without - exact).max()


def test_each_particle_has_one_mask() -> None:
    _, guide = _problem()
    with torch.no_grad():
        guide.loc[KEY].fill_(1.0)
    torch.manual_seed(0)
    with pyro.plate("particles", 12, dim=-2):
        value = guide()[SITE]
    assert value.shape == (12, 1, 1, D_OUT, D_IN)
    assert len(value.flatten(1).unique(dim=0)) > 3


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        MCDropout(rate)

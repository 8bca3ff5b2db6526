"""A population fitted to all levels is marginal; its logits given a level, by quadrature."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from torch import Tensor

from bayes_lora.inference.attenuation import attenuation
from bayes_lora.inference.levels import fit_around
from bayes_lora.inference.mixed_model import Grouped, fit_mixed_model
from bayes_lora.marginal import shifted

POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def _shifts(levels: Tensor, number: int) -> Grouped:
    """Binary rows whose level adds tau to one logit and takes it from the other."""
    features = torch.tensor([-1.0, 1.0]).view(1, 2, 1).expand(len(levels), -1, -1).double()
    return Grouped(features, levels, number, torch.ones(1).double(), 1.0)


def _marginal(logit: float, tau: float) -> float:
    """The probability of a row whose logit, given its level, is Normal around this one."""
    return float(WEIGHTS @ (1 / (1 + np.exp(-(logit + 2 * tau * POINTS)))))


def _given_a_level(logit: float, tau: float) -> float:
    """The logit around which levels differ, where over all of them it is this one."""
    wanted = 1 / (1 + np.exp(-logit))
    return float(brentq(lambda own: _marginal(own, tau) - wanted, -60, 60))


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 2.0])
def test_averaged_over_levels_it_is_the_population(tau: float) -> None:
    logits = np.linspace(-3, 3, 101)
    offsets = torch.from_numpy(np.stack([-logits / 2, logits / 2], axis=1))
    found = attenuation(offsets, _shifts(torch.zeros(101, dtype=torch.long), 1), tau)
    averaged = [_marginal((1 + found) ** 0.5 * logit, tau) for logit in logits]
    assert np.abs(averaged - 1 / (1 + np.exp(-logits))).max() < 0.02


def test_without_a_spread_nothing_changes() -> None:
    offsets = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    offsets[::2, 2] = -torch.inf
    features = torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(1))
    own = Grouped(features, torch.zeros(50, dtype=torch.long), 1, torch.ones(2), 1.0)
    assert abs(attenuation(offsets, own, 1e-3)) < 1e-3


TAU, LEVELS, ROWS = 1.0, 200, 20


def test_levels_of_a_marginal_population_are_as_they_were_drawn() -> None:
    """tau and the levels are found; with the offsets as they are, tau would be about 0.7."""
    taus, squares, plain = [], [], []
    grid = np.linspace(-12, 12, 481)
    table = [_given_a_level(logit, TAU) for logit in grid]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        logits = 2 * rng.normal(size=LEVELS * ROWS)
        given = np.interp(logits, grid, table)
        levels = np.repeat(np.arange(LEVELS), ROWS)
        true = TAU * rng.normal(size=LEVELS)
        drawn = rng.random(len(logits)) < 1 / (1 + np.exp(-(given + 2 * true[levels])))
        labels = torch.from_numpy(drawn).long()
        offsets = torch.from_numpy(np.stack([-logits / 2, logits / 2], axis=1))
        own = _shifts(torch.from_numpy(levels), LEVELS)
        (fitted,), (found,) = fit_around(offsets, labels, [own])
        factor = (1 + float(found)) ** 0.5
        assert factor == pytest.approx(given @ logits / (logits @ logits), rel=0.1)
        z = (factor * fitted.loc[:, 0].numpy() - true) / (factor * fitted.scale[:, 0].numpy())
        taus.append(fitted.tau)
        squares.append(np.mean(z**2))
        plain.append(fit_mixed_model(offsets, labels, [own])[0].tau)
    assert max(plain) < 0.75
    assert np.mean(taus) == pytest.approx(TAU, rel=0.15)
    assert np.mean(squares) < 1.4


def test_draws_are_shifted_to_a_wanted_average_and_differ_as_before() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(10, 50, 3))
    logits[:, ::2, 2] = -np.inf
    per_draw, wanted = softmax(logits, -1), softmax(rng.normal(size=(50, 3)) + logits[0], -1)
    found = shifted(per_draw, wanted)
    np.testing.assert_allclose(found.mean(0), wanted, atol=2e-6)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.log(found) - np.log(per_draw)
    moved -= moved[..., :1]
    np.testing.assert_allclose(moved[:, ::2, :2], moved[:1, ::2, :2].repeat(10, 0), atol=1e-9)
    np.testing.assert_allclose(moved[:, 1::2], moved[:1, 1::2].repeat(10, 0), atol=1e-9)


def test_draws_with_the_wanted_average_stay() -> None:
    per_draw = softmax(np.random.default_rng(0).normal(size=(4, 5, 3)), -1)
    np.testing.assert_array_equal(shifted(per_draw, per_draw.mean(0)), per_draw)

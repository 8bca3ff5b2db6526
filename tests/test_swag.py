"""SWAG's guide against numpy's moments of the very iterates, and what iterates are."""

import numpy as np
import pytest
import torch
from linear_gaussian import SITE, Problem
from tiny_backbones import WordTokenizer

from bayes_lora.errors import ConfigError
from bayes_lora.guides import SWAG, LowRankGuide, sample
from bayes_lora.inference import swag
from bayes_lora.inference.svi import FitSettings

KEY = SITE.replace(".", "/")


@pytest.fixture
def problem() -> Problem:
    return Problem(24, WordTokenizer(), torch.float32)


def _covariance(guide: LowRankGuide) -> np.ndarray:
    factor = guide.factor[KEY].detach().double().flatten(1).numpy()
    scale = guide.log_scale[KEY].detach().double().exp().flatten().numpy()
    return factor.T @ factor + np.diag(scale**2)


def _half_and_half(iterates: np.ndarray) -> np.ndarray:
    """Half the variances of iterates ``[K, weights]``, and half their sample covariance."""
    return (np.diag(iterates.var(0)) + np.cov(iterates.T)) / 2


@pytest.mark.parametrize("count", [2, 5, 8])
def test_moments_are_those_of_the_iterates(problem: Problem, count: int) -> None:
    """With fewer iterates than the rank too."""
    guide = SWAG(rank=8).build(problem.model)
    torch.manual_seed(0)
    iterates = torch.randn(count, 1, 2, 3) @ torch.randn(3, 3) + 2
    swag.set_moments(guide, [{SITE: value} for value in iterates])
    flat = iterates.flatten(1).double().numpy()
    np.testing.assert_allclose(guide.mean()[SITE].flatten(), flat.mean(0), rtol=1e-6)
    expected = _half_and_half(flat)
    np.testing.assert_allclose(_covariance(guide), expected, atol=1e-5 * expected.max())


def test_a_weight_that_never_moves_has_no_spread(problem: Problem) -> None:
    guide = SWAG(rank=3).build(problem.model)
    iterates = torch.randn(3, 1, 2, 3)
    iterates[..., 0] = 0.25
    swag.set_moments(guide, [{SITE: value} for value in iterates])
    draws = sample(guide, 5, seed=0)[SITE]
    assert (draws[..., 0] == 0.25).all()
    assert draws[..., 1:].std(0).min() > 0


def test_a_fit_has_the_moments_of_equally_spaced_iterates_at_a_constant_rate(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last part's steps are watched from outside, by another callback."""
    seen: list[np.ndarray] = []
    rates: list[float] = []
    keep = swag._Iterates.on_step_end

    def watched(self, args, state, control, **own) -> None:
        seen.append(self.point.mean()[SITE].double().flatten().numpy().copy())
        rates.append(own["optimizer"].param_groups[0]["lr"])
        keep(self, args, state, control, **own)

    monkeypatch.setattr(swag._Iterates, "on_step_end", watched)
    guide = SWAG(rank=10).build(problem.model)
    settings = FitSettings(max_steps=63, batch_size=8, learning_rate=0.05)
    swag.fit_swag(problem.model, guide, problem.data(), settings, family=SWAG(rank=10))
    assert len(seen) == 63
    assert set(rates) == {0.05}
    iterates = np.stack(seen[5::6])  # after steps 6, 12, ..., 60
    assert len(iterates) == 10
    np.testing.assert_allclose(guide.mean()[SITE].flatten(), iterates.mean(0), rtol=1e-5)
    expected = _half_and_half(iterates)
    np.testing.assert_allclose(_covariance(guide), expected, atol=1e-4 * expected.max())


def test_the_mean_of_iterates_is_near_the_best_point(problem: Problem) -> None:
    """Of directions that data inform; maximum likelihood says nothing of the others."""
    guide = SWAG(rank=20).build(problem.model)
    settings = FitSettings(max_steps=200, batch_size=8, learning_rate=0.05)
    swag.fit_swag(problem.model, guide, problem.data(), settings, family=SWAG(rank=20))
    fitted = problem.design @ guide.mean()[SITE].double().flatten().numpy()
    best = problem.design @ np.linalg.lstsq(problem.design, problem.target)[0]
    noise = np.sqrt(np.einsum("ni,ij,nj->n", problem.design, _covariance(guide), problem.design))
    assert noise.min() > 0
    assert np.abs(fitted - best).max() < 0.2 * np.abs(best).max()


def test_one_iterate_is_refused(problem: Problem) -> None:
    guide = SWAG().build(problem.model)
    with pytest.raises(ConfigError, match="at least 2 iterates"):
        swag.fit_swag(problem.model, guide, problem.data(), FitSettings(max_steps=1), family=SWAG())
    with pytest.raises(ConfigError, match="at least 2 iterates"):
        SWAG(rank=1)

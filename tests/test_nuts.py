"""The chain against the exact posterior, and what it refuses and warns of."""

import warnings

import numpy as np
import pytest
import torch
from linear_gaussian import SITE, Problem
from tiny_backbones import WordTokenizer

from bayes_lora.errors import ConfigError, FitWarning, UnsupportedError
from bayes_lora.guides import NUTS, MembersGuide
from bayes_lora.inference.nuts import fit_nuts
from bayes_lora.inference.settings import FitSettings

SETTINGS = FitSettings(max_steps=5, batch_size=8, seed=2)


def _fit(problem: Problem, family: NUTS, **changes: object) -> MembersGuide:
    guide = family.build(problem.model).double()
    settings = FitSettings(**{**SETTINGS.__dict__, **changes})
    fit_nuts(problem.model, guide, problem.data(), settings, family=family)
    return guide


def test_samples_have_the_moments_of_the_exact_tempered_posterior() -> None:
    """A likelihood to the power 4 is a noise of half the size; test_truth has the untempered."""
    problem = Problem(24, WordTokenizer())
    problem.model.kl_weight = 0.25
    exact = problem.posterior(0.25)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitWarning)
        guide = _fit(problem, NUTS(samples=200, warmup=60))
    assert not caught, str(caught[0].message)
    samples = guide.values()[SITE].flatten(1).numpy()
    whitened = np.linalg.solve(np.linalg.cholesky(exact[1]), (samples - exact[0]).T)
    assert np.abs(whitened.mean(1)).max() < 0.3
    spreads = np.linalg.eigvalsh(np.cov(whitened))  # 1 each, if the samples were endless
    assert spreads.min() > 0.5
    assert spreads.max() < 1.8


def test_the_same_seed_gives_the_same_samples_and_leaves_the_generators_alone() -> None:
    family = NUTS(samples=6, warmup=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        problem = Problem(6, WordTokenizer())
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        first = _fit(problem, family)
        assert torch.equal(torch.rand(3), expected)
        second, other = (_fit(Problem(6, WordTokenizer()), family, seed=seed) for seed in (2, 3))
    assert torch.equal(first.values()[SITE], second.values()[SITE])
    assert not torch.equal(first.values()[SITE], other.values()[SITE])
    assert len(first.values()[SITE].unique(dim=0)) > 1


def test_a_chain_that_is_too_short_warns() -> None:
    with pytest.warns(FitWarning, match="halves disagree on . of 6 weights"):
        _fit(Problem(24, WordTokenizer()), NUTS(samples=4, warmup=1), max_steps=1)


def test_fewer_samples_than_two_halves_can_be_compared_of_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples must be at least 4, not 3"):
        NUTS(samples=3)


def test_too_many_weights_or_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, family = Problem(6, WordTokenizer()), NUTS(samples=4, warmup=1)
    monkeypatch.setattr("bayes_lora.inference.nuts.MOST_WEIGHTS", 5)
    with pytest.raises(UnsupportedError, match=r"up to 5 weights.*has 6: take LoRA-XS"):
        _fit(problem, family)
    monkeypatch.setattr("bayes_lora.inference.nuts.MOST_WEIGHTS", 6)
    monkeypatch.setattr("bayes_lora.inference.nuts.MOST_TOKENS", 17)
    with pytest.raises(UnsupportedError, match=r"18 tokens with padding.*at most 17"):
        _fit(problem, family)

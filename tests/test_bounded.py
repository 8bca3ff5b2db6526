"""Bounded noise: what training rows bear of it, and no more; all of it shrunk alike."""

import math

import numpy as np
import pytest
import torch
from test_conformance import TASK
from tiny_backbones import tiny_encoder

from bayes_lora import FitSettings, ModelSettings, Posterior, fit
from bayes_lora.adapters import LoRA
from bayes_lora.data import Example, Task
from bayes_lora.guides import Family, LowRank, MeanField
from bayes_lora.inference.bounded import bound_noise
from bayes_lora.inference.fit import labelled_rows
from bayes_lora.inference.likelihood import anchors, expected_nll

TRAINED = FitSettings(max_steps=15, batch_size=20, learning_rate=0.02, scale_learning_rate=1e-4)
TOLERANCE = 0.02
NOISY = 1.5  # units: far more than these rows bear


def _fit(family: Family, kl_weight: float = 1.0) -> Posterior:
    return fit(
        [TASK],
        tiny_encoder(),
        adapter=LoRA(rank=3),
        guide=family,
        settings=TRAINED,
        model_settings=ModelSettings(kl_weight=kl_weight),
    )


def _rises(posterior: Posterior, draws: int, seed: int) -> np.ndarray:
    model, rows = posterior.model, labelled_rows(posterior.model, [TASK])
    point = expected_nll(model, posterior.draw(0), rows)
    drawn = posterior.draw(draws, seed=seed)
    each = ({n: v[i : i + 1] for n, v in drawn.items()} for i in range(draws))
    return np.array([expected_nll(model, own, rows) - point for own in each])


@pytest.mark.parametrize("family", [MeanField(NOISY, TOLERANCE), LowRank(2, NOISY, TOLERANCE)])
def test_a_tempered_fit_ends_with_the_noise_that_its_rows_bear(family: Family) -> None:
    """Judged by other draws than bounded it, within the error of the bound's four."""
    bayes, tempered = _fit(family), _fit(family, kl_weight=0.3)
    assert _rises(bayes, 60, seed=7).mean() > 5 * TOLERANCE  # Bayes' rule is left alone
    found = _rises(tempered, 150, seed=7)
    error = found.std() / np.sqrt(4) + found.std() / np.sqrt(len(found))
    assert abs(found.mean() - TOLERANCE) < 3.5 * error + 0.05 * TOLERANCE
    assert _rises(tempered, 4, seed=TRAINED.seed).mean() < 1.3 * TOLERANCE


@pytest.mark.parametrize("family", [MeanField(NOISY, TOLERANCE), LowRank(2, NOISY, TOLERANCE)])
def test_all_noise_shrinks_alike_and_the_mean_stays(family: Family) -> None:
    posterior = _fit(family)
    rows = labelled_rows(posterior.model, [TASK])
    mean, scale, drawn = posterior.draw(0), posterior.guide.stddev(), posterior.draw(2, seed=3)
    bound_noise(posterior.model, posterior.guide, rows, TOLERANCE, seed=0)
    ratios = [(own / scale[n]).flatten() for n, own in posterior.guide.stddev().items()]
    ratio = torch.cat(ratios)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert 0 < ratio[0] < 0.9
    for name, value in posterior.draw(2, seed=3).items():
        torch.testing.assert_close(posterior.draw(0)[name], mean[name], rtol=0, atol=0)
        expected = mean[name] + ratio[0] * (drawn[name] - mean[name])
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


def test_none_leaves_a_tempered_fit_as_it_was() -> None:
    rises = _rises(_fit(MeanField(NOISY, None), kl_weight=0.3), 60, seed=7)
    assert rises.mean() > 5 * TOLERANCE


def test_little_noise_stays_as_it_is() -> None:
    posterior = _fit(MeanField(1e-3))
    before = posterior.guide.stddev()
    rows = labelled_rows(posterior.model, [TASK])
    bound_noise(posterior.model, posterior.guide, rows, TOLERANCE, seed=0)
    for name, own in posterior.guide.stddev().items():
        torch.testing.assert_close(own, before[name], rtol=0, atol=0)


def test_anchors_are_rows_with_their_labels() -> None:
    posterior = _fit(MeanField())
    rows = labelled_rows(posterior.model, [TASK])
    chosen = anchors(rows, 5, seed=1)
    assert len(chosen.rows) == 5
    pairs = [(repr(row), label) for row, label in rows]
    assert all((repr(row), label) in pairs for row, label in chosen)


@pytest.mark.parametrize(
    ("options", "wider"), [(2, 1.0), (6, 1.0), (150, 1 + 4 / 3 * math.log(25))]
)
def test_the_head_prior_is_wider_where_options_are_many(options: int, wider: float) -> None:
    labels = tuple(f"label {number:03d}" for number in range(options))
    rows = (
        Example(input=f"text {n}", options=labels, label=n % options, where=f"row {n}")
        for n in range(2 * options)
    )
    posterior = fit([Task("many", tuple(rows))], tiny_encoder(), settings=FitSettings(max_steps=0))
    width = posterior.model.backbone.hidden_size
    prior = posterior.model.prior("head.weight")
    expected = torch.full((options, width), 1.5 * wider * width**-0.5)
    torch.testing.assert_close(prior.variance.sqrt(), expected)
    bias = posterior.model.prior("head.bias")
    torch.testing.assert_close(bias.variance.sqrt(), torch.full((options,), 1.5))

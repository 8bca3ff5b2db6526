"""Ensembles, Stein's particles and what they share: members side by side equal members alone."""

import numpy as np
import pytest
import torch
from linear_gaussian import SITE, Problem
from tiny_backbones import WordTokenizer, tiny_encoder
from torch import Tensor

from bayes_lora.adapters import LoRA, LoRAXS
from bayes_lora.data import unlabelled
from bayes_lora.effects import Effect, Flat, Normal, Prior
from bayes_lora.guides import MAP, SVGD, DeepEnsemble, sample
from bayes_lora.inference.ensemble import EnsembleTrainer, fit_ensemble, starts
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svgd import fit_svgd, stein_direction
from bayes_lora.inference.svi import fit_svi
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import ClassHead, LabelledRows

WORDS = {0: ("bright", "warm", "kind"), 1: ("dull", "cold", "mean")}
OPTIONS = ("good", "bad")


def _rows(model: BayesianModel, count: int, flipped: int = 0) -> LabelledRows:
    """Two words that say the label and three that do not; the first labels are wrong."""
    generator = np.random.default_rng(count)
    labels = [row % 2 for row in range(count)]
    texts = [
        " ".join([*generator.choice(WORDS[label], 2), *"abc"[: row % 4]])
        for row, label in enumerate(labels)
    ]
    rows = model.scorer.rows(model.backbone, unlabelled(texts, OPTIONS))
    wrong = [label if row >= flipped else 1 - label for row, label in enumerate(labels)]
    return LabelledRows(rows, wrong)


def _model(seed: int, prior: Prior, dtype: torch.dtype = torch.float64) -> BayesianModel:
    backbone = tiny_encoder().to(dtype)
    effects = [Effect("population", LoRA(rank=2), prior)]
    scorer = ClassHead(OPTIONS, "mean")
    model = BayesianModel(backbone, effects, scorer, head_prior=prior, num_rows=21, seed=seed)
    return model.to(dtype)


def _fitted(
    members: int, settings: FitSettings, prior: Prior, dtype: torch.dtype, dev: int
) -> dict[str, Tensor]:
    """Fit an ensemble with the program of the settings' seed."""
    model = _model(settings.seed, prior, dtype)
    family = DeepEnsemble(members)
    guide = family.build(model).to(dtype)
    dev_rows = _rows(model, dev, flipped=dev // 2) if dev else None
    fit_ensemble(model, guide, _rows(model, 21), settings, family=family, dev=dev_rows)
    return guide.values()


@pytest.mark.parametrize(
    ("dtype", "tolerance", "prior", "accumulate"),
    [
        (torch.float64, 1e-6, Flat(), 1),
        (torch.float64, 1e-6, Normal(0.3), 2),
        (torch.float32, 1e-5, Normal(0.3), 1),
    ],
    ids=["flat", "normal", "float32"],
)
def test_members_side_by_side_equal_members_alone(
    dtype: torch.dtype, tolerance: float, prior: Prior, accumulate: int
) -> None:
    settings = {"max_steps": 7, "batch_size": 6, "learning_rate": 0.02, "accumulate": accumulate}
    settings["max_grad_norm"] = 0.05  # clips every step, each member by its own norm
    together = _fitted(3, FitSettings(seed=5, **settings), prior, dtype, dev=0)
    for member in range(3):
        alone = _fitted(1, FitSettings(seed=5 + member, **settings), prior, dtype, dev=0)
        for site, value in alone.items():
            assert value.dtype == dtype
            torch.testing.assert_close(
                together[site][member], value[0], atol=tolerance, rtol=tolerance
            )


def test_members_stopped_early_side_by_side_equal_members_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dev labels are half wrong, so that each member is best at a step of its own."""
    lengths: list[int] = []
    evaluate = EnsembleTrainer.dev_nll

    def counted(self: EnsembleTrainer) -> float:
        lengths[-1] += 1
        return evaluate(self)

    monkeypatch.setattr(EnsembleTrainer, "dev_nll", counted)

    def fitted(members: int, seed: int) -> dict[str, Tensor]:
        lengths.append(0)
        settings = FitSettings(
            max_steps=200, batch_size=6, learning_rate=0.005, patience=2, seed=seed
        )
        return _fitted(members, settings, Flat(), torch.float64, dev=14)

    together = fitted(3, 2)
    for member in range(3):
        for site, value in fitted(1, 2 + member).items():
            torch.testing.assert_close(together[site][member], value[0], atol=1e-6, rtol=1e-6)
    first, *others = lengths
    assert first == max(others) < 20, "it stopped before all members had, or never"
    assert min(others) < first, "all stop together: the test tests nothing"


@pytest.mark.parametrize("adapter", [LoRA(rank=2), LoRA(rank=2, start="pissa"), LoRAXS(rank=2)])
def test_starts_are_those_of_another_seed(adapter: object) -> None:
    def model(seed: int) -> BayesianModel:
        effects = [Effect("population", adapter)]
        scorer = ClassHead(OPTIONS, "mean")
        return BayesianModel(
            tiny_encoder(), effects, scorer, head_prior=Normal(), num_rows=2, seed=seed
        )

    found = starts(model(3), 8)
    expected = {name: site.start for name, site in model(8).sites.items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_draws_are_the_members() -> None:
    problem = Problem(4, WordTokenizer())
    guide = DeepEnsemble(5).build(problem.model)
    guide.place({SITE: torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 2, 3)})
    for asked, got in ((3, 3), (5, 5), (10, 5)):
        draws = sample(guide, asked, seed=asked)[SITE]
        assert draws[:, 0, 0, 0].tolist() == list(range(got))
    assert guide.mean()[SITE].unique().tolist() == [2.0]
    assert guide.stddev()[SITE].unique().item() == pytest.approx(2**0.5)
    assert DeepEnsemble(1).build(problem.model).stddev() == {}


def test_outside_a_fit_the_guide_draws_a_member_at_random() -> None:
    guide = DeepEnsemble(3).build(Problem(4, WordTokenizer()).model)
    guide.place({SITE: torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 3)})
    torch.manual_seed(0)
    drawn = torch.stack([guide()[SITE][0, 0, 0] for _ in range(300)])
    counts = (drawn[:, None] == torch.arange(3)).sum(0)
    assert (counts - 100).abs().max() < 3.5 * (300 * 2 / 9) ** 0.5


def test_a_single_particle_ends_where_map_does() -> None:
    """All rows in a batch, so that their order says nothing."""
    settings = FitSettings(max_steps=60, batch_size=24, learning_rate=0.05, max_grad_norm=0.5)
    found = {}
    for family, run in ((SVGD(1), fit_svgd), (MAP(), fit_svi)):
        problem = Problem(24, WordTokenizer())
        guide = family.build(problem.model).double()
        run(problem.model, guide, problem.data(), settings, family=family)
        found[type(family)] = guide.mean()[SITE]
    torch.testing.assert_close(found[SVGD], found[MAP], atol=1e-6, rtol=1e-6)
    assert found[MAP].abs().max() > 0.1


def test_particles_have_the_moments_of_the_exact_posterior() -> None:
    """Finite particles in six dimensions are known to spread too little (Ba et al. 2022)."""
    problem = Problem(10, WordTokenizer())
    family = SVGD(60)
    guide = family.build(problem.model).double()
    settings = FitSettings(max_steps=150, batch_size=10, learning_rate=0.1)
    fit_svgd(problem.model, guide, problem.data(), settings, family=family)
    particles = guide.values()[SITE].flatten(1).numpy()
    deviation = np.sqrt(np.diag(problem.covariance))
    assert (np.abs(particles.mean(0) - problem.mean) < 0.05 * deviation).all()
    shrunk = particles.std(0) / deviation
    assert shrunk.min() > 0.6
    assert shrunk.max() < 1.0
    correlations = problem.covariance / np.outer(deviation, deviation)
    np.testing.assert_allclose(np.corrcoef(particles.T), correlations, atol=0.25)


def test_steins_direction_leads_to_a_correlated_normal_in_two_dimensions() -> None:
    """There, 100 particles come close to its covariance."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    precision, mean = covariance.inverse(), torch.tensor([2.0, -1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(100, 2, generator=generator, dtype=torch.float64)
    for _ in range(1500):
        places += 0.3 * stein_direction(places, (mean - places) @ precision)
    torch.testing.assert_close(places.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(places.T.cov(), covariance, atol=0.08, rtol=0)


def test_steins_direction_is_equation_8() -> None:
    """By loops, with the kernel's gradient by autograd."""
    generator = torch.Generator().manual_seed(0)
    places, scores = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    distances = torch.pdist(places)
    bandwidth = distances.square().sort().values[(len(distances) - 1) // 2] / np.log(7)
    expected = torch.zeros_like(places)
    for i in range(7):
        for j in range(7):
            other = places[j].clone().requires_grad_()
            kernel = (-(other - places[i]).square().sum() / bandwidth).exp()
            (slope,) = torch.autograd.grad(kernel, other)
            expected[i] += (kernel.detach() * scores[j] + slope) / 7
    torch.testing.assert_close(stein_direction(places, scores), expected)

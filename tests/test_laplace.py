"""Laplace against whole Hessians, dense evidences and its own stated moments."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_laplace import covariance, information, many_draws, scatter, unfitted
from pyro import poutine
from test_conformance import TASK

from bayes_lora import FitSettings, Posterior, fit, load_backbone
from bayes_lora.errors import ConfigError, FitError
from bayes_lora.guides import DiagonalLaplace, Laplace
from bayes_lora.inference.curvature import LABELS, information_columns, measure_curvature
from bayes_lora.inference.evidence import best_scale, log_evidence, slope
from bayes_lora.inference.laplace import set_covariance, set_prior_scales

CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def _dense(found) -> torch.Tensor:
    """Return the one layer's curvature as a matrix."""
    basis = torch.kron(found.left, found.right)
    return basis @ found.values.flatten().diag() @ basis.T


@pytest.mark.parametrize("scorer", ["class-head", "similarity"])
def test_diagonal_curvature_is_that_of_the_exact_jacobian(tiny_folders: Path, scorer: str) -> None:
    posterior, rows = unfitted(tiny_folders, scorer, DiagonalLaplace())
    found = measure_curvature(posterior.model, posterior.guide, rows)
    assert set(found) == set(posterior.model.sites)
    for site, own in found.items():
        exact = information(posterior, rows, site).diagonal()
        assert own.values.numel() == exact.numel()
        torch.testing.assert_close(own.values.flatten(), exact, **CLOSE)


@pytest.mark.parametrize("scorer", ["class-head", "similarity"])
def test_a_kronecker_product_keeps_the_trace(tiny_folders: Path, scorer: str) -> None:
    posterior, rows = unfitted(tiny_folders, scorer, Laplace())
    for site, own in measure_curvature(posterior.model, posterior.guide, rows).items():
        exact = information(posterior, rows, site).trace()
        torch.testing.assert_close(own.values.sum(), exact, **CLOSE)


def test_of_the_last_layer_the_curvature_is_that_of_all_layers(tiny_folders: Path) -> None:
    posterior, rows = unfitted(tiny_folders, "class-head", Laplace())
    whole = measure_curvature(posterior.model, posterior.guide, rows)
    top = Laplace(layers=1).build(posterior.model).double()
    top.loc.load_state_dict(posterior.guide.loc.state_dict())
    for site, own in measure_curvature(posterior.model, top, rows).items():
        torch.testing.assert_close(own.values, whole[site].values[-len(own.values) :], **CLOSE)


def test_a_binary_heads_covariance_inverts_the_analytic_hessian(tiny_folders: Path) -> None:
    """The logits are linear in the head, so the GGN is the Hessian, and a product of two."""
    posterior, rows = unfitted(tiny_folders, "class-head", Laplace(layers=0))
    model, guide = posterior.model, posterior.guide
    model.kl_weight = 0.4
    found = measure_curvature(model, guide, rows)
    set_covariance(model, guide, found, {n: c.values / 0.4 for n, c in found.items()})
    assert set(found) == {"head.weight", "head.bias"}
    batch = model.scorer.collate(model.backbone, rows)
    values = {name: value.unsqueeze(0) for name, value in guide.mean().items()}
    for site in found:

        def nll(own: torch.Tensor, site: str = site) -> torch.Tensor:
            logits = model.logits(batch, values | {site: own.view_as(values[site])})
            return -logits.log_softmax(-1)[:, 0].sum()  # the Hessian knows no label

        hessian = torch.autograd.functional.hessian(nll, values[site].flatten())
        torch.testing.assert_close(_dense(found[site]), hessian, **CLOSE)
        prior = model.prior(site).stddev.flatten()[0].double()
        precision = hessian / 0.4 + torch.eye(len(hessian)).double() / prior**2
        torch.testing.assert_close(covariance(guide, site), precision.inverse(), **CLOSE)


def test_columns_of_few_options_are_exact() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[1, 3:] = -torch.inf  # has three options
    logits[2, 0] = 60.0  # is sure
    columns = torch.stack(information_columns(logits, torch.Generator()), 2)
    p = logits.softmax(1)
    exact = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    assert columns.shape == (3, 5, 4)
    torch.testing.assert_close(columns @ columns.transpose(1, 2), exact, rtol=0, atol=1e-14)


def test_columns_of_many_options_are_unbiased() -> None:
    logits = torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    many = logits.expand(20_000, 12)
    columns = torch.stack(information_columns(many, torch.Generator().manual_seed(0)), 2)
    assert columns.shape[2] == LABELS
    p = logits[0].softmax(0)
    found = torch.einsum("bik,bjk->ij", columns, columns) / len(many)
    torch.testing.assert_close(found, p.diag() - p.outer(p), rtol=0, atol=0.006)


def test_the_evidences_slope_is_its_derivative() -> None:
    curvature = torch.logspace(-3, 4, 40, dtype=torch.float64)
    moved, step = torch.tensor(3.0, dtype=torch.float64), 1e-5
    for log_scale in (-4.0, -1.0, 0.5):
        at = torch.tensor(log_scale, dtype=torch.float64)
        rise = log_evidence(moved, curvature, at + step) - log_evidence(moved, curvature, at - step)
        assert slope(moved, curvature, at).item() == pytest.approx(rise.item() / (2 * step))


def test_refitting_the_mode_leads_to_the_exact_evidences_optimum() -> None:
    """Linear regression: where mode and scale agree, the exact evidence is stationary."""
    generator = np.random.default_rng(0)
    design = generator.standard_normal((30, 8))
    target = design @ (0.6 * generator.standard_normal(8)) + 0.5 * generator.standard_normal(30)
    hessian = design.T @ design / 0.25
    curvature = torch.tensor(np.linalg.eigvalsh(hessian))
    scale = 0.1
    for _ in range(200):
        mode = np.linalg.solve(hessian + np.eye(8) / scale**2, design.T @ target / 0.25)
        scale = best_scale(torch.tensor(mode @ mode), curvature)

    def exact(scale: float) -> float:
        marginal = 0.25 * np.eye(30) + scale**2 * design @ design.T
        return -0.5 * (np.linalg.slogdet(marginal)[1] + target @ np.linalg.solve(marginal, target))

    grid = np.exp(np.linspace(np.log(0.05), np.log(5), 20_001))
    assert scale == pytest.approx(
        grid[np.argmax([exact(own) for own in grid[::10]]) * 10], rel=5e-3
    )


def test_scales_stay_in_bounds_and_curvature_must_be_finite() -> None:
    curvature = torch.ones(3, dtype=torch.float64)
    assert best_scale(torch.tensor(0.0), curvature) == pytest.approx(1e-3)
    assert best_scale(torch.tensor(1e9), curvature) == pytest.approx(1e2)
    with pytest.raises(FitError, match="lower the learning rate"):
        best_scale(torch.tensor(torch.nan), curvature)


def test_one_scale_for_each_kind_has_the_highest_evidence(tiny_folders: Path) -> None:
    posterior, rows = unfitted(tiny_folders, "class-head", Laplace())
    model, guide = posterior.model, posterior.guide
    values = {n: c.values for n, c in measure_curvature(model, guide, rows).items()}
    set_prior_scales(model, guide, values)
    scales = {n: model.prior(n).stddev.flatten()[0].item() for n in values}
    for kind in ("A", "B", "head"):
        names = [n for n, s in model.sites.items() if (s.key[2] if s.key else "head") == kind]
        ratio = {scales[n] / model.sites[n].unit for n in names}
        assert max(ratio) == pytest.approx(min(ratio))
        assert _evidence(posterior, names, values, 1.0) > max(
            _evidence(posterior, names, values, factor) for factor in (0.97, 1.03)
        )


def _evidence(posterior: Posterior, names: list[str], values: dict, factor: float) -> float:
    """Log prior density of the mode less half the log determinant, by the model's own prior."""
    total = 0.0
    for name in names:
        prior = posterior.model.prior(name)
        scale = prior.stddev.double() * factor
        away = posterior.guide.mean()[name]
        total += torch.distributions.Normal(prior.mean.double(), scale).log_prob(away).sum()
        total -= 0.5 * (values[name] + scale.flatten()[0] ** -2).log().sum()
    return float(total)


@pytest.mark.parametrize("guide", [Laplace(), Laplace(layers=1), DiagonalLaplace()])
def test_draws_have_the_stated_covariance(tiny_folders: Path, guide: Laplace) -> None:
    posterior, _ = unfitted(tiny_folders, "class-head", guide)
    scatter(posterior.guide)
    draws = many_draws(posterior.guide, 6000)
    for site in ("population.query.B", "head.weight", "head.bias"):
        stated = covariance(posterior.guide, site)
        away = (draws[site] - posterior.guide.mean()[site]).flatten(1)
        found = away.T @ away / len(away)
        deviation = stated.diagonal().sqrt()
        error = deviation.outer(deviation) * 1.5 / len(away) ** 0.5
        assert ((found - stated).abs() <= 4.5 * error).all()
        torch.testing.assert_close(posterior.guide.stddev()[site].flatten(), deviation)
        moving = stated.diagonal() > 0
        share = 0.5 if guide.layers == 1 and site.startswith("population") else 1.0
        assert moving.double().mean() == share


def test_pyro_sees_the_normals_density(tiny_folders: Path) -> None:
    posterior, _ = unfitted(tiny_folders, "class-head", Laplace(layers=0))
    scatter(posterior.guide)
    trace = poutine.trace(posterior.guide).get_trace()
    expected = sum(
        torch.distributions.MultivariateNormal(
            posterior.guide.mean()[site].flatten(), covariance(posterior.guide, site)
        ).log_prob(trace.nodes[site]["value"].flatten())
        for site in ("head.weight", "head.bias")
    )
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_learned_prior_scales_are_saved(tiny_folders: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    settings = FitSettings(max_steps=5)
    posterior = fit([TASK], backbone, guide=Laplace(layers=1), settings=settings)
    posterior.save_pretrained(tmp_path / "run")
    loaded = Posterior.from_pretrained(tmp_path / "run")
    chosen = loaded.model.prior("head.weight").stddev.flatten()[0]
    assert chosen == posterior.model.prior("head.weight").stddev.flatten()[0]
    assert chosen != posterior.config.build(backbone)[0].prior("head.weight").stddev.flatten()[0]
    assert loaded.config.guide == Laplace(layers=1)


def test_layers_must_leave_something_random(tiny_folders: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be negative"):
        Laplace(layers=-1)
    posterior, _ = unfitted(tiny_folders, "class-head", Laplace())
    model = posterior.model
    model.sites = {name: site for name, site in model.sites.items() if site.key}
    with pytest.raises(ConfigError, match="no weight is random"):
        Laplace(layers=0).build(model)

"""Laplace: the mode by MAP, the curvature there, and prior scales by the evidence of both.

Daxberger et al. (2021, arXiv 2106.14806), post hoc: the mode is found under the prior scales of
the settings, and held fixed while the evidence chooses others.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayes_lora.guides import Family, KroneckerLaplaceGuide, LaplaceGuide, PointGuide
from bayes_lora.inference.curvature import Curvature, measure_curvature
from bayes_lora.inference.evidence import best_scale
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import fit_svi
from bayes_lora.model import HEAD, BayesianModel, parameter_name
from bayes_lora.scorers import LabelledRows


def fit_laplace(
    model: BayesianModel,
    guide: LaplaceGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: Family | None = None,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Fit a guide in place, and the scales of the model's priors.

    Args:
        model: The program, with Normal priors of fixed scale.
        guide: The guide to fit.
        train: Training rows.
        settings: Of the MAP fit; the seed is also that of labels drawn where options are many.
        family: Not looked at.
        dev: Rows for early stopping of the MAP fit.
        running: What it shows, and where it keeps its state.

    Raises:
        FitError: The loss stopped being finite, or the curvature is not.
    """
    point = PointGuide(model).to(guide.loc[next(iter(guide.loc))].device)
    fit_svi(model, point, train, settings, dev=dev, running=running)
    for name, value in point.mean().items():
        guide.loc[parameter_name(name)].copy_(value)
    with tqdm(total=len(train), desc="curvature", disable=not running.progress) as bar:
        found = measure_curvature(model, guide, train.rows, seed=settings.seed, progress=bar.update)
    # The target is likelihood^(1 / kl_weight) * prior.
    eigenvalues = {name: own.values / model.kl_weight for name, own in found.items()}
    set_prior_scales(model, guide, eigenvalues)
    set_covariance(model, guide, found, eigenvalues)


@torch.no_grad()
def set_prior_scales(
    model: BayesianModel, guide: LaplaceGuide, eigenvalues: Mapping[str, Tensor]
) -> None:
    """Give the priors of each kind of random site the scale of the highest evidence, in place.

    A kind that is where its prior is centred, as a checkpoint that is not trained further, says
    nothing of its scale, which stays.

    Args:
        model: The program; of the others, what their scales were is forgotten.
        guide: At the mode.
        eigenvalues: Of the target's curvature, by site, float64.
    """
    kinds: dict[str, list[str]] = {}
    for name in eigenvalues:
        key = model.sites[name].key
        kinds.setdefault(key[2] if key else HEAD, []).append(name)
    for names in kinds.values():
        units = {name: model.sites[name].unit for name in names}
        moved = sum(_moved(model, guide, name) / units[name] ** 2 for name in names)
        if not moved:
            continue
        curvature = torch.cat([eigenvalues[n].flatten() * units[n] ** 2 for n in names])
        scale = best_scale(torch.as_tensor(moved), curvature)
        for name in names:
            _log_scale(model, name).copy_(curvature.new_tensor(scale * units[name]).log())


def set_covariance(
    model: BayesianModel,
    guide: LaplaceGuide,
    found: Mapping[str, Curvature],
    eigenvalues: Mapping[str, Tensor],
) -> None:
    """Make the guide's covariance the inverse of curvature and prior precision together.

    Args:
        model: Has the priors.
        guide: The guide.
        found: The likelihood's curvature, by site.
        eigenvalues: Those of the target's, by site, float64.
    """
    for name, own in found.items():
        key = parameter_name(name)
        precision = eigenvalues[name] + (-2 * _log_scale(model, name).double()).exp()
        guide.scale[key].copy_(precision.rsqrt())
        if isinstance(guide, KroneckerLaplaceGuide) and own.left is not None:
            guide.left[key].copy_(own.left)
            guide.right[key].copy_(own.right)


def _moved(model: BayesianModel, guide: LaplaceGuide, name: str) -> Tensor:
    """Sum the squares of how far random entries are from their prior's centre."""
    first = guide.first_random[name]
    away = (guide.mean()[name] - model.prior(name).mean).double()
    return (away[first:] if first else away).square().sum()


def _log_scale(model: BayesianModel, name: str) -> Tensor:
    scale = model.priors[parameter_name(name)].log_scale
    assert isinstance(scale, Tensor)
    return scale

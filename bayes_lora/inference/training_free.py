"""How much noise a trained point bears (TFB: Shi et al. 2024, arXiv 2412.05723)."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayes_lora.guides import HalfGuide, PointGuide, TrainingFree, products, sample
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import fit_svi
from bayes_lora.model import BayesianModel, parameter_name
from bayes_lora.predict import Draws, predict
from bayes_lora.scorers import LabelledRows
from calibration import nll

ANCHORS = 512  # training rows that judge the noise, at most
DRAWS = 8  # with the same base noise at every size
SMALLEST, LARGEST, STEPS = 1e-4, 10.0, 10  # the search ends within 1.2 % of the size
NEGLIGIBLE = 1e-6  # of a product's largest singular value: smaller ones count as that


def fit_training_free(
    model: BayesianModel,
    guide: HalfGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: TrainingFree,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Train a point, and give it the most noise that a tolerance allows, of one size sigma.

    It is the largest for which the expected negative log-likelihood of some training rows is no
    more than the tolerance above the point's, found by bisection of its logarithm. ``unit_noise``
    says what has noise. Nothing else has: not the head.

    Args:
        model: The program.
        guide: The guide to fit.
        train: Training rows.
        settings: Of the point's training. ``max_steps=0`` takes it as it is, a checkpoint's.
        family: Has the tolerance.
        dev: Rows for early stopping of the point.
        running: What it shows, and where it keeps its state.

    Raises:
        FitError: The loss stopped being finite.
    """
    point = PointGuide(model).to(model.backbone.device)
    fit_svi(model, point, train, settings, dev=dev, running=running)
    guide.loc.load_state_dict(point.loc.state_dict())
    noise = unit_noise(model, guide)
    anchors = _anchors(train, settings.seed)
    mean = {name: value.unsqueeze(0) for name, value in guide.mean().items()}
    most = expected_nll(model, mean, anchors) + family.tolerance
    low, high = math.log(SMALLEST), math.log(LARGEST)
    for _ in tqdm(range(STEPS), desc=f"{running.label}, noise", disable=not running.progress):
        middle = (low + high) / 2
        _set_noise(guide, noise, middle)
        found = expected_nll(model, sample(guide, DRAWS, settings.seed), anchors)
        low, high = (middle, high) if found <= most else (low, middle)
    _set_noise(guide, noise, low)


@torch.no_grad()
def unit_noise(model: BayesianModel, guide: HalfGuide) -> dict[str, Tensor]:
    """Say what noise of size 1 is, having turned the point so that it can be said of entries.

    A product B A is turned, in place, into ``(U S) (V' A)``, where ``B = U S V'`` is the singular
    value decomposition. Noise of 1 / S_i in row i of the new A is noise of 1 in the whole update,
    in every direction that B can reach (the paper's section 3). The factors of an adapter that has
    no such product have their natural units: that is ours, and not TFB.

    Returns:
        Site name to standard deviations, ``[*shape]``, of every site that has noise.
    """
    noise = {
        name: torch.full_like(guide.loc[parameter_name(name)], model.sites[name].unit)
        for name in guide.normal
    }
    for up, down in products(model):
        B, A = (guide.loc[parameter_name(name)] for name in (up, down))
        turned_B, turned_A, values = turned(B, A)
        B.copy_(turned_B)
        A.copy_(turned_A)
        largest = values.amax(1, keepdim=True)
        values = values.maximum(NEGLIGIBLE * largest).where(largest > 0, 1.0)  # B = 0: no update
        noise[down] = (1 / values).unsqueeze(2).expand_as(A).to(A.dtype)
    return noise


def turned(B: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give each layer's product other factors, the first with orthogonal columns.

    Args:
        B: ``[layers, d_out, rank]``.
        A: ``[layers, rank, d_in]``.

    Returns:
        ``B V`` and ``V' A``, and the norms of the columns of ``B V``, ``[layers, rank]``, which are
        B's singular values; float64.
    """
    B, A = B.double(), A.double()
    turn = torch.linalg.eigh(B.mT @ B).eigenvectors
    return B @ turn, turn.mT @ A, (B @ turn).norm(dim=1)


def expected_nll(model: BayesianModel, draws: Draws, rows: LabelledRows) -> float:
    """Return the mean over draws of their negative log-likelihood of labels, in nats a row."""
    per_draw = predict(model, draws, rows.rows, keep_draws=True).per_draw
    assert per_draw is not None
    return float(np.mean([nll(probabilities, rows.labels) for probabilities in per_draw]))


def _anchors(train: LabelledRows, seed: int) -> LabelledRows:
    """Choose the rows that judge."""
    chosen = np.random.default_rng(seed).permutation(len(train))[:ANCHORS]
    return LabelledRows([train.rows[i] for i in chosen], [train.labels[i] for i in chosen])


@torch.no_grad()
def _set_noise(guide: HalfGuide, noise: Mapping[str, Tensor], log_size: float) -> None:
    for name, own in noise.items():
        guide.log_scale[parameter_name(name)].copy_(own.log() + log_size)

"""SVI whose posterior, where it is tempered, has no more noise than the training rows bear."""

import math

from bayes_lora.guides import LowRank, LowRankGuide, MeanField, MeanFieldGuide, sample
from bayes_lora.inference.likelihood import anchors, expected_nll
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import fit_svi
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows

ANCHORS, DRAWS = 256, 4  # training rows that judge noise, at most, and draws
TRIES = 4
CLOSE = 1.05  # to the tolerance, as a share of it, is near enough


def fit_bounded(
    model: BayesianModel,
    guide: MeanFieldGuide | LowRankGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: MeanField | LowRank,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Fit as ``fit_svi`` does, and then bound a tempered posterior's noise.

    With a KL weight of 1 the posterior is that of Bayes' rule, and left as it is; so is one that
    dev rows have chosen among all that the fit went through, with the noise that it had.

    Args:
        model: The program.
        guide: The guide to fit.
        train: Training rows.
        settings: How. ``max_steps=0`` leaves the posterior as it starts.
        family: Has the tolerance.
        dev: Rows for early stopping.
        running: What it shows, and where it keeps its state.

    Raises:
        FitError: The loss stopped being finite.
    """
    fit_svi(model, guide, train, settings, dev=dev, running=running)
    chosen = dev is not None or model.kl_weight >= 1 or settings.max_steps == 0
    if family.tolerance is not None and not chosen:
        bound_noise(model, guide, train, family.tolerance, settings.seed)


def bound_noise(
    model: BayesianModel,
    guide: MeanFieldGuide | LowRankGuide,
    train: LabelledRows,
    tolerance: float,
    seed: int,
) -> None:
    """Shrink all noise alike, in place, until it raises training rows' loss by no more than that.

    How wide a tempered posterior of tens of thousands of weights ends is set by where its scales
    start and how long the fit is, and not by the data: hardly any weight's own likelihood weighs
    against its entropy. All of them together do. Where classes are many, or far apart, the same
    noise in the weights is more noise in the probabilities, and makes them too unsure
    (docs/defaults.md). The bound is training-free's (Shi et al. 2024, arXiv 2412.05723).

    Args:
        model: The program.
        guide: Its noise is multiplied by a number that is not above 1.
        train: Training rows, of which some are asked.
        tolerance: In nats a row.
        seed: Of these rows, and of the draws, whose base noise is the same at every size.
    """
    rows = anchors(train, ANCHORS, seed)
    least = expected_nll(model, {n: v.unsqueeze(0) for n, v in guide.mean().items()}, rows)
    for _ in range(TRIES):
        rise = expected_nll(model, sample(guide, DRAWS, seed), rows) - least
        if rise <= CLOSE * tolerance:
            return
        guide.scale_noise(math.sqrt(tolerance / rise))  # the rise is about quadratic in it

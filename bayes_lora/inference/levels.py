"""The posterior of levels around a fitted population: directions, then a mixed model in these."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bayes_lora.effects import Pooled
from bayes_lora.guides import Guide, LevelGuide, LevelNormals
from bayes_lora.inference.attenuation import attenuation
from bayes_lora.inference.linearise import Linearised, linearise
from bayes_lora.inference.mixed_model import Fitted, Grouped, evidence, fit_mixed_model
from bayes_lora.level_effect import LevelEffect
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows

MEASURED = 256  # rows of which directions are measured
COUNTS = (1, 4, 16, 64)  # of directions, to choose from
MEAN_SCALE = 1.0  # of what levels have in common, in nats of a logit
ROUNDS, TOLERANCE = 5, 0.01  # of the factor of the population's logits
MOST_ENTRIES = 2**26  # of all levels' precision matrices: fewer directions for 100,000 levels


def fit_levels(
    model: BayesianModel,
    guide: Guide,
    train: LabelledRows,
    *,
    seed: int,
    progress: Callable[[int], object] = lambda rows: None,
) -> None:
    """Fit the levels of every effect that has some, in place; the population stays as it is.

    Args:
        model: The program; its Pooled effects get directions and a tau.
        guide: Its mean-field guide, fitted for the population; its tables are filled.
        train: The rows it was fitted to, with their levels.
        seed: Of the choice of the rows that directions are measured in.
        progress: Called with the number of rows done, now and then.
    """
    population = {name: value.unsqueeze(0) for name, value in guide.mean().items()}
    some = np.random.default_rng(seed).permutation(len(train.rows))[:MEASURED]
    sample = LabelledRows([train.rows[i] for i in some], [train.labels[i] for i in some])
    measured = linearise(model, population, sample, directions=False)
    for name, effect in model.by_level.items():
        _point(effect, measured, name)
    rows = linearise(model, population, train, progress=progress)
    grouped = []
    for place, (name, effect) in enumerate(model.by_level.items()):
        levels = torch.tensor([row.levels[place] for row in train.rows])
        grouped.append(_grouped(effect, rows, levels, name))
    fitted, attenuations = fit_around(rows.offsets, rows.labels, grouped)
    for (name, effect), own, a in zip(model.by_level.items(), fitted, attenuations, strict=True):
        effect.attenuation.copy_(a)
        effect.information *= 1 + attenuations.sum()
        _fill(effect, guide.by_level[name], own)


def _point(effect: LevelEffect, measured: Linearised, name: str) -> None:
    """Set an effect's directions to what rows tell most of.

    They are the leading eigenvectors of the rows' mean information about the weights, in units of
    each weight's natural size.
    """
    roots = measured.information(name).to(effect.units.device) * effect.units
    _, sizes, vectors = torch.linalg.svd(roots, full_matrices=False)
    effect.keep(int((sizes[: effect.width] > 1e-4 * sizes[0]).sum()))
    effect.directions.copy_(vectors[: effect.width].T * effect.units.unsqueeze(1))
    effect.information.copy_(sizes[: effect.width].square() / len(measured.labels))


def _grouped(effect: LevelEffect, rows: Linearised, levels: Tensor, name: str) -> Grouped:
    """Choose along how many directions levels differ, and describe the rows in these.

    The labels' marginal likelihood chooses: few levels with many rows may differ in many ways,
    many levels with a row or two in no more than one or two that could be told from noise.
    """
    choices = []
    number = len(effect.levels.names)
    for count in sorted(
        {min(own, effect.width) for own in COUNTS if own**2 * number <= MOST_ENTRIES}
    ):
        features = rows.features[name][..., :count]
        shape = torch.full((count,), 1 / _root_mean_square(features, rows.offsets))
        scale = effect.prior_settings.scale if isinstance(effect.prior_settings, Pooled) else 1.0
        choices.append(Grouped(features, levels, number, shape, scale, MEAN_SCALE))
    found = [evidence(rows.offsets, rows.labels, choice) for choice in choices]
    return choices[int(np.argmax(found))]


def _root_mean_square(features: Tensor, offsets: Tensor) -> float:
    """What coordinates of standard deviation 1 add to a logit, over rows and options, in nats."""
    there = (offsets > -torch.inf).unsqueeze(2).to(features)
    mean = (features * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    squares = ((features - mean) * there).square().sum()
    return float((squares / there.sum()).sqrt().clamp(min=1e-12))


def fit_around(
    offsets: Tensor, labels: Tensor, grouped: Sequence[Grouped]
) -> tuple[list[Fitted], Tensor]:
    """Fit levels around a population whose probabilities are marginal (``attenuation.py``).

    Args:
        offsets: The population's logits, ``[N, options]``; minus infinity: no such option.
        labels: Option indices, int64 ``[N]``.
        grouped: What the rows are grouped by.

    Returns:
        What is known of the levels of each attribute, in coordinates that move a row's logits
        before these are multiplied; and each attribute's attenuation, ``[attributes]``.
    """
    known = torch.stack([own.levels >= 0 for own in grouped], dim=1).double()
    attenuations = torch.zeros(len(grouped)).double()
    for _ in range(ROUNDS):
        factors = (1 + known @ attenuations).sqrt()
        whole = (1 + attenuations.sum()).sqrt()
        apart = [
            replace(own, features=own.features * factors[:, None, None], shape=own.shape / whole)
            for own in grouped
        ]
        fitted = fit_mixed_model(offsets * factors[:, None], labels, apart)
        pairs = zip(grouped, fitted, strict=True)
        found = torch.tensor([attenuation(offsets, own, new.tau) for own, new in pairs]).double()
        if abs((1 + found.sum()).sqrt() / whole - 1) < TOLERANCE:
            break
        attenuations = found
    return fitted, attenuations


def _fill(effect: LevelEffect, table: LevelGuide, fitted: Fitted) -> None:
    """Put what was found into the model and its guide."""
    assert isinstance(table, LevelNormals)
    effect.keep(fitted.loc.shape[1])
    effect.shape.copy_(fitted.shape)
    effect.tau.fill_(fitted.tau)
    effect.interval.copy_(torch.tensor(fitted.interval))
    table.loc = fitted.loc.to(table.loc)
    table.scales = fitted.scale.to(table.loc)

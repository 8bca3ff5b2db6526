"""The posterior of levels around a fitted population: directions, then a mixed model in these."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bayes_lora.effects import Pooled
from bayes_lora.guides import Guide, LevelNormals
from bayes_lora.inference.linearise import Linearised, linearise
from bayes_lora.inference.mixed_model import Grouped, fit_mixed_model
from bayes_lora.level_effect import LevelEffect
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows

MEASURED = 256  # rows of which directions are measured


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
    grouped = [
        _grouped(effect, rows.features[name], [row.levels[place] for row in train.rows])
        for place, (name, effect) in enumerate(model.by_level.items())
    ]
    fitted = fit_mixed_model(rows.offsets, rows.labels, grouped)
    for name, own in zip(model.by_level, fitted, strict=True):
        effect, table = model.by_level[name], guide.by_level[name]
        assert isinstance(table, LevelNormals)
        effect.tau.fill_(own.tau)
        effect.interval.copy_(torch.tensor(own.interval))
        table.loc.copy_(own.loc)
        table.scales.copy_(own.scale)


def _point(effect: LevelEffect, measured: Linearised, name: str) -> None:
    """Set an effect's directions and shape: what rows tell most of, and a unit of one nat.

    Directions are the leading eigenvectors of the rows' mean information about the weights, in
    units of each weight's natural size, and levels spread along each as rows tell of it. Shape is
    such that tau is the root mean square, over rows and options, of what a level adds to the
    logits.
    """
    roots = measured.information(name).to(effect.units.device) * effect.units
    _, sizes, vectors = torch.linalg.svd(roots, full_matrices=False)
    count = min(effect.directions.shape[1], int((sizes > 1e-6 * sizes[0]).sum()))
    effect.directions.zero_()
    effect.directions[:, :count] = vectors[:count].T * effect.units.unsqueeze(1)
    effect.shape.fill_(1e-6 * float(sizes[0]))  # of directions that nothing is known of
    effect.shape[:count] = sizes[:count]
    moved = measured.features[name].to(effect.directions) @ (effect.directions * effect.shape)
    there = (measured.offsets > -torch.inf).to(moved).unsqueeze(2)
    centred = (moved - (moved * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)) * there
    effect.shape /= (centred.square().sum() / there.sum()).sqrt().clamp(min=1e-12)


def _grouped(effect: LevelEffect, features: Tensor, levels: Sequence[int]) -> Grouped:
    assert isinstance(effect.prior_settings, Pooled)
    return Grouped(
        features,
        torch.tensor(levels),
        len(effect.levels.names),
        effect.shape.cpu(),
        effect.prior_settings.scale,
    )

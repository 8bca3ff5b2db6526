"""Draws of the levels that some examples have: known ones, and ones never seen."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from bayes_lora.data import Example, level_of
from bayes_lora.guides import Guide, LevelGuide
from bayes_lora.level_effect import LevelEffect
from bayes_lora.model import BayesianModel


class Unknown(StrEnum):
    """What predicts for a level that training did not see."""

    PRIOR = "prior"
    POPULATION = "population"
    AVERAGE = "average"


@dataclass(frozen=True)
class FoundLevels:
    """The levels that examples have.

    Args:
        names: Of each effect with levels, the names that need a draw, each once; "" for a
            missing one.
        rows: Of each example, its entry in each effect's names; -1: the population predicts.
        unknown: What to do for names that training did not see.
    """

    names: dict[str, list[str]]
    rows: list[tuple[int, ...]]
    unknown: Unknown


def find_levels(model: BayesianModel, examples: Sequence[Example], unknown: Unknown) -> FoundLevels:
    """Find the levels that examples have of each of the model's effects."""
    names: dict[str, list[str]] = {}
    columns: list[list[int]] = []
    for name, effect in model.by_level.items():
        wanted = [level_of(example, effect.levels.attribute) for example in examples]
        known = effect.levels.index
        drawn = unknown is not Unknown.POPULATION
        names[name] = list(dict.fromkeys(own for own in wanted if drawn or own in known))
        place = {own: i for i, own in enumerate(names[name])}
        columns.append([place.get(own, -1) for own in wanted])
    rows: list[tuple[int, ...]] = [()] * len(examples)
    if columns:
        rows = list(zip(*columns, strict=True))
    return FoundLevels(names, rows, unknown)


def draw_levels(
    guide: Guide, model: BayesianModel, found: FoundLevels, num_draws: int, seed: int
) -> dict[str, Tensor]:
    """Draw the coordinates of the levels that were found.

    Args:
        guide: Has the posterior of known levels.
        model: Has the prior of unknown ones.
        found: Which levels.
        num_draws: How many; 0 for the posterior means, as one entry.
        seed: A level's draw i depends on the seed, its attribute, its name and i alone. Every
            second is the mirror image of the one before, as with weights (``sample``): a few
            draws would otherwise add more noise to a level's rows than is known of it.

    Returns:
        Of each effect ``[draws, names, width]``, float32.
    """
    return {
        name: _draw(guide.by_level[name], effect, found, name, num_draws, seed)
        for name, effect in model.by_level.items()
    }


def _draw(
    table: LevelGuide, effect: LevelEffect, found: FoundLevels, name: str, num_draws: int, seed: int
) -> Tensor:
    names, known = found.names[name], effect.levels.index
    places = torch.tensor([known.get(own, -1) for own in names], dtype=torch.long).to(
        table.loc.device
    )
    loc, scale = table.loc[places], table.scale(places)  # of unknown levels overwritten below
    if bool((places < 0).any()):
        loc[places < 0], scale[places < 0] = _of_unknown(table, effect, found.unknown)
    if num_draws == 0 or not bool(scale.any()):
        return loc.expand(max(num_draws, 1), *loc.shape)
    noise = [_noise(seed, effect.levels.attribute, own, num_draws, effect.width) for own in names]
    return loc + scale * torch.from_numpy(np.stack(noise, axis=1)).to(loc)


def _of_unknown(table: LevelGuide, effect: LevelEffect, unknown: Unknown) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a level that training did not see, ``[width]``."""
    zeros = torch.zeros_like(table.loc[0])
    if unknown is Unknown.AVERAGE:
        return table.loc.mean(0), zeros
    return zeros, effect.scale()


def _noise(seed: int, attribute: str, level: str, num_draws: int, width: int) -> np.ndarray:
    digest = hashlib.sha256(f"{attribute}\0{level}".encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:16], "big")])
    half = generator.standard_normal((-(-num_draws // 2), width), dtype=np.float32)
    return np.stack([half, -half], axis=1).reshape(-1, width)[:num_draws]

"""Variational families by name, one a file."""

from bayes_lora.guides.base import Guide, sample
from bayes_lora.guides.levels import LevelGuide, LevelNormals, LevelPoints
from bayes_lora.guides.mean_field import MeanField
from bayes_lora.guides.point import Point

GUIDES: dict[str, type[Guide]] = {"mean-field": MeanField, "map": Point, "mle": Point}

__all__ = [
    "GUIDES",
    "Guide",
    "LevelGuide",
    "LevelNormals",
    "LevelPoints",
    "MeanField",
    "Point",
    "sample",
]

"""Variational families by name, one a file."""

from bayes_lora.guides.base import Guide, sample
from bayes_lora.guides.family import Family
from bayes_lora.guides.levels import LevelGuide, LevelNormals, LevelPoints
from bayes_lora.guides.mean_field import MeanField, MeanFieldGuide
from bayes_lora.guides.members import NUTS, SVGD, DeepEnsemble, MembersGuide
from bayes_lora.guides.point import MAP, MLE, PointGuide

GUIDES: dict[str, type[Family]] = {
    "mean-field": MeanField,
    "map": MAP,
    "mle": MLE,
    "ensemble": DeepEnsemble,
    "svgd": SVGD,
    "nuts": NUTS,
}

__all__ = [
    "GUIDES",
    "MAP",
    "MLE",
    "NUTS",
    "SVGD",
    "DeepEnsemble",
    "Family",
    "Guide",
    "LevelGuide",
    "LevelNormals",
    "LevelPoints",
    "MeanField",
    "MeanFieldGuide",
    "MembersGuide",
    "PointGuide",
    "sample",
]

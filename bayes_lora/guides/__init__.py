"""Variational families by name, one a file."""

from bayes_lora.guides.base import Guide, sample
from bayes_lora.guides.family import Family
from bayes_lora.guides.laplace import DiagonalLaplace, KroneckerLaplaceGuide, Laplace, LaplaceGuide
from bayes_lora.guides.levels import LevelGuide, LevelNormals, LevelPoints
from bayes_lora.guides.mean_field import MeanField, MeanFieldGuide
from bayes_lora.guides.point import MAP, MLE, PointGuide

GUIDES: dict[str, type[Family]] = {
    "mean-field": MeanField,
    "laplace": Laplace,
    "laplace-diagonal": DiagonalLaplace,
    "map": MAP,
    "mle": MLE,
}

__all__ = [
    "GUIDES",
    "MAP",
    "MLE",
    "DiagonalLaplace",
    "Family",
    "Guide",
    "KroneckerLaplaceGuide",
    "Laplace",
    "LaplaceGuide",
    "LevelGuide",
    "LevelNormals",
    "LevelPoints",
    "MeanField",
    "MeanFieldGuide",
    "PointGuide",
    "sample",
]

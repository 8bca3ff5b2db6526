"""Variational families by name, one a file."""

from bayes_lora.guides.base import Guide, sample
from bayes_lora.guides.family import Family
from bayes_lora.guides.ivon import IVON
from bayes_lora.guides.levels import LevelGuide, LevelNormals, LevelPoints
from bayes_lora.guides.low_rank import LowRank, LowRankGuide
from bayes_lora.guides.mean_field import MeanField, MeanFieldGuide
from bayes_lora.guides.point import MAP, MLE, PointGuide
from bayes_lora.guides.swag import SWAG

GUIDES: dict[str, type[Family]] = {
    "mean-field": MeanField,
    "map": MAP,
    "mle": MLE,
    "low-rank": LowRank,
    "swag": SWAG,
    "ivon": IVON,
}

__all__ = [
    "GUIDES",
    "IVON",
    "MAP",
    "MLE",
    "SWAG",
    "Family",
    "Guide",
    "LevelGuide",
    "LevelNormals",
    "LevelPoints",
    "LowRank",
    "LowRankGuide",
    "MeanField",
    "MeanFieldGuide",
    "PointGuide",
    "sample",
]

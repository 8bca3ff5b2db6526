"""Variational families by name, one a file."""

from bayes_lora.guides.base import Guide, sample
from bayes_lora.guides.dropout import DropoutGuide, MCDropout
from bayes_lora.guides.family import Family
from bayes_lora.guides.half import BLoB, HalfGuide
from bayes_lora.guides.ivon import IVON
from bayes_lora.guides.laplace import DiagonalLaplace, KroneckerLaplaceGuide, Laplace, LaplaceGuide
from bayes_lora.guides.levels import LevelGuide, LevelNormals, LevelPoints
from bayes_lora.guides.low_rank import LowRank, LowRankGuide
from bayes_lora.guides.mean_field import MeanField, MeanFieldGuide
from bayes_lora.guides.members import NUTS, SVGD, DeepEnsemble, MembersGuide
from bayes_lora.guides.point import MAP, MLE, PointGuide
from bayes_lora.guides.projections import products, projections
from bayes_lora.guides.swag import SWAG
from bayes_lora.guides.training_free import TrainingFree

GUIDES: dict[str, type[Family]] = {
    "mean-field": MeanField,
    "map": MAP,
    "mle": MLE,
    "low-rank": LowRank,
    "swag": SWAG,
    "ivon": IVON,
    "mc-dropout": MCDropout,
    "blob": BLoB,
    "training-free": TrainingFree,
    "ensemble": DeepEnsemble,
    "svgd": SVGD,
    "nuts": NUTS,
    "laplace": Laplace,
    "laplace-diagonal": DiagonalLaplace,
}

__all__ = [
    "GUIDES",
    "IVON",
    "MAP",
    "MLE",
    "NUTS",
    "SVGD",
    "SWAG",
    "BLoB",
    "DeepEnsemble",
    "DiagonalLaplace",
    "DropoutGuide",
    "Family",
    "Guide",
    "HalfGuide",
    "KroneckerLaplaceGuide",
    "Laplace",
    "LaplaceGuide",
    "LevelGuide",
    "LevelNormals",
    "LevelPoints",
    "LowRank",
    "LowRankGuide",
    "MCDropout",
    "MeanField",
    "MeanFieldGuide",
    "MembersGuide",
    "PointGuide",
    "TrainingFree",
    "products",
    "projections",
    "sample",
]

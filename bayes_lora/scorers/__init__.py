"""Scorers by name, one a file: how a forward pass becomes logits over an example's options."""

from bayes_lora.scorers.base import Batch, LabelledRows, Row, Scorer
from bayes_lora.scorers.choosing import (
    SCORERS,
    check_scorable,
    default_scorer,
    keep_scorable,
    make_scorer,
)
from bayes_lora.scorers.class_head import ClassHead
from bayes_lora.scorers.conjugate import Conjugate
from bayes_lora.scorers.discriminant import Discriminant
from bayes_lora.scorers.likelihood import LetterLikelihood, Likelihood
from bayes_lora.scorers.model_head import ModelHead
from bayes_lora.scorers.similarity import Similarity

__all__ = [
    "SCORERS",
    "Batch",
    "ClassHead",
    "Conjugate",
    "Discriminant",
    "LabelledRows",
    "LetterLikelihood",
    "Likelihood",
    "ModelHead",
    "Row",
    "Scorer",
    "Similarity",
    "check_scorable",
    "default_scorer",
    "keep_scorable",
    "make_scorer",
]

"""Pretrained backbones: loading them, adapting their linear layers, running them row by row."""

from bayes_lora.backbone.backbone import Backbone, BackboneKind, FactorKey, Factors
from bayes_lora.backbone.loading import MINILM, load_backbone
from bayes_lora.backbone.peft_model import BayesianAdapter
from bayes_lora.backbone.tokens import TokenIds

__all__ = [
    "MINILM",
    "Backbone",
    "BackboneKind",
    "BayesianAdapter",
    "FactorKey",
    "Factors",
    "TokenIds",
    "load_backbone",
]

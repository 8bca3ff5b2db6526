"""Pretrained backbones: loading them, adapting their linear layers, scoring options."""

from bayes_lora.backbone.backbone import Backbone, FactorKey, Factors
from bayes_lora.backbone.loading import MINILM, load_backbone
from bayes_lora.backbone.scoring import ClassHead, Scorer

__all__ = ["MINILM", "Backbone", "ClassHead", "FactorKey", "Factors", "Scorer", "load_backbone"]

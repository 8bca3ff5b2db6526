"""bayes-lora: a posterior over low-rank adapters of a transformer, and predictions from it."""

from bayes_lora.adapters import KronA, LoRA
from bayes_lora.backbone import BayesianAdapter, load_backbone
from bayes_lora.data import Task, read, unlabelled
from bayes_lora.effects import Effect, Flat, LearnedNormal, Normal
from bayes_lora.errors import BayesLoraError
from bayes_lora.inference import FitSettings, ModelSettings, fit
from bayes_lora.merging import merged
from bayes_lora.meta import EpisodeSettings, MetaPosterior, MetaSettings, meta_fit, tuned
from bayes_lora.peft_export import export_peft
from bayes_lora.posterior import Posterior
from bayes_lora.predict import Predictions

__all__ = [
    "BayesLoraError",
    "BayesianAdapter",
    "Effect",
    "EpisodeSettings",
    "FitSettings",
    "Flat",
    "KronA",
    "LearnedNormal",
    "LoRA",
    "MetaPosterior",
    "MetaSettings",
    "ModelSettings",
    "Normal",
    "Posterior",
    "Predictions",
    "Task",
    "export_peft",
    "fit",
    "load_backbone",
    "merged",
    "meta_fit",
    "read",
    "tuned",
    "unlabelled",
]

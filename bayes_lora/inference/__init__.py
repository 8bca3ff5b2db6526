"""Inference algorithms, one a file, and the call that fits a task."""

from bayes_lora.inference.fit import fit
from bayes_lora.inference.model_settings import ModelSettings
from bayes_lora.inference.settings import FitSettings

__all__ = ["FitSettings", "ModelSettings", "fit"]

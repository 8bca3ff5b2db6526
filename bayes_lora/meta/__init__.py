"""Many tasks: what they share, and a posterior for a new one from a few examples (ABMLL)."""

from bayes_lora.meta.learned import MetaPosterior
from bayes_lora.meta.meta_fit import meta_fit
from bayes_lora.meta.settings import EpisodeSettings, MetaSettings
from bayes_lora.meta.task_posterior import TaskPosterior
from bayes_lora.meta.tuning import tuned

__all__ = ["EpisodeSettings", "MetaPosterior", "MetaSettings", "TaskPosterior", "meta_fit", "tuned"]

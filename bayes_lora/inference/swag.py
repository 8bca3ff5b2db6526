"""SWAG's algorithm (Maddox et al. 2019, arXiv 1902.02476, algorithm 1)."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_constant_schedule,
)

from bayes_lora.errors import ConfigError
from bayes_lora.guides import SWAG, LowRankGuide, PointGuide
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import SVITrainer, fit_svi
from bayes_lora.model import BayesianModel, parameter_name
from bayes_lora.scorers import LabelledRows

SMALLEST_VARIANCE = 1e-30  # of a weight that no iterate moved, as in the authors' code


def fit_swag(
    model: BayesianModel,
    guide: LowRankGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: SWAG,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Fit a point by maximum likelihood, go on at a constant rate, and take the iterates' moments.

    The second part is as long as the first can be: by default 20 epochs and 20 iterates, so one
    an epoch, as in the paper. It goes on with Adam, at the first part's highest rate, where the
    paper has SGD: LoRA's factors are of such different sizes that one rate of SGD suits none,
    and SWAG for LoRA (Onal et al. 2024, arXiv 2405.03425) goes on with AdamW as well. What the
    spread of either's iterates has to do with the posterior's depends on the rate.

    Args:
        model: The program, with flat priors.
        guide: The guide to fit.
        train: Training rows.
        settings: Of both parts.
        family: How many iterates.
        dev: Rows for early stopping of the first part; the second has its mean for that.
        running: What it shows, and where it keeps its state.

    Raises:
        ConfigError: The second part is too short for two iterates.
        FitError: The loss stopped being finite.
    """
    if settings.max_steps == 0:
        return
    point = PointGuide(model).to(model.backbone.device)
    fit_svi(model, point, train, settings, dev=dev, running=running.part("point"))
    kept = _Iterates(point, family.rank)
    trainer = partial(_ConstantRate, iterates=kept)
    fit_svi(
        model,
        point,
        train,
        settings,
        running=replace(running.part("iterates"), folder=None),  # the iterates are in memory
        trainer=trainer,
    )
    if len(kept.values) < 2:
        raise ConfigError("SWAG needs at least 2 iterates: raise max_steps or epochs.")
    set_moments(guide, kept.values)


@torch.no_grad()
def set_moments(guide: LowRankGuide, iterates: Sequence[Mapping[str, Tensor]]) -> None:
    """Give a guide the mean of iterates, and half their variance beside half their covariance.

    With K iterates of deviations D, a draw is ``mean + sqrt(variance / 2) noise
    + D z / sqrt(2 (K - 1))`` (equation 1). Deviations are from the mean of all K: the paper's, from
    the mean so far, are what it can have without keeping iterates, which for adapters are small.

    Args:
        guide: Its rank is at least K; columns without an iterate are zero.
        iterates: Site name to values ``[*shape]``, each; at least two.
    """
    count = len(iterates)
    for name in guide.sites:
        key, values = parameter_name(name), torch.stack([each[name] for each in iterates]).double()
        deviations = values - values.mean(0)
        variance = deviations.square().mean(0).clamp(min=SMALLEST_VARIANCE)
        guide.loc[key].copy_(values.mean(0))
        guide.log_scale[key].copy_(0.5 * (variance / 2).log())
        guide.factor[key].zero_()
        guide.factor[key][:count] = (deviations / math.sqrt(2 * (count - 1))).to(guide.factor[key])


class _Iterates(TrainerCallback):
    """Keeps the last points of a run, equally far apart."""

    def __init__(self, point: PointGuide, number: int) -> None:
        self.point, self.number = point, number
        self.values: deque[dict[str, Tensor]] = deque(maxlen=number)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the point after every so many steps."""
        if state.global_step % max(1, state.max_steps // self.number) == 0:
            self.values.append({n: value.clone() for n, value in self.point.mean().items()})


class _ConstantRate(SVITrainer):
    """A fit whose learning rate neither warms up nor decays, and that keeps its iterates."""

    def __init__(self, *args: Any, iterates: _Iterates, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lr_scheduler = get_constant_schedule(kwargs["optimizers"][0])
        self.add_callback(iterates)

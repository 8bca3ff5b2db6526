"""Stochastic variational inference on ``transformers.Trainer``."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bayes_lora.errors import ConfigError, FitError
from bayes_lora.guides import Family, Guide, LevelPoints, sample
from bayes_lora.inference.elbo import RowELBO
from bayes_lora.inference.optimizer import make_optimizer
from bayes_lora.inference.progress import ELBOProgress
from bayes_lora.inference.resumable import run_or_resume
from bayes_lora.inference.running import RUNNING, Running, StateFolder
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.training_state import trainer_arguments, training
from bayes_lora.model import BayesianModel
from bayes_lora.predict import predict
from bayes_lora.reconstruction import hidden_tokens
from bayes_lora.scorers import LabelledRows, Row
from calibration import nll

KEPT_EVERY = 500  # steps after which the state is kept, where an epoch has more
DEV_DRAWS = 8  # in each evaluation on dev rows, with the same base noise every time


class SVIModule(nn.Module):
    """What the Trainer trains: the negative ELBO of a model and a guide, per training row.

    The loss is ``(kl_weight * KL - sum over rows of expected log-likelihood) / N``, in nats. Its
    parameters are the guide's and the priors'; the frozen backbone is no submodule.

    Args:
        model: The program; set to share rows among draws.
        guide: Its guide.
        draws: Posterior draws in one pass, G.
        levels: Whether effects with levels are in the program.
    """

    def __init__(
        self, model: BayesianModel, guide: Guide, draws: int, levels: bool = False
    ) -> None:
        super().__init__()
        self.levels = levels
        self.estimator = RowELBO(
            guide.closed, num_particles=draws, vectorize_particles=draws > 1, max_plate_nesting=1
        )
        self.elbo = self.estimator(model, guide)
        object.__setattr__(self, "model", model)  # registered once, inside elbo
        object.__setattr__(self, "guide", guide)
        self.terms = (0.0, 0.0)

    model: BayesianModel
    guide: Guide

    def forward(
        self, labels: Tensor, levels: Tensor | None = None, **inputs: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss of a minibatch, and its two terms beside it.

        Args:
            labels: Option indices ``[B]``.
            levels: Of each effect with levels, each row's level, int64 ``[effects, B]``; -1: none.
                None: the effects with levels are left out.
            inputs: The scorer's tensors.
        """
        batches = {}
        if levels is not None:
            for (name, effect), own in zip(self.model.by_level.items(), levels, strict=True):
                batches[name] = effect.batch(own, self.model.num_rows)
        # The program's likelihood has the power 1 / kl_weight; undone, the KL has the weight.
        scale = self.model.kl_weight / self.model.num_rows
        divergence = self.guide.divergence(self.model.prior)
        loss = (self.elbo(inputs, labels, batches) + divergence) * scale
        likelihood = self.estimator.expected_log_likelihood * scale
        divergence = (loss.detach() + likelihood) / self.model.kl_weight  # levels' too
        self.terms = (float(likelihood), float(divergence))
        if not math.isfinite(sum(self.terms)):
            raise FitError("The loss is no longer finite: lower the learning rate.")
        return {"loss": loss}


class SVITrainer(Trainer):
    """The Trainer, with the dev metric a Bayesian fit is judged by: predictive NLL.

    Args:
        svi: What is trained.
        dev: Rows to evaluate on, or None.
    """

    def __init__(self, svi: SVIModule, *, dev: LabelledRows | None, **kwargs: Any) -> None:
        super().__init__(model=svi, **kwargs)
        # The loss is a mean over the batch, to be divided by the batches accumulated; the Trainer
        # would take forward's **inputs for a sign that it already was.
        self.model_accepts_loss_kwargs = False
        self.svi = svi
        self.dev = dev

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on the dev rows, and tell the callbacks."""
        self.svi.model.backbone.eval()  # no adapter dropout
        metrics = {"eval_nll": self.dev_nll()}
        self.svi.model.backbone.train()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def dev_nll(self) -> float:
        """Return the dev rows' negative log predictive probability, mean in nats."""
        assert self.dev is not None
        model, guide = self.svi.model, self.svi.guide
        draws = sample(guide, DEV_DRAWS if guide.random else 1, seed=self.args.seed)
        levels = None
        if self.svi.levels:
            levels = {name: own.loc[None] for name, own in guide.by_level.items()}
        predictions = predict(model, draws, self.dev.rows, levels=levels)
        return nll(predictions.probabilities, np.array(self.dev.labels))


def fit_svi(
    model: BayesianModel,
    guide: Guide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
    levels: bool = True,
    family: Family | None = None,
    trainer: Callable[..., SVITrainer] = SVITrainer,
) -> None:
    """Fit a guide, and the model's learned prior scales, in place.

    Args:
        model: The program; its ``num_rows`` is the number of training rows.
        guide: The guide to fit.
        train: Training rows.
        settings: How.
        dev: Rows for early stopping; without them the fit runs its full length.
        running: What it shows, and where it keeps its state.
        levels: Whether points of levels are fitted as well (those of a mean-field guide have an
            inference of their own); else the program is the population's.
        family: Not looked at.
        trainer: Makes the Trainer, for an algorithm that has one of its own.

    Raises:
        FitError: The loss stopped being finite.
    """
    if settings.max_steps == 0:
        return
    with sharing_rows(model, settings, running) as state:
        levels = levels and any(isinstance(own, LevelPoints) for own in guide.by_level.values())
        own = _make_trainer(trainer, model, guide, train, settings, dev, state, levels)
        run_trainer(own, state, running)


@contextmanager
def sharing_rows(
    model: BayesianModel, settings: FitSettings, running: Running
) -> Iterator[StateFolder]:
    """Train inside the ``with`` block, with rows shared among draws.

    Args:
        model: The program.
        settings: Of the fit.
        running: Says where its state is kept.

    Yields:
        A folder for the Trainer.
    """
    if settings.checkpointing:
        model.backbone.enable_gradient_checkpointing()
    model.share_rows = True
    try:
        with running.state() as state, training(model.backbone):
            yield state
    finally:
        model.share_rows = False


def run_trainer(trainer: SVITrainer, state: StateFolder, running: Running) -> None:
    """Train, behind a progress bar.

    Args:
        trainer: What trains.
        state: To go on from, and to keep.
        running: What it shows.
    """
    trainer.remove_callback(PrinterCallback)
    bar = ELBOProgress(trainer.svi, running.label, running.progress)
    trainer.add_callback(bar)
    with closing(bar):
        run_or_resume(trainer, state)


def _make_trainer(
    make: Callable[..., SVITrainer],
    model: BayesianModel,
    guide: Guide,
    train: LabelledRows,
    settings: FitSettings,
    dev: LabelledRows | None,
    state: StateFolder,
    levels: bool,
) -> SVITrainer:
    batch_size, draws = _batch_shape(settings, len(train.rows), model, guide)
    arguments = svi_arguments(settings, batch_size, len(train), state, stops=dev is not None)
    model.backbone.to(arguments.device)
    return make(
        SVIModule(model, guide, draws, levels),
        args=arguments,
        train_dataset=list(train),
        eval_dataset=[] if dev else None,
        data_collator=Collator(model, draws, settings.seed, levels),
        optimizers=(make_optimizer(model, guide, settings, arguments.max_steps), None),
        callbacks=[EarlyStoppingCallback(settings.patience)] if dev else [],
        dev=dev,
    )


def _batch_shape(
    settings: FitSettings, num_rows: int, model: BayesianModel, guide: Guide
) -> tuple[int, int]:
    """Return rows and draws of a pass: every draw serves the same number of rows."""
    several = guide.random and model.backbone.row_aligned
    draws = min(settings.draws, num_rows) if several else 1
    if settings.batch_size < draws:
        raise ConfigError(
            f"batch_size {settings.batch_size} is smaller than draws {draws}: "
            f"each draw needs a row of its own. Raise batch_size or lower draws."
        )
    batch_size = min(settings.batch_size, num_rows)
    return batch_size - batch_size % draws, draws


def svi_arguments(
    settings: FitSettings,
    batch_size: int,
    num_rows: int,
    state: StateFolder,
    *,
    stops: bool,
    **own: Any,
) -> TrainingArguments:
    """Make the Trainer's arguments.

    Args:
        settings: Of the fit.
        batch_size: Rows in a pass, or rows of each member.
        num_rows: Training rows.
        state: A folder for checkpoints.
        stops: Whether to evaluate on dev rows, and to keep the best state.
        own: What else differs.
    """
    steps_in_epoch = math.ceil(num_rows // batch_size / settings.accumulate)
    max_steps = settings.length(steps_in_epoch)
    strategy = "steps" if stops else "no"
    every = min(max(steps_in_epoch, 10), max_steps)
    saved = every if stops else min(every, KEPT_EVERY)
    shared = {
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "dataloader_drop_last": True,  # a short batch would weigh its rows more than the others
        "max_grad_norm": settings.max_grad_norm,
        "eval_strategy": strategy,
        "save_strategy": "steps" if stops or state.kept else "no",
        "eval_steps": every,
        "save_steps": saved,
        "save_only_model": not state.kept,
        "restore_callback_states_from_checkpoint": True,  # how long it has waited for a better one
        "save_total_limit": 1,
        "load_best_model_at_end": stops,
        "metric_for_best_model": "nll",
        "greater_is_better": False,
        "seed": settings.seed,
    }
    return trainer_arguments(state.path, max_steps, **shared | own)


class Collator:
    """Makes the tensors of a minibatch of (row, label) pairs.

    Args:
        model: What reads them.
        draws: Groups of rows, one for each draw.
        seed: Of which tokens a reconstruction term hides.
        levels: Whether the rows' levels are wanted.
    """

    def __init__(self, model: BayesianModel, draws: int, seed: int, levels: bool) -> None:
        self.model, self.draws, self.levels = model, draws, levels
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, pairs: Sequence[tuple[Row, int]]) -> dict[str, Tensor]:
        """Make them."""
        rows, backbone = [row for row, _ in pairs], self.model.backbone
        batch = dict(self.model.scorer.collate(backbone, rows, groups=self.draws))
        if self.model.terms.reconstruction:
            batch |= hidden_tokens(backbone, rows, self.generator)
        if self.levels:
            batch["levels"] = torch.tensor([row.levels for row in rows]).T
        return batch | {"labels": torch.tensor([label for _, label in pairs])}

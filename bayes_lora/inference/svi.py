"""Stochastic variational inference on ``transformers.Trainer``."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bayes_lora.errors import ConfigError, FitError, check_positive, check_seed
from bayes_lora.guides import Guide, sample
from bayes_lora.inference.progress import ELBOProgress
from bayes_lora.inference.training_state import trainer_arguments, training
from bayes_lora.model import BayesianModel
from bayes_lora.predict import predict
from bayes_lora.scorers import LabelledRows, Row
from calibration import nll

DEV_DRAWS = 8  # in each evaluation on dev rows, with the same base noise every time


@dataclass(frozen=True)
class FitSettings:
    """How a guide is fitted. The defaults are justified in docs/defaults.md.

    Args:
        epochs: Passes over the training rows; None for 20, or as many as make 150 steps.
        max_steps: Optimizer steps; overrides ``epochs`` when given.
        batch_size: Rows in one forward pass (rounded down to a multiple of ``draws``).
        accumulate: Forward passes in one optimizer step.
        draws: Independent posterior draws in one pass, G: each serves batch_size / G rows.
        learning_rate: Of locations (AdamW without weight decay, linear decay; a fifth of a
            short fit's steps, 20 at most, warm up).
        scale_learning_rate: Of log scales, of guide and learned priors alike.
        max_grad_norm: Where the gradient of the loss per row is clipped.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        patience: With dev data: evaluations without a better dev NLL before stopping; one an
            epoch, or every 10 steps where epochs are shorter.
        seed: Of initial values, batches and draws.
    """

    epochs: float | None = None
    max_steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    draws: int = 8
    learning_rate: float = 1e-3
    scale_learning_rate: float = 5e-3
    max_grad_norm: float = 1.0
    checkpointing: bool = False
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("seed", "checkpointing") and value is not None:
                check_positive(name, value)
        check_seed(self.seed)

    def length(self, steps_in_epoch: int) -> int:
        """Return the number of optimizer steps."""
        if self.max_steps is not None:
            return self.max_steps
        if self.epochs is not None:
            return max(1, round(self.epochs * steps_in_epoch))
        return max(20 * steps_in_epoch, 150)


class RowELBO(TraceMeanField_ELBO):
    """Pyro's ELBO with analytic KL, which keeps the expected log-likelihood for the progress."""

    expected_log_likelihood = 0.0

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        likelihood = model_trace.nodes["label"]["log_prob_sum"]
        self.expected_log_likelihood = likelihood.detach() / self.num_particles
        return super()._differentiable_loss_particle(model_trace, guide_trace)


class SVIModule(nn.Module):
    """What the Trainer trains: the negative ELBO of a model and a guide, per training row.

    The loss is ``(kl_weight * KL - sum over rows of expected log-likelihood) / N``, in nats. Its
    parameters are the guide's and the priors'; the frozen backbone is no submodule.

    Args:
        model: The program; set to share rows among draws.
        guide: Its guide.
        draws: Posterior draws in one pass, G.
    """

    def __init__(self, model: BayesianModel, guide: Guide, draws: int) -> None:
        super().__init__()
        self.estimator = RowELBO(
            num_particles=draws, vectorize_particles=draws > 1, max_plate_nesting=1
        )
        self.elbo = self.estimator(model, guide)
        object.__setattr__(self, "model", model)  # registered once, inside elbo
        object.__setattr__(self, "guide", guide)
        self.terms = (0.0, 0.0)

    model: BayesianModel
    guide: Guide

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the loss of a minibatch, and its two terms beside it."""
        # The program's likelihood has the power 1 / kl_weight; undone, the KL has the weight.
        scale = self.model.kl_weight / self.model.num_rows
        loss = self.elbo(inputs, labels) * scale
        likelihood = self.estimator.expected_log_likelihood * scale
        divergence = (loss.detach() + likelihood) / self.model.kl_weight
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
        """Return the dev rows' negative log predictive probability, mean in nats."""
        assert self.dev is not None
        model, guide = self.svi.model, self.svi.guide
        draws = sample(guide, DEV_DRAWS if guide.random else 1, seed=self.args.seed)
        model.backbone.eval()  # no adapter dropout
        predictions = predict(model, draws, self.dev.rows)
        model.backbone.train()
        metrics = {"eval_nll": nll(predictions.probabilities, np.array(self.dev.labels))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def fit_svi(
    model: BayesianModel,
    guide: Guide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    dev: LabelledRows | None = None,
    progress: bool = False,
    label: str = "fit",
) -> None:
    """Fit a guide, and the model's learned prior scales, in place.

    Args:
        model: The program; its ``num_rows`` is the number of training rows.
        guide: The guide to fit.
        train: Training rows.
        settings: How.
        dev: Rows for early stopping; without them the fit runs its full length.
        progress: Whether to show a progress bar on stderr.
        label: What stands before the bar.

    Raises:
        FitError: The loss stopped being finite.
    """
    if settings.checkpointing:
        model.backbone.enable_gradient_checkpointing()
    with tempfile.TemporaryDirectory(prefix="bayes-lora-") as folder, _sharing_rows(model):
        trainer = _make_trainer(model, guide, train, settings, dev, Path(folder))
        bar = ELBOProgress(trainer.svi, label, progress)
        trainer.add_callback(bar)
        with closing(bar):
            trainer.train()


@contextmanager
def _sharing_rows(model: BayesianModel) -> Iterator[None]:
    """Train inside the ``with`` block, with rows shared among draws."""
    model.share_rows = True
    try:
        with training(model.backbone):
            yield
    finally:
        model.share_rows = False


def _make_trainer(
    model: BayesianModel,
    guide: Guide,
    train: LabelledRows,
    settings: FitSettings,
    dev: LabelledRows | None,
    folder: Path,
) -> SVITrainer:
    batch_size, draws = _batch_shape(settings, len(train.rows), guide)
    steps_in_epoch = math.ceil(len(train.rows) // batch_size / settings.accumulate)
    arguments = _arguments(settings, batch_size, steps_in_epoch, folder, stops=dev is not None)
    model.backbone.to(arguments.device)
    trainer = SVITrainer(
        SVIModule(model, guide, draws),
        args=arguments,
        train_dataset=list(train),
        eval_dataset=[] if dev else None,
        data_collator=lambda rows: _collate(model, rows, draws),
        optimizers=(_optimizer(model, guide, settings), None),
        callbacks=[EarlyStoppingCallback(settings.patience)] if dev else [],
        dev=dev,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _batch_shape(settings: FitSettings, num_rows: int, guide: Guide) -> tuple[int, int]:
    """Return rows and draws of a pass: every draw serves the same number of rows."""
    draws = min(settings.draws, num_rows) if guide.random else 1
    if settings.batch_size < draws:
        raise ConfigError(
            f"batch_size {settings.batch_size} is smaller than draws {draws}: "
            f"each draw needs a row of its own. Raise batch_size or lower draws."
        )
    batch_size = min(settings.batch_size, num_rows)
    return batch_size - batch_size % draws, draws


def _arguments(
    settings: FitSettings, batch_size: int, steps_in_epoch: int, folder: Path, *, stops: bool
) -> TrainingArguments:
    max_steps = settings.length(steps_in_epoch)
    strategy = "steps" if stops else "no"
    every = min(max(steps_in_epoch, 10), max_steps)
    return trainer_arguments(
        folder,
        max_steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=settings.accumulate,
        dataloader_drop_last=True,  # a short batch would weigh its rows more than the others
        max_grad_norm=settings.max_grad_norm,
        eval_strategy=strategy,
        save_strategy=strategy,
        eval_steps=every,
        save_steps=every,
        save_only_model=True,
        save_total_limit=1,
        load_best_model_at_end=stops,
        metric_for_best_model="nll",
        greater_is_better=False,
        seed=settings.seed,
    )


def _optimizer(model: BayesianModel, guide: Guide, settings: FitSettings) -> torch.optim.AdamW:
    """AdamW without decay (the prior does that), scales moving faster than locations."""
    named = list(guide.named_parameters()) + list(model.named_parameters())
    scales = [value for name, value in named if "log_scale" in name]
    others = [value for name, value in named if "log_scale" not in name]
    groups = [
        {"params": others, "lr": settings.learning_rate},
        {"params": scales, "lr": settings.scale_learning_rate},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0)


def _collate(
    model: BayesianModel, rows: Sequence[tuple[Row, int]], draws: int
) -> dict[str, Tensor]:
    batch = model.scorer.collate(model.backbone, [row for row, _ in rows], groups=draws)
    return {**batch, "labels": torch.tensor([label for _, label in rows])}

"""A deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474), members side by side.

Every member has its own start, order of rows, AdamW state, clipping and early stopping, and so ends
where a fit of it alone would; but all share the passes through the backbone.
"""

from typing import Any

import torch
from torch import Tensor

from bayes_lora.errors import UnsupportedError
from bayes_lora.guides import DeepEnsemble, MembersGuide
from bayes_lora.inference.members import MembersTrainer, members_trainer
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import run_trainer, sharing_rows
from bayes_lora.model import HEAD, BayesianModel
from bayes_lora.predict import predict
from bayes_lora.scorers import LabelledRows
from calibration import nll

IN_MEMORY: dict[str, Any] = {"save_strategy": "no", "load_best_model_at_end": False}  # each's best


class Best:
    """Each member where its dev NLL was best, until it has run out of patience.

    Args:
        guide: The members.
        patience: Evaluations without a better one.
    """

    def __init__(self, guide: MembersGuide, patience: int) -> None:
        self.guide, self.patience = guide, patience
        self.values = {name: values.clone() for name, values in guide.values().items()}
        self.least = [float("inf")] * guide.members
        self.waited = [0] * guide.members

    @property
    def stopped(self) -> list[bool]:
        """Which members have run out of patience."""
        return [waited >= self.patience for waited in self.waited]

    def update(self, losses: list[float]) -> None:
        """Keep the members that are better than ever.

        Args:
            losses: Every member's dev NLL.
        """
        now = self.guide.values()
        for member, (loss, stopped) in enumerate(zip(losses, self.stopped, strict=True)):
            if stopped:
                continue
            if loss >= self.least[member]:
                self.waited[member] += 1
                continue
            self.least[member], self.waited[member] = loss, 0
            for name, values in self.values.items():
                values[member] = now[name][member]


class EnsembleTrainer(MembersTrainer):
    """The members' trainer, which judges each by itself."""

    best: Best

    def dev_nll(self) -> float:
        """Evaluate each member, and return the mean; end training when all have stopped."""
        assert self.dev is not None
        members = self.best.guide.values()
        predicted = predict(self.svi.model, members, self.dev.rows, keep_draws=True)
        assert predicted.per_draw is not None
        losses = [nll(own, list(self.dev.labels)) for own in predicted.per_draw]
        self.best.update(losses)
        self.control.should_training_stop |= all(self.best.stopped)
        return sum(losses) / len(losses)


def fit_ensemble(
    model: BayesianModel,
    guide: MembersGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: DeepEnsemble,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Fit all members, in place; member m ends where an ensemble of one with ``seed + m`` does.

    Priors, if they are not flat, are centred at each member's own start. What an adapter holds
    constant is the same for all.

    Args:
        model: The program; its seed is that of the settings.
        guide: The members.
        train: Training rows.
        settings: How; ``batch_size`` is the rows of each member, and ``draws`` is not looked at.
        family: Not looked at.
        dev: Rows for early stopping; without them the fit runs its full length.
        running: What it shows, and where it keeps its state.

    Raises:
        UnsupportedError: Its state is to be kept, and there are dev rows.
        FitError: A member's loss stopped being finite.
    """
    own = [starts(model, settings.seed + member) for member in range(guide.members)]
    guide.place({name: torch.stack([start[name] for start in own]) for name in model.sites})
    guide.centre_priors()
    if dev is not None and running.folder is not None:
        raise UnsupportedError(
            "An ensemble that stops early keeps each member's best in memory, so it cannot be "
            "resumed: leave out the dev rows, or the folder for its state."
        )
    if settings.max_steps == 0:
        return
    with sharing_rows(model, settings, running) as state:
        trainer = members_trainer(
            EnsembleTrainer,
            model,
            guide,
            train,
            settings,
            state,
            dev=dev,
            **(IN_MEMORY if dev is not None else {}),
        )
        assert isinstance(trainer, EnsembleTrainer)
        trainer.best = Best(guide, settings.patience)
        run_trainer(trainer, state, running)
    if dev is not None:
        guide.place(trainer.best.values)


def starts(model: BayesianModel, seed: int) -> dict[str, Tensor]:
    """Make the values at which the program would start with another seed.

    Args:
        model: The program.
        seed: Of the random ones.

    Returns:
        Site name to values, ``[*shape]``.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for effect, adapter in model.adapters.items():
        for group in model.backbone.groups:
            parts = model.backbone.parts(adapter, group, generator, seed)
            found |= {".".join((effect, group.name, n)): own for n, own in parts.starts.items()}
    for name, factor in model.scorer.factors(model.backbone.hidden_size).items():
        found[f"{HEAD}.{name}"] = factor.start(factor.shape, generator)
    return found

"""What a fit shows while it runs: its objective and the time left."""

from abc import ABC, abstractmethod
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Progress(TrainerCallback, ABC):
    """A tqdm bar over optimizer steps.

    Args:
        module: The module being trained.
        label: What stands before the bar.
        enabled: Whether to show it.
    """

    def __init__(self, module: Any, label: str, enabled: bool = True) -> None:
        self.module = module
        self.label = label
        self.enabled = enabled
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,  # of a fit that goes on
            desc=self.label,
            disable=not self.enabled,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show where this step stands."""
        self.bar.update(1)
        self.bar.set_postfix_str(self.describe(), refresh=False)

    def close(self) -> None:
        """Close the bar, also after an interruption, so that what follows has its own line."""
        if self.bar is not None:
            self.bar.close()

    @abstractmethod
    def describe(self) -> str:
        """Say what the last step's objective was."""


class ELBOProgress(Progress):
    """Shows ELBO = expected log-likelihood - KL, or that it is tempered; nats a training row."""

    def describe(self) -> str:
        """Write the ELBO and its two terms."""
        likelihood, divergence = self.module.terms
        weight = self.module.model.kl_weight
        name, factor = ("ELBO", "") if weight == 1 else ("tempered ELBO", f"{weight:g} x ")
        return (
            f"{name} {likelihood - weight * divergence:.3f} = "
            f"log-lik. {likelihood:.3f} - {factor}KL {divergence:.3f}"
        )


class MetaProgress(Progress):
    """Shows what a meta-fit says of its last step, in nats a row."""

    def describe(self) -> str:
        """Write it."""
        return str(self.module.progress)

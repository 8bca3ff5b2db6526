"""What a fit shows while it runs: the ELBO, its two terms, and the time left."""

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ELBOProgress(TrainerCallback):
    """A tqdm bar over optimizer steps; its postfix is in nats for a training row.

    Args:
        module: The module being trained, whose ``terms`` hold the last step's figures.
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
        self.bar = tqdm(total=state.max_steps, desc=self.label, disable=not self.enabled)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show this step's ELBO = expected log-likelihood - KL, or that it is tempered."""
        likelihood, divergence = self.module.terms
        weight = self.module.model.kl_weight
        name, factor = ("ELBO", "") if weight == 1 else ("tempered ELBO", f"{weight:g} x ")
        self.bar.update(1)
        self.bar.set_postfix_str(
            f"{name} {likelihood - weight * divergence:.3f} = "
            f"log-lik. {likelihood:.3f} - {factor}KL {divergence:.3f}",
            refresh=False,
        )

    def close(self) -> None:
        """Close the bar, also after an interruption, so that what follows has its own line."""
        if self.bar is not None:
            self.bar.close()

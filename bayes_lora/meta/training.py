"""Training theta and an amortization on episodes, on ``transformers.Trainer``."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from bayes_lora.meta.development import dev_nlls
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.module import MetaModule

# Of the moving average that is kept and judged: single steps are noisy.
AVERAGING = 0.98


class MetaTrainer(Trainer):
    """The Trainer, which keeps a moving average of what it trains, and judges that.

    Args:
        module: What is trained.
        dev: Episodes of meta-dev tasks, always the same ones; or none.
        patience: Evaluations without a better NLL on these before stopping.
    """

    def __init__(
        self, module: MetaModule, *, dev: Sequence[EpisodeRows], patience: int, **kwargs: Any
    ) -> None:
        super().__init__(model=module, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.module = module
        self.dev = dev
        self.patience = patience
        self.worse = 0  # evaluations since the best
        self.average = copied(module)
        self.best = math.inf, self.average
        self.add_callback(_Averaging(self))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the meta-dev queries' NLL under the average: mean over episodes, in nats."""
        with self.averaged(), self.at_rest():
            metrics = {"eval_nll": fmean(dev_nlls(self.module, self.dev).values())}
            self.worse += 1
            if metrics["eval_nll"] < self.best[0]:
                self.best, self.worse = (metrics["eval_nll"], copied(self.module)), 0
        self.control.should_training_stop |= self.worse >= self.patience
        self.control.should_evaluate = False  # the end of the epoch would ask once more
        self.log(metrics)
        return metrics

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        """Take episodes in order: each says by its number what is drawn."""
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Adapt and predict as on a new task inside the ``with`` block."""
        backbone = self.module.hierarchy.model.backbone
        self.module.eval()  # the Trainer goes back to training by itself
        backbone.eval()
        try:
            yield
        finally:
            backbone.train()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the average in the module inside the ``with`` block."""
        trained = copied(self.module)
        self.module.load_state_dict(self.average)
        try:
            yield
        finally:
            self.module.load_state_dict(trained)

    def load_best(self) -> None:
        """Put the average that did best on the meta-dev tasks into the module, or the last one."""
        self.module.load_state_dict(self.best[1] if self.dev else self.average)


class _Averaging(TrainerCallback):
    def __init__(self, trainer: MetaTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        share = 1 - min(AVERAGING, (1 + state.global_step) / (10 + state.global_step))
        for name, value in self.trainer.module.state_dict().items():
            self.trainer.average[name].lerp_(value, share)


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Copy a module's state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}

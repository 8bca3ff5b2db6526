"""Training theta and an amortization on episodes, on ``transformers.Trainer``."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from bayes_lora.errors import FitError
from bayes_lora.inference.svi import RowELBO
from bayes_lora.meta.amortization import Amortization
from bayes_lora.meta.development import dev_nll
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.hierarchy import Hierarchy, task_rows
from bayes_lora.meta.theta import ThetaGuide

# Of the moving average that is kept and judged. Averaging over the last steps was worth as much
# as twice their number (docs/defaults.md).
AVERAGING = 0.98


class MetaModule(nn.Module):
    """What the Trainer trains: the negative ELBO of the hierarchy, per support row, in nats.

    Args:
        hierarchy: The program.
        theta: The posterior of what tasks share.
        amortization: From a support set to a task's posterior.
    """

    def __init__(self, hierarchy: Hierarchy, theta: ThetaGuide, amortization: Amortization) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.theta = theta
        self.amortization = amortization
        self.elbo = RowELBO(max_plate_nesting=3)
        self.progress = ""

    def forward(self, episodes: Sequence[EpisodeRows]) -> dict[str, Tensor]:
        """Return the loss of a batch of episodes, one of each of T tasks.

        Queries are scored under the posterior that their task's support gives, and stand for as
        many rows as the support has: the ELBO's likelihood, estimated on rows held out from it.
        """
        supports = [episode.support for episode in episodes]
        sizes = [max(1, len(support)) for support in supports]
        queries = [episode.query for episode in episodes]
        rows = task_rows(self.hierarchy.model, queries, supports, draws=1, stand_for=sizes)

        def guide(_: Any) -> None:
            posteriors = self.amortization(self.hierarchy, self.theta(), supports)
            posteriors.sample(self.hierarchy, rows.draws)

        loss = self.elbo.differentiable_loss(self.hierarchy, guide, rows)
        # The program's likelihood has the power 1 / kl_weight; undone, the KL has the weight.
        observations = self.hierarchy.num_tasks * sum(sizes) / len(sizes)
        per_row = self.hierarchy.kl_weight / observations
        likelihood = float(self.elbo.expected_log_likelihood) * per_row
        return self.checked(loss * per_row, f"queries' log-lik. {likelihood:.3f}")

    def checked(self, loss: Tensor, progress: str) -> dict[str, Tensor]:
        """Check a loss, and keep what the progress is to show."""
        self.progress = progress
        if not math.isfinite(float(loss.detach())):
            raise FitError("The loss is no longer finite: lower the learning rate.")
        return {"loss": loss}


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
            metrics = {"eval_nll": dev_nll(self.module, self.dev)}
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

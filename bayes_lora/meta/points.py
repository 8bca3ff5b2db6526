"""Meta-learning without a posterior: the baselines of ABMLL, under their own names.

They share everything but the objective with it: backbone, adapter, episodes, Trainer, early
stopping, and the scorer's own weights fitted on the meta-dev tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.meta.amortization import Amortization, TaskPosteriors
from bayes_lora.meta.descent import descend, falling
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.hierarchy import Hierarchy, TaskRows, task_rows
from bayes_lora.meta.module import MetaModule
from bayes_lora.meta.theta import Theta
from bayes_lora.scorers import LabelledRows


class PointSteps(Amortization):
    """K Adam steps on the support's log-likelihood alone, from mu: a point, and no posterior.

    Args:
        steps: K, on a new task.
        train_steps: K on a training task: in the module's training mode.
        learning_rate: Falls linearly to zero over the steps.
    """

    def __init__(self, steps: int, train_steps: int, learning_rate: float) -> None:
        super().__init__()
        self.steps = steps
        self.train_steps = train_steps
        self.learning_rate = learning_rate

    def without_support(self, theta: Theta, count: int) -> TaskPosteriors:
        """Leave ``count`` tasks at mu."""
        return TaskPosteriors({n: v.expand(count, *v.shape) for n, v in theta.mean.items()}, {})

    def adapt(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        """Take the steps, and add them to theta; first order."""
        loc = self.without_support(theta, len(supports)).loc
        steps = self.train_steps if self.training else self.steps
        if not steps:
            return TaskPosteriors(loc, {})
        rows = task_rows(hierarchy.model, supports, supports, draws=1)
        with torch.enable_grad():
            end = self._climb(hierarchy, {n: v.detach() for n, v in loc.items()}, rows, steps)
        return TaskPosteriors({n: v + (end[n] - v).detach() for n, v in loc.items()}, {})

    def _climb(
        self, hierarchy: Hierarchy, start: dict[str, Tensor], rows: TaskRows, steps: int
    ) -> dict[str, Tensor]:
        loc = {n: v.clone().requires_grad_() for n, v in start.items()}
        optimizer = torch.optim.Adam(loc.values(), self.learning_rate)

        def loss() -> Tensor:
            return task_losses(hierarchy, TaskPosteriors(loc, {}), rows).sum()

        descend(optimizer, [loss] * steps, falling(optimizer, steps))
        return loc


def task_losses(hierarchy: Hierarchy, points: TaskPosteriors, rows: TaskRows) -> Tensor:
    """Mean cross-entropy of each task's rows at its point, ``[T]``."""
    logits = hierarchy.logits(rows, {n: v.unsqueeze(0) for n, v in points.loc.items()})[0]
    losses = F.cross_entropy(logits.flatten(0, 1), rows.labels.flatten(), reduction="none")
    weights = rows.weights / rows.weights.sum(1, keepdim=True)
    return (losses.view_as(weights) * weights).sum(1)


class FirstOrderMAML(MetaModule):
    """The queries' loss after K steps on the support (Finn et al. 2017, arXiv 1703.03400, 5.2).

    With no steps it is multi-task training: one adapter for all tasks.
    """

    def forward(self, episodes: Sequence[EpisodeRows]) -> dict[str, Tensor]:
        """Return the loss of a batch of episodes."""
        supports = [episode.support for episode in episodes]
        points = self.amortization(self.hierarchy, self.theta(), supports)
        queries = [episode.query for episode in episodes]
        rows = task_rows(self.hierarchy.model, queries, supports, draws=1)
        loss = task_losses(self.hierarchy, points, rows).mean()
        return self.checked(loss, f"queries' log-lik. {-float(loss.detach()):.3f}")


class Reptile(MetaModule):
    """Theta moves to where K steps lead (Nichol et al. 2018, arXiv 1803.02999, algorithm 2).

    It knows no queries: steps are taken on all rows of an episode.
    """

    def forward(self, episodes: Sequence[EpisodeRows]) -> dict[str, Tensor]:
        """Return a loss whose gradient in mu is mu - phi, mean over tasks."""
        theta = self.theta()
        rows = [
            LabelledRows(
                [*episode.support.rows, *episode.query.rows],
                [*episode.support.labels, *episode.query.labels],
            )
            for episode in episodes
        ]
        points = self.amortization(self.hierarchy, theta.detach(), rows)
        distances = [
            (theta.mean[name] - loc.detach()).square().sum() / (2 * len(episodes))
            for name, loc in points.loc.items()
        ]
        loss = torch.stack(distances).sum()
        return self.checked(loss, f"half squared distance {float(loss.detach()):.4f}")

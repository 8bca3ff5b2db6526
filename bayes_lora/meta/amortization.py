"""What an amortization is: a task's support and theta in, the task's posterior out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayes_lora.meta.hierarchy import Hierarchy, normal
from bayes_lora.meta.theta import Theta, Values
from bayes_lora.scorers import LabelledRows


@dataclass(frozen=True)
class TaskPosteriors:
    """Mean-field Normals over the weights of T tasks, or points.

    Args:
        loc: Means by site, ``[T, *shape]``.
        scale: Standard deviations by site, of the same shapes; empty for points.
    """

    loc: Values
    scale: Values

    def detach(self) -> "TaskPosteriors":
        """The same values, out of reach of gradients."""
        return TaskPosteriors(
            {name: value.detach() for name, value in self.loc.items()},
            {name: value.detach() for name, value in self.scale.items()},
        )

    def only(self, task: int) -> "TaskPosteriors":
        """Those of one task, ``[1, *shape]``."""
        return TaskPosteriors(
            {name: value[task : task + 1] for name, value in self.loc.items()},
            {name: value[task : task + 1] for name, value in self.scale.items()},
        )

    def with_some(self, others: "TaskPosteriors", places: Tensor) -> "TaskPosteriors":
        """The same with other posteriors for the tasks at ``places``, int64 ``[n]``."""
        return TaskPosteriors(
            {n: v.index_copy(0, places, others.loc[n]) for n, v in self.loc.items()},
            {n: v.index_copy(0, places, others.scale[n]) for n, v in self.scale.items()},
        )

    def sample(self, hierarchy: Hierarchy, draws: int) -> Values:
        """Draw every task's weights with ``pyro.sample``, ``[G, T, 1, *shape]`` by site."""
        count = len(next(iter(self.loc.values())))
        with hierarchy.tasks(count), hierarchy.draws(draws):
            return {n: pyro.sample(f"task.{n}", self._distribution(n)) for n in self.loc}

    def _distribution(self, name: str) -> dist.TorchDistribution:
        loc = self.loc[name].unsqueeze(1)
        if not self.scale:
            return dist.Delta(loc, event_dim=loc.dim() - 2)
        return normal(loc, self.scale[name].unsqueeze(1), loc.shape[2:])


class Amortization(nn.Module, ABC):
    """q(phi_i | support, theta) for any task; its parameters are shared by all.

    To add one: a new file, a line in ``AMORTIZATIONS``, and the conformance suite runs it.
    """

    def forward(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        """Give the posteriors of T tasks side by side; gradients reach theta.

        Args:
            hierarchy: The program.
            theta: What tasks have in common.
            supports: Each task's labelled rows; one without any keeps what ``without_support``
                gives.
        """
        everything = self.without_support(theta, len(supports))
        given = [i for i, support in enumerate(supports) if len(support)]
        if not given:
            return everything
        adapted = self.adapt(hierarchy, theta, [supports[i] for i in given])
        if len(given) == len(supports):
            return adapted
        device = next(iter(theta.mean.values())).device
        return everything.with_some(adapted, torch.tensor(given, device=device))

    @abstractmethod
    def adapt(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        """Do so for tasks that all have support."""

    def without_support(self, theta: Theta, count: int) -> TaskPosteriors:
        """Give ``count`` tasks their prior."""
        loc = {n: value.expand(count, *value.shape) for n, value in theta.mean.items()}
        return TaskPosteriors(loc, {n: v.expand_as(loc[n]) for n, v in theta.scale.items()})

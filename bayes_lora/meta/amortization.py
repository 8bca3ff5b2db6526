"""What an amortization is: a task's support and theta in, the task's posterior out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import pyro
from torch import Tensor, nn

from bayes_lora.meta.hierarchy import Hierarchy, normal
from bayes_lora.meta.theta import Theta, Values
from bayes_lora.scorers import LabelledRows


@dataclass(frozen=True)
class TaskPosteriors:
    """Mean-field Normals over the weights of T tasks.

    Args:
        loc: Means by site, ``[T, *shape]``.
        scale: Standard deviations by site, broadcastable to them.
    """

    loc: Values
    scale: Values

    def detach(self) -> "TaskPosteriors":
        """The same values, out of reach of gradients."""
        return TaskPosteriors(
            {name: value.detach() for name, value in self.loc.items()},
            {name: value.detach() for name, value in self.scale.items()},
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
            return {
                name: pyro.sample(
                    f"task.{name}",
                    normal(loc.unsqueeze(1), self.scale[name].unsqueeze(1), loc.shape[1:]),
                )
                for name, loc in self.loc.items()
            }


class Amortization(nn.Module, ABC):
    """q(phi_i | support, theta) for any task; its parameters are shared by all.

    To add one: a new file, a line in ``AMORTIZATIONS``, and the conformance suite runs it.
    """

    @abstractmethod
    def forward(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        """Give the posteriors of T tasks side by side; gradients reach theta.

        Args:
            hierarchy: The program.
            theta: Where tasks start.
            supports: Each task's labelled rows; one without any keeps its prior.
        """


def prior(theta: Theta, count: int) -> TaskPosteriors:
    """The prior of ``count`` tasks."""
    loc = {name: value.expand(count, *value.shape) for name, value in theta.mean.items()}
    scale = {name: value.expand(count, *loc[name].shape[1:]) for name, value in theta.scale.items()}
    return TaskPosteriors(loc, scale)

"""Gradient amortization: steps on a task's ELBO from theta (ABML, Ravi & Beatson, ICLR 2019)."""

from collections.abc import Sequence

import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from bayes_lora.meta.amortization import Amortization, TaskPosteriors
from bayes_lora.meta.descent import descend, falling
from bayes_lora.meta.hierarchy import Hierarchy, TaskRows, conditioned, task_rows
from bayes_lora.meta.theta import Theta
from bayes_lora.scorers import LabelledRows


class Gradient(Amortization):
    """K Adam steps on the support's ELBO, from a posterior around mu.

    First order: the steps are constants to the gradient, so that ``phi = theta + step`` has the
    derivative 1 in theta and the query's likelihood reaches theta in full.

    Args:
        steps: K, on a new task.
        train_steps: K on a training task: in the module's training mode.
        learning_rate: Of means; it falls linearly to zero over the steps.
        scale_learning_rate: Of log standard deviations.
        draws: Of each task's weights in a step, G.
        initial_scale: Where standard deviations start, as a share of tau.
        start: Another amortization whose posteriors are where the steps begin; None for theta.
    """

    def __init__(
        self,
        steps: int = 15,
        train_steps: int = 0,
        learning_rate: float = 2e-3,
        scale_learning_rate: float = 1e-2,
        draws: int = 1,
        initial_scale: float = 0.5,
        start: Amortization | None = None,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.train_steps = train_steps
        self.learning_rate = learning_rate
        self.scale_learning_rate = scale_learning_rate
        self.draws = draws
        self.initial_scale = initial_scale
        self.start = start

    def adapt(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        """Take the steps, and add them to where they start."""
        steps = self.train_steps if self.training else self.steps
        if not steps and self.start is None:
            return self.without_support(theta, len(supports))
        start = self._start(hierarchy, theta, supports)
        if not steps:
            return start
        rows = task_rows(hierarchy.model, supports, supports, draws=self.draws)
        with torch.enable_grad(), poutine.block():
            end = self._climb(hierarchy, theta.detach(), start.detach(), rows, steps)
        loc = {n: v + (end.loc[n] - v).detach() for n, v in start.loc.items()}
        scale = {n: v * (end.scale[n] / v).detach() for n, v in start.scale.items()}
        return TaskPosteriors(loc, scale)

    def _start(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        if self.start is not None:
            posteriors: TaskPosteriors = self.start(hierarchy, theta, supports)
            return posteriors
        wide = self.without_support(theta, len(supports))
        narrow = {name: value * self.initial_scale for name, value in wide.scale.items()}
        return TaskPosteriors(wide.loc, narrow)

    def _climb(
        self, hierarchy: Hierarchy, theta: Theta, start: TaskPosteriors, rows: TaskRows, steps: int
    ) -> TaskPosteriors:
        loc = {n: v.clone().requires_grad_() for n, v in start.loc.items()}
        log_scale = {n: v.log().requires_grad_() for n, v in start.scale.items()}
        groups = [
            {"params": list(loc.values()), "lr": self.learning_rate},
            {"params": list(log_scale.values()), "lr": self.scale_learning_rate},
        ]
        optimizer = torch.optim.Adam(groups)
        elbo = TraceMeanField_ELBO(max_plate_nesting=3)
        program = conditioned(hierarchy, theta)

        def guide(rows: TaskRows) -> None:
            scale = {n: v.exp() for n, v in log_scale.items()}
            TaskPosteriors(loc, scale).sample(hierarchy, rows.draws)

        def loss() -> Tensor:
            return elbo.differentiable_loss(program, guide, rows)

        descend(optimizer, [loss] * steps, falling(optimizer, steps))
        return TaskPosteriors(loc, {n: v.exp() for n, v in log_scale.items()})

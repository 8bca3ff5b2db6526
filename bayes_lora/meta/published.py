"""ABMLL as published (arXiv 2508.14285) and released: a baseline under its own name.

Gaussians sit on the *outputs* of each adapted layer, a draw a token: mean ``s B A x`` and
log-variance ``s D C x - 20``, a standard deviation of 4.5e-5. A task's weights start at theta and
take AdamW steps on two support rows at a time, on the summed cross-entropy plus beta times the
divergence of their outputs from theta's, one sample of it, padding counted. Then theta takes a
step on the divergence alone, on the last of these batches: no likelihood reaches it. New tasks are
predicted with the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters import Factor, FrozenLayer, LoRA
from bayes_lora.meta.amortization import TaskPosteriors
from bayes_lora.meta.descent import descend
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.hierarchy import Hierarchy, TaskRows, task_rows
from bayes_lora.meta.module import MetaModule
from bayes_lora.meta.points import PointSteps
from bayes_lora.meta.theta import Theta
from bayes_lora.scorers import LabelledRows

LOG_VARIANCE = -20.0  # that log-variances start at
BETA = 1e-8  # weight of the divergence
BATCH = 2  # support rows in a step
PRIOR = "theta."


@dataclass(frozen=True)
class LoRAOutputs(LoRA):
    """LoRA whose output is Gaussian; A and B are of the mean, C and D of the log-variance.

    In training it draws outputs, and where it is given theta's factors too it keeps the divergence
    of the outputs from theta's in ``divergences``: of each layer's pass one sample, summed over
    rows, tokens and features.
    """

    divergences: ClassVar[list[Tensor]] = []

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """Two pairs, each as in LoRA."""
        mean = super().factors(d_in, d_out)
        return {**mean, "C": mean["A"], "D": mean["B"]}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Give the mean, or in training a draw around it."""
        mean, log_variance = self._outputs(x, factors, layer, "")
        if not layer.training:
            return mean
        drawn = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        if f"{PRIOR}A" in factors:
            prior = self._outputs(x, factors, layer, PRIOR)
            difference = _log_density(drawn, mean, log_variance) - _log_density(drawn, *prior)
            self.divergences.append(difference.sum())
        return drawn

    def _outputs(
        self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer, prefix: str
    ) -> tuple[Tensor, Tensor]:
        pairs = (("A", "B"), ("C", "D"))
        mean, log_variance = (
            super(LoRAOutputs, self).update(
                x, {"A": factors[prefix + a], "B": factors[prefix + b]}, layer
            )
            for a, b in pairs
        )
        return mean, log_variance + LOG_VARIANCE


def _log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance)


class PublishedSteps(PointSteps):
    """K AdamW steps of a task's weights, on ``BATCH`` support rows each."""

    def adapt(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        """Take the steps."""
        loc = self.without_support(theta, len(supports)).loc
        steps = self.train_steps if self.training else self.steps
        if not steps:
            return TaskPosteriors(loc, {})
        with torch.enable_grad():
            return TaskPosteriors(self.walk(hierarchy, theta.detach(), supports, steps)[0], {})

    def walk(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows], steps: int
    ) -> tuple[dict[str, Tensor], TaskRows]:
        """Take the steps, and keep the last batch."""
        start = self.without_support(theta, len(supports)).loc
        loc = {name: value.clone().requires_grad_() for name, value in start.items()}
        optimizer = torch.optim.AdamW(loc.values(), self.learning_rate)
        batches = [_batch(hierarchy, supports, number) for number in range(steps)]

        def loss(rows: TaskRows) -> Tensor:
            likelihood, divergence = passes(hierarchy, loc, theta.mean, rows)
            return BATCH * likelihood.sum() + BETA * divergence

        descend(optimizer, [partial(loss, rows) for rows in batches])
        return {name: value.detach() for name, value in loc.items()}, batches[-1]


class PublishedABMLL(MetaModule):
    """Theta moves to where its outputs are those of the adapted tasks."""

    def forward(self, episodes: Sequence[EpisodeRows]) -> dict[str, Tensor]:
        """Return the divergence on each task's last batch, weighted, mean over tasks."""
        assert isinstance(self.amortization, PublishedSteps)
        theta = self.theta()
        supports = [episode.support for episode in episodes]
        steps = self.amortization.train_steps
        adapted, rows = self.amortization.walk(self.hierarchy, theta.detach(), supports, steps)
        _, divergence = passes(self.hierarchy, adapted, theta.mean, rows)
        loss = BETA * divergence / len(episodes)
        return self.checked(loss, f"weighted divergence {float(loss.detach()):.4g}")


def passes(
    hierarchy: Hierarchy, loc: Mapping[str, Tensor], theta: Mapping[str, Tensor], rows: TaskRows
) -> tuple[Tensor, Tensor]:
    """Score rows under task weights ``[T, *shape]``.

    Returns:
        Mean cross-entropy of each task's rows, ``[T]``, and the divergence of all outputs from
        theta's, in training; else zero.
    """
    model = hierarchy.model
    LoRAOutputs.divergences.clear()
    factors = {}
    for name, value in loc.items():
        effect, group, factor = model.sites[name].key or ("", "", "")
        factors[effect, group, factor] = value
        factors[effect, group, PRIOR + factor] = theta[name].expand_as(value)
    head = {name: value.unsqueeze(0) for name, value in hierarchy.head.items()}
    with model.backbone.adapted(factors, model.adapters):
        logits = model.scorer.logits(model.backbone, rows.inputs, head)
    losses = F.cross_entropy(logits, rows.labels.flatten(), reduction="none")
    divergence = sum(LoRAOutputs.divergences, start=logits.new_zeros(()))
    LoRAOutputs.divergences.clear()  # of one pass, and not to be kept alive after it
    return losses.view_as(rows.labels).mean(1), divergence


def _batch(hierarchy: Hierarchy, supports: Sequence[LabelledRows], number: int) -> TaskRows:
    """Take each task's next rows, from the first again after the last."""
    chosen = []
    for support in supports:
        places = [(number * BATCH + i) % len(support) for i in range(BATCH)]
        chosen.append(
            LabelledRows([support.rows[i] for i in places], [support.labels[i] for i in places])
        )
    return task_rows(hierarchy.model, chosen, supports, draws=1)

"""The Pyro program of many tasks: theta, each task's weights given theta, labels given those."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from bayes_lora.meta.theta import HyperPriors, Theta, Values, adapter_sites
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import Batch, LabelledRows


@dataclass(frozen=True)
class TaskRows:
    """Rows of T tasks side by side, under G draws of each task's weights.

    Args:
        inputs: The scorer's tensors for ``G * T * B`` rows, draw by draw and task by task.
        labels: Option indices, ``[T, B]``.
        weights: How many observations each row stands for, ``[T, B]``; 0 where a row only fills up
            a task that has fewer.
        draws: G.
    """

    inputs: Batch
    labels: Tensor
    weights: Tensor
    draws: int


def task_rows(
    model: BayesianModel,
    rows: Sequence[LabelledRows],
    supports: Sequence[LabelledRows],
    *,
    draws: int,
    stand_for: Sequence[int] | None = None,
) -> TaskRows:
    """Collate rows of T tasks, each scored G times.

    Args:
        model: Its scorer and backbone make the tensors.
        rows: Each task's rows to score.
        supports: What each task's weights are adapted on. Where it is the same object as the
            rows, a row is left out of what a conjugate head learns before it scores it.
        draws: G.
        stand_for: How many observations a task's rows stand for in all; None for their number.
    """
    most = max(map(len, rows))
    padded = [list(task) + [next(iter(task))] * (most - len(task)) for task in rows]
    flat = [row for task in padded for row, _ in task]
    own = None
    if all(task is support for task, support in zip(rows, supports, strict=True)):
        own = [i if i < len(task) else 0 for task in rows for i in range(most)] * draws
    inputs = model.scorer.collate_tasks(model.backbone, flat * draws, list(supports) * draws, own)
    device = model.backbone.device
    total = [len(task) for task in rows] if stand_for is None else stand_for
    weights = torch.zeros(len(rows), most, device=device)
    for i, task in enumerate(rows):
        weights[i, : len(task)] = total[i] / len(task)
    labels = torch.tensor([[label for _, label in task] for task in padded], device=device)
    return TaskRows(inputs, labels, weights, draws)


class Hierarchy(nn.Module):
    """theta ~ p(theta); for each task phi ~ Normal(mu, tau^2); labels given phi and the rows.

    Args:
        model: Says what the sites are and scores rows under their values; the scorer's own
            weights are parameters here, shared by all tasks.
        num_tasks: Tasks in the training data; a batch of T stands for them all.
        hyper_priors: Priors on theta.
        kl_weight: Weight of the priors against the likelihood; 1 is Bayes' rule.
    """

    def __init__(
        self,
        model: BayesianModel,
        num_tasks: int,
        hyper_priors: HyperPriors,
        kl_weight: float,
    ) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)
        self.num_tasks = num_tasks
        self.hyper_priors = hyper_priors
        self.kl_weight = kl_weight
        self.sites = adapter_sites(model)
        shared = {n: site.start for n, site in model.sites.items() if site.key is None}
        self.head = nn.ParameterDict(
            {n.split(".", 1)[1]: nn.Parameter(v.clone()) for n, v in shared.items()}
        )
        self.shift = nn.ParameterDict(
            {
                n: nn.Parameter(torch.zeros_like(v), requires_grad=False)
                for n, v in self.head.items()
            }
        )

    model: BayesianModel

    def forward(self, rows: TaskRows) -> None:
        """Run the program."""
        theta = self.hyper_priors.sample(self.sites, rows.labels.device)
        with self.tasks(len(rows.labels)), self.draws(rows.draws):
            values = {
                name: pyro.sample(
                    f"task.{name}", normal(theta.mean[name], theta.scale[name], site.shape)
                )
                for name, site in self.sites.items()
            }
            logits = self.logits(rows, values)
            counts = rows.weights > 0
            tempering = poutine.scale(scale=1.0 / self.kl_weight)
            with (
                tempering,
                poutine.scale(scale=torch.where(counts, rows.weights, 1.0)),
                poutine.mask(mask=counts),  # type: ignore[call-overload]
                pyro.plate("rows", logits.shape[-2], dim=-1),
            ):
                labels = self.model.scorer.label_distribution(logits)
                pyro.sample("label", labels, obs=rows.labels.expand(logits.shape[:-1]))

    def logits(self, rows: TaskRows, values: Mapping[str, Tensor]) -> Tensor:
        """Score rows under task weights ``[G, T, 1, *shape]``; ``[G, T, B, options]``."""
        logits = self.model.logits(rows.inputs, self.aligned(values))
        return logits.view(rows.draws, *rows.labels.shape, logits.shape[-1])

    def aligned(self, values: Mapping[str, Tensor]) -> Values:
        """Turn task weights ``[G, T, 1, *shape]`` into all weights, ``[G * T, *shape]``."""
        flat = {n: v.reshape(-1, *self.sites[n].shape) for n, v in values.items()}
        return flat | self.head_values()

    def head_values(self) -> Values:
        """The scorer's own weights by site, ``[1, *shape]``, as tasks adapt with them."""
        return {f"head.{name}": value.unsqueeze(0) for name, value in self.head.items()}

    def shifted_head(self) -> Values:
        """The scorer's own weights by name, ``[1, *shape]``, as new inputs are predicted with.

        Meta-dev tasks say how far they are from those that tasks adapt with: a temperature, if the
        scorer has that alone. If tasks adapted with it too, steps would undo it.
        """
        return {name: (value + self.shift[name]).unsqueeze(0) for name, value in self.head.items()}

    def tasks(self, count: int) -> pyro.plate:
        """The plate of tasks, of which ``count`` are in the batch."""
        return pyro.plate("tasks", self.num_tasks, subsample=torch.arange(count), dim=-2)

    @contextmanager
    def draws(self, count: int) -> Iterator[None]:
        """The plate of draws: each counts 1 / G."""
        with poutine.scale(scale=1.0 / count), pyro.plate("draws", count, dim=-3):
            yield


def normal(mean: Tensor, scale: Tensor, shape: Sequence[int]) -> dist.TorchDistribution:
    """Normal(mean, scale^2) over a site, whatever of it the two span."""
    return dist.Normal(mean, scale.expand_as(mean)).to_event(len(shape))


def conditioned(hierarchy: Hierarchy, theta: Theta) -> Callable[..., None]:
    """Fix theta, so that only tasks' weights are random."""
    data = {f"mu.{name}": value for name, value in theta.mean.items()}
    data |= {
        f"precision.{name}": value.square().reciprocal() for name, value in theta.scale.items()
    }
    program: Callable[..., None] = poutine.condition(hierarchy, data=data)
    return program

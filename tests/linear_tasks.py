"""Tasks whose weights are Normal around what they share, so linear that every posterior is algebra.

Two backbones: that of ``linear_gaussian``, with rows of text; and one of very many layers of a
few weights each, which makes a fit of a thousand scales as cheap as one of a dozen. A layer is a
data set of its own there: layers share no weight, no mean and no scale.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from linear_gaussian import D_IN, D_OUT, NOISE, FixedHead, FullUpdate, GaussianScorer, LinearModel
from numpy.typing import NDArray
from tiny_backbones import WordTokenizer
from torch import Tensor, nn

from bayes_lora.adapters import Adapter, Factor, FrozenLayer
from bayes_lora.backbone import Backbone, FactorKey
from bayes_lora.backbone.adapted_linear import Update
from bayes_lora.backbone.targets import LayerGroup
from bayes_lora.effects import Effect, Flat
from bayes_lora.meta.amortization import Amortization, TaskPosteriors
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.hierarchy import Hierarchy
from bayes_lora.meta.module import MetaModule
from bayes_lora.meta.theta import HyperPriors, MeanFieldTheta, Theta, adapter_sites
from bayes_lora.model import BayesianModel, parameter_name
from bayes_lora.scorers import LabelledRows, Row, Scorer

Array = NDArray[np.float64]
SITE = "task.lin.W"
KEY = parameter_name(SITE)
LENGTHS = (0.5, 1.0, 1.5)  # lengths of the orthogonal inputs


def hierarchy_of(
    backbone: Backbone,
    adapter: Adapter,
    scorer: Scorer,
    num_tasks: int,
    hyper_priors: HyperPriors | None = None,
    kl_weight: float = 1.0,
) -> Hierarchy:
    """The program of many tasks, as ``meta_fit`` makes it."""
    effect = Effect("task", adapter, Flat())
    model = BayesianModel(backbone, [effect], scorer, head_prior=Flat(), num_rows=1)
    return Hierarchy(model, num_tasks, hyper_priors or HyperPriors(), kl_weight)


class LinearTasks:
    """Tasks on the linear backbone of ``linear_gaussian``, and their exact posteriors.

    Args:
        orthogonal: Whether an input is a multiple of a unit vector and output 1 alone is seen, so
            that the exact posterior of the six weights is a mean-field one; else inputs and
            projection are random.
        scorer: Makes the scorer from the projection.
    """

    def __init__(self, *, orthogonal: bool, scorer: type[GaussianScorer] = GaussianScorer) -> None:
        torch.manual_seed(0)
        self.backbone = Backbone(
            LinearModel().double(), WordTokenizer(), name="", fingerprint="", targets=["lin"]
        )
        self.direction = torch.randn(D_OUT, dtype=torch.float64)
        if orthogonal:
            self.direction = torch.tensor([1.0, 0.0], dtype=torch.float64)
            lengths = torch.tensor(LENGTHS, dtype=torch.float64)
            inputs = lengths.view(-1, 1, 1) * torch.eye(D_IN, dtype=torch.float64)
            # Words are hashed to 1 .. 97: input i is met at every ninth of them.
            inputs = inputs.flatten(0, 1).repeat(11, 1)
            self.backbone.model.embed.weight.data.copy_(inputs)
        self.scorer = scorer(self.direction)

    def hierarchy(self, num_tasks: int, kl_weight: float = 1.0) -> Hierarchy:
        return hierarchy_of(
            self.backbone, FullUpdate(), self.scorer, num_tasks, kl_weight=kl_weight
        ).double()

    def rows(self, tokens: Sequence[int]) -> list[Row]:
        """Rows of one token each."""
        return [Row((int(token),)) for token in tokens]

    def design(self, rows: Sequence[Row]) -> Array:
        """What the label's mean is linear in, ``[n, 6]``."""
        embedded = self.backbone.model.embed.weight[[row.ids[0] for row in rows]]
        outer = torch.einsum("o,ni->noi", self.direction, embedded)
        return outer.detach().flatten(1).numpy()

    def offset(self, rows: Sequence[Row]) -> Array:
        """The label's mean where all weights are zero."""
        inputs = self.backbone.model.embed.weight[[row.ids[0] for row in rows]]
        with torch.no_grad():
            return (self.backbone.model.lin.base(inputs) @ self.direction).numpy()

    def draw(self, weights: Array, size: int, rng: np.random.Generator) -> LabelledRows:
        """Rows of a task with these six weights."""
        rows = self.rows(rng.integers(1, 98, size))
        mean = self.offset(rows) + self.design(rows) @ weights
        return LabelledRows(rows, (mean + NOISE * rng.normal(size=size)).tolist())

    def posterior(self, data: LabelledRows, mean: Array, scale: float) -> tuple[Array, Array]:
        """The best mean-field Normal: the exact mean, and standard deviations given the others.

        Where the design is orthogonal these are the exact ones.
        """
        design = self.design(data.rows)
        precision = design.T @ design / NOISE**2 + np.eye(6) / scale**2
        target = np.array(data.labels) - self.offset(data.rows)
        natural = design.T @ target / NOISE**2 + mean / scale**2
        return np.linalg.solve(precision, natural), np.diag(precision) ** -0.5


class _Weights(Adapter):
    """``d_out`` weights of a layer, each the layer's update of one output."""

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        return {"W": Factor((d_out,), unit=1.0, starts_at_zero=True)}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        return x * factors["W"].flatten(1).unsqueeze(1)


class _Ones(nn.Module):
    """A model whose outputs are its updates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width, model_type="bert")
        self.lin = nn.Linear(1, width)
        nn.init.zeros_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            last_hidden_state=self.lin(torch.ones_like(input_ids[..., None]) * 1.0)
        )


class _ManyLayers(Backbone):
    """All layers in one batched product: a loop over a thousand of them would take the time."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__(
            _Ones(layers * width), WordTokenizer(), name="", fingerprint="", targets=["lin"]
        )
        names = tuple(f"lin.{i}" for i in range(layers))
        self.groups = [LayerGroup("lin", names, 1, width)]

    def _by_layer(
        self,
        factors: Mapping[FactorKey, Tensor],
        adapters: Mapping[str, Adapter],
        levels: Mapping[str, Tensor],
        weights: Mapping[str, float],
    ):
        return {
            "lin": [Update(adapters[key[0]], {key[2]: value}) for key, value in factors.items()]
        }


class Observed(dist.TorchDistribution):
    """Label k is the k-th vector of a table: Normal around a row's outputs."""

    arg_constraints: ClassVar[dict[str, object]] = {}
    support = dist.constraints.nonnegative_integer

    def __init__(self, mean: Tensor, table: Tensor, noise: Tensor) -> None:
        super().__init__(mean.shape[:-1], validate_args=False)
        self.outputs, self.table, self.noise = mean, table, noise

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Observed":
        assert tuple(batch_shape) == tuple(self.batch_shape)
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        noise = self.noise[value].unsqueeze(-1)
        return dist.Normal(self.outputs, noise).log_prob(self.table[value]).sum(-1)


class VectorScorer(FixedHead):
    """All outputs of a row are seen, with noise of the row's own size."""

    def __init__(self, table: Tensor, noise: Tensor) -> None:
        super().__init__(("a", "b"), "mean")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "noise", noise)

    table: Tensor
    noise: Tensor

    def label_distribution(self, logits: Tensor) -> dist.TorchDistribution:
        return Observed(logits, self.table, self.noise)


class ManyTasks:
    """Simulated tasks with ``layers x width`` weights, each seen once: y = W + noise.

    Args:
        tasks: How many.
        layers: Each with a scale of its own.
        width: Weights of a layer.
        seed: Of everything drawn.
    """

    # Next to flat, so that truth need not be drawn from it for intervals to cover.
    HYPER_PRIORS = HyperPriors(mean_scale=10.0, shape=0.01, rate=0.01)

    def __init__(self, tasks: int, layers: int, width: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape = layers, width
        self.mu = 0.5 * rng.normal(size=self.shape)
        self.log_tau = rng.uniform(np.log(0.6), np.log(1.2), (layers, 1))
        self.noise = rng.choice([2.0, 4.0, 8.0], tasks) ** -0.5  # tasks know more or less
        weights = self.mu + np.exp(self.log_tau) * rng.normal(size=(tasks, *self.shape))
        self.y = weights + self.noise[:, None, None] * rng.normal(size=weights.shape)
        table = torch.tensor(self.y, dtype=torch.float32).flatten(1)
        scorer = VectorScorer(table, torch.tensor(self.noise, dtype=torch.float32))
        backbone = _ManyLayers(layers, width)
        self.hierarchy = hierarchy_of(backbone, _Weights(), scorer, tasks, self.HYPER_PRIORS)
        rows = [LabelledRows([Row((1,))], [i]) for i in range(tasks)]
        self.episodes = [EpisodeRows(str(i), task, task) for i, task in enumerate(rows)]

    def theta(self) -> tuple[Array, Array, Array, Array]:
        """The exact posterior, a layer at a time on a grid of log tau.

        Returns:
            Mean and standard deviation of mu, ``[layers, width]``, and of log tau, ``[layers, 1]``.
        """
        grid = np.linspace(np.log(0.2), np.log(3), 801)
        layers = [self._layer(grid, self.y[:, i]) for i in range(self.shape[0])]
        return tuple(np.array(values) for values in zip(*layers, strict=True))  # type: ignore[return-value]

    def _layer(self, grid: Array, y: Array) -> tuple[Array, Array, Array, Array]:
        """Given tau, y ~ Normal(mu, tau^2 + noise^2) and mu is conjugate."""
        prior = self.HYPER_PRIORS
        weight = 1 / (np.exp(2 * grid)[:, None] + self.noise**2)  # [grid, tasks]
        precision = weight.sum(1)[:, None] + prior.mean_scale**-2
        mean = weight @ y / precision  # [grid, width]
        fit = weight @ y**2 - precision * mean**2 + np.log(precision)
        log_posterior = -0.5 * fit.sum(1) + 0.5 * y.shape[1] * np.log(weight).sum(1)
        log_posterior -= 2 * prior.shape * grid + prior.rate * np.exp(-2 * grid)
        share = np.exp(log_posterior - log_posterior.max())
        share /= share.sum()
        mu, log_tau = share @ mean, share @ grid
        variance = share @ (1 / precision + (mean - mu) ** 2)
        log_tau_variance = share @ (grid - log_tau) ** 2
        return mu, variance**0.5, np.array([log_tau]), np.array([log_tau_variance**0.5])


class Algebra(Amortization):
    """The exact posterior of every weight given theta."""

    def __init__(self, tasks: ManyTasks) -> None:
        super().__init__()
        self.y = torch.tensor(tasks.y, dtype=torch.float32)
        self.precision = torch.tensor(tasks.noise**-2.0, dtype=torch.float32).view(-1, 1, 1)

    def adapt(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        prior = theta.scale[SITE] ** -2
        variance = 1 / (self.precision + prior)
        mean = variance * (self.precision * self.y + prior * theta.mean[SITE])
        return TaskPosteriors({SITE: mean}, {SITE: variance.sqrt().expand_as(mean)})


def learn(
    tasks: ManyTasks, amortization: Amortization, steps: int, burn_in: int
) -> tuple[Array, Array, Array, Array]:
    """Learn q(theta), all tasks in every step; the mean of the iterates after ``burn_in``.

    Returns:
        As ``ManyTasks.theta``.
    """
    torch.manual_seed(0)
    theta = MeanFieldTheta(adapter_sites(tasks.hierarchy.model), 0.8)
    module = MetaModule(tasks.hierarchy, theta, amortization)
    names = ("loc", "loc_log_scale", "log_scale_loc", "log_scale_log_scale")
    parameters = [getattr(theta, name)[KEY] for name in names]
    optimizer = torch.optim.Adam(parameters, lr=0.08, betas=(0.9, 0.99))
    averages = [torch.zeros_like(value) for value in parameters]
    for step in range(steps):
        left = min(1.0, (steps - step) / (steps - burn_in))
        optimizer.param_groups[0]["lr"] = 0.08 if step < burn_in else 0.03 * left + 0.002
        with pyro.validation_enabled(False):
            loss = module(tasks.episodes)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for value, average in zip(parameters, averages, strict=True):
            average += value.detach() / (steps - burn_in) * (step >= burn_in)
    mean, spread, log_tau, tau_spread = (a.double().numpy() for a in averages)
    return mean, np.exp(spread), log_tau, np.exp(tau_spread)

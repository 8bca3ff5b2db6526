"""A backbone, an adapter and a scorer so linear that the posterior is algebra.

The model is ``y = mean over tokens of (W0 + W) e(token), projected on v, + noise``: linear in W,
so with a Normal prior the exact posterior of W is Normal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayes_lora.adapters import Adapter, Factor, FrozenLayer
from bayes_lora.backbone import Backbone
from bayes_lora.data import unlabelled
from bayes_lora.effects import Effect, Normal
from bayes_lora.inference.svi import LabelledRows
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import Batch, ClassHead
from bayes_lora.scorers.pooled import pool

D_IN, D_OUT, VOCABULARY = 3, 2, 99
NOISE, PRIOR = 0.5, 0.7
SITE = "population.lin.W"


@dataclass(frozen=True)
class FullUpdate(Adapter):
    """The update ``W x`` with W itself the factor."""

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        return {"W": Factor((d_out, d_in), unit=1.0, starts_at_zero=True)}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        return torch.bmm(x, factors["W"].transpose(1, 2))


class FixedHead(ClassHead):
    """A head without weights: what it makes of the mean of the last states is fixed."""

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        return {}

    def logits(
        self,
        backbone: Backbone,
        batch: Batch,
        head: Mapping[str, Tensor],
        shared: Tensor | None = None,
    ) -> Tensor:
        return self.of_state(self.embed_all(backbone, batch, "input"))

    def of_state(self, state: Tensor) -> Tensor:
        """Make logits ``[B, options]`` of the pooled states ``[B, width]``."""
        return state


class GaussianScorer(FixedHead):
    """The pooled state's projection is the mean of a real-valued label."""

    def __init__(self, direction: Tensor) -> None:
        super().__init__(("mean",), "mean")
        object.__setattr__(self, "direction", direction)

    direction: Tensor

    def of_state(self, state: Tensor) -> Tensor:
        return (state @ self.direction).unsqueeze(-1)

    def label_distribution(self, logits: Tensor) -> dist.TorchDistribution:
        return dist.Normal(logits.squeeze(-1), NOISE)


class LinearModel(nn.Module):
    """An embedding and one linear layer, with the interface of a transformers model."""

    config = SimpleNamespace(hidden_size=D_OUT, model_type="bert")

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, D_IN)
        self.lin = nn.Linear(D_IN, D_OUT)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.lin(self.embed(input_ids)))


class Problem:
    """Simulated rows, the Pyro program, and the exact answers in float64 numpy."""

    def __init__(self, rows: int, tokenizer: object, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.rows = rows
        backbone = Backbone(
            LinearModel().to(dtype), tokenizer, name="linear", fingerprint="", targets=["lin"]
        )
        self.direction = torch.randn(D_OUT, dtype=dtype)
        self.model = BayesianModel(
            backbone,
            [Effect("population", FullUpdate(), Normal(PRIOR))],
            GaussianScorer(self.direction),
            head_prior=Normal(),
            num_rows=rows,
        ).to(dtype)
        words = np.random.default_rng(0).integers(65, 90, (rows, 3))
        self.texts = [" ".join(chr(letter) for letter in row) for row in words]
        examples = unlabelled(self.texts, ("mean", "other"))
        self.coded = self.model.scorer.rows(backbone, examples)
        self.batch = self.model.scorer.collate(backbone, self.coded)
        self._solve(backbone, dtype)

    def data(self) -> LabelledRows:
        return LabelledRows(self.coded, self.labels.tolist())

    def _solve(self, backbone: Backbone, dtype: torch.dtype) -> None:
        with torch.no_grad():
            base = self.model.logits(
                self.batch, {SITE: torch.zeros(1, 1, D_OUT, D_IN, dtype=dtype)}
            )
            embedded = pool(
                backbone.model.embed(self.batch["input_ids_0"]), self.batch["input_mask_0"], "mean"
            )
        offset = base.squeeze(-1).double().numpy()
        design = np.einsum("o,ni->noi", self.direction.double(), embedded.double())
        self.design = design.reshape(self.rows, -1)
        generator = np.random.default_rng(1)
        truth = PRIOR * generator.standard_normal(D_OUT * D_IN)
        noise = NOISE * generator.standard_normal(self.rows)
        self.labels = torch.tensor(offset + self.design @ truth + noise, dtype=dtype)
        self.target = self.labels.double().numpy() - offset
        self.mean, self.covariance = self.posterior(kl_weight=1.0)
        self.precision = np.linalg.inv(self.covariance)

    def posterior(self, kl_weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the tempered posterior."""
        scale = NOISE**2 * kl_weight
        precision = self.design.T @ self.design / scale + np.eye(D_OUT * D_IN) / PRIOR**2
        covariance = np.linalg.inv(precision)
        return covariance @ self.design.T @ self.target / scale, covariance

    def log_evidence(self) -> float:
        marginal = self.design @ self.design.T * PRIOR**2 + NOISE**2 * np.eye(self.rows)
        _, log_determinant = np.linalg.slogdet(2 * np.pi * marginal)
        return -0.5 * (log_determinant + self.target @ np.linalg.solve(marginal, self.target))

    def elbo(self, mean: np.ndarray, scale: np.ndarray) -> float:
        """The closed-form ELBO of a mean-field guide: expected log-likelihood minus KL."""
        residual = self.target - self.design @ mean
        spread = (self.design**2 @ scale**2).sum()
        fit = -0.5 * (residual @ residual + spread) / NOISE**2
        fit -= self.rows * np.log(NOISE * np.sqrt(2 * np.pi))
        ratio = scale / PRIOR
        return fit - (0.5 * (ratio**2 + (mean / PRIOR) ** 2 - 1) - np.log(ratio)).sum()

"""How a forward pass becomes logits over an example's options."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters import Factor


class Scorer(ABC):
    """Turns the backbone's states into logits; may have weights of its own, random like the rest.

    To add one: a subclass here, a line in the conformance suite.
    """

    @abstractmethod
    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """Name and describe the scorer's own weights."""

    @abstractmethod
    def logits(self, states: Tensor, mask: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
        """Score the options of each row.

        Args:
            states: Last hidden states, ``[B, T, hidden_size]``.
            mask: Attention mask, ``[B, T]``, 1 for real tokens.
            factors: The scorer's weights, ``[R, *shape]``, R dividing B, aligned as the adapters'.

        Returns:
            Logits, float32 (or the factors' dtype), ``[B, options]``.
        """

    def label_distribution(self, logits: Tensor) -> dist.TorchDistribution:
        """Return the distribution of a label given its row's logits."""
        return dist.Categorical(logits=logits)


class ClassHead(Scorer):
    """A Bayesian linear head on pooled states, for one fixed label set.

    Pooled states are scaled to root mean square 1 (norm ``sqrt(hidden_size)``), so that prior
    scales mean the same on every backbone; MiniLM's own training normalises them as well.

    Args:
        num_classes: Number of labels.
        pooling: ``mean`` over the tokens (encoders) or the ``last`` token (decoders).
    """

    def __init__(self, num_classes: int, pooling: str) -> None:
        self.num_classes = num_classes
        self.pooling = pooling

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """Weight ``[K, d]`` and bias ``[K]``, both starting at zero: equal class probabilities."""
        return {
            "weight": Factor(
                (self.num_classes, hidden_size), unit=hidden_size**-0.5, starts_at_zero=True
            ),
            "bias": Factor((self.num_classes,), unit=1.0, starts_at_zero=True),
        }

    def logits(self, states: Tensor, mask: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
        """Pool, normalise, and apply each group of rows' own head."""
        weight, bias = factors["weight"], factors["bias"]
        pooled = pool(states, mask, self.pooling).to(weight.dtype)
        features = F.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5
        groups = features.view(weight.shape[0], -1, features.shape[-1])
        scores = torch.baddbmm(bias.unsqueeze(1), groups, weight.transpose(1, 2))
        return scores.reshape(-1, self.num_classes)


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Reduce ``[B, T, d]`` to ``[B, d]``, over real tokens only (either padding side)."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * positions).argmax(1)
    return states[torch.arange(len(states), device=states.device), last]

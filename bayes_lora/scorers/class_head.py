"""A linear head for one fixed label set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, TokenIds
from bayes_lora.data import Example
from bayes_lora.scorers.base import Batch, Row
from bayes_lora.scorers.pooled import PooledScorer, collate_inputs

WIDER = 4 / 3  # times a prior's scale of two options is added for each factor e of further ones


@dataclass(frozen=True)
class ClassHead(PooledScorer):
    """A Bayesian linear head on pooled states, for one fixed label set.

    Pooled states are scaled to root mean square 1 (norm ``sqrt(hidden_size)``), so that prior
    scales mean the same on every backbone; MiniLM's own training normalises them as well.

    Args:
        options: The labels, in the order of the logits.
        pooling: ``mean`` over the tokens, the ``first`` token or the ``last``.
    """

    options: tuple[str, ...]
    pooling: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))  # JSON knows lists only

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """Weight ``[K, d]`` and bias ``[K]``, both starting at zero: equal class probabilities.

        To be as sure of one of K options, its logit has to be ``log K`` farther above the others:
        the weights' prior is wider where there are many.
        """
        num_options = len(self.options)
        weight = Factor(
            (num_options, hidden_size),
            unit=hidden_size**-0.5,
            starts_at_zero=True,
            spread=1 + WIDER * math.log(num_options / 2),
        )
        return {"weight": weight, "bias": Factor((num_options,), unit=1.0, starts_at_zero=True)}

    def problem(self, backbone: Backbone, options: tuple[str, ...]) -> str | None:
        """Say so where there are other options, or the same in another order."""
        if options == self.options:
            return None
        return (
            f"its options {list(options)} are not the class head's {list(self.options)}; another "
            "scorer can score any options"
        )

    def rows(self, backbone: Backbone, examples: Sequence[Example]) -> list[Row]:
        """Tokenize the inputs."""
        encoded = backbone.encode([example.input for example in examples])
        return [Row(tokens.ids, cut=tokens.cut) for tokens in encoded]

    def cost(self, backbone: Backbone, row: Row) -> int:
        """Count the input's tokens."""
        return len(row.ids)

    def collate(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        groups: int = 1,
        embedded: Mapping[TokenIds, int] | None = None,
    ) -> Batch:
        """Pad the inputs."""
        return collate_inputs(backbone, rows, groups)

    def features(
        self, backbone: Backbone, batch: Batch, shared: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Pool and normalise, ``[B, d]``."""
        pooled = self.embed_all(backbone, batch, "input")
        return {"pooled": F.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5}

    def score(
        self, features: Mapping[str, Tensor], batch: Batch, head: Mapping[str, Tensor]
    ) -> Tensor:
        """Apply each group of rows' own head."""
        weight, bias = head["weight"], head["bias"]
        by_draw = features["pooled"].to(weight.dtype).unflatten(0, (len(weight), -1))
        scores = torch.baddbmm(bias.unsqueeze(1), by_draw, weight.transpose(1, 2))
        return scores.reshape(-1, len(self.options))

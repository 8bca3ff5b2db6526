"""Derivatives of each row's logits by all weights, a backward pass for each combination of them.

Rows of one pass may have weights of their own, so each row's are a leaf of the graph, all at the
same values: the gradient of a sum over rows is every row's own derivative.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.model import BayesianModel
from bayes_lora.scorers import Row

# Numbers in the derivatives of one pass's rows: 256 MiB in float32.
MOST_NUMBERS = 2**26
TOKENS_PER_PASS = {"cpu": 2048, "cuda": 65536}


@dataclass(frozen=True)
class RowPass:
    """A forward pass of some rows, and what their logits can be derived by.

    Args:
        places: Where these rows stand among all.
        logits: ``[B, options]``; minus infinity where a row has no such option.
        leaves: Site name to every row's own weights, ``[B, *shape]``.
    """

    places: list[int]
    logits: Tensor
    leaves: dict[str, Tensor]

    def derivative(self, coefficients: Tensor, *, last: bool = False) -> dict[str, Tensor]:
        """Derive each row's own combination of logits by its weights.

        Args:
            coefficients: Of a row's logits, ``[B, options]``; those of missing options are not
                looked at.
            last: Whether the graph can go: there is no further combination.

        Returns:
            Site name to derivatives, ``[B, *shape]``.
        """
        there = self.logits.masked_fill(self.logits.isinf(), 0.0)
        sites = list(self.leaves)
        gradients = torch.autograd.grad(
            (coefficients * there).sum(),
            [self.leaves[site] for site in sites],
            retain_graph=not last,
            materialize_grads=True,
        )
        return dict(zip(sites, gradients, strict=True))


def row_passes(
    model: BayesianModel, values: Mapping[str, Tensor], rows: Sequence[Row]
) -> Iterator[RowPass]:
    """Run rows at some weights, in passes of rows of like cost.

    Args:
        model: The program; its levels are left out.
        values: Site name to weights, ``[*shape]``.
        rows: What the scorer made of examples.
    """
    for places in _chunks(model, rows):
        batch = model.scorer.collate(model.backbone, [rows[i] for i in places], groups=len(places))
        leaves = {
            name: value.detach().expand(len(places), *value.shape).clone().requires_grad_()
            for name, value in values.items()
        }
        with torch.enable_grad():
            logits = model.logits(batch, leaves)
        yield RowPass(places, logits, leaves)


def _chunks(model: BayesianModel, rows: Sequence[Row]) -> Iterator[list[int]]:
    """Yield rows of like cost, as many as fit into a pass."""
    size = sum(site.start.numel() for site in model.sites.values())
    most = max(1, MOST_NUMBERS // size)
    budget = TOKENS_PER_PASS[model.backbone.device.type]
    costs = [_cost(model, row) for row in rows]
    chunk: list[int] = []
    for row in sorted(range(len(rows)), key=lambda i: -costs[i]):
        if chunk and (len(chunk) == most or (len(chunk) + 1) * costs[chunk[0]] > budget):
            yield chunk
            chunk = []
        chunk.append(row)
    yield chunk


def _cost(model: BayesianModel, row: Row) -> int:
    """Count a row's tokens, with those that rows of other weights cannot share."""
    own = sum(len(ids) for ids in model.scorer.shared([row]))
    return model.scorer.cost(model.backbone, row) + own

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
        first: Of each, the first entry to derive by.
    """

    places: list[int]
    logits: Tensor
    leaves: dict[str, Tensor]
    first: Mapping[str, int]

    def derivative(self, coefficients: Tensor, *, last: bool = False) -> dict[str, Tensor]:
        """Derive each row's own combination of logits by its weights.

        Args:
            coefficients: Of a row's logits, ``[B, options]``; those of missing options are not
                looked at.
            last: Whether the graph can go: there is no further combination.

        Returns:
            Site name to derivatives, ``[B, entries, *rest]``: of a site's last entries, or all.
        """
        there = self.logits.masked_fill(self.logits.isinf(), 0.0)
        sites = list(self.leaves)
        gradients = torch.autograd.grad(
            (coefficients * there).sum(),
            [self.leaves[site] for site in sites],
            retain_graph=not last,
            materialize_grads=True,
        )
        return {
            site: own[:, start:] if (start := self.first[site]) else own
            for site, own in zip(sites, gradients, strict=True)
        }


def row_passes(
    model: BayesianModel,
    values: Mapping[str, Tensor],
    rows: Sequence[Row],
    *,
    first: Mapping[str, int] | None = None,
    tokens_per_pass: int | None = None,
) -> Iterator[RowPass]:
    """Run rows at some weights, in passes of rows of like cost.

    Args:
        model: The program; its levels are left out.
        values: Site name to weights, ``[*shape]``.
        rows: What the scorer made of examples.
        first: Of each site to derive by, its first entry (an adapter's site has one for each
            layer): what lies below, and sites that are not named, stay constant, so that backward
            passes end at the lowest layer that is asked for. None: all sites, whole.
        tokens_per_pass: Most tokens in one pass; None for the device's default.
    """
    first = dict.fromkeys(values, 0) if first is None else first
    below = {key: first[n] for n in first if (key := model.sites[n].key) is not None}
    budget = tokens_per_pass or TOKENS_PER_PASS[model.backbone.device.type]
    for places in _chunks(model, rows, budget):
        batch = model.scorer.collate(model.backbone, [rows[i] for i in places], groups=len(places))
        with torch.enable_grad(), model.backbone.constant_below(below):
            # Expanded, not copied: every row's weights are the same numbers in memory.
            own = {n: v.detach().expand(len(places), *v.shape) for n, v in values.items()}
            for name in first:
                own[name].requires_grad_()
            logits = model.logits(batch, own)
        yield RowPass(places, logits, {name: own[name] for name in first}, first)


def _chunks(model: BayesianModel, rows: Sequence[Row], budget: int) -> Iterator[list[int]]:
    """Yield rows of like cost, as many as fit into a pass."""
    size = sum(site.start.numel() for site in model.sites.values())
    most = max(1, MOST_NUMBERS // size)
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

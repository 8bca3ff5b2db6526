"""How the rows' logits move with weights that their levels could have, at the population's.

A level's prior spreads along a few directions only. With some thousand weights, most change what
a row's logits are in directions no other row shares: nothing that one row of a user says there
helps with the next one, and a prior that spreads over all of them pays for each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.level_effect import LevelEffect
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows, Row

MOST_OPTIONS = 5  # of a row: its likeliest and its label; the others hardly bear on its likelihood
TOKENS_PER_PASS = 2048


@dataclass(frozen=True)
class Linearised:
    """Rows near the population's weights; logits are those of the options kept, up to a constant.

    Args:
        offsets: Logits at the population's weights, ``[N, options]``; minus infinity: no option.
        labels: Which of these options is the row's label, int64 ``[N]``.
        features: Of each effect, derivatives of the logits with respect to a level's coordinates,
            ``[N, options, coordinates]``.
    """

    offsets: Tensor
    labels: Tensor
    features: dict[str, Tensor]

    def information(self, effect: str) -> Tensor:
        """Square roots of the rows' expected information, ``[N * options, coordinates]``."""
        probabilities = self.offsets.softmax(-1).unsqueeze(2)
        features = self.features[effect]
        centred = features - (probabilities * features).sum(1, keepdim=True)
        return (probabilities.sqrt() * centred).flatten(0, 1)

    def times(self, factor: float) -> "Linearised":
        """Multiply the logits."""
        features = {name: own * factor for name, own in self.features.items()}
        return Linearised(self.offsets * factor, self.labels, features)


def linearise(
    model: BayesianModel,
    values: Mapping[str, Tensor],
    data: LabelledRows,
    *,
    directions: bool = True,
    most_options: int | None = MOST_OPTIONS,
    progress: Callable[[int], object] = lambda rows: None,
) -> Linearised:
    """Linearise the logits of labelled rows in the weights of all their levels.

    Args:
        model: The program.
        values: The population's weights, ``[1, *shape]``.
        data: The rows.
        directions: Whether coordinates run along each effect's directions; else they are the
            weights themselves.
        most_options: Options kept of a row, its label first; None: all, in their order.
        progress: Called with the number of rows done, after each pass.
    """
    order, parts = [], []
    for chunk in _chunks(model, data.rows):
        labels = torch.tensor([data.labels[i] for i in chunk], device=model.backbone.device)
        rows = [data.rows[i] for i in chunk]
        parts.append(_pass(model, values, rows, labels, directions, most_options))
        order += chunk
        progress(len(chunk))
    most = max(part.offsets.shape[1] for part in parts)
    everything = [_widened(part, most) for part in parts]
    back = torch.tensor(order).argsort()
    return Linearised(
        torch.cat([part.offsets for part in everything])[back],
        torch.cat([part.labels for part in everything])[back],
        {n: torch.cat([part.features[n] for part in everything])[back] for n in model.by_level},
    )


def _chunks(model: BayesianModel, rows: Sequence[Row]) -> Iterator[list[int]]:
    """Yield rows of like cost, as many as fit into a pass."""
    costs = [model.scorer.cost(model.backbone, row) for row in rows]
    chunk: list[int] = []
    for row in sorted(range(len(rows)), key=lambda i: -costs[i]):
        if chunk and (len(chunk) + 1) * costs[chunk[0]] > TOKENS_PER_PASS:
            yield chunk
            chunk = []
        chunk.append(row)
    yield chunk


def _pass(
    model: BayesianModel,
    values: Mapping[str, Tensor],
    rows: Sequence[Row],
    labels: Tensor,
    directions: bool,
    most_options: int | None,
) -> Linearised:
    """Run some rows, each with weights of its own at zero, and derive their logits by these."""
    batch = model.scorer.collate(model.backbone, rows)
    moved = {name: _leaf(effect, len(rows), directions) for name, effect in model.by_level.items()}
    factors = model.factors(values, model.adapters)
    for name, effect in model.by_level.items():
        factors |= (effect.factors if directions else effect.of_weights)(moved[name])
    own = torch.arange(len(rows), device=model.backbone.device)
    head = {n.split(".", 1)[1]: values[n] for n, s in model.sites.items() if s.key is None}
    with model.backbone.adapted(factors, model.adapters, dict.fromkeys(moved, own)):
        logits = model.scorer.logits(model.backbone, batch, head)
    if most_options is not None:
        kept, labels = _kept(logits.detach(), labels, most_options)
        logits = logits.gather(1, kept)
    gradients = _derivatives(logits, list(moved.values()))
    return Linearised(logits.detach().cpu(), labels.cpu(), dict(zip(moved, gradients, strict=True)))


def _leaf(effect: LevelEffect, rows: int, directions: bool) -> Tensor:
    width = effect.width if directions else len(effect.units)
    return effect.units.new_zeros(rows, width).requires_grad_()


def _kept(logits: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Choose each row's likeliest options, and its label: ``[B, kept]``, and where that stands."""
    count = min(most, logits.shape[1])
    ranked = logits.scatter(1, labels.unsqueeze(1), torch.inf)  # the label is kept in any case
    return ranked.topk(count, dim=1).indices, torch.zeros_like(labels)


def _derivatives(logits: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Derive each option's logit less the first one's, ``[B, kept, coordinates]`` on the CPU.

    Softmax does not know a constant; the first option's derivative is zero, a pass less.
    """
    columns: list[list[Tensor]] = [[torch.zeros_like(leaf)] for leaf in leaves]
    for place in range(1, logits.shape[1]):
        there = logits[:, place] > -torch.inf
        contrast = (logits[there, place] - logits[there, 0]).sum()
        more = place + 1 < logits.shape[1]
        for own, gradient in zip(
            columns, torch.autograd.grad(contrast, leaves, retain_graph=more), strict=True
        ):
            own.append(gradient)
    return [torch.stack(own, dim=1).cpu() for own in columns]


def _widened(part: Linearised, most: int) -> Linearised:
    """Add options that no row of the part has, up to as many as another part's."""
    missing = most - part.offsets.shape[1]
    pad = torch.nn.functional.pad
    return Linearised(
        pad(part.offsets, (0, missing), value=-torch.inf),
        part.labels,
        {n: pad(own, (0, 0, 0, missing)) for n, own in part.features.items()},
    )

"""The Monte Carlo predictive: probabilities averaged over draws of all weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_lora.backbone import TokenIds
from bayes_lora.errors import ConfigError
from bayes_lora.level_effect import LevelRows
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import Row
from bayes_lora.scorers.base import repeated
from calibration import entropy

Array = NDArray[np.float64]
Draws = Mapping[str, Tensor]

# Tokens in one forward pass. On a CPU small passes stay in the cache (docs/maths.md has figures);
# on a GPU larger ones fill the device.
TOKENS_PER_PASS = {"cpu": 2048, "cuda": 65536}
# What rows share is embedded for so many of them at a time, and kept while the next ones need it:
# a task's labels throughout, the options of multiple-choice rows only as long as they are used.
ROWS_PER_PAGE = 1000


@dataclass(frozen=True)
class Predictions:
    """What the posterior says about each row; arrays are float64, entropies are in nats.

    Args:
        probabilities: Mean over draws of the options' probabilities, ``[n, most options]``; zero
            where a row has no such option.
        predictive_entropy: Entropy of those, ``[n]``: all uncertainty.
        expected_entropy: Mean over draws of each draw's entropy, ``[n]``: noise in the data. Of
            linearised predictions of many options less what draws of logits cannot show
            (``linearised.unsettled``).
        num_draws: Draws averaged over; 0 for the posterior mean's single prediction.
        per_draw: Probabilities under each draw, ``[draws, n, most options]``, when asked for.
    """

    probabilities: Array
    predictive_entropy: Array
    expected_entropy: Array
    num_draws: int
    per_draw: Array | None = None

    @property
    def mutual_information(self) -> Array:
        """Between label and weights, ``[n]``: what more data could settle (Houlsby et al. 2011)."""
        return np.maximum(self.predictive_entropy - self.expected_entropy, 0.0)

    def recalibrated(self, apply: Callable[[Array], Array]) -> "Predictions":
        """Recalibrate the probabilities; what draws disagree about stays as it is.

        Args:
            apply: What ``calibration.fit_recalibration`` returned.

        Returns:
            Predictions without the draws' own probabilities; the mutual information is kept as far
            as the new entropy leaves room for it.
        """
        probabilities = apply(self.probabilities)
        total = entropy(probabilities)
        expected = np.maximum(total - self.mutual_information, 0.0)
        return Predictions(probabilities, total, expected, self.num_draws)


def predict(
    model: BayesianModel,
    draws: Draws,
    rows: Sequence[Row],
    *,
    tokens_per_pass: int | None = None,
    keep_draws: bool = False,
    progress: Callable[[int], object] = lambda rows: None,
    levels: Draws | None = None,
) -> Predictions:
    """Score every row under every draw and average the *probabilities*.

    Averaging logits would give back little more than the point prediction. Draws are folded into
    the rows of one pass: rows of the same batch use different weights.

    Args:
        model: The program whose weights the draws are.
        draws: Site name to values ``[S, *shape]``; each draw is used for all the data.
        rows: What the model's scorer made of the examples; at least one.
        tokens_per_pass: Most tokens (padding counted) in one pass; None for the device's default.
        keep_draws: Also return each draw's probabilities.
        progress: Called with the number of rows done, after each chunk of rows.
        levels: Of each of the model's effects with levels, draws of some levels' coordinates,
            ``[S, U, width]``, of which rows know their entries; None: the population predicts.

    Returns:
        Predictions in the order of ``rows``, whatever the chunks were.

    Raises:
        ConfigError: There is no row, or ``tokens_per_pass`` is not positive.
    """
    budget = tokens_per_pass or TOKENS_PER_PASS[model.backbone.device.type]
    if not rows or budget < 1:
        raise ConfigError("Prediction needs at least one row and one token in a pass.")
    run = _Run(model, draws, budget, levels or {})
    mean: list[Array] = [np.empty(0)] * len(rows)
    expected = np.zeros(len(rows))
    kept: list[Array] = [np.empty(0)] * len(rows) if keep_draws else []
    with torch.inference_mode():
        for chunk, cost in _paged_chunks(run, rows):
            scored = run.score([rows[row] for row in chunk], cost)  # [S, rows, options]
            expected[chunk] = entropy(scored).mean(0)
            for i, row in enumerate(chunk):
                mean[row] = scored[:, i].mean(0)
                if keep_draws:
                    kept[row] = scored[:, i]
            progress(len(chunk))
    probabilities = _stacked(mean)
    return Predictions(
        probabilities,
        entropy(probabilities),
        expected,
        run.num_draws,
        _stacked(kept).swapaxes(0, 1) if keep_draws else None,
    )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Put predictions of several posteriors, with equally many draws of each, into one.

    Args:
        parts: Their rows, one part after another; draws are kept where all parts have them. At
            least one.
    """
    kept = [
        row for part in parts if part.per_draw is not None for row in part.per_draw.swapaxes(0, 1)
    ]
    return Predictions(
        _stacked([row for part in parts for row in part.probabilities]),
        np.concatenate([part.predictive_entropy for part in parts]),
        np.concatenate([part.expected_entropy for part in parts]),
        parts[0].num_draws,
        _stacked(kept).swapaxes(0, 1) if parts[-1].per_draw is not None else None,
    )


def reordered(predictions: Predictions, order: Sequence[int]) -> Predictions:
    """Put row i of some predictions at place ``order[i]``."""
    back = np.argsort(order)
    draws = predictions.per_draw
    return Predictions(
        predictions.probabilities[back],
        predictions.predictive_entropy[back],
        predictions.expected_entropy[back],
        predictions.num_draws,
        None if draws is None else draws[:, back],
    )


@dataclass
class _Run:
    """One prediction's draws, and the embeddings its rows share at the moment."""

    model: BayesianModel
    draws: Draws
    budget: int
    levels: Draws
    embedded: dict[TokenIds, int] = field(default_factory=dict)
    table: Tensor | None = None  # [S, embedded, hidden_size]

    @property
    def num_draws(self) -> int:
        return len(next(iter(self.draws.values())))

    def share(self, rows: Sequence[Row]) -> None:
        """Embed what these rows share and the last ones did not, and forget what they do not."""
        shared = self.model.scorer.shared(rows)
        new = [ids for ids in shared if ids not in self.embedded]
        parts = [] if self.table is None else [self.table]
        if new:
            parts.append(self._embed(new))
        everything = {**self.embedded, **{ids: len(self.embedded) + i for i, ids in enumerate(new)}}
        if parts:
            self.table = torch.cat(parts, dim=1)[:, [everything[ids] for ids in shared]]
            self.embedded = {ids: i for i, ids in enumerate(shared)}

    def _embed(self, sequences: Sequence[TokenIds]) -> Tensor:
        scorer = self.model.scorer
        embedded: list[Tensor] = [torch.empty(0)] * len(sequences)
        for chunk in _chunks([len(ids) for ids in sequences], self.num_draws, self.budget):
            batch = self.model.backbone.collate([sequences[i] for i in chunk])
            parts = []
            for some, count in self._parts(len(chunk) * batch["input_ids"].shape[1]):
                with self.model.under(some):
                    states = scorer.embed(self.model.backbone, repeated(batch, count))
                parts.append(states.unflatten(0, (count, -1)))
            for i, states in zip(chunk, torch.cat(parts).unbind(1), strict=True):
                embedded[i] = states
        return torch.stack(embedded, dim=1)

    def score(self, rows: Sequence[Row], cost: int) -> Array:
        """Return probabilities ``[S, rows, options]``; draws that do not fit go in turn.

        Args:
            rows: Rows.
            cost: The scorer's cost of the costliest.
        """
        scorer, backbone = self.model.scorer, self.model.backbone
        batch = scorer.collate(backbone, rows, embedded=self.embedded or None)
        parts, done = [], 0
        for some, count in self._parts(len(rows) * cost):
            table = None if self.table is None else self.table[done : done + count]
            own = self._levels(rows, slice(done, done + count))
            scored = self.model.logits(scorer.repeat(batch, count), some, table, own)
            logits = scored.cpu().double()
            parts.append(logits.softmax(-1).view(count, len(rows), -1).numpy())
            done += count
        return np.concatenate(parts)

    def _levels(self, rows: Sequence[Row], draws: slice) -> dict[str, LevelRows]:
        """Give the rows' levels under some draws: an entry for each draw of each level."""
        own = {}
        for place, (name, table) in enumerate(self.levels.items()):
            if rows[0].levels[place] < 0:  # alike for all rows of a chunk
                continue
            used = torch.tensor([row.levels[place] for row in rows], device=table.device)
            present, entries = used.unique(return_inverse=True)
            values = table[draws][:, present]
            first = torch.arange(len(values), device=table.device)[:, None] * len(present)
            own[name] = LevelRows(values.flatten(0, 1), (first + entries).flatten())
        return own

    def _parts(self, tokens: int) -> Iterator[tuple[Draws, int]]:
        """Yield as many draws at a time as fit into a pass of so many tokens each."""
        together = min(self.num_draws, max(1, self.budget // tokens))
        for start in range(0, self.num_draws, together):
            some = {name: value[start : start + together] for name, value in self.draws.items()}
            yield some, min(together, self.num_draws - start)


def _paged_chunks(run: _Run, rows: Sequence[Row]) -> Iterator[tuple[list[int], int]]:
    """Yield chunks of rows, each with its costliest row's cost.

    Rows of a chunk have levels of the same attributes, and so the same views. Before a page's
    first chunk, what the page's rows share is embedded.
    """
    costs = [run.model.scorer.cost(run.model.backbone, row) for row in rows]
    for own in _by_view(rows, len(run.levels)):
        for first in range(0, len(own), ROWS_PER_PAGE):
            page = own[first : first + ROWS_PER_PAGE]
            run.share([rows[row] for row in page])
            for chunk in _chunks([costs[row] for row in page], run.num_draws, run.budget):
                yield [page[i] for i in chunk], max(costs[page[i]] for i in chunk)


def _by_view(rows: Sequence[Row], effects: int) -> list[list[int]]:
    """Group rows by which of the effects they have a level of."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(level >= 0 for level in row.levels[:effects]), []).append(i)
    return list(groups.values())


def _chunks(costs: Sequence[int], num_draws: int, budget: int) -> Iterator[list[int]]:
    """Yield rows of like cost, as many as fit into one pass with all their draws."""
    rows: list[int] = []
    for row in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        if rows and (len(rows) + 1) * num_draws * costs[rows[0]] > budget:
            yield rows
            rows = []
        rows.append(row)
    yield rows


def _stacked(rows: Sequence[Array]) -> Array:
    """Stack arrays ``[..., options]``, with zeros where one has fewer options than another."""
    most = max(row.shape[-1] for row in rows)
    out = np.zeros((len(rows), *rows[0].shape[:-1], most))
    for i, row in enumerate(rows):
        out[i, ..., : row.shape[-1]] = row
    return out

"""The Monte Carlo predictive: probabilities averaged over draws of all weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_lora.errors import ConfigError
from bayes_lora.model import Batch, BayesianModel
from calibration import entropy

Array = NDArray[np.float64]
Draws = Mapping[str, Tensor]

# Tokens in one forward pass. On a CPU small passes stay in the cache (docs/maths.md has figures);
# on a GPU larger ones fill the device.
TOKENS_PER_PASS = {"cpu": 2048, "cuda": 65536}


@dataclass(frozen=True)
class Predictions:
    """What the posterior says about each row; arrays are float64, entropies are in nats.

    Args:
        probabilities: Mean over draws of the options' probabilities, ``[n, options]``.
        predictive_entropy: Entropy of those, ``[n]``: all uncertainty.
        expected_entropy: Mean over draws of each draw's entropy, ``[n]``: noise in the data.
        num_draws: Draws averaged over; 0 for the posterior mean's single prediction.
        per_draw: Probabilities under each draw, ``[draws, n, options]``, when asked for.
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


def predict(
    model: BayesianModel,
    draws: Draws,
    texts: Sequence[str],
    *,
    tokens_per_pass: int | None = None,
    keep_draws: bool = False,
    progress: Callable[[int], object] = lambda rows: None,
) -> Predictions:
    """Score every text under every draw and average the *probabilities*.

    Averaging logits would give back little more than the point prediction. Draws are folded into
    the rows of one pass: rows of the same batch use different weights.

    Args:
        model: The program whose weights the draws are.
        draws: Site name to values ``[S, *shape]``; each draw is used for all the data.
        texts: Inputs; at least one.
        tokens_per_pass: Most tokens (padding counted) in one pass; None for the device's default.
        keep_draws: Also return each draw's probabilities.
        progress: Called with the number of rows done, after each chunk of rows.

    Returns:
        Predictions in the order of ``texts``, whatever the chunks were.

    Raises:
        ConfigError: There is no text, or ``tokens_per_pass`` is not positive.
    """
    budget = tokens_per_pass or TOKENS_PER_PASS[model.backbone.device.type]
    if not texts or budget < 1:
        raise ConfigError("Prediction needs at least one text and one token in a pass.")
    encodings = model.backbone.encode(texts)
    num_draws = len(next(iter(draws.values())))
    mean: list[Array] = [np.empty(0)] * len(texts)
    expected = np.zeros(len(texts))
    kept: list[Array] = [np.empty(0)] * len(texts) if keep_draws else []
    with torch.inference_mode():
        for rows in _chunks([len(e["input_ids"]) for e in encodings], num_draws, budget):
            batch = model.backbone.collate([encodings[row] for row in rows])
            scored = _score(model, draws, batch, budget)  # [S, rows, options]
            expected[rows] = entropy(scored).mean(0)
            for i, row in enumerate(rows):
                mean[row] = scored[:, i].mean(0)
                if keep_draws:
                    kept[row] = scored[:, i]
            progress(len(rows))
    probabilities = np.stack(mean)
    return Predictions(
        probabilities,
        entropy(probabilities),
        expected,
        num_draws,
        np.stack(kept, axis=1) if keep_draws else None,
    )


def _chunks(lengths: Sequence[int], num_draws: int, budget: int) -> Iterator[list[int]]:
    """Yield rows of like length, as many as fit into one pass with all their draws."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if rows and (len(rows) + 1) * num_draws * lengths[rows[0]] > budget:
            yield rows
            rows = []
        rows.append(row)
    yield rows


def _score(model: BayesianModel, draws: Draws, batch: Batch, budget: int) -> Array:
    """Return probabilities ``[S, rows, options]``; draws that do not fit go in turn."""
    num_draws = len(next(iter(draws.values())))
    rows, length = batch["input_ids"].shape
    together = min(num_draws, max(1, budget // (rows * length)))
    parts = []
    for start in range(0, num_draws, together):
        some = {name: value[start : start + together] for name, value in draws.items()}
        count = len(next(iter(some.values())))
        folded = {key: value.repeat(count, 1) for key, value in batch.items()}
        logits = model.logits(folded, some).cpu().double()
        parts.append(logits.softmax(-1).view(count, rows, -1).numpy())
    return np.concatenate(parts)

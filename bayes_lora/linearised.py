"""The linearised predictive: logits that are Gaussian, and no draws of weights at all.

With the weights' covariance S and the logits' derivatives J at their mean, logits are Normal with
covariance J S J^T around what the mean predicts: the "GLM predictive" of Immer et al. (2021, arXiv
2008.08216), at the price of a forward pass and as many backward passes as there are further
options. Probabilities are averages over draws of logits. As the Laplace approximation's curvature
is that of the linearised model, this is the prediction that belongs to it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bayes_lora.errors import ConfigError, UnsupportedError
from bayes_lora.guides import Guide
from bayes_lora.model import BayesianModel
from bayes_lora.predict import Predictions, joined, reordered
from bayes_lora.row_gradients import RowPass, row_passes
from bayes_lora.scorers import Row
from calibration import entropy

MOST_OPTIONS = 4  # of a row, its likeliest, whose logits vary
MANY_OPTIONS = 7  # a row with so many is asked once more, for what the others' logits vary by
DRAWS = 256  # of logits, which cost next to nothing: about as good as 1e-3 in a probability
JITTER = 1e-6  # of a row's largest variance, so that alike options have a Cholesky factor too


def predict_linearised(
    model: BayesianModel,
    guide: Guide,
    rows: Sequence[Row],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    tokens_per_pass: int | None = None,
    keep_draws: bool = False,
    progress: Callable[[int], object] = lambda rows: None,
) -> Predictions:
    """Score every row at the guide's mean, and average over Gaussian draws of its logits.

    Of a row with more than 4 options, the 4 likeliest vary; the others stay where they are,
    relative to the average of these. Where there are 7 options or more, what is not known of the
    others' logits is counted all the same in the mutual information (``unsettled``), but not in
    the draws.

    Args:
        model: The program.
        guide: The posterior of its weights.
        rows: What the model's scorer made of the examples; at least one.
        draws: Of each row's logits, at least 1; the same noise for every row.
        seed: Of the noise; more draws extend fewer.
        tokens_per_pass: Most tokens (padding counted) in one pass; None for the device's default.
        keep_draws: Also return each draw's probabilities.
        progress: Called with the number of rows done, after each pass.

    Returns:
        Predictions in the order of ``rows``, whatever the passes were.

    Raises:
        ConfigError: There is no row, or ``tokens_per_pass`` is not positive.
        UnsupportedError: The guide's covariance is not known, or the model has levels.
    """
    check_linearisable(model)
    if not rows or (tokens_per_pass is not None and tokens_per_pass < 1):
        raise ConfigError("Prediction needs at least one row and one token in a pass.")
    noise = _noise(draws, seed)
    parts, order = [], []
    passes = row_passes(
        model, guide.mean(), rows, first=guide.first_random, tokens_per_pass=tokens_per_pass
    )
    for run in passes:
        kept = likeliest(run.logits.detach())
        more = unsettled(run, guide, kept).double().cpu().numpy()
        drawn = _drawn(run, guide, kept, noise).softmax(-1).numpy()  # [draws, B, options]
        mean = drawn.mean(0)
        expected = np.maximum(entropy(drawn).mean(0) - more, 0)
        per_draw = drawn if keep_draws else None
        parts.append(Predictions(mean, entropy(mean), expected, draws, per_draw))
        order += run.places
        progress(len(run.places))
    return reordered(joined(parts), order)


def check_linearisable(model: BayesianModel) -> None:
    """Check that a model's weights are all in its sites.

    Raises:
        UnsupportedError: It has levels of attributes.
    """
    if model.by_level:
        raise UnsupportedError(
            "A run with attributes cannot be linearised: predict with draws (leave linearised out)."
        )


def unsettled(run: RowPass, guide: Guide, kept: Tensor) -> Tensor:
    """Estimate the mutual information that options have whose logits stay, in nats, ``[B]``.

    To second order, that of label and weights is half the variance of the logits, over options as
    likely as they are, expected over the weights. With m the options' logits less the average of
    those that vary, and p the probabilities, the others' share of it is
    ``sum p m^2 - (sum p m)^2``. That is a sum of squares of as many combinations of logits as
    there are options; random signs of these, alike for all rows, need one backward pass
    (Hutchinson 1990, Communications in Statistics 19). Zero for rows of few options.

    Args:
        run: The rows' pass.
        guide: The posterior of the weights.
        kept: The options that vary, ``[B, kept]``.
    """
    logits = run.logits.detach()
    vary = torch.zeros_like(logits).scatter_(1, kept, 1.0)
    many = (~logits.isinf()).sum(1, keepdim=True) >= MANY_OPTIONS
    if not bool(many.any()):
        return logits.new_zeros(len(logits))
    p = logits.softmax(-1)
    left_out = p * (1 - vary) * many
    signs = _signs(logits.shape[1]).to(logits)
    # (diag(r) - a p r'), r the roots of p, times its transpose is diag(p) - p p'.
    a = 1 / (1 + (1 - left_out.sum(1, keepdim=True)).clamp(min=0).sqrt())
    total = (left_out.sqrt() * signs).sum(1, keepdim=True)
    combined = left_out.sqrt() * signs - a * left_out * total
    average = p * vary / (p * vary).sum(1, keepdim=True)
    combined = combined - average * combined.sum(1, keepdim=True)
    return guide.roots(run.derivative(combined)).square().sum(1) / 2


def _signs(options: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (options,), generator=generator) * 2.0 - 1


def _drawn(run: RowPass, guide: Guide, kept: Tensor, noise: Tensor) -> Tensor:
    """Draw the rows' logits up to a constant each, float64 ``[draws, B, options]``, on the CPU."""
    covariance = _covariance(run, guide, kept).double().cpu()
    logits, kept = run.logits.detach().double().cpu(), kept.cpu()
    moves = _moves(covariance, noise)  # of the kept options against their first, which stays
    moves = torch.cat([moves.new_zeros(*moves.shape[:2], 1), moves], dim=2)
    share = logits.gather(1, kept).softmax(-1)
    average = (share * moves).sum(-1, keepdim=True)
    drawn = (logits + average).expand(-1, -1, logits.shape[1])
    places = kept.expand(len(noise), *kept.shape)
    return drawn.scatter(2, places, logits.gather(1, kept) + moves)


def likeliest(logits: Tensor) -> Tensor:
    """Choose the options that vary, in their order: ``[B, kept]``.

    In their order, because a tie broken otherwise in another batch would swap their noise.
    """
    count = min(MOST_OPTIONS, logits.shape[1])
    if count == logits.shape[1]:
        return torch.arange(count, device=logits.device).expand(len(logits), count)
    ranked = logits.argsort(dim=1, descending=True, stable=True)
    return ranked[:, :count].sort(dim=1).values


def _covariance(run: RowPass, guide: Guide, kept: Tensor) -> Tensor:
    """Return the covariance of the kept options' logits less the first one's, ``[B, k-1, k-1]``."""
    there = ~run.logits.gather(1, kept).isinf()
    roots = []
    for place in range(1, kept.shape[1]):
        contrast = torch.zeros_like(run.logits)
        contrast.scatter_(1, kept[:, place : place + 1], 1.0)
        contrast.scatter_(1, kept[:, :1], -1.0)
        contrast *= there[:, place : place + 1]  # a row without the option has no variance there
        last = place == kept.shape[1] - 1
        roots.append(guide.roots(run.derivative(contrast, last=last)))
    return _inner_products(roots)


def _inner_products(roots: Sequence[Tensor]) -> Tensor:
    """Multiply k of ``[B, D]`` with each other, ``[B, k, k]``, without copies: they are large."""
    out = roots[0].new_empty(len(roots[0]), len(roots), len(roots))
    for i, one in enumerate(roots):
        for j, other in enumerate(roots[: i + 1]):
            out[:, i, j] = out[:, j, i] = torch.linalg.vecdot(one, other)
    return out


def _moves(covariance: Tensor, noise: Tensor) -> Tensor:
    """Turn standard normal noise into draws of that covariance, ``[draws, B, k-1]``."""
    width = covariance.shape[-1]
    size = covariance.diagonal(dim1=1, dim2=2).amax(-1)
    jitter = JITTER * size + torch.finfo(size.dtype).tiny ** 0.5
    factor = torch.linalg.cholesky(covariance + torch.diag_embed(jitter[:, None].expand(-1, width)))
    return torch.einsum("sk,bjk->sbj", noise[:, :width], factor)


def _noise(draws: int, seed: int) -> Tensor:
    """Make quasi-random standard normals and their mirror images, ``[draws, most options - 1]``.

    Scrambled Sobol points; each is followed by its mirror image.
    """
    engine = torch.quasirandom.SobolEngine(MOST_OPTIONS - 1, scramble=True, seed=seed)
    points = engine.draw(-(-draws // 2), dtype=torch.float64)
    normal = torch.special.ndtri(points.clamp(1e-9, 1 - 1e-9))
    return torch.stack([normal, -normal], dim=1).flatten(0, 1)[:draws]

"""The report's metrics on many bootstrap resamples at once.

A resample is the same rows with other counts: how often each was drawn. What a row adds to a metric
stays the same, so it is worked out once and a resample only weights it. The values equal those of
`calibration.metrics` on the drawn rows, to rounding, at a fraction of the time.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_array

from calibration.metrics import BINS, equal_width_bins, losses, squared_distances
from calibration.validation import Floats, Integers, Predictions

# Counts of rows, or sums of bins if there are more of these, worked on at a time: what fits the
# processor's cache.
CELLS = 1 << 17

# From counts, int64 [R, n], to the metrics by name, float64 [R] each, NaN where undefined.
Resampled = Callable[[Integers], dict[str, Floats]]


def resampled_metrics(
    data: Predictions, *, classwise: bool, resamples: int, seed: int
) -> dict[str, Floats]:
    """Compute the metrics of `METRICS` on rows drawn again with replacement.

    Args:
        data: Checked predictions, n rows.
        classwise: Whether every row has the same options, without which there is no
            `classwise_ece`.
        resamples: How many times n rows are drawn, R.
        seed: Fixes the draws, which are those of `bootstrap_interval`.

    Returns:
        float64 [R] by the metric's name, NaN where a resample leaves the metric undefined.
    """
    families = [_means(data), _binned(data), _ranked(data)]
    if classwise:
        families.append(_classwise(data))
    parts = [
        {name: values for family in families for name, values in family(counts).items()}
        for counts in _draws(data, resamples, np.random.default_rng(seed))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _draws(data: Predictions, resamples: int, generator: np.random.Generator) -> Iterator[Integers]:
    """How often each row is drawn, int64 [r, n] for some r resamples at a time."""
    n = len(data)
    step = max(1, CELLS // max(n, BINS * data.probabilities.shape[1]))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        # Each resample has n numbers of its own, so that one count over all of them does.
        rows = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(rows.ravel(), minlength=size * n).reshape(size, n)


def _means(data: Predictions) -> Resampled:
    """Means over rows: accuracy, NLL and Brier score."""
    n = len(data)
    terms = np.stack([data.correct, losses(data), squared_distances(data)])

    def resampled(counts: Integers) -> dict[str, Floats]:
        return dict(zip(("accuracy", "nll", "brier"), terms @ counts.T / n, strict=True))

    return resampled


def _binned(data: Predictions) -> Resampled:
    """Errors over bins of equal width: ECE and MCE."""
    n = len(data)
    member = equal_width_bins(data.confidences, BINS)
    gap_of = _table(member[:, None], (data.correct - data.confidences)[:, None], BINS)
    row_of = _table(member[:, None], np.ones((n, 1)), BINS)

    def resampled(counts: Integers) -> dict[str, Floats]:
        gaps = np.abs(counts @ gap_of)
        rows = np.maximum(counts @ row_of, 1)  # an empty bin has a gap of 0
        return {"ece": gaps.sum(axis=1) / n, "mce": (gaps / rows).max(axis=1)}

    return resampled


def _classwise(data: Predictions) -> Resampled:
    """ECE of each option's probability, for rows that all have the same options."""
    p = data.probabilities[:, : data.num_options[0]]
    options = np.arange(p.shape[1])
    members = equal_width_bins(p, BINS) + BINS * options
    gap_of = _table(members, (data.labels[:, None] == options) - p, BINS * len(options))

    def resampled(counts: Integers) -> dict[str, Floats]:
        return {"classwise_ece": np.abs(counts @ gap_of).sum(axis=1) / p.size}

    return resampled


def _table(members: Integers, values: Floats, bins: int) -> csr_array:
    """Sparse float64 [n, bins] that holds each of the row's values in the bin that it belongs to.

    Args:
        members: int64 [n, m], no bin twice in a row.
        values: float64 [n, m].
        bins: Number of columns.
    """
    ends = members.shape[1] * np.arange(len(members) + 1)
    return csr_array((values.ravel(), members.ravel(), ends), shape=(len(members), bins))


def _ranked(data: Predictions) -> Resampled:
    """What depends on the order of confidences: adaptive ECE, AUROC and AURC.

    Rows of equal confidence form a group, [G] groups from the most to the least confident.
    """
    order = np.argsort(-data.confidences, kind="stable")
    confidences, correct = data.confidences[order], data.correct[order]
    starts = np.flatnonzero(np.diff(confidences, prepend=np.inf))

    def resampled(counts: Integers) -> dict[str, Floats]:
        in_order = counts[:, order]
        sizes = np.add.reduceat(in_order, starts, axis=1)
        right = np.add.reduceat(in_order * correct, starts, axis=1)
        return {
            "adaptive_ece": _adaptive_ece(sizes, right - sizes * confidences[starts]),
            "auroc": _auroc(right, sizes - right),
            "aurc": _aurc(sizes, sizes - right),
        }

    return resampled


def _adaptive_ece(sizes: Integers, gaps: Floats) -> Floats:
    """Adaptive ECE, float64 [R], from each group's rows and sum of gaps, [R, G]."""
    n = sizes[0].sum()
    rows_below = n - sizes.cumsum(axis=1)
    # A group that was not drawn can have all n rows below it; it has no gap, so any bin will do.
    member = np.minimum(rows_below * BINS // n, BINS - 1) + BINS * np.arange(len(sizes))[:, None]
    summed = np.bincount(member.ravel(), weights=gaps.ravel(), minlength=BINS * len(sizes))
    return np.abs(summed).reshape(len(sizes), BINS).sum(axis=1) / n


def _auroc(right: Integers, wrong: Integers) -> Floats:
    """AUROC, float64 [R], from each group's right and wrong answers, [R, G]."""
    less_sure = wrong.sum(axis=1, keepdims=True) - wrong.cumsum(axis=1)
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    won = (right * (less_sure + wrong / 2)).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _aurc(sizes: Integers, wrong: Integers) -> Floats:
    """AURC, float64 [R], from each group's rows and wrong answers, [R, G].

    With s rows before the group and e errors among them, and a share w of errors in it, the
    expected error rate of the k surest rows is (e + w (k - s)) / k = w + (e - w s) / k; the sum
    over the group's k is w times its size and e - w s times a difference of harmonic numbers.
    """
    n = sizes[0].sum()
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    ends, errors_before = sizes.cumsum(axis=1), wrong.cumsum(axis=1) - wrong
    starts = ends - sizes
    share = wrong / np.maximum(sizes, 1)
    steps = harmonic[ends] - harmonic[starts]
    return (wrong + (errors_before - share * starts) * steps).sum(axis=1) / n

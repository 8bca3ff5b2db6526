"""Pictures of calibration as SVG text, to be put inline into a page or saved to a file."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from scipy.stats import norm

from calibration.drawing import COLOURS, INK, LINES, legend, percent, style, svg
from calibration.metrics import BINS, ece, equal_width_bins, risk_at_coverage
from calibration.validation import Booleans, Floats, Integers, Predictions, validate

# Left of this coverage a handful of rows decides the error rate and the curve is noise.
LEAST_COVERAGE = 0.05
CURVE_POINTS = 400


@dataclass(frozen=True)
class ReliabilityBins:
    """The filled equal-width bins of `ece`, m of them.

    Attributes:
        counts: int64 [m], rows in each.
        confidence: float64 [m], mean confidence of each.
        accuracy: float64 [m], share of right answers in each.
        low: float64 [m], lower end of the accuracy's 95 % Wilson interval.
        high: float64 [m], its upper end.
    """

    counts: Integers
    confidence: Floats
    accuracy: Floats
    low: Floats
    high: Floats


def reliability_bins(confidences: Floats, correct: Booleans, bins: int = BINS) -> ReliabilityBins:
    """Sort rows into the bins that `ece` uses.

    Args:
        confidences: float64 [n], from 0 to 1.
        correct: bool [n].
        bins: How many bins of equal width [0, 1] is cut into.

    Returns:
        The bins that have rows, from low to high confidence.
    """
    member = equal_width_bins(confidences, bins)
    counts = np.bincount(member, minlength=bins).astype(np.int64)
    filled = counts > 0
    n = counts[filled]
    hits = np.bincount(member, weights=correct, minlength=bins)[filled].astype(np.float64)
    confidence = np.bincount(member, weights=confidences, minlength=bins)[filled] / n
    low, high = wilson_interval(hits, n)
    return ReliabilityBins(n, confidence, hits / n, low, high)


def wilson_interval(hits: Floats, counts: Integers, level: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's score interval of a binomial proportion; never empty, also for 0 or all hits.

    Args:
        hits: float64 [m], successes.
        counts: int64 [m], trials, each at least 1.
        level: Coverage, between 0 and 1.

    Returns:
        The lower and the upper ends, float64 [m] each.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z = norm.ppf((1 + level) / 2)
    share = hits / counts
    centre = share + z**2 / (2 * counts)
    half = z * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2))
    scale = 1 + z**2 / counts
    return np.maximum((centre - half) / scale, 0), np.minimum((centre + half) / scale, 1)


def reliability_diagram(
    probabilities: ArrayLike,
    labels: ArrayLike,
    num_options: ArrayLike | None = None,
    *,
    bins: int = BINS,
) -> str:
    """Accuracy against confidence of the top label, over a histogram of the confidences.

    A point per filled bin, at the bin's mean confidence, with its 95 % Wilson interval; the band
    from the point to the diagonal is what the ECE averages.

    Args:
        probabilities: [n, K] array or n rows of unequal lengths.
        labels: int [n].
        num_options: int [n], for zero-padded rows.
        bins: Number of equal-width bins, as in `ece`.

    Returns:
        An `<svg>` element as text.

    Raises:
        InvalidPredictionsError: For arrays that are not class probabilities with labels.
        ParameterError: For fewer than one bin.
    """
    data = validate(probabilities, labels, num_options)
    error = ece(data.probabilities, data.labels, data.num_options, bins=bins)
    binned = reliability_bins(data.confidences, data.correct, bins)
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_reliability(upper, binned, bins)
    _draw_histogram(lower, data.confidences, bins)
    upper.text(0.04, 0.94, f"ECE {error:.3f}", transform=upper.transAxes, va="top", color=INK)
    for axes in (upper, lower):
        style(axes)
        percent(axes.xaxis, axes.yaxis)
    return svg(figure, f"Reliability diagram, ECE {error:.3f}")


def _draw_reliability(axes: Axes, binned: ReliabilityBins, bins: int) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, alpha=0.5, dashes=(4, 3))
    axes.bar(
        binned.confidence,
        binned.confidence - binned.accuracy,
        bottom=binned.accuracy,
        width=0.5 / bins,
        color=COLOURS[1],
        alpha=0.35,
        linewidth=0,
    )
    below, above = binned.accuracy - binned.low, binned.high - binned.accuracy
    axes.errorbar(
        binned.confidence,
        binned.accuracy,
        # An end that equals the accuracy can come out a rounding error on its other side.
        yerr=np.maximum([below, above], 0),
        fmt="o",
        color=COLOURS[0],
        markersize=5,
        elinewidth=1.2,
        capsize=2.5,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", aspect="auto")


def _draw_histogram(axes: Axes, confidences: Floats, bins: int) -> None:
    axes.hist(
        confidences,
        bins=np.linspace(0, 1, bins + 1).tolist(),
        weights=np.full(len(confidences), 1 / len(confidences)),
        color=COLOURS[0],
        alpha=0.55,
        rwidth=0.92,
    )
    axes.set(xlabel="confidence", ylabel="rows")
    axes.yaxis.set_major_locator(MaxNLocator(2))


def risk_coverage_diagram(curves: Mapping[str, Predictions]) -> str:
    """Error rate among the most confident rows, against the share of rows that is answered.

    Args:
        curves: Checked predictions (from `validate`) by the name to show in the legend.

    Returns:
        An `<svg>` element as text.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for i, data in enumerate(curves.values()):
        _draw_curve(axes, data, i)
    axes.set(xlabel="coverage: share of rows answered", ylabel="error rate of the answers")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    style(axes)
    percent(axes.xaxis, axes.yaxis)
    if curves:
        legend(axes, list(curves))
    return svg(figure, "Risk-coverage curves")


def _draw_curve(axes: Axes, data: Predictions, index: int) -> None:
    risk = risk_at_coverage(data.confidences, data.correct)
    first = max(1, round(LEAST_COVERAGE * len(risk)))
    rows = np.unique(np.linspace(first, len(risk), CURVE_POINTS).astype(int))
    axes.plot(
        rows / len(risk),
        risk[rows - 1],
        color=COLOURS[index % len(COLOURS)],
        linestyle=LINES[index // len(COLOURS) % len(LINES)],
        linewidth=1.8,
        marker="o" if len(rows) == 1 else "",
        label=f"curve {index}",
    )

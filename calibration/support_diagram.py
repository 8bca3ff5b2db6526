"""A picture of few-shot predictions: accuracy and ECE against support size."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibration.drawing import COLOURS, LINES, legend, percent, style, svg
from calibration.support import SizeMeasured
from calibration.validation import Floats

MARKERS = ("o", "s", "^", "D", "v", "P")


def support_diagram(curves: Mapping[str, Sequence[SizeMeasured]]) -> str:
    """Accuracy and ECE against support size, a line each and a band for its interval.

    Args:
        curves: Support sizes from small to large by the name to show in the legend; a curve of
            none is not drawn, but its colour stays its own.

    Returns:
        An `<svg>` element as text.
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name, title in ((left, "accuracy", "accuracy"), (right, "ece", "ECE")):
        for i, sizes in enumerate(curves.values()):
            if sizes:
                _draw_curve(axes, sizes, name, i)
        axes.set(xlabel="support size", ylabel=title)
        _show_sizes(axes, sorted({size.size for sizes in curves.values() for size in sizes}))
        style(axes)
    percent(left.yaxis)
    right.set_ylim(bottom=0)
    legend(left, [name for name, sizes in curves.items() if sizes])
    return svg(figure, "Accuracy and ECE against support size; the table has the numbers")


def _draw_curve(axes: Axes, sizes: Sequence[SizeMeasured], name: str, index: int) -> None:
    """A line with a band; a single size has an error bar, as a band would have no width."""
    x = [_position(size.size) for size in sizes]
    y = np.array([size.measured.values[name] for size in sizes], dtype=np.float64)
    low, high = _ends(sizes, name)
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(
        x,
        y,
        color=colour,
        linestyle=LINES[index // len(COLOURS) % len(LINES)],
        linewidth=1.8,
        marker=MARKERS[index % len(MARKERS)],
        markersize=5,
        label=f"curve {index}",
    )
    if len(sizes) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    else:
        axes.vlines(x, low, high, color=colour, linewidth=1.2)


def _ends(sizes: Sequence[SizeMeasured], name: str) -> tuple[Floats, Floats]:
    """The lower and upper ends, float64 [sizes] each; NaN without an interval."""
    nothing = (math.nan, math.nan)
    ends = np.array([size.measured.intervals[name] or nothing for size in sizes])
    return ends[:, 0], ends[:, 1]


def _show_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xticks([_position(size) for size in sizes], labels=[f"{size}" for size in sizes])


def _position(size: int) -> float:
    """Doublings from 1 on, with a place for 0."""
    return math.log2(1 + size)

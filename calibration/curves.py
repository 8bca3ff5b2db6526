"""Two panels of metrics against something that grows: a line a file, a band for its interval."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibration.drawing import COLOURS, LINES, legend, percent, style, svg
from calibration.summary import Measured
from calibration.validation import Floats

MARKERS = ("o", "s", "^", "D", "v", "P")


class Point(NamedTuple):
    """A place of a curve: how far right it is, what its tick says, the metrics there."""

    x: float
    tick: str
    measured: Measured


def curve_diagram(
    curves: Mapping[str, Sequence[Point]], titles: Mapping[str, str], xlabel: str, label: str
) -> str:
    """Draw two metrics side by side.

    Args:
        curves: Points from left to right by the name to show in the legend; a curve of none is
            not drawn, but its colour stays its own.
        titles: The two metrics' names in `METRICS`, each with its axis title.
        xlabel: Title of the axes across.
        label: What the picture is, for readers who do not see it; markup is not escaped.

    Returns:
        An `<svg>` element as text.
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    ticks = dict(sorted((p.x, p.tick) for points in curves.values() for p in points))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for i, points in enumerate(curves.values()):
            if points:
                _draw_curve(axes, points, name, i)
        axes.set(xlabel=xlabel, ylabel=title)
        axes.set_xticks(list(ticks), labels=list(ticks.values()))
        style(axes)
        _scale(axes, name)
    legend(panels[0], [name for name, points in curves.items() if points])
    return svg(figure, label)


def _draw_curve(axes: Axes, points: Sequence[Point], name: str, index: int) -> None:
    """A line with a band; a single point has an error bar, as a band would have no width."""
    x = [point.x for point in points]
    y = np.array([point.measured.values[name] for point in points], dtype=np.float64)
    low, high = _ends(points, name)
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
    if len(points) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    else:
        axes.vlines(x, low, high, color=colour, linewidth=1.2)


def _ends(points: Sequence[Point], name: str) -> tuple[Floats, Floats]:
    """The lower and upper ends, float64 [points] each; NaN without an interval."""
    nothing = (math.nan, math.nan)
    ends = np.array([point.measured.intervals[name] or nothing for point in points])
    return ends[:, 0], ends[:, 1]


def _scale(axes: Axes, name: str) -> None:
    """Shares of right answers as percentages; an ECE from 0, which is as good as it gets."""
    if name == "accuracy":
        percent(axes.yaxis)
    elif name == "ece":
        axes.set_ylim(bottom=0)

"""A picture of few-shot predictions: accuracy and ECE against support size."""

import math
from collections.abc import Mapping, Sequence

from calibration.curves import Point, curve_diagram
from calibration.support import SizeMeasured


def support_diagram(curves: Mapping[str, Sequence[SizeMeasured]]) -> str:
    """Accuracy and ECE against support size, a line each and a band for its interval.

    Args:
        curves: Support sizes from small to large by the name to show in the legend; a curve of
            none is not drawn, but its colour stays its own.

    Returns:
        An `<svg>` element as text.
    """
    points = {
        name: [Point(_position(size.size), f"{size.size}", size.measured) for size in sizes]
        for name, sizes in curves.items()
    }
    return curve_diagram(
        points,
        {"accuracy": "accuracy", "ece": "ECE"},
        "support size",
        "Accuracy and ECE against support size; the table has the numbers",
    )


def _position(size: int) -> float:
    """Doublings from 1 on, with a place for 0."""
    return math.log2(1 + size)

"""A picture of predictions by level count: NLL and accuracy from bucket to bucket."""

from collections.abc import Mapping, Sequence

from calibration.curves import Point, curve_diagram
from calibration.levels import BUCKETS, LevelMeasured


def level_diagram(curves: Mapping[str, Sequence[LevelMeasured]]) -> str:
    """NLL and accuracy by bucket of level counts, a line each and a band for its interval.

    Args:
        curves: Buckets in the order of `BUCKETS` by the name to show in the legend; a curve of
            none is not drawn, but its colour stays its own.

    Returns:
        An `<svg>` element as text.
    """
    points = {
        name: [Point(BUCKETS.index(level.count), level.count, level.measured) for level in levels]
        for name, levels in curves.items()
    }
    return curve_diagram(
        points,
        {"nll": "NLL", "accuracy": "accuracy"},
        "training rows of the level",
        "NLL and accuracy by training rows of the level; the table has the numbers",
    )

"""How the pictures look: colours, axes, legends, and SVG that takes the page's text colour.

Drawn with matplotlib's objects, never with pyplot, so no global state or window is involved.
"""

import io
import warnings
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too; light enough for a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", ":", "-.")
# Replaced by the text colour of the page around the picture, whichever that is.
INK = "#1f2328"


def legend(axes: Axes, names: Sequence[str]) -> None:
    """Name the lines drawn so far, in their order; any text will do as a name.

    Names are put in afterwards, as matplotlib hides labels that begin with an underscore.
    """
    drawn = axes.legend(frameon=False, labelcolor=INK)
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a name with two dollar signs is no formula
        # A file name that is not UTF-8 comes with lone surrogates, on which matplotlib fails.
        text.set_text(name.encode("utf-8", errors="replace").decode("utf-8"))


def percent(*axes: Axis) -> None:
    """Show shares as percentages on these axes."""
    for axis in axes:
        axis.set_major_formatter(lambda share, _: f"{100 * share:g} %")


def style(axes: Axes) -> None:
    """A faint grid, no box, everything in the page's text colour."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(color=INK, labelcolor=INK, labelsize=9)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)


def svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element that scales with the page and takes its text colour."""
    buffer = io.StringIO()
    settings = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "calibration"})
    with settings, warnings.catch_warnings():
        # Text stays text, drawn in the reader's fonts: what matplotlib's own lacks is no matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    body = drawn[drawn.index("<svg") + len("<svg") :].replace(INK, "currentColor")
    return f'<svg role="img" aria-label="{label}"{body}'

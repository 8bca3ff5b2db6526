"""The heterogeneity report as files: levels.html to read, self-contained, and levels.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bayes_lora.files import atomic_text
from bayes_lora.heterogeneity import AttributeReport, Estimate, LevelReport
from bayes_lora.level_view import Array
from calibration.drawing import COLOURS, INK, legend, style, svg

PAGE, DATA = "levels.html", "levels.json"
SURE = 0.95
SHOWN = 20  # levels in a table
DRAWN = 500  # levels in a picture
STEADY = 0.5  # least share of a deviation that is the same whatever the text


def write_levels(
    reports: Sequence[AttributeReport], out: Path, *, run: str, rows: int, seed: int
) -> None:
    """Write ``levels.html`` and ``levels.json``, each in place whole.

    Args:
        reports: What ``describe_levels`` returned.
        out: Folder to write to; made if it is not there.
        run: The run's name.
        rows: Rows measured on.
        seed: Of their choice, and of the choice of levels to draw.

    Raises:
        ConfigError: A file cannot be written.
    """
    settings = {"run": run, "rows": rows, "seed": seed}
    described = settings | {"attributes": [describe(report) for report in reports]}
    texts = {
        DATA: json.dumps(described, indent=2, allow_nan=False) + "\n",
        PAGE: render(reports, settings),
    }
    for name, text in texts.items():
        with atomic_text(out / name) as file:
            # JSON data may hold half of a surrogate pair, which UTF-8 cannot: it becomes "?".
            file.write(text.encode("utf-8", errors="replace").decode("utf-8"))


def describe(report: AttributeReport) -> dict[str, Any]:
    """An attribute as JSON, all of its levels, with options by name."""
    described = asdict(report)
    if report.options is not None:
        described["contrast"] = dict(zip(report.options, described["contrast"], strict=True))
        for level in described["levels"]:
            level["shift"] = dict(zip(report.options, level["shift"], strict=True))
    return described


def render(reports: Sequence[AttributeReport], settings: dict[str, Any]) -> str:
    """The page; whatever comes from the data is escaped.

    Args:
        reports: The attributes.
        settings: ``run``, ``rows`` and ``seed``, named on the page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_section(report, settings["seed"]) for report in reports]
    template = environment.get_template("levels.html.jinja")
    return template.render(settings=settings, sections=sections, threshold=SURE)


def _section(report: AttributeReport, seed: int) -> dict[str, Any]:
    """What the page shows of one attribute."""
    shown = report.levels[:SHOWN]
    return {
        "report": report,
        "sure": sum(level.sure >= SURE for level in report.levels),
        "lines": [
            {
                "level": own,
                "sure": _probability(own.sure),
                "what": what_differs(own, report),
                "leading": _plus_minus(own.leading),
            }
            for own in shown
        ],
        "up": _direction(report),
        "picture": shrinkage_diagram(report, seed),
    }


def what_differs(level: LevelReport, report: AttributeReport) -> str:
    """Say in a few words how a level deviates: "more '5', +0.8 ± 0.2 logits".

    A level whose options keep their means over rows reads texts in another way.
    """
    if level.shift is None or report.options is None:
        return f"{level.deviation:.1f} logits"
    means = [option.mean for option in level.shift]
    if np.square(means).mean() < STEADY * level.deviation**2:
        return f"depends on the text, {level.deviation:.1f} logits"
    # Of two options, which move alike, the one that there is more of.
    most = max(range(len(means)), key=lambda option: (round(abs(means[option]), 9), means[option]))
    more = "more" if means[most] > 0 else "less"
    return f"{more} {report.options[most]!r}, {_plus_minus(level.shift[most])} logits"


def _direction(report: AttributeReport) -> str | None:
    """What one unit up in the picture adds to options, if that is much whatever the text."""
    if report.contrast is None or report.options is None:
        return None
    contrast = np.array(report.contrast)
    if (contrast**2).mean() < STEADY:
        return None
    most, least = int(contrast.argmax()), int(contrast.argmin())
    return f"more {report.options[most]!r}, less {report.options[least]!r}"


def _plus_minus(estimate: Estimate) -> str:
    return f"{estimate.mean:+.1f} ± {estimate.sd:.1f}".replace("-", "\N{MINUS SIGN}")


def _probability(value: float) -> str:
    return ">0.99" if value > 0.99 else f"{value:.2f}"


def shrinkage_diagram(report: AttributeReport, seed: int) -> str:
    """Draw how levels shrink to the population, against their training rows.

    Args:
        report: The attribute; at most ``DRAWN`` of its levels are drawn.
        seed: Of which.

    Returns:
        An `<svg>` element as text.
    """
    return svg(_figure(report, seed), "Deviations of levels against their training rows")


def _figure(report: AttributeReport, seed: int) -> Figure:
    order = np.random.default_rng(seed).permutation(len(report.levels))[:DRAWN]
    levels = [report.levels[i] for i in sorted(order, key=lambda i: report.levels[i].name)]
    x = _spread_out(np.array([level.count for level in levels], dtype=np.float64))
    alone = [np.nan if own.unpooled is None else own.unpooled for own in levels]
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = figure.subplots()
    _draw_levels(axes, x, [own.leading for own in levels], np.array(alone), report.spread)
    _scale_counts(axes, x)
    axes.set(xlabel="training rows of the level", ylabel="deviation from the population, logits")
    style(axes)
    legend(axes, ["the level's rows alone", "posterior: mean and one standard deviation"])
    return figure


def _draw_levels(
    axes: Axes, x: Array, places: Sequence[Estimate], alone: Array, spread: float
) -> None:
    means = np.array([place.mean for place in places])
    sds = np.array([place.sd for place in places])
    limit = 1.1 * _limit(np.concatenate([np.abs(means) + sds, [2 * spread]]), alone)
    axes.axhspan(-spread, spread, color=INK, alpha=0.07, linewidth=0)
    axes.axhline(0, color=INK, linewidth=1)
    light, dark = COLOURS[4], COLOURS[0]
    few = len(x) <= 50
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5 if few else 3}
    shown = np.abs(alone) <= limit
    axes.vlines(x, np.clip(alone, -limit, limit), means, color=light, alpha=0.3, linewidth=0.8)
    axes.plot(x[shown], alone[shown], color=light, alpha=0.55, label="alone", **dot)
    axes.vlines(x, means - sds, means + sds, color=dark, alpha=0.6 if few else 0.25, linewidth=1.2)
    axes.plot(x, means, color=dark, alpha=0.9, label="posterior", **dot)
    axes.set_ylim(-limit, limit)


def _limit(pooled: Array, alone: Array) -> float:
    """How far the picture reaches: all that is pooled, and most of what is not.

    A level's one row may say anything; a few such would leave no room for the rest.
    """
    known = np.abs(alone[~np.isnan(alone)])
    most = np.quantile(known, 0.95) if len(known) else 0.0
    return float(max(pooled.max(), min(most, 3 * pooled.max()), 1e-3))


def _spread_out(counts: Array) -> Array:
    """Put levels with the same count beside each other, within a tenth of it."""
    x = counts.copy()
    for count in np.unique(counts):
        (same,) = np.nonzero(counts == count)
        x[same] = count * np.exp(np.linspace(-0.1, 0.1, len(same) + 2)[1:-1])
    return x


def _scale_counts(axes: Axes, x: Array) -> None:
    axes.set_xscale("log")
    axes.set_xlim(x.min() / 1.7, x.max() * 1.7)  # so wide that a tick lies within
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}" if at % 1 == 0 else ""))
    axes.xaxis.set_minor_locator(NullLocator())

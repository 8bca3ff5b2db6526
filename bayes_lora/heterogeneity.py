"""Who differs, how much and how surely: what a fit with attributes knows of each level.

All of it is algebra on the levels' posteriors and on how the logits of some rows move with a
level's coordinates, to first order at the population's weights (``inference/linearise.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bayes_lora.data import Example
from bayes_lora.errors import ConfigError, check_seed
from bayes_lora.guides import LevelNormals, MeanField
from bayes_lora.inference.levels import MEASURED
from bayes_lora.inference.linearise import Linearised, linearise
from bayes_lora.inference.methods import guide_name
from bayes_lora.level_effect import LevelEffect
from bayes_lora.level_view import Array, LevelView, Mask, array, centred
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import PosteriorConfig
from bayes_lora.scorers import LabelledRows, check_scorable

LEAST_WEIGHT = 0.01  # below, what a level's rows say by themselves is anything at all


@dataclass(frozen=True)
class Estimate:
    """A posterior mean and standard deviation."""

    mean: float
    sd: float


@dataclass(frozen=True)
class LevelReport:
    """What is known of one level; deviations are from the population, in logits (nats).

    Args:
        name: The level.
        count: Its training rows.
        effective: How many average rows' worth of information its posterior holds. Coordinates
            count by themselves, so rows that say the same of several count less than each.
        weight: Of its own rows against the population's: the share of the prior variance that
            they removed, from 0 to 1.
        deviation: How far its mean moves logits, root mean square over rows and options.
        sure: Probability that it deviates from the population in the direction its rows say; 0.5:
            nothing is known. The mean-field posterior makes it a little too small. A level with
            many rows surely deviates in one way or another where levels may do so in many ways;
            ``leading`` is about one way, the same for all levels.
        shift: The mean change over rows of each option's centred logit; None where rows do not
            share one label set. Near zero beside a large deviation, what changes is how the text
            is read.
        leading: The deviation along the direction in which the attribute's levels differ most.
        unpooled: What the level's rows alone say of that: the mean divided by their weight there;
            None where the weight is under ``LEAST_WEIGHT``.
    """

    name: str
    count: int
    effective: float
    weight: float
    deviation: float
    sure: float
    shift: tuple[Estimate, ...] | None
    leading: Estimate
    unpooled: float | None


@dataclass(frozen=True)
class AttributeReport:
    """How much the levels of one attribute differ.

    Args:
        attribute: The column.
        tau: What a level typically adds to a logit, in nats: the spread's posterior median.
        interval: Its central 95 %.
        share: Of the variation of logits explained by the attribute, from 0 to 1: its variance
            over the sum of the population's and all attributes'. On the latent scale, as
            Nakagawa & Schielzeth (2013, Methods Ecol. Evol. 4), but without the distribution's
            own variance, which is no model's to explain.
        options: The label set that all rows share; None: there is none.
        spread: Of the levels' prior along the leading direction, a standard deviation in nats.
        contrast: What one unit along the leading direction adds to each option, over rows.
        levels: The surest first.
    """

    attribute: str
    tau: float
    interval: tuple[float, float]
    share: float
    options: tuple[str, ...] | None
    spread: float
    contrast: tuple[float, ...] | None
    levels: tuple[LevelReport, ...]


def describe_levels(
    posterior: Posterior, examples: Sequence[Example], seed: int = 0
) -> list[AttributeReport]:
    """Say of every attribute of a run how much its levels differ, and of every level how.

    Args:
        posterior: A mean-field posterior fitted with attributes.
        examples: Some rows of the run's kind, to measure on; labels are not looked at. At most
            ``MEASURED`` of them are taken.
        seed: Of which.

    Raises:
        ConfigError: A point, a run without attributes, or no examples.
        InputDataError: The options of one cannot be scored.
    """
    check_seed(seed)
    check_levels(posterior.config)
    if not examples:
        raise ConfigError("The levels are measured on some rows: give at least one.")
    order = np.random.default_rng(seed).permutation(len(examples))[:MEASURED]
    some = [examples[i] for i in order]
    check_scorable(posterior.config.scorer, posterior.model.backbone, some)
    tables: dict[str, LevelNormals] = {}
    for name, table in posterior.guide.by_level.items():
        assert isinstance(table, LevelNormals)
        tables[name] = table
    return report_levels(
        _measure(posterior, some), posterior.model.by_level, tables, _options(posterior, some)
    )


def check_levels(config: PosteriorConfig) -> None:
    """Check that a run knows something of levels.

    Raises:
        ConfigError: It does not; the message says how to fit one that does.
    """
    if not config.levels:
        raise ConfigError(
            "This run was fitted without attributes, so it knows of no levels: fit one with "
            "--attributes and the columns whose levels may differ, such as user_id."
        )
    if not isinstance(config.guide, MeanField):
        raise ConfigError(
            f"The guide {guide_name(config.guide)!r} has points, which do not say how sure "
            "they are of a level: fit with the guide 'mean-field'."
        )


def report_levels(
    measured: Linearised,
    effects: Mapping[str, LevelEffect],
    tables: Mapping[str, LevelNormals],
    options: tuple[str, ...] | None,
) -> list[AttributeReport]:
    """Do the algebra.

    Args:
        measured: Some rows, all their options in order.
        effects: Of each attribute, by the effect's name.
        tables: The posteriors of their levels.
        options: The label set that all rows share; None: there is none.
    """
    there = measured.offsets.numpy() > -np.inf
    views = {
        name: LevelView(effect, tables[name], centred(array(measured.features[name]), there), there)
        for name, effect in effects.items()
    }
    explained = _population_variance(array(measured.offsets), there)
    explained += sum(view.variance for view in views.values())
    return [_report(view, view.variance / explained, options) for view in views.values()]


def _report(view: LevelView, share: float, options: tuple[str, ...] | None) -> AttributeReport:
    effect = view.effect
    low, high = effect.interval.tolist()
    spread = float(np.sqrt(view.prior**2 @ view.leading**2))
    contrast = None if options is None else tuple(view.contrast(view.leading).tolist())
    levels = sorted(_levels(view, options), key=lambda own: (-own.sure, -own.deviation))
    return AttributeReport(
        attribute=effect.levels.attribute,
        tau=float(effect.tau),
        interval=(low, high),
        share=share,
        options=options,
        spread=spread,
        contrast=contrast,
        levels=tuple(levels),
    )


def _levels(view: LevelView, options: tuple[str, ...] | None) -> list[LevelReport]:
    known = view.effect.levels
    columns = (
        view.effective().tolist(),
        view.weight(view.metric.diagonal()).tolist(),
        view.deviation().tolist(),
        view.sure().tolist(),
        [None] * len(known) if options is None else _shifts(view),
        *_along(view),
    )
    return [
        LevelReport(name, count, *own)
        for name, count, *own in zip(known.names, known.counts, *columns, strict=True)
    ]


def _along(view: LevelView) -> tuple[list[Estimate], list[float | None]]:
    """Give each level's place along the leading direction, and what its rows alone say of it."""
    squares = view.leading**2
    means = (view.loc @ view.leading).tolist()
    sds = np.sqrt(view.scale**2 @ squares).tolist()
    weights = view.weight(squares).tolist()
    alone = [m / w if w >= LEAST_WEIGHT else None for m, w in zip(means, weights, strict=True)]
    return [Estimate(m, s) for m, s in zip(means, sds, strict=True)], alone


def _shifts(view: LevelView) -> list[tuple[Estimate, ...]]:
    means, sds = view.shift()
    return [
        tuple(Estimate(float(m), float(s)) for m, s in zip(own, sd, strict=True))
        for own, sd in zip(means, sds, strict=True)
    ]


def _measure(posterior: Posterior, examples: Sequence[Example]) -> Linearised:
    rows = posterior.config.scorer.rows(posterior.model.backbone, examples)
    population = posterior.draw(0)
    data = LabelledRows(rows, [0] * len(rows))  # with all options kept, labels say nothing
    measured = linearise(posterior.model, population, data, most_options=None)
    return measured.times(float(posterior.model.factor(posterior.model.by_level)))


def _options(posterior: Posterior, examples: Sequence[Example]) -> tuple[str, ...] | None:
    """The run's one label set, if it is these examples' too."""
    sets = posterior.config.label_sets
    alike = len(sets) == 1 and all(example.options == sets[0] for example in examples)
    return sets[0] if alike else None


def _population_variance(logits: Array, there: Mask) -> float:
    """Variance over rows of the population's centred logits, a mean over options.

    Options without a label set are told apart by their place in the row.
    """
    own = centred(np.where(there, logits, 0.0)[:, :, None], there)[:, :, 0]
    means = own.sum(0) / there.sum(0).clip(1)
    return float((there * (own - means) ** 2).sum() / there.sum())

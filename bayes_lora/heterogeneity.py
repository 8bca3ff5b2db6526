"""Who differs, how much and how surely: what a fit with attributes knows of each level.

All of it is algebra on the levels' posteriors and on how the logits of some rows move with a
level's coordinates, to first order at the population's weights (``inference/linearise.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from bayes_lora.data import Example
from bayes_lora.errors import ConfigError, check_seed
from bayes_lora.guides import LevelNormals
from bayes_lora.inference.levels import MEASURED
from bayes_lora.inference.linearise import Linearised, linearise
from bayes_lora.level_effect import LevelEffect
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import PosteriorConfig
from bayes_lora.scorers import LabelledRows, check_scorable

Array = NDArray[np.float64]

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
    if config.guide != "mean-field":
        raise ConfigError(
            f"The guide {config.guide!r} has points, which do not say how sure they are of a "
            "level: fit with the guide 'mean-field'."
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
        name: _View(effect, tables[name], _centred(_array(measured.features[name]), there), there)
        for name, effect in effects.items()
    }
    explained = _population_variance(_array(measured.offsets), there)
    explained += sum(view.variance for view in views.values())
    return [_report(view, view.variance / explained, options) for view in views.values()]


class _View:
    """One attribute in numbers.

    Args:
        effect: Its prior and information.
        table: The posterior of its levels.
        features: Derivatives of the rows' centred logits, ``[N, O, K]``; zero where no option is.
        there: Which options there are, ``[N, O]``.
    """

    def __init__(
        self, effect: LevelEffect, table: LevelNormals, features: Array, there: NDArray[np.bool_]
    ) -> None:
        self.effect = effect
        self.features = features
        self.shape = _array(effect.shape)
        self.prior = float(effect.tau) * self.shape
        self.loc, self.scale = _array(table.loc), _array(table.scales)
        # z' H z: the mean square, over rows and options, of what z adds to the logits.
        self.metric = np.einsum("nok,nol->kl", features, features) / there.sum()

    @property
    def variance(self) -> float:
        """Of logits, by levels drawn from the prior."""
        return float(self.prior**2 @ self.metric.diagonal())

    def effective(self) -> Array:
        """Count average rows in each level's posterior, ``[L]``."""
        gain = np.maximum(self.scale**-2.0 - self.prior**-2.0, 0)  # float32 may round below 0
        return gain @ self.shape**2 / (_array(self.effect.information) @ self.shape**2)

    def weight(self, along: Array) -> Array:
        """Give the share of the prior variance removed, over coordinates weighted so, ``[L]``."""
        return np.clip(1 - self.scale**2 @ along / (self.prior**2 @ along), 0, 1)

    def deviation(self) -> Array:
        """Measure the means, ``[L]``."""
        return np.sqrt(np.einsum("lk,kj,lj->l", self.loc, self.metric, self.loc).clip(0))

    def sure(self) -> Array:
        """Give the probability that a level lies on its mean's side of the population, ``[L]``.

        Along the mean m, in the metric H, a level's z is ``m' H z / |m|``, Normal around |m|.
        """
        along = self.loc @ self.metric
        square = (along * self.loc).sum(1)
        sd = np.sqrt((along**2 * self.scale**2).sum(1))  # both times |m|
        ratio: Array = np.divide(square, sd, out=np.zeros_like(square), where=sd > 0)
        return ndtr(ratio)

    def shift(self) -> tuple[Array, Array]:
        """Average over rows what levels add to options: mean and sd, ``[L, O]``."""
        mean = self.features.mean(0)
        return self.loc @ mean.T, np.sqrt(self.scale**2 @ (mean**2).T)

    @cached_property
    def leading(self) -> Array:
        """The direction in which the means differ most: ``z @ leading`` is in nats, ``[K]``."""
        values, vectors = np.linalg.eigh(self.metric)
        root = np.sqrt(values.clip(0))[:, None] * vectors.T  # root' root = H
        moved = self.loc @ root.T
        axis: Array = np.linalg.eigh(moved.T @ moved)[1][:, -1] @ root
        return -axis if self._points_down(axis) else axis

    def contrast(self, axis: Array) -> Array:
        """Regress the levels' shifts on where they lie along an axis, ``[O]``."""
        along = self.loc @ axis
        square = max(float(along @ along), 1e-30)
        return self.shift()[0].T @ along / square

    def _points_down(self, axis: Array) -> bool:
        """Whether the option that moves most goes down along an axis, whose sign means nothing."""
        contrast = self.contrast(axis)
        size = np.abs(contrast)
        (largest,) = np.nonzero(size >= (1 - 1e-6) * size.max())
        return bool(contrast[largest[-1]] < 0)  # of two options, both: up is the latter


def _report(view: _View, share: float, options: tuple[str, ...] | None) -> AttributeReport:
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


def _levels(view: _View, options: tuple[str, ...] | None) -> list[LevelReport]:
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


def _along(view: _View) -> tuple[list[Estimate], list[float | None]]:
    """Give each level's place along the leading direction, and what its rows alone say of it."""
    squares = view.leading**2
    means = (view.loc @ view.leading).tolist()
    sds = np.sqrt(view.scale**2 @ squares).tolist()
    weights = view.weight(squares).tolist()
    alone = [m / w if w >= LEAST_WEIGHT else None for m, w in zip(means, weights, strict=True)]
    return [Estimate(m, s) for m, s in zip(means, sds, strict=True)], alone


def _shifts(view: _View) -> list[tuple[Estimate, ...]]:
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


def _population_variance(logits: Array, there: NDArray[np.bool_]) -> float:
    """Variance over rows of the population's centred logits, a mean over options.

    Options without a label set are told apart by their place in the row.
    """
    centred = _centred(np.where(there, logits, 0.0)[:, :, None], there)[:, :, 0]
    means = centred.sum(0) / there.sum(0).clip(1)
    return float((there * (centred - means) ** 2).sum() / there.sum())


def _centred(values: Array, there: NDArray[np.bool_]) -> Array:
    """Less their mean over a row's options, ``[N, O, K]``; zero where there is no option."""
    mask = there[:, :, None]
    return mask * (values - (mask * values).sum(1, keepdims=True) / mask.sum(1, keepdims=True))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()

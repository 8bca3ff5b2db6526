"""A multinomial logistic mixed model with given features: levels' posteriors and their spreads.

The logits of row i are ``offset_i + sum over attributes a of features_ai z_a[level of i]``, and
``z_a`` of every level is Normal(mu_a, (tau_a * shape_a)^2): mu_a is what all levels have in common,
and is not to be taken for a difference. Fitted by penalised quasi-likelihood (Breslow & Clayton
1993, JASA 88): logits are linearised at the present deviations, where the model is Gaussian and
everything is algebra, until they move no more. tau's posterior is computed on a grid, from the
marginal likelihood of the attribute's rows, with mu_a integrated out (restricted likelihood:
Patterson & Thompson 1971, Biometrika 58; by Laplace's method).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from bayes_lora.inference.level_mean import Turned

# tau, in nats of a logit; below the least an attribute is nothing, above the most no prior.
GRID = np.geomspace(0.003, 5.0, 23)
FINE = np.geomspace(GRID[0], GRID[-1], 1000)  # interpolated
NEAR, WIDE = 16, 8  # draws of a level: from about its posterior, and from the prior
NOISE = 8  # draws of what other attributes add to a row
MOST_ROUNDS, TOLERANCE = 30, 1e-3
TAU_ROUNDS = 3  # tau moves by less than 1 % afterwards
COVERED = (0.025, 0.975)
ROWS_AT_A_TIME = 1000


@dataclass(frozen=True)
class Grouped:
    """The rows of one attribute, as the mixed model sees them.

    Args:
        features: How a row's logits move with its level's coordinates, ``[N, options, K]``.
        levels: Each row's level, int64 ``[N]``; -1: none.
        number: Levels there are, L.
        shape: Standard deviations of the coordinates where tau is 1, ``[K]``.
        prior_scale: Of tau's half-normal prior.
        mean_scale: Standard deviation, in units of ``shape``, of the mean's prior; 0: it is zero.
    """

    features: Tensor
    levels: Tensor
    number: int
    shape: Tensor
    prior_scale: float
    mean_scale: float = 0.0


@dataclass
class Fitted:
    """What is known of an attribute's levels; all in float64.

    Args:
        mean: What all levels' coordinates have in common, ``[K]``.
        loc: Posterior means of the levels' deviations from it, ``[L, K]``.
        scale: Their standard deviations, with those of the other coordinates and the other
            attributes integrated out, ``[L, K]``.
        tau: The spread's posterior median.
        interval: Its central 95 %.
        shape: Standard deviations of the coordinates where tau is 1, as given, ``[K]``.
        evidence: Log density of the labels, at the best tau, over that of no spread at all (of a
            mean alone).
    """

    mean: Tensor
    loc: Tensor
    scale: Tensor
    tau: float
    interval: tuple[float, float]
    shape: Tensor
    evidence: float = 0.0


def fit_mixed_model(offsets: Tensor, labels: Tensor, attributes: Sequence[Grouped]) -> list[Fitted]:
    """Fit the levels of all attributes.

    Two attributes are told apart by rows that share a level of one and not of the other; to tau
    of one, what the other adds is noise of a known size, a row's own.

    Args:
        offsets: Logits of the population, ``[N, options]``; minus infinity: no such option.
        labels: Option indices, int64 ``[N]``.
        attributes: What the rows are grouped by.

    Returns:
        For each attribute, what is known of its levels.
    """
    solver = _Solver(offsets.double(), labels, attributes)
    for done in range(MOST_ROUNDS):
        learn = done < TAU_ROUNDS
        moved = max(solver.improve(i, learn_tau=learn) for i in range(len(attributes)))
        if moved < TOLERANCE:
            break
    return solver.fitted


def evidence(offsets: Tensor, labels: Tensor, own: Grouped) -> float:
    """Say how much likelier the labels are with one attribute's levels than without, in nats.

    It is the log marginal likelihood at the best tau, less that without a spread; it compares
    features, such as fewer of the same coordinates. Other attributes are not looked at.
    """
    solver = _Solver(offsets.double(), labels, [own])
    solver.improve(0, learn_tau=True)
    return solver.fitted[0].evidence


class _Solver:
    """The state of a fit: every attribute's levels, each improved given the others."""

    def __init__(self, offsets: Tensor, labels: Tensor, attributes: Sequence[Grouped]) -> None:
        self.offsets = offsets
        self.wanted = torch.nn.functional.one_hot(labels, offsets.shape[1]).to(offsets)
        self.attributes = attributes
        self.fitted = [_start(own) for own in attributes]
        generator = torch.Generator().manual_seed(0)
        self.base = [
            _normal((NEAR + WIDE, own.number, len(own.shape)), generator) for own in attributes
        ]
        self.rows_base = [
            _normal((NOISE // 2, len(own.levels), len(own.shape)), generator) for own in attributes
        ]

    def improve(self, place: int, *, learn_tau: bool) -> float:
        """Learn one attribute's tau and levels; return how far coordinates moved, in nats."""
        own, fitted = self.attributes[place], self.fitted[place]
        deviations = self._deviations()
        probabilities = (self.offsets + self._means() + deviations).softmax(-1)
        curvature = torch.diag_embed(probabilities) - probabilities.unsqueeze(
            2
        ) * probabilities.unsqueeze(1)
        residual = self.wanted - probabilities
        damping = self._damping(place, curvature)
        # To tau, other attributes are noise: their estimates go back into the residual.
        pulled = deviations + _common(own, fitted)
        working = residual + _times(curvature, pulled)
        noisy = _information(own, lambda rows: damping[rows] @ curvature[rows])
        turned = _turned(own, _by_level(own, _pulled_back(own, _times(damping, working))), noisy)
        if learn_tau:
            fitted.tau, fitted.interval, fitted.evidence = self._spread(place, turned)
        common = turned.mean(fitted.tau)
        mean = common.loc * own.shape
        # To the levels, they are known as well as their own posteriors say, and their means enter.
        information = _information(own, lambda rows: curvature[rows])
        there = fitted.loc - (mean - fitted.mean)
        gradient = _by_level(own, _pulled_back(own, residual)) + _times(information, there)
        moved = float(((mean - fitted.mean) / own.shape).abs().max())
        fitted.mean = mean
        fitted.scale = turned.scale(fitted.tau, common) * own.shape
        return max(moved, self._settle(own, fitted, gradient, information))

    def _means(self) -> Tensor:
        """What is common to all levels adds to the rows' logits at present, ``[N, options]``."""
        return torch.stack(list(map(_common, self.attributes, self.fitted))).sum(0)

    def _deviations(self) -> Tensor:
        """What levels add beside that."""
        return torch.stack(list(map(_deviations, self.attributes, self.fitted))).sum(0)

    def _settle(self, own: Grouped, fitted: Fitted, gradient: Tensor, information: Tensor) -> float:
        """Move the levels to where their posterior has its mode."""
        precision = torch.diag((fitted.tau * own.shape).double() ** -2)
        factor = torch.linalg.cholesky(information + precision)
        loc = torch.cholesky_solve(gradient.unsqueeze(2), factor).squeeze(2)
        moved = float(((loc - fitted.loc) / (fitted.tau * own.shape)).abs().max())
        fitted.loc = loc
        return moved * fitted.tau

    def _spread(self, place: int, turned: Turned) -> tuple[float, tuple[float, float], float]:
        """Give tau's posterior median and interval, and the evidence for a spread, on the grid.

        The marginal likelihood of a level's rows is estimated by importance sampling: some
        draws come from the Gaussian that its score and information make of the level's
        posterior at each tau, some from the prior, which reaches what a Gaussian does not
        (a defensive mixture: Hesterberg 1995, Technometrics 37); the same base noise throughout.
        The Gaussian itself, which penalised quasi-likelihood would take for the truth, has tau too
        small where a level has few rows.
        """
        own = self.attributes[place]
        known = own.levels >= 0
        levels = own.levels[known]
        features = (own.features[known].double() * own.shape) @ turned.vectors[levels]
        features = features.float()
        fixed = self.offsets + self._means() - _common(own, self.fitted[place])
        offsets = (fixed + self._noise(place))[:, known].float()
        picked, base = self.wanted[known].argmax(1), self.base[place]

        def marginal(tau: float) -> float:
            common = turned.mean(tau)
            shift = turned.at(common.loc)
            variance = (tau**2 / (1 + tau**2 * turned.values)).float()
            mean = (variance * (turned.along - turned.values * shift)).float()
            near = mean + variance.sqrt() * base[:NEAR]
            drawn = torch.cat([near, tau * base[NEAR:]])  # [S, L, K]
            total = drawn.new_zeros(drawn.shape[:2])
            for rows in _slices(len(levels)):
                logits = torch.einsum(
                    "nok,snk->sno", features[rows], (drawn + shift.float())[:, levels[rows]]
                )
                log_rows = _log_probability(offsets[:, rows], logits, picked[rows])  # [S, n]
                total.index_add_(1, levels[rows], log_rows)
            prior = -((drawn / tau).square() / 2 + math.log(tau)).sum(2)
            normal = -((drawn - mean).square() / variance / 2 + variance.log() / 2).sum(2)
            proposal = torch.logaddexp(normal + math.log(NEAR), prior + math.log(WIDE))
            of_levels = (total + prior - proposal).logsumexp(0).double().sum()
            return float(of_levels) + common.log_weight

        at_grid = [marginal(float(tau)) for tau in GRID]
        log_likelihood = CubicSpline(np.log(GRID), at_grid)(np.log(FINE))
        log_prior = -((FINE / own.prior_scale) ** 2) / 2
        best = float((log_likelihood + log_prior).max() - log_likelihood[0])
        # The grid is even in log tau: a density of tau has a factor tau there.
        return *_quantiles(log_likelihood + log_prior + np.log(FINE)), best

    def _noise(self, place: int) -> Tensor:
        """Draw what the other attributes add to each row under their priors, ``[M, N, O]``."""
        others = [i for i in range(len(self.attributes)) if i != place]
        total = torch.zeros(NOISE if others else 1, *self.offsets.shape).to(self.offsets)
        for other in others:
            own, fitted = self.attributes[other], self.fitted[other]
            scale = fitted.tau * own.shape.double() * (own.levels >= 0).unsqueeze(1)
            half = torch.einsum(
                "nok,mnk->mno", own.features.double(), self.rows_base[other] * scale
            )
            total += torch.cat([half, -half])
        return total

    def _damping(self, place: int, curvature: Tensor) -> Tensor:
        """What is left of a row's information beside the other attributes' noise, ``[N, O, O]``.

        Logits with noise of covariance V know ``(inverse of curvature + V)``'s inverse, which is
        ``(1 + curvature V)^-1 curvature``; the first factor of that is returned.
        """
        noise = torch.zeros_like(curvature)
        for other, (own, fitted) in enumerate(zip(self.attributes, self.fitted, strict=True)):
            if other != place:
                scaled = own.features.double() * (fitted.tau * own.shape)
                noise += (own.levels >= 0)[:, None, None] * (scaled @ scaled.transpose(1, 2))
        identity = torch.eye(curvature.shape[1]).to(curvature)
        return torch.linalg.inv(identity + curvature @ noise)


def _turned(own: Grouped, score: Tensor, information: Tensor) -> Turned:
    shape = own.shape.double()
    values, vectors = torch.linalg.eigh(shape.unsqueeze(1) * information * shape)
    along = _times(vectors.transpose(1, 2), score * shape)
    return Turned(values.clamp(min=0), vectors, along, own.mean_scale)


def _start(own: Grouped) -> Fitted:
    zeros = torch.zeros(own.number, own.features.shape[2]).to(own.features.device).double()
    mean, scale = zeros.new_zeros(zeros.shape[1]), torch.ones_like(zeros) * own.shape
    return Fitted(mean, zeros, scale, 0.3 * own.prior_scale, (0.0, 0.0), own.shape)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _log_probability(offsets: Tensor, logits: Tensor, picked: Tensor) -> Tensor:
    """Average each row's probability of its label over the noise in the offsets, ``[S, N]``."""
    total: list[Tensor] = []
    for noisy in offsets:
        log_rows = (noisy + logits).log_softmax(-1)
        total.append(log_rows.gather(2, picked.expand(len(logits), -1).unsqueeze(2)).squeeze(2))
    return torch.stack(total).logsumexp(0)


def _quantiles(log_density: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    """Give the median and the central interval of a density on the fine grid."""
    density = np.exp(log_density - log_density.max())
    cumulative = np.cumsum(density / density.sum())
    low, median, high = (
        float(FINE[np.searchsorted(cumulative, share)]) for share in (COVERED[0], 0.5, COVERED[1])
    )
    return median, (low, high)


def _deviations(own: Grouped, fitted: Fitted) -> Tensor:
    """What an attribute's levels add to the rows' logits, ``[N, options]``."""
    coordinates = fitted.loc[own.levels.clamp(min=0)] * (own.levels >= 0).unsqueeze(1)
    return _times(own.features.double(), coordinates)


def _common(own: Grouped, fitted: Fitted) -> Tensor:
    """What is common to all levels adds to the rows' logits, ``[N, options]``."""
    return own.features.double() @ fitted.mean


def _pulled_back(own: Grouped, logits: Tensor) -> Tensor:
    """Turn a gradient of the rows' logits into one of their levels' coordinates, ``[N, K]``."""
    return _times(own.features.double().transpose(1, 2), logits)


def _by_level(own: Grouped, values: Tensor) -> Tensor:
    """Sum rows' values by level, ``[L, ...]``."""
    known = own.levels >= 0
    total = values.new_zeros(own.number, *values.shape[1:])
    return total.index_add_(0, own.levels[known], values[known])


def _information(own: Grouped, curvature: Callable[[slice], Tensor]) -> Tensor:
    """Sum rows' information about their levels' coordinates by level, ``[L, K, K]``."""
    count = own.features.shape[2]
    total = torch.zeros(own.number, count, count).to(own.features.device).double()
    for rows in _slices(len(own.levels)):
        known = own.levels[rows] >= 0
        features = own.features[rows].double()
        values = features.transpose(1, 2) @ curvature(rows) @ features
        total.index_add_(0, own.levels[rows][known], values[known])
    return total


def _slices(number: int) -> list[slice]:
    """Cut rows into parts, so that what is made of each needs little memory."""
    return [slice(i, i + ROWS_AT_A_TIME) for i in range(0, number, ROWS_AT_A_TIME)]


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply each matrix with its vector."""
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)

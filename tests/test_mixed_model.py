"""The mixed model against simulated truth and against quadrature, which is exact."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bayes_lora.inference.mixed_model import Fitted, Grouped, fit_mixed_model
from calibration import nll

PRIOR_SCALE = 1.0
LARGEST = 5.0  # tau beyond this has no prior


@dataclass(frozen=True)
class Simulated:
    """Rows drawn from the model, and the coordinates that their levels truly have."""

    offsets: Tensor
    labels: Tensor
    attributes: list[Grouped]
    coordinates: list[Tensor]

    def fit(self) -> list[Fitted]:
        return fit_mixed_model(self.offsets, self.labels, self.attributes)

    def of(self, rows: Tensor) -> "Simulated":
        """Some of the rows, in this order."""
        attributes = [
            replace(own, features=own.features[rows], levels=own.levels[rows])
            for own in self.attributes
        ]
        return Simulated(self.offsets[rows], self.labels[rows], attributes, self.coordinates)

    def grouped(self, place: int, **changes: object) -> "Simulated":
        """The same with something else in one attribute."""
        attributes = list(self.attributes)
        attributes[place] = replace(attributes[place], **changes)  # type: ignore[arg-type]
        return replace(self, attributes=attributes)


def simulate(
    seed: int,
    rows: int,
    options: int,
    width: int,
    levels: Sequence[int],
    taus: Sequence[float],
    assigned: Tensor | None = None,
) -> Simulated:
    """Draw rows; what a coordinate does to them is half the rows' own, half alike for all.

    Args:
        seed: Of everything.
        rows: How many.
        options: Of each row.
        width: Coordinates of a level, each with half the weight of the one before.
        levels: Of each attribute, how many.
        taus: Of each attribute, the true spread.
        assigned: The rows' levels of the only attribute; None: at random.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    offsets = normal(rows, options)
    logits, attributes, coordinates = offsets, [], []
    for number, tau in zip(levels, taus, strict=True):
        sizes = 2.0 ** -torch.arange(width, dtype=torch.float64)
        features = (normal(rows, options, width) + normal(1, options, width)) * sizes
        centred = features - features.mean(1, keepdim=True)
        shape = torch.full((width,), float(centred.square().sum(2).mean()) ** -0.5).double()
        own = torch.randint(0, number, (rows,), generator=generator)
        own = own if assigned is None else assigned
        true = normal(number, width) * tau * shape
        logits = logits + torch.einsum("nok,nk->no", features, true[own])
        attributes.append(Grouped(features, own, number, shape, PRIOR_SCALE))
        coordinates.append(true)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return Simulated(offsets, labels, attributes, coordinates)


CASES = {
    "three options": ((1000, 3, 4, (100,)), (0.6,), 10),
    "binary": ((1000, 2, 4, (100,)), (0.6,), 10),
    "crossed": ((500, 3, 2, (50, 60)), (0.9, 0.6), 8),
}


FittedCases = dict[str, list[tuple[Simulated, list[Fitted]]]]


@pytest.fixture(scope="module")
def fitted_cases() -> FittedCases:
    """Repetitions of each case, with their fits."""
    found: FittedCases = {}
    for case, (sizes, taus, repetitions) in CASES.items():
        simulated = [simulate(seed, *sizes, taus) for seed in range(repetitions)]
        found[case] = [(data, data.fit()) for data in simulated]
    return found


@pytest.mark.parametrize("case", [*CASES])
def test_tau_is_recovered_and_its_interval_covers(case: str, fitted_cases: FittedCases) -> None:
    taus, repetitions = CASES[case][1:]
    fits = [fits for _, fits in fitted_cases[case]]
    for place, tau in enumerate(taus):
        found = np.array([fitted[place].tau for fitted in fits])
        # Three standard errors, and 3 % for a median being no mean.
        error = 3 * found.std(ddof=1) / np.sqrt(repetitions) + 0.03 * tau
        assert abs(found.mean() - tau) < error
        intervals = [fitted[place].interval for fitted in fits]
        # Fewer than all but 2 of 10 (8) has probability 0.012 (0.006) where 95 % are covered.
        assert sum(low <= tau <= high for low, high in intervals) >= repetitions - 2


BAYESIAN = {
    "binary": ((400, 2, 2, (40,)), 30),
    "three options": ((400, 3, 3, (40,)), 30),
    "crossed": ((300, 3, 2, (30, 40)), 12),
}


@pytest.mark.parametrize("case", [*BAYESIAN])
def test_intervals_cover_taus_drawn_from_the_prior(case: str) -> None:
    """Truth from the prior is covered as often as the posterior says (Talts et al. 2018).

    Of seeds 30 to 149, 114 of 120 are covered with three options, and 64 medians lie above.
    """
    sizes, repetitions = BAYESIAN[case]
    covered, below, number = 0, 0, 0
    for seed in range(30, 30 + repetitions):
        prior = np.random.default_rng(seed).normal(size=len(sizes[3]))
        taus = PRIOR_SCALE * np.abs(prior)
        for tau, fitted in zip(taus, simulate(seed, *sizes, taus).fit(), strict=True):
            covered += fitted.interval[0] <= tau <= fitted.interval[1]
            below += tau < fitted.tau
            number += 1
    expected, error = 0.95 * number, np.sqrt(number * 0.95 * 0.05)
    assert covered > expected - 3 * error
    assert abs(below - number / 2) < 3 * np.sqrt(number) / 2


def _log_likelihoods(data: Simulated, points: Tensor) -> Tensor:
    """Log-likelihood of each level's rows at some coordinates ``[Z, K]``: ``[L, Z]``."""
    (own,) = data.attributes
    logits = data.offsets.unsqueeze(2) + torch.einsum("nok,zk->noz", own.features, points)
    picked = data.labels[:, None, None].expand(-1, 1, len(points))
    of_rows = logits.log_softmax(1).gather(1, picked).squeeze(1)
    return torch.zeros(own.number, len(points)).double().index_add_(0, own.levels, of_rows)


def _standard_normal(points: int, width: int) -> tuple[Tensor, Tensor]:
    """A grid in ``width`` dimensions, and the logarithm of the probability each point stands for.

    The trapezoid rule is exact to rounding where a level's posterior is wider than a step, as
    Gauss and Hermite's is not: it has few points where many rows make that narrow.
    """
    line = torch.linspace(-6.5, 6.5, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * width).view(-1, width)
    log_weights = -grid.square().sum(1) / 2
    return grid, log_weights - log_weights.logsumexp(0)


def _exact_taus(data: Simulated) -> tuple[float, float, float]:
    """Two ends of the central 95 % of tau's posterior, and its median between them."""
    (own,) = data.attributes
    grid, log_weights = _standard_normal(201, 1)
    taus = np.geomspace(0.02, LARGEST, 120)
    log_density = []
    for tau in taus:
        at = _log_likelihoods(data, grid * tau * own.shape)
        log_density.append(float((at + log_weights).logsumexp(1).sum()))
    log_density += -((taus / own.prior_scale) ** 2) / 2 + np.log(taus)  # even in log tau
    density = np.exp(log_density - np.max(log_density))
    below = (np.cumsum(density) - density / 2) / density.sum()
    low, median, high = np.interp([0.025, 0.5, 0.975], below, taus)
    return low, median, high


def _exact_levels(data: Simulated, tau: float, points: int) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the levels' coordinates, ``[L, K]``, in prior ones."""
    (own,) = data.attributes
    grid, log_weights = _standard_normal(points, len(own.shape))
    at = _log_likelihoods(data, grid * tau * own.shape)
    weights = (at + log_weights).softmax(1)
    means = weights @ grid
    return means, (weights @ grid.square() - means.square()).sqrt()


class _ExactMean:
    """The posterior of one coordinate's levels with a mean, on grids of levels and means."""

    def __init__(self, data: Simulated) -> None:
        (own,) = data.attributes
        self.points = torch.linspace(-8, 8, 801, dtype=torch.float64)  # in units of shape
        self.means = torch.linspace(-4, 4, 81, dtype=torch.float64)
        self.of_rows = _log_likelihoods(data, self.points.unsqueeze(1) * own.shape)
        self.own = own

    def at(self, tau: float) -> Tensor:
        """Log density of levels, means and labels, ``[L, means, points]``, but for a constant."""
        distance = (self.points - self.means.unsqueeze(1)) / tau
        return self.of_rows.unsqueeze(1) - distance.square() / 2 - np.log(tau)

    def of_means(self, tau: float) -> Tensor:
        """Log density of means and labels."""
        prior = -(self.means / self.own.mean_scale).square() / 2
        return self.at(tau).logsumexp(2).sum(0) + prior

    def taus(self) -> tuple[float, float, float]:
        """Two ends of the central 95 % of tau's posterior, and its median between them."""
        taus = np.geomspace(0.03, LARGEST, 60)
        log_density = np.array([float(self.of_means(tau).logsumexp(0)) for tau in taus])
        log_density += -((taus / self.own.prior_scale) ** 2) / 2 + np.log(taus)
        density = np.exp(log_density - log_density.max())
        below = (np.cumsum(density) - density / 2) / density.sum()
        low, median, high = np.interp([0.025, 0.5, 0.975], below, taus)
        return low, median, high

    def levels(self, tau: float) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the levels' deviations from the mean, ``[L]``."""
        weights = self.at(tau).softmax(2) * self.of_means(tau).softmax(0)[None, :, None]
        deviations = self.points - self.means.unsqueeze(1)  # in units of shape
        mean = (weights * deviations).sum((1, 2))
        return mean, ((weights * deviations.square()).sum((1, 2)) - mean.square()).sqrt()


def _one_to_fifty_rows() -> Tensor:
    return torch.repeat_interleave(torch.arange(50), torch.arange(1, 51))


def _ragged(data: Simulated) -> Simulated:
    """Every other row without its last option, if that is not its label."""
    without = (torch.arange(len(data.labels)) % 2 == 0) & (data.labels < 2)
    offsets = data.offsets.clone()
    offsets[without, 2] = -torch.inf
    return replace(data, offsets=offsets)


def _check_tau(data: Simulated, share: float) -> None:
    """Compare tau's posterior with the exact one, in shares of the exact interval's width."""
    (fitted,) = data.fit()
    low, median, high = _exact_taus(data)
    errors = np.subtract((*fitted.interval, fitted.tau), (low, high, median))
    assert np.abs(errors).max() < share * (high - low)


@pytest.mark.parametrize("options", [2, 3])
@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_tau_has_the_exact_posterior(options: int, tau: float) -> None:
    """But for what 24 draws a level leave to chance. Half of three options' rows have only two."""
    assigned = _one_to_fifty_rows()
    data = simulate(1, len(assigned), options, 1, (50,), (tau,), assigned)
    _check_tau(data if options == 2 else _ragged(data), 0.15)


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_few_levels_leave_tau_to_its_prior(seed: int) -> None:
    """Where the half-normal prior, and that its density is one of tau, make all the difference."""
    data = simulate(seed, 60, 2, 1, (3,), (0.3,), torch.arange(60) % 3)
    _check_tau(data, 0.05)


@pytest.mark.parametrize("seed", [2, 3])
def test_few_rows_a_level_do_not_pull_tau_down(seed: int) -> None:
    """Two binary rows of each of 150 levels, where a Gaussian is far from the posterior."""
    data = simulate(seed, 300, 2, 1, (150,), (1.2,), torch.arange(300) % 150)
    _check_tau(data, 0.2)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("options", [2, 3])
def test_levels_have_the_exact_means_and_deviations(width: int, options: int) -> None:
    """Levels of 1 to 50 rows; a mode is not quite a mean, a curvature not quite a variance."""
    assigned = _one_to_fifty_rows()
    every = 1 if width == 1 else 5  # a grid in two dimensions has many points
    kept = assigned % every == 0
    assigned = assigned[kept] // every
    levels = int(assigned.max()) + 1
    data = simulate(3, len(assigned), options, width, (levels,), (0.7,), assigned)
    (fitted,) = data.fit()
    unit = fitted.tau * data.attributes[0].shape
    means, deviations = _exact_levels(data, fitted.tau, 401 if width == 1 else 91)
    assert (fitted.loc / unit - means).abs().max() < 0.2
    assert (fitted.loc / unit - means).square().mean().sqrt() < 0.07
    torch.testing.assert_close(fitted.scale / unit, deviations, atol=0.0, rtol=0.13)


def _with_a_mean(seed: int, levels: int, rows: int, mean: float, tau: float) -> Simulated:
    """Binary rows of levels that all deviate from the population in the same way, and by tau."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(levels * rows) % levels
    features = torch.randn(len(own), 2, 1, generator=generator, dtype=torch.float64)
    shape = torch.ones(1, dtype=torch.float64)
    true = mean + tau * torch.randn(levels, 1, generator=generator, dtype=torch.float64)
    offsets = torch.randn(len(own), 2, generator=generator, dtype=torch.float64)
    logits = offsets + (features * true[own].unsqueeze(1)).sum(2)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    grouped = Grouped(features, own, levels, shape, PRIOR_SCALE, mean_scale=1.0)
    return Simulated(offsets, labels, [grouped], [true])


@pytest.mark.parametrize(
    ("levels", "rows", "mean", "tau"),
    [(4, 100, 1.0, 0.0), (4, 400, 1.0, 0.5), (16, 60, -0.7, 0.3), (50, 40, 0.5, 0.7)],
)
def test_what_levels_have_in_common_is_no_difference(
    levels: int, rows: int, mean: float, tau: float
) -> None:
    """tau, the levels and their widths are those of the exact posterior over mean and levels."""
    data = _with_a_mean(7, levels, rows, mean, tau)
    exact = _ExactMean(data)
    (fitted,) = data.fit()
    low, median, high = exact.taus()
    errors = np.subtract((*fitted.interval, fitted.tau), (low, high, median))
    assert np.abs(errors).max() < 0.15 * (high - low)
    means, deviations = exact.levels(fitted.tau)
    assert ((fitted.loc[:, 0] - means) / deviations).abs().max() < 0.3
    torch.testing.assert_close(fitted.scale[:, 0], deviations, atol=0.0, rtol=0.13)


def test_without_a_mean_what_levels_have_in_common_makes_tau_large() -> None:
    data = _with_a_mean(7, 4, 400, 1.0, 0.0)
    assert data.fit()[0].tau < 0.2
    assert data.grouped(0, mean_scale=0.0).fit()[0].tau > 0.5


@pytest.mark.parametrize("case", [*CASES])
def test_levels_are_calibrated(case: str, fitted_cases: FittedCases) -> None:
    """Squares of z-scores are 1 on average; what a tau taken for known leaves out is small."""
    squares: list[list[Tensor]] = [[] for _ in CASES[case][1]]
    for data, fits in fitted_cases[case]:
        for own, truth, fitted in zip(squares, data.coordinates, fits, strict=True):
            own.append(((truth - fitted.loc) / fitted.scale).square())
    for own in squares:
        assert 0.85 < torch.cat(own).mean() < 1.25


def test_an_attribute_without_an_effect_is_found_to_have_none() -> None:
    sizes = (1000, 3, 4, (100,))
    present = [simulate(seed, *sizes, (0.6,)).fit()[0] for seed in range(3)]
    absent = [simulate(seed, *sizes, (0.0,)).fit()[0] for seed in range(30, 35)]
    assert max(own.tau for own in absent) < min(own.interval[0] for own in present) / 2
    assert np.median([own.interval[0] for own in absent]) < 0.02


def test_an_attribute_without_an_effect_does_no_harm() -> None:
    """Beside one that has an effect, and alone: fresh rows are predicted as well as without."""
    for seed in range(30, 33):
        data = simulate(seed, 2000, 3, 4, (100,), (0.0,))
        train, test = data.of(torch.arange(1000)), data.of(torch.arange(1000, 2000))
        (fitted,) = train.fit()
        labels = test.labels.numpy()
        alone = nll(test.offsets.softmax(-1).numpy(), labels)
        assert nll(_predicted(test, fitted), labels) < 1.005 * alone


def _predicted(data: Simulated, fitted: Fitted) -> np.ndarray:
    """Average probabilities over draws of the levels of the only attribute."""
    (own,) = data.attributes
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, *fitted.loc.shape, generator=generator, dtype=torch.float64)
    drawn = fitted.loc + fitted.scale * noise
    logits = data.offsets + torch.einsum("nok,snk->sno", own.features, drawn[:, own.levels])
    return logits.softmax(-1).mean(0).numpy()


def test_known_levels_predict_better_where_there_is_an_effect() -> None:
    data = simulate(40, 2000, 3, 4, (50,), (0.8,))
    train, test = data.of(torch.arange(1000)), data.of(torch.arange(1000, 2000))
    labels = test.labels.numpy()
    alone = nll(test.offsets.softmax(-1).numpy(), labels)
    predicted = nll(_predicted(test, train.fit()[0]), labels)
    truth = data.coordinates[0][test.attributes[0].levels]
    logits = test.offsets + torch.einsum("nok,nk->no", test.attributes[0].features, truth)
    best = nll(logits.softmax(-1).numpy(), labels)
    assert best < predicted < best + 0.4 * (alone - best)


DRAWN = 0.2  # of what is uncertain: what other draws may change


def _alike(first: Sequence[Fitted], second: Sequence[Fitted], share: float) -> None:
    """Check that fits differ by no more than a share of what is uncertain."""
    for one, other in zip(first, second, strict=True):
        width = one.interval[1] - one.interval[0]
        ends = zip((one.tau, *one.interval), (other.tau, *other.interval), strict=True)
        assert max(abs(a - b) for a, b in ends) < share * width
        assert ((one.loc - other.loc) / one.scale).square().mean().sqrt() < share
        assert (one.scale / other.scale).log().abs().max() < share


def test_rows_without_a_level_contribute_nothing() -> None:
    data = simulate(50, 600, 3, 2, (40,), (0.7,))
    (own,) = data.attributes
    missing = torch.arange(600) % 3 == 0
    with_rows = data.grouped(0, levels=own.levels.masked_fill(missing, -1))
    without = data.of(torch.nonzero(~missing).squeeze(1))
    _alike(with_rows.fit(), without.fit(), 1e-6)


def test_rows_without_one_of_two_levels_tell_of_the_other() -> None:
    """And those without both tell of none; the noise that rows lend each other is drawn anew."""
    data = simulate(51, 600, 3, 2, (40, 30), (0.9, 0.7))
    one = torch.arange(600) % 3 == 0
    both = data.grouped(0, levels=data.attributes[0].levels.masked_fill(one, -1))
    both = both.grouped(1, levels=both.attributes[1].levels.masked_fill(one, -1))
    _alike(both.fit(), data.of(torch.nonzero(~one).squeeze(1)).fit(), DRAWN)
    first = data.grouped(0, levels=torch.full((600,), -1)).fit()[1]
    alone = replace(data, attributes=data.attributes[1:]).fit()[0]
    _alike([first], [alone], DRAWN)


def test_an_option_that_no_row_has_might_as_well_not_be_there() -> None:
    data = simulate(52, 400, 2, 2, (40,), (0.7,))
    (own,) = data.attributes
    noise = torch.randn(400, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    more = replace(data, offsets=torch.cat([data.offsets, torch.full((400, 1), -torch.inf)], 1))
    more = more.grouped(0, features=torch.cat([own.features, noise], 1))
    _alike(data.fit(), more.fit(), 1e-6)


@pytest.mark.parametrize("levels", [(40,), (40, 30)])
def test_the_order_of_rows_does_not_matter(levels: tuple[int, ...]) -> None:
    data = simulate(53, 600, 3, 2, levels, (0.9, 0.7)[: len(levels)])
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    # Of two attributes each is noise to the other's tau, drawn row by row.
    _alike(data.fit(), data.of(order).fit(), 1e-2 if len(levels) == 1 else DRAWN)


def test_the_order_of_levels_does_not_matter() -> None:
    data = simulate(54, 600, 3, 2, (40,), (0.7,))
    (own,) = data.attributes
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    (turned,) = data.grouped(0, levels=order[own.levels]).fit()
    turned = replace(turned, loc=turned.loc[order], scale=turned.scale[order])
    _alike(data.fit(), [turned], DRAWN)  # what a level's draws are goes by its place


def test_a_level_without_rows_is_left_at_the_prior() -> None:
    data = simulate(55, 400, 3, 2, (40,), (0.7,))
    (plain,), (more,) = data.fit(), data.grouped(0, number=41).fit()
    unit = more.tau * data.attributes[0].shape
    assert not more.loc[40].any()
    torch.testing.assert_close(more.scale[40], unit)
    _alike([plain], [replace(more, loc=more.loc[:40], scale=more.scale[:40])], DRAWN)

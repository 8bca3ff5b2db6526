"""Means over tasks and seeds: values by hand, and intervals against simulated truth."""

import numpy as np
import pytest

from calibration import (
    Estimate,
    ParameterError,
    UndefinedMetricError,
    macro_interval,
    paired_difference,
)
from calibration.macro import CELLS

NAN = np.nan


def two_level(rng, tasks, seeds, between=1.0, within=1.0):
    """Values of true mean 0: a part of the task's own, and one of each seed."""
    return rng.normal(0, between, (tasks, 1)) + rng.normal(0, within, (tasks, seeds))


def coverage(estimates, truth=0.0):
    return np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])


def one_by_one(values, resamples, generator):
    """The same bootstrap as plain loops over lists."""
    known = [[x for x in row if not np.isnan(x)] for row in values]
    means = []
    for _ in range(resamples):
        drawn = [known[generator.integers(len(known))] for _ in known]
        means.append(np.mean([np.mean(generator.choice(row, size=len(row))) for row in drawn]))
    return means


def test_the_value_is_the_mean_over_tasks_of_the_mean_over_seeds():
    values = [[1, NAN, NAN], [2, 4, NAN], [NAN, NAN, 8], [NAN, NAN, NAN]]
    assert macro_interval(values) == Estimate(pytest.approx((1 + 3 + 8) / 3), None, None)


@pytest.mark.parametrize(("between", "within"), [(1, 1), (1, 0.3), (0.5, 1)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(rng, between, within):
    found = [
        macro_interval(two_level(rng, 15, 5, between, within), resamples=400, seed=trial)
        for trial in range(500)
    ]
    assert 0.88 <= coverage(found) <= 0.98


def test_equal_values_have_an_interval_of_no_width():
    assert macro_interval(np.full((7, 3), 0.25)) == (0.25, 0.25, 0.25)


def test_the_draws_are_those_of_plain_loops(rng):
    values = two_level(rng, 9, 6)
    values[rng.random(values.shape) < 0.4] = NAN
    values[:, 0] = two_level(rng, 9, 1)[:, 0]  # every task keeps a value
    expected = np.quantile(one_by_one(values, 20_000, rng), [0.025, 0.975])
    found = macro_interval(values, resamples=20_000)
    assert found.interval == pytest.approx(expected, abs=0.02)


def test_seeds_and_not_only_tasks_are_drawn_again(rng):
    # Every task has the mean 0, so drawing tasks alone would give an interval of no width.
    seeds = rng.normal(size=(10, 40))
    values = seeds - seeds.mean(axis=1, keepdims=True)
    low, high = macro_interval(values, resamples=20_000).interval
    half = 1.96 * np.sqrt(values.var(axis=1).mean() / 400)
    assert (low, high) == pytest.approx((-half, half), abs=0.01)


def test_more_numbers_than_are_drawn_at_a_time(rng):
    values = two_level(rng, 40, CELLS // 1000, within=0.1)
    half = 1.96 * values.mean(axis=1).std() / np.sqrt(40)
    found = macro_interval(values, resamples=300)
    assert found.interval == pytest.approx((found.value - half, found.value + half), abs=0.15)


def test_a_missing_value_is_as_if_the_seed_were_not_there(rng):
    values = two_level(rng, 8, 4)
    wider = np.column_stack([np.full(8, NAN), values, np.full(8, NAN)])
    taller = np.vstack([wider, np.full(6, NAN)])
    settings = {"resamples": 20_000, "level": 0.9}
    expected = macro_interval(values, **settings)
    assert macro_interval(taller, **settings) == pytest.approx(expected, abs=0.03)


def test_fewer_than_five_tasks_with_a_value_have_no_interval(rng):
    values = two_level(rng, 5, 3)
    assert macro_interval(values).interval is not None
    values[2] = NAN
    assert macro_interval(values)[1:] == (None, None)
    assert macro_interval(values).interval is None
    assert paired_difference(values, two_level(rng, 5, 3)).interval is None


def three_level(rng, tasks, runs, seeds, of_runs, within):
    """Values of true mean 0: a part of the task's, of the run (of all tasks), and of each seed."""
    of_tasks = rng.normal(size=(tasks, 1, 1))
    return (
        of_tasks
        + rng.normal(0, of_runs, (1, runs, 1))
        + rng.normal(0, within, (tasks, runs, seeds))
    )


def test_an_interval_over_runs_covers_what_runs_share(rng):
    """Run effects as large as tasks'. With the runs' values as seeds of tasks it would not."""
    joint, apart = [], []
    for trial in range(200):
        values = three_level(rng, 10, 8, 3, 1.0, 0.5)
        joint.append(macro_interval(values, resamples=300, seed=trial))
        apart.append(macro_interval(values.reshape(10, -1), resamples=300, seed=trial))
    assert 0.85 <= coverage(joint) <= 0.98
    assert coverage(apart) < coverage(joint) - 0.05


def test_runs_that_are_asked_with_the_same_seeds_are_no_more_seeds(rng):
    """Support samples move every run's value alike: three runs of five are not fifteen."""
    of_tasks = np.array([[-3.0], [0.0], [1.0], [2.0]])
    found, copies = [], []
    for trial in range(100):
        samples = of_tasks + rng.normal(size=(4, 5))
        crossed = np.repeat(samples[:, np.newaxis], 3, axis=1)
        settings = {"these_tasks": True, "resamples": 300, "seed": trial}
        copies.append(macro_interval(crossed, **settings))
        found.append(macro_interval(crossed + rng.normal(0, 0.1, (1, 3, 1)), **settings))
    assert 0.78 <= coverage(found) <= 0.93
    alone = macro_interval(samples, **settings)
    assert copies[-1].interval == pytest.approx(alone.interval, abs=0.1)


def test_of_these_tasks_the_interval_covers_the_mean_over_seeds(rng):
    of_tasks = np.array([[-3.0], [0.0], [1.0], [2.0]])
    found = [
        macro_interval(
            of_tasks + rng.normal(size=(4, 15)), these_tasks=True, resamples=300, seed=trial
        )
        for trial in range(200)
    ]
    assert 0.9 <= coverage(found) <= 0.98
    assert np.mean([e.high - e.low for e in found]) < 1.5 * 2 * 1.96 / np.sqrt(60)


def test_one_run_is_as_no_run_and_an_unfinished_one_is_left_out(rng):
    values = three_level(rng, 8, 3, 4, 0.3, 0.3)
    assert macro_interval(values[:, :1]) == macro_interval(values[:, 0])
    values[2:, 1] = NAN
    assert macro_interval(values).value == pytest.approx(
        np.mean([np.nanmean(task) for task in values])
    )
    assert np.isfinite(macro_interval(values).interval).all()


def test_the_seed_fixes_the_interval(rng):
    values = two_level(rng, 8, 3)
    assert macro_interval(values, seed=1) == macro_interval(values, seed=1)
    assert macro_interval(values, seed=1) != macro_interval(values, seed=2)


def test_a_paired_difference_by_hand():
    a = [[1.0, 2.0], [5.0, NAN], [3.0, 3.0]]
    b = [[0.5, NAN], [4.0, 4.0], [1.0, 4.0]]
    # 0.5; 1; the mean of 2 and -1.
    assert paired_difference(a, b).value == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert paired_difference(b, a).value == pytest.approx(-(0.5 + 1 + 0.5) / 3)


def test_a_paired_interval_covers_the_truth_and_is_narrow(rng):
    """Two methods that differ by 0.1 and share what makes tasks hard and samples lucky."""
    paired, alone = [], []
    for trial in range(500):
        shared = two_level(rng, 15, 5)
        a, b = (shared + two_level(rng, 15, 5, 0.1, 0.1) for _ in range(2))
        paired.append(paired_difference(a + 0.1, b, resamples=400, seed=trial))
        alone.append(macro_interval(a, resamples=400, seed=trial))
    assert 0.88 <= coverage(paired, 0.1) <= 0.98
    widths = [np.mean([e.high - e.low for e in found]) for found in (paired, alone)]
    assert widths[0] < widths[1] / 5


def test_says_what_is_wrong(rng):
    values = two_level(rng, 6, 2)
    with pytest.raises(ParameterError, match=r"\(6, 2\) and values_b \(6, 1\).*NaN"):
        paired_difference(values, values[:, :1])
    with pytest.raises(ParameterError, match=r"values_b have 1 dimension.*tasks x runs x seeds"):
        paired_difference(values, values[0])
    with pytest.raises(ParameterError, match="values hold infinity"):
        macro_interval([[np.inf, 1]])
    with pytest.raises(ParameterError, match="values are not numbers"):
        macro_interval([[1, 2], [3]])
    with pytest.raises(ParameterError, match="resamples is 0"):
        macro_interval(values, resamples=0)
    with pytest.raises(ParameterError, match="level is 95"):
        paired_difference(values, values, level=95)
    for nothing in ([[NAN, NAN]], np.empty((0, 3)), np.empty((3, 0))):
        with pytest.raises(UndefinedMetricError, match="every value is missing"):
            macro_interval(nothing)

"""Moving means, interquartile means and bootstrap intervals, beside numbers worked out by hand."""

import math

import numpy as np
import pytest

from trafficgrad.agents.statistics import (
    bootstrap_interval,
    highest_moving_mean,
    interquartile_mean,
    moving_mean,
    summarize,
    thin,
)


def test_moving_mean_of_64_episodes_an_update():
    """The functions: all 64 at first, then (36 old + 64 new) / 100."""
    curve = moving_mean(np.array([-10.0, -5.0, -1.0]), np.array([64, 64, 64]))
    second = (36 * -10.0 + 64 * -5.0) / 100
    assert curve == pytest.approx([-10.0, second, (36 * second + 64 * -1.0) / 100])


def test_moving_mean_fills_its_window_first():
    # 30, then 30 + 30, then 60 + 40 kept whole, then 10 of the 100 are replaced.
    curve = moving_mean(np.array([1.0, 2.0, 3.0, 10.0]), np.array([30, 30, 40, 10]))
    assert curve == pytest.approx([1.0, 1.5, 0.6 * 1.5 + 0.4 * 3.0, 0.9 * 2.1 + 0.1 * 10.0])


def test_moving_mean_with_more_episodes_than_the_window_and_with_none():
    nan = math.nan
    curve = moving_mean(np.array([nan, 4.0, nan, 7.0]), np.array([0, 50, 0, 250]))
    assert math.isnan(curve[0])
    assert curve[1:] == pytest.approx([4.0, 4.0, 7.0])  # 250 count as 100: nothing of the old is left


def test_highest_moving_mean():
    assert highest_moving_mean(np.array([0.0, 9.0, 3.0]), np.array([100, 100, 100])) == 9.0
    assert highest_moving_mean(np.array([0.0, 9.0, 3.0]), np.array([100, 50, 50])) == pytest.approx(4.5)
    assert math.isnan(highest_moving_mean(np.array([math.nan]), np.array([0])))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 5.0], 3.0),
        ([1.0, 2.0, 9.0], 4.0),
        ([100.0, 1.0, 2.0, 3.0], 2.5),  # one off at each end
        ([5.0, -100.0, 3.0, 4.0, 100.0], 4.0),
        ([0, 1, 2, 3, 4, 5, 6, 100], 3.5),
    ],
)
def test_interquartile_mean(values, expected):
    assert float(interquartile_mean(np.array(values))) == pytest.approx(expected)


def test_interquartile_mean_along_the_last_axis():
    assert interquartile_mean(np.array([[4.0, 1.0, 2.0, 3.0], [0.0, 0.0, 8.0, 80.0]])) == pytest.approx([2.5, 4.0])


def test_bootstrap_interval_of_two_runs():
    """Means of two draws from {0, 1} are 0, 1/2, 1 with probability 1/4, 1/2, 1/4: both ends lie at the runs."""
    assert bootstrap_interval([np.array([0.0, 1.0])]) == (0.0, 1.0)
    assert bootstrap_interval([np.array([0.0, 1.0])], confidence=0.4) == (0.5, 0.5)


def test_bootstrap_interval_of_many_runs_is_the_normal_one():
    """The mean of the middle half of n standard normals has a standard deviation of about 1.09 / sqrt(n)."""
    runs = np.random.default_rng(3).normal(size=400)
    low, high = bootstrap_interval([runs])
    middle = float(interquartile_mean(runs))
    assert low < middle < high
    assert (high - low) / 2 == pytest.approx(1.96 * 1.09 / 20, rel=0.15)


def test_bootstrap_is_stratified_and_repeatable():
    """Runs of a stratum stay in it: two constant strata leave nothing to chance, one of the same runs would."""
    constant = [np.full(4, 0.0), np.full(4, 10.0)]
    assert bootstrap_interval(constant) == (5.0, 5.0)
    low, high = bootstrap_interval([np.concatenate(constant)])
    assert low < 5.0 < high
    values = [np.arange(7.0)]
    assert bootstrap_interval(values) == bootstrap_interval(values) != bootstrap_interval(values, resamples=50, seed=1)
    assert all(math.isnan(x) for x in bootstrap_interval([np.array([])]))


def test_summary():
    summary = summarize([1.0, math.nan, 2.0, 3.0, 4.0, 100.0])
    assert (summary.count, summary.mean, summary.interquartile_mean) == (5, 22.0, 3.0)
    assert (summary.lowest, summary.highest) == (1.0, 100.0)
    assert 1.0 <= summary.low < 3.0 < summary.high <= 100.0
    alone = summarize([7.0])
    assert (alone.count, alone.interquartile_mean, alone.low, alone.high) == (1, 7.0, 7.0, 7.0)
    empty = summarize([math.nan])
    assert empty.count == 0 and math.isnan(empty.mean) and math.isnan(empty.high)


def test_thinning_keeps_ends_and_maximum():
    curve = np.sin(np.linspace(0.0, 9.0, 1234))
    curve[0], curve[617] = math.nan, 5.0
    rows = thin(curve, 100)
    assert len(rows) <= 100 and rows[0] == 0 and rows[-1] == 1233 and 617 in rows
    assert (np.diff(rows) > 0).all()
    assert thin(curve[:100], 100).tolist() == list(range(100))
    rising = thin(np.arange(500.0), 10)
    assert rising[-1] == 499 and len(rising) == 10
    near = np.zeros(500)
    near[1] = 1.0
    assert thin(near, 10)[:2].tolist() == [0, 1]
    assert len(thin(np.full(500, math.nan), 10)) == 10

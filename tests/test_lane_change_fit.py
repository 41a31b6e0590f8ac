"""Lane-changing drivers from recorded trajectories: known ones found again, and what cannot be learnt from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_trajectories import as_trajectories, two_lanes

import trafficgrad as tg
from trafficgrad.calibration.lane_change_fit import calibrate_lane_changes


@pytest.mark.parametrize("seed", [1, 2])
def test_politeness_and_threshold_are_found_again(seed):
    simulator, record = two_lanes(seed, politeness=0.3, threshold=0.2, steps=4000)
    found = calibrate_lane_changes(as_trajectories(record, 800.0), simulator.car_following)
    assert found.changes >= 10
    politeness, threshold = found.values
    assert politeness == pytest.approx(0.3, rel=0.15)
    assert threshold == pytest.approx(0.2, rel=0.15)
    assert found.explained == 1.0 and found.false_alarms < 0.01
    assert not found.doubts()


def test_selfish_drivers_are_told_from_polite_ones():
    simulator, record = two_lanes(2, politeness=0.0, threshold=0.4, steps=4000)
    politeness, threshold = calibrate_lane_changes(as_trajectories(record, 800.0), simulator.car_following).values
    assert abs(politeness) < 0.05
    assert threshold == pytest.approx(0.4, rel=0.15)


def test_lane_changes_need_lanes_and_changes():
    simulator, record = two_lanes(1, 0.3, 0.2, steps=100)
    data = as_trajectories(record, 800.0)
    with pytest.raises(tg.TrafficGradError, match="at least two lanes"):
        calibrate_lane_changes(replace(data, lane=np.zeros_like(data.lane)), simulator.car_following)
    with pytest.raises(tg.TrafficGradError, match="expected lane changes to learn from"):
        kept = np.broadcast_to(data.lane[:1], data.lane.shape).copy()
        calibrate_lane_changes(replace(data, lane=kept), simulator.car_following)
    with pytest.raises(tg.TrafficGradError, match="unknown lane-change parameter 'polite'"):
        calibrate_lane_changes(data, simulator.car_following, free=("polite",))

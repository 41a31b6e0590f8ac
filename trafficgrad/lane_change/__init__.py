"""Lane-change models: one a file, one table; and what they share."""

from trafficgrad.lane_change.base import LaneChange, LaneEvaluation, evaluate_lanes
from trafficgrad.lane_change.lane_choice import LaneChoice
from trafficgrad.lane_change.mobil import MOBIL

LANE_CHANGE: dict[str, type[LaneChange]] = {"mobil": MOBIL}

__all__ = ["LANE_CHANGE", "MOBIL", "LaneChange", "LaneChoice", "LaneEvaluation", "evaluate_lanes"]

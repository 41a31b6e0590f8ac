"""Controllers of vehicles and signals: callables from a traffic state to an action; and plans found by gradients."""

from trafficgrad.control.classical import AdaptiveCruise, CooperativeCruise, FollowerStopper, PISaturation
from trafficgrad.control.mpc import MPC
from trafficgrad.control.planning import ActionLimits, Cost, Plan, Planner, Search
from trafficgrad.control.scripted import FanOutAndAlign, KeepLane, KeepLaneAndAlign, Ramp
from trafficgrad.control.signals import Actuated, FixedTime

__all__ = [
    "MPC",
    "ActionLimits",
    "Actuated",
    "AdaptiveCruise",
    "CooperativeCruise",
    "Cost",
    "FanOutAndAlign",
    "FixedTime",
    "FollowerStopper",
    "KeepLane",
    "KeepLaneAndAlign",
    "PISaturation",
    "Plan",
    "Planner",
    "Ramp",
    "Search",
]

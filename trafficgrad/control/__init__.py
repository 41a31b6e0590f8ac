"""Controllers of vehicles and signals: callables from a traffic state to an action."""

from trafficgrad.control.scripted import FanOutAndAlign, KeepLane, KeepLaneAndAlign, Ramp
from trafficgrad.control.signals import Actuated, FixedTime

__all__ = ["Actuated", "FanOutAndAlign", "FixedTime", "KeepLane", "KeepLaneAndAlign", "Ramp"]

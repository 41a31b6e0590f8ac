"""Controllers of vehicles: callables from a traffic state to an action."""

from trafficgrad.control.scripted import FanOutAndAlign, KeepLane, KeepLaneAndAlign, Ramp

__all__ = ["FanOutAndAlign", "KeepLane", "KeepLaneAndAlign", "Ramp"]

"""Controllers of vehicles: callables from a traffic state to an action."""

from trafficgrad.control.scripted import FanOutAndAlign, KeepLane

__all__ = ["FanOutAndAlign", "KeepLane"]

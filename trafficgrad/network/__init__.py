"""Road networks: networkx graphs compiled once to tensors, and builders of common ones."""

from trafficgrad.network.builders import figure_eight, ring, roundabout, straight
from trafficgrad.network.connections import Connection
from trafficgrad.network.highway_builders import bottleneck, highway, merge
from trafficgrad.network.road_network import Lane, RoadNetwork
from trafficgrad.network.signals import Meter, Signal
from trafficgrad.network.street_builders import arterial, grid, intersection
from trafficgrad.network.tables import LaneTables

__all__ = [
    "Connection",
    "Lane",
    "LaneTables",
    "Meter",
    "RoadNetwork",
    "Signal",
    "arterial",
    "bottleneck",
    "figure_eight",
    "grid",
    "highway",
    "intersection",
    "merge",
    "ring",
    "roundabout",
    "straight",
]

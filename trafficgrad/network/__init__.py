"""Road networks: networkx graphs compiled once to tensors, and builders of common ones."""

from trafficgrad.network.builders import ring, straight
from trafficgrad.network.road_network import Lane, LaneTables, RoadNetwork

__all__ = ["Lane", "LaneTables", "RoadNetwork", "ring", "straight"]

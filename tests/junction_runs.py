"""Runs at junctions, and what happened to each vehicle in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import networkx as nx
import torch
from oracles.road_worlds import (
    add_road,
    way_lane,
)
from torch import Tensor

import trafficgrad as tg
from trafficgrad.network import RoadNetwork, merge
from trafficgrad.network.connections import Connection
from trafficgrad.state import TrafficState

CITY = tg.IDM(desired_speed=13.9, time_headway=1.0, max_acceleration=1.0, comfortable_deceleration=1.5)
WIDTH = 1.8  # m, of a car
LENGTH, MIN_GAP = 5.0, 2.0  # m


class Run(NamedTuple):
    """What happened to each vehicle, [B, N]."""

    entered: Tensor  # s, when it first was on one of the watched lanes; inf = never
    hardest: Tensor  # m/s2, lowest acceleration
    slowest: Tensor  # m/s, lowest speed before it entered
    end: TrafficState


@torch.no_grad()
def run(
    sim: tg.Simulator,
    state: TrafficState,
    watched: list[int],
    steps: int,
    action: Callable[[TrafficState], tg.Action] | None = None,
    watch: Callable[[TrafficState, TrafficState], None] | None = None,
) -> Run:
    """Simulate and record; ``watch`` sees the states before and after every step."""
    lanes = torch.tensor(watched)
    entered = torch.full_like(state.position, math.inf)
    hardest, slowest = torch.zeros_like(state.speed), torch.full_like(state.speed, math.inf)
    for _ in range(steps):
        after = sim.step(state, None if action is None else action(state))
        both = state.active & after.active
        hardest = torch.where(both, torch.minimum(hardest, (after.speed - state.speed) / sim.dt), hardest)
        on = (after.lane[..., None] == lanes).any(-1) & after.active
        entered = torch.where(on & torch.isinf(entered), after.time[:, None], entered)
        slowest = torch.where(torch.isinf(entered), torch.minimum(slowest, after.speed), slowest)
        if watch is not None:
            watch(state, after)
        state = after
    return Run(entered, hardest, slowest, state)


def ways_of(network: RoadNetwork) -> list[int]:
    """The junction lanes east and north of a crossing."""
    return [way_lane(network, "from_west", "to_east"), way_lane(network, "from_south", "to_north")]


def equilibrium_gap(speed: float, desired: float) -> float:
    """Gap at which the IDM keeps ``speed`` behind a leader as fast, with s0 = 2 m and T = 1 s."""
    return (MIN_GAP + speed) / math.sqrt(1.0 - (speed / desired) ** 4)


@cache
def highway_and_ramp() -> RoadNetwork:
    return merge(speed_limit=20.0).with_routes([["highway_in", "highway_out"], ["ramp", "highway_out"]])


def fork() -> RoadNetwork:
    """Route 0 goes straight on, route 1 turns right; nothing crosses."""
    graph = nx.MultiDiGraph()
    graph.add_node("middle", position=(0.0, 0.0))
    road = {"speed_limit": 13.9}
    west = add_road(graph, "west", "middle", "from_west", [(-308.0, 0.0), (-8.0, 0.0)], **road)
    east = add_road(graph, "middle", "east", "to_east", [(8.0, 0.0), (308.0, 0.0)], **road)
    south = add_road(graph, "middle", "south", "to_south", [(0.0, -8.0), (0.0, -308.0)], **road)
    graph.nodes["middle"]["connections"] = [Connection(west, 0, east, 0), Connection(west, 0, south, 0)]
    return RoadNetwork.from_graph(graph).with_routes([["from_west", "to_east"], ["from_west", "to_south"]])

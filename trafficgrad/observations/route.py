"""Observation ``route``: what a driver sees along its own way, on any network."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.car_following.base import look_up
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.tables import LaneTables
from trafficgrad.observations.distances import bounded
from trafficgrad.paths import plan_row, row_after
from trafficgrad.scenario_sections.task import RouteObservation
from trafficgrad.signals import FIXED, GREEN, RED, YELLOW, YIELDING
from trafficgrad.simulator import Simulator
from trafficgrad.state import Neighbors, TrafficState

EDGES = 2  # of the route, beyond the own one, that are shown
STRAIGHT = math.radians(30.0)  # a way that bends less is no turn
FASTEST = 50.0  # m/s, shown where there is no speed limit
_SIDES = ("right", "own", "left")
_LETTERS = {RED: "red", YELLOW: "yellow", YIELDING: "open, yields", GREEN: "green"}


def route_labels(config: RouteObservation) -> tuple[str, ...]:
    """Label of every column of :func:`observe_route`, units in brackets."""
    relative = "speed - target" if config.target_speed is not None else "speed"
    speed, gap, way = (f"[{x:g} m" for x in (config.speed_scale, config.gap_scale, config.distance_scale))
    labels = ["there is a vehicle", f"{relative} {speed}/s]", f"speed limit {speed}/s]", "cool-down left [3 s]"]
    for side in _SIDES:
        labels += [] if side == "own" else [f"{side}: lane exists"]
        labels += [
            f"{side}: gap ahead {gap}]",
            f"{side}: gap behind {gap}]",
            f"{side}: leader's speed - own {speed}/s]",
            f"{side}: follower's speed - own {speed}/s]",
        ]
    labels += [f"gate: distance {way}]", *(f"gate: {name}" for name in _LETTERS.values()), "gate: stop sign"]
    labels += [f"gate: phase left [{config.time_scale:g} s]", "gate: right of way", "gate: must stop"]
    labels += [f"lane leads on for {way}]", "lane changes needed, + = left"]
    labels += ["next turn: left", "next turn: straight", "next turn: right"]
    for i in range(1, EDGES + 1):
        labels += [f"edge {i} ahead: mean speed {speed}/s]", f"edge {i} ahead: vehicles [{config.count_scale:g}]"]
    return tuple(labels)


def observe_route(state: TrafficState, neighbors: Neighbors, simulator: Simulator, config: RouteObservation) -> Tensor:
    """[B, C, O]: one row for each controlled vehicle, columns as :func:`route_labels`; 0 where the slot is empty.

    What is nearer than its scale shows, what is farther or not there is 1. Differentiable in positions and speeds, and
    in the lane changes needed through ``lateral`` (a change to the left makes one less).
    """
    slots, network = simulator.fleet.slots, simulator.network
    t = network.tables(state.position.dtype, state.position.device)
    active, speed, lane = state.active[:, slots], state.speed[:, slots], state.lane[:, slots].clamp(min=0)
    columns = [
        torch.ones_like(speed),
        (speed - (config.target_speed or 0.0)) / config.speed_scale,
        t.limit(lane).clamp(max=FASTEST) / config.speed_scale,
        state.cooldown[:, slots] / 3.0,
    ]
    for k, side in enumerate(_SIDES):
        if side != "own":
            columns.append(((t.right if side == "right" else t.left)[lane] >= 0).to(speed.dtype))
        columns += [
            bounded(neighbors.gap[:, slots, k] / config.gap_scale),
            bounded(neighbors.follower_gap[:, slots, k] / config.gap_scale),
            -neighbors.closing_speed[:, slots, k] / config.speed_scale,
            neighbors.follower_closing_speed[:, slots, k] / config.speed_scale,
        ]
    columns += _gate(state, neighbors, simulator, config, t)
    way = _way(state, network, slots, t)
    along = state.position[:, slots] - torch.where(t.junctions.is_junction[lane], t.length[lane], 0.0)
    number = t.number[way.lane]
    columns.append(bounded((t.plan.reach[way.row, number] - along) / config.distance_scale))
    moved = state.lateral[:, slots] / t.width[lane]
    columns.append(t.plan.change[way.row, number].to(speed.dtype) - moved)
    columns += [(way.turn == turn).to(speed.dtype) for turn in (1, 0, -1)]
    columns += _edges_ahead(state, network, way, config, t)
    return torch.where(active[..., None], torch.stack(columns, -1), 0.0)


def _gate(
    state: TrafficState, neighbors: Neighbors, simulator: Simulator, config: RouteObservation, t: LaneTables
) -> list[Tensor]:
    """Columns of the next junction lane that takes the right of way; for who waits inside one it is the own lane."""
    slots, ahead, j = simulator.fleet.slots, neighbors.ahead, t.junctions
    speed = state.speed[:, slots]
    none = torch.zeros_like(speed)
    if ahead is None:
        return [none + 1.0, *(none for _ in range(len(_LETTERS) + 4))]
    gates, distance = ahead.gate[:, slots], ahead.gate_distance[:, slots, 0]
    there, way = gates[..., 0] >= 0, gates[..., 0].clamp(min=0)
    signal = torch.where(there, j.signal[way], -1)
    signals, letter, left = simulator.signals, torch.full_like(way, YIELDING), none
    if signals is not None:
        letter = signals.shown(state.phase, signal, j.signal_index[way])
        s = signal.clamp(min=0)
        remaining = signals.remaining(state).gather(1, s)
        clock = (signal >= 0) & (signals.kind[s] == FIXED)
        left = torch.where(clock, remaining, 0.0) / config.time_scale
    has = ((gates >= 0) & (gates == state.right_of_way[:, slots, None])).any(-1)
    with torch.no_grad():
        driver, rules, model = state.driver[:, slots], simulator.right_of_way, simulator.car_following
        braking, room = (look_up(x, driver) for x in (model.comfortable_deceleration, model.min_gap))
        needed = speed * speed / (2.0 * braking) + speed * rules.reaction_time + room + 1.0
        must_stop = there & ~has & ((letter < YIELDING) | (distance < needed))
    shown = [there & (letter == value) for value in _LETTERS]
    flags = [x.to(speed.dtype) for x in (*shown, there & j.stop[way])]
    return [bounded(distance / config.distance_scale), *flags, left, has.to(speed.dtype), must_stop.to(speed.dtype)]


class _Way(NamedTuple):
    """Where the controlled vehicles go on, [B, C] int64."""

    lane: Tensor  # road lane: the own one, or the one that the junction lane leads to
    row: Tensor  # of the plan, on that lane
    turn: Tensor  # of the next junction lane: +1 left, 0 straight, -1 right; -2 = the way ends before
    edges: tuple[Tensor, ...]  # the edges after the lane's; -1 = the way ends before


@torch.no_grad()
def _way(state: TrafficState, network: RoadNetwork, slots: Tensor, t: LaneTables) -> _Way:
    """Follow each controlled vehicle's route; from a lane that does not lead on as from one beside it."""
    j, plan = t.junctions, t.plan
    lane, route = state.lane[:, slots].clamp(min=0), state.route[:, slots]
    row = plan_row(state, t)[:, slots]

    def onto_road(entered: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        road = torch.where(j.is_junction[entered], j.target[entered], entered).clamp(min=0)
        return road, row_after(road, row, route, t).clamp(min=0)

    road, road_row = onto_road(lane, row)
    inside = j.is_junction[lane]
    here, here_row = torch.where(inside, road, lane), torch.where(inside, road_row, row)
    at, at_row, goes_on = here, here_row, torch.ones_like(inside)
    turn = torch.full_like(lane, -2)
    edges: list[Tensor] = []
    turns = _turns(network.base).to(lane.device)
    for _ in range(EDGES):
        ways = plan.next_lane[at_row]
        own = ways.gather(-1, t.number[at][..., None])[..., 0]
        entered = torch.where(own >= 0, own, ways.amax(-1))
        goes_on = goes_on & (entered >= 0)
        entered = entered.clamp(min=0)
        if not edges:
            turn = torch.where(goes_on, turns[entered], turn)
        following, following_row = onto_road(entered, at_row)
        at, at_row = torch.where(goes_on, following, at), torch.where(goes_on, following_row, at_row)
        edges.append(torch.where(goes_on, t.edge[at], -1))
    return _Way(here, here_row, turn, tuple(edges))


@functools.lru_cache(maxsize=8)
def _turns(network: RoadNetwork) -> Tensor:
    """Which way every lane bends from its first to its last piece, [A] int64: +1 left, 0 straight (roads too), -1."""
    turns = torch.zeros(len(network.lanes), dtype=torch.int64)
    for lane in network.is_junction.nonzero()[:, 0].tolist():
        step = network.lane_geometry(lane).diff(dim=0)
        first, last = (math.atan2(float(step[i, 1]), float(step[i, 0])) for i in (0, -1))
        bend = math.remainder(last - first, 2.0 * math.pi)
        turns[lane] = 0 if abs(bend) < STRAIGHT else (1 if bend > 0 else -1)
    return turns


def _edges_ahead(
    state: TrafficState, network: RoadNetwork, way: _Way, config: RouteObservation, t: LaneTables
) -> list[Tensor]:
    """Mean speed (the speed limit where nobody is) and number of the vehicles on the next edges of the route."""
    count = len(network.edges)
    edge = t.edge[state.lane.clamp(min=0)]
    edge = torch.where(state.active & (state.lane >= 0) & (edge < count), edge, count)
    nobody = state.speed.new_zeros(state.worlds, count + 1)
    total = nobody.scatter_add(1, edge, state.speed)
    number = nobody.scatter_add(1, edge, torch.ones_like(state.speed, requires_grad=False))
    roads = (~t.junctions.is_junction).nonzero()[:, 0]
    lane = torch.zeros(count, dtype=torch.int64, device=edge.device).scatter(0, t.edge[roads], roads)
    columns = []
    for ahead in way.edges:
        there, at = ahead >= 0, ahead.clamp(min=0)
        vehicles = number.gather(1, at)
        limit = t.limit(lane[at]).clamp(max=FASTEST)
        mean = torch.where(vehicles > 0, total.gather(1, at) / vehicles.clamp(min=1.0), limit)
        columns.append(torch.where(there, mean, 0.0) / config.speed_scale)
        columns.append(torch.where(there, vehicles, 0.0) / config.count_scale)
    return columns

"""Where junction lanes cross, join or part, against distances between finely sampled bodies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from small_graphs import FOUR_IN, FOUR_OUT, random_graph, star, way_ends

from trafficgrad.network import RoadNetwork
from trafficgrad.network.conflicts import BODY_WIDTH, CROSSING, DIVERGE, MERGE, find_conflicts
from trafficgrad.network.connections import Connection

FINE = 0.05  # m


def fine(line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points every ``FINE`` m along a line and how far along it they lie, m."""
    along = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    at = np.linspace(0.0, along[-1], int(along[-1] / FINE) + 2)
    return np.stack([np.interp(at, along, line[:, k]) for k in range(2)], -1), at


def distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """From each point to the nearest place of a line, m: the feet of the perpendiculars on all its pieces."""
    start, step = line[:-1], np.diff(line, axis=0)
    share = ((points[:, None] - start) * step).sum(-1) / (step**2).sum(-1)
    feet = start + np.clip(share, 0.0, 1.0)[..., None] * step
    return np.hypot(*np.moveaxis(points[:, None] - feet, -1, 0)).min(1)


def zone(at: np.ndarray, apart: np.ndarray, width: float) -> tuple[float, float] | None:
    """First and last place that is nearer than ``width`` to the other line."""
    near = at[apart < width]
    return (float(near[0]), float(near[-1])) if len(near) else None


def kind_of(a: Connection, b: Connection) -> int:
    if way_ends(a)[2:] == way_ends(b)[2:]:
        return MERGE
    return DIVERGE if way_ends(a)[:2] == way_ends(b)[:2] else CROSSING


def test_conflicts_are_where_bodies_would_touch() -> None:
    """Against exact distances of points 0.05 m apart.

    The package compares points 0.5 m apart, so it may miss 0.25 m along either line: it must find what comes nearer
    than sqrt(w^2 - 0.5^2) to the other, must not find what stays farther than w, and a zone's end lies at most a step
    inside the stretch nearer than sqrt(w^2 - 0.25^2).
    """
    crossroads = star({k: (d + 7.0 * i, 2) for i, (k, (d, _)) in enumerate(FOUR_IN.items())}, FOUR_OUT, "priority")
    counted = {CROSSING: 0, MERGE: 0, DIVERGE: 0, None: 0}
    surely, place = math.sqrt(BODY_WIDTH**2 - 0.5**2), math.sqrt(BODY_WIDTH**2 - 0.25**2)
    for net in (crossroads, *(RoadNetwork.from_graph(random_graph(seed)) for seed in (1, 4))):
        junctions = net.tables(torch.float64, "cpu").junctions
        lanes = torch.nonzero(net.is_junction)[:, 0].tolist()
        ways = {lane: net.connections[int(net.lane_connection[lane])] for lane in lanes}
        lines = {lane: net.lane_geometry(lane).numpy() for lane in lanes}
        for lane, foe in itertools.permutations(lanes, 2):
            foes, a, b = junctions.foe[lane].tolist(), ways[lane], ways[foe]
            if a.from_edge[1] != b.from_edge[1]:
                assert foe not in foes
                continue
            points, at = fine(lines[lane])
            apart = distance(points, lines[foe])
            kind, nearest = kind_of(a, b), float(apart.min())
            if foe not in foes:
                assert kind == CROSSING and nearest >= surely, (a, b)
                counted[None] += 1
                continue
            f, back = foes.index(foe), junctions.foe[foe].tolist().index(lane)
            entry, end = float(junctions.own_entry[lane, f]), float(junctions.own_exit[lane, f])
            assert (float(junctions.foe_entry[foe, back]), float(junctions.foe_exit[foe, back])) == (entry, end)
            assert int(junctions.kind[lane, f]) == int(junctions.kind[foe, back]) == kind
            counted[kind] += 1
            # Ways that touch are a centimetre long and count as the shortest way, half a metre.
            scale = at[-1] / float(net.lane_length[lane])
            outer, inner = zone(at, apart, BODY_WIDTH), zone(at, apart, place)
            assert outer is not None, (a, b)
            if nearest >= surely:  # the places that come near may lie between the compared points
                continue
            assert inner is not None
            if kind == DIVERGE:
                assert entry == 0.0
            else:
                assert outer[0] - FINE <= entry * scale <= inner[0] + 0.5 + FINE, (a, b)
            if kind == MERGE:
                assert end == float(net.lane_length[lane])
            else:
                assert inner[1] - 0.5 - FINE <= end * scale <= outer[1] + FINE, (a, b)
    assert min(counted.values()) > 20, counted


def test_conflicts_of_recorded_lengths_are_scaled() -> None:
    """A way that is driven twice as long as its line is drawn has its places twice as far along."""
    ways = [Connection(("w", "n", 0), 0, ("n", "e", 0), 0), Connection(("s", "n", 0), 0, ("n", "t", 0), 0)]
    lines = [np.array([[-10.0, 0.0], [10.0, 0.0]]), np.array([[0.0, -10.0], [0.0, 10.0]])]
    once = find_conflicts(ways, lines, [20.0, 20.0])
    twice = find_conflicts(ways, lines, [40.0, 20.0])
    assert len(once) == len(twice) == 2
    for a, b in zip(once, twice, strict=True):
        own, foe = (2.0, 1.0) if a.own == 0 else (1.0, 2.0)
        assert (a.own, a.foe, a.kind) == (b.own, b.foe, CROSSING)
        assert (b.own_entry, b.own_exit) == pytest.approx((own * a.own_entry, own * a.own_exit))
        assert (b.foe_entry, b.foe_exit) == pytest.approx((foe * a.foe_entry, foe * a.foe_exit))

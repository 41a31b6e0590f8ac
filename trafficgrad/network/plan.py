"""Which lane leads where: for every place of every route the next lane, and how many lane changes it still takes.

A *row* of the plan is an edge as a driver sees it. Rows 0 to E-1 are for drivers without a route, who go on along the
first successor of their lane; then follow the places of every route, one row each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError

SHORT_EDGE = 100.0  # m for each lane change: on shorter edges ahead a change had better be made before
FARTHEST = 2000.0  # m, how far along a lane a driver looks for its end


class PlanTables(NamedTuple):
    """Rows [X], lanes of an edge [K] (0 = right, padded)."""

    edge: Tensor  # [X] int64
    following: Tensor  # [X] int64 row of the next edge, -1 = the route ends here (rows of routes only)
    next_lane: Tensor  # [X, K] int64 where the lane leads along the route, -1 = nowhere
    ends: Tensor  # [X] bool, vehicles leave at the end of this edge
    change: Tensor  # [X, K] int64, lane changes to the best lane, + = left
    reach: Tensor  # [X, K] m from the edge's start that this lane can be followed, inf = for long
    route_start: Tensor  # [R + 1] int64, first row of each route


class Way(NamedTuple):
    """From a lane's number to the lane entered first (a junction lane or a road lane) and the number it leads to."""

    number: int
    lane: int
    to_number: int
    length: float  # m of the junction lane, 0 without one


def compile_plan(
    edge_lanes: Sequence[int],
    edge_length: Sequence[float],
    ways: dict[tuple[int, int], list[Way]],
    routes: Sequence[Sequence[int]],
    loops: Sequence[bool],
) -> PlanTables:
    """Compile the rows of all edges and routes.

    Parameters:
        edge_lanes, edge_length: per edge. ways: from (edge, next edge) to the connections between them.
        routes: edges of each route. loops: whether a route begins again after its last edge.
    """
    width = max(edge_lanes)
    leaving: dict[int, list[list[Way]]] = {}
    for (e, _), between in ways.items():
        leaving.setdefault(e, []).append(between)
    edge, following, next_lane, ends, change, reach = [], [], [], [], [], []
    for e, count in enumerate(edge_lanes):
        first: dict[int, int] = {}
        for between in leaving.get(e, []):
            for way in between:
                first.setdefault(way.number, way.lane)
        exits = not first
        targets = {k: 0.0 for k in (range(count) if exits else first)}
        edge.append(e)
        following.append(-1)
        ends.append(exits)
        next_lane.append(_padded([first.get(k, -1) for k in range(count)], width, -1))
        change.append(_padded([_nearest(k, targets)[0] for k in range(count)], width, 0))
        goes_on = [math.inf if exits or k in first else edge_length[e] for k in range(count)]
        reach.append(_padded(goes_on, width, math.inf))
    starts = [len(edge)]
    for route, loop in zip(routes, loops, strict=True):
        rows = _route_rows(route, loop, edge_lanes, edge_length, ways)
        start = len(edge)
        for i, (nexts, changes, reaches) in enumerate(rows):
            last = i == len(rows) - 1
            edge.append(route[i])
            following.append((start if loop else -1) if last else start + i + 1)
            ends.append(last and not loop)
            next_lane.append(_padded(nexts, width, -1))
            change.append(_padded(changes, width, 0))
            reach.append(_padded(reaches, width, math.inf))
        starts.append(len(edge))
    return PlanTables(
        torch.tensor(edge),
        torch.tensor(following),
        torch.tensor(next_lane),
        torch.tensor(ends),
        torch.tensor(change),
        torch.tensor(reach, dtype=torch.float64),
        torch.tensor(starts),
    )


def _padded(values: list, width: int, filler: float) -> list:
    return values + [filler] * (width - len(values))


def _nearest(k: int, targets: dict[int, float]) -> tuple[int, float]:
    """Signed lane changes from lane k to the cheapest target, and the cost; to stay wins ties, then the shorter way."""
    best = min(targets, key=lambda t: (abs(t - k) + targets[t], abs(t - k), t))
    return best - k, abs(best - k) + targets[best]


def _route_rows(
    route: Sequence[int],
    loop: bool,
    edge_lanes: Sequence[int],
    edge_length: Sequence[float],
    ways: dict[tuple[int, int], list[Way]],
) -> list[tuple[list[int], list[int], list[float]]]:
    """Backwards along the route: (next lanes, changes, reaches) of each of its edges."""
    places = len(route)
    # A loop is unrolled once more, so that its end knows how its beginning goes on.
    order = list(route) + (list(route) if loop else [])
    cost = [0.0] * edge_lanes[order[-1]]
    far = [FARTHEST] * edge_lanes[order[-1]]
    rows: list[tuple[list[int], list[int], list[float]]] = []
    if not loop:
        rows.append(([-1] * len(cost), [0] * len(cost), [math.inf] * len(cost)))
    for i in range(len(order) - 2, -1, -1):
        e, f = order[i], order[i + 1]
        later = 1.0 + SHORT_EDGE / edge_length[f]  # what a lane change there weighs, against one here
        chosen: dict[int, Way] = {}
        for way in ways[(e, f)]:
            if way.number not in chosen or cost[way.to_number] < cost[chosen[way.number].to_number]:
                chosen[way.number] = way
        targets = {k: later * cost[way.to_number] for k, way in chosen.items()}
        lanes = range(edge_lanes[e])
        reaches = [
            edge_length[e] + (chosen[k].length + far[chosen[k].to_number] if k in chosen else 0.0) for k in lanes
        ]
        changes, costs = zip(*(_nearest(k, targets) for k in lanes), strict=True)
        rows.append(([chosen[k].lane if k in chosen else -1 for k in lanes], list(changes), reaches))
        cost, far = list(costs), [min(FARTHEST, reach) for reach in reaches]
    rows.reverse()
    return [
        (nexts, changes, [math.inf if reach >= FARTHEST else reach for reach in reaches])
        for nexts, changes, reaches in rows[:places]
    ]


def check_route(route: Sequence[int], names: Sequence[object], ways: dict[tuple[int, int], list[Way]]) -> None:
    """A route's edges follow each other.

    Raises:
        TrafficGradError: names the two edges that no connection joins.
    """
    if not route:
        raise TrafficGradError("a route needs at least one edge")
    for e, f in pairwise(route):
        if (e, f) not in ways:
            raise TrafficGradError(
                f"the route cannot be driven: no connection leads from edge {names[e]} to edge {names[f]}"
            )

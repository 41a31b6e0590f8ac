"""Highways: a merge, a bottleneck, and a road with an on-ramp and an off-ramp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.connections import Connection, EdgeKey
from trafficgrad.network.layout import (
    add_edge,
    add_node,
    bend,
    check_choice,
    check_counts,
    check_lengths,
    check_not_negative,
    check_speeds,
    sidestep,
    split_line,
    straight_lines,
    through,
)
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.signals import Meter

_ZONE = 40.0  # m in which two lanes become one
_SLANT = math.radians(10.0)  # between a highway and a ramp that merges without a lane of its own
_RAMP_TURN = math.radians(25.0)  # of a ramp, between its far end and the highway
_TAPERS = (30.0, 15.0)  # m in which the lanes of a bottleneck join, at its first and second narrowing


def merge(
    pre_merge_length: float = 600.0,
    post_merge_length: float = 100.0,
    ramp_length: float = 200.0,
    lanes: int = 1,
    speed_limit: float = 30.0,
    ramp_speed_limit: float | None = None,
    right_of_way: str = "priority",
    acceleration_lane: float = 0.0,
    meter: Meter | None = None,
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A highway along +x that a ramp of one lane joins from the right.

    Without an acceleration lane the ramp leads into the right lane within the first 40 m after the node "merge". With
    one it goes on as an extra lane beside the highway, which then ends (a lane drop: drivers must change before; with
    ``right_of_way="zipper"`` it joins the right lane in turn within the next 40 m). Lengths and limit are those of
    Flow's merge benchmarks [1, 2]: 100 m where vehicles enter and 500 m before the merge, 100 m after it, a ramp of
    100 + 100 m, 30 m/s.

    Edges: ``highway_in``, ``ramp``, ``highway_out`` and, with an acceleration lane, ``highway_merge`` between them.
    With a meter the ramp goes on behind its stop line as ``ramp_end``; its signal is called ``meter``.

    Parameters:
        pre_merge_length, post_merge_length: m of the highway before and after the merge (the 40 m included).
        ramp_length: m. lanes: of the highway. speed_limit: m/s. ramp_speed_limit: m/s, None = as on the highway.
        right_of_way: "priority" (the highway goes first) or "zipper". acceleration_lane: m, 0 = none. meter: of the
        ramp, None = none. lane_width: m.

    References:
        [1] Wu et al., Flow: a modular learning framework for mixed autonomy traffic, arXiv 1710.05465.
        [2] Vinitsky et al., Benchmarks for reinforcement learning in mixed-autonomy traffic, CoRL 2018.
    """
    where = "merge"
    check_lengths(where, pre_merge_length=pre_merge_length, post_merge_length=post_merge_length)
    check_lengths(where, ramp_length=ramp_length, lane_width=lane_width)
    check_not_negative(where, acceleration_lane=acceleration_lane)
    ramp_limit = speed_limit if ramp_speed_limit is None else ramp_speed_limit
    check_speeds(where, speed_limit=speed_limit, ramp_speed_limit=ramp_limit)
    check_counts(where, lanes=lanes)
    check_choice(where, "right_of_way", right_of_way, ("priority", "zipper"))
    if meter is not None and meter.distance >= ramp_length:
        raise TrafficGradError(
            f"{where}: a meter {meter.distance:g} m before the end of a ramp needs a ramp_length of more than that, "
            f"got {ramp_length:g}"
        )
    own_lane = acceleration_lane > 0
    zone = 0.0 if own_lane and right_of_way == "priority" else _ZONE
    if post_merge_length <= zone:
        raise TrafficGradError(
            f"{where}: post_merge_length must be more than the {zone:g} m in which lanes join, got {post_merge_length}"
        )
    x0, x1 = pre_merge_length, pre_merge_length + acceleration_lane
    x2 = x1 + post_merge_length
    edge_of_road = -lanes * lane_width / 2
    # Without an own lane the ramp ends half a metre off the highway, so that waiting vehicles stand clear of it.
    ramp_end = (x0, edge_of_road - lane_width / 2 - (0.0 if own_lane else 0.5))
    ramp = _ramp_before(ramp_end, 0.0 if own_lane else _SLANT, ramp_length)
    graph = nx.MultiDiGraph()
    add_node(graph, "start", (0.0, 0.0))
    add_node(graph, "ramp", ramp[0])
    add_node(graph, "merge", (x0, 0.0))
    add_node(graph, "end", (x2, 0.0))
    limit = {"speed_limit": speed_limit, "priority": 1}
    before = straight_lines((0.0, x0), 0.0, lanes, lane_width)
    incoming = add_edge(graph, "start", "merge", "highway_in", **before, **limit)
    ramp_key = _add_ramp(graph, ramp, ramp_length, meter, {"lane_width": lane_width, "speed_limit": ramp_limit})
    after = straight_lines((x1 + zone, x2), 0.0, lanes, lane_width)
    if not own_lane:
        outgoing = add_edge(graph, "merge", "end", "highway_out", **after, **limit)
        # Drivers merge at the ramp's speed; the gentle curve would ask for less.
        joins = Connection(ramp_key, 0, outgoing, 0, speed_limit=ramp_limit)
        graph.nodes["merge"].update(right_of_way=right_of_way, connections=[*through(incoming, outgoing, lanes), joins])
        return RoadNetwork.from_graph(graph)
    add_node(graph, "lane_end", (x1, 0.0))
    beside = straight_lines((x0, x1), -lane_width / 2, lanes + 1, lane_width)
    middle = add_edge(graph, "merge", "lane_end", "highway_merge", **beside, **limit)
    outgoing = add_edge(graph, "lane_end", "end", "highway_out", **after, **limit)
    graph.nodes["merge"]["connections"] = [
        *through(incoming, middle, lanes, to_first=1),
        Connection(ramp_key, 0, middle, 0),
    ]
    ends = through(middle, outgoing, lanes, first=1)
    if right_of_way == "zipper":
        y = edge_of_road + lane_width / 2
        line = sidestep((x1, y - lane_width), (x1 + zone, y), (1.0, 0.0))
        ends.append(Connection(middle, 0, outgoing, 0, geometry=line, speed_limit=speed_limit))
    graph.nodes["lane_end"].update(right_of_way=right_of_way, connections=ends)
    return RoadNetwork.from_graph(graph)


def bottleneck(
    lanes: int = 4,
    speed_limit: float = 23.0,
    lengths: Sequence[float] = (100.0, 310.0, 140.0, 30.0, 155.0),
    meter: Meter | None = None,
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A road along +x that narrows twice: of each pair of lanes one goes on, like a zip.

    4 lanes become 2 and then 1 (with 8 lanes 4 and 2): the layout of Flow's bottleneck [1, 2], modelled on the toll
    plaza of the San Francisco-Oakland Bay Bridge, with its lengths and limit. The lanes join within the last 30 m of
    ``section_3`` and the last 15 m of ``section_4``, so those edges are shorter by as much and the road is 735 m long.

    Edges: ``section_1`` to ``section_5``; all lanes until the end of the third, half of them on the fourth, a quarter
    on the fifth. With a meter the third goes on behind the stop line as ``section_3_end``; the signal is called
    ``meter``, and its lanes take turns so that of two that join never one goes right after the other.

    Parameters:
        lanes: a multiple of 4. speed_limit: m/s. lengths: m, of the five sections. meter: before the first narrowing,
        None = none. lane_width: m.

    References:
        [1] Wu et al., Flow: a modular learning framework for mixed autonomy traffic, arXiv 1710.05465.
        [2] Vinitsky et al., Benchmarks for reinforcement learning in mixed-autonomy traffic, CoRL 2018.
    """
    where = "bottleneck"
    check_counts(where, lanes=lanes)
    check_speeds(where, speed_limit=speed_limit)
    check_lengths(where, lane_width=lane_width)
    if lanes % 4:
        raise TrafficGradError(f"{where}: lanes must be a multiple of 4, since it is halved twice, got {lanes}")
    tapers = (0.0, 0.0, *_TAPERS, 0.0)
    if len(lengths) != len(tapers):
        raise TrafficGradError(f"{where}: lengths needs {len(tapers)} values, one a section, got {len(lengths)}")
    for s, (length, taper) in enumerate(zip(lengths, tapers, strict=True), start=1):
        check_lengths(where, **{f"length of section {s}": length})
        if length <= taper:
            raise TrafficGradError(
                f"{where}: section {s} must be longer than the {taper:g} m in which its lanes join, got {length}"
            )
    if meter is not None and meter.distance >= lengths[2] - _TAPERS[0]:
        raise TrafficGradError(
            f"{where}: a meter {meter.distance:g} m before the first narrowing does not stand on section 3, which is "
            f"{lengths[2] - _TAPERS[0]:g} m long up to there"
        )
    graph = nx.MultiDiGraph()
    counts = (lanes, lanes, lanes, lanes // 2, lanes // 4)
    add_node(graph, "start", (0.0, 0.0))
    x = 0.0
    keys: list[EdgeKey] = []
    names = ("start", "node_1", "node_2", "first_zip", "second_zip", "end")
    for s, (length, taper, count) in enumerate(zip(lengths, tapers, counts, strict=True)):
        begin, end, start, name = x, x + length - taper, names[s], f"section_{s + 1}"
        if s == 2 and meter is not None:
            stop = end - meter.distance
            graph.add_node("meter", position=(stop, 0.0), name="meter")
            road = straight_lines((begin, stop), 0.0, count, lane_width)
            waiting = add_edge(graph, start, "meter", name, speed_limit=speed_limit, **road)
            begin, start, name = stop, "meter", f"{name}_end"
        graph.add_node(names[s + 1], position=(end, 0.0), name=names[s + 1])
        road = straight_lines((begin, end), 0.0, count, lane_width)
        keys.append(add_edge(graph, start, names[s + 1], name, speed_limit=speed_limit, **road))
        x += length
    if meter is not None:
        stops = [Connection(waiting, i, keys[2], i, signal="meter", signal_index=i) for i in range(lanes)]
        graph.nodes["meter"]["connections"] = stops
        turns = [*range(0, lanes, 4), *range(2, lanes, 4), *range(1, lanes, 4), *range(3, lanes, 4)]
        graph.graph["signals"] = {"meter": meter.programme(turns)}
    narrowings = ((2, "first_zip", lengths[0] + lengths[1] + lengths[2]), (3, "second_zip", sum(lengths[:4])))
    for s, node, end in narrowings:
        ways = []
        for i in range(counts[s]):
            y = (i - (counts[s] - 1) / 2) * lane_width
            to_y = (i // 2 - (counts[s + 1] - 1) / 2) * lane_width
            line = sidestep((end - tapers[s], y), (end, to_y), (1.0, 0.0))
            # It is the merging that shall hold traffic up, not the curve.
            ways.append(Connection(keys[s], i, keys[s + 1], i // 2, geometry=line, speed_limit=speed_limit))
        graph.nodes[node].update(right_of_way="zipper", connections=ways)
    return RoadNetwork.from_graph(graph)


def highway(
    length: float = 3000.0,
    lanes: int = 3,
    speed_limit: float = 33.3,
    on_ramp_at: float | None = None,
    off_ramp_at: float | None = None,
    acceleration_lane: float = 250.0,
    deceleration_lane: float = 200.0,
    ramp_length: float = 200.0,
    ramp_speed_limit: float = 22.2,
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A straight highway along +x, with an on-ramp, an off-ramp, both or none, all on its right side.

    From ``on_ramp_at`` an extra lane runs beside the highway and ends after ``acceleration_lane`` m. An extra lane
    begins ``deceleration_lane`` m before ``off_ramp_at`` and becomes the off-ramp there. Where the two would meet, one
    lane leads from the on-ramp to the off-ramp: a weaving section.

    Edges: ``highway_0``, ``highway_1``, ... in driving order, a new one where an extra lane begins or ends;
    ``on_ramp``, ``off_ramp``. On edges with an extra lane it is lane 0, and the lanes that go through are 1, 2, ...

    Parameters:
        length: m of the highway. lanes: that go through. speed_limit: m/s. on_ramp_at, off_ramp_at: m from the
        highway's start, None = no such ramp. acceleration_lane, deceleration_lane, ramp_length: m.
        ramp_speed_limit: m/s. lane_width: m.
    """
    where = "highway"
    check_lengths(where, length=length, acceleration_lane=acceleration_lane, deceleration_lane=deceleration_lane)
    check_lengths(where, ramp_length=ramp_length, lane_width=lane_width)
    check_speeds(where, speed_limit=speed_limit, ramp_speed_limit=ramp_speed_limit)
    check_counts(where, lanes=lanes)
    sections = []  # where the extra lane begins and ends
    if on_ramp_at is not None:
        check_lengths(where, on_ramp_at=on_ramp_at)
        sections.append((on_ramp_at, on_ramp_at + acceleration_lane))
    if off_ramp_at is not None:
        check_lengths(where, off_ramp_at=off_ramp_at)
        sections.append((off_ramp_at - deceleration_lane, off_ramp_at))
    if on_ramp_at is not None and off_ramp_at is not None:
        if on_ramp_at == off_ramp_at:
            raise TrafficGradError(f"{where}: on_ramp_at and off_ramp_at must differ, both are {on_ramp_at}")
        if on_ramp_at < off_ramp_at and sections[0][1] >= sections[1][0]:
            sections = [(on_ramp_at, off_ramp_at)]
        elif off_ramp_at < on_ramp_at:
            sections.reverse()
    for begin, end in sections:
        if not 0 < begin < end < length:
            raise TrafficGradError(
                f"{where}: the extra lane from {begin:g} to {end:g} m of a ramp does not lie within the highway's "
                f"{length:g} m"
            )
    places = [0.0, *(x for section in sections for x in section), length]
    graph = nx.MultiDiGraph()
    for k, x in enumerate(places):
        add_node(graph, f"node_{k}", (x, 0.0))
    extra = [0] * (len(places) - 1)
    for begin, _ in sections:
        extra[places.index(begin)] = 1
    keys = []
    for k, (more, span) in enumerate(zip(extra, pairwise(places), strict=True)):
        road = straight_lines(span, -more * lane_width / 2, lanes + more, lane_width)
        name = f"highway_{k}"
        keys.append(add_edge(graph, f"node_{k}", f"node_{k + 1}", name, speed_limit=speed_limit, priority=1, **road))
    ramp: dict[str, Any] = {"length": ramp_length, "lane_width": lane_width, "speed_limit": ramp_speed_limit}
    extra_lane = -(lanes + 1) * lane_width / 2  # y of its middle, m
    for k in range(1, len(places) - 1):
        ways = through(keys[k - 1], keys[k], lanes, extra[k - 1], extra[k])
        if places[k] == on_ramp_at:
            line = _ramp_before((on_ramp_at, extra_lane), 0.0, ramp_length)
            add_node(graph, "on_ramp", line[0])
            key = add_edge(graph, "on_ramp", f"node_{k}", "on_ramp", geometry=line, **ramp)
            ways.append(Connection(key, 0, keys[k], 0))
        if places[k] == off_ramp_at:
            # The mirror image of an on-ramp, driven the other way.
            mirrored = _ramp_before((-off_ramp_at, extra_lane), 0.0, ramp_length)
            line = [(-x, y) for x, y in reversed(mirrored)]
            add_node(graph, "off_ramp", line[-1])
            key = add_edge(graph, f"node_{k}", "off_ramp", "off_ramp", geometry=line, **ramp)
            ways.append(Connection(keys[k - 1], 0, key, 0))
        graph.nodes[f"node_{k}"]["connections"] = ways
    return RoadNetwork.from_graph(graph)


def _add_ramp(
    graph: nx.MultiDiGraph, line: list[tuple[float, float]], length: float, meter: Meter | None, road: dict[str, float]
) -> EdgeKey:
    """Add the ramp that leads from node "ramp" to node "merge"; the key of the edge that ends there."""
    if meter is None:
        return add_edge(graph, "ramp", "merge", "ramp", length=length, geometry=line, **road)
    before = length - meter.distance
    front, back = split_line(np.array(line), before)
    add_node(graph, "meter", (float(back[0, 0]), float(back[0, 1])))
    lines = ({"geometry": [tuple(point) for point in part.tolist()]} for part in (front, back))
    waiting = add_edge(graph, "ramp", "meter", "ramp", length=before, **next(lines), **road)
    end = add_edge(graph, "meter", "merge", "ramp_end", length=meter.distance, **next(lines), **road)
    graph.nodes["meter"]["connections"] = [Connection(waiting, 0, end, 0, signal="meter", signal_index=0)]
    graph.graph["signals"] = {"meter": meter.programme()}
    return end


def _ramp_before(end: tuple[float, float], heading: float, length: float) -> list[tuple[float, float]]:
    """Line of a ramp that comes from the right and ends at ``end`` (m) in direction ``heading`` (rad)."""
    curve = min(100.0, length / 2)
    backwards = bend(end, heading + math.pi, [(curve, _RAMP_TURN), (length - curve, 0.0)])
    return [(x, y) for x, y in backwards[::-1].tolist()]

"""Streets of a town: a junction of four arms, a grid, and a main street with signals."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.layout import (
    add_node,
    check_choice,
    check_counts,
    check_lengths,
    check_not_negative,
    check_speeds,
)
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.street_layout import (
    Arm,
    End,
    Street,
    Timing,
    add_street,
    movements,
    offsets_of,
    programme,
)

_SIDES = (("east", 1.0, 0.0), ("north", 0.0, 1.0), ("west", -1.0, 0.0), ("south", 0.0, -1.0))  # name, direction


def intersection(
    lanes: int = 2,
    arm_length: float = 200.0,
    control: str = "signals",
    speed_limit: float = 13.9,
    left_lanes: int = 1,
    pocket_length: float = 60.0,
    protected_left: bool = True,
    kind: str = "fixed",
    green: float = 30.0,
    left_green: float = 10.0,
    yellow: float = 3.0,
    all_red: float = 2.0,
    offset: float = 0.0,
    min_green: float = 5.0,
    max_green: float = 60.0,
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A junction of two streets at right angles; every arm leads right, straight on and left.

    Turning lanes for left turns open within 30 m and are an edge of their own. The signal is called ``center``; its
    programme has a phase for each street, before it one for the left turns if they are protected (else they yield),
    yellow and all-red.

    Edges, for each side NAME of ``east``, ``north``, ``west``, ``south``: ``NAME_in``, with turning lanes then
    ``NAME_approach``, and ``NAME_out``. From west to north: west_in, west_in_approach, north_out.

    Parameters:
        lanes: in each direction. arm_length: m, from the middle of the junction to the outer end of an arm.
        control: "signals", "priority" (the east-west street goes first) or "all_way_stop". speed_limit: m/s.
        left_lanes: turning lanes on each arm, 0 = left turns share the leftmost lane. pocket_length: m of the turning
        lanes. protected_left: whether left turns get a phase of their own; without turning lanes the leftmost lane then
        leads left only. kind: of the signal, "fixed", "actuated" or "controlled". green, left_green, yellow, all_red:
        s. offset: s, when the first phase begins. min_green, max_green: s, of signals that are not fixed.
        lane_width: m.
    """
    where = "intersection"
    check_lengths(where, arm_length=arm_length, pocket_length=pocket_length, lane_width=lane_width)
    check_speeds(where, speed_limit=speed_limit)
    check_counts(where, lanes=lanes)
    check_counts(where, least=0, left_lanes=left_lanes)
    check_choice(where, "control", control, ("signals", "priority", "all_way_stop"))
    if left_lanes > lanes:
        raise TrafficGradError(
            f"{where}: {left_lanes} turning lanes cannot lead into {lanes} lanes; choose left_lanes <= lanes"
        )
    protected = protected_left and control == "signals"
    only_left = _only_left(where, protected, lanes, left_lanes)
    lefts = (left_green if protected else 0.0,) * 2
    timing = Timing(kind, (green, green), lefts, yellow, all_red, min_green, max_green)
    if protected:
        check_lengths(where, left_green=left_green)
    timing.check(where)
    (start,) = offsets_of(where, offset, 1)
    graph = nx.MultiDiGraph()
    add_node(graph, "center", (0.0, 0.0))
    arms = []
    for a, (side, x, y) in enumerate(_SIDES):
        priority = 1 if control == "priority" and a % 2 == 0 else 0
        street = Street(lanes, speed_limit, lane_width, left_lanes, pocket_length, priority)
        add_node(graph, side, (arm_length * x, arm_length * y))
        ends = End(side, 0.0, False), End("center", street.stop_distance, True)
        arms.append(add_street(graph, street, ends, (f"{side}_in", f"{side}_out"), only_left)[1])
    _control(graph, "center", arms, control, timing, start)
    return RoadNetwork.from_graph(graph)


def grid(
    rows: int = 3,
    columns: int = 3,
    inner_length: float = 300.0,
    end_length: float = 300.0,
    lanes: int = 1,
    speed_limit: float = 35.0,
    turns: bool = True,
    protected_left: bool = False,
    kind: str = "fixed",
    green: float = 31.0,
    left_green: float = 10.0,
    yellow: float = 4.0,
    all_red: float = 2.0,
    offsets: float | Sequence[float] = 0.0,
    min_green: float = 5.0,
    max_green: float = 60.0,
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A grid of two-way streets with a signal at every junction.

    The layout, the 300 m between junctions and the limit of 35 m/s are those of Flow's traffic light grid [1, 2], where
    everybody goes straight on (``turns=False``) and 31 s of green and 6 s of yellow alternate. A town has 13.9 m/s.
    Programmes: a phase for the east-west and one for the north-south street, before each one for its left turns if
    they are protected (else they yield), yellow and all-red.

    Rows count from the south, columns from the west. Edges are called by direction, row and column of the junction
    that they lead to or come from: section c of row r lies west of junction (r, c), section r of column c south of it,
    so ``east_0_0`` enters the first row from the west and ``east_0_COLUMNS`` leaves it; ``west_R_C``, ``north_R_C``
    and ``south_R_C`` likewise. Signals, row by row: ``signal_R_C``.

    Parameters:
        rows, columns: number of streets. inner_length: m between junctions. end_length: m from the outermost junctions
        to the ends of the streets. lanes: in each direction. speed_limit: m/s. turns: whether there are any.
        protected_left: whether left turns get a phase of their own and the leftmost lane; needs two lanes.
        kind: of the signals, "fixed", "actuated" or "controlled". green, left_green, yellow, all_red: s. offsets: s,
        when the first phase begins, for all or each. min_green, max_green: s, of signals that are not fixed.
        lane_width: m.

    References:
        [1] Wu et al., Flow: a modular learning framework for mixed autonomy traffic, arXiv 1710.05465.
        [2] Vinitsky et al., Benchmarks for reinforcement learning in mixed-autonomy traffic, CoRL 2018.
    """
    where = "grid"
    check_lengths(where, inner_length=inner_length, end_length=end_length, lane_width=lane_width)
    check_speeds(where, speed_limit=speed_limit)
    check_counts(where, rows=rows, columns=columns, lanes=lanes)
    protected = protected_left and turns
    only_left = _only_left(where, protected, lanes, 0)
    lefts = (left_green if protected else 0.0,) * 2
    if protected:
        check_lengths(where, left_green=left_green)
    timing = Timing(kind, (green, green), lefts, yellow, all_red, min_green, max_green)
    timing.check(where)
    starts = offsets_of(where, offsets, rows * columns)
    street = Street(lanes, speed_limit, lane_width)
    stop = street.stop_distance
    graph = nx.MultiDiGraph()
    x, y = (
        [-end_length, *(inner_length * i for i in range(count)), inner_length * (count - 1) + end_length]
        for count in (columns, rows)
    )
    ends: dict[tuple[int, int], End] = {}
    for r in range(-1, rows + 1):
        for c in range(-1, columns + 1):
            inside = 0 <= r < rows, 0 <= c < columns
            if not any(inside):
                continue
            name = f"node_{r}_{c}" if all(inside) else _outer_name(r, c, rows, columns)
            add_node(graph, name, (x[c + 1], y[r + 1]))
            ends[r, c] = End(name, stop if all(inside) else 0.0, all(inside))
    arms: dict[tuple[int, int], dict[int, Arm]] = {(r, c): {} for r in range(rows) for c in range(columns)}
    sections = [((r, c - 1), (r, c), ("east", "west"), 0) for r in range(rows) for c in range(columns + 1)]
    sections += [((r - 1, c), (r, c), ("north", "south"), 1) for c in range(columns) for r in range(rows + 1)]
    for near, far, (forward, back), side in sections:
        number = f"{far[0]}_{far[1]}"
        names = f"{forward}_{number}", f"{back}_{number}"
        two = add_street(graph, street, (ends[near], ends[far]), names, only_left)
        for place, arm, where_it_lies in ((near, two[0], side), (far, two[1], side + 2)):
            if place in arms:
                arms[place][where_it_lies] = arm
    for place, start in zip(arms, starts, strict=True):
        name = f"node_{place[0]}_{place[1]}"
        signal = f"signal_{place[0]}_{place[1]}"
        _control(graph, name, [arms[place][a] for a in range(4)], "signals", timing, start, turns, signal)
    return RoadNetwork.from_graph(graph)


def arterial(
    junctions: int = 5,
    spacing: float | Sequence[float] = 300.0,
    lanes: int = 2,
    side_lanes: int = 1,
    side_length: float = 150.0,
    end_length: float = 200.0,
    speed_limit: float = 13.9,
    left_lanes: int = 0,
    pocket_length: float = 60.0,
    protected_left: bool = False,
    kind: str = "fixed",
    cycle: float = 60.0,
    green: float = 30.0,
    left_green: float = 8.0,
    yellow: float = 3.0,
    all_red: float = 2.0,
    offsets: float | Sequence[float] = 0.0,
    min_green: float = 5.0,
    max_green: float = 60.0,
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A main street from west to east with side streets at signals, for the timing of their greens.

    Programmes: a phase for the main street, before it one for its left turns if they are protected (else they yield),
    and one for the side street, which gets what the others leave of the cycle; yellow and all-red between them.

    Edges: ``east_0`` enters from the west, ``east_J`` leads to junction J, ``east_JUNCTIONS`` leaves; ``west_J`` is the
    other direction of the same section, so ``west_JUNCTIONS`` enters from the east and ``west_0`` leaves. Side streets:
    ``north_in_J``, ``north_out_J``, ``south_in_J``, ``south_out_J`` (in = towards the junction). Before junctions with
    turning lanes ``east_J`` and ``west_J`` go on as ``east_J_approach`` and ``west_J_approach``. Signals:
    ``signal_J``.

    Parameters:
        junctions: number of side streets. spacing: m between them, one value or one for each section.
        lanes, side_lanes: in each direction of the main street and of the side streets. side_length: m, from the middle
        of the main street to the ends of the side streets. end_length: m from the outermost junctions to the ends of
        the main street. speed_limit: m/s. left_lanes: turning lanes on the main street, 0 = left turns share the
        leftmost lane. pocket_length: m of the turning lanes. protected_left: whether left turns from the main street
        get a phase of their own; without turning lanes the leftmost lane then leads left only. kind: of the signals,
        "fixed", "actuated" or "controlled". cycle: s. green: s, of the main street. left_green, yellow, all_red: s.
        offsets: s, when the main street's first phase begins, for all or each. min_green, max_green: s, of signals that
        are not fixed. lane_width: m.
    """
    where = "arterial"
    check_counts(where, junctions=junctions, lanes=lanes, side_lanes=side_lanes)
    check_counts(where, least=0, left_lanes=left_lanes)
    gaps = [spacing] * (junctions - 1) if isinstance(spacing, int | float) else list(spacing)
    if len(gaps) != junctions - 1:
        raise TrafficGradError(
            f"{where}: spacing needs one value for each of the {junctions - 1} sections between junctions, "
            f"got {len(gaps)}"
        )
    for gap in gaps:
        check_lengths(where, spacing=gap)
    check_lengths(where, side_length=side_length, end_length=end_length, lane_width=lane_width)
    check_lengths(where, pocket_length=pocket_length, cycle=cycle, green=green, yellow=yellow)
    check_not_negative(where, all_red=all_red)
    check_speeds(where, speed_limit=speed_limit)
    if left_lanes > side_lanes:
        raise TrafficGradError(
            f"{where}: {left_lanes} turning lanes cannot lead into {side_lanes} lanes; choose left_lanes <= side_lanes"
        )
    only_left = _only_left(where, protected_left, lanes, left_lanes)
    if protected_left:
        check_lengths(where, left_green=left_green)
    left = left_green if protected_left else 0.0
    side_green = cycle - green - left - (3 if protected_left else 2) * (yellow + all_red)
    if not side_green >= min_green:
        raise TrafficGradError(
            f"{where}: a cycle of {cycle:g} s leaves {side_green:g} s of green to the side streets, fewer than "
            f"min_green = {min_green:g} s"
        )
    timing = Timing(kind, (green, side_green), (left, 0.0), yellow, all_red, min_green, max_green)
    timing.check(where)
    starts = offsets_of(where, offsets, junctions)
    main = Street(lanes, speed_limit, lane_width, left_lanes, pocket_length)
    side = Street(side_lanes, speed_limit, lane_width)
    graph = nx.MultiDiGraph()
    places = [0.0]
    for gap in gaps:
        places.append(places[-1] + gap)
    nodes = ["west", *(f"junction_{j}" for j in range(junctions)), "east"]
    for node, x in zip(nodes, [-end_length, *places, places[-1] + end_length], strict=True):
        add_node(graph, node, (x, 0.0))
    on_main = [End(node, side.stop_distance, True) for node in nodes]
    on_main[0], on_main[-1] = End("west", 0.0, False), End("east", 0.0, False)
    sections = [
        add_street(graph, main, (on_main[j], on_main[j + 1]), (f"east_{j}", f"west_{j}"), only_left)
        for j in range(junctions + 1)
    ]
    for j, x in enumerate(places):
        arms = [sections[j + 1][0], sections[j][1]]
        for number, name, y in ((1, "north", side_length), (3, "south", -side_length)):
            outer = f"{name}_{j}"
            add_node(graph, outer, (x, y))
            ends = End(outer, 0.0, False), End(nodes[j + 1], main.stop_distance, True)
            arms.insert(number, add_street(graph, side, ends, (f"{name}_in_{j}", f"{name}_out_{j}"))[1])
        _control(graph, nodes[j + 1], arms, "signals", timing, starts[j], signal=f"signal_{j}")
    return RoadNetwork.from_graph(graph)


def _control(
    graph: nx.MultiDiGraph,
    node: str,
    arms: Sequence[Arm],
    control: str,
    timing: Timing,
    offset: float,
    turns: bool = True,
    signal: str = "center",
) -> None:
    """Give a node its connections, and its signal if that controls it."""
    ways = movements(arms, turns, signal if control == "signals" else None)
    graph.nodes[node].update(right_of_way=control, connections=[way.connection for way in ways])
    if control == "signals":
        graph.graph.setdefault("signals", {})[signal] = programme(ways, timing, offset)


def _only_left(builder: str, protected: bool, lanes: int, left_lanes: int) -> int:
    """Of a street's ordinary lanes, those that only lead left."""
    if not protected or left_lanes > 0:
        return 0
    if lanes < 2:
        raise TrafficGradError(
            f"{builder}: protected left turns need a lane of their own, so two lanes or turning lanes, got one lane"
        )
    return 1


def _outer_name(row: int, column: int, rows: int, columns: int) -> str:
    if row in (-1, rows):
        return f"{'south' if row < 0 else 'north'}_{column}"
    return f"{'west' if column < 0 else 'east'}_{row}"

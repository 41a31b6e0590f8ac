"""Import of OpenStreetMap: a drawn town (tests/data/town.osm) whose tags and distances are known, tag by tag."""

import bz2
import gzip
import itertools
import math
import socket
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import osmnx
import pytest

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.network.connections import Connection
from trafficgrad.network.osm import ROAD_CLASSES, read_osm, speed_limit
from trafficgrad.network.signal_defaults import default_programmes

TOWN = Path(__file__).parent / "data" / "town.osm"
KMH, MPH = 1 / 3.6, 0.44704


@pytest.fixture(scope="module")
def town() -> nx.MultiDiGraph:
    return read_osm(TOWN)[0]


def read_text(folder: Path, nodes: dict[int, tuple[float, float, str]], ways: dict[str, str]):
    """A map of nodes (metres north and east of 48 N, 11 E, and tags) and ways (node numbers, tags), near enough."""
    text = "<osm version='0.6'>"

    def tags(line: str) -> str:
        return "".join(f"<tag k='{tag.split('=')[0]}' v='{tag.split('=')[1]}'/>" for tag in line.split(",") if tag)

    for number, (north, east, line) in nodes.items():
        lat, lon = 48.0 + north / 111_200.0, 11.0 + east / 74_600.0
        text += f"<node id='{number}' lat='{lat:.7f}' lon='{lon:.7f}'>{tags(line)}</node>"
    for number, (refs, line) in enumerate(ways.items(), start=100):
        text += f"<way id='{number}'>" + "".join(f"<nd ref='{ref}'/>" for ref in refs.split()) + tags(line) + "</way>"
    path = folder / "map.osm"
    path.write_text(text + "</osm>")
    return read_osm(path)


# ---------------------------------------------------------------------- what there is


def test_only_car_roads_become_edges_between_junctions(town):
    assert set(town.edges(keys=False)) == {
        (11, 10), (10, 11), (10, 20), (20, 10),  # Main street, cut by the signals
        (20, 22), (22, 23), (23, 20),  # the roundabout, one way, cut by its three arms
        (22, 24), (24, 22),  # East road
        (25, 23),  # one way
        (19, 14), (14, 19), (14, 10), (10, 14), (10, 13), (13, 10), (13, 16), (16, 13),  # Cross street
        (15, 13), (13, 15),  # Lane
        (14, 27), (27, 14),  # by its bend, node 26
        (28, 14),  # oneway=-1; its node 18 is 2 m from 14 and joined to it
        (30, 31),  # motorway
    }  # fmt: skip


def test_the_summary_counts_ways(town):
    _, summary = read_osm(TOWN)
    assert summary.read["ways"] == 12
    assert summary.left_out == {"ways": {"closed to cars": 1, "of class footway": 1, "that are no roads": 1}}
    assert summary.kept == {"nodes": 16, "edges": 24, "lanes": 31, "ways": 9}
    assert "edges below 3 m (joined to their junction): 2" in summary.notes
    assert any("UTM zone 32N" in note for note in summary.notes)


def test_lanes_follow_the_tags_or_the_class(town):
    lanes = {(u, v): count for u, v, count in town.edges(data="lanes")}
    assert lanes[11, 10] == lanes[10, 11] == 2  # lanes=4, both ways
    assert (lanes[14, 27], lanes[27, 14]) == (2, 1)  # lanes:forward, lanes:backward
    assert lanes[30, 31] == 3  # one way
    assert lanes[15, 13] == ROAD_CLASSES["residential"].lanes == 1
    assert town.edges[11, 10, 0]["lane_width"] == 13 / 4  # width=13
    assert town.edges[15, 13, 0]["lane_width"] == 3.5


def test_speed_limits_follow_the_tags_or_the_class(town):
    speeds = {(u, v): limit for u, v, limit in town.edges(data="speed_limit")}
    assert speeds[11, 10] == pytest.approx(50 * KMH)
    assert speeds[10, 13] == pytest.approx(30 * MPH)
    assert speeds[22, 24] == pytest.approx(50 * KMH)  # DE:urban
    assert speeds[25, 23] == pytest.approx(30 * KMH)  # DE:zone30
    assert speeds[14, 27] == pytest.approx(7 * KMH)  # walk
    assert speeds[30, 31] == math.inf  # none
    assert speeds[15, 13] == pytest.approx(ROAD_CLASSES["residential"].speed_limit * KMH)


MAXSPEEDS = {
    "50": 50 * KMH, "50 km/h": 50 * KMH, "62.5": 62.5 * KMH, "30 mph": 30 * MPH, "30mph": 30 * MPH,
    "10 knots": 10 * 1852 / 3600, "50;30": 50 * KMH, "none": math.inf, "walk": 7 * KMH, "DE:urban": 50 * KMH,
    "DE:rural": 100 * KMH, "FR:rural": 80 * KMH, "XX:rural": 90 * KMH, "RU:urban": 50 * KMH, "DE:motorway": math.inf,
    "GB:nsl_single": 60 * MPH, "FR:zone30": 30 * KMH, "DE:zone:20": 20 * KMH, "BE-VLG:zone30": 30 * KMH,
    "signals": None, "variable": None, "0": None, "-5": None, "fast": None, "": None,
}  # fmt: skip


@pytest.mark.parametrize("text, expected", MAXSPEEDS.items(), ids=MAXSPEEDS)
def test_every_spelling_of_maxspeed(text, expected):
    assert speed_limit(text) == (None if expected is None else pytest.approx(expected, rel=1e-12))


def test_priorities_order_classes_roundabouts_and_signs(town):
    rank = {(u, v): priority for u, v, priority in town.edges(data="priority")}
    assert rank[30, 31] > rank[11, 10] > rank[10, 13] > rank[13, 15]  # motorway, primary, tertiary, residential
    assert min(rank[20, 22], rank[22, 23], rank[23, 20]) > max(rank[10, 20], rank[24, 22], rank[25, 23])
    assert rank[15, 13] < min(priority for edge, priority in rank.items() if edge != (15, 13))  # stop sign


def test_names_are_kept(town):
    assert town.edges[11, 10, 0]["name"] == "Main street"
    assert "name" not in town.edges[25, 23, 0]


def test_signals_and_stop_signs_are_of_their_junction(tmp_path):
    # A cross of 200 m; the signal of the arm from the west stands 20 m before the junction, where the way is drawn.
    cross = {1: (0, -100, ""), 2: (0, 100, ""), 3: (-100, 0, ""), 4: (100, 0, ""), 5: (0, 0, "")}
    arms = {"1 6 5 2": "highway=primary", "3 5 4": "highway=residential"}
    graph, _ = read_text(tmp_path, {**cross, 6: (0, -20, "highway=traffic_signals")}, arms)
    assert {node: rule for node, rule in graph.nodes(data="right_of_way") if rule != "priority"} == {5: "signals"}
    assert set(graph.nodes) == {1, 2, 3, 4, 5}

    far, summary = read_text(tmp_path, {**cross, 6: (0, -80, "highway=traffic_signals")}, arms)
    assert set(dict(far.nodes(data="right_of_way")).values()) == {"priority"}  # 80 m: that of a crossing for people
    assert "signals, stop and give-way signs away from junctions (left out): 1" in summary.notes

    everybody, _ = read_text(tmp_path, {**cross, 6: (0, -20, "highway=stop,stop=all")}, arms)
    assert everybody.nodes[5]["right_of_way"] == "all_way_stop"


@pytest.mark.parametrize(
    "tags, lowered",
    [
        ("highway=give_way", {(1, 5)}),  # 20 m before the junction, 80 m after the dead end
        ("highway=stop,direction=forward", {(1, 5)}),
        ("highway=stop,direction=backward", set()),  # for those who drive away from the junction
    ],
)
def test_a_sign_is_for_the_drivers_that_it_faces(tmp_path, tags, lowered):
    nodes = {1: (0, -100, ""), 2: (0, 100, ""), 3: (-100, 0, ""), 4: (100, 0, ""), 5: (0, 0, ""), 6: (0, -20, tags)}
    graph, _ = read_text(tmp_path, nodes, {"1 6 5 2": "highway=primary", "3 5 4": "highway=primary"})
    priorities = {(u, v): priority for u, v, priority in graph.edges(data="priority")}
    assert {edge for edge, priority in priorities.items() if priority < 0} == lowered


# ---------------------------------------------------------------------- where it is


def test_distances_are_metres(town):
    """0.003 degrees of longitude at 48 N: 6,371,008.8 m x cos(48 deg) x 0.003 deg = 223.2 m on the sphere; the
    ellipsoid and the scale of UTM change that by less than 0.5 %.
    """
    place = dict(town.nodes(data="position"))
    assert math.dist(place[11], place[10]) == pytest.approx(223.2, rel=5e-3)
    assert math.dist(place[10], place[13]) == pytest.approx(6_371_008.8 * math.radians(0.002), rel=5e-3)
    assert min(x for x, _ in place.values()) < 1.0 and min(y for _, y in place.values()) < 1.0  # a near origin


def test_two_directions_keep_right_of_each_other_and_one_way_roads_stay_in_the_middle(town):
    for u, v, data in town.edges(data=True):
        a, b = (np.array(town.nodes[node]["position"]) for node in (u, v))
        line = np.array(data["geometry"])
        if len(line) > 2 or {u, v} & {28}:
            continue
        along = (b - a) / np.hypot(*(b - a))
        left = along[0] * (line[:, 1] - a[1]) - along[1] * (line[:, 0] - a[0])
        offset = -data["lanes"] * data["lane_width"] / 2 if town.has_edge(v, u) else 0.0
        assert left == pytest.approx([offset, offset], abs=0.02), (u, v)  # coordinates have 1 mm, nodes were moved


def test_edges_end_at_the_stop_line_beyond_the_road_that_crosses(town):
    # The widest road at the signals is Main street, 13 m; all stop lines lie 3 m behind its side.
    def distance(u, v):
        a, b = (np.array(town.nodes[node]["position"]) for node in (u, v))
        along = (b - a) / np.hypot(*(b - a))
        return float(along @ (b - np.array(town.edges[u, v, 0]["geometry"][-1])))

    assert distance(11, 10) == pytest.approx(13 / 2 + 3, abs=0.02)
    assert distance(13, 10) == pytest.approx(13 / 2 + 3, abs=0.02)
    assert distance(10, 11) == pytest.approx(0.0, abs=0.02)  # a dead end


def test_a_bend_is_drawn_and_measured(town):
    line = town.edges[14, 27, 0]["geometry"]
    assert len(line) == 3
    drawn = sum(math.dist(*pair) for pair in itertools.pairwise(line))
    network = RoadNetwork.from_graph(town)
    lane = next(a for a, one in enumerate(network.lanes) if network.edges[one.edge] == (14, 27, 0))
    assert float(network.lane_length[lane]) == pytest.approx(drawn, rel=1e-12)


def test_a_sign_on_the_way_and_a_bend_make_no_node_but_a_change_of_lanes_does(tmp_path):
    nodes = {1: (0, 0, ""), 2: (10, 100, ""), 3: (0, 200, ""), 4: (0, 300, "")}
    graph, _ = read_text(
        tmp_path, nodes, {"1 2 3": "highway=primary,lanes=2,oneway=yes", "3 4": "highway=primary,lanes=1,oneway=yes"}
    )
    assert [(u, v, lanes) for u, v, lanes in graph.edges(data="lanes")] == [(1, 3, 2), (3, 4, 1)]


def test_roads_of_different_lanes_each_way_merge_their_pieces_too(tmp_path):
    nodes = {1: (0, 0, ""), 2: (10, 100, ""), 3: (0, 200, "")}
    tags = "highway=primary,lanes=3,lanes:forward=2,lanes:backward=1"
    graph, _ = read_text(tmp_path, nodes, {"1 2": tags, "2 3": tags})
    assert sorted((u, v, lanes) for u, v, lanes in graph.edges(data="lanes")) == [(1, 3, 2), (3, 1, 1)]


def test_the_town_compiles_and_everybody_can_go_on(town):
    network = RoadNetwork.from_graph(town)
    assert len(network.edges) == 24
    dead_ends = {11, 16, 15, 19, 24, 27, 31}
    leads_on = {way.from_edge for way in network.connections}
    assert {edge for edge in network.edges if edge not in leads_on} <= {e for e in network.edges if e[1] in dead_ends}


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "ending, pack", [(".osm.gz", gzip.compress), (".osm.bz2", bz2.compress), (".osm", gzip.compress)]
)
def test_packed_files_give_the_same_graph(tmp_path, town, ending, pack):
    path = tmp_path / f"town{ending}"
    path.write_bytes(pack(TOWN.read_bytes()))
    graph, _ = read_osm(path)
    assert nx.utils.graphs_equal(graph, town)


def test_nothing_is_fetched_and_the_settings_of_osmnx_stay(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection to the internet was asked for")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = (list(osmnx.settings.useful_tags_way), list(osmnx.settings.useful_tags_node))
    read_osm(TOWN)
    assert (list(osmnx.settings.useful_tags_way), list(osmnx.settings.useful_tags_node)) == before
    assert not list(tmp_path.iterdir())  # no cache either


def test_a_map_without_car_roads_says_what_it_has(tmp_path):
    with pytest.raises(TrafficGradError, match=r"no road for cars \(ways: of class footway, that are no roads\)"):
        read_text(tmp_path, {1: (0, 0, ""), 2: (9, 9, "")}, {"1 2": "highway=footway", "2 1": "building=yes"})


def test_a_map_that_was_cut_through_its_ways_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(
        TrafficGradError, match=r"map\.osm: is XML, but not an OpenStreetMap file that osmnx can read"
    ) as error:
        read_text(tmp_path, {1: (0, 0, ""), 2: (9, 9, "")}, {"1 2 3": "highway=primary"})
    assert "clip" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_osmnx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "osmnx", None)
    with pytest.raises(TrafficGradError, match=r'osmnx, which is missing: pip install "trafficgrad\[maps\]"'):
        read_osm(TOWN)


# ---------------------------------------------------------------------- signals


def crossing(arms: dict[str, tuple[float, float]]) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    graph.add_node("x", position=(0.0, 0.0), right_of_way="signals")
    for name, position in arms.items():
        graph.add_node(name, position=position)
        graph.add_edge(name, "x")
        graph.add_edge("x", name)
    return graph


def states(graph: nx.MultiDiGraph) -> list[dict[tuple[str, str], str]]:
    """The letter of every way (from, to) in every phase."""
    ways = graph.nodes["x"]["connections"]
    phases = graph.graph["signals"]["x"]["phases"]
    return [{(way.from_edge[0], way.to_edge[1]): phase["state"][way.signal_index] for way in ways} for phase in phases]


def test_default_programmes_let_opposite_approaches_go_together():
    graph = default_programmes(crossing({"w": (-99.0, 0.0), "n": (0.0, 99.0), "e": (99.0, 9.0), "s": (0.0, -99.0)}))
    assert [phase["duration"] for phase in graph.graph["signals"]["x"]["phases"]] == [30.0, 3.0, 2.0] * 2
    first, yellow, red, second, _, _ = states(graph)
    right_or_straight = {"we", "ew", "ws", "en", "ns", "sn", "nw", "se"}
    for phase, axis in ((first, "we"), (second, "ns")) if first["w", "e"] != "r" else ((second, "we"), (first, "ns")):
        for (a, b), letter in phase.items():
            assert letter == ("r" if a not in axis else "G" if a + b in right_or_straight else "g"), (a, b)
    assert {way: letter for way, letter in yellow.items() if letter != "r"} == {
        way: "y" for way, letter in first.items() if letter != "r"
    }
    assert set(red.values()) == {"r"}
    assert RoadNetwork.from_graph(graph).signals[0].name == "x"


def test_default_programmes_give_an_approach_without_opposite_its_own_turn():
    graph = default_programmes(crossing({"w": (-99.0, 0.0), "e": (99.0, 0.0), "s": (0.0, -99.0)}), all_red=0.0)
    phases = states(graph)
    assert len(phases) == 4
    alone = next(phase for phase in phases if phase["s", "w"] == "G")
    assert {way for way, letter in alone.items() if letter == "G"} == {("s", "w"), ("s", "e")}  # nobody to yield to


def test_default_programmes_leave_what_is_there():
    graph = crossing({"w": (-99.0, 0.0), "e": (99.0, 0.0), "s": (0.0, -99.0)})
    way = Connection(("w", "x", 0), 0, ("x", "e", 0), 0, signal="own", signal_index=0)
    graph.nodes["x"]["connections"] = (way,)
    graph.graph["signals"] = {"own": {"phases": [{"duration": 5.0, "state": "G"}, {"duration": 5.0, "state": "r"}]}}
    again = default_programmes(graph)
    assert again.nodes["x"]["connections"] == (way,)
    assert again.graph["signals"] == graph.graph["signals"]


def test_default_programmes_serve_a_drawn_town_and_change_no_line(town):
    graph = default_programmes(town)
    assert set(graph.graph["signals"]) == {"10"}
    assert "signals" not in town.graph
    with_signals, without = RoadNetwork.from_graph(graph), RoadNetwork.from_graph(town)
    assert with_signals.lane_length.tolist() == without.lane_length.tolist()
    assert {way.signal for way in with_signals.connections if way.from_edge[1] == 10} == {"10"}

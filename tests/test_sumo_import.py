"""Import of SUMO's networks and routes, against what the drawings in tests/oracles/record_sumo_networks.py say,
against sumolib's own answers, and against SUMO's documented conventions.
"""

import gzip
import itertools
import math
import sys
from pathlib import Path

import networkx as nx
import pytest
import sumolib
from hypothesis import given
from hypothesis import strategies as st

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.network.sumo import read_sumo, yield_ranks
from trafficgrad.network.sumo_routes import Departure, Flow, Trip, TripFlow, read_sumo_routes

DATA = Path(__file__).parent / "data"
LANES, RULES, LEFT_HAND = DATA / "lanes.net.xml", DATA / "rules.net.xml.gz", DATA / "left_hand.net.xml"


def links(graph: nx.MultiDiGraph) -> dict[tuple, object]:
    """Connections by (from edge, from lane, to edge, to lane)."""
    ways = [way for _, ways in graph.nodes(data="connections") for way in ways]
    return {(way.from_edge[2], way.from_lane, way.to_edge[2], way.to_lane): way for way in ways}


# ---------------------------------------------------------------------- lanes, edges, summary


def test_only_car_lanes_are_kept_and_numbered_anew():
    graph, _ = read_sumo(LANES)
    lanes = {key: count for _, _, key, count in graph.edges(keys=True, data="lanes")}
    assert lanes == {"in": 2, "out": 2, "end": 2, "side": 1}  # "in" is drawn with a footpath, a bus lane and two more
    assert set(graph.nodes) == {"west", "signal", "rails", "east", "south"}
    assert set(links(graph)) == {
        ("in", 0, "out", 0),  # SUMO's lane 2
        ("in", 1, "out", 1),  # SUMO's lane 3
        ("side", 0, "out", 0),
        ("out", 0, "end", 0),
        ("out", 1, "end", 1),
    }


def test_edges_have_the_lanes_positions_speeds_and_widths_of_the_drawing():
    graph, _ = read_sumo(LANES)
    edge = graph.edges["west", "signal", "in"]
    assert graph.nodes["signal"]["position"] == (100.0, 0.0)
    assert edge["name"] == "High street"
    assert edge["priority"] == 3
    assert edge["speed_limit"] == 13.89  # the left lane has 11
    # Widths from the middle of the road outwards: 3.2, 3.2, 3.2 (bus), 2 (footpath).
    assert edge["lane_geometry"] == [[(0.0, -4.8), (96.0, -4.8)], [(0.0, -1.6), (96.0, -1.6)]]
    assert edge["geometry"] == [(0.0, -3.2), (96.0, -3.2)]
    assert edge["lane_width"] == 3.2
    assert edge["length"] == 96.0
    assert graph.edges["south", "signal", "side"]["lane_width"] == 3.0
    assert "name" not in graph.edges["south", "signal", "side"]


def test_the_summary_counts_what_was_left_out_and_why():
    _, summary = read_sumo(LANES)
    assert summary.kept == {
        "nodes": 5, "edges": 4, "lanes": 7, "connections": 5, "signals": 1, "edges inside junctions": 0,
    }  # fmt: skip
    assert summary.left_out == {
        "nodes": {"without car roads": 3},
        "edges": {"for bicycles": 1, "on rails": 2},
        "lanes": {"for pedestrians": 1, "for buses and other special vehicles": 1, "for bicycles": 1, "on rails": 2},
        "connections": {"of lanes without cars": 2},
        "edges inside junctions": {"internal": 4},
    }
    assert "signals with several programmes (one is taken): 1" in summary.notes
    first, *others = str(summary).splitlines()
    assert first == "lanes.net.xml: 5 nodes, 4 edges, 7 lanes, 5 connections, 1 signal"
    assert "  of 7 edges left out: 1 for bicycles, 2 on rails" in others


@pytest.mark.parametrize("path", [LANES, RULES, LEFT_HAND], ids=lambda path: path.name)
def test_counts_are_those_of_sumolib(path):
    _, summary = read_sumo(path)
    net = sumolib.net.readNet(str(path), withPrograms=True)
    edges = net.getEdges(withInternal=False)
    assert {kind: summary.read[kind] for kind in ("nodes", "edges", "lanes", "connections", "signals")} == {
        "nodes": len(net.getNodes()),
        "edges": len(edges),
        "lanes": sum(edge.getLaneNumber() for edge in edges),
        "connections": sum(len(lane.getOutgoing()) for edge in edges for lane in edge.getLanes()),
        "signals": len(net.getTrafficLights()),
    }
    for kind, count in summary.read.items():
        assert count == summary.kept[kind] + sum(summary.left_out.get(kind, {}).values())


def test_another_vehicle_class_sees_its_own_network():
    buses, _ = read_sumo(LANES, "bus")
    assert buses.edges["west", "signal", "in"]["lanes"] == 3
    assert links(buses)["in", 0, "out", 0].length == 11.2
    trams, _ = read_sumo(LANES, "tram")
    assert links(trams)["tram1", 0, "tram2", 0].priority < links(trams)["out", 0, "end", 0].priority


def test_a_network_without_car_roads_says_what_it_has():
    text = sumo_text(LEFT_HAND).replace("<lane ", '<lane allow="tram" ')
    with pytest.raises(TrafficGradError, match=r"no road for vehicles of SUMO's class 'passenger' \(roads: on rails\)"):
        read_text(text)


def test_left_hand_lanes_are_counted_from_the_right():
    graph, _ = read_sumo(LEFT_HAND)
    edge = graph.edges["a", "b", "ab"]
    # Driving to the east on the left of y = 0: the right lane is the one nearer to it.
    assert edge["lane_geometry"] == [[(0.0, 1.6), (100.0, 1.6)], [(0.0, 4.8), (100.0, 4.8)]]
    assert {ends: way.length for ends, way in links(graph).items()} == {
        ("ab", 0, "bc", 0): 2.58,  # SUMO's lane 1, inside of the bend
        ("ab", 1, "bc", 1): 7.74,
    }


# ---------------------------------------------------------------------- connections and right of way


@pytest.mark.parametrize("path", [LANES, RULES], ids=lambda path: path.name)
def test_connections_join_the_ends_of_their_lanes(path):
    graph, _ = read_sumo(path)
    for way in links(graph).values():
        start = graph.edges[way.from_edge]["lane_geometry"][way.from_lane][-1]
        end = graph.edges[way.to_edge]["lane_geometry"][way.to_lane][0]
        assert way.geometry[0] == start
        assert way.geometry[-1] == end
        drawn = sum(math.dist(*pair) for pair in itertools.pairwise(way.geometry))
        # SUMO rounds every coordinate and length to 0.01 m: two pieces, of up to ten points each.
        assert way.length == pytest.approx(drawn, abs=0.2)


@pytest.mark.parametrize("kind", ["priority", "priority_stop"])
def test_who_must_yield_ranks_below_as_sumolib_reads_the_matrix(kind):
    graph, _ = read_sumo(RULES)
    net = sumolib.net.readNet(str(RULES))
    ways = {ends: way for ends, way in links(graph).items() if way.from_edge[1] == kind}
    conns = {ends: net.getLane(f"{ends[0]}_0").getConnection(net.getLane(f"{ends[2]}_0")) for ends in ways}
    pairs = [(a, b) for a, b in itertools.permutations(ways, 2) if net.forbids(conns[b], conns[a])]
    assert len(pairs) >= 20  # a yields to b
    for a, b in pairs:
        assert ways[a].priority < ways[b].priority, (a, b)
    main = {ways[f"{kind}_{a}i", 0, f"{kind}_{b}o", 0].priority for a, b in ("we", "ew")}
    minor = {ways[f"{kind}_{a}i", 0, f"{kind}_{b}o", 0].priority for a, b in ("ns", "sn")}
    assert main == {0}
    assert max(minor) < min(way.priority for ends, way in ways.items() if ends[0][-2] in "we")


def test_right_before_left_ranks_equal_needs_equally():
    graph, _ = read_sumo(RULES)
    ways = {(a[-2], b[-2]): way.priority for (a, _, b, _), way in links(graph).items() if a.startswith("right_before")}
    right_of, straight, left_of = (dict(zip("nwse", to, strict=True)) for to in ("wsen", "senw", "enws"))
    assert {ways[arm, right_of[arm]] for arm in "nwse"} == {0}
    assert len({ways[arm, straight[arm]] for arm in "nwse"}) == 1
    for arm in "nwse":
        assert ways[arm, left_of[arm]] < ways[arm, straight[arm]] < ways[arm, right_of[arm]]


def test_junction_kinds_and_stop_signs():
    graph, _ = read_sumo(RULES)
    kinds = ("priority", "right_before_left", "priority_stop", "allway_stop", "zipper")
    assert {kind: graph.nodes[kind]["right_of_way"] for kind in kinds} == {
        "priority": "priority",
        "right_before_left": "priority",
        "priority_stop": "priority",
        "allway_stop": "all_way_stop",
        "zipper": "zipper",
    }
    stops = {ends[0] for ends, way in links(graph).items() if way.stop}
    assert stops == {f"allway_stop_{arm}i" for arm in "nwse"} | {"priority_stop_ni", "priority_stop_si"}
    equal = [way for ends, way in links(graph).items() if ends[0].startswith(("allway_stop", "zipper"))]
    assert {way.priority for way in equal} == {0}


def test_signals_keep_index_programme_and_offset():
    graph, _ = read_sumo(LANES)
    assert graph.nodes["signal"]["right_of_way"] == "signals"
    assert graph.nodes["rails"]["right_of_way"] == "priority"
    indices = {ends: (way.signal, way.signal_index) for ends, way in links(graph).items() if way.signal}
    assert indices == {
        ("in", 0, "out", 0): ("signal", 1),
        ("in", 1, "out", 1): ("signal", 2),
        ("side", 0, "out", 0): ("signal", 3),
    }
    assert graph.graph["signals"] == {
        "signal": {  # programme "0", not "night"; u, red and yellow, is red; what has no bounds lasts its duration
            "kind": "actuated",
            "offset": 7.0,
            "phases": [
                {"duration": 31.0, "state": "GGGr", "min_duration": 5.0, "max_duration": 45.0},
                {"duration": 3.0, "state": "yyyr", "min_duration": 3.0, "max_duration": 3.0},
                {"duration": 20.0, "state": "rrrG", "min_duration": 6.0, "max_duration": 30.0},
                {"duration": 3.0, "state": "rrry", "min_duration": 3.0, "max_duration": 3.0},
            ],
        }
    }


def test_links_that_signals_part_do_not_make_a_circle():
    """Left turns must rank below the opposite straight way, although SUMO's matrix, which serves the time when the
    signals are off, lets all four roads yield in a circle. The same junction with signals for each axis in turn.
    """
    text = sumo_text(RULES)
    junction = 'id="right_before_left" type="right_before_left"'
    assert junction in text
    order = [f"{a}{b}" for a, b in itertools.product("ensw", repeat=2) if a != b]
    for index, (a, b) in enumerate(order):
        start = f'<connection from="right_before_left_{a}i" to="right_before_left_{b}o"'
        assert start in text
        text = text.replace(start, f'{start} tl="s" linkIndex="{index}"')
    phases = ""
    for axis in ("ew", "ns"):
        state = "".join("r" if a not in axis else "G" if straight_or_right(a, b) else "g" for a, b in order)
        phases += f'<phase duration="30" state="{state}"/>'
    logic = f'<tlLogic id="s" type="static" programID="0" offset="0">{phases}</tlLogic>'
    text = text.replace("<junction", f"{logic}<junction", 1)
    text = text.replace(junction, 'id="right_before_left" type="traffic_light"')
    graph, _ = read_text(text)
    ways = {(a[-2], b[-2]): way.priority for (a, _, b, _), way in links(graph).items() if a.startswith("right_before")}
    for arm, opposite, left in (("e", "w", "s"), ("w", "e", "n"), ("n", "s", "e"), ("s", "n", "w")):
        assert ways[arm, left] < ways[opposite, arm]
        assert ways[arm, opposite] == 0


def straight_or_right(a: str, b: str) -> bool:
    return (a, b) in {("e", "w"), ("w", "e"), ("n", "s"), ("s", "n"), ("e", "n"), ("n", "w"), ("w", "s"), ("s", "e")}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_ranks_obey_whatever_can_be_obeyed(pairs):
    """Without circles every link ranks below all that it yields to; in a circle equal needs rank equally."""
    yields: dict[int, set[int]] = {link: set() for link in range(10)}
    for a, b in pairs:
        if a != b:
            yields[a].add(b)
    ranks = yield_ranks(yields)
    relation = nx.DiGraph([(a, b) for a, others in yields.items() for b in others])
    assert max(ranks.values()) == 0
    for a, others in yields.items():
        for b in others:
            if nx.has_path(relation, b, a):
                assert (ranks[a] > ranks[b]) == (len(yields[a]) < len(yields[b]))
            else:
                assert ranks[a] < ranks[b]


@pytest.mark.parametrize("path", [LANES, RULES, LEFT_HAND], ids=lambda path: path.name)
def test_imported_networks_compile(path):
    graph, summary = read_sumo(path)
    network = RoadNetwork.from_graph(graph)
    assert len(network.edges) == summary.kept["edges"]
    assert int((~network.is_junction).sum()) == summary.kept["lanes"]
    assert len(network.connections) == summary.kept["connections"]


# ---------------------------------------------------------------------- files that are wrong


def sumo_text(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read_text(text: str):
    Path("some.net.xml").write_text(text)
    return read_sumo("some.net.xml")


WRONG = {
    "edge of a connection": (
        'to="end" fromLane="0" toLane="0" via',
        'to="nowhere" fromLane="0" toLane="0" via',
        "nowhere",
    ),
    "lane of a connection": ('from="in" to="out" fromLane="3"', 'from="in" to="out" fromLane="9"', "sumolib can read"),
    "no speed": ('speed="8.33" length', "length", "missing 'speed'"),
    "length": ('length="64.40"', 'length="long"', "could not convert"),
    "shape": ('shape="101.50,-80.00 101.50,-15.60"', 'shape="1"', "shape point"),
    "short states": ('state="GGGr"', 'state="GG"', "signal"),
}


@pytest.mark.parametrize("old, new, expected", WRONG.values(), ids=WRONG)
def test_a_network_that_contradicts_itself_is_refused_in_one_sentence(old, new, expected):
    text = sumo_text(LANES)
    assert old in text
    with pytest.raises(TrafficGradError) as error:
        read_text(text.replace(old, new))
    assert str(error.value).startswith("some.net.xml: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_cut_off_anywhere_is_refused_in_one_sentence():
    text = sumo_text(LANES).rstrip()
    for size in range(0, len(text), 331):
        with pytest.raises(TrafficGradError, match=r"^some\.net\.xml(:\d+)?: is (empty|not complete XML)") as error:
            read_text(text[:size])
        assert "\n" not in str(error.value)


def test_without_sumolib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sumolib", None)
    with pytest.raises(TrafficGradError, match=r'sumolib, which is missing: pip install "trafficgrad\[maps\]"'):
        read_sumo(LANES)


# ---------------------------------------------------------------------- routes


@pytest.fixture(scope="module")
def roads():
    return read_sumo(LANES)[0]


IN, OUT, END, SIDE = (
    ("west", "signal", "in"), ("signal", "rails", "out"), ("rails", "east", "end"), ("south", "signal", "side"),
)  # fmt: skip


def read_routes(text: str, graph, *more: str):
    names = []
    for number, content in enumerate((text, *more)):
        names.append(f"{number}.rou.xml")
        Path(names[-1]).write_text(f"<routes>{content}</routes>")
    return read_sumo_routes(names, graph)


def test_vehicles_and_routes_in_the_order_of_time(roads):
    demand = read_routes(
        """<route id="r" edges="in out end"/>
        <vehicle id="b" route="r" depart="90.5"/>
        <vehicle id="a" depart="0:01:00" departLane="best"><route edges="side out end"/></vehicle>
        <vehicle id="c" depart="1:00:00:01"><route edges="in out end"/><stop lane="out_0" duration="20"/></vehicle>""",
        roads,
    )
    assert demand.routes == ((IN, OUT, END), (SIDE, OUT, END))
    assert demand.departures == (
        Departure(60.0, 1, "DEFAULT_VEHTYPE"),
        Departure(90.5, 0, "DEFAULT_VEHTYPE"),
        Departure(86401.0, 0, "DEFAULT_VEHTYPE"),
    )
    assert demand.summary.kept["vehicles"] == 3
    assert demand.summary.left_out == {"attributes": {"departLane": 1}}
    assert demand.summary.notes == ("stops on the way (not made): 1",)
    network = RoadNetwork.from_graph(roads).with_routes(demand.routes)
    assert network.routes.tolist() == [[network.edges.index(e) for e in route] for route in demand.routes]


def test_flows_in_every_spelling(roads):
    demand = read_routes(
        """<route id="r" edges="in out"/>
        <flow id="a" route="r" begin="0" end="3600" vehsPerHour="720"/>
        <flow id="b" route="r" begin="1" end="100" period="4"/>
        <flow id="c" route="r" begin="2" end="100" period="exp(0.5)"/>
        <flow id="d" route="r" begin="3" end="100" probability="0.25"/>
        <flow id="e" route="r" begin="4" end="104" number="50"/>
        <flow id="f" route="r" begin="5" period="10" number="6"/>
        <flow id="g" from="side" to="end" begin="6" perHour="360" end="60"/>
        <flow id="h" route="r" begin="7"/>""",
        roads,
    )
    kind = "DEFAULT_VEHTYPE"
    assert demand.flows == (
        Flow(0.0, 3600.0, 0.2, "constant", 0, kind),
        Flow(1.0, 100.0, 0.25, "constant", 0, kind),
        Flow(2.0, 100.0, 0.5, "poisson", 0, kind),
        Flow(3.0, 100.0, 0.25, "poisson", 0, kind),
        Flow(4.0, 104.0, 0.5, "constant", 0, kind),
        Flow(5.0, 65.0, 0.1, "constant", 0, kind),
    )
    assert demand.trip_flows == (TripFlow(6.0, 60.0, 0.1, "constant", (SIDE, END), kind),)
    assert demand.summary.left_out["flows"] == {"without a rate": 1}


def test_trips_keep_where_they_go(roads):
    demand = read_routes(
        """<trip id="a" depart="5" from="in" to="end"/> <trip id="b" depart="3" from="in" to="end" via="out"/>
        <trip id="c" depart="4" fromTaz="1" toTaz="2"/> <trip id="d" depart="4" from="path" to="end"/>""",
        roads,
    )
    assert demand.trips == (Trip(3.0, (IN, OUT, END), "DEFAULT_VEHTYPE"), Trip(5.0, (IN, END), "DEFAULT_VEHTYPE"))
    assert demand.summary.left_out["trips"] == {
        "between junctions or zones": 1,
        "from or to edges that the network does not have": 1,
    }


def test_types_have_sumos_numbers_and_defaults(roads):
    demand = read_routes(
        """<vType id="fast" accel="3" decel="5" tau="0.8" minGap="1.5" length="4" width="2" maxSpeed="50" sigma="0.2"
            speedFactor="1.1" speedDev="0" carFollowModel="IDM"/>
        <vType id="lorry" vClass="truck" speedFactor="normc(0.9,0.04,0.2,2)"/>
        <vType id="bus" vClass="bus"/> <vType id="unused"/>
        <vehicle id="a" depart="0" type="fast"><route edges="in"/></vehicle>
        <vehicle id="b" depart="1" type="lorry"><route edges="in"/></vehicle>
        <vehicle id="c" depart="2" type="bus"><route edges="in"/></vehicle>
        <vehicle id="d" depart="3"><route edges="in"/></vehicle>""",
        roads,
    )
    assert list(demand.types) == ["DEFAULT_VEHTYPE", "fast", "lorry"]
    fast, lorry, plain = demand.types["fast"], demand.types["lorry"], demand.types["DEFAULT_VEHTYPE"]
    assert (fast.max_acceleration, fast.comfortable_deceleration, fast.time_headway) == (3.0, 5.0, 0.8)
    assert (fast.min_gap, fast.length, fast.width, fast.max_speed) == (1.5, 4.0, 2.0, 50.0)
    assert (fast.speed_factor, fast.speed_deviation, fast.sigma) == (1.1, 0.0, 0.2)
    # Asked of SUMO 1.28 (traci.vehicletype of a type without attributes).
    assert (lorry.max_acceleration, lorry.comfortable_deceleration, lorry.length, lorry.width) == (1.3, 4.0, 7.1, 2.4)
    assert lorry.max_speed == pytest.approx(36.1111111, abs=1e-6)
    assert (lorry.speed_factor, lorry.speed_deviation) == (0.9, 0.04)
    assert (plain.max_acceleration, plain.comfortable_deceleration, plain.time_headway) == (2.6, 4.5, 1.0)
    assert (plain.min_gap, plain.length, plain.width, plain.speed_deviation, plain.sigma) == (2.5, 5.0, 1.8, 0.1, 0.5)
    assert plain.max_speed == pytest.approx(55.5555556, abs=1e-6)
    assert demand.summary.left_out["vehicles"] == {"of class bus": 1}


def test_distributions_are_dealt_out_by_their_shares(roads):
    text = """<vTypeDistribution id="mix"><vType id="car" probability="3"/><vType id="van" vClass="delivery"
            probability="1"/></vTypeDistribution>
        <route id="r" edges="in out"/> <routeDistribution id="ways"><route refId="r" probability="0.75"/>
            <route id="s" edges="side out" probability="0.25"/></routeDistribution>"""
    vehicles = "".join(f'<vehicle id="{i}" depart="{i}" type="mix" route="ways"/>' for i in range(40))
    demand = read_routes(text, roads, vehicles)
    assert demand.routes == ((IN, OUT), (SIDE, OUT))
    assert [one.type for one in demand.departures].count("van") == 10
    assert [one.route for one in demand.departures].count(1) == 10
    flows = read_routes(
        text, roads, '<flow id="f" begin="0" end="10" vehsPerHour="3600" type="mix" route="ways"/>'
    ).flows
    assert {(flow.type, flow.route): flow.rate for flow in flows} == {
        ("car", 0): 0.5625, ("car", 1): 0.1875, ("van", 0): 0.1875, ("van", 1): 0.0625,
    }  # fmt: skip


def test_what_cannot_drive_here_is_counted(roads):
    demand = read_routes(
        """<route id="walk" edges="in path"/> <vehicle id="a" depart="0" route="walk"/>
        <vehicle id="b" depart="triggered"><route edges="in"/></vehicle>
        <person id="p" depart="0"><walk edges="path"/></person> <busStop id="s" lane="in_0"/>
        <vType id="tram" vClass="tram"/>
        <flow id="t" type="tram" begin="0" end="9" period="1"><route edges="in"/></flow>""",
        roads,
    )
    assert (demand.departures, demand.flows, demand.routes) == ((), (), ())
    assert demand.summary.left_out == {
        "vehicles": {"over edges that the network does not have": 1, "that depart when 'triggered'": 1},
        "flows": {"of class tram": 1},
        "routes": {"over edges that the network does not have": 1},
        "types": {"of class tram": 1},
        "persons and containers": {"persons": 1},
        "other elements": {"<busStop>": 1},
    }


WRONG_ROUTES = {
    "unknown type": ('<vehicle id="a" type="cra" depart="0"><route edges="in"/></vehicle>', "did you mean 'car'"),
    "unknown route": ('<vehicle id="a" route="mian" depart="0"/>', "did you mean 'main'"),
    "no depart": ('<vehicle id="a" route="main"/>', "lacks the attribute 'depart'"),
    "depart": ('<vehicle id="a" route="main" depart="1:30"/>', "expected seconds or hours:minutes:seconds for depart"),
    "rate": (
        '<flow id="a" route="main" begin="0" end="9" vehsPerHour="-3"/>',
        "expected a number >= 0 for vehsPerHour",
    ),
    "period": ('<flow id="a" route="main" begin="0" end="9" period="0"/>', "expected a number > 0 for period"),
    "tau": ('<vType id="x" tau="fast"/>', "expected a number >= 0 for tau, got 'fast'"),
    "empty distribution": ('<routeDistribution id="d"/>', "has no members"),
}


@pytest.mark.parametrize("text, expected", WRONG_ROUTES.values(), ids=WRONG_ROUTES)
def test_wrong_routes_are_refused_in_one_sentence(roads, text, expected):
    with pytest.raises(TrafficGradError) as error:
        read_routes('<vType id="car"/><route id="main" edges="in out"/>' + text, roads)
    assert str(error.value).startswith("0.rou.xml: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_routes_are_refused(roads):
    with pytest.raises(TrafficGradError, match="begins with <net>, expected a SUMO route file"):
        read_sumo_routes(LANES, roads)
    with pytest.raises(TrafficGradError, match=r"no\.rou\.xml: cannot be read"):
        read_sumo_routes("no.rou.xml", roads)
    Path("cut.rou.xml").write_text("<routes><vehicle")
    with pytest.raises(TrafficGradError, match=r"cut\.rou\.xml:1: is not complete XML"):
        read_sumo_routes("cut.rou.xml", roads)

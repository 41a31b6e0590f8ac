"""Export to SUMO: what the plain files say, and, where netconvert is there, that SUMO's network is the same again."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.network.connections import Connection
from trafficgrad.network.sumo import read_sumo
from trafficgrad.network.sumo_export import SumoFlow, sumo_ids, write_sumo, write_sumo_routes
from trafficgrad.network.sumo_routes import Flow, read_sumo_routes

DATA = Path(__file__).parent / "data"
needs_netconvert = pytest.mark.skipif(
    shutil.which("netconvert") is None, reason='no netconvert on the PATH; pip install "trafficgrad[peers]" brings it'
)


def signalled_fork() -> nx.MultiDiGraph:
    """A road of two lanes that parts at a signal; names with characters that SUMO does not accept."""
    graph = nx.MultiDiGraph()
    for name, position in (("a", (0.0, 0.0)), ("the: fork", (100.0, 0.0)), ("b", (200.0, 0.0)), ("c", (100.0, 100.0))):
        graph.add_node(name, position=position)
    arriving, ahead, left = ("a", "the: fork", 0), ("the: fork", "b", 0), ("the: fork", "c", 0)
    graph.add_edge(*arriving[:2], lanes=2, length=123.25, speed_limit=10.0, lane_width=3.0, geometry=[(0, 0), (90, 0)])
    graph.add_edge(*ahead[:2], geometry=[(110, -1.5), (200, -1.5)], priority=5)
    graph.add_edge(*left[:2], geometry=[(100, 10), (100, 100)], name="Hill & dale")
    graph.nodes["the: fork"]["right_of_way"] = "signals"
    graph.nodes["the: fork"]["connections"] = (
        Connection(arriving, 0, ahead, 0, length=20.5, signal="s", signal_index=0),
        Connection(arriving, 1, left, 0, speed_limit=6.5, signal="s", signal_index=1),
    )
    phases = [{"duration": 9.0, "state": "Gr"}, {"duration": 6.5, "state": "rG"}]
    graph.graph["signals"] = {"s": {"kind": "fixed", "offset": 4.0, "phases": phases}}
    return graph


@pytest.fixture
def no_netconvert(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_plain_files_say_what_the_graph_says(tmp_path, no_netconvert):
    paths = write_sumo(signalled_fork(), tmp_path / "out", "fork")
    assert [path.name for path in paths] == ["fork.nod.xml", "fork.edg.xml", "fork.con.xml", "fork.tll.xml"]
    nodes, edges, connections, signals = (ElementTree.parse(path).getroot() for path in paths)
    assert {node.get("id"): node.get("type") for node in nodes} == {
        "a": "priority", "the__fork": "traffic_light", "b": "priority", "c": "priority",
    }  # fmt: skip
    assert nodes.find("node[@id='the__fork']").get("tl") == "s"
    arriving = edges.find("edge[@id='a_the__fork']").attrib
    assert arriving == {
        "id": "a_the__fork", "from": "a", "to": "the__fork", "priority": "0", "numLanes": "2", "speed": "10",
        "width": "3", "length": "123.25", "spreadType": "center", "shape": "0,0 90,0",
    }  # fmt: skip
    assert edges.find("edge[@id='the__fork_b']").get("priority") == "5"
    assert edges.find("edge[@id='the__fork_c']").get("name") == "Hill & dale"
    ways = {(way.get("from"), way.get("fromLane"), way.get("to"), way.get("toLane")): way for way in connections}
    assert ways["a_the__fork", "0", "the__fork_b", "0"].get("length") == "20.5"
    assert ways["a_the__fork", "1", "the__fork_c", "0"].get("speed") == "6.5"
    assert ("the__fork_b", None, None, None) in ways  # it ends: netconvert shall not think of a way on
    assert [(phase.get("duration"), phase.get("state")) for phase in signals.iter("phase")] == [
        ("9", "Gr"),
        ("6.5", "rG"),
    ]
    assert signals.find("tlLogic").get("offset") == "4"
    assert [(way.get("fromLane"), way.get("linkIndex")) for way in signals.iter("connection")] == [
        ("0", "0"),
        ("1", "1"),
    ]


def test_names_are_changed_only_where_they_must():
    graph = nx.MultiDiGraph()
    graph.add_edges_from([("x y", "x:y", "in"), ("x:y", "x_y", "out/1")])
    nodes, edges = sumo_ids(graph)
    assert nodes == {"x y": "x_y", "x:y": "x_y_2", "x_y": "x_y_3"}
    assert list(edges.values()) == ["in", "out/1"]
    graph.add_edge("x y", "x:y", 0)
    graph.add_edge("x y", "x:y", 1)
    assert list(sumo_ids(graph)[1].values()) == ["x_y_x_y", "x_y_x_y_2", "x_y_x_y_3", "x_y_x_y_4"]


@needs_netconvert
@pytest.mark.parametrize("name", ["lanes.net.xml", "rules.net.xml.gz"])
def test_sumo_makes_the_same_network_of_it(tmp_path, name):
    graph, summary = read_sumo(DATA / name)
    paths = write_sumo(RoadNetwork.from_graph(graph), tmp_path, "again")
    again, count = read_sumo(paths[-1])
    assert count.kept == summary.kept
    assert dict(again.nodes(data="position")) == dict(graph.nodes(data="position"))
    for u, v, key, data in graph.edges(keys=True, data=True):
        other = again.edges[u, v, key]
        for attribute in ("length", "lanes", "speed_limit", "lane_width", "priority"):
            assert other[attribute] == data[attribute], (key, attribute)
    for node in graph:
        if node != "right_before_left":  # plain files have no rank of their own: equal roads give a priority junction
            assert again.nodes[node]["right_of_way"] == graph.nodes[node]["right_of_way"]
        ways = [
            {(way.from_edge, way.from_lane, way.to_edge, way.to_lane): way for way in one.nodes[node]["connections"]}
            for one in (graph, again)
        ]
        assert ways[0].keys() == ways[1].keys()
        for ends, way in ways[0].items():
            assert ways[1][ends].length == pytest.approx(way.length, abs=1e-6)  # netconvert writes six digits
            assert ways[1][ends].speed_limit == pytest.approx(way.speed_limit, abs=1e-6)
            assert (ways[1][ends].signal, ways[1][ends].signal_index) == (way.signal, way.signal_index)
            assert ways[1][ends].stop == way.stop
    assert again.graph["signals"] == graph.graph["signals"]


@needs_netconvert
def test_netconvert_takes_a_graph_of_our_own(tmp_path):
    paths = write_sumo(signalled_fork(), tmp_path, "fork")
    graph, summary = read_sumo(paths[-1])
    assert summary.kept["connections"] == 2
    assert graph.edges["a", "the__fork", "a_the__fork"]["length"] == 123.25
    assert graph.graph["signals"]["s"]["phases"] == [{"duration": 9.0, "state": "Gr"}, {"duration": 6.5, "state": "rG"}]


@needs_netconvert
def test_what_netconvert_refuses_is_told_in_one_sentence(tmp_path, monkeypatch):
    graph = signalled_fork()
    monkeypatch.setattr("trafficgrad.network.sumo_export._NODE_TYPES", {"signals": "roundabout"})
    with pytest.raises(TrafficGradError, match=r"netconvert refuses .*/fork: Error: .*unknown id 's'") as error:
        write_sumo(graph, tmp_path, "fork")
    assert "\n" not in str(error.value)


def test_flows_come_back_as_they_went(tmp_path):
    graph, _ = read_sumo(DATA / "lanes.net.xml")
    far, near = (("west", "signal", "in"), ("signal", "rails", "out")), (("south", "signal", "side"),)
    demand = [SumoFlow(far, 900.0, 60.0, 3600.0), (near, 120.0, 0.0, 1800.5)]
    path = write_sumo_routes(graph, demand, tmp_path / "demand.rou.xml", 'carFollowModel="IDM" tau="1.2"')
    again = read_sumo_routes(path, graph)
    assert again.routes == (near, far)
    assert again.flows == (
        Flow(0.0, 1800.5, 120.0 / 3600.0, "constant", 0, "vehicle"),
        Flow(60.0, 3600.0, 900.0 / 3600.0, "constant", 1, "vehicle"),
    )
    assert again.types["vehicle"].time_headway == 1.2


def test_flows_that_make_no_sense_are_refused(tmp_path):
    graph, _ = read_sumo(DATA / "lanes.net.xml")
    route = (("west", "signal", "in"),)
    for flow, expected in (
        ((route, 0.0, 0.0, 9.0), "expected a rate > 0"),
        ((route, 9.0, 9.0, 9.0), "finite begin < end"),
        (((("west", "signal", "inn"),), 9.0, 0.0, 9.0), "has no edge .*inn"),
        (((), 9.0, 0.0, 9.0), "no edges"),
    ):
        with pytest.raises(TrafficGradError, match=f"flow 0: .*{expected}"):
            write_sumo_routes(graph, [flow], tmp_path / "demand.rou.xml")
    with pytest.raises(TrafficGradError, match="vehicle_type must be attributes"):
        write_sumo_routes(graph, [], tmp_path / "demand.rou.xml", "tau=1")
    assert not list(tmp_path.iterdir())

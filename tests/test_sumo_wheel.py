"""Every network that the eclipse-sumo wheel carries, against sumolib's own counts and link indices."""

import gzip
import importlib.util
from pathlib import Path

import pytest
import sumolib

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.network.files import open_compressed
from trafficgrad.network.sumo import _link_indices, read_sumo

# Networks without a road for passenger cars: a race track for SUMO's class "vip", and railways.
OTHER_CLASSES = {"racing/spreewaldring": "vip", "rail/net": "rail", "rail_demo/net": "rail"}


def _networks() -> list[Path]:
    wheel = importlib.util.find_spec("sumo")
    folders = list(wheel.submodule_search_locations or ()) if wheel else []
    return sorted(
        path for folder in folders for ending in ("", ".gz") for path in Path(folder).rglob(f"*.net.xml{ending}")
    )


NETWORKS = _networks()
pytestmark = pytest.mark.skipif(
    not NETWORKS,
    reason='eclipse-sumo is not installed, whose networks these tests read: pip install "trafficgrad[peers]"',
)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name.partition('.')[0]}"


def _read(path: Path):
    return read_sumo(path, OTHER_CLASSES.get(_name(path), "passenger"))


def test_the_wheel_has_the_networks_that_are_asked_for():
    assert len(NETWORKS) >= 28
    assert set(OTHER_CLASSES) <= {_name(path) for path in NETWORKS}


@pytest.mark.parametrize("path", NETWORKS, ids=_name)
def test_every_node_edge_lane_connection_and_signal_is_accounted_for(path):
    graph, summary = _read(path)
    net = sumolib.net.readNet(str(path), withPrograms=True)
    edges = net.getEdges(withInternal=False)
    assert {kind: summary.read[kind] for kind in ("nodes", "edges", "lanes", "connections", "signals")} == {
        "nodes": len(net.getNodes()),
        "edges": len(edges),
        "lanes": sum(edge.getLaneNumber() for edge in edges),
        "connections": sum(len(lane.getOutgoing()) for edge in edges for lane in edge.getLanes()),
        "signals": len(net.getTrafficLights()),
    }
    vehicle = OTHER_CLASSES.get(_name(path), "passenger")
    assert {key for _, _, key in graph.edges(keys=True)} == {edge.getID() for edge in edges if edge.allows(vehicle)}
    assert summary.kept["nodes"] == graph.number_of_nodes()
    assert summary.kept["lanes"] == sum(lane.allows(vehicle) for edge in edges for lane in edge.getLanes())
    assert summary.kept["connections"] == sum(
        conn.allows(vehicle) and conn.getToLane().allows(vehicle) and lane.allows(vehicle)
        for edge in edges
        for lane in edge.getLanes()
        for conn in lane.getOutgoing()
    )


@pytest.mark.parametrize("path", NETWORKS, ids=_name)
def test_every_network_compiles(path):
    graph, summary = _read(path)
    network = RoadNetwork.from_graph(graph)
    assert len(network.edges) == summary.kept["edges"]
    assert int((~network.is_junction).sum()) == summary.kept["lanes"]
    assert len(network.connections) == summary.kept["connections"]
    assert len(network.signals) == summary.kept["signals"]


@pytest.mark.parametrize("path", NETWORKS, ids=_name)
def test_rows_of_the_right_of_way_matrix_belong_to_the_lanes_that_sumo_lists(path):
    """``intLanes`` lists the internal lane of every row; where a connection waits inside the junction, older networks
    list the second one, which is no connection's ``via``.
    """
    net = sumolib.net.readNet(str(path), withInternal=True)
    compared = 0
    for node in net.getNodes():
        for link, index in _link_indices(node).items():
            if link.getViaLaneID() in node.getInternal():
                assert node.getInternal().index(link.getViaLaneID()) == index
                compared += 1
    assert compared >= 8


@pytest.mark.parametrize("path", NETWORKS, ids=_name)
def test_who_yields_for_good_ranks_below(path):
    """At junctions without signals, where nobody yields in a circle: rank agrees with every bit of SUMO's matrix."""
    graph, _ = _read(path)
    net = sumolib.net.readNet(str(path))
    for node in net.getNodes():
        if node.getType() != "priority" or not graph.has_node(node.getID()):
            continue
        ways = graph.nodes[node.getID()]["connections"]
        conns = [_connection_of(net, graph, way) for way in ways]
        matrix = _link_indices(node)
        response = [[node._prohibits[matrix[a]][-1 - matrix[b]] == "1" for b in conns] for a in conns]
        for i, way in enumerate(ways):
            for j, other in enumerate(ways):
                if response[i][j] and not response[j][i] and not _circle(response, j, i):
                    assert way.priority < other.priority, (way, other)


def _circle(response: list[list[bool]], start: int, goal: int) -> bool:
    seen, front = {start}, [start]
    while front:
        front = [b for a in front for b, yields in enumerate(response[a]) if yields and b not in seen]
        seen.update(front)
    return goal in seen


def _connection_of(net, graph, way):
    """Sumolib's connection of one of ours, found by the lines of its lanes."""
    lanes = []
    for key, number in ((way.from_edge, way.from_lane), (way.to_edge, way.to_lane)):
        line = graph.edges[key]["lane_geometry"][number]
        lanes.append(next(one for one in net.getEdge(key[2]).getLanes() if one.getShape()[0] == line[0]))
    return lanes[0].getConnection(lanes[1])


@pytest.mark.parametrize("path", NETWORKS[:: max(1, len(NETWORKS) // 8)], ids=_name)
def test_damaged_copies_are_refused_in_one_sentence(path, tmp_path):
    with open_compressed(path) as file:
        text = file.read()
    half = len(text) // 2
    archive = gzip.compress(text)
    damaged = {
        "empty": b"",
        "truncated": text[:half],
        "corrupt": text[:half] + b"<\x00>" + text[half:],
        "truncated archive": archive[: len(archive) // 2],
        "no network": text.replace(b"<net ", b"<nut ").replace(b"</net>", b"</nut>"),
        "no speeds": text.replace(b" speed=", b" pace="),
        "no lanes": text.replace(b"<lane ", b"<line "),
    }
    for kind, content in damaged.items():
        copy = tmp_path / "copy.net.xml"
        copy.write_bytes(content)
        with pytest.raises(TrafficGradError) as error:
            _read(copy)
        assert str(error.value).startswith(f"{copy}"), kind
        assert "\n" not in str(error.value), kind

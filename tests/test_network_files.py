"""Files of road networks: ours keep everything; bad ones of any format are refused in one sentence."""

import bz2
import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork, ring
from trafficgrad.network.connections import Connection
from trafficgrad.network.files import check_xml, load_network, open_compressed, save_network
from trafficgrad.network.importer import ENDINGS, import_network

DATA = Path(__file__).parent / "data"


def every_attribute() -> nx.MultiDiGraph:
    """A graph that uses every attribute there is, with names and keys of both kinds."""
    graph = nx.MultiDiGraph()
    straight_on = Connection(
        ("west", 2, "a"), 0, (2, "east", 0), 1, geometry=((90.0, -2.0), (100.0, 1.5)), length=11.25, speed_limit=9.5,
        priority=-3, stop=True, signal="lights", signal_index=1,
    )  # fmt: skip
    unlimited = Connection(("west", 2, "a"), 1, (2, "east", 0), 0, speed_limit=math.inf)
    graph.add_node("west", position=(0.0, 0.1))
    graph.add_node(2, position=(100.0, 0.0), right_of_way="signals", connections=(straight_on, unlimited), name="Mitte")
    graph.add_node("east", position=(200.0, -1e-3), connections=())
    graph.add_edge(
        "west", 2, key="a", length=90.7, lanes=2, speed_limit=13.9, lane_width=3.25, priority=4, name="Straße",
        geometry=[(0.0, 0.0), (50.0, 1.0), (90.0, 0.0)],
        lane_geometry=[[(0.0, -2.0), (90.0, -2.0)], [(0.0, 2.0), (50.0, 3.0), (90.0, 2.0)]],
    )  # fmt: skip
    graph.add_edge(2, "east", key=0, lanes=2, speed_limit=math.inf)
    graph.graph["signals"] = {
        "lights": {
            "kind": "actuated",
            "offset": 3.5,
            "phases": [
                {"duration": 20.0, "state": "rG", "min_duration": 5.0, "max_duration": 45.0},
                {"duration": 3.0, "state": "ry"},
            ],
        }
    }
    return graph


def test_every_attribute_survives_a_round_trip_exactly(tmp_path):
    graph = every_attribute()
    again = load_network(save_network(graph, tmp_path / "roads.json"))
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(again.edges(keys=True, data=True)) == list(graph.edges(keys=True, data=True))
    assert again.graph == graph.graph
    assert isinstance(again.nodes[2]["connections"][0], Connection)
    assert isinstance(again.nodes[2]["position"], tuple)


def test_a_compiled_network_survives_a_round_trip(tmp_path):
    network = RoadNetwork.from_graph(every_attribute())
    again = RoadNetwork.from_graph(load_network(save_network(network, tmp_path / "roads.json")))
    for name in ("lane_length", "speed_limit", "lane_width", "left", "right", "successors", "lane_connection"):
        assert torch.equal(getattr(again, name), getattr(network, name)), name
    assert again.connections == network.connections
    assert again.signals == network.signals
    assert again.edges == network.edges


def test_a_ring_without_speed_limit_survives_although_json_has_no_infinity(tmp_path):
    path = save_network(ring(500.0, lanes=2, edges=4), tmp_path / "ring.json")
    again = load_network(path)
    assert [limit for _, _, limit in again.edges(data="speed_limit")] == [math.inf] * 4
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_arrays_and_tensors_are_written_as_numbers(tmp_path):
    graph = nx.MultiDiGraph()
    graph.add_node(0, position=np.array([0.0, 0.0]))
    graph.add_node(1, position=(np.float64(9.0), np.int64(0)))
    graph.add_edge(0, 1, lanes=np.int64(2), geometry=torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
    again = load_network(save_network(graph, tmp_path / "roads.json"))
    assert again.edges[0, 1, 0] == {"lanes": 2, "geometry": [(0.0, 0.0), (9.0, 0.0)]}
    assert again.nodes[1]["position"] == (9.0, 0)


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path):
    path = save_network(ring(500.0), tmp_path / "roads.json")
    before = path.read_bytes()
    graph = every_attribute()
    graph.edges["west", 2, "a"]["lane_widht"] = 3.0
    with pytest.raises(TrafficGradError, match=r"lane_widht.*did you mean 'lane_width'"):
        save_network(graph, path)
    del graph.edges["west", 2, "a"]["lane_widht"]
    graph.edges["west", 2, "a"]["length"] = math.nan
    with pytest.raises(
        TrafficGradError, match=r"cannot write 'roads\.json': edges\.0\.length: should be a finite number"
    ):
        save_network(graph, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def changed(**values) -> str:
    """The content of a good file with some values replaced."""
    nodes = [{"id": 1, "position": [0.0, 0.0]}, {"id": "b", "position": [9.0, 0.0]}]
    edges = [{"from_node": 1, "to_node": "b", "key": 0, "length": 9.0}]
    data = {"format": "trafficgrad network", "version": 1, "nodes": nodes, "edges": edges, "signals": {}, **values}
    return json.dumps({name: value for name, value in data.items() if value is not None})


BAD_JSON = {
    "empty": ("", "is empty, expected a road network in JSON"),
    "truncated": (changed()[:-30], "is not complete JSON"),
    "binary": (b"\x80\x81\xff", "is not a text file"),
    "foreign": ('{"type": "FeatureCollection", "features": []}', "is JSON of something else"),
    "list": ("[1, 2]", "is JSON of something else"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "version": (changed(version=2), "has the version 2, this trafficgrad reads version 1"),
    "no nodes": (changed(nodes=None), "nodes: this key is missing"),
    "no position": (changed(nodes=[{"id": 1}]), "nodes.0.position: this key is missing"),
    "short position": (changed(nodes=[{"id": 1, "position": [0.0]}]), "nodes.0.position"),
    "text for a number": (
        changed(edges=[{"from_node": 1, "to_node": "b", "key": 0, "length": "9"}]),
        "edges.0.length: should be a valid number, got '9'",
    ),
    "infinite length": (
        changed(edges=[{"from_node": 1, "to_node": "b", "key": 0, "length": math.inf}]),
        "edges.0.length",
    ),
    "unknown key": (
        changed(edges=[{"from_node": 1, "to_node": "b", "key": 0, "lenght": 9.0}]),
        "did you mean 'length'",
    ),
    "unknown node": (
        changed(edges=[{"from_node": 1, "to_node": "c", "key": 0}]),
        "edge 1 -> 'c' uses the node 'c', which the file does not have",
    ),
    "node twice": (changed(nodes=[{"id": 1, "position": [0.0, 0.0]}] * 2), "the node 1 is given twice"),
    "edge twice": (
        changed(edges=[{"from_node": 1, "to_node": "b", "key": 0}] * 2),
        "the edge 1 -> 'b' with key 0 is given twice",
    ),
    "signals": (
        changed(signals={"s": {"phases": [{"state": "G"}]}}),
        "signals.s.phases.0.duration: this key is missing",
    ),
}


@pytest.mark.parametrize("content, expected", BAD_JSON.values(), ids=BAD_JSON)
def test_a_bad_json_file_is_named_with_what_is_wrong(tmp_path, content, expected):
    path = tmp_path / "roads.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrafficGradError) as error:
        load_network(path)
    assert one_sentence(error.value).startswith(f"{path}")
    assert expected in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    for name in ("no.json", "no.net.xml", "no.osm", "no.xyz"):
        with pytest.raises(TrafficGradError, match=rf"{name}: cannot be read \(no such file or directory\)"):
            import_network(tmp_path / name)


def one_sentence(error: TrafficGradError) -> str:
    text = str(error)
    assert "\n" not in text and "Traceback" not in text
    assert len(text) < 500
    return text


BILLION_LAUGHS = """<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><{0}>&b;</{0}>"""
EXTERNAL = """<?xml version="1.0"?><!DOCTYPE net SYSTEM "file:///etc/passwd"><{0}/>"""
GOOD = {".net.xml": (DATA / "lanes.net.xml").read_bytes(), ".osm": (DATA / "town.osm").read_bytes()}
BAD_XML = {
    "empty": (lambda good, root: b"", "is empty"),
    "half": (lambda good, root: good[: len(good) // 2], "is not complete XML"),
    "no XML": (lambda good, root: b"from,to\n1,2\n", "is not complete XML"),
    "picture": (lambda good, root: b"\x89PNG\r\n\x1a\n\x00\x00", "is not complete XML"),
    "foreign": (lambda good, root: b"<html><body/></html>", "begins with <html>"),
    "only the root": (lambda good, root: f"<{root}/>".encode(), ""),
    "entities": (lambda good, root: BILLION_LAUGHS.format(root).encode(), "document type declaration"),
    "external entity": (lambda good, root: EXTERNAL.format(root).encode(), "document type declaration"),
    "half of an archive": (lambda good, root: gzip.compress(good)[:-200], "is a damaged archive"),
    "spoilt archive": (lambda good, root: spoilt(gzip.compress(good)), "is a damaged archive"),
    "half of a bzip2": (lambda good, root: bz2.compress(good)[:-200], "is a damaged archive"),
    # bzip2 hands out a spoilt block before it sees that the checksum is wrong.
    "spoilt bzip2": (lambda good, root: spoilt(bz2.compress(good)), ", expected "),
}


def spoilt(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 20]) + content[middle + 20 :]


@pytest.mark.parametrize("ending", GOOD)
@pytest.mark.parametrize("damage, expected", BAD_XML.values(), ids=BAD_XML)
def test_a_bad_xml_file_is_named_with_what_is_wrong(tmp_path, ending, damage, expected):
    path = tmp_path / f"roads{ending}"
    path.write_bytes(damage(GOOD[ending], "net" if ending == ".net.xml" else "osm"))
    with pytest.raises(TrafficGradError) as error:
        import_network(path)
    assert one_sentence(error.value).startswith(f"{path}")
    assert expected in str(error.value)


def test_files_are_unpacked_by_what_they_are_whatever_their_name(tmp_path):
    content = GOOD[".net.xml"]
    for number, packed in enumerate((content, gzip.compress(content), bz2.compress(content))):
        path = tmp_path / f"{number}.gz"
        path.write_bytes(packed)
        with open_compressed(path) as file:
            assert file.read() == content
        assert check_xml(path, ("net",), "a network")["version"] == "1.20"


def test_the_importer_finds_the_format_by_ending_and_by_content(tmp_path):
    save_network(every_attribute(), tmp_path / "roads.json")
    cases = {
        ".json": (tmp_path / "roads.json").read_bytes(),
        ".net.xml": GOOD[".net.xml"],
        ".net.xml.gz": gzip.compress(GOOD[".net.xml"]),
        ".osm": GOOD[".osm"],
        ".osm.xml": GOOD[".osm"],
        ".osm.gz": gzip.compress(GOOD[".osm"]),
        ".osm.bz2": bz2.compress(GOOD[".osm"]),
    }
    assert set(cases) == set(ENDINGS)
    for ending, content in cases.items():
        results = []
        for name in (f"map{ending}", "map", "map.XML"):
            (tmp_path / name).write_bytes(content)
            graph, summary = import_network(tmp_path / name)
            assert summary.source == name
            results.append((sorted(map(str, graph.edges(keys=True))), summary.kept))
        assert results[0] == results[1] == results[2]


def test_an_unknown_file_is_refused_with_the_endings_that_are_read(tmp_path):
    path = tmp_path / "roads.shp"
    path.write_bytes(b"\x00\x00'\n")
    with pytest.raises(TrafficGradError, match=r"roads\.shp: is no road network.*\.net\.xml, .*\.osm\.bz2, \.json"):
        import_network(path)


def test_reading_networks_is_loaded_only_when_it_is_used():
    code = "import sys, trafficgrad.network; sys.exit(not {'sumolib', 'osmnx', 'pandas'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

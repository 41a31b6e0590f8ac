"""Pictures of networks with junctions: vehicles stay on their lanes through every turn, signals have their colours."""

from __future__ import annotations

import dataclasses
import itertools

import imageio.v3 as imageio
import networkx as nx
import numpy as np
import pytest
import torch

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork, ring, straight
from trafficgrad.render import Scene, TrajectoryFrames, draw_network, draw_state
from trafficgrad.render.junctions import SIGNAL, STOP, YIELD, Junctions
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.style import ASPHALT, BACKGROUND, LIGHTS, speed_colours
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.trajectory import Trajectory

SIDES = {"e": (1.0, 0.0), "n": (0.0, 1.0), "w": (-1.0, 0.0), "s": (0.0, -1.0)}
RED, YELLOW, GREEN = LIGHTS


def crossing_graph(lanes=2, arm=100.0, right_of_way="signals"):
    """Four two-way streets of ``lanes`` lanes each way, in all directions of the compass from the node "c"."""
    graph = nx.MultiDiGraph()
    graph.add_node("c", position=(0.0, 0.0), right_of_way=right_of_way)
    for name, (x, y) in SIDES.items():
        graph.add_node(name, position=(arm * x, arm * y))
        graph.add_edge(name, "c", lanes=lanes, name=f"from {name}")
        graph.add_edge("c", name, lanes=lanes, name=f"to {name}")
    return graph


@pytest.fixture(scope="module")
def crossing():
    """With one programme; its letters: 0 from north and south, 1 from east and west, 2 their left turns."""
    graph = crossing_graph()
    ways = RoadNetwork.from_graph(graph).connections
    letter = []
    for way in ways:
        (x, y), (u, v) = SIDES[way.from_edge[0]], SIDES[way.to_edge[1]]
        left = x * v - y * u < 0
        letter.append(0 if way.from_edge[0] in "ns" else 2 if left else 1)
    graph.nodes["c"]["connections"] = [
        dataclasses.replace(way, signal="lights", signal_index=i) for way, i in zip(ways, letter, strict=True)
    ]
    phases = [{"duration": 10.0, "state": state} for state in ("Grr", "yrr", "rGr", "rrg")]
    graph.graph["signals"] = {"lights": {"phases": phases}}
    return RoadNetwork.from_graph(graph)


def lane_of(network, start, end, number=0):
    edge = network.edges.index((start, end, 0))
    return network.lanes.index((edge, number))


def turns(network, side, number):
    """(junction lane, lane behind it) of every way that leaves a lane which comes from ``side``."""
    lane = lane_of(network, side, "c", number)
    return [(way, int(network.successors[way, 0])) for way in network.successors[lane].tolist() if way >= 0]


def state(position, lane, speed=10.0, **more):
    number = len(position)
    return TrafficState(
        torch.tensor(position, dtype=torch.float64),
        torch.full((number,), speed, dtype=torch.float64),
        torch.tensor(lane),
        **more,
    )


def frames(states, network, dt=0.1, length=5.0, controlled=()):
    return TrajectoryFrames(Trajectory.of(states, None, dt), network, length, 2.0, controlled)


def bumpers(frame, n=0):
    ahead = frame.length[n] / 2 * np.array([np.cos(frame.heading[n]), np.sin(frame.heading[n])])
    return frame.xy[n] + ahead, frame.xy[n] - ahead


def distance_to(point, *lines):
    """From a point to the nearest of several lines, m."""
    nearest = np.inf
    for line in lines:
        for a, b in itertools.pairwise(np.asarray(line)):
            share = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0.0, 1.0)
            nearest = min(nearest, float(np.linalg.norm(a + share * (b - a) - point)))
    return nearest


# ---------------------------------------------------------------- vehicles stay on their lanes


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("dt", [0.3, 2.0])
def test_turns_follow_the_junction_lane(crossing, number, dt):
    lane = lane_of(crossing, "s", "c", number)
    end = float(crossing.lane_length[lane])
    assert len(turns(crossing, "s", number)) == 2  # straight on, and to the side
    for way, target in turns(crossing, "s", number):
        lines = [crossing.lane_geometry(one) for one in (lane, way, target)]
        size = float(crossing.lane_length[way])
        first = {"position": [end - 2.0], "lane": [lane]}
        if dt < 1:  # a state on the junction lane, then one behind it
            rows = [([0.2 * size], [way], lane), ([0.7 * size], [way], lane), ([2.0], [target], way)]
        else:  # over all of it in one step
            rows = [([4.0], [target], way)]
        states = [state(**first), *(state(p, a, previous=torch.tensor([before])) for p, a, before in rows)]
        source = frames(states, crossing, dt)
        fronts = []
        for time in np.linspace(0.0, source.end, 40):
            front, rear = bumpers(source.frame(time))
            fronts.append(front)
            assert distance_to(front, *lines) < 0.01
            assert distance_to(rear, *lines) < 0.25  # as much shorter as a chord is than its arc
        steps = np.linalg.norm(np.diff(fronts, axis=0), axis=1)
        assert steps.min() > 0.05 and steps.max() < 1.1


def test_of_ways_to_one_edge_the_one_before_counts():
    # From the one lane of a street both lanes of the next can be reached; in the same step the lane may change.
    graph = crossing_graph(lanes=2)
    ways = RoadNetwork.from_graph(graph).connections
    first = next(w for w in ways if (w.from_edge[0], w.to_edge[1], w.from_lane) == ("s", "n", 0))
    both = [dataclasses.replace(first, to_lane=i, geometry=None, length=None) for i in (0, 1)]
    graph.nodes["c"]["connections"] = both
    network = RoadNetwork.from_graph(graph)
    lane = lane_of(network, "s", "c")
    start = float(network.lane_length[lane]) - 0.5
    for way in network.successors[lane].tolist():
        lines = network.lane_geometry(lane), network.lane_geometry(way)
        for target in (0, 1):
            end = state([0.5], [lane_of(network, "c", "n", target)], previous=torch.tensor([way]))
            source = frames([state([start], [lane]), end], network, 1.0)
            direct = int(network.successors[way, 0]) == lane_of(network, "c", "n", target)
            for time in (0.1, 0.9):
                # A change of lane glides while it crosses, over that way's line and to the side.
                off = distance_to(bumpers(source.frame(time))[0], *lines)
                assert off < 0.01 if direct else (off > 0.5) == (time > 0.5)


def test_the_rear_is_where_the_vehicle_came_from(crossing):
    for number in (0, 1):
        lane = lane_of(crossing, "w", "c", number)
        for way, target in turns(crossing, "w", number):
            size = float(crossing.lane_length[way])
            before = [crossing.lane_geometry(one) for one in (lane, way)]
            # One state alone: the lane before is all that is known.
            for position, on, previous in ((2.0, way, lane), (1.0, target, way), (0.0, way, -1)):
                now = frames([state([position], [on], previous=torch.tensor([previous]))], crossing).frame(0.0)
                front, rear = bumpers(now)
                assert distance_to(front, crossing.lane_geometry(on)) < 0.01
                assert distance_to(rear, *before) < 0.25
            # A truck that covers the whole junction lane.
            now = frames([state([2.0], [target], previous=torch.tensor([way]))], crossing, length=size + 4.0).frame(0.0)
            front, rear = bumpers(now)
            assert distance_to(front, crossing.lane_geometry(target)) < 0.01
            behind = crossing.locate(torch.tensor([lane]), crossing.lane_length[lane][None] - 2.0)[0][0].numpy()
            chord = front - behind
            assert np.cos(now.heading[0] - np.arctan2(chord[1], chord[0])) > 0.9999


def test_a_lane_change_while_crossing_glides():
    network = straight(200.0, lanes=2, edges=2)
    states = [state([95.0 + 1.0 * t], [0]) for t in range(5)]
    states += [state([0.5 + 1.0 * t], [3], previous=torch.tensor([0])) for t in range(15)]
    source = frames(states, network)
    times = np.arange(0.0, 1.9, 0.02)
    fronts = np.array([bumpers(source.frame(t))[0] for t in times])
    assert np.linalg.norm(np.diff(fronts, axis=0), axis=1).max() < 0.4
    assert fronts[0, 1] == pytest.approx(-1.75) and fronts[-1, 1] == pytest.approx(1.75)
    assert np.abs([source.frame(t).heading[0] for t in times]).max() < 0.01


def test_backwards_over_an_edge_end():
    network = ring(100.0, edges=4)
    source = frames([state([0.4], [0], -9.0), state([24.5], [3], -9.0)], network)
    distance = [source.frame(t).distance[0] for t in (0.0, 0.03, 0.06, 0.1)]
    assert np.allclose(distance, [0.4, 0.13, 99.86, 99.5])
    assert source.tracks().advance[0, 0] == pytest.approx(-0.9)


def test_vehicles_come_go_and_are_never_mixed(crossing):
    lane, out = lane_of(crossing, "s", "c"), lane_of(crossing, "c", "n")
    end = float(crossing.lane_length[lane])
    here, gone = torch.tensor([True, True]), torch.tensor([True, False])
    way = int(crossing.successors[lane, 0])
    states = [
        state([end - 0.5, 5.0], [lane, lane], vehicle_id=torch.tensor([0, 1]), active=here),
        state([0.5, 5.0], [way, lane], vehicle_id=torch.tensor([0, 1]), active=gone),
        # Slot 0 holds another vehicle, right ahead; in slot 1 somebody enters.
        state([1.5, 0.0], [way, out], vehicle_id=torch.tensor([7, 8]), active=here),
    ]
    source = frames(states, crossing)
    assert source.frame(0.05).active.tolist() == [True, True]
    assert source.frame(0.15).active.tolist() == [True, False]
    assert source.frame(0.2).active.tolist() == [True, True]
    assert source.tracks().continues.tolist() == [[True, False], [False, False]]
    assert np.allclose(source.frame(0.19).xy[0], source.frame(0.1).xy[0])
    assert not np.allclose(source.frame(0.2).xy[0], source.frame(0.1).xy[0], atol=0.5)
    # The same number far away is a fresh start too.
    jump = [state([5.0], [lane]), state([50.0], [out])]
    assert not frames(jump, crossing).tracks().continues.any()


def test_lanes_with_lines_of_their_own():
    graph = nx.MultiDiGraph()
    graph.add_node("a", position=(0.0, 0.0))
    graph.add_node("b", position=(100.0, 0.0))
    lines = [[(0.0, -2.0), (50.0, -8.0), (100.0, -2.0)], [(0.0, 2.0), (100.0, 2.0)]]
    graph.add_edge("a", "b", lanes=2, length=101.0, lane_geometry=lines)
    network = RoadNetwork.from_graph(graph)
    middle = RoadLayout.of(network).middle_line(0)
    assert len(middle) == 3 and np.allclose(middle[1], (50.0, -3.0), atol=0.1)
    now = frames([state([50.5, 50.5], [0, 1])], network).frame(0.0)
    assert distance_to(bumpers(now, 0)[0], lines[0]) < 0.01
    assert distance_to(bumpers(now, 1)[0], lines[1]) < 0.01
    scene = Scene(network, (960, 540), max_speed=10.0)
    assert scene.rgb(now).std() > 1


# ---------------------------------------------------------------- pictures


def test_a_crossing_is_asphalt_and_streets_do_not_overlap(crossing):
    scene = Scene(crossing, (1280, 720), max_speed=20.0)
    layout, view = scene.layout, scene.view
    assert scene.strip is None and 1.0 < view.lane_scale < 1.5
    empty = frames([state([1.0], [0], active=torch.tensor([False]))], crossing).frame(0.0)
    picture = scene.rgb(empty).astype(int)
    way = view.camera.to_screen(np.array([[0.0, 0.0], [4.0, 3.0], [-5.0, 5.0], [25.0, 25.0]])).round().astype(int)
    for (x, y), colour in zip(way, (ASPHALT, ASPHALT, ASPHALT, BACKGROUND), strict=True):
        assert np.abs(picture[y, x] - colour).max() <= 2
    for side in SIDES:
        there, back = (crossing.edges.index((*pair, 0)) for pair in ((side, "c"), ("c", side)))
        left = layout.borders(there, view.lane_scale)[1], layout.borders(back, view.lane_scale)[1]
        assert np.allclose(left[0], left[1][::-1])  # one line between the directions
    # A car in each lane of a street has its own place and colour.
    lanes = [lane_of(crossing, *pair, i) for pair in (("e", "c"), ("c", "e")) for i in (0, 1)]
    frame = frames([state([40.0] * 4, lanes, speed=20.0)], crossing).frame(0.0)
    picture, pixels = scene.rgb(frame).astype(int), scene.vehicle_pixels(frame)
    for n, (x, y) in enumerate(pixels):
        behind = -0.35 * 5.0 * view.camera.scale * np.array([np.cos(frame.heading[n]), 0.0])
        x, y = np.round([x + behind[0], y]).astype(int)
        assert np.abs(picture[y, x] - speed_colours(20.0, 20.0)).max() < 30
    assert np.diff(np.sort(pixels[:, 1])).min() > 3.5 * view.camera.scale


def test_signals_have_the_colour_of_their_phase(crossing):
    scene = Scene(crossing, (1280, 720), max_speed=20.0)
    layout, view = scene.layout, scene.view

    def lights(phase):
        empty = state([1.0], [0], active=torch.tensor([False]), phase=torch.tensor(phase, dtype=torch.int64))
        picture = scene.rgb(frames([empty], crossing).frame(0.0)).astype(int)
        seen = {}
        for side, number in itertools.product(SIDES, (0, 1)):
            lane = lane_of(crossing, side, "c", number)
            end = layout.beside(lane, 0.0, view.lane_scale)[-1]
            pixel = view.camera.to_screen(end - 1.0 * -np.array(SIDES[side])).round().astype(int)
            near = picture[pixel[1] - 3 : pixel[1] + 4, pixel[0] - 3 : pixel[0] + 4].reshape(-1, 1, 3)
            error = np.abs(near - np.array(LIGHTS)).max(-1).min(0)
            seen[side, number] = LIGHTS[int(error.argmin())] if error.min() < 25 else None
        return seen

    for phase, north, east in ((0, GREEN, RED), (1, YELLOW, RED), (2, RED, GREEN)):
        seen = lights([[phase]])
        assert {seen[side, i] for side in "ns" for i in (0, 1)} == {north}, phase
        assert {seen[side, i] for side in "ew" for i in (0, 1)} == {east}, phase
    # The left lane has two ways: green for one of them is green.
    seen = lights([[3]])
    assert (seen["e", 0], seen["e", 1], seen["n", 1]) == (RED, GREEN, RED)
    assert set(lights(np.zeros((1, 0))).values()) == {None}  # not known


@pytest.mark.parametrize(
    ("rule", "priority", "expected"),
    [
        ("priority", 1, {"n": YIELD, "s": YIELD}),
        ("priority", 0, dict.fromkeys("ensw", YIELD)),
        ("all_way_stop", 0, dict.fromkeys("ensw", STOP)),
        ("signals", 0, None),
    ],
)
def test_who_gives_way(crossing, rule, priority, expected):
    if expected is None:
        lines = Junctions.of(RoadLayout.of(crossing)).lines
        assert len(lines) == 8 and set(lines.values()) == {SIGNAL}
        return
    graph = crossing_graph(lanes=1, right_of_way=rule)
    for u, v in (("e", "c"), ("w", "c")):
        graph.edges[u, v, 0]["priority"] = priority
    network = RoadNetwork.from_graph(graph)
    lines = Junctions.of(RoadLayout.of(network)).lines
    assert {network.edges[network.lanes[lane].edge][0]: kind for lane, kind in lines.items()} == expected


def test_a_long_network_is_cut_into_rows():
    graph = nx.MultiDiGraph()
    for name, xy in {"a": (0.0, 0.0), "b": (1000.0, 0.0), "c": (2000.0, 0.0), "r": (700.0, -60.0)}.items():
        graph.add_node(name, position=xy)
    graph.add_edge("a", "b", lanes=2)
    graph.add_edge("b", "c", lanes=3)
    graph.add_edge("r", "b")
    network = RoadNetwork.from_graph(graph)
    lanes = [lane_of(network, "a", "b"), lane_of(network, "a", "b", 1), lane_of(network, "b", "c", 2)]
    frame = frames([state([100.0, 900.0, 900.0], lanes, speed=20.0)], network).frame(0.0)
    scene = Scene(network, (1280, 720), max_speed=20.0, title="title")
    assert scene.strip is None and scene.view.rows > 2
    pixels, picture = scene.vehicle_pixels(frame), scene.rgb(frame).astype(int)
    assert (np.diff(pixels[:, 1]) > 40).all()
    for x, y in pixels.round().astype(int):
        assert scene.view.area.collidepoint(x, y)
        assert np.abs(picture[y, x - 3] - speed_colours(20.0, 20.0)).max() < 40


def test_one_state_of_a_junction_is_a_picture(crossing):
    @dataclasses.dataclass
    class Traffic:
        network: RoadNetwork
        fleet: Fleet

    way, _ = turns(crossing, "e", 0)[0]
    there = state([3.0], [way], phase=torch.tensor([[2]]))
    picture = draw_state(there, Traffic(crossing, Fleet(controlled=[0])), size=(480, 270))
    assert picture.shape == (270, 480, 3) and picture.std() > 5


# ---------------------------------------------------------------- the map


def colours(path):
    return imageio.imread(path)[..., :3].reshape(-1, 3).astype(int)


def test_map(crossing, tmp_path):
    plain = draw_network(crossing, tmp_path / "a.png", size=(800, 600))
    picture = imageio.imread(plain)
    assert picture.shape[:2] == (600, 800)
    for red, green, blue in ((214, 39, 40), (31, 157, 77)):  # the first phase
        assert (np.abs(colours(plain) - (red, green, blue)).max(-1) < 12).sum() > 30
    named = draw_network(crossing, tmp_path / "b.svg", labels=True, title="a crossing")
    text = named.read_text()
    assert all(f"{way} {side}" in text for way in ("from", "to") for side in SIDES) and "a crossing" in text
    assert "signal, in its first phase" in text and "give way" not in text and "50 m" in text
    assert "from e" not in draw_network(crossing, tmp_path / "c.svg").read_text()
    assert draw_network(crossing, tmp_path / "d.pdf").read_bytes().startswith(b"%PDF")
    stops = draw_network(RoadNetwork.from_graph(crossing_graph(right_of_way="all_way_stop")), tmp_path / "e.svg")
    assert "stop" in stops.read_text() and "signal" not in stops.read_text()
    draw_network(ring(300.0, lanes=3), tmp_path / "f.png", size=(300, 300))
    for path, size, words in (("a.jpg", (800, 600), r"'\.jpg' is none of"), ("a.png", (800, 100), "800x100")):
        with pytest.raises(TrafficGradError, match=words):
            draw_network(crossing, tmp_path / path, size=size)


def test_lanes_of_a_map_are_where_they_are(tmp_path):
    # One street along x: driven on the right, with an asphalt of its own on either side of the line between.
    graph = nx.MultiDiGraph()
    graph.add_node("a", position=(0.0, 0.0))
    graph.add_node("b", position=(80.0, 0.0))
    graph.add_edge("a", "b")
    picture = imageio.imread(draw_network(RoadNetwork.from_graph(graph), tmp_path / "one.png", size=(600, 300)))
    graph.add_edge("b", "a")
    both = imageio.imread(draw_network(RoadNetwork.from_graph(graph), tmp_path / "two.png", size=(600, 300)))
    grey = [np.flatnonzero(np.abs(p[:, 200, :3].astype(int) - (195, 201, 210)).max(-1) < 8) for p in (picture, both)]
    assert np.ptp(grey[1]) / np.ptp(grey[0]) == pytest.approx(2.0, rel=0.15)
    middle = both[int(grey[1].mean().round()) - 1 : int(grey[1].mean().round()) + 2, 200, :3]
    assert middle.min(-1).max() > 235  # white

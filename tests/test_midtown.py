"""The map of Midtown, its trips and its scenario: what is drawn is what ships, and it drives."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest
import torch

from trafficgrad import merge_order, paths, right_of_way
from trafficgrad.benchmark_map import adds_up
from trafficgrad.bodies import touching
from trafficgrad.network import RoadNetwork
from trafficgrad.scenario_config import load_scenario
from trafficgrad.state import TrafficState
from trafficgrad.traffic_scenario import TrafficScenario

ROOT = Path(__file__).resolve().parents[1]
FOOT = 0.3048  # m
# What is known of the avenues: feet between the middles of two neighbours, from house to house and half of each width.
SPACING = {("second", "first"): 750, ("third", "second"): 710, ("sixth", "fifth"): 1020, ("tenth", "ninth"): 900}
NORTH = {"first", "third", "madison", "sixth", "eighth", "tenth"}
SOUTH = {"second", "lexington", "fifth", "seventh", "ninth"}
WIDE = {34, 42, 57, 59}


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_midtown", ROOT / "examples" / "draw_midtown.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scenario() -> TrafficScenario:
    return load_scenario("midtown")


@pytest.fixture(scope="module")
def network(scenario: TrafficScenario) -> RoadNetwork:
    return scenario.build_network()


def test_the_shipped_files_are_what_the_example_draws(drawing: ModuleType, tmp_path: Path) -> None:
    for path in drawing.write(tmp_path):
        assert path.read_bytes() == (ROOT / "scenarios" / path.name).read_bytes(), "run: examples/draw_midtown.py"


def test_a_shorter_cycle_keeps_the_shares_and_the_waves(drawing: ModuleType) -> None:
    signals = drawing.draw(50.0).graph["signals"]
    for avenue, street, green in (("sixth", 41, 15.0), ("sixth", 42, 19.0), ("first", 58, 15.0)):
        programme = signals[f"{avenue}_{street}"]
        greens = sorted(phase["duration"] for phase in programme["phases"] if set(phase["state"]) & set("gG"))
        assert greens == pytest.approx(sorted([green, 40.0 - green]))
        assert sum(phase["duration"] for phase in programme["phases"]) == pytest.approx(50.0)
    blocks = [signals[f"third_{street}"]["offset"] for street in (38, 40)]  # 520 ft apart
    assert (blocks[1] - blocks[0]) % 50.0 == pytest.approx(520 * FOOT / 10.0, abs=0.11)


def test_the_map_has_the_grid_of_1811(network: RoadNetwork) -> None:
    place = dict(zip(network.nodes, network.node_position.tolist(), strict=True))
    assert len(network.signals) == 12 * 26
    for (west, east), feet in SPACING.items():
        assert place[f"{east}_40"][0] - place[f"{west}_40"][0] == pytest.approx(feet * FOOT, abs=0.02)
    blocks = place["fifth_56"][1] - place["fifth_43"][1]  # 13 blocks between narrow streets: 20 to a mile or so
    assert 1609.344 / (blocks / 13) == pytest.approx(20.3, abs=0.05)
    ways: dict[str, set[str]] = {}
    for name in network.edge_names:
        road, direction, _ = str(name).rsplit("_", 2)
        ways.setdefault(road, set()).add(direction)
    for road, directions in ways.items():
        if road.startswith("street_"):
            number = int(road.removeprefix("street_"))
            expected = {"east", "west"} if number in WIDE else {"east"} if number % 2 == 0 else {"west"}
        else:
            expected = {"north"} if road in NORTH else {"south"} if road in SOUTH else {"north", "south"}
        assert directions == expected, road
    on_roads = network.speed_limit[~network.is_junction]
    assert bool((on_roads == 11.176).all())  # 25 mph


def test_greens_move_along_the_avenues(network: RoadNetwork) -> None:
    """When an avenue's green begins at one junction, read from its signal, and at the next in its direction."""
    index = {signal.name: signal for signal in network.signals}
    place = dict(zip(network.nodes, network.node_position.tolist(), strict=True))
    for avenue in NORTH | SOUTH | {"park"}:
        streets = range(34, 60) if avenue not in SOUTH else range(59, 33, -1)
        begins = []
        for street in streets:
            signal = index[f"{avenue}_{street}"]
            assert signal.cycle == 90.0
            ways = [w for w in network.connections if w.signal == signal.name]
            own = next(w.signal_index for w in ways if str(w.from_edge[2]).startswith(f"{avenue}_"))
            starts = [0.0, *itertools.accumulate(signal.durations)]
            phase = next(p for p, state in enumerate(signal.states) if state[own] in "gG")
            begins.append(signal.offset + starts[phase])
        for (a, b), (start, then) in zip(itertools.pairwise(streets), itertools.pairwise(begins), strict=True):
            way = abs(place[f"{avenue}_{b}"][1] - place[f"{avenue}_{a}"][1])
            late = (then - start - way / 10.0 + 45.0) % 90.0 - 45.0  # 10 m/s
            assert abs(late) < 0.11, (avenue, a, b)  # written to a tenth of a second


def test_nobody_turns_left_where_others_come_the_other_way(network: RoadNetwork) -> None:
    two_ways = ("park", *(f"street_{number}" for number in WIDE))
    left = {"north": "west", "west": "south", "south": "east", "east": "north"}
    turns = set()
    for route in network.routes.tolist():
        edges = [str(network.edge_names[edge]).rsplit("_", 1)[0] for edge in route if edge >= 0]
        turns |= {(a, b) for a, b in itertools.pairwise(edges) if a != b}
    assert ("park_north", "street_57_east") in turns and ("sixth_north", "street_57_west") in turns
    for start, end in turns:
        road, direction = start.rsplit("_", 1)
        assert road not in two_ways or end.rsplit("_", 1)[1] != left[direction], (start, end)


def test_trips_go_straight_or_turn_once(scenario: TrafficScenario, network: RoadNetwork) -> None:
    with (ROOT / "scenarios" / "midtown_trips.csv").open() as file:
        rates = [float(row["rate"]) for row in csv.DictReader(file)]
    demand = scenario.traffic.demand
    assert demand is not None
    assert 3600 * sum(float(inflow.rate) for inflow in demand.inflows) == pytest.approx(sum(rates))
    for route in network.routes.tolist():
        roads = [str(network.edge_names[edge]).rsplit("_", 1)[0] for edge in route if edge >= 0]
        assert sum(a != b for a, b in itertools.pairwise(roads)) <= 1


def test_two_thousand_vehicles_drive_and_add_up(scenario: TrafficScenario) -> None:
    simulator = scenario.build()
    start = scenario.initial_state(1, torch.Generator().manual_seed(0), warm_up=False, simulator=simulator)
    assert int(start.active.sum()) == 2000
    state = start
    with torch.no_grad():
        for _ in range(30):
            state = simulator.step(state)
            assert adds_up(simulator, start, state)
    assert int(state.left) > 50 and int(state.inserted.sum()) > 50
    assert len(touching(state, simulator.network, simulator.fleet.length, simulator.fleet.width)) == 0
    # The sum sees what it is for.
    slot = int(state.active[0].nonzero()[0])
    lost = state.active.clone()
    lost[0, slot] = False
    assert not adds_up(simulator, start, dataclasses.replace(state, active=lost))
    doubled = state.vehicle_id.clone()
    doubled[0, slot] = doubled[0, int(state.active[0].nonzero()[1])]
    assert not adds_up(simulator, start, dataclasses.replace(state, vehicle_id=doubled))


def test_leaving_out_whom_nothing_concerns_changes_nothing(
    scenario: TrafficScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a step looks only at those who still seek, ask or merge, elsewhere at everybody: the same bits."""
    simulator = scenario.build()
    start = scenario.initial_state(2, torch.Generator().manual_seed(0), warm_up=False, simulator=simulator)

    @torch.no_grad()
    def driven() -> TrafficState:
        state = start
        for _ in range(8):
            state = simulator.step(state)
        return state

    usual = driven()
    monkeypatch.setattr(paths, "_WORTHWHILE", 0.0)
    for module in (merge_order, right_of_way):
        monkeypatch.setattr(module, "columns_where", lambda chosen: torch.arange(chosen.shape[1]))
    other = driven()
    assert int((usual.right_of_way >= 0).sum()) > 100
    for field in dataclasses.fields(usual):
        assert torch.equal(getattr(usual, field.name), getattr(other, field.name)), field.name

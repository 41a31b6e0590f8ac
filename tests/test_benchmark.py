"""The benchmark measures what it says; no speed is asserted."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console
from small_networks import NETWORKS, scenario_text

from trafficgrad import benchmark, benchmark_map
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.scenario_config import parse_scenario


def test_every_candidate_is_measured_and_printed() -> None:
    output = io.StringIO()
    threads = torch.get_num_threads()
    sizes = (benchmark.Size(2, 6, 1), benchmark.Size(2, 12, 3))
    rows = benchmark.run(sizes, repetitions=1, console=Console(file=output, width=160))
    names = [(row.size, row.name) for row in rows if not row.name.startswith("SUMO")]  # where it is installed
    plain = "plain torch IDM loop, one lane, no search"
    assert names == [
        (sizes[0], "trafficgrad"),
        (sizes[0], plain),
        (sizes[1], "trafficgrad, straight_through"),
        (sizes[1], "trafficgrad, blocked"),
        (sizes[1], plain),
    ]
    assert all(row.forward > 0 for row in rows)
    assert all((row.both is None) == row.name.startswith("SUMO") for row in rows)
    assert all(name in output.getvalue() for _, name in names)
    assert torch.get_num_threads() == threads


def test_the_plain_loop_is_the_simulator_without_search() -> None:
    """What the ratio is taken against follows the same drivers: the fixed order is the order that is searched."""
    size = benchmark.Size(1, 8, 1)
    simulator, state = benchmark.make_case(size, torch.float64)
    order = state.position[0].argsort()
    leader = simulator.neighbors(state).leader[0, :, 1]
    assert torch.equal(leader[order], torch.roll(order, -1))


GRID = scenario_text(NETWORKS["grid"], "simulation: {warmup_steps: 40, dt: 0.5}")


def test_a_map_is_measured_with_one_world_and_with_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_map, "STEPS", 4)
    output = io.StringIO()
    threads = torch.get_num_threads()
    scenario = parse_scenario(GRID, "grid")
    rows = benchmark_map.run(1, 1, scenario, worlds=2, console=Console(file=output, width=160))
    rows = [row for row in rows if not row.name.startswith("SUMO")]  # where it is installed
    assert [row.name for row in rows] == ["trafficgrad, one world", "trafficgrad, 2 worlds"]
    assert rows[1].present == 2 * rows[0].present > 0
    assert all(row.forward > 0 and row.both is not None and row.both > 0 for row in rows)
    assert "2 worlds" in output.getvalue()
    assert torch.get_num_threads() == threads


def test_the_long_run_counts_what_happens() -> None:
    output = io.StringIO()
    scenario = parse_scenario(GRID, "grid")
    hour = benchmark_map.run_hour(30.0, scenario, console=Console(file=output, width=160))
    simulator = scenario.build()
    state = start = benchmark_map.warmed_up(scenario, simulator)
    present = []
    with torch.no_grad():
        for _ in range(60):
            state = simulator.step(state)
            present.append(int(state.active.sum()))
    assert (hour.fewest, hour.most, hour.vehicle_steps) == (min(present), max(present), sum(present))
    assert hour.left == int(state.left - start.left) > 0
    assert hour.entered == int((state.inserted - start.inserted).sum()) > 0
    assert (hour.unbalanced, hour.touching, hour.compared) == (0, 0, 3)
    assert 0.0 <= hour.standing < 1.0 and hour.mean_speed > 0.0
    assert f"{hour.fewest}, " in output.getvalue()


def test_sumo_gets_the_same_vehicles_at_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = parse_scenario(GRID, "grid")
    simulator = scenario.build()
    state, network = benchmark_map.warmed_up(scenario, simulator), simulator.network
    with torch.no_grad():
        while not bool((state.active & network.is_junction[state.lane.clamp(min=0)]).any()):
            state = simulator.step(state)

    def converted(network: RoadNetwork, folder: Path, name: str) -> list[Path]:
        return [folder / f"{name}.net.xml"]

    monkeypatch.setattr(benchmark_map, "write_sumo", converted)
    _, routes = benchmark_map.sumo_files(simulator, state, tmp_path)
    vehicles = ElementTree.parse(routes).getroot().findall("vehicle")
    assert [int(one.attrib["id"]) for one in vehicles] == state.active[0].nonzero()[:, 0].tolist()
    inside = 0
    for one in vehicles:
        slot, lane = int(one.attrib["id"]), int(state.lane[0, int(one.attrib["id"])])
        route = one.find("route")
        assert route is not None
        edges = route.attrib["edges"].split()
        if bool(network.is_junction[lane]):
            inside += 1
            way = network.connections[int(network.lane_connection[lane])]
            assert edges[0] == way.to_edge[2] and one.attrib["departPos"] == "base"
        else:
            assert edges[0] == network.edges[int(network.edge[lane])][2]
            assert float(one.attrib["departPos"]) == pytest.approx(float(state.position[0, slot]), abs=1e-3)
        last = [edge for edge in network.routes[int(state.route[0, slot])].tolist() if edge >= 0][-1]
        assert edges[-1] == network.edges[last][2]
    assert 0 < inside < len(vehicles)

    monkeypatch.setattr(benchmark_map, "write_sumo", lambda *_: [])
    with pytest.raises(TrafficGradError, match="netconvert"):
        benchmark_map.sumo_files(simulator, state, tmp_path)

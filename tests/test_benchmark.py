"""The benchmark measures what it says; no speed is asserted."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console
from small_networks import NETWORKS, scenario_text

from trafficgrad import benchmark, benchmark_large, benchmark_map, benchmark_render, benchmark_training
from trafficgrad.errors import TrafficGradError
from trafficgrad.kernels.library import library
from trafficgrad.network import RoadNetwork
from trafficgrad.scenario_config import parse_scenario


def test_every_candidate_is_measured_and_printed() -> None:
    output = io.StringIO()
    threads = torch.get_num_threads()
    sizes = (benchmark.Size(2, 6, 1), benchmark.Size(2, 12, 3))
    rows = benchmark.run(sizes, repetitions=1, threads=(1,), console=Console(file=output, width=200))
    names = [(row.size, row.name) for row in rows if row.both is not None]  # peers where they are installed
    fused = library().missing is None
    expected = [(sizes[0], "reference: step by step")]
    expected += [(sizes[0], f"fused: {way}") for way in ("step by step", "rollout")] if fused else []
    for mode in ("blocked", "straight_through"):
        expected.append((sizes[1], f"reference, {mode}: step by step"))
        expected += [(sizes[1], f"fused, {mode}: {way}") for way in ("step by step", "rollout")] if fused else []
    assert names == expected
    assert all(row.forward > 0 for row in rows)
    assert all(name in output.getvalue() for _, name in names)
    assert torch.get_num_threads() == threads
    document = json.loads(benchmark.as_json(rows))
    assert document["rows"][0]["size"] == {"worlds": 2, "vehicles": 6, "lanes": 1, "edges": 1}
    assert document["versions"]["torch"] == torch.__version__


def test_vehicles_of_a_case_stand_on_all_edges() -> None:
    simulator, state = benchmark.make_case(benchmark.Size(1, 400, 4, 10))
    edge = simulator.network.tables(torch.float32, "cpu").edge[state.lane]
    assert edge.unique().tolist() == list(range(10))
    assert bool((simulator.neighbors(state).gap[..., 1] > 0).all())


def test_training_iterations_of_both_agents_are_measured_in_turn() -> None:
    output = io.StringIO()
    rows = benchmark_training.run(("pace_car_1lane",), 1, (1,), console=Console(file=output, width=160))
    assert [row.agent for row in rows] == ["ppo", "gippo"]
    assert rows[0].ratio == 1.0 and rows[1].ratio == pytest.approx(rows[1].iteration / rows[0].iteration)
    for row in rows:
        assert row.decisions == 64 * 32 and row.iteration == pytest.approx(row.rollout + row.update, rel=0.01)
        assert row.iteration > row.rollout > row.simulator
        assert (row.simulator > 0) == (library().missing is None)
    assert "pace_car_1lane" in output.getvalue()


def test_memory_a_large_step_and_the_first_result_are_measured() -> None:
    output = io.StringIO()
    small, road = benchmark.Size(16, 20, 4), benchmark.Size(1, 2000, 4, 20)
    rows = benchmark_large.run(1, 1, small, road, ("blocked",), Console(file=output, width=160))
    memory, step, first = rows
    assert memory.unit == "MiB" and memory.value > 50  # PyTorch alone is larger
    assert step.unit == first.unit == "s" and step.value > 0 and first.value > 0
    assert "2,000 vehicles on 20 edges" in output.getvalue()


def test_pictures_and_a_film_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_render, "_SECONDS", 2.0)
    output = io.StringIO()
    console = Console(file=output, width=160)
    rows = benchmark_render.run(1, (benchmark.Size(1, 12, 2),), ("pace_car_1lane", 0.3), 3, console)
    assert [row.unit for row in rows] == ["pictures/s", "pictures/s", "s"] and all(row.value > 0 for row in rows)
    assert "12 vehicles, 1280 x 720, all overlays but the gradient" in output.getvalue()


COUNTS = ("one world", "2 worlds")
GRID = scenario_text(NETWORKS["grid"], "simulation: {warmup_steps: 40, dt: 0.5}")


def test_a_map_is_measured_with_one_world_and_with_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_map, "STEPS", 4)
    output = io.StringIO()
    threads = torch.get_num_threads()
    scenario = parse_scenario(GRID, "grid")
    rows = benchmark_map.run(1, 1, scenario, worlds=2, console=Console(file=output, width=160))
    rows = [row for row in rows if not row.name.startswith("SUMO")]  # where it is installed
    names = [row.name for row in rows]
    assert names[0] == "reference, one world"
    assert names[1:] in ([], [f"fused, {x}" for x in ("one world", *(f"{y}, rollout" for y in COUNTS))])
    assert all(row.present > 0 for row in rows)
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

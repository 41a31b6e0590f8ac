"""Scenarios on every kind of network: roads are those of the builders, and everybody starts where it makes sense."""

from __future__ import annotations

import dataclasses
import inspect
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from small_networks import MAPS, NETWORKS, scenario_text
from torch import Tensor

from trafficgrad import scenario_roads
from trafficgrad.bodies import touching
from trafficgrad.car_following.base import look_up
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork, grid, intersection
from trafficgrad.network.files import save_network
from trafficgrad.right_of_way import RightOfWay
from trafficgrad.scenario_config import load_scenario, parse_scenario
from trafficgrad.scenario_roads import BUILDERS
from trafficgrad.scenario_sections.driving import RightOfWayConfig
from trafficgrad.scenario_sections.roads import BuiltNetwork
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState
from trafficgrad.traffic_scenario import TrafficScenario
from trafficgrad.tree import index

KINDS = tuple(NETWORKS)
SPREAD = ("figure_eight", "grid", "highway", "sumo", "osm")


def scenario(kind: str, *overrides: str) -> TrafficScenario:
    return parse_scenario(scenario_text(NETWORKS[kind]), "file.yaml", overrides)


def bodies_that_touch(state: TrafficState, simulator: Simulator) -> int:
    length, width = (look_up(x, state.driver) for x in (simulator.fleet.length, simulator.fleet.width))
    return len(touching(state, simulator.network, length, width))


def same(a: TrafficState, b: TrafficState) -> bool:
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))


@pytest.mark.parametrize("model", BuiltNetwork.__args__, ids=lambda model: model.__name__)
def test_defaults_are_those_of_the_builders(model):
    kind = model.model_fields["kind"].annotation.__args__[0]
    parameters = inspect.signature(BUILDERS[kind]).parameters
    ours = {name: field.default for name, field in model.model_fields.items() if name != "kind"}
    # How signals are controlled is a section of its own.
    assert ours == {name: parameter.default for name, parameter in parameters.items() if name != "kind"}


def test_defaults_of_the_right_of_way_are_those_of_the_class():
    assert RightOfWay(**RightOfWayConfig().model_dump()) == RightOfWay()
    built = scenario("merge", "right_of_way.time_gap=1.7").build()
    assert built.right_of_way == RightOfWay(time_gap=1.7)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_builds_and_runs(kind):
    own = scenario(kind)
    simulator = own.build(seed=1, dtype=torch.float64)
    state = own.initial_state(2, torch.Generator().manual_seed(3), torch.float64, simulator=simulator)
    assert state.position.shape == (2, own.total)
    assert bodies_that_touch(state, simulator) == 0
    start = state.active.sum(1)
    for _ in range(50):
        state = simulator.step(state)
        assert torch.equal(start + state.inserted.sum(1), state.active.sum(1) + state.left)
        assert bool((state.arrivals >= state.inserted).all())
    state.validate()
    assert float(state.speed.max()) > 0.5
    assert bool((state.active.sum(1) > 0).any())


@pytest.mark.parametrize("kind", KINDS)
def test_a_world_is_the_same_alone_and_among_others(kind):
    own = scenario(kind, "simulation.warmup_steps=30", "vehicles.human.acceleration_noise=0.3")
    simulator = own.build()
    seeds = (7, 8, 9)
    together = own.initial_state(3, [torch.Generator().manual_seed(s) for s in seeds], simulator=simulator)
    for world, seed in enumerate(seeds):
        alone = own.initial_state(1, torch.Generator().manual_seed(seed), simulator=simulator)
        assert same(index(together, slice(world, world + 1)), alone)
    noise = torch.randn(50, 3, own.total, generator=torch.Generator().manual_seed(1))
    alone = index(together, slice(1, 2))
    for step in range(50):
        together = simulator.step(together, None, noise[step])
        alone = simulator.step(alone, None, noise[step, 1:2])
    assert same(index(together, slice(1, 2)), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_resolved_yaml_loads_to_an_equal_scenario(kind):
    own = scenario(kind)
    again = parse_scenario(own.to_yaml(), "resolved")
    assert again == own and again.to_yaml() == own.to_yaml()
    assert yaml.safe_load(own.to_yaml())["initial"]["kind"] == own.initial.kind


def test_settings_reach_the_builder():
    text = (
        "network: {kind: grid, rows: 1, columns: 2, inner_length: 150, green: 20, offsets: [0, 7], speed_limit: 12}\n"
    )
    built = parse_scenario(scenario_text(text, "vehicles: {human: {count: 3}}"), "file.yaml").build()
    expected = grid(rows=1, columns=2, inner_length=150, green=20, offsets=(0, 7), speed_limit=12)
    assert torch.equal(built.network.lane_length, expected.lane_length)
    assert built.network.signals == expected.signals
    assert built.signals is not None and built.signals.offset.tolist() == [0.0, 7.0]


def test_signals_are_controlled_as_written():
    text = scenario_text("network: {kind: intersection}\nvehicles: {human: {count: 3}}")
    programme = parse_scenario(text, "file.yaml").build().network.signals[0]
    assert programme == intersection().signals[0] and programme.kind == "fixed"
    changed = parse_scenario(text, "file.yaml", ["signals={control: actuated, min_green: 7, max_green: 40}"])
    signal = changed.build().network.signals[0]
    assert (signal.kind, signal.durations, signal.states) == ("actuated", programme.durations, programme.states)
    greens = ["y" not in state and bool(set(state) & set("gG")) for state in signal.states]
    assert any(greens) and not all(greens)
    for green, least, most, before in zip(greens, signal.shortest, signal.longest, programme.shortest, strict=True):
        assert (least, most) == (7.0, 40.0) if green else least == most == before
    same_way = parse_scenario(text, "file.yaml", ["signals.control=controlled"])
    assert same_way.build().network.signals == intersection(kind="controlled").signals


def test_a_fixed_programme_from_a_file_becomes_actuated(tmp_path):
    save_network(intersection(), tmp_path / "fixed.json")
    text = scenario_text(f"network: {{kind: file, path: {tmp_path / 'fixed.json'}}}\nvehicles: {{human: {{count: 3}}}}")
    signal = parse_scenario(text, "file.yaml", ["signals.control=actuated"]).build().network.signals[0]
    assert set(zip(signal.shortest, signal.longest, strict=True)) == {(5.0, 60.0), (3.0, 3.0), (2.0, 2.0)}


def test_the_same_network_is_compiled_once():
    first = scenario("grid")
    assert first.traffic is first.traffic
    assert first.build().network is first.build().network is first.build_network()
    longer = first.model_copy(update={"network": first.network.model_copy(update={"end_length": 400.0})})
    assert float(longer.build_network().lane_length.max()) > float(first.build_network().lane_length.max())


# ---------------------------------------------------------------------- where everybody starts


def starts(own: TrafficScenario, worlds: int = 20) -> tuple[TrafficState, RoadNetwork, Tensor]:
    """Placed vehicles, the network and the rows of its plan that they are on."""
    state = own.place(worlds, torch.Generator().manual_seed(2), torch.float64)
    network = own.build_network()
    plan = network.tables(torch.float64, "cpu").plan
    row = plan.route_start[state.route.clamp(min=0)] + state.route_index
    return state, network, row


@pytest.mark.parametrize("kind", SPREAD)
def test_vehicles_spread_over_lanes_that_lead_on(kind):
    own = scenario(kind, "vehicles.human.length={uniform: [4, 8]}", "initial.jitter=0.5")
    assert own.initial.kind == "spread" and own.lane_change is not None
    state, network, row = starts(own)
    there = state.active
    assert torch.equal(there.sum(1), torch.full((20,), own.present))
    assert not bool(network.is_junction[state.lane[there]].any())
    plan = network.tables(torch.float64, "cpu").plan
    assert torch.equal(plan.edge[row][there], network.edge[state.lane][there])
    assert not bool(plan.change[row, network.number[state.lane]][there].any())
    # Bodies lie on their lanes, and are further apart than the longest of them.
    longest = max(own.traffic.drivers.longest, 8.0)
    assert bool((state.position[there] >= longest).all())
    assert bool((state.position < network.lane_length[state.lane] - 3.0)[there].all())
    for position, lane, active in zip(state.position, state.lane, there, strict=True):
        for a in lane[active].unique():
            queue = position[active & (lane == a)].sort().values.tolist()
            assert all(b - a > longest for a, b in pairwise(queue))


def test_vehicles_are_evenly_far_apart():
    state, network, _ = starts(scenario("figure_eight", "vehicles.human.count=8", "vehicles.controlled.count=0"), 50)
    first, last = 5.0, 3.0  # the longest body before, standstill gap and a margin behind
    room = network.lane_length[:6] - first - last
    begin = torch.cat([torch.zeros(1, dtype=torch.float64), room.cumsum(0)[:-1]])
    along = (begin[state.lane] + state.position - first).sort(1).values
    torch.testing.assert_close(along.diff(dim=1), torch.full((50, 7), float(room.sum()) / 8, dtype=torch.float64))
    phase = along[:, 0] / (room.sum() / 8)
    assert 0.0 <= float(phase.min()) < 0.2 and 0.8 < float(phase.max()) < 1.0


def test_controlled_vehicles_spread_evenly_among_the_others():
    own = scenario("figure_eight", "vehicles.human.count=9", "vehicles.controlled.count=3")
    state, network, _ = starts(own)
    assert own.controlled_slots == (0, 1, 2) and state.driver[:, :3].tolist() == [[0, 1, 2]] * 20
    begin = torch.cat([torch.zeros(1, dtype=torch.float64), network.lane_length[:6].cumsum(0)[:-1]])
    place = (begin[state.lane] + state.position).argsort(1).argsort(1)  # of each slot, from the first on
    ordered = place[:, :3].sort(1).values
    assert bool((ordered.diff(dim=1) == 4).all())


def test_controlled_vehicles_start_on_edges_of_their_own():
    own = scenario("figure_eight", "vehicles.controlled.count=2", "initial.controlled_edges=[top, left]")
    state, network, _ = starts(own)
    edges = [network.edge_index(name) for name in ("top", "left")]
    on_them = torch.isin(network.edge[state.lane], torch.tensor(edges))
    assert bool(on_them[:, :2].all()) and not bool(on_them[:, 2:].any())


def test_who_is_not_there_at_the_start_has_an_empty_slot():
    own = scenario("figure_eight", "vehicles.controlled.present=false", "vehicles.slots=20")
    state, _, _ = starts(own, 2)
    assert own.total == 20
    assert state.active.tolist() == [[False, *[True] * 13, *[False] * 6]] * 2
    assert bool((state.route[~state.active] == -1).all()) and state.next_id.tolist() == [20, 20]
    ring = scenario("ring", "vehicles.slots=25")
    assert ring.place(1).active.sum() == 20
    full = ring.build().step(ring.place(1))
    fewer = scenario("ring").build().step(scenario("ring").place(1, torch.Generator().manual_seed(0)))
    assert full.position.shape == (1, 25) and torch.equal(full.position[:, :20], fewer.position)


def test_a_speed_at_the_start_keeps_to_the_limit_and_lets_drivers_stop_before_the_crossing():
    state, network, _ = starts(scenario("figure_eight", "initial.speed=50"))
    left = network.lane_length[state.lane] - state.position
    to_crossing = torch.isin(network.edge[state.lane], torch.tensor([network.edge_index(e) for e in ("left", "top")]))
    stopping = torch.where(to_crossing, (2.0 * 1.5 * (left - 1.0)).sqrt(), torch.inf)  # with 1.5 m/s2, 1 m before it
    assert 0 < int((stopping < 30.0).sum()) < stopping.numel()
    assert torch.allclose(state.speed, torch.minimum(network.speed_limit[state.lane], stopping))


def test_a_closed_network_gets_its_only_way_round():
    network = scenario("figure_eight").build_network()
    names = ["left", "right", "upper_ring", "top", "bottom", "lower_ring"]
    assert network.route_loops.tolist() == [True]
    cycle = [network.edge_names[e] for e in network.routes[0].tolist()]
    begin = cycle.index("left")
    assert cycle[begin:] + cycle[:begin] == names
    given = scenario(
        "figure_eight", "routes=[{name: round, edges: [top, bottom, lower_ring, left, right, upper_ring], loop: true}]"
    )
    assert given.build_network().edge_names[int(given.build_network().routes[0, 0])] == "top"


# ---------------------------------------------------------------------- files


@pytest.fixture
def town(tmp_path, monkeypatch) -> Path:
    """A scenario with a map beside it; the working folder is another one."""
    folder = tmp_path / "town"
    folder.mkdir()
    save_network(intersection(), folder / "center.json")
    text = "network: {kind: file, path: center.json}\nvehicles: {human: {count: 4}}\n"
    (folder / "town.yaml").write_text(scenario_text(text))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_a_map_is_found_beside_the_scenario(town, monkeypatch):
    own = load_scenario(town / "town.yaml")
    assert own.network.path == str((town / "center.json").resolve())
    assert torch.equal(own.build_network().lane_length, intersection().lane_length)
    # A run keeps the resolved scenario, which is read from another folder.
    assert parse_scenario(own.to_yaml(), "runs/x/config.yaml") == own
    Path("copy.yaml").write_text((town / "town.yaml").read_text())
    with pytest.raises(TrafficGradError, match=r"copy.yaml:4: network.path: there is no file 'center.json' in /"):
        load_scenario("copy.yaml")


def test_then_in_the_working_folder_and_then_among_the_shipped_maps(town, monkeypatch, tmp_path):
    text = (town / "town.yaml").read_text()
    monkeypatch.chdir(town)
    here = parse_scenario(text, "file.yaml")
    assert here.network.path == str((town / "center.json").resolve())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scenario_roads, "maps_folder", lambda: town)
    shipped = parse_scenario(text, "file.yaml")
    assert shipped.network.path == "center.json"  # any machine knows it
    assert len(shipped.build_network().edges) == 12


def test_a_map_that_changes_is_read_again(town):
    before = load_scenario(town / "town.yaml").build_network()
    save_network(intersection(arm_length=300.0), town / "center.json")
    after = load_scenario(town / "town.yaml").build_network()
    assert float(after.lane_length.max()) > float(before.lane_length.max())


def test_a_missing_or_bad_map_is_one_sentence(town):
    for path, parts in (
        ("centre.json", ["town.yaml:4: network.path", "did you mean 'center.json'?"]),
        ("town.yaml", ["town.yaml:4: network.path", "town.yaml:1: is not complete JSON"]),
        (str(town / "nothing.json"), ["town.yaml:4: network.path", "there is no file"]),
    ):
        (town / "town.yaml").write_text(
            scenario_text(f"network: {{kind: file, path: {path}}}\nvehicles: {{human: {{count: 4}}}}\n")
        )
        with pytest.raises(TrafficGradError) as error:
            load_scenario(town / "town.yaml")
        assert "\n" not in str(error.value)
        for part in parts:
            assert part in str(error.value)
    (town / "bad.json").write_text('{"format": "trafficgrad network"')
    (town / "town.yaml").write_text(
        scenario_text("network: {kind: file, path: bad.json}\nvehicles: {human: {count: 4}}")
    )
    with pytest.raises(TrafficGradError, match=r"town.yaml:4: network.path: .*bad.json:1: is not complete JSON"):
        load_scenario(town / "town.yaml")


def test_maps_of_sumo_and_openstreetmap():
    sumo = scenario("sumo").build_network()
    assert len(sumo.edges) == 35
    town = scenario("osm")
    assert len(town.build_network().edges) == 24 and town.demand[0].origin == "13 -> 10"
    flow = town.build().demand.inflows[0]
    assert town.build_network().edges[flow.edge][:2] == (13, 10)
    assert math.isclose(flow.rate, 200 / 3600)
    assert (MAPS / "town.osm").is_file()

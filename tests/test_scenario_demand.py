"""Demand, routes, classes of vehicles and slots as scenarios write them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from small_networks import MAPS, NETWORKS, scenario_text
from small_scenario import SMALL

from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import RoadNetwork
from trafficgrad.scenario_config import json_schema, load_scenario, parse_scenario
from trafficgrad.state import TrafficState
from trafficgrad.traffic_scenario import TrafficScenario

CROSSING = "network: {kind: intersection}\n"


def scenario(*sections: str) -> TrafficScenario:
    return parse_scenario(scenario_text("\n".join(sections)), "file.yaml")


def demand(own: TrafficScenario) -> Demand:
    built = own.build().demand
    assert built is not None
    return built


def ways(own: TrafficScenario, inflow: Inflow) -> dict[tuple[str | None, ...], float]:
    """Routes of an inflow, by the names of their edges, and the probability of each."""
    network = own.build_network()
    total = sum(inflow.shares)
    return {
        tuple(network.edge_names[e] for e in network.routes[r].tolist() if e >= 0): share / total
        for r, share in zip(inflow.routes, inflow.shares, strict=True)
    }


# ---------------------------------------------------------------------- where to


def test_rates_are_per_hour_in_the_file_and_per_second_inside():
    own = scenario(
        CROSSING,
        "demand:",
        "  - {from: west_in, rate: 720, begin: 10.0, end: 50.0, kind: constant, speed: 5.0, lanes: [1]}",
        "  - {from: east_in, kind: schedule, times: [1, 2.5]}",
    )
    first, second = demand(own).inflows
    assert (first.rate, first.kind, first.begin, first.end) == (0.2, "constant", 10.0, 50.0)
    assert (first.speed, first.lanes) == (5.0, (1,))
    assert (second.kind, second.times, second.rate, second.end) == ("schedule", (1.0, 2.5), 0.0, math.inf)
    assert own.build_network().edge_names[first.edge] == "west_in"
    assert first.drivers == (0, own.driver_rows)


def test_without_a_destination_all_exits_are_equally_likely_but_the_way_back():
    own = scenario(CROSSING, "demand: [{from: west_in, rate: 100}]")
    expected = {("west_in", "west_in_approach", f"{side}_out"): 1 / 3 for side in ("north", "east", "south")}
    assert ways(own, demand(own).inflows[0]) == pytest.approx(expected)


def test_a_road_without_branches_needs_no_routes():
    own = scenario("network: {kind: straight, length: 500.0, edges: 2}", "demand: [{from: 0, rate: 100}]")
    assert demand(own).inflows[0].routes == () and own.build_network().is_unbranched


@pytest.mark.parametrize(
    ("to", "shares"),
    [
        ("east_out", {"east": 1.0}),
        ("[east_out, north_out]", {"east": 0.5, "north": 0.5}),
        ("{east_out: 3, south_out: 1}", {"east": 0.75, "south": 0.25}),
    ],
)
def test_destinations(to, shares):
    own = scenario(CROSSING, f"demand: [{{from: west_in, to: {to}, rate: 100}}]")
    expected = {("west_in", "west_in_approach", f"{side}_out"): share for side, share in shares.items()}
    assert ways(own, demand(own).inflows[0]) == pytest.approx(expected)


def test_turns_multiply_along_the_way():
    # Over two junctions of the main street: straight on 0.6 twice, or off to a side street at either.
    own = scenario(
        "network: {kind: arterial, junctions: 2}",
        "demand:",
        "  - from: east_0",
        "    rate: 100",
        "    turns: {east_0: {east_1: 0.6, north_out_0: 0.4}, east_1: {east_2: 6, south_out_1: 3, north_out_1: 1}}",
    )
    expected = {
        ("east_0", "north_out_0"): 0.4,
        ("east_0", "east_1", "east_2"): 0.36,
        ("east_0", "east_1", "south_out_1"): 0.18,
        ("east_0", "east_1", "north_out_1"): 0.06,
    }
    assert ways(own, demand(own).inflows[0]) == pytest.approx(expected)


def test_named_routes():
    own = scenario(
        CROSSING,
        "routes:",
        "  - {name: left, edges: [west_in, west_in_approach, north_out]}",
        "  - {name: straight, edges: [west_in, west_in_approach, east_out]}",
        "demand: [{from: west_in, routes: {straight: 0.2, left: 0.6}, rate: 100}]",
    )
    assert own.traffic.route_names == {"left": 0, "straight": 1}
    expected = {("west_in", "west_in_approach", f"{side}_out"): x for side, x in (("east", 0.25), ("north", 0.75))}
    assert ways(own, demand(own).inflows[0]) == pytest.approx(expected)
    assert len(own.build_network().routes) == 2  # the same way is no second route


TABLE = {("west_in", "east_out"): 300.0, ("west_in", "north_out"): 100.0, ("south_in", "north_out"): 80.0}


def test_an_origin_destination_table_and_the_same_as_csv(tmp_path, monkeypatch):
    rows = ", ".join(f"{{from: {a}, to: {b}, rate: {rate}}}" for (a, b), rate in TABLE.items())
    written = scenario(CROSSING, f"origin_destination: [{rows}]")
    text = "\n".join(["from,to,rate", *(f"{a}, {b}, {rate}" for (a, b), rate in TABLE.items()), ""])
    (tmp_path / "table.csv").write_text(text)
    (tmp_path / "own.yaml").write_text(scenario_text(CROSSING, "origin_destination: table.csv"))
    from_file = load_scenario(tmp_path / "own.yaml")
    for own in (written, from_file):
        inflows = demand(own).inflows
        names = [own.build_network().edge_names[inflow.edge] for inflow in inflows]
        assert names == ["west_in", "south_in"]
        assert [inflow.rate for inflow in inflows] == pytest.approx([400 / 3600, 80 / 3600])
        approach = ("west_in", "west_in_approach")
        assert ways(own, inflows[0]) == pytest.approx({(*approach, "east_out"): 0.75, (*approach, "north_out"): 0.25})


ROUTES = """\
<routes>
  <vType id="lorry" vClass="truck" length="11" accel="1.2" maxSpeed="20" speedFactor="0.9" speedDev="0"/>
  <route id="through" edges="in out"/>
  <vehicle id="late" depart="7" route="through" type="lorry"/>
  <vehicle id="early" depart="2.5" route="through"/>
  <trip id="trip" depart="4" from="side" to="out"/>
  <vehicle id="second" depart="5" route="through"/>
  <flow id="flow" begin="10" end="3610" vehsPerHour="360" route="through" type="lorry"/>
</routes>
"""


def test_route_files_of_sumo(tmp_path):
    (tmp_path / "cars.rou.xml").write_text(ROUTES)
    text = f"network: {{kind: sumo, path: {MAPS / 'lanes.net.xml'}, routes: cars.rou.xml}}"
    (tmp_path / "own.yaml").write_text(scenario_text(text))
    own = load_scenario(tmp_path / "own.yaml")
    assert own.network.routes == str((tmp_path / "cars.rou.xml").resolve())
    assert own.initial.kind == "empty"
    built, network = own.build(), own.build_network()
    lorries = next(group for group in own.traffic.drivers.groups if group.name == "lorry")
    keys = [network.edges[inflow.edge][2] for inflow in demand(own).inflows]
    found = {
        (key, inflow.drivers == lorries.rows, inflow.kind): inflow
        for key, inflow in zip(keys, demand(own).inflows, strict=True)
    }
    assert found["in", True, "schedule"].times == (7.0,)
    assert found["in", False, "schedule"].times == (2.5, 5.0)
    assert found["side", False, "schedule"].times == (4.0,)
    flow = found["in", True, "constant"]
    assert (flow.rate, flow.begin, flow.end) == (0.1, 10.0, 3610.0)
    rows = slice(*lorries.rows)
    assert built.fleet.length[rows].unique().tolist() == [11.0]
    assert built.car_following.desired_speed[rows].unique().tolist() == [20.0]
    assert built.fleet.speed_factor[rows].unique().tolist() == pytest.approx([0.9])
    state = built.simulate(own.initial_state(1, torch.Generator().manual_seed(0)), 150).state(-1)
    assert int(state.arrivals.sum()) == 4 + 0  # the flow's first lorry comes after 20 s
    assert int(state.inserted.sum()) + int((state.arrivals - state.inserted).sum()) == 4


# ---------------------------------------------------------------------- who comes

TRUCKS = """\
network: {kind: straight, length: 2000.0, lanes: 2}
vehicles:
  human: {count: 40, desired_speed: {uniform: [28.0, 33.0]}}
  classes:
    truck: {share: 0.25, length: 12.0, width: 2.5, desired_speed: 22.0, max_acceleration: 0.5}
    bus: {length: 18.0}
demand:
  - {from: 0, rate: 1800}
  - {from: 0, rate: 100, vehicles: bus}
  - {from: 0, rate: 100, vehicles: truck}
"""


def test_classes_of_vehicles_have_rows_by_their_shares():
    own = parse_scenario(scenario_text(TRUCKS), "file.yaml", ["driver_rows=400"])
    built = own.build(dtype=torch.float64)
    length, speed = built.fleet.length, built.car_following.desired_speed
    assert length.shape == (800,)
    assert (length == 5.0).nonzero().flatten().tolist() == list(range(300))
    assert (length == 12.0).nonzero().flatten().tolist() == list(range(300, 400))
    assert (length == 18.0).nonzero().flatten().tolist() == list(range(400, 800))
    assert bool((speed[:300] >= 28.0).all()) and bool((speed[300:400] == 22.0).all())
    assert built.car_following.max_acceleration[[0, 300, 400]].tolist() == [1.0, 0.5, 1.0]
    assert built.fleet.width[[0, 300]].tolist() == [2.0, 2.5]
    assert built.car_following.time_headway == 1.0  # the same for all
    assert [inflow.drivers for inflow in demand(own).inflows] == [(0, 400), (400, 800), (300, 400)]
    # Of those at the start a quarter are trucks: 20,000 draws, five standard errors.
    driver = own.place(500, torch.Generator().manual_seed(0)).driver[:, :40]
    assert abs(float((driver >= 300).double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 20000) ** 0.5
    assert int(driver.max()) < 400


def test_who_comes_is_of_the_class_that_the_inflow_names():
    own = parse_scenario(scenario_text(TRUCKS), "file.yaml", ["vehicles.human.count=0", "driver_rows=400"])
    state = own.initial_state(16, torch.Generator().manual_seed(1))
    built = own.build()
    for _ in range(300):
        state = built.step(state)
    driver = state.driver[state.active]
    assert int(state.inserted[:, 1].sum()) == int((driver >= 400).sum()) > 0  # buses; nobody has left yet
    trucks = int(((driver >= 300) & (driver < 400)).sum())
    expected = int(state.inserted[:, 2].sum()) + 0.25 * int(state.inserted[:, 0].sum())
    assert abs(trucks - expected) < 5 * (0.25 * 0.75 * int(state.inserted[:, 0].sum())) ** 0.5


def test_drivers_are_drawn_as_before():
    """Numbers that version 0.1 drew."""
    own = load_scenario("ring_4lane", ["driver_rows=64"])
    built = own.build(seed=3, dtype=torch.float64)
    drawn = built.car_following.desired_speed[4:8].tolist()
    assert drawn == [15.68216391301041, 20.73480453442614, 30.458298886571686, 18.498540585625893]
    drawn = built.car_following.time_headway[4:7].tolist()
    assert drawn == [0.9518395008862506, 1.1942398479269065, 0.806747809104046]
    assert built.car_following.max_acceleration[-2:].tolist() == [1.0995076940159583, 0.82036036565085]
    state = own.place(2, torch.Generator().manual_seed(5), torch.float64)
    assert state.driver[1, :10].tolist() == [0, 59, 7, 27, 1, 35, 6, 58, 2, 42]
    assert state.position[0, 1:3].tolist() == [10.259757915176316, 20.360827619427155]
    assert state.position[1, -2:].tolist() == [580.8221152330925, 590.634987823294]
    state = load_scenario("pace_car_2lane", ["driver_rows=64"]).place(3, torch.Generator().manual_seed(7))
    assert state.driver[2].tolist() == [0, 47, 43, 27, 9] and state.lane[:, 0].tolist() == [1, 0, 1]
    assert state.seed.tolist() == [0, 0, 0]


def test_every_world_has_a_seed_of_its_own():
    own = scenario(NETWORKS["merge"])
    state = own.initial_state(100, torch.Generator().manual_seed(0))
    assert state.seed.unique().numel() == 100 and state.next_arrival[:, 0].unique().numel() == 100
    again = own.initial_state(100, torch.Generator().manual_seed(0))
    assert torch.equal(state.seed, again.seed) and torch.equal(state.next_arrival, again.next_arrival)


# ---------------------------------------------------------------------- slots


def test_slots_follow_from_the_demand():
    # 360 vehicles/h stay three times 1000 m / 25 m/s = 120 s: 12, and 10 to spare.
    text = ["network: {kind: straight, length: 1000.0}", "demand: [{from: 0, rate: 360}]"]
    cars = "vehicles: {human: {desired_speed: {uniform: [20, 30]}}}"
    assert scenario(*text, cars).total == 22
    # No more than one every 12 m, but at least who is there at the start.
    assert scenario(text[0], "demand: [{from: 0, rate: 36000}]").total == 84
    assert scenario(text[0], "demand: [{from: 0, rate: 36000}]", "vehicles: {human: {count: 90}}").total == 90
    assert scenario(*text, "vehicles: {slots: 7}").total == 7
    assert scenario(*text, cars.replace("{human", "{controlled: {count: 3}, human")).total == 25
    # A schedule says itself how many come within the time of one.
    times = "demand: [{from: 0, kind: schedule, times: [0, 1, 2, 200, 201]}]"
    assert scenario(text[0], times, cars).total == 13
    assert "22 slots" in scenario(*text, cars).summary() and "waits outside" in scenario(*text, cars).summary()


def test_who_finds_no_slot_waits_outside():
    own = scenario(NETWORKS["straight"], "vehicles: {slots: 3}")
    built = own.build()
    state = own.initial_state(4, torch.Generator().manual_seed(0))
    most = 0
    for _ in range(200):
        state = built.step(state)
        most = max(most, int(state.active.sum(1).max()))
    assert most == 3 and bool((state.arrivals - state.inserted > 0).any())


def test_controlled_vehicles_come_into_their_slots():
    own = scenario(NETWORKS["bottleneck"])
    assert own.initial.kind == "empty" and own.controlled_slots == (0, 1, 2, 3)
    built = own.build()
    state = own.initial_state(8, torch.Generator().manual_seed(0))
    assert not bool(state.active.any())
    for _ in range(300):
        state = built.step(state)
    there = state.active[:, :4]
    assert bool(there.any()) and torch.equal(state.driver[:, :4][there], torch.arange(4).expand(8, 4)[there])
    others = state.driver[:, 4:][state.active[:, 4:]]
    assert int(others.min()) >= 4


@pytest.mark.parametrize("kind", ["intersection", "grid", "roundabout"])
def test_the_balance_of_vehicles(kind):
    own = scenario(NETWORKS[kind])
    built = own.build()
    state = own.initial_state(2, torch.Generator().manual_seed(4))
    start, steps = state.active.sum(1), 600
    for _ in range(steps):
        state = built.step(state)
    assert torch.equal(start + state.inserted.sum(1), state.active.sum(1) + state.left)
    assert bool((state.left > 0).any()) and bool((state.arrivals.sum(1) > 0).all())


# ---------------------------------------------------------------------- the clock


@pytest.mark.parametrize("kind", ["merge", "arterial", "grid", "straight"])
def test_the_clock_goes_on_after_a_warm_up(kind):
    """Arrivals and signals know absolute times: a warm-up is the beginning of the simulation, and nothing jumps."""
    own = parse_scenario(scenario_text(NETWORKS[kind]), "file.yaml", ["simulation.warmup_steps=120"])
    built = own.build()
    state = own.initial_state(2, torch.Generator().manual_seed(5), simulator=built)
    generator = torch.Generator().manual_seed(5)
    expected = own.place(2, generator)
    for _ in range(120):
        expected = built.step(expected, None, torch.randn(2, own.total, generator=generator))
    assert all(torch.equal(getattr(state, f.name), getattr(expected, f.name)) for f in dataclasses.fields(state))
    assert state.time.tolist() == pytest.approx([12.0, 12.0], abs=1e-4)
    on_time = state.next_arrival > state.time[:, None]
    assert bool(on_time.all())


def test_a_signal_without_demand_keeps_its_clock_too():
    own = scenario(CROSSING, "vehicles: {human: {count: 4}}", "simulation: {warmup_steps: 30}")
    assert own.initial_state(1, torch.Generator().manual_seed(0)).time.tolist() == pytest.approx([3.0], abs=1e-5)


def test_the_demand_of_a_given_simulator_begins():
    own = scenario(NETWORKS["straight"])
    built = own.build()
    often = dataclasses.replace(built.demand.inflows[0], rate=10.0)
    changed = dataclasses.replace(built, demand=Demand([often, often]))
    state = own.initial_state(3, torch.Generator().manual_seed(0), simulator=changed)
    assert state.next_arrival.shape == (3, 2) and float(state.next_arrival.max()) < 2.0


# ---------------------------------------------------------------------- what is written about it


def test_the_schema_knows_the_keys_of_the_file():
    schema = json_schema()
    inflow, trips = schema["$defs"]["InflowConfig"], schema["$defs"]["TripsConfig"]
    assert {"from", "to", "rate"} <= set(inflow["properties"]) and inflow["required"] == ["from"]
    assert trips["required"] == ["from", "to", "rate"]
    for section in (inflow, trips, schema["$defs"]["VehicleClassConfig"]):
        assert all("description" in field for field in section["properties"].values())
    assert "vehicles/h" in inflow["properties"]["rate"]["description"]


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[1] / "docs" / "scenarios.md").read_text()
    section = text.partition("## Roads, demand and signals")[2]
    example = section.partition("```yaml\n")[2].partition("```")[0]
    own = parse_scenario(example, "scenarios.md")
    built = own.build()
    state = own.initial_state(2, torch.Generator().manual_seed(0), warm_up=False)
    for _ in range(50):
        state = built.step(state)
    assert isinstance(state.validate(), TrafficState) and isinstance(own.build_network(), RoadNetwork)
    assert built.demand is not None and built.signals is not None and len(own.build_network().routes) > 0


def test_plain_scenarios_have_no_demand():
    own = parse_scenario(SMALL, "file.yaml")
    built = own.build()
    assert built.demand is None and built.signals is None and own.total == 11
    state = own.place(2)
    assert state.arrivals.shape == (2, 0) and state.phase.shape == (2, 0)

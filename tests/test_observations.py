"""Observations on networks: columns worked out by hand, labels, empty slots and derivatives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.observations import observe, observe_lanes
from trafficgrad.observations.distances import FAR
from trafficgrad.scenario_config import parse_scenario
from trafficgrad.signals import RED
from trafficgrad.state import TrafficState

CROSSING = """\
kind: traffic
name: crossing
network: {kind: intersection, left_lanes: 0}
vehicles: {human: {count: 3}, controlled: {count: 2, control: lane}}
"""
MERGE = """\
kind: traffic
name: merge
network: {kind: merge}
vehicles: {human: {count: 6}, controlled: {count: 4}}
demand: [{from: highway_in, rate: 1200, controlled_share: 0.5}]
pool_size: 2
simulation: {warmup_steps: 100, horizon_steps: 40, decision_steps: 4}
"""
GRID = """\
kind: traffic
name: grid
network: {kind: grid, rows: 1, columns: 2}
signals: {control: controlled, min_green: 2.0}
control: {signals: switch}
demand: [{from: east_0_0, rate: 500}]
"""


def env_of(text: str, *overrides: str) -> TrafficEnv:
    return TrafficEnv(parse_scenario(text, "test.yaml", overrides), dtype=torch.float64)


def scene(env: TrafficEnv, rows: list[tuple[str, int, float, float, tuple[str, ...]]]) -> TrafficState:
    """Vehicles on (edge, lane number, position, speed, edges of the route); the other slots are empty."""
    network, count = env.simulator.network, env.scenario.total
    position, speed = torch.zeros(2, 1, count, dtype=torch.float64)
    lane, route = torch.zeros(1, count, dtype=torch.int64), torch.full((1, count), -1)
    active = torch.zeros(1, count, dtype=torch.bool)
    routes = [[e for e in row if e >= 0] for row in network.routes.tolist()]
    for n, (edge, number, x, v, way) in enumerate(rows):
        e = network.edge_index(edge)
        lane[0, n] = next(i for i, place in enumerate(network.lanes) if place == (e, number))
        position[0, n], speed[0, n], active[0, n] = x, v, True
        route[0, n] = routes.index([network.edge_index(name) for name in way])
    state = TrafficState(position, speed, lane, route=route, active=active)
    return state if env.simulator.signals is None else env.simulator.signals.start(state)


def shown(env: TrafficEnv, state: TrafficState, row: int = 0) -> dict[str, float]:
    return dict(zip(env.observation_labels, env.start(state).observation[0, row].tolist(), strict=True))


def test_route_is_the_default_on_networks_and_labels_every_column() -> None:
    env = env_of(CROSSING)
    assert env.scenario.observation.kind == "route"
    state = env.reset(2, torch.Generator().manual_seed(0))
    assert state.observation.shape == (2, 2, len(env.observation_labels))
    assert len(set(env.observation_labels)) == len(env.observation_labels)
    joined = env_of(CROSSING, "observation.shared=false")
    assert joined.start(state.traffic).observation.shape == (2, len(joined.observation_labels))
    assert env_of(CROSSING.replace("{kind: intersection, left_lanes: 0}", "{kind: ring, length: 300.0}").replace(
        ", control: lane", "")).scenario.observation.kind == "local"  # fmt: skip


def test_columns_of_who_must_change_lane_to_turn_right() -> None:
    """Right turns leave from the rightmost lane, so lane 1 ends at the stop line, 188 m from the edge's start."""
    env = env_of(CROSSING)
    right = ("west_in", "south_out")
    state = scene(
        env,
        [
            ("west_in", 1, 150.0, 10.0, right),
            ("south_out", 0, 50.0, 8.0, right),
            ("west_in", 0, 170.0, 7.0, right),
            ("south_out", 1, 60.0, 4.0, right),
        ],
    )
    state = replace(
        state, route_index=torch.tensor([[0, 1, 0, 1, 0]]), lateral=torch.tensor([[0.35, 0, 0, 0, 0]]).double()
    )
    row = shown(env, state)
    length = float(env.simulator.network.lane_length[int(state.lane[0, 0])])
    assert row["there is a vehicle"] == 1.0
    assert row["speed [5 m/s]"] == pytest.approx(2.0) and row["speed limit [5 m/s]"] == pytest.approx(13.9 / 5)
    assert row["right: lane exists"] == 1.0 and row["left: lane exists"] == 0.0
    assert row["right: gap ahead [50 m]"] == pytest.approx((170.0 - 5.0 - 150.0) / 50.0)
    assert row["right: leader's speed - own [5 m/s]"] == pytest.approx((7.0 - 10.0) / 5.0)
    assert row["own: gap ahead [50 m]"] == row["right: gap behind [50 m]"] == 1.0
    assert row["lane leads on for [100 m]"] == pytest.approx((length - 150.0) / 100.0)
    assert row["lane changes needed, + = left"] == pytest.approx(-1.0 - 0.35 / 3.5)
    assert [row[f"next turn: {side}"] for side in ("left", "straight", "right")] == [0.0, 0.0, 1.0]
    assert row["edge 1 ahead: mean speed [5 m/s]"] == pytest.approx((8.0 + 4.0) / 2 / 5)
    assert row["edge 1 ahead: vehicles [10]"] == pytest.approx(0.2)
    assert row["edge 2 ahead: vehicles [10]"] == row["edge 2 ahead: mean speed [5 m/s]"] == 0.0
    assert row["gate: distance [100 m]"] == 1.0 and row["gate: red"] == row["gate: green"] == 0.0


def test_columns_of_a_gate_with_a_signal() -> None:
    """The first programme phase shows red to the right turn (letter 7) and lasts 10 s."""
    env = env_of(CROSSING)
    state = scene(env, [("west_in", 0, 150.0, 10.0, ("west_in", "south_out"))])
    network, signals = env.simulator.network, env.simulator.signals
    assert signals is not None and network.signals[0].states[int(state.phase[0, 0])][7] == "r"
    row = shown(env, state)
    length = float(network.lane_length[int(state.lane[0, 0])])
    assert row["gate: distance [100 m]"] == pytest.approx((length - 150.0) / 100.0)
    assert [row[f"gate: {name}"] for name in ("red", "yellow", "open, yields", "green")] == [1.0, 0.0, 0.0, 0.0]
    assert row["gate: phase left [30 s]"] == pytest.approx(network.signals[0].durations[0] / 30.0)
    assert row["gate: right of way"] == 0.0 and row["gate: must stop"] == 1.0
    assert row["lane leads on for [100 m]"] == 1.0 and row["lane changes needed, + = left"] == 0.0
    gate = int(env.simulator.neighbors(state).ahead.gate[0, 0, 0])  # type: ignore[union-attr]
    assert network.lane_connection[gate] == 7
    held = torch.full_like(state.right_of_way, -1)
    held[0, 0] = gate
    row = shown(env, replace(state, right_of_way=held))
    assert row["gate: right of way"] == 1.0 and row["gate: must stop"] == 0.0
    assert int(signals.letters[0, int(state.phase[0, 0]), 7]) == RED


def test_from_within_the_junction_the_lane_that_follows_counts() -> None:
    env = env_of(CROSSING)
    state = scene(env, [("west_in", 0, 0.0, 6.0, ("west_in", "south_out"))])
    gate = int(env.simulator.neighbors(state).ahead.gate[0, 0, 0])  # type: ignore[union-attr]
    inside = replace(
        state, lane=torch.where(state.active, gate, state.lane), position=torch.full_like(state.position, 2.0)
    )
    row = shown(env, inside)
    assert row["gate: distance [100 m]"] == 1.0
    assert sum(row[f"next turn: {side}"] for side in ("left", "straight", "right")) == 0.0  # it leaves after south_out
    assert row["lane changes needed, + = left"] == 0.0 and row["lane leads on for [100 m]"] == 1.0


def test_rows_of_empty_slots_are_zero_for_every_kind() -> None:
    for kind in ("route", "local"):
        env = env_of(CROSSING, f"observation.kind={kind}")
        state = scene(env, [("west_in", 0, 150.0, 10.0, ("west_in", "south_out"))])
        observation = env.start(state).observation
        assert bool((observation[0, 1] == 0).all()) and bool((observation[0, 0] != 0).any())


def test_local_shows_controlled_vehicles_on_other_roads_as_far() -> None:
    env = env_of(CROSSING, "observation.kind=local")
    first = ("west_in", 0, 150.0, 10.0, ("west_in", "south_out"))
    apart = scene(env, [first, ("south_in", 0, 150.0, 10.0, ("south_in", "north_out"))])
    assert shown(env, apart)["controlled 1: distance ahead [100 m]"] == FAR / 100.0
    beside = scene(env, [first, ("west_in", 1, 160.0, 10.0, ("west_in", "north_out"))])
    row = shown(env, beside)
    assert row["controlled 1: distance ahead [100 m]"] == pytest.approx(0.1)
    assert row["controlled 1: lanes to the left [1]"] == pytest.approx(1.0)
    assert row["left: controlled vehicle beside"] == 1.0


ROAD = """\
kind: traffic
name: road
network: {kind: straight, length: 500.0, lanes: 3, lane_width: 4.0}
vehicles: {human: {count: 5}, controlled: {count: 1, control: steered}}
initial: {kind: queue, spacing: 12.0, lead: 30.0, speed: 3.0}
observation: {kind: lanes}
"""


def test_lanes_show_the_first_driver_of_each_the_nearest_first() -> None:
    env = env_of(ROAD)
    state = env.reset(1, torch.Generator().manual_seed(0)).traffic
    slot = int(env.slots[0])
    place = {slot: (1, 100.0, 10.0)}
    # Lane 0: 40 m and 60 m behind; lane 1: 15 m; lane 2: 25 m, the second beside it 70 m.
    others = [n for n in range(6) if n != slot]
    where = [(0, 60.0, 20.0), (0, 40.0, 21.0), (1, 85.0, 12.0), (2, 75.0, 9.0), (2, 30.0, 22.0)]
    place |= dict(zip(others, where, strict=True))
    lane, position, speed = (torch.tensor([[place[n][k] for n in range(6)]]) for k in range(3))
    lateral, heading = torch.zeros(2, 1, 6, dtype=torch.float64)
    lateral[0, slot], heading[0, slot] = 1.5, 0.3
    position, speed = position.double(), speed.double()
    there = replace(state, lane=lane, position=position, speed=speed, lateral=lateral, heading=heading)
    row = shown(env, there)
    along = 10.0 * math.cos(0.3)
    expected = {
        "speed along [m/s]": along,
        "speed across [m/s]": 10.0 * math.sin(0.3),
        "to the left edge [m]": 12.0 - 2.0 - 5.5,
        "to the right edge [m]": 5.5 + 2.0,
    }
    for k, (behind, v, aside) in enumerate(((15.0, 12.0, -1.5), (25.0, 9.0, 2.5), (40.0, 20.0, -5.5))):
        expected[f"driver {k}: behind by [m]"] = behind
        expected[f"driver {k}: comes nearer by [m/s]"] = v - along
        expected[f"driver {k}: its lane to the left [m]"] = aside
    assert row == pytest.approx(expected)
    empty = shown(env, replace(there, lane=torch.where(lane == 2, 0, lane)))
    assert empty["driver 2: behind by [m]"] == FAR and empty["driver 2: comes nearer by [m/s]"] == -along


def test_lanes_differentiate_like_central_differences() -> None:
    env = env_of(ROAD)
    state = env.reset(3, torch.Generator().manual_seed(1)).traffic

    def seen(position: Tensor, speed: Tensor, lateral: Tensor, heading: Tensor) -> Tensor:
        here = replace(state, position=position, speed=speed, lateral=lateral, heading=heading)
        return observe_lanes(here, env.simulator)

    generator = torch.Generator().manual_seed(2)
    inputs = [
        (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for x in (state.position, state.speed, state.lateral, state.heading)
    ]
    assert torch.autograd.gradcheck(seen, inputs)


def test_route_observation_differentiates_like_central_differences() -> None:
    env = env_of(MERGE)
    state = env.reset(2, torch.Generator().manual_seed(3)).traffic
    weight = torch.randn(
        2, 4, len(env.observation_labels), dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )

    def value(position: Tensor, speed: Tensor) -> Tensor:
        here = replace(state, position=position, speed=speed)
        around = env.simulator.neighbors(here)
        seen = observe(here, around, env.simulator, env.scenario.observation, env.scenario.control)
        return (seen * weight).sum()

    inputs = (state.position.clone().requires_grad_(), state.speed.clone().requires_grad_())
    gradients = torch.autograd.grad(value(*inputs), inputs)
    assert all(bool((gradient != 0).any()) for gradient in gradients)
    for which in (0, 1):
        for world, slot in state.active.nonzero().tolist():
            ends = []
            for step in (1e-6, -1e-6):
                moved = [x.detach().clone() for x in inputs]
                moved[which][world, slot] += step
                ends.append(float(value(*moved)))
            expected = (ends[0] - ends[1]) / 2e-6
            assert float(gradients[which][world, slot]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_junctions_count_what_comes_to_each_signal() -> None:
    env = env_of(GRID)
    assert env.scenario.observation.kind == "junctions" and env.agents == 2 and env.action_labels == ("next phase",)
    way = ("east_0_0", "east_0_1", "east_0_2")
    length = float(env.simulator.network.lane_length[env.simulator.network.edge_index("east_0_0")])
    state = scene(
        env,
        [
            ("east_0_0", 0, length - 5.0, 0.0, way),
            ("east_0_0", 0, length - 20.0, 3.0, way),
            ("east_0_0", 0, length - 101.0, 9.0, way),
            ("east_0_2", 0, 280.0, 9.0, way),  # leaves, comes to no signal
        ],
    )
    state = replace(state, phase_time=torch.tensor([[3.0, 0.0]]).double())
    first, second = shown(env, state, 0), shown(env, state, 1)
    approaches = [k for k in range(4) if first[f"approach {k}: vehicles within 100 m [10]"] > 0]
    assert len(approaches) == 1
    k = approaches[0]
    assert first[f"approach {k}: vehicles within 100 m [10]"] == pytest.approx(0.2)
    assert first[f"approach {k}: standing [10]"] == pytest.approx(0.1)
    assert first[f"approach {k}: mean speed [5 m/s]"] == pytest.approx(1.5 / 5.0)
    assert first["phase 0"] == 1.0 and first["phase 1"] == 0.0 and first["time in phase [30 s]"] == pytest.approx(0.1)
    assert all(value == 0.0 for label, value in second.items() if label.startswith("approach"))


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (GRID, ["signals.control=fixed"], "control.signals: switch needs signals"),
        (GRID, ["observation={kind: route}"], "there are none: expected junctions"),
        (GRID, ["vehicles.controlled.count=2"], "observation.shared: a shared policy has actions of one kind"),
        (CROSSING, ["observation={kind: junctions}"], "observation.kind: junctions needs signals"),
        (CROSSING, ["observation={kind: lanes}"], "observation.kind: lanes needs network.kind: straight"),
    ],
)
def test_observations_that_do_not_fit_are_refused(text: str, overrides: list[str], said: str) -> None:
    with pytest.raises(TrafficGradError, match=said):
        env_of(text, *overrides)

"""The fused kernel equals the reference where roads meet, part and end: junctions, signals, routes, speed limits."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields, replace
from functools import cache

import networkx as nx
import pytest
import torch
from fused_cases import leaves_of
from oracles.road_worlds import DOUBLE, add_town, closed_walks, scatter, state_of
from small_networks import NETWORKS as SMALL
from small_networks import scenario_text
from test_paths import NETWORKS, random_worlds, routed, simulation
from test_towns import RULES

import trafficgrad as tg
from trafficgrad import tree
from trafficgrad.car_following import IDM
from trafficgrad.gradients import LaneGradient, SignalGradient
from trafficgrad.kernels.library import library
from trafficgrad.lane_change import MOBIL
from trafficgrad.metrics import changed_lanes
from trafficgrad.network import RoadNetwork
from trafficgrad.network.signal_defaults import default_programmes
from trafficgrad.scenario_config import parse_scenario
from trafficgrad.signals import Signals
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState

pytestmark = pytest.mark.skipif(library().functions is None, reason=str(library().missing))
FLOATS = ("position", "speed", "lateral", "heading", "cooldown", "passed")
MODES = ("straight_through", "blocked", "sigmoid")


def small(name: str) -> tuple[Simulator, TrafficState]:
    """One of the small scenarios, warmed up."""
    scenario = parse_scenario(scenario_text(SMALL[name]), name)
    simulator = scenario.build(0, DOUBLE)
    return simulator, scenario.initial_state(2, torch.Generator().manual_seed(3), DOUBLE, simulator=simulator)


def town(rule: str) -> tuple[Simulator, TrafficState]:
    """3 x 3 blocks of two-way streets of two lanes, vehicles on closed walks."""
    graph = nx.MultiDiGraph()
    add_town(graph, "town", rule, 2)
    network = RoadNetwork.from_graph(default_programmes(graph))
    network = network.with_routes(closed_walks(network, 20, 5), loops=True)
    worlds = [scatter(network, range(20), 60, random.Random(seed), 3.0) for seed in range(2)]
    simulator = Simulator(
        network,
        tg.Fleet(),
        IDM(13.9, max_acceleration=1.2),
        MOBIL(politeness=0.2, right_bias=0.1, sides="alternate"),
        signals=Signals.of(network, DOUBLE),
    )
    state = state_of(network, worlds, DOUBLE)
    return simulator, state if simulator.signals is None else simulator.signals.start(state)


def wild(name: str) -> tuple[Simulator, TrafficState]:
    """Vehicles anywhere, on lanes of junctions without the right of way too, overlapping, on wrong lanes."""
    network = routed(name)
    simulator, state = simulation(network, random_worlds(network, 4, 40, seed=11))
    signals = Signals.of(network, DOUBLE)
    simulator = replace(simulator, lane_change=MOBIL(politeness=0.2), signals=signals)
    return simulator, state if signals is None else signals.start(state)


CASES = {f"small {name}": lambda name=name: small(name) for name in SMALL if name not in ("ring", "straight")}
CASES |= {f"town {rule}": lambda rule=rule: town(rule) for rule in RULES}
CASES["signals that are off"] = lambda: (lambda sim, state: (replace(sim, signals=None), state))(*town("signals"))
CASES |= {f"wild {name}": lambda name=name: wild(name) for name in NETWORKS}
# All tests of a case in one process: they share its run.
every_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(f"roads, {name}")) for name in CASES]
)
EVENTS = {  # what cases are there for, and must show
    "small bottleneck": ("came", "changed lane"),
    "small grid": ("on a junction", "phase changed", "stands"),
    "small highway": ("left the road",),
    "town signals": ("got the right of way", "waits inside"),
}


@cache
def drive(name: str) -> tuple[Simulator, list[TrafficState], list[Action | None], Counter[str]]:
    """States along a run of the reference, every one compared with what the kernel makes of the one before."""
    simulator, state = CASES[name]()
    reference, fused = replace(simulator, backend="reference"), replace(simulator, backend="fused")
    generator, seen = torch.Generator().manual_seed(1), Counter[str]()
    j = simulator.network.tables(DOUBLE, "cpu").junctions
    states, actions = [], []
    for t in range(60 if name.startswith("wild") else 120):
        action = some_action(simulator, state, generator) if t % 3 else None
        noise = reference.sample_noise(state, generator)
        if t % 15 == 5:
            states.append(state)
            actions.append(action)
        with torch.no_grad():
            expected, found = reference.step(state, action, noise), fused.step(state, action, noise)
        for field in fields(TrafficState):
            x, y = getattr(expected, field.name), getattr(found, field.name)
            assert x.shape == y.shape and x.dtype == y.dtype, (t, field.name)
            if x.is_floating_point():
                torch.testing.assert_close(
                    y, x, rtol=1e-11, atol=1e-11, msg=lambda m, t=t, f=field: f"{t} {f.name}: {m}"
                )
            else:
                assert torch.equal(x, y), (t, field.name, (x != y).nonzero()[:5].tolist())
        lane = expected.lane.clamp(min=0)
        seen["on a junction"] += int((j.is_junction[lane] & expected.active).sum())
        seen["got the right of way"] += int(((expected.right_of_way >= 0) & (state.right_of_way < 0)).sum())
        seen["waits inside"] += int(((j.waits_at[lane] > 0) & (expected.right_of_way < 0) & expected.active).sum())
        seen["phase changed"] += int((expected.phase != state.phase).sum())
        seen["left the road"] += int((expected.left - state.left).sum())
        seen["came"] += int((expected.inserted - state.inserted).sum()) if expected.inserted.numel() else 0
        seen["changed lane"] += int((changed_lanes(state, expected, simulator.network)).sum())
        seen["stands"] += int(((expected.speed == 0) & expected.active).sum())
        state = expected
    return simulator, states, actions, seen


def some_action(simulator: Simulator, state: TrafficState, generator: torch.Generator) -> Action | None:
    """Anything that is allowed."""
    count = len(simulator.fleet.slots)
    signals = 0 if simulator.signals is None else simulator.signals.count
    if not count and not signals:
        return None
    worlds = state.worlds

    def draw(columns: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(worlds, columns, generator=generator, dtype=DOUBLE)

    lane = draw(count, 0.8) if "lane" in simulator.fleet.control else None
    return Action(draw(count, 1.0), lane, signal=draw(signals, 1.0) if signals else None)


@every_case
def test_values_along_a_run(name: str) -> None:
    seen = drive(name)[-1]
    for event in EVENTS.get(name, ()):
        assert seen[event] >= 5, (event, seen)


@every_case
def test_surroundings_along_a_run(name: str) -> None:
    simulator, states, *_ = drive(name)
    for state in states:
        start = replace(
            state, position=state.position.clone().requires_grad_(), speed=state.speed.clone().requires_grad_()
        )
        found = []
        for backend in ("reference", "fused"):
            around = replace(simulator, backend=backend).neighbors(start)  # type: ignore[arg-type]
            assert around.ahead is not None
            parts = [getattr(around, f.name) for f in fields(around)][:6]
            ahead = [getattr(around.ahead, f.name) for f in fields(around.ahead)]
            finite = [torch.where(torch.isfinite(x), x, 0.0).sum() for x in (*parts[2:], ahead[1], ahead[2], ahead[4])]
            slopes = torch.autograd.grad(sum(k * x for k, x in enumerate(finite, 1)), (start.position, start.speed))
            found.append([*parts, *ahead, *slopes])
        for k, (x, y) in enumerate(zip(*found, strict=True)):
            torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-11, msg=lambda m, k=k: f"{k}: {m}")


@every_case
def test_gradients_along_a_run(name: str) -> None:
    simulator, states, actions, _ = drive(name)
    for k, (state, action) in enumerate(zip(states, actions, strict=True)):
        mode = MODES[k % 3]
        base = replace(
            simulator,
            demand=None,
            lane_gradient=LaneGradient(mode, choices=("all", "controlled")[k // 3 % 2]),  # type: ignore[arg-type]
            signal_gradient=SignalGradient(mode),  # type: ignore[arg-type]
        )
        chosen, start, leaves = leaves_of(base, state)
        if action is not None:
            parts = {n: x.clone().requires_grad_() for n, x in vars(action).items() if n != "signal" and x is not None}
            leaves |= {f"action.{n}": x for n, x in parts.items()}
            action = replace(action, **parts)
        found = {}
        for backend in ("reference", "fused"):
            after = start
            for _ in range(2):
                after = replace(chosen, backend=backend).step(after, action)  # type: ignore[arg-type]
            generator = torch.Generator().manual_seed(k)
            loss = sum(
                (getattr(after, n) * torch.randn(after.position.shape, generator=generator, dtype=DOUBLE)).sum()
                for n in FLOATS
            )
            assert isinstance(loss, torch.Tensor)
            found[backend] = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for leaf, x, y in zip(leaves, found["reference"], found["fused"], strict=True):
            if not x.numel() or not bool(torch.isfinite(x).all()):
                continue
            scale = float(x.abs().max())
            assert float((x - y).abs().max()) <= 1e-11 * scale + 1e-13, (
                k,
                mode,
                leaf,
                scale,
            )


@pytest.mark.parametrize("name", ["small intersection", "small grid", "town signals"])
def test_a_rollout_is_its_steps(name: str) -> None:
    simulator, state = CASES[name]()
    simulator = replace(simulator, demand=None, backend="fused")
    whole = simulator.simulate(state, 40)
    for t in range(40):
        state = simulator.step(state)
        for field in fields(TrafficState):
            assert torch.equal(getattr(whole, field.name)[t + 1], getattr(state, field.name)), (t, field.name)


def test_gradients_of_a_rollout_through_signals_and_limits() -> None:
    simulator, state = CASES["town signals"]()
    assert simulator.signals is not None
    soon = float(simulator.signals.remaining(state).min()) - 2.0
    state = simulator.signals.start(replace(state, time=state.time + soon))  # the first change is near
    chosen, start, leaves = leaves_of(simulator, state)
    found = []
    for backend in ("reference", "fused"):
        record = replace(chosen, backend=backend).simulate(start, 60)  # type: ignore[arg-type]
        loss = record.speed.square().mean() + 0.01 * record.position[-1].mean()
        found.append(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True))
    for leaf, x, y in zip(leaves, *found, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-9, atol=1e-11, msg=lambda m, leaf=leaf: f"{leaf}: {m}")
    assert all(float(found[0][list(leaves).index(n)].abs().max()) > 0 for n in ("limits", "durations", "offset"))


def test_worlds_do_not_know_of_each_other_and_threads_change_nothing() -> None:
    simulator, state = CASES["town priority"]()
    simulator = replace(simulator, backend="fused")
    both = simulator.simulate(state, 30)
    alone = simulator.simulate(state.index(slice(1, 2)), 30)
    assert torch.equal(both.position[:, 1:], alone.position) and torch.equal(both.lane[:, 1:], alone.lane)
    many = tree.tree_map(lambda x: x.repeat(20, *[1] * (x.dim() - 1)), state)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        spread = simulator.simulate(many, 30)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(spread.position[:, 38:], both.position)


def test_bad_places_get_a_sentence() -> None:
    simulator, state = CASES["town signals"]()
    for name, value, words in (
        ("previous", 10**6, "previous of vehicle slot 4 in world 1 is no lane"),
        ("right_of_way", -7, "right_of_way of vehicle slot 4 in world 1 is no lane"),
        ("route", 20, "route of vehicle slot 4 in world 1 is no route"),
        ("route_index", 99, "route_index of vehicle slot 4 in world 1 is no place on its route"),
    ):
        field = getattr(state, name).clone()
        field[1, 4] = value
        with pytest.raises(tg.TrafficGradError, match=words):
            simulator.step(replace(state, **{name: field}))
    phase = state.phase.clone()
    phase[0, 2] = 50
    with pytest.raises(tg.TrafficGradError, match="phase of signal 2 in world 0 is no phase"):
        simulator.step(replace(state, phase=phase))

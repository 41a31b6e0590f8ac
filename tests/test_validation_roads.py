"""``trafficgrad validate`` on roads: queues at signals, merges, the grid, the watcher, each against something else."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import intersection
from trafficgrad.scenario_config import load_scenario
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState
from trafficgrad.validation import GROUPS, Check, theory
from trafficgrad.validation.merge_reference import (
    ELSEWHERE,
    IN,
    MERGE,
    OUT,
    RAMP,
    UNITS,
    Observer,
    arrivals,
    build,
    load_merges,
)
from trafficgrad.validation.network_watch import NetworkWatch
from trafficgrad.validation.runs import Run, idm
from trafficgrad.validation.theory import CITY, Drivers


def module(name: str):
    """A group's module: in the package its name stands for the function."""
    return importlib.import_module(f"trafficgrad.validation.{name}")


def failed(group: str) -> list[str]:
    """Names of the checks of a group's quick version that do not pass."""
    checks = [result for result in GROUPS[group].run(Run(quick=True)) if isinstance(result, Check)]
    assert any(check.judged for check in checks)
    return [check.name for check in checks if not check.passed]


# ---------------------------------------------------------------------- queues


def test_the_first_of_a_queue_starts_as_on_a_free_road() -> None:
    """Within the first 2 m, at v << v0, x = a t^2 / 2."""
    first = theory.queue_discharge(CITY, 2)[0]
    assert first == pytest.approx(math.sqrt(2 * CITY.min_gap / CITY.max_acceleration), abs=1e-3)


@pytest.mark.parametrize("formed", [False, True])
def test_the_integration_of_a_queue_has_converged(formed: bool) -> None:
    coarse, fine = (theory.queue_discharge(CITY, 16, formed, dt) for dt in (0.02, 0.01))
    assert np.abs(coarse - fine).max() < 0.05
    headways = np.diff(fine)
    assert (np.diff(headways) < 0).all() and headways[-1] > 3600 / 1957  # no less than at capacity


def test_a_queue_that_formed_by_itself_passes_more_slowly() -> None:
    closest, formed = (np.diff(theory.queue_discharge(CITY, 16, formed)) for formed in (False, True))
    assert (formed > closest).all()


def test_headway_and_lost_time_of_a_line() -> None:
    line = module("junction_discharge")._line
    times = 3.6 + 2.2 * np.arange(1.0, 18.0)
    times[:4] += 0.7  # those before the fifth do not count
    assert line(times) == pytest.approx((2.2, 3.6))
    assert all(math.isnan(value) for value in line(times[:14]))


def test_slower_drivers_at_a_signal_fail(monkeypatch) -> None:
    group = module("junction_discharge")
    monkeypatch.setattr(group, "idm", lambda drivers: idm(replace(drivers, time_headway=1.05 * drivers.time_headway)))
    monkeypatch.setattr(group, "QUICK_QUEUE", 17)
    assert "first queues: saturation headway" in failed("junction_discharge")


# ---------------------------------------------------------------------- merges


def test_arrivals_are_those_of_the_demand() -> None:
    rates = [0.2, 0.05]
    network = intersection(lanes=1, left_lanes=0, protected_left=False)
    inflows = [
        Inflow(network.edge_index(name), rate=rate) for name, rate in zip(("west_in", "east_in"), rates, strict=True)
    ]
    simulator = Simulator(network, module("merges").Fleet(), idm(CITY), demand=Demand(inflows), dt=0.5)
    empty = torch.zeros(2, 1, dtype=torch.float64)
    state = TrafficState(empty, empty, empty.long(), driver=empty.long(), active=empty > 0, seed=torch.tensor([3, 8]))
    assert simulator.demand is not None
    state = simulator.demand.start(state)
    with torch.no_grad():
        for _ in range(200):
            state = simulator.step(state)
    for world, seed in enumerate((3, 8)):
        expected = arrivals(rates, seed, 100.0)
        assert state.arrivals[world].tolist() == [len(times) for times in expected]
        following = [arrivals(rates, seed, 10_000.0)[q][len(expected[q])] for q in range(2)]
        assert state.next_arrival[world].tolist() == pytest.approx(following)


def test_statistics_of_a_merge_by_hand() -> None:
    road = build({"pre_merge_length": 600.0, "acceleration_lane": 200.0})
    observer = Observer(road)
    where = np.array([IN, IN, RAMP, MERGE, OUT, ELSEWHERE])
    speed = np.array([10.0, 20.0, 5.0, 8.0, 99.0, 99.0])
    observer.sample(where, np.array([299.0, 301.0, 50.0, 1.0, 2.0, 3.0]), speed)
    observer.sample(where[:3], np.array([400.0, 500.0, 60.0]), np.array([30.0, 10.0, 7.0]))
    for left, merged in (([1, 0], [50.0]), ([2, 1], []), ([0, 0], [70.0])):
        observer.count(left, np.array(merged), 0.5)
    assert observer.statistics() == pytest.approx({
        "flow out": 4 / 1.5 * 3600,
        "share of the ramp": 0.25,
        "speed before the merge": 20.0,
        "speed on the ramp": 6.0,
        "speed beside the ramp's lane": 8.0,
        "place of merging": 60.0,
    })  # fmt: skip


def test_the_recording_of_merges() -> None:
    cases = load_merges()
    assert list(cases) == ["lane", "priority", "zipper"]
    for case in cases.values():
        assert case.seeds == tuple(range(5)) and case.usual.sum() == 5 and len(case.usual) == 25
        assert ("place of merging" in case.statistics()) == (case.name == "lane")
        for (demand, statistic), values in case.runs.items():
            low, high = case.band(demand, statistic)
            assert len(values) == 25 and low <= np.nanmin(values) <= np.nanmax(values) <= high
            if statistic in UNITS and statistic != "place of merging":
                assert (low, high) == (np.nanmin(values), np.nanmax(values))
    below = cases["lane"].reference(0, "flow out")
    expected = np.mean(
        [sum(((t > 150) & (t < 750)).sum() for t in arrivals([800 / 3600, 200 / 3600], s, 750.0)) * 6 for s in range(5)]
    )
    assert below == pytest.approx(expected, rel=0.06)  # SUMO lets through what comes, but for those on the road


def test_drivers_who_keep_far_apart_fail_at_the_merge(monkeypatch) -> None:
    group = module("merges")
    monkeypatch.setattr(group, "idm", lambda drivers: idm(replace(drivers, time_headway=3.0 * drivers.time_headway)))
    monkeypatch.setattr(group, "QUICK_SECONDS", 90.0)
    assert "lane, 800 + 200: speed before the merge" in failed("merges")


# ---------------------------------------------------------------------- the grid


def test_signals_that_never_change_are_found(monkeypatch) -> None:
    group = module("gridlock")
    right = group._by_the_clock

    def stuck(scenario, run):
        simulator = right(scenario, run)
        durations = simulator.signals.durations.clone()
        durations[:, 0] = 1e4
        return replace(simulator, signals=replace(simulator.signals, durations=durations))

    monkeypatch.setattr(group, "_by_the_clock", stuck)
    monkeypatch.setattr(group, "QUICK_SECONDS", 250.0)
    monkeypatch.setattr(group, "CYCLES", 2.0 * 74.0 / 1e4)  # of the cycle that is right
    assert {"flow out", "longest stand of anybody"} <= set(failed("gridlock"))


# ---------------------------------------------------------------------- the watcher


@pytest.fixture(scope="module")
def crossing() -> tuple[Simulator, TrafficState, TrafficState]:
    """A simulator and two consecutive states of the shipped intersection, with traffic and queues."""
    scenario = load_scenario("intersection", ["pool_size=2"])
    simulator = scenario.build()
    state = scenario.place(2, torch.Generator().manual_seed(0))
    watch = NetworkWatch(simulator)
    with torch.no_grad():
        for _ in range(120):
            before, state = state, simulator.step(state, None, simulator.sample_noise(state, torch.Generator()))
            watch.add(before, state)
    assert watch.finish().violations == {} and watch.finish().steps == 120
    assert int(state.active.sum()) > 20
    return simulator, before, state


def _somebody(before: TrafficState, after: TrafficState) -> int:
    """A slot of the first world whose vehicle was and is there."""
    stays = before.active & after.active & (before.vehicle_id == after.vehicle_id)
    return int(stays[0].nonzero()[0, 0])


def _changed(name: str, value: float, add: bool = True):
    def corrupt(before: TrafficState, after: TrafficState) -> TrafficState:
        field = getattr(after, name).clone()
        slot = _somebody(before, after)
        field[0, slot] = field[0, slot] + value if add else value
        return replace(after, **{name: field})

    return corrupt


def _of_inflow(name: str, value: float):
    def corrupt(_: TrafficState, after: TrafficState) -> TrafficState:
        field = getattr(after, name).clone()
        field[0, 0] += value
        return replace(after, **{name: field})

    return corrupt


@pytest.mark.parametrize(
    "corrupt, expected",
    [
        (_changed("active", False, add=False), "lost"),
        (_changed("driver", 1), "identity"),
        (_changed("vehicle_id", -1000), "identity"),
        (_changed("position", -40.0), "jump"),
        (_changed("speed", -100.0), "negative speed"),
        (_changed("position", math.nan, add=False), "not finite"),
        (_of_inflow("arrivals", -1), "waiting"),
        (_of_inflow("arrivals", 1), "waiting"),
        (_of_inflow("next_arrival", -1e5), "waiting"),
    ],
)
def test_a_planted_defect_on_a_network_is_found(crossing, corrupt, expected) -> None:
    simulator, before, after = crossing
    watch = NetworkWatch(simulator)
    watch.add(before, corrupt(before, after))
    assert expected in watch.finish().violations


def test_two_bodies_at_one_place_are_found(crossing) -> None:
    simulator, before, after = crossing
    a, b = after.active[0].nonzero()[:2, 0].tolist()
    position, lane = after.position.clone(), after.lane.clone()
    position[0, a], lane[0, a] = position[0, b] + 1.0, lane[0, b]
    watch = NetworkWatch(simulator)
    watch.add(before, replace(after, position=position, lane=lane))
    assert watch.finish().violations["touching"] >= 1


def test_whoever_starts_before_a_junction_can_stop_there() -> None:
    scenario = load_scenario("intersection", [
        "initial={kind: spread, speed: 13.0}", "vehicles.human.count=60", "pool_size=4",
    ])  # fmt: skip
    state, network = scenario.place(4, torch.Generator().manual_seed(0)), scenario.build_network()
    left = network.lane_length[state.lane] - state.position
    stopping = state.speed.double() ** 2 / 3.0
    ahead = network.successors[state.lane]
    gated = network.tables(torch.float32, "cpu").junctions.gated[ahead.clamp(min=0)] & (ahead >= 0)
    before_junction = state.active & gated.any(-1)
    assert int(before_junction.sum()) > 40
    assert bool((stopping[before_junction] <= left[before_junction]).all())
    assert float(state.speed[state.active].max()) == pytest.approx(13.0)


def test_a_drivers_record_has_the_parameters_of_the_city() -> None:
    assert Drivers(54 / 3.6, 1.0, 1.0, 1.5) == CITY

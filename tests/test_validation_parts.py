"""The parts of ``trafficgrad validate``: closed forms, the watcher and statistics, each against something else."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import noisy_ring

from trafficgrad.car_following import IDM
from trafficgrad.lane_change import MOBIL, LaneChoice
from trafficgrad.network import ring, straight
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.validation import lane_reference, theory, watch
from trafficgrad.validation.lane_reference import lane_statistics, load_cases, starting_places
from trafficgrad.validation.runs import Run, drive, separate_rings, to_numpy, uniform_traffic
from trafficgrad.validation.theory import FLOW, STABLE, TREIBER_2000, Drivers

BOOK_HIGHWAY, BOOK_CITY = Drivers(120 / 3.6, 1.0, 1.0, 1.5), Drivers(15.0, 1.0, 1.0, 1.5)
KINDS = [FLOW, TREIBER_2000, BOOK_HIGHWAY, BOOK_CITY, STABLE]

# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize(
    "drivers, capacity, speed, density, unstable",
    [
        (TREIBER_2000, 1743, 18.6, 26.1, 22.9),
        (BOOK_HIGHWAY, 2519, 20.1, 34.9, 20.1),
        (BOOK_CITY, 1957, 10.2, 53.5, 8.9),
        (FLOW, 2452, 18.4, 37.1, 18.1),
        (STABLE, 1798, 17.2, 29.1, None),
    ],
)
def test_capacity_and_the_speeds_at_which_platoons_are_unstable(drivers, capacity, speed, density, unstable):
    flow, at = theory.capacity(drivers)
    assert round(flow * 3600) == capacity
    # The tabulated maximum was sought in steps of 0.1 m/s.
    assert at == pytest.approx(speed, abs=0.051) and flow / at * 1000 == pytest.approx(density, abs=0.1)
    assert flow > float(theory.flow(drivers, at + 0.01)) and flow > float(theory.flow(drivers, at - 0.01))
    speeds = np.arange(0.1, drivers.desired_speed - 0.05, 0.02)
    bad = [v for v in speeds if theory.string_stability(theory.partials(drivers, v)) < 0]
    assert bool(bad) == (unstable is not None)
    if bad:  # one stretch of speeds
        assert max(bad) == pytest.approx(unstable, abs=0.06)
        assert len(bad) == round((max(bad) - min(bad)) / 0.02) + 1


@pytest.mark.parametrize(
    "length, speed", [(220, 3.000), (230, 3.454), (240, 3.908), (250, 4.362), (260, 4.816), (270, 5.269)]
)
def test_speed_of_uniform_flow(length, speed):
    found = theory.ring_speed(FLOW, length, 22)
    assert round(found, 3) == speed
    gap = np.array(length / 22 - 5.0)
    parameters = {field.name: np.array(getattr(FLOW, field.name)) for field in dataclasses.fields(FLOW)}
    assert abs(theory.idm_acceleration(np.array(found), gap, np.array(0.0), parameters)) < 1e-12


def test_speed_of_uniform_flow_of_the_stable_drivers():
    assert round(theory.ring_speed(STABLE, 230.0, 22), 3) == 2.303


@pytest.mark.parametrize(
    "length, rate", [(220, 0.0245), (230, 0.0235), (260, 0.0202), (300, 0.0156), (400, 0.0041), (500, -0.0081)]
)
def test_growth_on_a_ring_in_printed_digits(length, rate):
    assert round(float(theory.wave_growth(FLOW, length, 22).max()), 4) == rate


def test_critical_length():
    length = theory.critical_length(FLOW, 22, 400.0, 470.0)
    assert round(length, 1) == 434.1
    assert round(theory.ring_speed(FLOW, length, 22), 2) == 12.51


@pytest.mark.parametrize("v, peak, of_20", [(5, 1.0297, 1.80), (10, 1.0155, 1.36), (15, 1.0051, 1.11), (20, 1.0, 1.0)])
def test_largest_gain_of_a_car(v, peak, of_20):
    gain, frequency = theory.peak_gain(FLOW, v)
    assert round(gain, 4) == peak and round(gain**20, 2) == of_20
    assert (frequency > 0) == (v < 18.1)


@pytest.mark.parametrize("drivers", KINDS)
@pytest.mark.parametrize("v", [0.5, 5.0, 14.0])
def test_partials_are_the_slopes_of_the_acceleration(drivers, v):
    parameters = {field.name: np.array(getattr(drivers, field.name)) for field in dataclasses.fields(drivers)}
    here = np.array([v, theory.equilibrium_gap(drivers, v), 0.0])

    def acceleration(at: np.ndarray) -> float:
        return float(theory.idm_acceleration(*at[:, None], parameters)[0])

    slopes = []
    for step in np.eye(3) * 1e-5:
        slopes.append((acceleration(here + step) - acceleration(here - step)) / 2e-5)
    found = theory.partials(drivers, v)
    assert abs(acceleration(here)) < 1e-12
    assert slopes == pytest.approx([found.speed, found.gap, found.closing], rel=1e-7)


@pytest.mark.parametrize("drivers", KINDS)
@pytest.mark.parametrize("length", [190.0, 300.0, 600.0])
def test_growth_rates_are_eigenvalues_of_the_linearised_ring(drivers, length):
    """d(gap)/dt = v_leader - v and dv/dt = f_s s + f_v v + f_dv (v - v_leader), all cars in one matrix."""
    cars = 14
    f = theory.partials(drivers, theory.ring_speed(drivers, length, cars))
    leader, itself = np.roll(np.eye(cars), 1, axis=1), np.eye(cars)
    matrix = np.block([
        [np.zeros((cars, cars)), leader - itself],
        [f.gap * itself, f.speed * itself + f.closing * (itself - leader)],
    ])  # fmt: skip
    modes = np.linalg.eigvals(matrix)
    rates = theory.wave_growth(drivers, length, cars)
    assert len(rates) == cars // 2
    assert max(abs(modes.real - rate).min() for rate in rates) < 1e-9
    neutral = np.argmin(abs(modes))  # gaps that all grow alike
    assert np.delete(modes, neutral).real.max() == pytest.approx(rates.max(), abs=1e-9)
    assert abs(modes[neutral]) < 1e-9


@pytest.mark.parametrize("v", [5.0, 15.0, 25.0])
def test_transfer_function_is_the_response_of_the_linear_follower(v):
    f = theory.partials(FLOW, v)
    # State (gap, speed), input the leader's speed, output the speed.
    a, b = np.array([[0.0, -1.0], [f.gap, f.speed + f.closing]]), np.array([1.0, -f.closing])
    frequency = np.array([1e-6, 0.1, 0.7, 3.0])
    response = [np.linalg.solve(1j * w * np.eye(2) - a, b)[1] for w in frequency]
    found = theory.transfer(FLOW, v, frequency)
    assert found == pytest.approx(np.array(response), rel=1e-10)
    assert abs(found[0]) == pytest.approx(1.0, abs=1e-9) and abs(found[-1]) < 0.5


@pytest.mark.parametrize("whole, rule", [(False, "sumo"), (True, "paper")])
def test_the_watchers_acceleration_is_the_packages(whole, rule):
    generator = torch.Generator().manual_seed(0)
    speed, gap, closing = torch.rand(3, 500, generator=generator, dtype=torch.float64) * 30
    gap[:5] = torch.tensor([-3.0, 0.0, 1e-4, 1e-3, 2e-3])
    closing -= 15
    ours = IDM(28.0, 1.1, 1.2, 1.7, 2.5, desired_gap=rule).acceleration(speed, gap, closing).numpy()
    values = dataclasses.asdict(Drivers(28.0, 1.1, 1.2, 1.7, 2.5))
    parameters = {name: np.full(500, value) for name, value in values.items()}
    theirs = theory.idm_acceleration(speed.numpy(), gap.numpy(), closing.numpy(), parameters, whole)
    assert theirs == pytest.approx(ours, rel=1e-12)
    other = theory.idm_acceleration(speed.numpy(), gap.numpy(), closing.numpy(), parameters, not whole)
    assert (other != pytest.approx(ours, rel=1e-3)) is True


def test_bisect():
    assert theory.bisect(lambda x: x**3 - 2.0, 0.0, 2.0) == pytest.approx(2 ** (1 / 3), abs=1e-14)


# ---------------------------------------------------------------------- simulations


def test_drive_keeps_the_states_that_a_plain_loop_has():
    run = Run()
    simulator = Simulator(separate_rings([100.0, 150.0]), Fleet(), IDM(20.0))
    start = uniform_traffic(run, [100.0, 150.0], 4, [1.0, 2.0])
    assert start.position.tolist() == [[0.0, 25.0, 50.0, 75.0], [0.0, 37.5, 75.0, 112.5]]
    assert start.speed.tolist() == [[1.0] * 4, [2.0] * 4] and start.lane.tolist() == [[0] * 4, [1] * 4]
    kept = drive(run, simulator, start, 2.0, what="", every=0.5)
    state = start
    for step in range(1, 21):
        state = simulator.step(state)
        if step % 5 == 0:
            assert torch.equal(kept.position[step // 5], state.position)
            assert torch.equal(kept.speed[step // 5], state.speed)
    assert (kept.steps, kept.dt) == (4, 0.5)


def test_growth_of_a_deviation_is_the_slope_of_its_logarithm():
    jam = importlib.import_module("trafficgrad.validation.jam")
    time = np.arange(1201) / 2
    assert jam._growth(3.0 * np.exp(0.021 * time)) == pytest.approx(0.021, rel=1e-9)


def test_figures_of_the_independent_integrator():
    """The references of groups ``jam`` and ``control`` for traffic with noise are what the oracle prints."""
    jam, control = (importlib.import_module(f"trafficgrad.validation.{name}") for name in ("jam", "control"))
    position, speed = noisy_ring.simulate(230.0, 600.0)
    late = speed[800:]
    assert late.mean() == pytest.approx(2.403, abs=5e-4)
    assert late.std(2).mean() == pytest.approx(control.GROWN[230.0], abs=5e-3)
    assert noisy_ring.wave_speed(position[800:], late, 230.0).mean() == pytest.approx(-16.13, abs=5e-3)
    assert noisy_ring.NOISE == jam.NOISE == control.NOISE
    damped = noisy_ring.simulate(230.0, 300.0, lambda time: 1.0)[1][-200:]
    assert damped.std(2).mean() == pytest.approx(control.DAMPED, abs=2e-3)


# ---------------------------------------------------------------------- the watcher

LENGTH, DT = 400.0, 0.1
FOLLOWING = IDM(30.0, 1.0, 1.0, 1.5, 2.0)
CPU = torch.device("cpu")


def world(position: list[float], speed: list[float], lane: list[int]) -> TrafficState:
    return TrafficState(torch.tensor(position).double(), torch.tensor(speed).double(), torch.tensor(lane))


def on_the_ring(**settings) -> Simulator:
    values = {"fleet": Fleet(), "lane_change": MOBIL(cooldown=3.0, safe_deceleration=3.0), **settings}
    return Simulator(ring(LENGTH, lanes=3), car_following=FOLLOWING, dt=DT, **values)


def watched(states: list[TrafficState], simulator: Simulator, fresh=(), steered: bool = True) -> watch.Tally:
    """Tally of consecutive states; an episode begins at the steps ``fresh``."""
    watcher = watch.Watch(simulator, states[0].vehicles, CPU, steered)
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        watcher.add(before, after, torch.tensor([step in fresh]))
    return watcher.finish()


@pytest.fixture(scope="module")
def clean() -> tuple[Simulator, list[TrafficState]]:
    """A run of 14 differing drivers on three lanes that cross the ring's start and change lane."""
    generator = torch.Generator().manual_seed(2)
    wished = 15 + 15 * torch.rand(14, generator=generator, dtype=torch.float64)
    simulator = replace(on_the_ring(), car_following=replace(FOLLOWING, desired_speed=wished))
    place = torch.arange(14, dtype=torch.float64) * LENGTH / 14
    states = [TrafficState(place, torch.full_like(place, 10.0), torch.arange(14) % 3)]
    with torch.no_grad():
        for _ in range(150):
            states.append(simulator.step(states[-1]))
    return simulator, states


def test_a_clean_run_has_no_violation(clean, monkeypatch):
    simulator, states = clean
    tally = watched(states, simulator)
    assert tally.violations == {} and tally.steps == 150
    changed = sum(int((b.lane != a.lane).sum()) for a, b in itertools.pairwise(states))
    assert tally.changes == changed >= 5
    assert bool((states[-1].position < states[0].position).any())  # some crossed the start
    gaps = torch.stack([simulator.neighbors(state).gap[..., 1] for state in states[1:]])
    assert tally.smallest_gap == pytest.approx(float(gaps.min()), abs=1e-9)
    assert -1.0 < tally.hardest_braking <= 3.0
    monkeypatch.setattr(watch, "PAIRS", 7)  # looked at in pieces
    assert watched(states, simulator) == tally


def _put(name: str, slot: int, value: float, add: bool = False):
    def corrupt(state: TrafficState) -> TrafficState:
        field = getattr(state, name).clone()
        field[0, slot] = field[0, slot] + value if add else value
        return replace(state, **{name: field})

    return corrupt


def _into_the_leader(state: TrafficState) -> TrafficState:
    """A vehicle's front, 2 m behind that of a vehicle on its lane."""
    first, second = (state.lane[0] == state.lane[0, 0]).nonzero()[:2, 0].tolist()
    return _put("position", second, float(state.position[0, first]) - 2.0)(state)


def _two_exchange(*names: str):
    def corrupt(state: TrafficState) -> TrafficState:
        order = torch.arange(14)
        order[[3, 8]] = order[[8, 3]]
        return replace(state, **{name: getattr(state, name)[:, order] for name in names})

    return corrupt


@pytest.mark.parametrize(
    "corrupt, expected",
    [
        (_into_the_leader, {"overlap", "jump"}),
        (_two_exchange("vehicle_id"), {"identity"}),
        (_two_exchange("driver"), {"identity"}),
        (_two_exchange("position", "speed", "lane"), {"jump"}),
        (_put("position", 5, 4.0, add=True), {"jump"}),
        (_put("position", 5, math.nan), {"not finite"}),
        (_put("speed", 5, -0.1), {"negative speed"}),
        (_put("active", 5, False), {"lost"}),
    ],
)
def test_a_planted_defect_is_found(clean, corrupt, expected):
    simulator, states = clean
    states = [*states[:40], corrupt(states[40])]  # it is the last, so nothing is put right again
    tally = watched(states, simulator)
    assert expected <= set(tally.violations), tally.violations
    if "overlap" in expected:
        assert tally.smallest_gap < 0


def test_two_vehicles_that_pass_through_each_other():
    """The first leaps over the second, no faster than its speed allows and without an overlap before or after."""
    before = world([100.0, 107.0, 300.0], [150.0, 0.0, 0.0], [0, 0, 0])
    after = world([115.0, 107.0, 300.0], [150.0, 0.0, 0.0], [0, 0, 0])
    assert watched([before, after], on_the_ring()).violations == {"order": 3}
    elsewhere = replace(before, lane=torch.tensor([[1, 0, 0]])), replace(after, lane=torch.tensor([[1, 0, 0]]))
    assert watched(list(elsewhere), on_the_ring()).violations == {}


def test_a_lane_change_excuses_those_whom_it_concerns_and_nobody_else():
    before = world([100.0, 150.0, 200.0, 300.0], [10.0] * 4, [0, 0, 0, 0])
    after = world([101.0, 151.0, 201.0, 301.0], [10.0] * 4, [0, 1, 0, 0])
    assert watched([before, after], on_the_ring()).violations == {}
    before = world([100.0, 150.0, 207.0, 200.0], [10.0, 10.0, 0.0, 150.0], [0, 0, 0, 0])
    after = world([101.0, 151.0, 207.0, 215.0], [10.0, 10.0, 0.0, 150.0], [0, 1, 0, 0])
    assert watched([before, after], on_the_ring()).violations == {"order": 2}


def test_nobody_drives_backwards():
    before, after = world([0.05], [1.0], [0]), world([399.95], [1.0], [0])
    assert watched([before, after], on_the_ring()).violations == {"backwards": 1}
    assert watched([after, before], on_the_ring()).violations == {}


def test_a_change_over_two_lanes():
    before = world([100.0], [10.0], [0])
    for lane, expected in ((1, {}), (2, {"change over two lanes": 1})):
        tally = watched([before, world([101.0], [10.0], [lane])], on_the_ring())
        assert (tally.violations, tally.changes) == (expected, 1)


def changing(at: list[int], steps: int = 80) -> list[TrafficState]:
    """A vehicle that goes to and fro between lanes 0 and 1 in the steps ``at``."""
    lanes = [sum(step > change for change in at) % 2 for step in range(steps)]
    return [world([10.0 + step], [10.0], [lane]) for step, lane in enumerate(lanes)]


@pytest.mark.parametrize("pairs", [7, 200])
@pytest.mark.parametrize(
    "at, fresh, expected",
    [
        ([5, 35], (), {}),
        ([5, 34], (), {"cool-down": 1}),
        ([5, 6, 36, 65], (), {"cool-down": 2}),
        ([5, 20], (10,), {}),  # another episode
        ([5, 20], (20,), {}),
        ([5, 20], (5,), {"cool-down": 1}),
        ([5, 20], (3, 21), {"cool-down": 1}),
    ],
)
def test_a_too_early_lane_change(at, fresh, expected, pairs, monkeypatch):
    monkeypatch.setattr(watch, "PAIRS", pairs)
    tally = watched(changing(at), on_the_ring(), fresh)
    assert (tally.violations, tally.changes) == (expected, len(at))


def test_a_request_has_a_cool_down_of_its_own():
    fleet = Fleet(controlled=[0], control="lane")
    for cooldown, expected in ((1.0, {}), (1.6, {"cool-down": 1})):
        simulator = on_the_ring(fleet=fleet, lane_choice=LaneChoice(cooldown=cooldown))
        assert watched(changing([5, 20]), simulator).violations == expected


def cutting_in(distance: float, speed: float, place: float = 100.0) -> list[TrafficState]:
    """Vehicle 0 changes to the lane of vehicle 1, whose front is ``distance`` behind its own and which drives 20 m/s.

    Vehicle 2 is further behind there, vehicle 3 ahead of both, and vehicle 4 nearest but on the lane that is left.
    """
    behind = [place - distance, place - distance - 80.0, place + 150.0, place - 6.0]
    position = [x % LENGTH for x in (place, *behind)]
    before = world(position, [speed, 20.0, 25.0, 10.0, 0.0], [0, 1, 1, 1, 0])
    after = replace(before, lane=torch.tensor([[1, 1, 1, 1, 0]]))
    return [before, after]


@pytest.mark.parametrize("place", [100.0, 3.0])
@pytest.mark.parametrize("rule", ["sumo", "paper"])
def test_an_unsafe_follower(place, rule):
    following = replace(FOLLOWING, desired_gap=rule)
    simulator = replace(on_the_ring(), car_following=following)
    for distance, speed, safe in ((30.0, 10.0, False), (60.0, 10.0, True), (6.5, 35.0, True)):
        tally = watched(cutting_in(distance, speed, place), simulator)
        gap, closing = torch.tensor(distance - 5.0).double(), torch.tensor(20.0 - speed).double()
        asked = float(following.acceleration(torch.tensor(20.0).double(), gap, closing))
        assert tally.hardest_braking == pytest.approx(-asked, abs=1e-9)
        assert (asked > -3.0) == safe
        assert tally.violations == ({} if safe else {"follower": 1})


def test_whose_limit_counts_for_a_follower():
    """A driver's own limit, and for a vehicle that asks for lanes that of the requests."""
    states = cutting_in(63.0, 10.0)
    braking = watched(states, on_the_ring()).hardest_braking
    assert 2.0 < braking < 3.0
    strict = torch.tensor([2.0, 9.0, 9.0, 9.0, 9.0]).double()
    per_driver = on_the_ring(lane_change=MOBIL(safe_deceleration=strict))
    assert watched(states, per_driver).violations == {"follower": 1}
    reversed_ = [replace(state, driver=state.driver.flip(1)) for state in states]
    assert watched(reversed_, per_driver).violations == {}
    asks = {"fleet": Fleet(controlled=[0], control="lane"), "lane_change": None}
    for limit, expected in ((2.0, {"follower": 1}), (4.0, {})):
        simulator = on_the_ring(lane_choice=LaneChoice(safe_deceleration=limit), **asks)
        assert watched(states, simulator).violations == expected
    assert watched(states, on_the_ring(lane_change=None)).violations == {}  # nobody decides, nothing to judge


def test_followers_parameters_are_per_driver():
    states = cutting_in(63.0, 10.0)
    timid = replace(FOLLOWING, time_headway=torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0]).double())
    tally = watched(states, replace(on_the_ring(), car_following=timid))
    assert tally.violations == {"follower": 1} and tally.hardest_braking > 4.0


def test_a_steered_vehicle_may_cut_in_as_it_likes():
    fleet = Fleet(controlled=[0], control="steered")
    simulator = Simulator(straight(1000.0, lanes=3), fleet, FOLLOWING, None, dt=DT)
    before = world([100.0, 97.0, 300.0], [10.0, 10.0, 10.0], [0, 1, 0])
    after = world([99.0, 98.0, 301.0], [10.0, 10.0, 10.0], [1, 1, 0])  # backwards, and on top of another
    assert watched([before, after], simulator).violations == {}
    assert watched([before, after], simulator).smallest_gap == math.inf
    found = watched([before, after], simulator, steered=False).violations
    assert found == {"overlap": 1, "backwards": 1}
    off = replace(after, lane=torch.tensor([[-1, 1, 0]]), position=after.position + torch.tensor([[50.0, 0.0, 0.0]]))
    assert watched([before, off, off], simulator).violations == {}
    through = world([100.0, 107.0, 300.0], [150.0] * 3, [0, 0, 0]), world([115.0, 107.0, 300.0], [150.0] * 3, [0, 0, 0])
    assert watched(list(through), simulator).violations == {}
    assert watched(list(through), simulator, steered=False).violations == {"order": 2}


# ---------------------------------------------------------------------- lanes


def test_lane_statistics_by_hand():
    speed = np.array([[10.0, 20.0], [12.0, 20.0], [14.0, 26.0]])
    lane = np.array([[0, 1], [1, 1], [1, 0]])
    found = lane_statistics(speed, lane, 15.0, 3)  # two intervals: half a minute
    nothing = found.pop("speed on lane 2")
    assert math.isnan(nothing)
    assert found == pytest.approx({
        "mean speed": 17.0,
        "speed deviation": (5.0 + 4.0 + 6.0) / 3,
        "share of lane 0": 2 / 6,
        "speed on lane 0": 18.0,
        "share of lane 1": 4 / 6,
        "speed on lane 1": 16.5,
        "share of lane 2": 0.0,
        "lane changes": 2.0,  # two changes, half a minute, two vehicles
    })  # fmt: skip


def test_starting_places():
    place, lane = starting_places(5, 2, 90.0)
    assert place.tolist() == [0.0, 15.0, 30.0, 45.0, 60.0] and lane.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("name, vehicles, lanes", [("truck", 36, 2), ("ring", 60, 4)])
def test_the_recording_of_lc2013(name, vehicles, lanes):
    case = load_cases()[name]
    assert set(load_cases()) == {"truck", "ring"}
    assert set(case.drivers) == set(lane_reference.PARAMETERS)
    assert all(values.shape == (10, vehicles) for values in case.drivers.values())
    assert case.usual.sum() == 10 and len(case.usual) == 60
    assert {"mean speed", "speed deviation", "lane changes"} < set(case.runs)
    for statistic, values in case.runs.items():
        low, high = case.band(statistic)
        assert low <= values.min() <= case.reference(statistic) <= values.max() <= high
        margin = 0.05 * case.reference(statistic) if "speed" in statistic and "deviation" not in statistic else 0.0
        assert (values.min() - low, high - values.max()) == pytest.approx((margin, margin), abs=1e-12)
    shares = sum(case.runs[f"share of lane {k}"] for k in range(lanes))
    assert shares == pytest.approx(1.0, abs=3e-4)  # recorded with four decimals
    assert case.drivers["length"][0, 0] == (16.0 if name == "truck" else 5.0)


@pytest.mark.parametrize("name, least", [("truck", 5), ("ring", 1)])
def test_the_bands_are_not_vacuous(name, least):
    """Drivers who never change lane lie outside."""
    lane_changes = importlib.import_module("trafficgrad.validation.lane_changes")
    case = load_cases()[name]
    worlds = lane_changes.simulate_case(Run(quick=True), case, None, 4)
    outside = []
    for statistic in worlds[0]:
        low, high = case.band(statistic)
        mean = np.mean([own[statistic] for own in worlds])
        if statistic not in lane_changes.SHOWN and not low <= mean <= high:
            outside.append(statistic)
    assert len(outside) >= least and "speed deviation" in outside
    assert all(own["lane changes"] == 0.0 for own in worlds)


def test_speeds_on_the_cpu_in_float64():
    assert to_numpy(torch.ones(2, dtype=torch.float32)).dtype == np.float64

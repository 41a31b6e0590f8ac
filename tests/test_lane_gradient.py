"""Straight-through gradients of a lane decision: autograd of the torch step against the scalar formulas."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from oracles.scalar_lane_gradient import LaneAdjoint, lane_adjoint
from oracles.scalar_traffic import Rules, Vehicle, decide, feasible, incentives, step, views
from oracles.worlds import World, action_of, random_actions, random_world, road_of, simulator_of, state_of, table
from torch import Tensor

from trafficgrad.gradients import LaneGradient
from trafficgrad.network import ring, straight
from trafficgrad.state import Action, TrafficState

pytestmark = pytest.mark.usefixtures("each_backend")

TOLERANCE = 1e-9  # relative to the largest entry of a group
MOBIL_TABLES = ("politeness", "threshold", "right_bias")


def close(ours: Tensor, expected: list[float], told: str, tolerance: float = TOLERANCE) -> None:
    want = torch.tensor(expected, dtype=torch.float64)
    error = (ours.reshape(-1) - want).abs().max()
    assert error <= tolerance * max(1.0, float(want.abs().max())), f"{told}: {ours.reshape(-1).tolist()} != {expected}"


def acceleration_cotangents(rules: Rules, position_bar: list[float], speed_bar: list[float]) -> list[float]:
    """Cotangents of the accelerations after the stop rule from those of the new positions and speeds."""
    share = {"ballistic": 0.5, "semi_implicit_euler": 1.0, "explicit_euler": 0.0}[rules.integrator]
    return [rules.dt * v + share * rules.dt**2 * x for x, v in zip(position_bar, speed_bar, strict=True)]


def differentiate(world: World, cotangents: dict[str, list[float]]) -> dict[str, Tensor]:
    """Vector-Jacobian product of one torch step; keys: state fields, MOBIL tables, ``request``."""
    state, action = state_of(world), action_of(world.cars)
    inputs = {name: getattr(state, name).clone().requires_grad_() for name in ("position", "speed", "lateral")}
    tables = {name: table(world, name).requires_grad_() for name in MOBIL_TABLES}
    if action is not None and action.lane is not None:
        inputs["request"] = action.lane.clone().requires_grad_()
        action = Action(action.acceleration, inputs["request"])
    state = replace(state, **{name: inputs[name] for name in ("position", "speed", "lateral")})
    after = simulator_of(world, None, **tables).step(state, action)
    outputs = [getattr(after, name) for name in cotangents]
    weights = [torch.tensor([values], dtype=torch.float64) for values in cotangents.values()]
    inputs |= tables
    gradients = torch.autograd.grad(outputs, list(inputs.values()), weights, allow_unused=True)
    return {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(inputs.items(), gradients, strict=True)}


def adjoints(world: World, a_bar: list[float], y_bar: list[float]) -> list[LaneAdjoint]:
    """The oracle's adjoint of every vehicle."""
    count = range(len(world.cars))
    return [lane_adjoint(world.rules, world.road, world.cars, i, world.time, a_bar, y_bar[i]) for i in count]


def richardson(f: Callable[[float], float], h: float = 1e-3) -> float:
    """Derivative of f at 0 by extrapolated central differences."""
    coarse, fine = (f(h) - f(-h)) / (2 * h), (f(h / 2) - f(-h / 2)) / h
    return (4 * fine - coarse) / 3


def well_separated(world: World) -> bool:
    """No ties, no gap near a kink: finite differences of the incentives are meaningful."""
    at = sorted(c.position for c in world.cars)
    apart = all(b - a > 0.01 for a, b in itertools.pairwise(at))
    sides = [s for i in range(len(world.cars)) for s in views(world.rules, world.road, world.cars, i).values()]
    return apart and all(s.gap > 1.0 and s.follower_gap > 1.0 for s in sides)


def gradient_worlds(seeds: range) -> list[tuple[int, World]]:
    """Random worlds with actions (three in four of them)."""
    worlds = []
    for seed in seeds:
        world = random_world(seed, most_per_lane=6)
        rng = random.Random(seed)
        cars = random_actions(world.cars, rng) if seed % 4 else world.cars
        rules = replace(world.rules, contrast_limits=((-4.0, 1.5), "drivers", None)[seed % 3])
        if any(c.follow_limit for c in cars):  # with both bounds: test_follow_limit_is_not_bounded_by_max_braking
            rules = replace(rules, max_braking=math.inf)
        worlds.append((seed, replace(world, cars=cars, rules=rules)))
    return worlds


def test_membership_and_carrier_reach_lateral() -> None:
    """y_bar(t) = kappa y_bar(t+1) + the membership terms of the accelerations, for every vehicle."""
    seen = Counter[str]()
    for seed, world in gradient_worlds(range(2000, 2150)):
        rng = random.Random(-seed)
        bar = {n: [rng.gauss(0, 1) for _ in world.cars] for n in ("position", "speed", "lateral")}
        a_bar = acceleration_cotangents(world.rules, bar["position"], bar["speed"])
        expected = adjoints(world, a_bar, bar["lateral"])
        ours = differentiate(world, bar)
        close(ours["lateral"], [e.lateral for e in expected], f"seed {seed}, lateral")
        for i, e in enumerate(expected):
            seen[f"{sum(v != 0 for v in e.slope.values())} slopes"] += 1
            seen["stopping"] += world.cars[i].speed == 0
    assert min(seen["0 slopes"], seen["2 slopes"], seen["stopping"]) > 30, seen


def test_incentives_receive_q_bar() -> None:
    """U_bar_k = q_bar pi_k (k - q) / tau reaches threshold, right_bias, politeness and the request."""
    seen = Counter[str]()
    for seed, world in gradient_worlds(range(3000, 3500)):
        rng, cars, count = random.Random(-seed), world.cars, range(len(world.cars))
        y_bar = [rng.gauss(0, 1) for _ in cars]
        incentive = [incentives(world.rules, world.road, cars, i) for i in count]
        if max(abs(u) for each in incentive for u in each.values()) > 1e4:
            continue  # overlaps: the rounding of an incentive of 1e8 is no small part of the temperature
        expected, ours = adjoints(world, [0.0] * len(cars), y_bar), differentiate(world, {"lateral": y_bar})
        threshold, bias, politeness = ([0.0] * len(cars) for _ in range(3))
        for i in count:
            utility = incentive[i]
            polite = incentives(world.rules, world.road, [replace(c, politeness=c.politeness + 1) for c in cars], i)
            for k, u_bar in expected[i].incentive.items():
                if k != 0:
                    threshold[world.drivers[i]] -= u_bar
                    bias[world.drivers[i]] -= k * u_bar
                    politeness[world.drivers[i]] += u_bar * (polite[k] - utility[k])
            existing, allowed = len(utility), len(feasible(world.rules, world.road, cars, i, world.time))
            change = decide(world.rules, world.road, cars, i, world.time)[0] != 0
            role = cars[i].control or "driver"
            seen[f"{role} changing"] += change
            seen[f"{role} with a side closed"] += 1 < allowed < existing
            seen[f"{role} free on both sides"] += allowed == 3
        close(ours["threshold"], threshold, f"seed {seed}, threshold")
        close(ours["right_bias"], bias, f"seed {seed}, right_bias")
        close(ours["politeness"], politeness, f"seed {seed}, politeness")
        if "request" in ours:
            request = [expected[i].request for i in count if cars[i].control is not None]
            close(ours["request"], request, f"seed {seed}, request")
    for role in ("driver", "lane"):
        assert min(v for n, v in seen.items() if n.startswith(role)) >= 3, seen


def test_incentives_pass_q_bar_to_positions_and_speeds() -> None:
    """With only lateral(t+1) weighed, positions and speeds receive sum over i, k of U_bar_ik dU_ik."""
    tested = 0
    for seed, world in gradient_worlds(range(4000, 4400)):
        if world.rules.sides is None or len(world.cars) > 14 or not well_separated(world):
            continue
        rng, cars, count = random.Random(-seed), world.cars, range(len(world.cars))
        y_bar = [rng.gauss(0, 1) for _ in cars]
        weights = [e.incentive for e in adjoints(world, [0.0] * len(cars), y_bar)]
        if not any(len(w) > 1 for w in weights):
            continue
        ours = differentiate(world, {"lateral": y_bar})
        for name in ("position", "speed"):

            def weighed(h: float, j: int, name: str = name, world: World = world, weights: list = weights) -> float:
                moved = list(world.cars)
                moved[j] = replace(moved[j], **{name: getattr(moved[j], name) + h})
                total = 0.0
                for i, weight in enumerate(weights):
                    if len(weight) > 1:
                        utility = incentives(world.rules, world.road, moved, i)
                        total += sum(u_bar * utility[k] for k, u_bar in weight.items())
                return total

            if name == "speed" and any(c.speed < 0.01 for c in cars):
                continue
            expected = [richardson(lambda h, j=j: weighed(h, j)) for j in count]  # type: ignore[misc]
            close(ours[name], expected, f"seed {seed}, {name}", 1e-7)
            tested += 1
    assert tested >= 10, tested


def test_forward_values_do_not_depend_on_the_gradient_mode() -> None:
    for seed, world in gradient_worlds(range(5000, 5080)):
        outcomes: list[TrafficState] = []
        for mode in ("blocked", "straight_through"):
            simulator = simulator_of(world, LaneGradient(mode=mode))
            state = replace(state_of(world), speed=state_of(world).speed.requires_grad_())
            for _ in range(3):
                state = simulator.step(state, action_of(world.cars))
            outcomes.append(state)
        for f in fields(TrafficState):
            ours, other = (getattr(x, f.name) for x in outcomes)
            assert torch.equal(ours, other), f"seed {seed}: {f.name}"
        assert not outcomes[1].lateral.any()


def test_blocked_passes_nothing_through_a_choice() -> None:
    world = gate()
    simulator = simulator_of(world, LaneGradient(mode="blocked"))
    state = state_of(world)
    lateral = state.lateral.requires_grad_()
    action = action_of(world.cars)
    assert action is not None and action.lane is not None
    request = action.lane.requires_grad_()
    after = simulator.step(replace(state, lateral=lateral), action)
    for _ in range(5):
        after = simulator.step(after)
    score = after.position.sum() + after.speed.sum()
    assert after.lane[0, 0] == 1
    if score.requires_grad:
        for gradient in torch.autograd.grad(score, [lateral, request], allow_unused=True):
            assert gradient is None or not gradient.any()


def gate(request: float = 0.8) -> World:
    """Two lanes: a controlled vehicle in the right one behind a slow truck asks for the left one."""
    network = straight(2000.0, lanes=2)
    road = road_of(network)
    right = road.right.index(-1)
    cars = [
        Vehicle(100.0, 20.0, right, control="lane", follow_limit=True, acceleration=0.5, request=request),
        Vehicle(150.0, 10.0, right, length=12.0, desired_speed=10.0),
        Vehicle(60.0, 22.0, road.left[right]),
        Vehicle(40.0, 20.0, right),
    ]
    return World(network, road, Rules(), cars, 0.0, [0, 1, 2, 3])


@pytest.mark.parametrize("request_value", [0.8, 0.4, 0.2, -0.8])
def test_request_is_answered_over_several_steps(request_value: float) -> None:
    """The carrier of step 0 times the membership contrasts of the steps after it, assembled from the oracle by hand."""
    world, horizon = gate(request_value), 4
    states, time = [world.cars], world.time
    for _ in range(horizon):
        cars, time = step(world.rules, world.road, states[-1], time)
        states.append([replace(c, request=0.0) for c in cars])

    state, action = state_of(world), action_of(world.cars)
    assert action is not None and action.lane is not None
    request = action.lane.requires_grad_()
    simulator = simulator_of(world)
    state = simulator.step(state, Action(action.acceleration, request))
    lateral = state.lateral
    for _ in range(1, horizon):
        state = simulator.step(state, Action(action.acceleration, torch.zeros_like(request)))
    assert state.lane.tolist() == [[c.lane for c in states[-1]]]
    # the last speed of the vehicle itself: dv(T)/dy(1), then dy(1)/du by the choice's softmax
    slope_y, slope_u = torch.autograd.grad(state.speed[0, 0], [lateral, request])
    share = lane_adjoint(world.rules, world.road, world.cars, 0, 0.0, [0.0] * 4, float(slope_y[0, 0])).request
    assert float(slope_u[0, 0]) == pytest.approx(share, rel=1e-12)
    assert share != 0
    # the last step alone, from the scalar formulas: only v(T) <- a(T-1) <- y(T-1)
    cars = states[-2]
    only = [world.rules.dt, 0.0, 0.0, 0.0]
    last = lane_adjoint(world.rules, world.road, cars, 0, time - world.rules.dt, only, 0.0)
    before = simulator_of(replace(world, cars=cars))
    here = replace(
        state_of(replace(world, cars=cars)), lateral=torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    )
    (ours,) = torch.autograd.grad(before.step(here, action_of(cars)).speed[0, 0], [here.lateral])
    assert float(ours[0, 0]) == pytest.approx(last.lateral, rel=1e-12)


def test_follow_limit_is_not_bounded_by_max_braking() -> None:
    """``max_braking`` bounds the action before ``follow_limit``, in the step and therefore in the contrasts too."""
    network = straight(500.0, lanes=2)
    road = road_of(network)
    right = road.right.index(-1)
    free = Vehicle(100.0, 15.0, right, control="lane", follow_limit=True, acceleration=0.5, request=0.0)
    cars = [free, Vehicle(115.0, 8.0, road.left[right])]
    world = World(network, road, Rules(max_braking=4.0), cars, 0.0, [0, 1])
    assert views(world.rules, road, cars, 0)[1].own < -10  # what it would do in the left lane
    across = replace(world, cars=[replace(free, lane=road.left[right]), cars[1]])
    braked = simulator_of(across).step(state_of(across), action_of(cars)).speed[0, 0]
    assert float(braked) == step(across.rules, road, across.cars, 0.0)[0][0].speed < 15.0 - 0.1 * 10
    ours = differentiate(world, {"speed": [1.0, 0.0]})["lateral"][0, 0]
    assert float(ours) == pytest.approx((float(braked) - 15.0 - 0.1 * 0.5) / 3.5, rel=1e-9)


@pytest.mark.parametrize(
    "lanes, slopes", [(1, {0: 0.0}), (2, {0: -1 / 3.5, 1: 1 / 3.5}), (3, {-1: -1 / 7, 0: 0.0, 1: 1 / 7})]
)
def test_membership_slopes_by_number_of_lanes(lanes: int, slopes: dict[int, float]) -> None:
    """Both neighbours, one or none: difference slopes, and the torch step agrees."""
    network = ring(300.0, lanes=lanes)
    road = road_of(network)
    lane = road.right.index(-1) if lanes < 3 else road.left[road.right.index(-1)]
    cars = [Vehicle(50.0, 12.0, lane, cooldown=1.0), *[Vehicle(70.0 + 3 * n, 6.0, n) for n in range(lanes)]]
    world = World(network, road, Rules(), cars, 0.0, list(range(len(cars))))
    speed_bar = [1.0] + [0.0] * lanes
    adjoint = adjoints(world, acceleration_cotangents(world.rules, [0.0] * len(cars), speed_bar), [0.0] * len(cars))[0]
    assert adjoint.slope == pytest.approx(slopes)
    seen = views(world.rules, road, cars, 0)
    by_hand = sum(m * 0.1 * max(seen[k].own, -120.0) for k, m in slopes.items())
    assert adjoint.lateral == pytest.approx(by_hand, rel=1e-12)
    ours = differentiate(world, {"speed": speed_bar})["lateral"][0, 0]
    assert float(ours) == pytest.approx(by_hand, rel=1e-12)

"""The paper's pace car: published returns, an independent implementation, failures, the held heading, gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from oracles.scalar_pace_car import PaceCar
from torch import Tensor

from trafficgrad.envs import make_env
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import load_scenario
from trafficgrad.state import Action

CASES = {1: 1, 2: 4, 3: 9, 4: 16, 10: 10}  # lanes: human drivers
NO_LIMIT = ("control.speed_limits=null",)  # as in the published program, where it never acted

# Mean return and length of the first episode of policies that need no training, from an independent reconstruction.
RETURNS = {
    "stand": {1: (47.60, 1000), 2: (33.17, 95), 3: (38.32, 95), 4: (44.16, 95), 10: (13.42, 95)},
    "full throttle": {1: (17.12, 220), 2: (35.52, 222), 3: (51.87, 222), 4: (65.85, 222), 10: (11.29, 222)},
    "cruise": {1: (883.77, 1000), 2: (42.90, 165), 3: (50.70, 165)},
}


def make(lanes: int, overrides: tuple[str, ...] = (), dtype: torch.dtype = torch.float64) -> TrafficEnv:
    env = make_env(load_scenario(f"pace_car_{lanes}lane", overrides), dtype=dtype)
    assert isinstance(env, TrafficEnv)
    return env


def in_lanes(env: TrafficEnv, lanes: int) -> TrafficEnvState:
    """One world for each lane that the pace car can start in, in order."""
    pool = env.reset(64, torch.Generator().manual_seed(0)).traffic
    rows = [int((pool.lane[:, 0] == k).nonzero()[0]) for k in range(lanes)]
    return env.start(pool.index(rows))


def act(name: str, state: TrafficEnvState) -> Tensor:
    speed = state.traffic.speed[:, 0]
    throttle = {
        "stand": torch.zeros_like(speed),
        "full throttle": torch.ones_like(speed),
        "cruise": (2.0 * (10.0 - speed) / 8.0).clamp(-1, 1),
    }[name]
    return torch.stack([throttle, torch.zeros_like(speed)], -1)


@pytest.mark.parametrize("name, lanes", [(name, lanes) for name, row in RETURNS.items() for lanes in row])
def test_returns_of_simple_policies(name: str, lanes: int) -> None:
    """In float32; the same from every lane."""
    env = make(lanes, NO_LIMIT, torch.float32)
    state = in_lanes(env, lanes)
    total, alive = torch.zeros(lanes, dtype=torch.float64), torch.ones(lanes, dtype=torch.bool)
    steps = torch.zeros(lanes)
    with torch.no_grad():
        while alive.any():
            state, transition = env.step(state, act(name, state))
            total += torch.where(alive, transition.reward.double(), 0.0)
            steps += alive
            alive &= ~transition.done
    expected, length = RETURNS[name][lanes]
    assert total.tolist() == pytest.approx([expected] * lanes, abs=0.02)
    assert steps.tolist() == [length] * lanes


@pytest.mark.parametrize("lanes", list(CASES))
def test_equals_an_independent_implementation(lanes: int) -> None:
    """Random driving, step by step: observations, rewards and the moment of failure."""
    env = make(lanes, ("observation={kind: world}",))
    generator = torch.Generator().manual_seed(lanes)
    state = in_lanes(env, lanes)
    oracles = [PaceCar(lanes, CASES[lanes], k) for k in range(lanes)]
    assert state.observation.shape == (lanes, 4 * (CASES[lanes] + 1))
    running, failed, swerve = [True] * lanes, [], torch.zeros(lanes, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(400):
            drift = torch.randn(lanes, 2, generator=generator, dtype=torch.float64)
            swerve = 0.95 * swerve + 0.05 * drift[:, 1]
            # ahead of the queues, swerving over the lanes, back towards the road's direction
            steer = 3.0 * swerve - 1.5 * state.traffic.heading[:, 0]
            action = torch.stack([0.4 * (16.0 - state.traffic.speed[:, 0]) + 0.3 * drift[:, 0], steer], -1)
            state, transition = env.step(state, action)
            for k, oracle in enumerate(oracles):
                if not running[k]:
                    continue
                reward, failure = oracle.step(*action[k].clamp(-1, 1).tolist())
                assert float(transition.reward[k]) == pytest.approx(reward, abs=1e-9)
                assert bool(transition.terminated[k]) == bool(failure)
                if failure:
                    running[k] = False
                    failed.append(failure)
                else:
                    assert transition.final_observation[k].tolist() == pytest.approx(oracle.observation(), abs=1e-7)
            if not any(running):
                break
    assert failed or lanes == 1


def test_the_speed_limiter_brings_the_vehicle_back() -> None:
    """Above 40 m/s the acceleration is at most 40 - v, below -40 at least -40 - v; in between the action counts."""
    env = make(1)
    state = in_lanes(env, 1)
    for speed, throttle, expected in (
        (39.0, 1.0, 8.0), (41.0, 1.0, -1.0), (41.0, -1.0, -8.0), (-41.0, -1.0, 1.0), (-41.0, 1.0, 8.0),
        (44.0, 0.0, -4.0),
    ):  # fmt: skip
        traffic = replace(state.traffic, speed=torch.tensor([[speed, 0.0]], dtype=torch.float64))
        after, _ = env.step(env.start(traffic), torch.tensor([[throttle, 0.0]], dtype=torch.float64))
        assert float(after.traffic.speed[0, 0]) == pytest.approx(speed + 0.03 * expected, abs=1e-12)


def place(env: TrafficEnv, x: float, lateral: float = 0.0, lane: int = 0) -> TrafficEnvState:
    """The pace car's centre ``x`` m ahead of the front-most human driver of lane 0, everybody standing."""
    traffic = in_lanes(env, 2).traffic.index([0])
    front = traffic.position[0, 1:][traffic.lane[0, 1:] == 0].max()
    position = traffic.position.clone()
    position[0, 0] = front + x
    lanes, side = traffic.lane.clone(), traffic.lateral.clone()
    lanes[0, 0], side[0, 0] = lane, lateral
    return env.start(replace(traffic, position=position, lane=lanes, lateral=side))


@pytest.mark.parametrize(
    "x, lateral, fails",
    [
        (50.0, 0.0, False),
        (2.6, 0.0, False),
        (2.4, 0.0, True),
        (99.9, 0.0, False),
        (100.1, 0.0, True),
        (-0.1, 1.9, True),
    ],
)
def test_failures_of_distance(x: float, lateral: float, fails: bool) -> None:
    env = make(2)
    _, transition = env.step(place(env, x, lateral), torch.zeros(1, 2, dtype=torch.float64))
    assert bool(transition.terminated[0]) == fails
    assert (float(transition.reward[0]) == -1.0) == fails


@pytest.mark.parametrize("lateral, fails", [(-1.95, False), (-2.05, True), (2.05, False)])
def test_leaving_the_road_is_a_failure(lateral: float, fails: bool) -> None:
    """To the right of the right lane there is nothing; to its left there is a lane."""
    env = make(2)
    after, transition = env.step(place(env, 50.0, lateral), torch.zeros(1, 2, dtype=torch.float64))
    assert bool(transition.terminated[0]) == fails
    if lateral > 2:
        assert int(after.traffic.lane[0, 0]) == 1
        assert float(after.traffic.lateral[0, 0]) == pytest.approx(lateral - 4.0, abs=1e-12)


def test_failures_are_settings() -> None:
    env = make(2, ("failure.farthest=null", "failure.reward=null"))
    _, transition = env.step(place(env, 100.1), torch.zeros(1, 2, dtype=torch.float64))
    assert not transition.terminated.any()
    _, transition = env.step(place(env, 2.4), torch.zeros(1, 2, dtype=torch.float64))
    assert bool(transition.terminated[0]) and float(transition.reward[0]) > -1.0


def test_the_held_heading_and_speed() -> None:
    """acceleration = 2 (v* - v), steering = 3 (heading* - heading), clipped: two hand-worked steps."""
    env = make(2, ("control.command=heading_and_speed",))
    assert env.action_labels == ("0: desired_speed", "0: desired_heading")
    state = in_lanes(env, 2)
    speed = state.traffic.speed.clone()
    speed[:, 0] = 8.0
    state = env.start(replace(state.traffic, speed=speed))
    # v* = 10 + 10 * 0.1 = 11: a = 6; heading* = 0.9 * 0.1 = 0.09: steering 0.27
    after, _ = env.step(state, torch.tensor([[0.1, 0.1], [1.0, -1.0]], dtype=torch.float64))
    assert after.traffic.speed[:, 0].tolist() == pytest.approx([8.0 + 0.03 * 6.0, 8.0 + 0.03 * 8.0])
    slip = torch.atan(0.5 * torch.tan(torch.tensor([0.27, -0.3490658503988659], dtype=torch.float64)))
    assert after.traffic.heading[:, 0].tolist() == pytest.approx((8.0 * slip.sin() / 2.5 * 0.03).tolist())
    # what a scripted controller wants comes back as the action that does it
    wanted = Action(torch.tensor([[1.5], [-2.0]]).double(), steering=torch.tensor([[0.1], [-0.2]]).double())
    plan = env.encode(wanted, state.traffic)
    moved, _ = env.step(state, plan)
    assert moved.traffic.speed[:, 0].tolist() == pytest.approx([8.0 + 0.045, 8.0 - 0.06])


def test_held_heading_turns_the_vehicle_and_keeps_it_there() -> None:
    env = make(2, ("control.command=heading_and_speed", "failure.off_road=false", "failure.overtaken=false"))
    state = in_lanes(env, 2)
    speed = state.traffic.speed.clone()
    speed[:, 0] = 10.0
    state = env.start(replace(state.traffic, speed=speed))
    with torch.no_grad():
        for _ in range(60):
            state, _ = env.step(state, torch.tensor([[0.0, 0.2]] * 2, dtype=torch.float64))
    assert state.traffic.heading[:, 0].tolist() == pytest.approx([0.18, 0.18], abs=1e-3)
    assert state.traffic.speed[:, 0].tolist() == pytest.approx([10.0, 10.0], abs=1e-6)


@pytest.mark.parametrize("mode", ["blocked", "straight_through"])
def test_what_steering_does_to_the_drivers(mode: str) -> None:
    """Near the boundary of a lane, steering decides who follows: only straight_through knows."""
    env = make(2, (f"lane_gradient.mode={mode}",))
    traffic = in_lanes(env, 2).traffic.index([0])
    speed, lateral = torch.full_like(traffic.speed, 14.0), traffic.lateral.clone()
    speed[0, 0], lateral[0, 0] = 8.0, 1.8  # just right of the boundary between lanes 0 and 1
    position = traffic.position.clone()
    position[0, 0] = position[0, 1:].max() + 12.0
    state = env.start(replace(traffic, speed=speed, lateral=lateral, position=position))
    plan = torch.zeros(8, 1, 2, dtype=torch.float64, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(8):
        state, transition = env.step(state, plan[t])
        assert not transition.terminated.any()
        total = total + transition.reward.sum()
    (gradient,) = torch.autograd.grad(total, plan)
    steering = float(gradient[:, 0, 1].abs().sum())
    assert steering > 1e-3 if mode == "straight_through" else steering < 1e-4


def test_stagger_drives_the_worlds_to_their_places() -> None:
    """Nothing warms this traffic up: a world that is ``elapsed`` steps into its episode has driven that far."""
    env = make(2, ("simulation.horizon_steps=60",))
    begun = env.reset(6, torch.Generator().manual_seed(0))
    state = env.stagger(begun, torch.Generator().manual_seed(0))
    assert len(set(state.elapsed.tolist())) > 3
    driven = begun
    for t in range(1, 60):
        driven, _ = env.step(driven, None)
        here = state.elapsed == t
        assert torch.equal(state.traffic.position[here], driven.traffic.position[here])
        assert torch.equal(state.observation[here], driven.observation[here])
    assert state.traffic.time.tolist() == pytest.approx((0.03 * state.elapsed).tolist())


def test_a_failure_cuts_the_graph() -> None:
    env = make(2)
    plan = torch.zeros(3, 2, 2, dtype=torch.float64, requires_grad=True)
    state, rewards = in_lanes(env, 2), []
    traffic = state.traffic
    position = traffic.position.clone()
    position[0, 0] = position[0, 1:].max() + 99.99  # world 0 leaves the others behind in the first step
    speed = traffic.speed.clone()
    speed[0, 0] = 20.0
    state = replace(env.start(replace(traffic, position=position, speed=speed)), pool=state.pool)
    for t in range(3):
        state, transition = env.step(state, plan[t])
        rewards.append(transition.reward)
        if t == 0:
            assert transition.terminated.tolist() == [True, False]
    (gradient,) = torch.autograd.grad(rewards[2].sum() + rewards[0].sum() + state.observation.sum(), plan)
    assert (gradient[0, 0] == 0).all() and gradient[0, 1].abs().sum() > 0
    assert gradient[1, 0].abs().sum() > 0  # the new episode has a gradient of its own


@pytest.mark.parametrize(
    "overrides, words",
    [
        (("initial.spacing=4.0",), "initial.spacing: expected more than"),
        (("network.length=60.0",), "the queues need"),
        (("failure.overtakn=true",), "did you mean 'overtaken'"),
        (("observation.kind=word",), "did you mean 'world'"),
        (("initial.kind=qeue",), "did you mean 'queue'"),
    ],
)
def test_mistakes_are_one_sentence(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(TrafficGradError, match=words) as caught:
        load_scenario("pace_car_2lane", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (("control.command=heading_and_speed",), "heading_and_speed needs"),
        (("failure.overtaken=true",), "on a closed road nobody is ahead"),
    ],
)
def test_settings_that_do_not_fit_a_ring(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(TrafficGradError, match=words):
        load_scenario("ring_4lane", overrides)

"""The command ``lanes``: which lane is steered for, how, and what passes back."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trafficgrad.agents.controllers import baselines
from trafficgrad.agents.episodes import held_out_env, held_out_traffic, run_episodes
from trafficgrad.envs import TrafficEnv, make_env
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import straight_through_choice
from trafficgrad.observations.distances import FAR
from trafficgrad.observations.lanes import lane_leads
from trafficgrad.scenario_config import load_scenario

LANES = (
    "control.command=lanes",
    "control.speed=[0.0, 30.0]",
    "control.lanes.hysteresis=0.0",
    "control.lanes.inset=0.5",
)
SWEEP = (
    "control.heading_gain=2.8", "control.lanes.lateral_gain=0.38", "control.lanes.inset=1.2",
    "control.lanes.lookahead=0.14", "control.lanes.sweep.speed=18.27", "control.lanes.sweep.lead=8.05",
    "control.lanes.sweep.speed_gain=0.455", "control.lanes.sweep.speed_weight=1.2",
    "control.lanes.sweep.distance_weight=1.06",
)  # fmt: skip


def make(lanes: int, *more: str) -> TrafficEnv:
    env = make_env(load_scenario(f"pace_car_{lanes}lane", (*LANES, *more)), dtype=torch.float64)
    assert isinstance(env, TrafficEnv)
    return env


def start(env, worlds=4):
    return env.reset(worlds, torch.Generator().manual_seed(0))


def told(env, state, rows):
    return env._lanes(rows[:, None], state.traffic)


def test_actions_are_a_speed_and_an_urgency_for_each_lane():
    env = make(3)
    assert env.action_labels == ("0: desired_speed", *(f"0: urgency of lane {k}" for k in range(3)))
    state = start(env)
    rows = torch.zeros(4, 4, dtype=torch.float64)
    for a, speed in ((-1.0, 0.0), (0.0, 15.0), (0.5, 22.5), (7.0, 30.0)):
        rows[:, 0] = a
        assert told(env, state, rows)[0].flatten().tolist() == [speed] * 4


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_the_most_urgent_lane_is_steered_for_at_its_nearer_edge(lane):
    env = make(3)
    state = start(env, 12)
    rows = torch.zeros(12, 4, dtype=torch.float64)
    rows[:, 1 + lane] = 0.4
    beside = told(env, state, rows)[1][:, 0]
    own = 4.0 * state.traffic.lane[:, env.slots[0]] + state.traffic.lateral[:, env.slots[0]]
    assert len(own.unique()) == 3  # the car starts on every lane
    gap = 4.0 * lane - own
    expected = torch.where(gap.abs() > 1.5, torch.sign(gap) * (gap.abs() - 1.5), 0.0)  # 2 m to the edge - inset 0.5 m
    torch.testing.assert_close(beside, expected)


def test_the_car_goes_there_and_stays():
    env = make(4, "failure.overtaken=false", "failure.farthest=null", "vehicles.human.count=0",
               "control.lanes.inset=1.5", "control.lanes.lateral_gain=0.3")  # fmt: skip
    state = start(env, 8)
    rows = torch.tensor([0.0, 0.1, 0.0, 0.5, 0.2], dtype=torch.float64).expand(8, 5)
    for _ in range(300):
        state, transition = env.step(state, rows)
        assert not transition.terminated.any()
    traffic = state.traffic
    assert traffic.lane[:, env.slots[0]].tolist() == [2] * 8
    assert traffic.heading[:, env.slots[0]].abs().max() < 0.05
    torch.testing.assert_close(traffic.speed[:, env.slots[0]], torch.full((8,), 15.0).double(), rtol=0, atol=0.1)


def test_leads_are_those_of_each_lanes_first_driver():
    env = make(3)
    state = start(env)
    lead, speed, aside = lane_leads(state.traffic, env.simulator)
    traffic, slot = state.traffic, env.slots[0]
    for world in range(4):
        own = 4.0 * traffic.lane[world, slot] + traffic.lateral[world, slot]
        for lane in range(3):
            there = [
                i for i in range(traffic.position.shape[1]) if env.human[i] and int(traffic.lane[world, i]) == lane
            ]
            first = max(there, key=lambda i: float(traffic.position[world, i]))
            assert lead[world, 0, lane] == traffic.position[world, slot] - traffic.position[world, first]
            assert speed[world, 0, lane] == traffic.speed[world, first]
            assert aside[world, 0, lane] == 4.0 * lane - own
    empty = make(3, "vehicles.human.count=1", "failure.overtaken=false", "failure.farthest=null")
    lead, speed, _ = lane_leads(start(empty).traffic, empty.simulator)
    assert (lead == FAR).sum() == 8 and (speed >= 0).all()


def test_hysteresis_holds_the_lane_that_is_being_steered_for():
    env = make(3, "control.lanes.hysteresis=5.0")
    state = start(env, 12)
    rows = torch.zeros(12, 4, dtype=torch.float64)
    rows[:, 1] = 0.4  # urgency 4 m: less than staying
    own = state.traffic.lane[:, env.slots[0]]
    assert torch.equal(told(env, state, rows)[1][:, 0] != 0, own == -1)
    rows[:, 1] = 0.6
    assert torch.equal(told(env, state, rows)[1][:, 0] != 0, own != 0)


def test_the_choice_passes_the_slope_of_a_softmax():
    score = torch.tensor([[0.2, 1.0, 0.9], [3.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([0.0, 4.0, 8.0], dtype=torch.float64).expand(2, 3)
    chosen = straight_through_choice(score, value, 0.5)
    assert chosen.tolist() == [4.0, 0.0]
    (slope,) = torch.autograd.grad(chosen.sum(), score)
    p = torch.softmax(score.detach() / 0.5, -1)
    torch.testing.assert_close(slope, p * (value - (p * value).sum(-1, keepdim=True)) / 0.5)


def test_gradients_reach_the_followers_through_the_choice():
    env = make(2)
    state = start(env)
    rows = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(60):
        state, transition = env.step(state, rows)
        total = total + transition.reward.sum()
    (slope,) = torch.autograd.grad(total, rows)
    assert slope.isfinite().all() and (slope[:, 1:] != 0).any()


def test_the_sweep_is_what_action_zero_does_and_holds_four_lanes():
    """Standing still returns 44, the best agent of the paper 137; the sweep's numbers come from a search with noise."""
    scenario = load_scenario("pace_car_4lane", (*LANES, *SWEEP))
    env = held_out_env(scenario)
    table = baselines(env)
    assert list(table) == ["human only", "sweep"]
    episodes = run_episodes(env, table["sweep"], held_out_traffic(env, range(8)))
    assert episodes.measures["length"].median() == 1000 and episodes.measures["return"].median() > 340


def test_another_simulator_of_the_same_vehicles():
    env = make(3)
    other = env.with_simulator(dataclasses.replace(env.simulator, dt=0.01))
    assert other._lanes.simulator is other.simulator and env._lanes.simulator is env.simulator


@pytest.mark.parametrize(
    ("file", "overrides", "text"),
    [
        ("ring_4lane", ("control.command=lanes",), "lanes needs vehicles.controlled.control: steered"),
        ("pace_car_2lane", ("control.command=lanes", "control.lanes.scale=0"), "control.lanes.scale"),
        ("pace_car_2lane", ("control.command=lanes", "control.lanes.sweep.sped=3"), "did you mean 'speed'"),
    ],
)
def test_what_does_not_fit_is_refused(file, overrides, text):
    with pytest.raises(TrafficGradError, match=text):
        load_scenario(file, overrides)


def test_hand_written_controllers_of_steering_are_refused():
    env = make(2)
    from trafficgrad.state import Action

    state = start(env)
    with pytest.raises(TrafficGradError, match="choose another command"):
        env.encode(Action(torch.zeros(4, 1, dtype=torch.float64)), state.traffic)

"""Controllers from the literature against their formulas, controllers by name and by import path, MPC in episodes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import trafficgrad as tg
from trafficgrad.agents.controllers import CONTROLLERS, baselines, find_controller, plan_ahead
from trafficgrad.agents.episodes import held_out_env, held_out_traffic, run_episodes
from trafficgrad.agents.evaluation import load_run
from trafficgrad.control import AdaptiveCruise, CooperativeCruise, FollowerStopper, PISaturation
from trafficgrad.scenario_config import load_scenario

SHORT = [
    "simulation.warmup_steps=50",
    "simulation.horizon_steps=100",
    "scripted.mpc.horizon=3",
    "scripted.mpc.candidates=4",
]


def following(gap: float, speed: float, ahead: float) -> tuple[tg.Simulator, tg.TrafficState]:
    """A controlled vehicle, slot 0, behind another."""
    simulator = tg.Simulator(tg.straight(5000.0), tg.Fleet(controlled=[0]), tg.IDM())
    place = torch.tensor([100.0, 105.0 + gap], dtype=torch.float64)
    return simulator, tg.TrafficState(place, torch.tensor([speed, ahead], dtype=torch.float64), torch.tensor([0, 0]))


def asked(controller: object, state: tg.TrafficState) -> float:
    return float(controller(state).acceleration)


@pytest.mark.parametrize(
    ("gap", "speed", "ahead", "command"),
    [
        (4.0, 5.0, 5.0, 0.0),  # nearer than the first parabola: stop
        (50.0, 5.0, 5.0, 10.0),  # free
        (4.875, 5.0, 4.0, None),  # on the widened parabolas, below
        (5.625, 5.0, 5.0, 5.0 + 5.0 * 0.5),  # half way between going along and going free
        (4.875, 5.0, 6.0, 6.0 * 0.5),  # half way between stopping and going along with a faster leader
    ],
)
def test_follower_stopper_commands_what_its_parabolas_say(gap, speed, ahead, command):
    simulator, state = following(gap, speed, ahead)
    wide = (-100.0, 100.0)
    found = asked(FollowerStopper(simulator, 10.0, bounds=wide), state) + speed
    if command is None:  # 1 m/s slower: the parabolas are 1/3, 1/2 and 1 m farther away
        first = 4.5 + 1.0 / 3.0
        second = 5.25 + 0.5
        command = 4.0 * (gap - first) / (second - first)
    assert found == pytest.approx(command, abs=1e-9)


def test_cruise_controls_are_their_formulas():
    simulator, state = following(30.0, 12.0, 10.0)
    error = 30.0 - 2.0 - 1.1 * 12.0
    assert asked(AdaptiveCruise(simulator, 20.0), state) == pytest.approx(min(0.23 * error - 0.14, 0.4 * 8.0, 2.0))
    near, state = following(12.0, 12.0, 10.0)
    assert asked(AdaptiveCruise(near, 20.0), state) == pytest.approx(0.23 * (10.0 - 13.2) + 0.07 * -2.0)
    error = 10.0 - 0.6 * 12.0
    wide = (-100.0, 100.0)
    expected = (4.5 * error + 2.5 * -2.0) / (1.0 + 2.5 * 0.6)
    assert asked(CooperativeCruise(near, 20.0, bounds=wide), state) == pytest.approx(min(expected, 0.4 * 8.0))


def test_cruise_controls_settle_at_their_time_gap():
    simulator, state = following(40.0, 10.0, 10.0)
    for kind, headway in ((AdaptiveCruise, 1.1), (CooperativeCruise, 0.6)):
        record = simulator.simulate(state, 1500, kind(simulator, 30.0))
        leader = float(record.speed[-1, 0, 1])
        gap = float(record.position[-1, 0, 1] - record.position[-1, 0, 0]) - 5.0
        assert gap == pytest.approx(2.0 + headway * leader, abs=1.0)
        assert float((record.position[..., 1] - record.position[..., 0]).min()) > 5.0


def test_pi_with_saturation_learns_the_speed_of_the_traffic():
    """Behind a wave its own average is the speed that it goes for; a clock set back empties its memory."""
    simulator, state = following(18.5, 10.0, 10.0)
    controller = PISaturation(simulator)
    first = asked(controller, state)
    # Average 10, half way between 7 and 30 m: + 0.5 m/s; trusted fully, so the command is half new, half old.
    assert first == pytest.approx(0.5 * 10.5 + 0.5 * 10.0 - 10.0)
    later = tg.TrafficState(state.position, state.speed - 4.0, state.lane, time=state.time + 1.0)
    assert asked(controller, later) > 0.0  # 8 on average, though it drives 6
    assert asked(controller, state) == pytest.approx(first)


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_every_controller_drives_a_ring(name):
    env = held_out_env(load_scenario("ring_4lane", SHORT))
    episodes = run_episodes(env, find_controller(name, env), held_out_traffic(env, range(2)))
    assert torch.isfinite(episodes.measures["reward"]).all()
    assert float(episodes.measures["collisions"].sum()) == 0.0


def test_mpc_is_the_better_the_more_it_may_do():
    """Even 3 s ahead it is worth more than keeping the lane at the target speed."""
    env = held_out_env(load_scenario("ring_4lane", [*SHORT, "simulation.horizon_steps=300", "scripted.mpc.horizon=8"]))
    traffic = held_out_traffic(env, range(3))
    reward = {
        name: float(run_episodes(env, find_controller(name, env), traffic).measures["reward"].mean())
        for name in ("mpc", "mpc keep lane", "keep lane")
    }
    assert reward["mpc"] > reward["mpc keep lane"] + 0.02 > reward["keep lane"]


def test_plans_earn_what_the_environment_pays():
    """The cost of a plan is the reward of the episode that carries it out, noise aside."""
    overrides = ["vehicles.human.acceleration_noise=0.0", "simulation.warmup_steps=100"]
    env = held_out_env(load_scenario("ring_4lane", overrides))
    controller = plan_ahead(env)
    state = env.start(held_out_traffic(env, range(2)).initial)
    found = controller.planner.plan(state.traffic)
    earned = []
    for k in range(controller.planner.decisions):
        action = controller.planner.limits.action(found.decisions[k], env.simulator)
        state, transition = env.step(state, env.encode(action, state.traffic))
        earned.append(transition.reward)
    torch.testing.assert_close(torch.stack(earned).mean(0), -found.cost, rtol=0, atol=1e-4)


MINE = """
import torch
from trafficgrad import Action

def brake(state):
    return Action(torch.full_like(state.speed[:, :4], -1.0))

class Cruise:
    def __init__(self, simulator):
        self.slots = simulator.fleet.slots
    def __call__(self, state):
        return Action((12.0 - state.speed[:, self.slots]).clamp(-3.0, 2.0))

number = 3
def broken(simulator):
    return None
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_controllers.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_controllers", None)


def test_own_controllers_come_by_their_import_path(mine):
    env = held_out_env(load_scenario("ring_4lane", SHORT))
    traffic = held_out_traffic(env, range(1))
    state = env.start(traffic.initial)
    brake = find_controller("my_controllers:brake", env)(state)
    assert (brake[..., 0] * env.scenario.control.acceleration_scale == -1.0).all()
    own = run_episodes(env, find_controller("my_controllers:Cruise", env), traffic).measures["reward"]
    torch.testing.assert_close(own, run_episodes(env, baselines(env)["keep lane"], traffic).measures["reward"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mcp", "no controller 'mcp' .did you mean 'mpc'"),
        ("my_controllers:number", "expected a callable from TrafficState to Action, got int"),
        ("my_controllers:broken", "what it makes is no callable"),
        ("my_controllers:Cruse", "did you mean 'Cruise'"),
        ("nobodys:Cruise", "there is no module 'nobodys'"),
    ],
)
def test_wrong_names_get_one_sentence(mine, name, message):
    env = held_out_env(load_scenario("ring_4lane", SHORT))
    with pytest.raises(tg.TrafficGradError, match=message):
        find_controller(name, env)


def test_controllers_refuse_where_they_make_no_sense():
    nobody = held_out_env(load_scenario("grid_3x3", ["simulation.warmup_steps=0"]))
    with pytest.raises(tg.TrafficGradError, match=r"no controlled vehicle that takes an acceleration"):
        find_controller("acc", nobody)
    aimless = held_out_env(load_scenario("ring_1lane", ["observation.target_speed=null", "simulation.warmup_steps=0"]))
    with pytest.raises(tg.TrafficGradError, match=r"names no target speed"):
        find_controller("acc", aimless)
    lanes = held_out_env(load_scenario("pace_car_3lane", ["control.command=lanes"]))
    with pytest.raises(tg.TrafficGradError, match=r"choose another control\.command"):
        find_controller("mpc", lanes)


def test_the_command_line_takes_them(mine, command):
    Path("my_controllers.py").write_text(MINE)
    options = [x for setting in SHORT for x in ("--set", setting)]
    code, told, said = command("evaluate", "ring_4lane.yaml", "--seeds", "2", "--controller", "mpc", *options)
    assert code == 0, said
    assert "mpc" in told and "fan out and align" in told
    code, _, said = command("evaluate", "dejong_1", "--controller", "mpc")
    assert code == 2 and "has no traffic" in said


def test_ctrl_c_prints_the_controllers_that_are_through(command, monkeypatch):
    """A controller may plan for minutes: what is done meanwhile is told, and nothing of it lost."""
    module = "def tired(state):\n    raise KeyboardInterrupt\n"
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("late_driver.py").write_text(module)
    sets = [f"--set={text}" for text in SHORT]
    code, out, err = command("evaluate", "ring_1lane.yaml", "--controller=late_driver:tired", "--seeds=2", *sets)
    assert code == 130 and err == "interrupted\n"
    assert "2 held-out traffic seeds" in out and "keep lane" in out and "tired" not in out


def test_episodes_tell_how_far_they_are():
    env = held_out_env(load_scenario("ring_1lane", SHORT))
    told = []
    run_episodes(env, None, held_out_traffic(env, range(2)), progress=told.append)
    assert told == list(range(env.horizon))


@pytest.mark.parametrize("name", ["ring_1lane", "ring_4lane", "pace_car_3lane", "pace_car_10lane"])
def test_controllers_beside_a_policy_that_ships_are_those_of_its_scenario(name):
    """They are no part of what was trained: settings that were found later hold beside older policies too."""
    assert load_run(name).scenario.scripted == load_scenario(name).scripted

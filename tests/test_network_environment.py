"""The environment on networks: vehicles that come and go, signals as actions, rewards, failures, resets, commands."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from trafficgrad import metrics
from trafficgrad.agents.actor_critic import ActorCritic, CriticConfig, PolicyConfig, PolicySpec
from trafficgrad.agents.alpha_policy import clean_gradient
from trafficgrad.agents.controllers import baselines
from trafficgrad.agents.episodes import held_out_env, held_out_traffic, run_episodes
from trafficgrad.agents.losses import approximate_kl, clipped_surrogate_loss, out_of_range_ratio
from trafficgrad.agents.rollout import RolloutSettings, collect, start
from trafficgrad.control import Actuated, FixedTime
from trafficgrad.envs.gym_adapter import TrafficGymEnv
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.failures import failures
from trafficgrad.scenario_config import parse_scenario
from trafficgrad.scenario_sections.task import FailureConfig
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory
from trafficgrad.validation.network_watch import NetworkWatch
from trafficgrad.validation.runs import Run
from trafficgrad.validation.safety import watch_humans, watch_random_actions

EIGHT = """\
kind: traffic
name: eight
network: {kind: figure_eight}
vehicles: {human: {count: 13, acceleration_noise: 0.2}, controlled: {count: 1}}
simulation: {warmup_steps: 10, horizon_steps: 20, decision_steps: 5}
reward: [{kind: mean_speed, scale: 10.0}]
"""
MERGE = """\
kind: traffic
name: merge
network: {kind: merge, pre_merge_length: 150.0, ramp_length: 120.0}
vehicles: {controlled: {count: 4}}
demand: [{from: highway_in, rate: 1500, controlled_share: 0.5}, {from: ramp, rate: 400}]
simulation: {warmup_steps: 60, horizon_steps: 40, decision_steps: 5}
reward: [{kind: delay}, {kind: outflow, scale: 2000.0}, {kind: waiting, scale: 10.0}, {kind: acceleration, scale: 2.0}]
"""
GRID = """\
kind: traffic
name: grid
network: {kind: grid, rows: 1, columns: 2, inner_length: 120.0, end_length: 120.0}
signals: {control: controlled, min_green: 2.0}
control: {signals: switch}
demand: [{from: east_0_0, rate: 600}, {from: north_0_1, rate: 400}]
simulation: {warmup_steps: 60, horizon_steps: 40, decision_steps: 10}
reward: [{kind: delay}, {kind: waiting, scale: 10.0}]
"""
BOTH = GRID.replace(
    "simulation:", "observation: {shared: false}\nvehicles: {controlled: {count: 2}}\nsimulation:"
).replace("rate: 600", "rate: 600, controlled_share: 0.5")
ALL = {"figure_eight": EIGHT, "merge": MERGE, "grid": GRID, "both": BOTH}
POOL = "pool_size: 3\ndriver_rows: 32\n"


def env_of(text: str, *overrides: str, dtype: torch.dtype = torch.float64) -> TrafficEnv:
    return TrafficEnv(parse_scenario(text + POOL, "test.yaml", overrides), dtype=dtype)


def action_of(env: TrafficEnv, worlds: int, seed: int = 0) -> Tensor:
    shape = (worlds, *(() if env.agents is None else (env.agents,)), len(env.action_labels))
    return torch.randn(shape, dtype=env.dtype, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- lane changes


def test_only_the_same_vehicle_on_the_same_edge_changes_lane() -> None:
    """Of five slots: another lane; the next edge; another vehicle; nothing; another lane, and then it stays there."""
    network = parse_scenario(
        "kind: traffic\nname: x\nnetwork: {kind: intersection, left_lanes: 0}\nvehicles: {human: {count: 5}}\n", "x", ()
    ).build_network()
    first = {name: [a for a, e in enumerate(network.edge.tolist()) if e == network.edge_index(name)] for name in
             ("west_in", "south_out")}  # fmt: skip
    west, south = first["west_in"], first["south_out"]
    lanes = torch.tensor(
        [[west[0], west[1], west[0], west[1], west[1]], [west[1], south[0], west[1], west[1], west[0]]]
    )
    ids = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 9, 3, 4]])
    zero = torch.zeros(1, 5)
    states = [TrafficState(zero, zero, lanes[i : i + 1], vehicle_id=ids[i : i + 1]) for i in (0, 1, 1)]
    assert metrics.changed_lanes(states[0], states[1], network).tolist() == [[True, False, False, False, True]]
    assert metrics.lane_changes(Trajectory.of(states, None, 0.1), network).tolist() == [2]


def test_lane_changes_are_counted_per_vehicle_present() -> None:
    env = held_out_env(parse_scenario(MERGE + POOL, "x", ()))
    episodes = run_episodes(env, None, held_out_traffic(env, range(2)), record=True)
    assert episodes.trajectory is not None
    states = episodes.trajectory
    minutes = 4.0 / 60.0
    end = states.active[5::5].sum(-1).double().mean(0)  # vehicles at the decisions' ends
    changes = metrics.lane_changes(states, env.simulator.network)
    assert episodes.measures["vehicles"].tolist() == pytest.approx(end.tolist())
    assert episodes.measures["lane_changes"].tolist() == pytest.approx((changes / minutes / end).tolist())
    assert episodes.measures["flow"].tolist() == pytest.approx(
        ((states.left[-1] - states.left[0]) / minutes * 60).tolist()
    )


# ---------------------------------------------------------------------- resets


def test_a_reset_world_meets_other_vehicles_each_time_it_takes_a_row_of_the_pool() -> None:
    env = env_of(MERGE, "pool_size=1", "simulation.horizon_steps=200")
    state = env.reset(3, torch.Generator().manual_seed(0))
    seeds = [state.traffic.seed]
    assert len(set(seeds[0].tolist())) == 3, "worlds that share a row of the pool part at once"
    for _ in range(2):
        state = replace(state, elapsed=torch.full_like(state.elapsed, env.horizon - 1))
        state, transition = env.step(state, None)
        assert bool(transition.truncated.all())
        assert torch.equal(state.traffic.position[0], state.pool.traffic.position[0])
        seeds.append(state.traffic.seed)
    assert len(set(torch.cat(seeds).tolist())) == 9
    for _ in range(30):
        state, _ = env.step(state, None)
    assert len(set(state.traffic.next_arrival[:, 0].tolist())) == 3


def test_without_demand_seeds_stay_as_they_are() -> None:
    env = env_of(EIGHT)
    state = replace(env.reset(2, torch.Generator().manual_seed(0)), elapsed=torch.full((2,), env.horizon - 1))
    before = state.traffic.seed
    state, _ = env.step(state, None)
    assert torch.equal(state.traffic.seed, before)


def test_stagger_drives_where_the_demand_has_a_time() -> None:
    generator = torch.Generator().manual_seed(1)
    fixed = env_of(MERGE)
    state = fixed.stagger(fixed.reset(6, torch.Generator().manual_seed(0)), generator)
    assert torch.allclose(state.traffic.time, torch.full((6,), 6.0).double()) and len(set(state.elapsed.tolist())) > 2
    timed = env_of(MERGE, "demand.1={from: ramp, kind: schedule, times: [1.0, 7.0, 9.0]}")
    state = timed.stagger(timed.reset(6, torch.Generator().manual_seed(0)), generator)
    assert torch.allclose(state.traffic.time, 6.0 + 0.5 * state.elapsed.double())


# ---------------------------------------------------------------------- empty slots


def test_actions_of_empty_slots_do_nothing_and_have_no_gradient() -> None:
    env = env_of(MERGE)
    state = env.reset(3, torch.Generator().manual_seed(0))
    present = env.present(state)
    assert present is not None and bool(present.any()) and not bool(present.all())
    action = action_of(env, 3).requires_grad_()
    after, transition = env.step(state, action)
    total = transition.reward.sum() + after.traffic.position.sum()
    (gradient,) = torch.autograd.grad(total, action)
    assert bool((gradient[~present] == 0).all()) and bool((gradient[present] != 0).any())
    other = torch.where(present[..., None], action.detach(), 5.0)
    again, repeated = env.step(state, other)
    assert torch.equal(again.traffic.position, after.traffic.position)
    assert torch.equal(repeated.reward, transition.reward)


def test_who_comes_during_a_decision_does_not_take_the_action_of_who_left() -> None:
    """The slot's vehicle is exchanged after the first of the decision's steps: the newcomer keeps its speed."""
    env = env_of(EIGHT, "vehicles.controlled.follow_limit=false", "vehicles.human.count=0", "simulation.warmup_steps=0")
    traffic = replace(env.reset(1, torch.Generator().manual_seed(0)).traffic, speed=torch.full((1, 1), 5.0).double())
    step, calls = env.simulator.step, []

    class Exchanging:
        """The simulator, with another vehicle in the slot after the first step."""

        def __getattr__(self, name: str) -> object:
            return getattr(env_simulator, name)

        def hold(self, *args: object) -> None:
            """Step by step."""

        def step(self, *args: object) -> TrafficState:
            after = step(*args)  # type: ignore[arg-type]
            calls.append(args[1])
            return replace(after, vehicle_id=after.vehicle_id + 7) if len(calls) == 1 else after

    env_simulator = env.simulator
    env.simulator = Exchanging()  # type: ignore[assignment]
    env.step(env.start(traffic), torch.ones(1, 1, 1, dtype=torch.float64))
    assert [float(call.acceleration) for call in calls] == [2.0, 0.0, 0.0, 0.0, 0.0]  # type: ignore[attr-defined]


def test_masked_losses_are_those_of_the_present_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    exponent, advantage = torch.randn(2, 50, 3, dtype=torch.float64, generator=generator).unbind(0)
    exponent = 0.3 * exponent
    present = torch.rand(50, 3, generator=generator) < 0.6
    for loss in (
        lambda x, p: approximate_kl(x, p),
        lambda x, p: out_of_range_ratio(x, 0.2, p),
    ):
        assert float(loss(exponent, present)) == pytest.approx(float(loss(exponent[present], None)))
        assert torch.equal(loss(exponent, torch.ones_like(present)), loss(exponent, None))
    masked = clipped_surrogate_loss(exponent, advantage, 0.2, present)
    assert float(masked) == pytest.approx(float(clipped_surrogate_loss(exponent[present], advantage[present], 0.2)))
    gradient = torch.randn(50, 3, 2, generator=generator) * present[..., None]
    actor = SimpleNamespace(spec=SimpleNamespace(action_size=2, frozen=()))
    clean, chosen = (
        clean_gradient(SimpleNamespace(action_gradient=x, present=p), 0.9, actor)  # type: ignore[arg-type]
        for x, p in ((gradient, present), (gradient[present][:, None], None))
    )
    assert torch.allclose(clean.gradient[present], chosen.gradient[:, 0])
    assert float(clean.mean_square) == pytest.approx(float(chosen.mean_square))


def test_a_rollout_stores_who_was_there() -> None:
    env = env_of(MERGE, dtype=torch.float32)
    spec = PolicySpec(len(env.observation_labels), len(env.action_labels), env.agents, (), PolicyConfig())
    networks = ActorCritic(spec, CriticConfig(), torch.Generator().manual_seed(0))
    carry = start(env.reset(2, torch.Generator().manual_seed(0)))
    settings = RolloutSettings(4, 0.99, 0.95)
    _, rollout = collect(env, carry, networks, settings, torch.Generator().manual_seed(1), gradient=True)
    assert rollout.present is not None and rollout.present.shape == rollout.log_prob.shape
    assert torch.equal(rollout.present, rollout.raw_observation[..., 0] == 1.0)  # "there is a vehicle"
    assert bool((rollout.log_prob[~rollout.present] == 0).all())
    assert rollout.action_gradient is not None and bool((rollout.action_gradient[~rollout.present] == 0).all())
    assert len(rollout.of_present(rollout.raw_observation)) == int(rollout.present.sum())
    closed = env_of(EIGHT)
    assert closed.present(closed.reset(1, torch.Generator().manual_seed(0))) is None


# ---------------------------------------------------------------------- rewards and failures


def test_rewards_by_hand() -> None:
    env = env_of(MERGE, "vehicles.human.desired_speed=20.0", "simulation.decision_steps=1")
    state = env.reset(1, torch.Generator().manual_seed(2)).traffic
    function = {name: f for name, (_, f) in env._judge.rewards.items()}
    count = state.vehicles
    after = TrafficState(
        torch.linspace(0.0, 140.0, count).double()[None],
        torch.tensor([[10.0, 0.5, 0.0] + [33.0] * (count - 3)]).double(),
        torch.zeros(1, count, dtype=torch.int64),
        active=torch.arange(count)[None] < 3,
        driver=torch.full((1, count), 20),  # a human driver, desired speed 20 m/s
        left=torch.tensor([7]),
        arrivals=torch.tensor([[5, 4]]),
        inserted=torch.tensor([[3, 4]]),
        next_arrival=torch.full((1, 2), 9.0).double(),
    )
    before = replace(after, left=torch.tensor([6]))
    around = env.simulator.neighbors(after)
    action = Action(torch.tensor([[1.0, 3.0, 5.0, 7.0]]).double())

    def earned(name: str) -> float:
        return float(function[name](before, action, after, around, env.simulator))

    assert earned("delay") == pytest.approx(-(0.5 + 0.975 + 1.0) / 3)
    assert earned("outflow") == pytest.approx(1 / 0.1 * 3600 / 2000.0)
    assert earned("waiting") == pytest.approx(-(2 + 2) / 10.0)
    there = before.active[0, env.slots]
    assert there.tolist() == [True, True, True, False]
    assert earned("acceleration") == pytest.approx(-(0.25 + 2.25 + 6.25) / 3)


def test_failures_of_centres_mean_vehicles_of_the_same_road_and_bodies_may_touch_in_the_plane() -> None:
    """Two vehicles in the middle of the crossing, one on each way: their bodies cover the same place."""
    env = env_of(EIGHT, "vehicles.human.count=1", "network.radius=40.0")
    network = env.simulator.network
    ways = network.is_junction.nonzero()[:, 0].tolist()
    middle = [float(network.lane_length[a]) / 2 + 2.5 for a in ways]
    state = TrafficState(torch.tensor([middle]).double(), torch.zeros(1, 2).double(), torch.tensor([ways]))
    around = env.simulator.neighbors(state)

    def tested(**settings: object) -> tuple[bool, bool]:
        found = failures(state, metrics.overlaps(around).any(-1), env.simulator, FailureConfig(**settings))  # type: ignore[arg-type]
        return bool(found.failed), bool(found.collided)

    assert tested() == (False, False)
    assert tested(touching=True) == (True, True)
    apart = replace(state, position=torch.tensor([[middle[0], 0.0]]).double())
    assert not bool(
        failures(apart, metrics.overlaps(around).any(-1), env.simulator, FailureConfig(touching=True)).failed
    )
    crossing = env_of(GRID.replace("signals: switch", "signals: none").replace(
        "simulation:", "vehicles: {controlled: {count: 1}, human: {count: 1}}\nsimulation:"))  # fmt: skip
    roads = crossing.simulator.network
    lanes = [roads.edge.tolist().index(roads.edge_index(name)) for name in ("east_0_0", "north_0_1")]
    count = crossing.scenario.total
    lane = torch.full((1, count), lanes[1])
    lane[0, 0] = lanes[0]
    place = torch.zeros(1, count).double()
    place[0, 1] = 1.0
    other = TrafficState(place, torch.zeros_like(place), lane, active=torch.arange(count)[None] < 2)
    other = crossing.simulator.signals.start(other)  # type: ignore[union-attr]
    seen = crossing.simulator.neighbors(other)
    config = FailureConfig(centre_distance=50.0, overtaken=True, farthest=20.0)
    assert not bool(failures(other, metrics.overlaps(seen).any(-1), crossing.simulator, config).failed)
    same = replace(other, lane=torch.full_like(lane, lanes[0]))
    assert bool(failures(same, metrics.overlaps(seen).any(-1), crossing.simulator, config).failed)


# ---------------------------------------------------------------------- signals


def test_an_action_above_zero_asks_every_controlled_signal_for_its_next_phase() -> None:
    env = env_of(GRID, "simulation.warmup_steps=0")
    state = env.reset(1, torch.Generator().manual_seed(0))
    ask = torch.tensor([[[1.0], [-1.0]]]).double()
    phases = []
    for _ in range(4):
        state, _ = env.step(state, ask)
        phases.append(state.traffic.phase[0].tolist())
    assert [second for _, second in phases] == [0, 0, 0, 0]
    assert [first for first, _ in phases][:2] == [0, 1], "green lasts for its shortest, 2 s, and then becomes yellow"


def test_fixed_time_follows_the_networks_programme() -> None:
    """Decisions of a single step: phases are those of the clock, less than two steps late."""
    env = env_of(GRID, "simulation.decision_steps=1", "simulation.warmup_steps=0", "network.green=5.0")
    clock = env_of(GRID.replace("control: {signals: switch}", "").replace("controlled, ", "fixed, ").replace(
        "demand", "vehicles: {controlled: {count: 1, present: false}}\ndemand"),
        "simulation.decision_steps=1", "simulation.warmup_steps=0", "network.green=5.0")  # fmt: skip
    ours, theirs = env.reset(1, torch.Generator().manual_seed(0)), clock.reset(1, torch.Generator().manual_seed(0))
    controller = FixedTime(env.simulator)
    same = []
    for _ in range(300):
        ours, _ = env.step(ours, env.encode(controller(ours.traffic), ours.traffic))
        theirs, _ = clock.step(theirs, None)
        if int(ours.elapsed) == 0:
            break
        same.append(bool((ours.traffic.phase == theirs.traffic.phase).all()))
    assert np.mean(same) > 0.9


def test_actuated_stays_green_while_somebody_comes() -> None:
    env = env_of(GRID, "simulation.warmup_steps=0")
    state = env.reset(1, torch.Generator().manual_seed(0)).traffic
    empty = replace(state, active=torch.zeros_like(state.active))
    assert Actuated(env.simulator)(empty).signal.tolist() == [[1.0, 1.0]]  # type: ignore[union-attr]
    network = env.simulator.network
    e = network.edge_index("east_0_0")
    lane = network.edge.tolist().index(e)
    signals = env.simulator.signals
    assert signals is not None
    comes = torch.zeros_like(state.position)
    comes[0, 0] = float(network.lane_length[lane]) - 2.0
    active = torch.arange(state.vehicles)[None] == 0
    way = torch.where(network.routes[:, 0] == e)[0][0]
    waits = replace(state, position=comes, active=active, lane=torch.full_like(state.lane, lane),
                    route=torch.full_like(state.route, int(way)))  # fmt: skip
    for phase in range(3):
        shown = replace(waits, phase=torch.full_like(waits.phase, phase))
        gate = int(env.simulator.neighbors(shown).ahead.gate[0, 0, 0])  # type: ignore[union-attr]
        j = network.tables(torch.float64, "cpu").junctions
        letter = network.signals[int(j.signal[gate])].states[phase][int(j.signal_index[gate])]
        asked = Actuated(env.simulator)(shown).signal
        assert asked is not None and float(asked[0, int(j.signal[gate])]) == (-1.0 if letter in "gG" else 1.0)


def test_baselines_of_signals_and_of_vehicles() -> None:
    assert list(baselines(env_of(GRID))) == ["fixed time", "actuated"]
    assert list(baselines(env_of(MERGE))) == ["human only"]
    assert list(baselines(env_of(EIGHT))) == ["human only"]
    env = held_out_env(parse_scenario(GRID + POOL, "x", ()))
    episodes = run_episodes(env, baselines(env)["fixed time"], held_out_traffic(env, range(2)))
    assert {"flow", "travel_speed", "waiting_outside", "standing"} <= set(episodes.measures)


def test_a_joint_policy_drives_vehicles_and_switches_signals() -> None:
    env = env_of(BOTH)
    assert env.agents is None and env.action_labels[-1] == "signal signal_0_1: next phase"
    assert len(env.action_labels) == 2 + 2
    state = env.reset(2, torch.Generator().manual_seed(0))
    assert state.observation.shape == (2, len(env.observation_labels))
    action = Action(torch.tensor([[1.0, 2.0]] * 2).double(), signal=torch.tensor([[-1.0, 1.0]] * 2).double())
    assert env.encode(action, state.traffic).tolist() == [[0.5, 1.0, -1.0, 1.0]] * 2
    phases = state.traffic.phase
    for _ in range(3):
        state, _ = env.step(state, env.encode(action, state.traffic))
    assert bool((state.traffic.phase[:, 1] != phases[:, 1]).all())
    assert torch.equal(state.traffic.phase[:, 0], phases[:, 0])


def test_gymnasium_environment_of_signals(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(BOTH + POOL)
    world = TrafficGymEnv(str(file))
    first, _ = world.reset(seed=0)
    assert first.shape == world.observation_space.shape and world.action_space.shape == (4,)
    seen, reward, *_ = world.step(np.array([1.0, 0.0, 1.0, -1.0], np.float32))
    assert seen.shape == first.shape and np.isfinite(reward)


# ---------------------------------------------------------------------- purity, safety, commands


@pytest.mark.parametrize("name", ALL)
def test_a_world_does_not_depend_on_the_others(name: str) -> None:
    env = env_of(ALL[name])
    state = env.reset(3, torch.Generator().manual_seed(0))
    action = action_of(env, 3)
    noise = env.sample_noise(3, torch.Generator().manual_seed(1))
    together, alone = state, env.start(state.traffic.index([2]))
    for _ in range(3):
        together, _ = env.step(together, action, noise)
        alone, _ = env.step(alone, action[2:3], noise[:, 2:3])
    for field in dataclasses.fields(TrafficState):
        assert torch.equal(getattr(together.traffic, field.name)[2], getattr(alone.traffic, field.name)[0]), field.name
    assert torch.allclose(together.observation[2], alone.observation[0])


def test_safety_on_networks_counts_bodies_that_touch_and_vehicles_that_are_lost() -> None:
    scenario = parse_scenario(MERGE + POOL, "x", ())
    for watch in (watch_humans, watch_random_actions):
        tally = watch(Run(quick=True), scenario, 150, 2)
        assert tally.steps == 150 and tally.violations == {}
    env = env_of(MERGE)
    state = env.reset(1, torch.Generator().manual_seed(0)).traffic
    n = [int(i) for i in state.active[0].nonzero()[:2, 0]]
    lost = state.active.clone()
    lost[0, n[0]] = False
    watched = NetworkWatch(env.simulator)
    watched.add(state, replace(state, active=lost))
    assert watched.finish().violations == {"lost": 1}
    onto = state.position.clone()
    onto[0, n[0]] = onto[0, n[1]] + 1.0
    lane = state.lane.clone()
    lane[0, n[0]] = lane[0, n[1]]
    watched = NetworkWatch(env.simulator)
    watched.add(state, replace(state, position=onto, lane=lane))
    assert watched.finish().violations["touching"] == 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("agent", ["ppo", "gippo"])
def test_training_and_evaluating(command, tmp_path: Path, monkeypatch, name: str, agent: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text(ALL[name] + POOL)
    sizes = ["worlds=2", "window=4", "decisions=16", "evaluation.worlds=1", "threads=1"]
    code, _, err = command(
        "train", "file.yaml", f"--agent={agent}", "--output=run", *(f"--set=training.{x}" for x in sizes)
    )
    assert code == 0, err
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 3
    code, out, err = command("evaluate", "run", "--seeds=1")
    assert code == 0 and "policy" in out, err
    code, _, err = command("render", "run", "--seconds=1", "--out=still.png")
    assert code == 0 and Path("still.png").is_file(), err


@pytest.mark.parametrize("name", ALL)
def test_simulating_and_checking_gradients(command, tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text(ALL[name] + POOL)
    code, out, err = command("simulate", "file.yaml", "--seeds=1")
    assert code == 0 and ("fixed time" if name == "grid" else "human only") in out, err
    code, out, err = command("evaluate", "file.yaml", "--seeds=1")
    assert code == 0 and "no policy was asked for" in out, err
    code, out, err = command("gradcheck", "file.yaml", "--windows=2", "--steps=2", "--pairs=4", "--samples=2")
    assert code == 0 and "Verdict" in out, err

"""The traffic environment: shapes, purity, autoreset, held actions and their gradients, gymnasium."""

from __future__ import annotations

import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pygame
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from trafficgrad import tree
from trafficgrad.agents.controllers import baselines
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.control import FanOutAndAlign
from trafficgrad.envs import make_env
from trafficgrad.envs.gym_adapter import TrafficGymEnv
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.observations import local_labels
from trafficgrad.scenario_config import load_scenario
from trafficgrad.state import Action, TrafficState

QUICK = ["simulation.warmup_steps=20", "pool_size=8"]


@pytest.fixture(scope="module")
def env() -> TrafficEnv:
    return TrafficEnv(load_scenario("ring_4lane", QUICK), dtype=torch.float64)


def test_shapes_labels_and_reward(env: TrafficEnv) -> None:
    state = env.reset(3, torch.Generator().manual_seed(0))
    state, transition = env.step(state, torch.zeros(3, 4, 2, dtype=torch.float64))
    assert state.observation.shape == (3, 4, len(env.observation_labels)) == (3, 4, 33)
    assert env.action_labels == ("acceleration", "lane_request")
    assert len(set(env.observation_labels)) == 33
    human = state.traffic.speed[:, env.human]
    assert transition.terms["speed_error"].tolist() == pytest.approx((human - 12.0).abs().mean(1).tolist())
    assert bool(((transition.reward > 0) & (transition.reward < 1)).all())


def test_standing_is_the_share_of_human_drivers_below_one_metre_per_second(env: TrafficEnv) -> None:
    """Who starts from standstill reaches at most 1.6 m/s2 * 0.5 s = 0.8 m/s within the decision."""
    n = env.scenario.total
    position = (7.0 * torch.arange(n, dtype=torch.float64))[None]
    lane = torch.arange(n)[None] % 4
    speed = torch.zeros(1, n, dtype=torch.float64)
    speed[0, 50:] = 8.0  # ten human drivers who are under way
    _, transition = env.step(env.start(TrafficState(position, speed, lane)), None)
    assert transition.terms["standing"].tolist() == pytest.approx([(56 - 10) / 56])


def test_reward_is_the_mean_over_simulator_steps(env: TrafficEnv) -> None:
    state = env.reset(2, torch.Generator().manual_seed(0))
    traffic, rewards = state.traffic, []
    _, transition = env.step(state, None)
    for _ in range(5):
        traffic = env.simulator.step(traffic)
        missed = (traffic.speed[:, env.human] - 12.0).abs().mean(1) / 12.0
        rewards.append(1.0 - missed.clamp(max=1.0))
    assert torch.allclose(transition.reward, torch.stack(rewards).mean(0), rtol=1e-12)


def test_step_is_pure_and_leaves_the_global_generator_alone(env: TrafficEnv) -> None:
    state = env.reset(2, torch.Generator().manual_seed(0))
    tensors = [x for x in torch.utils._pytree.tree_leaves(state) if isinstance(x, torch.Tensor)]
    versions, copies = [x._version for x in tensors], [x.clone() for x in tensors]
    seed = torch.random.get_rng_state()
    noise = env.sample_noise(2, torch.Generator().manual_seed(1))
    first = env.step(state, torch.full((2, 4, 2), 0.4, dtype=torch.float64), noise)
    second = env.step(state, torch.full((2, 4, 2), 0.4, dtype=torch.float64), noise)
    assert [x._version for x in tensors] == versions
    assert all(torch.equal(x, y) for x, y in zip(tensors, copies, strict=True))
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert torch.equal(first[0].traffic.position, second[0].traffic.position)


def test_a_world_does_not_depend_on_the_others(env: TrafficEnv) -> None:
    state = env.reset(4, torch.Generator().manual_seed(0))
    action = torch.randn(4, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    noise = env.sample_noise(4, torch.Generator().manual_seed(1))
    together, alone = state, env.start(state.traffic.index([2]))
    for _ in range(6):
        together, _ = env.step(together, action, noise)
        alone, _ = env.step(alone, action[2:3], noise[:, 2:3])
    assert torch.equal(together.traffic.position[2], alone.traffic.position[0])
    assert torch.equal(together.observation[2], alone.observation[0])


def test_autoreset_takes_the_next_state_of_the_pool_and_cuts_the_graph(env: TrafficEnv) -> None:
    state = env.reset(2, torch.Generator().manual_seed(0))
    state = replace(state, elapsed=torch.tensor([env.horizon - 1, 0]))
    action = torch.zeros(2, 4, 2, dtype=torch.float64, requires_grad=True)
    after, transition = env.step(state, action)
    assert transition.truncated.tolist() == [True, False]
    assert after.elapsed.tolist() == [0, 1]
    assert torch.equal(after.traffic.position[0], state.pool.traffic.position[2])
    assert not torch.equal(transition.final_observation[0], transition.observation[0])
    later, _ = env.step(after, action.detach())
    (gradient,) = torch.autograd.grad(later.traffic.speed.sum(1)[0] + 0 * action.sum(), action, retain_graph=True)
    assert float(gradient.abs().max()) == 0.0
    (gradient,) = torch.autograd.grad(later.traffic.speed.sum(1)[1], action)
    assert float(gradient[1].abs().max()) > 0.0


def test_stagger_spreads_the_episodes(env: TrafficEnv) -> None:
    state = env.stagger(env.reset(8, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0))
    assert len(set(state.elapsed.tolist())) > 4
    assert int(state.elapsed.min()) >= 0 and int(state.elapsed.max()) < env.horizon


def two_lane_state(env: TrafficEnv, blocked: bool) -> TrafficState:
    """All vehicles but the first far away in lane 3; with ``blocked`` one stands right beside the first."""
    n = env.scenario.total
    position = torch.linspace(100.0, 560.0, n, dtype=torch.float64)[None].clone()
    lane = torch.full((1, n), 3)
    position[0, 0], lane[0, 0] = 50.0, 0
    if blocked:
        position[0, 5], lane[0, 5] = 51.0, 1
    return TrafficState(position, torch.full((1, n), 8.0, dtype=torch.float64), lane)


def test_lane_request_is_offered_until_granted_and_then_dropped(env: TrafficEnv) -> None:
    state = env.start(two_lane_state(env, blocked=False))
    ask = torch.zeros(1, 4, 2, dtype=torch.float64)
    ask[0, 0, 1] = 0.5
    state, _ = env.step(state, ask)
    assert int(state.traffic.lane[0, 0]) == 1
    assert float(state.traffic.cooldown[0, 0]) == pytest.approx(3.0 - 4 * 0.1)
    state, _ = env.step(state, ask)
    assert int(state.traffic.lane[0, 0]) == 1, "the cool-down must hold"


@pytest.mark.parametrize("blocked", [False, True])
def test_gradient_of_the_request_is_the_granting_steps_or_the_mean_of_the_offers(
    env: TrafficEnv, blocked: bool
) -> None:
    start = two_lane_state(env, blocked)
    u = torch.zeros(1, 4, 2, dtype=torch.float64)
    u[0, 0, 1] = 0.5
    u.requires_grad_()
    after, _ = env.step(env.start(start), u)
    assert (int(after.traffic.lane[0, 0]) == 0) == blocked
    (held,) = torch.autograd.grad(after.traffic.lateral[0, 0], u)

    # By hand: one request variable per simulator step, no scaling.
    offers = [u[..., 1].detach().clone().requires_grad_() for _ in range(5)]
    state, granted = start, False
    for offer in offers:
        lane = state.lane[0, 0]
        zero = torch.zeros(1, 4, dtype=torch.float64)
        state = env.simulator.step(state, Action(zero, zero if granted else offer))
        granted = granted or bool(state.lane[0, 0] != lane)
    parts = torch.stack(torch.autograd.grad(state.lateral[0, 0], offers, allow_unused=True, materialize_grads=True))
    expected = parts[:, 0, 0].mean() if blocked else parts[0, 0, 0]
    assert float(held[0, 0, 1]) == pytest.approx(float(expected), rel=1e-12)
    if not blocked:
        assert float(expected) != 0.0


def test_acceleration_is_clipped_with_slope_zero_outside(env: TrafficEnv) -> None:
    state = env.reset(1, torch.Generator().manual_seed(0))
    action = torch.tensor([5.0, -5.0, 0.1, -0.1], dtype=torch.float64)[None, :, None].expand(1, 4, 2) * torch.tensor(
        [1.0, 0.0]
    )
    action = action.clone().requires_grad_()
    after, _ = env.step(state, action)
    (gradient,) = torch.autograd.grad(after.traffic.position.sum(), action)
    assert gradient[0, :2, 0].tolist() == [0.0, 0.0]
    assert float(gradient[0, 3, 0]) > 0.0


def test_encode_inverts_the_action_scales(env: TrafficEnv) -> None:
    controller = FanOutAndAlign(env.simulator, 12.0)
    state = env.reset(2, torch.Generator().manual_seed(0))
    row = env.encode(controller(state.traffic), state.traffic)
    assert torch.allclose(row[..., 0] * 2.0, controller(state.traffic).acceleration)


def test_observation_of_a_hand_made_scene(env: TrafficEnv) -> None:
    state = two_lane_state(env, blocked=True)
    row = dict(zip(env.observation_labels, env.start(state).observation[0, 0].tolist(), strict=True))
    assert row["speed - target [5 m/s]"] == pytest.approx((8.0 - 12.0) / 5.0)
    assert [row[f"in lane {k}"] for k in range(4)] == [1.0, 0.0, 0.0, 0.0]
    assert row["right: lane exists"] == 0.0 and row["left: lane exists"] == 1.0
    assert row["left: gap ahead [50 m]"] == pytest.approx((51.0 - 5.0 - 50.0) / 50.0)
    assert row["own: gap ahead [50 m]"] == 1.0
    assert row["own: controlled vehicle beside"] == 0.0
    first = state.position[0, 4].item() - 50.0
    assert row["controlled 1: distance ahead [100 m]"] == pytest.approx(first / 100.0)
    assert row["controlled 1: lanes to the left [3]"] == pytest.approx(1.0)


def test_fastest_approaching_driver_comes_from_behind_in_that_lane(env: TrafficEnv) -> None:
    state = two_lane_state(env, blocked=False)
    position, lane, speed = state.position.clone(), state.lane.clone(), state.speed.clone()
    position[0, 6], lane[0, 6], speed[0, 6] = 10.0, 1, 14.0
    position[0, 7], lane[0, 7], speed[0, 7] = 30.0, 1, 11.0
    start = env.start(TrafficState(position, speed, lane))
    row = dict(zip(env.observation_labels, start.observation[0, 0].tolist(), strict=True))
    assert row["left: fastest approaching driver's speed - own [5 m/s]"] == pytest.approx((14.0 - 8.0) / 5.0)
    assert row["own: fastest approaching driver's speed - own [5 m/s]"] == 0.0


def test_number_of_controlled_vehicles_is_free() -> None:
    scenario = load_scenario(
        "ring_4lane", [*QUICK, "vehicles.controlled.count=2", "vehicles.controlled.placement.rows=[0, 3]"]
    )
    env = TrafficEnv(scenario)
    state, _ = env.step(env.reset(2, torch.Generator().manual_seed(0)), torch.zeros(2, 2, 2))
    assert state.observation.shape == (2, 2, 33)


def test_joint_observation_is_the_rows_joined() -> None:
    scenario = load_scenario("ring_4lane", [*QUICK, "observation.shared=false"])
    env = make_env(scenario)
    state = env.reset(2, torch.Generator().manual_seed(0))
    assert env.agents is None
    assert state.observation.shape == (2, 4 * 33) == (2, len(env.observation_labels))
    state, _ = env.step(state, torch.zeros(2, 8))
    assert len(local_labels(scenario.observation, 1)) < 33


UNCONTROLLED = [*QUICK, "vehicles.controlled.count=0", "vehicles.controlled.placement.rows=[]"]


def test_traffic_runs_where_nothing_is_controlled() -> None:
    env = TrafficEnv(load_scenario("ring_1lane", UNCONTROLLED))
    state = env.reset(2, torch.Generator().manual_seed(0))
    noise = env.sample_noise(2, torch.Generator().manual_seed(1))
    acting, _ = env.step(state, torch.zeros(2, 0, 0), noise)
    driven, transition = env.step(state, None, noise)
    assert driven.observation.shape == (2, 0, 0) and env.observation_labels == env.action_labels == ()
    assert torch.equal(acting.traffic.position, driven.traffic.position)
    assert bool((driven.traffic.position != state.traffic.position).any())
    assert transition.reward.shape == (2,)
    assert list(baselines(env)) == ["human only"]


def test_a_policy_needs_something_to_control() -> None:
    for use in (lambda: load_experiment("ring_1lane", overrides=UNCONTROLLED),
                lambda: TrafficGymEnv("ring_1lane", overrides=UNCONTROLLED)):  # fmt: skip
        with pytest.raises(TrafficGradError, match="no controlled vehicle: set vehicles"):
            use()


@pytest.mark.parametrize("name", ["Ring4Lane", "Ring1Lane"])
def test_gymnasium_checker_passes(name: str) -> None:
    single = gymnasium.make(f"trafficgrad.envs:trafficgrad/{name}-v0", overrides=QUICK[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space (min|max)imum value.*")
        warnings.filterwarnings("ignore", message=".*not in the standard.*")
        check_env(single.unwrapped)


def test_gymnasium_env_draws_itself() -> None:
    single = gymnasium.make(
        "trafficgrad.envs:trafficgrad/Ring1Lane-v0",
        overrides=QUICK[:1],
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    single.reset(seed=0)
    frame = single.render()
    assert frame.shape == (720, 1280, 3) and frame.dtype == np.uint8 and len(np.unique(frame)) > 20


def test_gymnasium_shows_a_window_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    single = TrafficGymEnv("ring_1lane", tuple(QUICK[:1]), render_mode="human")
    assert single.render_mode in single.metadata["render_modes"] and single.metadata["render_fps"] > 0
    assert not pygame.display.get_init()  # nothing before there is something to show
    single.reset(seed=0)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).copy()
    assert len(np.unique(shown)) > 20
    for _ in range(2):
        single.step(single.action_space.sample())
    assert (pygame.surfarray.array3d(pygame.display.get_surface()) != shown).any()
    assert single.render() is None
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    single.step(single.action_space.sample())
    assert not pygame.display.get_init()  # closed by hand: the environment goes on
    single.step(single.action_space.sample())
    single.close()
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    with pytest.raises(TrafficGradError, match='use render_mode="rgb_array"'):
        TrafficGymEnv("ring_1lane", tuple(QUICK[:1]), render_mode="human").reset(seed=0)
    with pytest.raises(TrafficGradError, match="unknown render_mode 'ansi'; valid are rgb_array, human"):
        TrafficGymEnv("ring_1lane", tuple(QUICK[:1]), render_mode="ansi")


def test_a_scenario_without_reward_earns_nothing() -> None:
    env = TrafficEnv(load_scenario("ring_1lane", [*QUICK, "reward=[]"]))
    _, transition = env.step(env.reset(2, torch.Generator().manual_seed(0)), torch.zeros(2, 1, 1))
    assert transition.reward.tolist() == [0.0, 0.0]


def test_normalised_gymnasium_action_spans_the_bounds() -> None:
    single = gymnasium.make("trafficgrad.envs:trafficgrad/Ring1Lane-v0", overrides=QUICK[:1]).unwrapped
    single.reset(seed=0)
    world = single.world
    before = world.state.traffic.speed[0, 0]
    single.step(np.array([-1.0], np.float32))
    held = world.env.scenario.simulation.decision_steps * world.env.simulator.dt
    assert float(world.state.traffic.speed[0, 0]) == pytest.approx(max(0.0, float(before) - held), abs=1e-4)


def test_env_state_is_a_tree_that_moves(env: TrafficEnv) -> None:
    state = env.reset(2, torch.Generator().manual_seed(0))
    moved = tree.move(state, dtype=torch.float32)
    assert moved.observation.dtype == torch.float32 and moved.traffic.lane.dtype == torch.int64


def test_rewards_of_ones_own_are_added_to_those_of_the_scenario() -> None:
    """The scenario's term as a function of one's own: the same reward and the same gradients."""

    def own(state, action, after, overlapping, simulator):  # type: ignore[no-untyped-def]
        assert overlapping.shape == (after.worlds,) and action.acceleration.shape == (after.worlds, 4)
        return after.speed.mean(-1) / 10.0

    term = ["reward=[{kind: mean_speed, scale: 10.0, weight: 0.5}, {kind: collision}]"]
    without = ["reward=[{kind: collision}]"]
    theirs = TrafficEnv(load_scenario("ring_4lane", QUICK + term), dtype=torch.float64)
    ours = TrafficEnv(load_scenario("ring_4lane", QUICK + without), dtype=torch.float64, rewards={"own": (0.5, own)})
    found = []
    for env in (theirs, ours, ours.with_simulator(replace(ours.simulator, backend="reference"))):
        state = env.reset(3, torch.Generator().manual_seed(0))
        action = torch.zeros(3, 4, 2, dtype=torch.float64, requires_grad=True)
        _, transition = env.step(state, action)
        (slope,) = torch.autograd.grad(transition.reward.sum(), action)
        found.append(torch.cat([transition.reward.detach(), slope.flatten()]))
    assert "own" in transition.terms
    assert bool((found[0][3:] != 0).any())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-12)


def test_a_reward_of_ones_own_has_a_name_of_its_own() -> None:
    with pytest.raises(TrafficGradError, match="the scenario has a term 'pace' already"):
        TrafficEnv(load_scenario("ring_4lane", QUICK), rewards={"pace": (1.0, lambda *step: step[2].speed.mean(-1))})

"""Traffic in other libraries: PettingZoo, TorchRL and Stable-Baselines3, by their own checks and beside ours.

The libraries are imported by the tests that need them: they take seconds, which every process of the suite would spend.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from trafficgrad.envs import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import load_traffic

QUICK = ("simulation.warmup_steps=20", "driver_rows=64", "simulation.horizon_steps=15")  # 3 decisions on ring_4lane
COMING = ("simulation.warmup_steps=300", "simulation.horizon_steps=300")  # on the merge, while it fills


# ---------------------------------------------------------------------- PettingZoo


def parallel(name: str = "ring_4lane", overrides: tuple[str, ...] = QUICK, **options: Any) -> Any:
    from trafficgrad.envs.pettingzoo_adapter import TrafficParallelEnv

    return TrafficParallelEnv(name, overrides, **options)


@pytest.mark.parametrize(
    ("name", "agents"),
    [
        ("ring_4lane", ["vehicle_0", "vehicle_1", "vehicle_2", "vehicle_3"]),
        ("pace_car_2lane", ["vehicle_0"]),  # one policy, which sees everything
        ("intersection", ["signal_0"]),
    ],
)
def test_pettingzoo_checks_pass(name: str, agents: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing PettingZoo's tests warns about its own games
        from pettingzoo.test import parallel_api_test, parallel_seed_test
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = parallel(name)
        parallel_api_test(env, num_cycles=20)
        parallel_seed_test(lambda: parallel(name), num_cycles=20)
    assert env.possible_agents == agents


def test_pettingzoo_checks_pass_where_vehicles_come_and_go() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pettingzoo.test import parallel_api_test, parallel_seed_test
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Who will come is not known; PettingZoo's test says so as a reminder.
        warnings.filterwarnings("ignore", message=".*does not have possible_agents defined")
        warnings.filterwarnings("ignore", message="No agents present")
        parallel_api_test(parallel("merge", COMING), num_cycles=60)
        parallel_seed_test(lambda: parallel("merge", COMING), num_cycles=60)


def test_agents_do_what_the_rows_of_the_environment_do() -> None:
    env = parallel()
    observations, infos = env.reset(seed=4)
    assert list(observations) == list(infos) == env.agents == env.possible_agents
    plain = TrafficEnv(load_traffic("ring_4lane", (*QUICK, "pool_size=1")))
    generator = torch.Generator().manual_seed(4)
    state = plain.reset(1, generator)
    for step in range(3):
        assert np.array_equal(np.stack(list(observations.values())), state.observation[0].numpy())
        assert np.array_equal(env.state(), state.observation.flatten().numpy())
        assert env.observation_space("vehicle_1").contains(observations["vehicle_1"])
        actions = {agent: np.array([0.2 * i, 0.9], np.float32) for i, agent in enumerate(env.agents)}
        row = torch.tensor(np.stack(list(actions.values())))
        low, high = plain.scenario.control.acceleration
        row[:, 0] = (low + 0.5 * (row[:, 0] + 1.0) * (high - low)) / plain.scenario.control.acceleration_scale
        state, transition = plain.step(state, row[None], plain.sample_noise(1, generator))
        observations, rewards, terminated, truncated, infos = env.step(actions)
        assert set(rewards.values()) == {float(transition.reward)}
        assert set(terminated.values()) == {False} and set(truncated.values()) == {step == 2}
        assert infos["vehicle_3"]["mean_speed"] == pytest.approx(float(transition.terms["mean_speed"]))
    assert np.array_equal(observations["vehicle_2"], transition.final_observation[0, 2].numpy())
    assert env.agents == []
    with pytest.raises(TrafficGradError, match=r"the episode is over.*call reset\(\)"):
        env.step({})


def test_a_vehicle_that_leaves_is_terminated_and_one_that_comes_is_a_new_agent() -> None:
    env = parallel("merge", COMING)
    observations, _ = env.reset(seed=0)
    assert not hasattr(env, "possible_agents")
    alive, ever, gone, come = set(env.agents), set(env.agents), set(), set()
    slots = env.world.env.slots
    while env.agents:
        before = set(env.agents)
        observations, rewards, terminated, truncated, _ = env.step(
            {agent: np.zeros(1, np.float32) for agent in env.agents}
        )
        after = set(env.agents)
        left = {agent for agent, ended in terminated.items() if ended}
        assert before | after == set(observations) == set(rewards) == set(terminated) == set(truncated)
        if not any(truncated.values()):
            assert left == before - after and not (after - before) & ever
            assert all(not observations[agent].any() for agent in left)
            assert all(observations[agent].any() and rewards[agent] == 0.0 for agent in after - before)
            assert len(after) == int(env.world.state.traffic.active[0, slots].sum())
            gone, come = gone | left, come | (after - before)
        ever |= after
        alive = (alive - left) | after
    assert len(gone) >= 2 and len(come) >= 2, "nothing was seen of coming and going"


def test_time_passes_while_nobody_is_there() -> None:
    """The merge is empty at first, and the first controlled vehicle comes seconds later."""
    env = parallel("merge", ("simulation.warmup_steps=0", "simulation.horizon_steps=600"))
    env.reset(seed=3)
    assert len(env.agents) >= 1 and int(env.world.state.elapsed) > 0
    with pytest.raises(TrafficGradError, match="nobody who is controlled came within an episode of scenario 'merge'"):
        parallel("merge", ("simulation.warmup_steps=0", "simulation.horizon_steps=10")).reset(seed=3)


def test_what_pettingzoo_cannot_have_is_refused() -> None:
    with pytest.raises(TrafficGradError, match=r"for 4 vehicles or signals: set observation\.shared: true"):
        parallel("ring_4lane", (*QUICK, "observation.shared=false"))
    with pytest.raises(TrafficGradError, match="unknown render_mode 'human'; valid are rgb_array"):
        parallel(render_mode="human")
    env = parallel(render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (720, 1280, 3)
    with pytest.raises(TrafficGradError, match="agent 'vehicle_1' has no action: expected one for each of vehicle_0, "):
        env.step({"vehicle_0": np.zeros(2, np.float32)})


# ---------------------------------------------------------------------- TorchRL


def torchrl_env(name: str = "ring_4lane", worlds: int = 3, overrides: tuple[str, ...] = QUICK, **options: Any) -> Any:
    from trafficgrad.envs.torchrl_adapter import TrafficTorchRLEnv

    return TrafficTorchRLEnv(name, worlds, overrides, pool_size=8, **options)


@pytest.mark.parametrize("name", ["ring_4lane", "pace_car_2lane", "intersection"])
def test_torchrl_check_passes(name: str) -> None:
    from torchrl.envs.utils import check_env_specs

    env = torchrl_env(name)
    check_env_specs(env)

    def seen(seed: int | None) -> torch.Tensor:
        if seed is not None:
            env.set_seed(seed)
        return env.rollout(2, lambda observation: env.action_spec.zero())["next", "observation"]

    first = seen(5)
    assert torch.equal(seen(5), first) and not torch.equal(seen(None), first)


def test_torchrl_worlds_restart_from_the_pool() -> None:
    env = torchrl_env()
    env.set_seed(0)
    played = env.rollout(7, break_when_any_done=False)
    assert played.batch_size == (3, 7)
    assert played["next", "truncated"][..., 0].tolist() == [[t in (2, 5) for t in range(7)]] * 3
    assert not played["next", "terminated"].any()
    following, shown = played["next", "observation"][:, :-1], played["observation"][:, 1:]
    ended = played["next", "done"][:, :-1, 0]
    assert torch.equal(following[~ended], shown[~ended]) and bool((following[ended] != shown[ended]).any())
    pool = env.world.state.pool.observation
    assert all(bool((row == pool).flatten(1).all(1).any()) for row in shown[ended])
    # A world can also be restarted before its time, alone.
    before = env.world.state
    wanted = torch.tensor([[False], [True], [False]])
    told = env.reset(env.rollout(1, auto_reset=False, tensordict=played[:, -1]["next"].exclude("reward"))[:, -1].set(
        "_reset", wanted))  # fmt: skip
    assert env.world.state.elapsed.tolist() == [2, 0, 2]
    assert torch.equal(told["observation"][1], before.pool.observation[int(before.pool_next[1])])


def test_torchrl_keeps_the_gradient_of_the_environment() -> None:
    """The gradient of a rollout's rewards by its actions is that of our own steps, and no step is detached."""
    env = torchrl_env("ring_1lane", dtype=torch.float64, overrides=("simulation.warmup_steps=20", "driver_rows=64"))
    env.set_seed(1)
    start = env.reset()
    plain, state = env.world.env, env.world.state
    normalised = torch.linspace(-0.4, 0.4, 12, dtype=torch.float64).view(4, 3, 1, 1).requires_grad_()
    noises, total = [], torch.zeros((), dtype=torch.float64)
    generator = env.world._generator.clone_state()
    for row in normalised:
        start = env.step(start.set("action", row))["next"]
        total = total + start["reward"].sum()
        start = start.exclude("reward")
    (found,) = torch.autograd.grad(total, normalised)
    noises = [plain.sample_noise(3, generator) for _ in range(4)]
    low, high = plain.scenario.control.acceleration
    scaled = (low + 0.5 * (normalised + 1.0) * (high - low)) / plain.scenario.control.acceleration_scale
    total = torch.zeros((), dtype=torch.float64)
    for row, noise in zip(scaled, noises, strict=True):
        state, transition = plain.step(state, row, noise)
        total = total + transition.reward.sum()
    (expected,) = torch.autograd.grad(total, normalised)
    assert float(expected[0].abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    assert env.world.state.observation.requires_grad
    env.detach_state()
    assert not env.world.state.observation.requires_grad
    with torch.no_grad():
        env.step(start.set("action", normalised[0]))
    assert not env.world.state.observation.requires_grad


# ---------------------------------------------------------------------- Stable-Baselines3


def vec_env(name: str = "ring_4lane", worlds: int = 4, overrides: tuple[str, ...] = QUICK, **options: Any) -> Any:
    from trafficgrad.envs.stable_baselines_adapter import TrafficVecEnv

    return TrafficVecEnv(name, worlds, overrides, pool_size=8, **options)


@pytest.mark.filterwarnings("error")
def test_stable_baselines_learns_without_a_warning() -> None:
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.vec_env import VecMonitor

    model = PPO("MlpPolicy", vec_env(), n_steps=16, seed=0, device="cpu")
    model.learn(128)
    assert model.num_timesteps == 128
    monitored = VecMonitor(vec_env("ring_1lane", 2, (*QUICK[:2], "simulation.horizon_steps=30")))
    off_policy = SAC("MlpPolicy", monitored, learning_starts=8, batch_size=8, seed=0, device="cpu")
    off_policy.learn(24)
    assert len(off_policy.ep_info_buffer) > 0


def test_stable_baselines_sees_what_gymnasium_sees() -> None:
    from trafficgrad.envs.gym_adapter import TrafficGymVectorEnv

    ours, other = vec_env(), TrafficGymVectorEnv("ring_4lane", 4, QUICK, pool_size=8)
    assert ours.observation_space == other.single_observation_space
    assert ours.action_space == other.single_action_space
    ours.seed(7)
    first = ours.reset()
    assert np.array_equal(first, other.reset(seed=7)[0])
    action = np.full((4, 8), 0.3, np.float32)
    for step in range(4):
        observation, reward, done, infos = ours.step(action)
        expected, paid, terminated, truncated, info = other.step(action)
        assert np.array_equal(observation, expected) and observation.dtype == np.float32
        assert np.allclose(reward, paid) and reward.dtype == np.float32
        assert done.tolist() == (terminated | truncated).tolist() == [step == 2] * 4
        if step == 2:
            assert all(np.array_equal(infos[i]["terminal_observation"], info["final_obs"][i]) for i in range(4))
            assert [i["TimeLimit.truncated"] for i in infos] == truncated.tolist()
            assert infos[1]["mean_speed"] == pytest.approx(info["final_info"]["mean_speed"][1])
        else:
            assert "terminal_observation" not in infos[0]
    ours.seed(7)
    assert np.array_equal(ours.reset(), first) and not np.array_equal(ours.reset(), first)


def test_stable_baselines_asks_about_worlds_that_are_one() -> None:
    envs = vec_env(render_mode="rgb_array", worlds=2)
    envs.reset()
    assert [image.shape for image in envs.get_images()] == [(720, 1280, 3)] * 2
    assert envs.render().shape[2] == 3 and vec_env().get_images() == [None] * 4
    assert envs.get_attr("num_envs") == [2, 2] and envs.get_attr("num_envs", indices=0) == [2]
    assert envs.env_is_wrapped(object) == [False, False]
    envs.set_attr("label", 3)
    assert envs.get_attr("label") == [3, 3]
    with pytest.raises(TrafficGradError, match="share 'label'"):
        envs.set_attr("label", 4, indices=[0])
    with pytest.raises(TrafficGradError, match="no method 'jump'"):
        envs.env_method("jump")
    with pytest.raises(TrafficGradError, match=r"call step_async\(\)"):
        envs.step_wait()


# ---------------------------------------------------------------------- without them


@pytest.mark.parametrize(
    ("module", "package", "name"),
    [
        ("pettingzoo_adapter", "pettingzoo", "TrafficParallelEnv"),
        ("torchrl_adapter", "torchrl", "TrafficTorchRLEnv"),
        ("stable_baselines_adapter", "stable_baselines3", "TrafficVecEnv"),
    ],
)
def test_what_is_missing_is_named(module: str, package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in [known for known in sys.modules if known.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, package, None)  # so that importing it fails
    monkeypatch.delitem(sys.modules, f"trafficgrad.envs.{module}", raising=False)
    with pytest.raises(TrafficGradError) as error:
        __import__(f"trafficgrad.envs.{module}")
    assert str(error.value) == (
        f'{name} needs the package {package.replace("_", "-")}, which cannot be imported: pip install "trafficgrad[rl]"'
    )

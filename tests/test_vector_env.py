"""Traffic as gymnasium's vector environment: beside single worlds, and with gymnasium's own wrappers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import ClipReward, NormalizeReward, RecordEpisodeStatistics

from trafficgrad.envs.gym_adapter import TrafficGymEnv, TrafficGymVectorEnv
from trafficgrad.errors import TrafficGradError

ID = "trafficgrad.envs:trafficgrad/Ring4Lane-v0"
QUICK = ("simulation.warmup_steps=20", "driver_rows=64", "simulation.horizon_steps=15")  # episodes of 3 decisions


def worlds(count: int = 4, **options: Any) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(ID, num_envs=count, overrides=QUICK, pool_size=8, **options)


def test_spaces_and_metadata() -> None:
    envs = worlds()
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.metadata["render_fps"] == 2
    observation, info = envs.reset(seed=1)
    assert envs.observation_space.contains(observation) and info == {}
    assert envs.single_observation_space == TrafficGymEnv("ring_4lane", QUICK).observation_space
    assert envs.action_space.shape == (4, 8) and envs.single_action_space.shape == (8,)
    assert envs.np_random_seed == 1


def test_a_seed_decides_and_the_stream_goes_on() -> None:
    envs = worlds()
    first, _ = envs.reset(seed=1)
    assert not np.array_equal(envs.reset()[0], first)
    assert np.array_equal(envs.reset(seed=1)[0], first)
    assert np.array_equal(envs.reset(seed=[1, 2, 3, 4])[0], first)
    assert not np.array_equal(worlds().reset()[0], first)


def test_infos_are_those_of_single_environments_stepped_together() -> None:
    """Keys, types and masks of every info are those that gymnasium's own vectorisation makes of our ``Env``."""
    ours = worlds(2)
    theirs = gymnasium.vector.SyncVectorEnv(
        [lambda: TrafficGymEnv("ring_4lane", QUICK)] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    ours.reset(seed=0)
    theirs.reset(seed=0)
    action = np.zeros(ours.action_space.shape, np.float32)
    for step in range(7):
        told, expected = ours.step(action), theirs.step(action)
        assert told[0].dtype == expected[0].dtype and told[0].shape == expected[0].shape
        for one, other in zip(told[1:4], expected[1:4], strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape
        assert told[3].tolist() == expected[3].tolist() == [step in (2, 5)] * 2
        assert_alike(told[4], expected[4])


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_alike(value, other[name])
        elif name == "final_obs":
            assert value.dtype == other[name].dtype == object
            assert [x.shape for x in value] == [x.shape for x in other[name]]
        else:
            assert value.shape == other[name].shape and value.dtype.kind == other[name].dtype.kind
            if name.startswith("_"):
                assert value.tolist() == other[name].tolist()


def test_a_world_that_ends_tells_its_last_moment_and_the_others_the_present() -> None:
    envs = worlds()
    envs.reset(seed=0)
    world = envs.unwrapped.world
    world.state = replace(world.state, elapsed=torch.tensor([0, world.env.horizon - 1, 0, 0]))
    observation, _, _, truncated, info = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert (
        truncated.tolist() == info["_final_obs"].tolist() == info["_final_info"].tolist() == [False, True, False, False]
    )
    assert info["final_obs"][0] is None and not np.array_equal(info["final_obs"][1], observation[1])
    final = info["final_info"]
    assert final["mean_speed"][1] > 0 and final["mean_speed"][0] == 0 and info["mean_speed"][1] == 0
    assert (info["mean_speed"][[0, 2, 3]] > 0).all() and info["_mean_speed"].tolist() == (~truncated).tolist()
    assert final["_mean_speed"].tolist() == truncated.tolist()


def test_gymnasium_wrappers_take_it() -> None:
    envs = RecordEpisodeStatistics(worlds())
    whole = ClipReward(NormalizeReward(envs), -1.0, 1.0)
    plain = worlds()
    whole.reset(seed=0)
    plain.reset(seed=0)
    total = np.zeros(4)
    for _ in range(3):
        observation, _, _, _, info = whole.step(np.zeros(whole.action_space.shape, np.float32))
        told, reward, _, _, last = plain.step(np.zeros(plain.action_space.shape, np.float32))
        total += reward
    assert np.allclose(envs.return_queue, total) and info["episode"]["l"].tolist() == [3] * 4
    assert np.array_equal(observation, told) and np.array_equal(info["final_obs"][2], last["final_obs"][2])


def test_it_draws_every_world() -> None:
    envs = worlds(2, render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    assert [frame.shape for frame in frames] == [(720, 1280, 3)] * 2
    assert not np.array_equal(frames[0], frames[1])
    assert TrafficGymVectorEnv("ring_4lane", 1, QUICK).render() is None
    with pytest.raises(TrafficGradError, match="unknown render_mode 'human'; valid are rgb_array"):
        TrafficGymVectorEnv("ring_4lane", 1, QUICK, render_mode="human")


def test_there_is_at_least_one_world() -> None:
    with pytest.raises(TrafficGradError, match="at least 1 world, got 0"):
        TrafficGymVectorEnv("ring_4lane", 0, QUICK)

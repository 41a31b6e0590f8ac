"""Environments: differentiable and batched (:func:`make_env`), or through gymnasium.

Importing this module registers the gymnasium ids: ``gymnasium.make("trafficgrad.envs:trafficgrad/Ring4Lane-v0")`` and
``gymnasium.make_vec("trafficgrad.envs:trafficgrad/Ring4Lane-v0", num_envs=64)``. PettingZoo, TorchRL and
Stable-Baselines3 have their adapters in :mod:`trafficgrad.envs.pettingzoo_adapter`,
:mod:`trafficgrad.envs.torchrl_adapter` and :mod:`trafficgrad.envs.stable_baselines_adapter`, which import them.

:func:`check_env` tells whether an environment of one's own is what agents rely on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch

from trafficgrad.envs.base import DifferentiableEnv, EnvState, Transition
from trafficgrad.envs.check import check_env
from trafficgrad.envs.custom import custom_env
from trafficgrad.envs.functions import Ackley, DeJong, function_env
from trafficgrad.envs.physics import Ant, CartpoleSwingUp, HalfCheetah, Hopper, body_env, cartpole_env
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.envs.transition import TransitionEnv, from_transition, with_pullback
from trafficgrad.scenario_config import Scenario

__all__ = [
    "Ackley",
    "Ant",
    "CartpoleSwingUp",
    "DeJong",
    "DifferentiableEnv",
    "EnvState",
    "HalfCheetah",
    "Hopper",
    "TrafficEnv",
    "TrafficEnvState",
    "Transition",
    "TransitionEnv",
    "check_env",
    "from_transition",
    "make_env",
    "with_pullback",
]

# Kind of scenario -> its environment, from scenario, seed, device and dtype.
ENVIRONMENTS: dict[str, Callable[[Any, int, torch.device | str, torch.dtype], DifferentiableEnv]] = {
    "traffic": TrafficEnv,
    "function": function_env,
    "cartpole": cartpole_env,
    "mujoco": body_env,
    "custom": custom_env,
}


def make_env(
    scenario: Scenario, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> DifferentiableEnv:
    """The environment of a scenario; ``seed`` draws what the scenario leaves to chance once (the table of drivers)."""
    return ENVIRONMENTS[scenario.kind](scenario, seed, device, dtype)


for _id, _name in {"trafficgrad/Ring4Lane-v0": "ring_4lane", "trafficgrad/Ring1Lane-v0": "ring_1lane"}.items():
    gymnasium.register(
        _id,
        entry_point="trafficgrad.envs.gym_adapter:TrafficGymEnv",
        vector_entry_point="trafficgrad.envs.gym_adapter:TrafficGymVectorEnv",
        kwargs={"scenario": _name},
    )

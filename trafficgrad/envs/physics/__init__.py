"""Physics: a pole on a cart in closed form, and MuJoCo's bodies, in batches and with gradients.

The cart-pole needs nothing but PyTorch. ``Hopper``, ``Ant`` and ``HalfCheetah`` need
``pip install "trafficgrad[physics]"``, which is asked for when one is built.
"""

from __future__ import annotations

import torch

from trafficgrad.envs.physics.ant import Ant
from trafficgrad.envs.physics.bodies import BodyEnv
from trafficgrad.envs.physics.cartpole import CartpoleSwingUp, cartpole_env
from trafficgrad.envs.physics.half_cheetah import HalfCheetah
from trafficgrad.envs.physics.hopper import Hopper
from trafficgrad.envs.physics.mujoco_step import MujocoStep
from trafficgrad.physics_scenario import ModelName, MujocoScenario

__all__ = [
    "BODIES",
    "Ant",
    "BodyEnv",
    "CartpoleSwingUp",
    "HalfCheetah",
    "Hopper",
    "MujocoStep",
    "body_env",
    "cartpole_env",
]

BODIES: dict[ModelName, type[Hopper] | type[Ant] | type[HalfCheetah]] = {
    "hopper": Hopper,
    "ant": Ant,
    "half_cheetah": HalfCheetah,
}


def body_env(
    scenario: MujocoScenario,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BodyEnv:
    """The environment of a scenario; ``seed`` draws nothing."""
    return BODIES[scenario.model](
        scenario.integrator,
        scenario.reward,
        scenario.frame_skip,
        scenario.horizon_steps,
        scenario.differences.eps,
        scenario.differences.centred,
        scenario.pool_size,
        device,
        dtype,
    )

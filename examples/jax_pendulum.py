"""A simulator in JAX as an environment: a pendulum, its step and derivative by JAX, its training by the agents here.

JAX sees the step, PyTorch the networks: ``jax.vjp`` is what ``with_pullback`` asks for, and arrays go to and fro
without a copy. MJX and Brax are wrapped in the same way, with a state that is flattened into one array.

    pip install jax
    python examples/jax_pendulum.py --decisions 100000   # a quarter of a minute: it swings up
"""

from __future__ import annotations

import argparse
import math

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from trafficgrad.agents import Experiment, TrainingConfig, train
from trafficgrad.envs import DifferentiableEnv, from_transition, with_pullback

DT, SUBSTEPS, TORQUE = 0.05, 2, 6.0  # s; N m for 1 kg at 1 m, less than the 9.81 that would hold it at the side


@jax.jit
def swing(state: jax.Array, action: jax.Array) -> jax.Array:
    """Angle from upright and its rate, [B, 2], after ``DT``: semi-implicit Euler."""
    angle, rate = state[:, 0], state[:, 1]
    for _ in range(SUBSTEPS):
        rate = rate + DT / SUBSTEPS * (9.81 * jnp.sin(angle) + TORQUE * action[:, 0] - 0.1 * rate)
        angle = angle + DT / SUBSTEPS * rate
    return jnp.stack([angle, rate], 1)


@jax.jit
def pulled_back(state: jax.Array, action: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The cotangents of state and action."""
    return jax.vjp(swing, state, action)[1](cotangent)


def step(state: Tensor, action: Tensor) -> Tensor:
    """``swing`` of tensors."""
    return torch.from_dlpack(swing(jnp.from_dlpack(state), jnp.from_dlpack(action)))


def vjp(state: Tensor, action: Tensor):
    """``swing`` with its pullback."""

    def pullback(cotangent: Tensor) -> tuple[Tensor, Tensor]:
        arrays = (jnp.from_dlpack(x.contiguous()) for x in (state, action, cotangent))
        by_state, by_action = pulled_back(*arrays)
        return torch.from_dlpack(by_state), torch.from_dlpack(by_action)

    return step(state, action), pullback


def hanging(count: int, generator: torch.Generator | None) -> Tensor:
    """Angle and rate, [count, 2], near the lowest point."""
    return torch.tensor([math.pi, 0.0]) + 0.2 * torch.randn(count, 2, generator=generator)


def reward(state: Tensor, action: Tensor, after: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Upright and at rest is best."""
    upright = torch.cos(after[:, 0])
    return upright - 0.02 * after[:, 1].square() - 0.02 * action[:, 0].square(), {"upright": upright}


def make() -> DifferentiableEnv:
    return from_transition(
        with_pullback(step, vjp),
        initial=hanging,
        reward=reward,
        observe=lambda state: torch.stack([state[:, 0].cos(), state[:, 0].sin(), state[:, 1]], 1),
        observations=("cos", "sin", "rate (rad/s)"),
        actions=("torque",),
        horizon=100,
        task_measures=("upright",),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--output", default="runs/jax_pendulum")
    options = parser.parse_args()
    config = TrainingConfig.model_validate(
        {
            "agent": {"kind": "trig", "kl": 0.03, "critic_epochs": 16, "critic_learning_rate": 2e-3},
            "worlds": 32,
            "window": 32,
            "decisions": options.decisions,
            "threads": 1,
            "policy": {"hidden": [32, 32], "log_std": -1.0},
            "critic": {"hidden": [32, 32]},
        }
    )
    result = train(Experiment(make(), config), options.output)
    print(f"mean cosine of the angle in the last rollout: {result.metrics['upright']:.2f}")


if __name__ == "__main__":
    main()

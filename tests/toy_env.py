"""A small differentiable environment to test agents on: point masses that shall come to rest at the origin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trafficgrad.envs.base import DifferentiableEnv, Transition
from trafficgrad.tree import register_record, where

DT = 0.2


@register_record
@dataclass(frozen=True)
class ToyState:
    position: Tensor  # [B, C, 2]
    speed: Tensor  # [B, C, 2]
    observation: Tensor  # [B, C, 4], or [B, C * 4] without a shared policy
    elapsed: Tensor  # [B] int64
    cursor: Tensor  # [B] int64, next row of the pool
    pool: Tensor  # [P, C, 2] initial positions; no world dimension


class ToyEnv(DifferentiableEnv):
    """Double integrators in the plane, smoothly coupled; a world ends where a mass leaves the disc of radius ``reach``.

    ``vehicles=None`` is one point mass with a policy of its own: observation [B, 4], action [B, 2]. ``poison`` =
    (world, decision) puts a NaN into the last vehicle's speed.
    """

    differentiable = True

    def __init__(
        self,
        vehicles: int | None = 2,
        horizon: int = 7,
        reach: float = 2.0,
        dtype: torch.dtype = torch.float32,
        poison: tuple[int, int] | None = None,
    ) -> None:
        self.agents = vehicles
        self.count = vehicles or 1
        self.horizon = horizon
        self.reach = reach
        self.dtype = dtype
        self.poison = poison
        self.observation_labels = ("x", "y", "vx", "vy")
        self.action_labels = ("ax", "ay")
        self.task_measures = ("distance",)
        self.steps = 0

    def _observe(self, position: Tensor, speed: Tensor) -> Tensor:
        observation = torch.cat([position, speed], -1)
        return observation if self.agents is not None else observation.flatten(1)

    def reset(self, batch: int, generator: torch.Generator | None = None) -> ToyState:
        pool = torch.randn(16, self.count, 2, generator=generator, dtype=self.dtype)
        cursor = torch.randint(16, (batch,), generator=generator)
        position = pool[cursor]
        speed = torch.zeros_like(position)
        elapsed = torch.zeros(batch, dtype=torch.int64)
        return ToyState(position, speed, self._observe(position, speed), elapsed, cursor, pool)

    def stagger(self, env_state: ToyState, generator: torch.Generator | None = None) -> ToyState:
        return replace(env_state, elapsed=torch.randint(self.horizon, env_state.elapsed.shape, generator=generator))

    def sample_noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(batch, self.count, 2, generator=generator, dtype=self.dtype)

    def step(self, env_state: ToyState, action: Tensor, noise: Tensor | None = None) -> tuple[ToyState, Transition]:
        self.steps += 1
        force = action.reshape(env_state.position.shape)
        pull = env_state.position.mean(1, keepdim=True) - env_state.position
        acceleration = force + 0.3 * torch.sin(pull) + (0.0 if noise is None else 0.05 * noise)
        speed = env_state.speed + DT * acceleration
        if self.poison is not None and self.steps == self.poison[1] + 1:
            speed = speed.clone()
            speed[self.poison[0], -1, 0] = float("nan")
        position = env_state.position + DT * speed
        distance = position.square().sum(-1)
        reward = 1.0 - (distance + 0.1 * speed.square().sum(-1) + 0.05 * force.square().sum(-1)).mean(-1)
        elapsed = env_state.elapsed + 1
        terminated = (distance.detach() > self.reach**2).any(-1)
        truncated = (elapsed >= self.horizon) & ~terminated
        final = self._observe(position, speed)
        after = replace(env_state, position=position, speed=speed, observation=final, elapsed=elapsed)
        fresh_position = env_state.pool[env_state.cursor]
        fresh_speed = torch.zeros_like(fresh_position)
        after = replace(after, pool=env_state.elapsed)  # `where` is per world; the pool is put back below
        fresh = replace(
            after,
            position=fresh_position,
            speed=fresh_speed,
            observation=self._observe(fresh_position, fresh_speed),
            elapsed=torch.zeros_like(elapsed),
            cursor=(env_state.cursor + 1) % len(env_state.pool),
        )
        after = replace(where(terminated | truncated, fresh, after), pool=env_state.pool)
        terms = {"distance": distance.mean(-1).sqrt()}
        return after, Transition(after.observation, final, reward, terminated, truncated, terms)

"""From accelerations to motion: integrators with a stop at standstill, and the bicycle of steered vehicles."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Integrator = Literal["ballistic", "semi_implicit_euler", "explicit_euler"]
INTEGRATORS: tuple[Integrator, ...] = ("ballistic", "semi_implicit_euler", "explicit_euler")


def stop_rule(acceleration: Tensor, speed: Tensor, dt: float) -> Tensor:
    """Acceleration that brings the vehicle to rest at the step's end instead of below zero speed: max(a, -v/dt)."""
    return torch.where(speed + acceleration * dt > 0.0, acceleration, -speed / dt)


def integrate(
    speed: Tensor, acceleration: Tensor, carried: Tensor | None, dt: float, method: Integrator
) -> tuple[Tensor, Tensor]:
    """Displacement (m) and new speed (m/s) of vehicles that do not reverse.

    ``ballistic``: v' = max(0, v + a dt), dx = (v + v') dt / 2 (Treiber & Kanagaraj, arXiv 1403.4881);
    ``semi_implicit_euler``: dx = v' dt (SUMO's default); ``explicit_euler``: dx = v dt.

    Parameters:
        speed: [B, N]. acceleration: [B, N] before the stop rule; the new speed is exactly 0 where it applies.
        carried: [B, N] or None, 0 forward: straight-through terms that act after the stop rule.
    """
    reached = speed + acceleration * dt
    new_speed = torch.where(reached > 0.0, reached, 0.0)
    if carried is not None:
        new_speed = new_speed + carried * dt
    if method == "ballistic":
        return (speed + new_speed) * (0.5 * dt), new_speed
    return (new_speed if method == "semi_implicit_euler" else speed) * dt, new_speed


class BicycleMotion(NamedTuple):
    """Change of a steered vehicle's pose in one step."""

    along: Tensor  # m
    across: Tensor  # m, + = left
    turned: Tensor  # rad
    speed: Tensor  # m/s at the end, may be negative


def kinematic_bicycle(
    speed: Tensor, heading: Tensor, acceleration: Tensor, steering: Tensor, length: Tensor | float, dt: float
) -> BicycleMotion:
    """Explicit Euler step of the kinematic bicycle; its wheelbase is the vehicle's length, its centre the middle.

    beta = atan(tan(delta) / 2); the centre moves along heading + beta; the heading turns by v sin(beta) / (L / 2).
    All tensors share one shape; ``heading`` in rad relative to the lane, ``steering`` the front wheel angle in rad.
    """
    slip = torch.atan(0.5 * torch.tan(steering))
    course = heading + slip
    return BicycleMotion(
        along=speed * torch.cos(course) * dt,
        across=speed * torch.sin(course) * dt,
        turned=speed * torch.sin(slip) * (2.0 / length) * dt,
        speed=speed + acceleration * dt,
    )

"""A pole on a cart, to be swung up: closed-form dynamics in PyTorch, so gradients are exact."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from trafficgrad.envs.transition import TransitionEnv
from trafficgrad.physics_scenario import CartpoleConfig, CartpoleScenario

DECISIONS = 240  # of an episode


@final
class CartpoleSwingUp(TransitionEnv):
    """The cart-pole swing-up of Son et al. (2023), after Xu et al. (2022).

    Columns of the simulator's state [B, 4]: x of the cart (m), angle of the pole from upright (rad), and their rates.

    ============ ======================== =================================
    observation  x, x', sin, cos, angle'  m, m/s, 1, 1, rad/s
    action       force on the cart        in units of ``force``, [-1, 1]
    reward       of the state reached     -(angle^2 + 0.1 angle'^2 + 0.05 x^2 + 0.1 x'^2), angle in (-pi, pi]
    start        hanging                  x and angle +-pi/2, rates +-0.25, uniform
    end          after 240 decisions      never earlier
    ============ ======================== =================================

    ``terms["upright"]`` is the cosine of the angle.
    """

    def __init__(
        self,
        config: CartpoleConfig | None = None,
        horizon: int = DECISIONS,
        pool_size: int = 1024,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``config``: masses, lengths and steps; the rest see :class:`TransitionEnv`."""
        super().__init__(
            ("x (m)", "x' (m/s)", "sin(angle)", "cos(angle)", "angle' (rad/s)"),
            ("force",),
            horizon,
            ("upright",),
            pool_size,
            device,
            dtype,
        )
        self.config = config or CartpoleConfig()

    def initial(self, count: int, generator: torch.Generator | None) -> Tensor:
        """See the base class: hanging."""
        drawn = 2.0 * torch.rand(count, 4, generator=generator, dtype=self.dtype) - 1.0
        middle = torch.tensor([0.0, -math.pi, 0.0, 0.0], dtype=self.dtype)
        within = torch.tensor([0.5 * math.pi, 0.5 * math.pi, 0.25, 0.25], dtype=self.dtype)
        return (middle + within * drawn).to(self.device)

    def advance(self, inner: Tensor, action: Tensor) -> Tensor:
        """See the base class: ``substeps`` of semi-implicit Euler with the force held."""
        config, force = self.config, self.config.force * action[:, 0]
        x, angle, speed, rate = inner.unbind(-1)
        h = config.dt / config.substeps
        for _ in range(config.substeps):
            acceleration, turning = self._accelerations(x, angle, speed, rate, force)
            speed, rate = speed + h * acceleration, rate + h * turning
            x, angle = x + h * speed, angle + h * rate
        return torch.stack([x, angle, speed, rate], -1)

    def _accelerations(
        self, x: Tensor, angle: Tensor, speed: Tensor, rate: Tensor, force: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of cart (m/s2) and pole (rad/s2), [B] each: Lagrange's equations of a rod hinged to a cart.

        With m the pole's mass, l half its length and I its inertia about its end:

            (M + m) x''         + m l cos(a) a''  =  F + m l sin(a) a'^2 - d x' - k (x beyond the track)
            m l cos(a) x''      + I a''           =  m g l sin(a) - d a'
        """
        c = self.config
        half = 0.5 * c.pole_length
        sine, cosine = torch.sin(angle), torch.cos(angle)
        coupling = c.pole_mass * half * cosine
        mass = c.cart_mass + c.pole_mass + c.armature
        inertia = c.pole_mass * c.pole_length**2 / 3.0 + c.armature
        beyond = x - x.clamp(-c.track, c.track)
        along = force + c.pole_mass * half * sine * rate.square() - c.damping * speed - c.track_stiffness * beyond
        about = c.pole_mass * c.gravity * half * sine - c.damping * rate
        determinant = mass * inertia - coupling.square()  # > 0: m l^2 < I
        return (inertia * along - coupling * about) / determinant, (mass * about - coupling * along) / determinant

    def observe(self, inner: Tensor) -> Tensor:
        """See the base class and the table above."""
        x, angle, speed, rate = inner.unbind(-1)
        return torch.stack([x, speed, torch.sin(angle), torch.cos(angle), rate], -1)

    def rewarded(self, inner: Tensor, action: Tensor, after: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class and the table above."""
        x, angle, speed, rate = after.unbind(-1)
        turns = torch.round(angle.detach() / (2.0 * math.pi))
        wrapped = angle - 2.0 * math.pi * turns
        cost = wrapped.square() + 0.1 * rate.square() + 0.05 * x.square() + 0.1 * speed.square()
        return -cost, {"upright": torch.cos(angle)}


def cartpole_env(
    scenario: CartpoleScenario,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> CartpoleSwingUp:
    """The environment of a scenario; ``seed`` draws nothing."""
    return CartpoleSwingUp(scenario.cartpole, scenario.horizon_steps, scenario.pool_size, device, dtype)

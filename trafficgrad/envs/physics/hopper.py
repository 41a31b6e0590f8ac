"""A leg that hops: gymnasium's Hopper-v5 in batches, with gradients."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from trafficgrad.envs.physics.bodies import BodyEnv

_LOW, _HIGH, _TILT = 0.7, 1.25, 0.2  # m of the torso that fell, and at the start; rad at which it fell


@final
class Hopper(BodyEnv):
    """Hopper-v5: three joints, a decision is 8 ms.

    ============ ======================================= =================================================
    observation  height, tilt, 3 joints, and 6 rates     m, rad, m/s, rad/s; rates clipped to +-10
    action       torques of thigh, leg, foot             in units of 200 N m, [-1, 1]
    gym          speed + 1 while upright - 0.001 |a|^2
    shaped       speed + 2 (height - 0.7 m) / 0.55 m - 1, at most 1 more, + 1 - (tilt / 0.2)^2 - 0.001 |a|^2
    end          height <= 0.7, \\|tilt\\| >= 0.2, any number of the state beyond +-100
    ============ ======================================= =================================================
    """

    file, frame_skip, reset_noise, uniform_rates = "hopper.xml", 4, 5e-3, True
    labels = (
        "height (m)",
        "tilt (rad)",
        "thigh (rad)",
        "leg (rad)",
        "foot (rad)",
        "speed (m/s)",
        "climb (m/s)",
        "tilt' (rad/s)",
        "thigh' (rad/s)",
        "leg' (rad/s)",
        "foot' (rad/s)",
    )
    actions = ("thigh", "leg", "foot")

    def observe(self, inner: Tensor) -> Tensor:
        """See the base class and the table above."""
        return torch.cat([inner[:, 1:6], inner[:, 6:].clamp(-10.0, 10.0)], 1)

    def failed(self, inner: Tensor) -> Tensor:
        """See the base class and the table above."""
        far = ~((inner[:, 2:] > -100.0) & (inner[:, 2:] < 100.0)).all(1)
        return far | ~(inner[:, 1] > _LOW) | ~(inner[:, 2].abs() < _TILT)

    def gym_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """See the base class and the table above."""
        upright = (~self.failed(after)).to(speed.dtype)
        return speed + upright - 1e-3 * action.square().sum(1).to(speed.dtype)

    def shaped_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """See the base class and the table above."""
        height = ((after[:, 1] - _LOW) / (_HIGH - _LOW)).clamp(max=1.0)
        tilt = (after[:, 2] / _TILT).square()
        return speed + (2.0 * height - 1.0) + (1.0 - tilt) - 1e-3 * action.square().sum(1).to(speed.dtype)

"""A flat cheetah on two legs: gymnasium's HalfCheetah-v5 in batches, with gradients."""

from __future__ import annotations

from typing import final

from torch import Tensor

from trafficgrad.envs.physics.bodies import BodyEnv

_JOINTS = tuple(f"{side} {part}" for side in ("back", "front") for part in ("thigh", "shin", "foot"))


@final
class HalfCheetah(BodyEnv):
    """HalfCheetah-v5: six joints, a decision is 50 ms. Its ``shaped`` reward is gymnasium's, which has slopes.

    ============ ======================================= ==========================
    observation  height, tilt, 6 joints, and 9 rates     m, rad, m/s, rad/s
    action       torques of thighs, shins, feet          in units of their gears, [-1, 1]
    reward       speed - 0.1 |a|^2
    end          after 1000 decisions                    never earlier
    ============ ======================================= ==========================
    """

    file, frame_skip, reset_noise, uniform_rates = "half_cheetah.xml", 5, 0.1, False
    labels = (
        "height (m)",
        "tilt (rad)",
        *(f"{joint} (rad)" for joint in _JOINTS),
        "speed (m/s)",
        "climb (m/s)",
        "tilt' (rad/s)",
        *(f"{joint}' (rad/s)" for joint in _JOINTS),
    )
    actions = _JOINTS

    def observe(self, inner: Tensor) -> Tensor:
        """See the base class and the table above."""
        return inner[:, 1:]

    def gym_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """See the base class and the table above."""
        return speed - 0.1 * action.square().sum(1).to(speed.dtype)

    def shaped_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """See the base class and the table above."""
        return self.gym_reward(speed, action, after)

"""A body on four legs: gymnasium's Ant-v5 in batches, with gradients."""

from __future__ import annotations

from typing import final

from torch import Tensor

from trafficgrad.envs.physics.bodies import BodyEnv

_LOW, _HIGH = 0.2, 1.0  # m, heights of the torso within which it is well
_JOINTS = tuple(f"{joint} {i}" for i in range(1, 5) for joint in ("hip", "ankle"))


@final
class Ant(BodyEnv):
    """Ant-v5 without contact forces: eight joints, a decision is 50 ms.

    Gymnasium's options ``include_cfrc_ext_in_observation=False`` and ``contact_cost_weight=0``: contact forces are not
    differentiated. The speed is that of ``qpos`` between decisions; gymnasium reads the torso's position of the last
    evaluation within the step, so single rewards differ a little, and sums only by the first and last of an episode.

    ============ ======================================= ===============================================
    observation  height, attitude, 8 joints, 14 rates    m, quaternion, rad, m/s, rad/s
    action       torques of hips and ankles              in units of 150 N m, [-1, 1]
    gym          speed + 1 while well - 0.5 |a|^2
    shaped       speed + 0.1 up + heading + height - 0.27 m - 0.5 |a|^2
    end          height not within 0.2 to 1 m
    ============ ======================================= ===============================================

    ``up`` is the vertical part of the body's vertical axis, ``heading`` the part along x of its first axis.
    """

    file, frame_skip, reset_noise, uniform_rates = "ant.xml", 5, 0.1, False
    labels = (
        "height (m)",
        *(f"attitude {axis}" for axis in "wxyz"),
        *(f"{joint} (rad)" for joint in _JOINTS),
        *(f"speed {axis} (m/s)" for axis in "xyz"),
        *(f"turn {axis} (rad/s)" for axis in "xyz"),
        *(f"{joint}' (rad/s)" for joint in _JOINTS),
    )
    actions = tuple(f"{joint} {i}" for i in (4, 1, 2, 3) for joint in ("hip", "ankle"))  # the actuators' order

    def observe(self, inner: Tensor) -> Tensor:
        """See the base class and the table above."""
        return inner[:, 2:]

    def failed(self, inner: Tensor) -> Tensor:
        """See the base class and the table above."""
        return ~((inner[:, 2] >= _LOW) & (inner[:, 2] <= _HIGH) & inner.isfinite().all(1))

    def gym_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """See the base class and the table above."""
        well = (~self.failed(after)).to(speed.dtype)
        return speed + well - 0.5 * action.square().sum(1).to(speed.dtype)

    def shaped_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """See the base class and the table above."""
        x, y, z = after[:, 4:7].unbind(1)
        up = 1.0 - 2.0 * (x * x + y * y)
        heading = 1.0 - 2.0 * (y * y + z * z)
        effort = 0.5 * action.square().sum(1).to(speed.dtype)
        return speed + 0.1 * up + heading + (after[:, 2] - 0.27) - effort

"""From a policy's action to what controlled vehicles do in each simulator step of a decision, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import scale_gradient
from trafficgrad.scenario_sections.control import ControlConfig
from trafficgrad.state import Action, TrafficState
from trafficgrad.traffic_scenario import TrafficScenario


def action_labels(scenario: TrafficScenario) -> tuple[str, ...]:
    """Names of the components of one controlled vehicle's action."""
    if scenario.control.command == "heading_and_speed":
        return ("desired_speed", "desired_heading")
    second = {"lane": ("lane_request",), "steered": ("steering",), "acceleration": ()}
    return ("acceleration", *second[scenario.vehicles.controlled.control])


class HeldAction:
    """One decision's action, offered to the simulator step by step.

    The acceleration, or the desired speed and heading, is held. A lane request is offered in each step until it is
    granted; its gradient is that of the granting step, or the mean over the offers if none was granted. What lies
    beyond a bound is clipped, with slope 0.
    """

    def __init__(self, scenario: TrafficScenario, action: Tensor, vehicles: int, worlds: int) -> None:
        rows = action.reshape(worlds, vehicles, -1)
        # Elsewhere than on a CPU looking at values would wait for the device.
        if rows.device.type == "cpu" and not bool(torch.isfinite(rows).all()):
            world, vehicle, _ = (~torch.isfinite(rows)).nonzero()[0].tolist()
            raise TrafficGradError(f"the action is not finite for controlled vehicle {vehicle} of world {world}")
        self._control, self._kind = scenario.control, scenario.vehicles.controlled.control
        self._first, self._second = rows[..., 0], rows[..., 1] if rows.shape[-1] > 1 else None
        self._done = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        # Weights of the offers' gradients; they are known at the decision's end, before anybody asks for a gradient.
        steps = scenario.simulation.decision_steps
        self._weights = rows.new_full((steps, *rows.shape[:2]), 1.0 / steps)
        self._step = 0

    def at(self, i: int, traffic: TrafficState, slots: Tensor) -> Action:
        """The action of simulator step ``i``, which begins with ``traffic``; ``slots`` of the controlled vehicles."""
        self._step = i
        control, second = self._control, self._second
        speed = traffic.speed[:, slots]
        if control.command == "heading_and_speed":
            wished = _between(self._first, control.speed)
            acceleration = control.speed_gain * (wished - speed)
            course = _between(torch.zeros_like(speed) if second is None else second, control.heading)
            second = control.heading_gain * (course - traffic.heading[:, slots])
        else:
            acceleration = self._first * control.acceleration_scale
            second = second * control.steering_scale if second is not None and self._kind == "steered" else second
        acceleration = _limit_speed(_clip(acceleration, *control.acceleration), speed, control)
        if self._kind == "steered" and second is not None:
            return Action(acceleration, None, _clip(second, *control.steering))
        if self._kind != "lane" or second is None:
            return Action(acceleration)
        request = scale_gradient(second, self._weights[i])
        return Action(acceleration, torch.where(self._done, 0.0, request))

    def granted(self, changed: Tensor) -> None:
        """Tell which controlled vehicles [B, C] changed lane in the step just done."""
        first = changed & ~self._done
        only_here = torch.zeros_like(self._weights)
        only_here[self._step] = 1.0
        self._weights.copy_(torch.where(first, only_here, self._weights))
        self._done = self._done | changed


def encode(scenario: TrafficScenario, action: Action, traffic: TrafficState, slots: Tensor) -> Tensor:
    """The rows [B, C, A] that make the controlled vehicles do ``action`` in the step that begins with ``traffic``."""
    control, kind = scenario.control, scenario.vehicles.controlled.control
    zero = torch.zeros_like(action.acceleration)
    steering = zero if action.steering is None else action.steering
    if control.command == "heading_and_speed":
        speed = traffic.speed[:, slots] + action.acceleration / control.speed_gain
        course = traffic.heading[:, slots] + steering / control.heading_gain
        return torch.stack([_share(speed, control.speed), _share(course, control.heading)], -1)
    parts = [action.acceleration / control.acceleration_scale]
    if kind == "lane":
        parts.append(zero if action.lane is None else action.lane)
    elif kind == "steered":
        parts.append(steering / control.steering_scale)
    return torch.stack(parts, -1)


def _limit_speed(acceleration: Tensor, speed: Tensor, control: ControlConfig) -> Tensor:
    if control.speed_limits is None:
        return acceleration
    low, high = control.speed_limits
    back = high - speed
    acceleration = torch.where((speed > high) & (acceleration > back), back, acceleration)
    back = low - speed
    return torch.where((speed < low) & (acceleration < back), back, acceleration)


def _between(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """-1 ... 1 to the bounds."""
    low, high = bounds
    return low + 0.5 * (high - low) * (_clip(x, -1.0, 1.0) + 1.0)


def _share(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Inverse of :func:`_between` within the bounds."""
    low, high = bounds
    return 2.0 * (x - low) / (high - low) - 1.0


def _clip(x: Tensor, low: float, high: float) -> Tensor:
    return torch.where(x > low, torch.where(x < high, x, high), low)

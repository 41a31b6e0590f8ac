"""From a policy's action to what controlled vehicles do in each simulator step of a decision, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trafficgrad.envs.lane_command import LaneCommand
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import scale_gradient
from trafficgrad.scenario_sections.control import ControlConfig
from trafficgrad.scenario_sections.roads import StraightNetwork
from trafficgrad.state import Action, TrafficState
from trafficgrad.traffic_scenario import TrafficScenario

SWITCH = ("next phase",)  # names of the components of one signal's action


def action_labels(scenario: TrafficScenario) -> tuple[str, ...]:
    """Names of the components of one controlled vehicle's action."""
    if scenario.control.command == "heading_and_speed":
        return ("desired_speed", "desired_heading")
    if isinstance(scenario.network, StraightNetwork) and scenario.control.command == "lanes":
        return ("desired_speed", *(f"urgency of lane {k}" for k in range(scenario.network.lanes)))
    second = {"lane": ("lane_request",), "steered": ("steering",), "acceleration": ()}
    return ("acceleration", *second[scenario.vehicles.controlled.control])


@dataclass(frozen=True)
class Switches:
    """Which signals actions switch: ``signals`` [S'] of ``count``."""

    signals: Tensor
    count: int

    def spread(self, requests: Tensor) -> Tensor | None:
        """Requests [B, S'] as :class:`Action` has them, [B, S]; None where nothing is switched."""
        if not len(self.signals):
            return None
        return requests.new_zeros(len(requests), self.count).index_copy(1, self.signals, requests)


class _Bounded(torch.autograd.Function):
    """``rows`` [B, C, A] times ``scale`` within ``low`` and ``high`` [A, 1, 1], one component [B, C] after the other.

    One function, as a training calls it in every decision: in single operations it takes as long as a small simulation.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
        asked = rows.movedim(-1, 0) * scale
        given = asked.clamp(low, high).contiguous()
        ctx.beyond, ctx.scale = given != asked, scale
        ctx.set_materialize_grads(False)
        return tuple(given.unbind())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        there = next(bar for bar in bars if bar is not None)
        bar = torch.stack([torch.zeros_like(there) if bar is None else bar for bar in bars]) * ctx.scale
        return bar.masked_fill_(ctx.beyond, 0.0).movedim(0, -1), None, None, None


class ActionBounds:
    """What a component of a vehicle's action stands for: so much of something, within bounds."""

    def __init__(self, scenario: TrafficScenario, dtype: torch.dtype, device: torch.device) -> None:
        control = scenario.control
        second = {
            "lane": [(1.0, -math.inf, math.inf)],
            "steered": [(control.steering_scale, *control.steering)],
            "acceleration": [],
        }[scenario.vehicles.controlled.control]
        parts = [(control.acceleration_scale, *control.acceleration), *second]
        self._parts = torch.tensor(parts, dtype=dtype, device=device).T[..., None, None]

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Acceleration, and lane request or steering where there is one, [B, C], of rows [B, C, A]."""
        first, *rest = _Bounded.apply(rows, *self._parts)
        return first, rest[0] if rest else None


class HeldAction:
    """One decision's action, offered to the simulator step by step.

    The acceleration, or the desired speed and heading, is held. A lane request is offered in each step until it is
    granted; its gradient is that of the granting step, or the mean over the offers if none was granted. What lies
    beyond a bound is clipped, with slope 0. Requests to signals are held.

    An action is for the vehicle that was in the slot when it was decided: an empty slot's does nothing, and whoever
    comes during the decision keeps its speed (at most what car following allows, with ``follow_limit``).
    """

    def __init__(
        self,
        scenario: TrafficScenario,
        action: Tensor,
        traffic: TrafficState,
        slots: Tensor,
        switches: Switches,
        lanes: LaneCommand | None = None,
    ) -> None:
        """``action`` is the environment's, decided for ``traffic``; ``slots`` [C] of the controlled vehicles.

        ``lanes``: what actions mean with the command ``lanes``.
        """
        self._lanes = lanes
        worlds, vehicles = traffic.worlds, len(slots)
        flat = action.reshape(worlds, -1)
        # Elsewhere than on a CPU looking at values would wait for the device.
        if flat.device.type == "cpu" and not bool(torch.isfinite(flat).all()):
            _refuse(flat, vehicles, switches)
        driving = flat.shape[1] - len(switches.signals)
        rows = flat[:, :driving].reshape(worlds, vehicles, driving // max(vehicles, 1))
        self._signal = switches.spread(flat[:, driving:])
        self._control, self._kind, self._slots = scenario.control, scenario.vehicles.controlled.control, slots
        self._rows = rows if vehicles else flat.new_zeros(worlds, 0, len(action_labels(scenario)))
        self._begin, self._steps, self._step = traffic, scenario.simulation.decision_steps, 0

    @cached_property
    def _first(self) -> Tensor:
        return self._rows[..., 0]

    @cached_property
    def _second(self) -> Tensor | None:
        return self._rows[..., 1] if self._rows.shape[-1] > 1 else None

    @cached_property
    def _vehicle(self) -> Tensor:
        return self._begin.vehicle_id[:, self._slots]

    @cached_property
    def _there(self) -> Tensor:
        return self._begin.active[:, self._slots]

    @cached_property
    def _done(self) -> Tensor:
        """Whose request was granted."""
        return torch.zeros(self._first.shape, dtype=torch.bool, device=self._first.device)

    @cached_property
    def _weights(self) -> Tensor:
        """Of the offers' gradients; they are known at the decision's end, before anybody asks for a gradient."""
        return self._first.new_full((self._steps, *self._first.shape), 1.0 / self._steps)

    def constant(self, traffic: TrafficState, steps: int, bounds: ActionBounds) -> Action | None:
        """The action if it is the same in all ``steps`` that begin with ``traffic``, but for requests that end when
        they are granted; else None. Only on roads that nobody comes to.
        """
        control = self._control
        if control.command != "direct":
            return self.at(0, traffic) if steps == 1 else None
        if control.speed_limits is not None and steps > 1:
            return None
        # Empty slots do nothing whatever is asked of them.
        acceleration, second = bounds(self._rows)
        if control.speed_limits is not None:
            acceleration = _limit_speed(acceleration, traffic.speed[:, self._slots], control)
        if self._kind == "steered":
            return Action(acceleration, None, second, self._signal)
        return Action(acceleration, second, signal=self._signal)

    def at(self, i: int, traffic: TrafficState) -> Action:
        """The action of simulator step ``i``, which begins with ``traffic``."""
        self._step = i
        control, second, slots = self._control, self._second, self._slots
        speed = traffic.speed[:, slots]
        addressed = self._there & traffic.active[:, slots] & (traffic.vehicle_id[:, slots] == self._vehicle)
        if control.command == "heading_and_speed":
            wished = _between(self._first, control.speed)
            acceleration = control.speed_gain * (wished - speed)
            course = _between(torch.zeros_like(speed) if second is None else second, control.heading)
            second = control.heading_gain * (course - traffic.heading[:, slots])
        elif self._lanes is not None:
            wished, beside = self._lanes(self._rows, traffic)
            acceleration = control.speed_gain * (wished - speed)
            course = _clip(control.lanes.lateral_gain * beside, *control.heading)
            second = control.heading_gain * (course - traffic.heading[:, slots])
        else:
            acceleration = self._first * control.acceleration_scale
            second = second * control.steering_scale if second is not None and self._kind == "steered" else second
        acceleration = _limit_speed(_clip(acceleration, *control.acceleration), speed, control)
        acceleration = torch.where(addressed, acceleration, 0.0)
        if self._kind == "steered" and second is not None:
            steering = torch.where(addressed, _clip(second, *control.steering), 0.0)
            return Action(acceleration, None, steering, self._signal)
        if self._kind != "lane" or second is None:
            return Action(acceleration, signal=self._signal)
        request = second if self._steps == 1 else scale_gradient(second, self._weights[i])
        return Action(acceleration, torch.where(self._done | ~addressed, 0.0, request), signal=self._signal)

    def granted(self, changed: Tensor) -> None:
        """Tell which vehicles [B, N] changed lane in the step just done."""
        changed = changed[:, self._slots]
        first = changed & ~self._done
        only_here = torch.zeros_like(self._weights)
        only_here[self._step] = 1.0
        self._weights.copy_(torch.where(first, only_here, self._weights))
        self._done = self._done | changed


def _refuse(flat: Tensor, vehicles: int, switches: Switches) -> None:
    world, column = (~torch.isfinite(flat)).nonzero()[0].tolist()
    driving = flat.shape[1] - len(switches.signals)
    if column >= driving:
        whose = f"signal {int(switches.signals[column - driving])}"
    else:
        whose = f"controlled vehicle {column * vehicles // driving}"
    raise TrafficGradError(f"the action is not finite for {whose} of world {world}")


def encode(
    scenario: TrafficScenario, action: Action, traffic: TrafficState, slots: Tensor, switches: Switches
) -> tuple[Tensor, Tensor]:
    """The rows [B, C, A] of the controlled vehicles, and the requests [B, S'] to signals, that make ``action`` happen
    in the step that begins with ``traffic``.
    """
    requests = action.acceleration.new_zeros(traffic.worlds, len(switches.signals))
    if action.signal is not None and len(switches.signals):
        requests = action.signal[:, switches.signals]
    return _encode_vehicles(scenario, action, traffic, slots), requests


def _encode_vehicles(scenario: TrafficScenario, action: Action, traffic: TrafficState, slots: Tensor) -> Tensor:
    control, kind = scenario.control, scenario.vehicles.controlled.control
    if control.command == "lanes":
        raise TrafficGradError("with control.command: lanes no action makes a vehicle steer so: choose another command")
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
    if speed.device.type == "cpu" and not bool(((speed > high) | (speed < low)).any()):
        return acceleration
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
    return x.clamp(low, high)

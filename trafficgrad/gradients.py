"""Every deliberate gradient bias of the package. Forward values are exact unless the mode is ``sigmoid``.

What a discrete lane choice does to the future is mostly *who has whom as leader from then on*. Its straight-through
gradient therefore travels in the state: a vehicle's ``lateral`` coordinate is 0 in the forward pass and carries the
derivative of "being a little further to the left" from the moment of the decision to the moments when the position
across the road matters to somebody (:func:`membership_slopes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.state import PerDriver

T = TypeVar("T")

HARD_BRAKING = 6.0  # times the comfortable deceleration: as hard as tyres allow an ordinary driver
ContrastLimits = tuple[float, float] | Literal["drivers"] | None
Choices = Literal["all", "controlled"]
CHOICES: tuple[Choices, ...] = ("all", "controlled")
GradientMode = Literal["straight_through", "blocked", "sigmoid"]
MODES: tuple[GradientMode, ...] = ("straight_through", "blocked", "sigmoid")


@dataclass(frozen=True)
class LaneGradient:
    """How gradients pass a lane choice.

    Modes: ``straight_through``, hard decision forward, soft membership backward; ``blocked``, no gradient through the
    choice (the original GI-PPO system); ``sigmoid``, the deciding driver's acceleration is relaxed forward and backward
    (the lane itself stays hard), so values differ from the other two.

    With ``choices = "all"`` the loop from a driver's choice through everybody's reaction to the next driver's choice is
    closed: parameters of lane changes get gradients, but in dense multi-lane traffic these grow without bound over
    hundreds of steps. ``"controlled"`` cuts the loop at the drivers and keeps what the controlled vehicles' own lane
    choices do. docs/gradients.md has the measurements that decided the defaults.
    """

    mode: GradientMode = "straight_through"
    temperature: float = 0.1  # m/s2, softness of MOBIL's choice
    choice_temperature: float = 0.03  # -, softness of a controlled vehicle's lane request
    memory: float = 5.0  # s, how long the choice's gradient lives in `lateral`; may be inf
    transition_width: float = 0.5  # m, half width of a steered vehicle's transition between lanes
    contrast_limits: ContrastLimits = "drivers"  # clamp of the accelerations that are compared: (low, high) in m/s2,
    # None, or "drivers": every driver brakes by at most HARD_BRAKING times its comfortable deceleration
    choices: Choices = "all"  # whose: of all vehicles, or of the controlled ones (those of drivers are then blocked)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise TrafficGradError(
                f"LaneGradient.mode: unknown {self.mode!r}{nearest_name(str(self.mode), MODES)}; "
                f"valid are {', '.join(MODES)}"
            )
        if self.choices not in CHOICES:
            raise TrafficGradError(
                f"LaneGradient.choices: unknown {self.choices!r}{nearest_name(str(self.choices), CHOICES)}; "
                f"valid are {', '.join(CHOICES)}"
            )
        for name in ("temperature", "choice_temperature", "memory", "transition_width"):
            if not getattr(self, name) > 0:
                raise TrafficGradError(f"LaneGradient.{name} must be > 0, got {getattr(self, name)}")
        if isinstance(self.contrast_limits, str):
            if self.contrast_limits != "drivers":
                raise TrafficGradError(
                    f"LaneGradient.contrast_limits: unknown {self.contrast_limits!r}, expected (low, high), "
                    "None or 'drivers'"
                )
        elif self.contrast_limits is not None:
            low, high = self.contrast_limits
            if not low < high:
                raise TrafficGradError(
                    f"LaneGradient.contrast_limits must be (low, high) with low < high, got {self.contrast_limits}"
                )

    def decay(self, dt: float) -> float:
        """Factor by which ``lateral``'s gradient shrinks in one step: exp(-dt / memory)."""
        return math.exp(-dt / self.memory)


@dataclass(frozen=True)
class SignalGradient:
    """How gradients pass a signal that changes.

    Modes: ``straight_through``, the change comes at a whole step forward, at its exact time backward; ``blocked``, no
    gradient; ``sigmoid``, the step in which it comes is shared out forward and backward, so values differ a little.

    Two things depend on the time T of a change. Those who begin to brake or to go do so as much later as T is: that
    derivative is exact. And somebody who had to stop may get through, or the other way round: true derivative 0 almost
    everywhere, although the mean over traffic is not flat. Used: who stops for a red, and would have come ``u`` s too
    late to drive on, would have passed with a density exp(-u / headway) / headway in T, and as much in its own arrival.
    While it waits it would have driven at its free speed; when it goes, everybody would be one place further ahead.
    A green shorter than two headways, as a ramp meter has, lets one vehicle go whenever it ends: nothing of this there.
    """

    mode: GradientMode = "straight_through"
    headway: float = 2.0  # s, about the time between two vehicles of a queue

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise TrafficGradError(
                f"SignalGradient.mode: unknown {self.mode!r}{nearest_name(str(self.mode), MODES)}; "
                f"valid are {', '.join(MODES)}"
            )
        if not self.headway > 0:
            raise TrafficGradError(f"SignalGradient.headway must be > 0 s, got {self.headway}")


class _ScaleGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factor: Tensor | float, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.factor = factor
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *[None if bar is None else bar * ctx.factor for bar in bars])


def scale_gradient(x: Tensor, factor: Tensor | float) -> Tensor:
    """Identity forward; the cotangent is multiplied by ``factor``. True derivative 1, used derivative ``factor``."""
    return _ScaleGradients.apply(factor, x)[0]


def scale_gradients(record: T, factor: float) -> T:
    """:func:`scale_gradient` of every tensor of a record that requires one.

    With ``factor`` = gamma * tau on everything handed from one environment step to the next, one backward pass of the
    sum of all temporal-difference errors gives dA_t/da_t of the generalised advantage at every action.
    """
    found = [x for x in tree.leaves(record) if x.requires_grad]
    if not found:
        return record
    scaled = iter(_ScaleGradients.apply(factor, *found))
    return tree.tree_map(lambda x: next(scaled) if x.requires_grad else x, record)


def straight_through(x: Tensor) -> Tensor:
    """``x - sg(x)``: exactly 0 forward, derivative 1. True derivative of the 0 it stands for: 0."""
    return x - x.detach()


def pass_density(
    distance: Tensor, speed: Tensor, free: Tensor, stopping: Tensor, stop_deceleration: float, headway: float
) -> Tensor:
    """Density (1/s) in the time of a change to red of getting through, for vehicles that stop for it.

    True derivative of whether one passes: 0 almost everywhere. Used: exp(-u / headway) / headway, where u is by how
    much a vehicle comes too late to be unable to stop. Summed over a stream of vehicles its mean is their flow, as it
    must be. Where it could not stop is known exactly of a model whose interaction falls with the square of the gap.

    Parameters:
        distance: m to the stop line when the signal changes. speed: m/s then. free, stopping: accelerations on an empty
            road and towards the line, m/s2. stop_deceleration: m/s2, who would have to brake harder drives on.
        headway: s.
    """
    share = (free - stopping).clamp(min=0.0) / (free + stop_deceleration).clamp(min=0.1)
    missed_by = distance * (1.0 - share.sqrt()) / speed.clamp(min=1.0)
    return torch.exp(-missed_by.clamp(min=0.0) / headway) / headway


def membership_slopes(
    lateral: Tensor, steered: Tensor | None, exists: Tensor, lane_width: Tensor, transition_width: float
) -> Tensor:
    """Derivative of a vehicle's membership in the right, own and left lane with respect to ``lateral``.

    True derivative of the hard membership: 0 almost everywhere. Used: for vehicles bound to lanes difference slopes
    (+-1/(2W) where both sides exist, k/W and -k/W where one does); for steered vehicles the slope of
    m_k = softmax_k(-(y - kW)^2 / (2 W h)) over the lanes that exist.

    Parameters:
        lateral: [B, N] m. steered: [N] bool, or None where no vehicle is. exists: [B, N, 2] bool, right and left lane.
        lane_width: [B, N] m. transition_width: h in m.

    Returns:
        [B, N, 3] 1/m (right, own, left).
    """
    right, left = exists[..., 0].to(lateral.dtype), exists[..., 1].to(lateral.dtype)
    both = right * left
    m_left = left * (1.0 - 0.5 * both) / lane_width
    m_right = -right * (1.0 - 0.5 * both) / lane_width
    bound = torch.stack([m_right, -(m_left + m_right), m_left], -1)
    if steered is None:
        return bound
    m = soft_membership(lateral, exists, lane_width, transition_width)
    k = torch.tensor([-1.0, 0.0, 1.0], dtype=lateral.dtype, device=lateral.device)
    mean = (m * k).sum(-1, keepdim=True)
    return torch.where(steered[..., None].expand_as(bound), m * (k - mean) / transition_width, bound)


def soft_membership(lateral: Tensor, exists: Tensor, lane_width: Tensor, transition_width: float) -> Tensor:
    """m_k = softmax over existing lanes k of -(y - kW)^2 / (2 W h), shape [B, N, 3] (right, own, left)."""
    k = torch.tensor([-1.0, 0.0, 1.0], dtype=lateral.dtype, device=lateral.device)
    width = lane_width[..., None]
    present = torch.cat([exists[..., :1], torch.ones_like(exists[..., :1]), exists[..., 1:]], -1)
    logits = -((lateral[..., None] - k * width) ** 2) / (2.0 * width * transition_width)
    return torch.softmax(logits.masked_fill(~present, -math.inf), -1)


def clamp_contrast(acceleration: Tensor, limits: ContrastLimits, comfortable_deceleration: PerDriver) -> Tensor:
    """Accelerations whose difference is used as the effect of a lane membership, kept within ``limits``.

    A counterfactual gap can be 0.001 m, where a car-following model asks for 1e7 m/s2 and more. What that does to the
    speed ends at standstill, so that a difference of accelerations far overstates it.

    Parameters:
        acceleration: m/s2. comfortable_deceleration: of those who accelerate, m/s2; it broadcasts.
    """
    if limits is None:
        return acceleration
    if isinstance(limits, tuple):
        return acceleration.clamp(*limits)
    hardest = -HARD_BRAKING * comfortable_deceleration
    return torch.maximum(acceleration, hardest) if isinstance(hardest, Tensor) else acceleration.clamp(min=hardest)


def straight_through_choice(score: Tensor, value: Tensor, temperature: float) -> Tensor:
    """The value [...] of the alternative with the highest score, of [..., K] each.

    True derivative by the scores: 0, and none where the choice changes. Used: that of the mean value under a softmax of
    ``score / temperature``. By the values it is exact.
    """
    best = score.argmax(-1, keepdim=True)
    chosen = value.gather(-1, best).squeeze(-1)
    soft = (torch.softmax(score / temperature, -1) * value.detach()).sum(-1)
    return chosen + (soft - soft.detach())

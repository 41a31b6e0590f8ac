"""What there is to see: everything of one moment, as plain arrays, and who can tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np

from trafficgrad.network import RoadNetwork
from trafficgrad.render.style import Array

Caption: TypeAlias = str | float

MANY = 3000  # vehicles of a picture, beyond which it shows less of each: dots to scale, no trails, no links


@dataclass(frozen=True)
class Around:
    """Who drives ahead of whom in the own lane; empty slots have no leader."""

    leader: Array  # [N] int64, slot; -1 = none
    gap: Array  # [N] m, bumper to bumper; inf = none
    closing_speed: Array  # [N] m/s, own speed minus the leader's; 0 = no leader


@dataclass(frozen=True)
class Gradient:
    """Slopes of a window's return by what happened in one decision of it, and the part through lane changes.

    That part comes through straight-through estimates of discrete decisions: it is biased.
    """

    start: float  # s, when the window begins
    end: float  # s
    speed: Array  # [N] per m/s, by the vehicles' speeds before the decision
    speed_biased: Array  # [N], the part of it through lane changes
    action: Array  # [C, A] per unit of the action
    action_biased: Array  # [C, A]
    most_speed: float  # the largest slope by a speed in the window, of both kinds
    most_action: float  # by an action


@dataclass(frozen=True)
class Insight:
    """What is known of one decision beyond the traffic itself."""

    driver: str = ""  # who drives the controlled vehicles, such as "policy"
    terms: Mapping[str, float] = field(default_factory=dict)  # of the reward, and measures
    labels: tuple[str, ...] = ()  # of the A actions
    mean: Array | None = None  # [C, A], of the policy, in units of the action
    deviation: Array | None = None  # [C, A]
    gradient: Gradient | None = None
    by_hand: tuple[int, ...] = ()  # places of those that somebody at the keyboard drives instead


@dataclass(frozen=True)
class Frame:
    """One moment of one world; everything that a picture of it needs, as arrays over the ``N`` vehicle slots."""

    time: float  # s
    xy: Array  # [N, 2] m, centre of the vehicle in world coordinates
    heading: Array  # [N] rad, world
    length: Array  # [N] m
    width: Array  # [N] m
    speed: Array  # [N] m/s
    acceleration: Array  # [N] m/s2, of the step; NaN = not known
    desired_speed: Array  # [N] m/s; NaN = not known
    active: Array  # [N] bool
    vehicle_id: Array  # [N] int64: slots are reused, these are not
    lane: Array  # [N] int64, place on its edge, 0 = right
    changed: Array  # [N] s, when the lane was changed last; NaN = not yet
    side: Array  # [N] int64, to which side: 1 = left, -1 = right, 0 = not yet
    road: Array  # [N] int64, row of RoadLayout.roads
    distance: Array  # [N] m, front bumper along that road
    offset: Array  # [N] m, centre to the left of the road's middle line
    aside: Array  # [N, 2] m, from the street's axis to the vehicle's centre; see RoadLayout
    controlled: Array  # [C] int64, slots
    phase: Array  # [S] int64, of every signal; empty = not known
    caption: Mapping[str, Caption] = field(
        default_factory=dict
    )  # shown after time and mean speed, e.g. {"reward": 0.8}
    insight: Insight = field(default_factory=Insight)
    look: Callable[[], Around] | None = field(default=None, compare=False)  # finds ``around`` when it is asked for

    @cached_property
    def around(self) -> Around | None:
        """Leaders and gaps at the last recorded state; None where nobody knows."""
        return None if self.look is None else self.look()

    @cached_property
    def speed_deviation(self) -> float:
        """Standard deviation of the active vehicles' speeds in m/s; NaN on an empty road."""
        return float(self.speed[self.active].std()) if self.active.any() else float("nan")

    @cached_property
    def mean_speed(self) -> float:
        """Mean speed of all active vehicles in m/s; NaN on an empty road."""
        return float(self.speed[self.active].mean()) if self.active.any() else float("nan")


class Timed(Protocol):
    """Anything that is played over a span of time."""

    start: float  # s, time of the first frame
    step: float  # s, what "one step" means in the viewer

    @property
    def end(self) -> float:
        """S, time of the last frame."""
        ...


class FrameSource(Timed, Protocol):
    """Anything that can be looked at over a span of time. The viewer and the recorder know no more than this."""

    network: RoadNetwork
    max_speed: float  # m/s, upper end of the colour bar

    def frame(self, time: float) -> Frame:
        """The moment ``time`` in s, clipped to ``start`` to ``end``."""
        ...


def caption_items(frame: Frame) -> list[tuple[str, str]]:
    """Name and value, with unit, of everything that the caption says."""
    mean = "no vehicle" if np.isnan(frame.mean_speed) else f"{frame.mean_speed:.1f} m/s"
    items = [("time", f"{frame.time:.1f} s"), ("mean speed", mean)]
    return items + [
        (name, value if isinstance(value, str) else f"{value:.2f}") for name, value in frame.caption.items()
    ]


def caption_text(frame: Frame) -> str:
    """The caption in one line: ``time 12.3 s, mean speed 8.1 m/s, reward 0.82``."""
    return ", ".join(f"{name} {value}" for name, value in caption_items(frame))

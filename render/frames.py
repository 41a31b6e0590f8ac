"""Frames of a recorded trajectory, at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from torch import Tensor

from trafficgrad import tree
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.recording import Recording
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.moment import MANY, Around, Caption, Frame, Insight
from trafficgrad.render.motion import Motion
from trafficgrad.render.style import Array, nice_step
from trafficgrad.state import Fleet, Neighbors, PerDriver, TrafficState
from trafficgrad.trajectory import Trajectory

Series: TypeAlias = str | float | Sequence[float] | Array | Tensor

OWN = 1  # place of the own lane among a vehicle's surroundings
LANE_CHANGE_TIME = (
    0.8  # s that a lane change takes on the screen: the simulator's takes none, and a jump is easily missed
)


@dataclass(frozen=True)
class Tracks:
    """Where everybody went: samples of all vehicles over time, in road coordinates, for plots."""

    time: Array  # [K] s
    road: Array  # [K, N] int64, row of RoadLayout.roads
    distance: Array  # [K, N] m, front bumper; on closed roads within one lap
    advance: Array  # [K-1, N] m moved until the next sample, laps counted
    lane: Array  # [K, N] int64, place on the edge, 0 = right
    speed: Array  # [K, N] m/s
    continues: Array  # [K-1, N] bool, the same vehicle until the next sample


class Traffic(Protocol):
    """Roads and bodies of the vehicles: what a simulator says about how its states look."""

    @property
    def network(self) -> RoadNetwork:
        """Where the vehicles drive."""
        ...

    @property
    def fleet(self) -> Fleet:
        """Sizes, and which slots are controlled."""
        ...


@runtime_checkable
class Surveyed(Protocol):
    """Says who surrounds whom, as a simulator does."""

    def neighbors(self, state: TrafficState) -> Neighbors:
        """Of one state."""
        ...


@dataclass(frozen=True)
class Details:
    """What a trajectory alone does not tell, for :class:`TrajectoryFrames`."""

    desired_speed: PerDriver | None = None  # m/s
    neighbors: Callable[[TrafficState], Neighbors] | None = None
    insights: Sequence[Insight] = ()  # one a decision
    decision_steps: int = 1  # simulator steps of a decision


class TrajectoryFrames:
    """Frames of one world of a :class:`Trajectory`, at any time: motion between the recorded states is interpolated.

    Args:
        trajectory: fields ``[T+1, B, N]``.
        network: where it was driven.
        length, width: m, per driver (float, ``[P]`` or ``[B, P]``).
        controlled: slots of the controlled vehicles.
        world: which of the ``B`` worlds.
        captions: shown beside time and mean speed: constants, or one number per state (T+1) or per step (T).
        details: more to show of vehicles and decisions.

    Raises:
        TrafficGradError: no such world or slot, or a caption of another length.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        network: RoadNetwork,
        length: PerDriver,
        width: PerDriver,
        controlled: Sequence[int] | Tensor = (),
        world: int = 0,
        captions: Mapping[str, Series] | None = None,
        details: Details | None = None,
    ) -> None:
        states, worlds, slots = trajectory.position.shape
        if not 0 <= world < worlds:
            raise TrafficGradError(f"there is no world {world} in this trajectory; expected 0 to {worlds - 1}")
        self.controlled = np.asarray(controlled, dtype=np.int64).reshape(-1)
        if len(self.controlled) and not (self.controlled.min() >= 0 and self.controlled.max() < slots):
            raise TrafficGradError(
                f"controlled vehicles must be slots from 0 to {slots - 1}, got {self.controlled.tolist()}"
            )
        self.network, self.step = network, float(trajectory.dt)
        self._seen: dict[int, Around] = {}
        self.start = float(trajectory.time[0, world])
        self.end = self.start + (states - 1) * self.step
        self._captions = {name: _series(name, value, states) for name, value in (captions or {}).items()}

        self._trajectory, self._world, self._details = trajectory, world, details or Details()

        def read(name: str) -> Array:
            return np.asarray(getattr(trajectory, name)[:, world].detach().cpu().numpy())

        driver = read("driver")
        self._length, self._width = _per_vehicle(length, driver, world), _per_vehicle(width, driver, world)
        desired = self._details.desired_speed
        self._desired = _per_vehicle(float("nan") if desired is None else desired, driver, world)
        self._identity = read("vehicle_id")
        self._speed, self._active, self._heading = read("speed").astype(np.float64), read("active"), read("heading")
        finite = np.isfinite(read("position")) & np.isfinite(self._speed)
        if not (finite | ~self._active).all():
            t, n = (int(i) for i in np.argwhere(self._active & ~finite)[0])
            raise TrafficGradError(
                f"the trajectory cannot be drawn: vehicle slot {n} has no finite position or speed after step {t}"
            )
        # Not the maximum: one racing driver would take the colours from everybody else.
        fastest = float(np.quantile(self._speed[self._active], 0.99)) if self._active.any() else 0.0
        self.max_speed = _round_up(fastest)
        self._phase = read("phase")
        position, lateral = read("position").astype(np.float64), read("lateral").astype(np.float64)
        self._lay_out(read("lane"), position, lateral, read("previous"))

    @classmethod
    def of(
        cls,
        trajectory: Trajectory,
        traffic: Traffic,
        world: int = 0,
        captions: Mapping[str, Series] | None = None,
        details: Details | None = None,
    ) -> TrajectoryFrames:
        """The same with network, sizes, controlled slots and, where it tells, who surrounds whom from a simulator."""
        fleet, details = traffic.fleet, details or Details()
        if details.neighbors is None and isinstance(traffic, Surveyed):
            details = replace(details, neighbors=traffic.neighbors)
        return cls(trajectory, traffic.network, fleet.length, fleet.width, fleet.controlled, world, captions, details)

    @classmethod
    def of_recording(cls, recording: Recording, world: int = 0) -> TrajectoryFrames:
        """The same from a recording alone; who is ahead is found on its roads."""
        details = Details(recording.desired_speed, recording.neighbors)
        return cls(
            recording.trajectory,
            recording.network,
            recording.length,
            recording.width,
            recording.controlled,
            world,
            recording.captions,
            details,
        )

    def _lay_out(self, lane: Array, position: Array, lateral: Array, previous: Array) -> None:
        """Follow everybody over the lanes and find the lane changes, once."""
        layout = self.layout = RoadLayout.of(self.network)
        # Who left the road sideways (lane -1) keeps the coordinates of the lane left last.
        seen = np.where(lane >= 0, np.arange(len(lane))[:, None], 0)
        lane = np.take_along_axis(lane, np.maximum.accumulate(seen, axis=0), axis=0).clip(min=0)
        position, lateral = (np.where(self._active, x, 0.0) for x in (position, lateral))  # empty slots may hold NaN
        same = (self._identity[1:] == self._identity[:-1]) & self._active[1:] & self._active[:-1]
        motion = self._motion = Motion(layout, lane, position, lateral, previous, same, self._active, self.step)
        # Row k: the state just after the vehicle's latest jump (or new start) until k, and how far it jumped then.
        none = np.zeros((1, lane.shape[1]))
        event = np.where(motion.changes | ~motion.continues, np.arange(1, len(lane))[:, None], 0)
        after = np.maximum.accumulate(np.vstack([none.astype(np.int64), event]), axis=0)
        self._jump_step = after - 1
        jumps = np.vstack([none, np.where(motion.changes, motion.shift, 0.0)])
        self._jump = np.take_along_axis(jumps, after, axis=0)
        self._number = self.network.number.numpy()[lane]
        # Lane changes, steered ones too: when the last one was, -1 = none, and to which side.
        rows = np.arange(1, len(lane))[:, None]
        same_edge = motion.continues & (layout.edge[lane[1:]] == layout.edge[lane[:-1]])
        moved = np.where(same_edge, self._number[1:] - self._number[:-1], 0)
        begun = np.maximum.accumulate(np.vstack([none, np.where(motion.continues, 0, rows)]).astype(np.int64), axis=0)
        last = np.maximum.accumulate(np.vstack([none, np.where(moved != 0, rows, 0)]).astype(np.int64), axis=0)
        self._changed = np.where((last > 0) & (last > begun), last - 1, -1)
        sides = np.vstack([none, np.sign(moved)]).astype(np.int64)
        self._side = np.take_along_axis(sides, np.maximum(last, 0), axis=0)
        gained = np.where(motion.continues, self._speed[1:] - self._speed[:-1], np.nan) / self.step
        self._acceleration = np.vstack([gained, gained[-1:] if len(gained) else np.full_like(none, np.nan)])

    def tracks(self, stride: int = 1) -> Tracks:
        """Every ``stride``-th state in road coordinates, and how it leads to the next."""
        layout, motion = self.layout, self._motion
        rows = np.arange(0, len(self._speed), stride)
        lane, road = motion.lane[rows], layout.road[motion.lane[rows]]
        moved = np.vstack([np.zeros((1, lane.shape[1])), np.cumsum(motion.advance, axis=0)])[rows]
        breaks = np.vstack([np.zeros((1, lane.shape[1])), np.cumsum(~motion.continues, axis=0)])[rows]
        return Tracks(
            time=self.start + rows * self.step,
            road=road,
            distance=layout.wrap(road, layout.start[lane] + motion.position[rows]),
            advance=moved[1:] - moved[:-1],
            lane=self.network.number.numpy()[lane],
            speed=self._speed[rows],
            continues=breaks[1:] == breaks[:-1],
        )

    def frame(self, time: float) -> Frame:
        """The moment ``time`` in s: interpolated, lane changes drawn out to ``LANE_CHANGE_TIME``."""
        last = len(self._speed) - 1
        at = float(np.clip((time - self.start) / self.step, 0.0, last))
        k = min(int(at + 1e-6), last)  # 1e-6: a time that means a state exactly may have lost a digit
        part = max(at - k, 0.0)
        layout, motion, length = self.layout, self._motion, self._length[k]
        speed, heading = self._speed[k].copy(), self._heading[k].copy()
        jump_step, jump = self._jump_step[k], self._jump[k]
        if part > 0.0:
            moves, jumping = motion.continues[k], motion.changes[k]
            speed += np.where(moves, part * (self._speed[k + 1] - speed), 0.0)
            heading += np.where(moves, part * (self._heading[k + 1] - heading), 0.0)
            jump_step, jump = np.where(jumping, k, jump_step), np.where(jumping, motion.shift[k], jump)
        progress = np.clip((at - jump_step) * self.step / LANE_CHANGE_TIME, 0.0, 1.0)
        trail, lane, position, lateral = motion.at(k, part)
        lateral = lateral - jump * (1.0 - progress * progress * (3.0 - 2.0 * progress))
        front = motion.walk_back(trail, lane, position, lateral)
        middle = motion.walk_back(trail, lane, position - length / 2, lateral)
        bumper, direction = layout.on_lane(*front)
        if len(length) <= MANY:
            # Both bumpers' middles are on the lane: a body turns evenly, at the road's corners and in narrow turns.
            rear = motion.walk_back(trail, lane, position - length, lateral)
            chord = bumper - layout.on_lane(*rear)[0]
            direction = np.arctan2(chord[:, 1], chord[:, 0])
        return Frame(
            time=self.start + at * self.step,
            xy=bumper - length[:, None] / 2 * np.stack([np.cos(direction), np.sin(direction)], -1),
            heading=direction + heading,
            length=length,
            width=self._width[k],
            speed=speed,
            acceleration=self._acceleration[k],
            desired_speed=self._desired[k],
            active=self._active[k],
            vehicle_id=self._identity[k],
            lane=self._number[k],
            changed=np.where(self._changed[k] >= 0, self.start + self._changed[k] * self.step, np.nan),
            side=np.where(self._changed[k] >= 0, self._side[k], 0),
            road=layout.road[front[0]],
            distance=layout.wrap(layout.road[front[0]], layout.start[front[0]] + front[1]),
            offset=layout.offset[lane] + lateral,
            aside=layout.aside(*middle, direction),
            controlled=self.controlled,
            phase=self._phase[k],
            caption={name: _at(values, k) for name, values in self._captions.items()},
            insight=self._insight(k),
            look=None if self._details.neighbors is None else lambda: self._around(k),
        )

    def _insight(self, k: int) -> Insight:
        insights = self._details.insights
        return insights[min(k // self._details.decision_steps, len(insights) - 1)] if insights else Insight()

    def _around(self, k: int) -> Around:
        if k not in self._seen:
            assert self._details.neighbors is not None
            state = tree.index(self._trajectory.state(k), slice(self._world, self._world + 1))
            found = self._details.neighbors(state)
            parts = (x[0, :, OWN].detach().cpu().numpy() for x in (found.leader, found.gap, found.closing_speed))
            self._seen = {k: Around(*parts)}  # of this state only: pictures come in the order of time
        return self._seen[k]


def _series(name: str, value: Series, states: int) -> Array | str:
    if isinstance(value, str):
        return value
    numbers = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    if numbers.ndim == 0:
        return numbers[None]
    if numbers.ndim != 1 or len(numbers) not in (states, states - 1):
        raise TrafficGradError(
            f"caption {name!r} has shape {list(numbers.shape)}; "
            f"expected one number, one per state ({states}) or one per step ({states - 1})"
        )
    return numbers


def _at(values: Array | str, k: int) -> Caption:
    return values if isinstance(values, str) else float(values[min(k, len(values) - 1)])


def _per_vehicle(value: PerDriver, driver: Array, world: int) -> Array:
    """A per-driver value looked up for every slot at every time: ``[T+1, N]``."""
    if not isinstance(value, Tensor):
        return np.full(driver.shape, float(value))
    table = value.detach().cpu().numpy().astype(np.float64)
    if table.ndim == 0:
        return np.full(driver.shape, float(table))
    return np.asarray((table if table.ndim == 1 else table[world])[driver])


def _round_up(speed: float) -> float:
    """A round upper end for the colour bar, a little above ``speed`` or at it."""
    step = nice_step(max(speed, 1.0), 6)
    return float(np.ceil(max(speed, 1.0) / step - 1e-6) * step)

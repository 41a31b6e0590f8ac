"""What the times of signal changes do to traffic, backward: see :class:`trafficgrad.gradients.SignalGradient`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trafficgrad.car_following.base import look_up
from trafficgrad.gradients import GradientMode, pass_density, straight_through
from trafficgrad.right_of_way import Passage
from trafficgrad.signals import YIELDING, Signals
from trafficgrad.state import TrafficState

if TYPE_CHECKING:
    from trafficgrad.lane_stages import View
    from trafficgrad.simulator import Simulator


_SINGLE = 2.0  # headways: a shorter green lets one vehicle go


class Changes(NamedTuple):
    """Signals that have just changed, as the vehicles see them. Fields [B, N]."""

    turns_green: Tensor  # bool, for those who may go
    turns_red: Tensor  # bool, yellow included, for those who stop
    late: Tensor  # s, time of the change less the beginning of the step, in (-dt, 0], with graph
    waits: Tensor  # bool, the next gate is closed by a signal
    meters: Tensor  # bool, the phase before was so short that it lets one vehicle go whenever it ends


def changes(signals: Signals, state: TrafficState, view: View, passage: Passage, dt: float, headway: float) -> Changes:
    """What the next signal of every vehicle has just done; ``headway`` of vehicles in a queue, s."""
    ahead = view.neighbors.ahead
    assert ahead is not None
    j = view.tables.junctions
    gate = ahead.gate.gather(2, passage.gate[..., None])[..., 0]
    signal = torch.where((gate >= 0) & state.active, j.signal[gate.clamp(min=0)], -1)
    index, seen = j.signal_index[gate.clamp(min=0)], signal.clamp(min=0)
    before = (state.phase - 1) % signals.phases
    now, then = (signals.shown(phase, signal, index) >= YIELDING for phase in (state.phase, before))
    fresh = (state.phase_time < (1.0 - 1e-3) * dt).gather(1, seen) & (signal >= 0)
    late = (signals.begun(state) - state.time.detach()[:, None]).gather(1, seen)
    waits = (signal >= 0) & ~now & passage.closed
    meters = signals.lasts(before).gather(1, seen) < _SINGLE * headway
    # A green does not open the gate for who still yields to others, or finds no room behind the junction.
    return Changes(fresh & ~then & now & ~passage.closed & ~passage.enters, fresh & then & waits, late, waits, meters)


def shared_step(change: Changes, free: Tensor, stopping: Tensor, dt: float, mode: GradientMode) -> Tensor:
    """Acceleration in the step of a change, [B, N]: that of before lasts as long as the change is late.

    Parameters:
        free: without the gate. stopping: that stops there, as if it were closed.
    """
    braked = torch.where(stopping < free, stopping, free)
    new, old = torch.where(change.turns_red, braked, free), torch.where(change.turns_red, free, braked)
    if mode == "straight_through":
        return new + straight_through(change.late / dt) * (old - new).detach()
    return new + (change.late / dt + 1.0) * (old - new)


def carry_passing(
    sim: Simulator, before: TrafficState, state: TrafficState, view: View, passage: Passage, change: Changes
) -> TrafficState:
    """``state`` with the gradient of having passed a red, for those that wait at one."""
    if not _carries(sim):
        return state
    ahead = view.neighbors.ahead
    assert ahead is not None
    distance = ahead.gate_distance.gather(2, passage.gate[..., None])[..., 0]
    distance = torch.where(change.turns_red, distance, 0.0)
    with torch.no_grad():
        speed, nobody = before.speed, torch.full_like(before.speed, torch.inf)
        density = pass_density(
            distance,
            speed,
            view.model.acceleration(speed, nobody, torch.zeros_like(speed)),
            view.model.acceleration(speed, distance, speed),
            sim.right_of_way.stop_deceleration,
            sim.signal_gradient.headway,
        )
    # Passing becomes likelier if the red comes later, and if the vehicle is farther ahead.
    moved = straight_through(change.late) - straight_through(distance) / before.speed.detach().clamp(min=1.0)
    new = torch.where(change.turns_red & ~change.meters, density * moved, 0.0)
    gone = straight_through(torch.where(change.waits, 0.0, before.passed))
    place = look_up(sim.fleet.length, state.driver) + view.model.min_gap
    state = dataclasses.replace(
        state,
        passed=torch.where(change.waits, before.passed + new, 0.0),
        position=state.position + gone * (place.detach() if isinstance(place, Tensor) else place),
    )
    return dataclasses.replace(state, speed=state.speed + _gained(sim, state))


def hide_passing(sim: Simulator, state: TrafficState) -> TrafficState:
    """``state`` without what :func:`carry_passing` added to the speeds: only who looks at them shall see it.

    Car following would pull a vehicle back that is ahead of its place in the queue.
    """
    return dataclasses.replace(state, speed=state.speed - _gained(sim, state)) if _carries(sim) else state


def _carries(sim: Simulator) -> bool:
    return sim.signals is not None and sim.signal_gradient.mode == "straight_through" and torch.is_grad_enabled()


def _gained(sim: Simulator, state: TrafficState) -> Tensor:
    """0, with the gradient of the speed that waiting vehicles would have if they had passed, m/s. [B, N]."""
    t = sim.network.tables(state.position.dtype, state.position.device)
    limit = t.limit(state.lane.clamp(min=0)) * look_up(sim.fleet.speed_factor, state.driver)
    desired = look_up(sim.car_following.desired_speed, state.driver)
    free = torch.where(limit < desired, limit, desired)
    return straight_through(state.passed) * (free - state.speed).detach()

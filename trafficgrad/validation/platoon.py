"""String stability of a platoon: closed transfer function, autograd's, and a leader that swings in a simulation."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from trafficgrad.network import straight
from trafficgrad.render import validation_plots
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState
from trafficgrad.validation.report import near
from trafficgrad.validation.runs import Results, Run, drive, idm, step_jacobian, to_numpy
from trafficgrad.validation.theory import (
    FLOW,
    Array,
    Partials,
    bisect,
    equilibrium_gap,
    partials,
    peak_gain,
    string_stability,
    transfer,
)

FOLLOWERS = 20
SPEEDS = (5.0, 10.0, 15.0, 20.0, 25.0)  # m/s
SWUNG = (5.0, 10.0, 15.0)  # m/s, where a platoon amplifies: the leader swings at the frequency of the largest gain
SWING = 1e-4  # m/s, amplitude of the leader's speed: small signals
ROAD = 1e5  # m
DT_JACOBIAN = 2e-3  # s
SETTLE = 120.0  # s, in which the swing reaches the last car and start-up effects fade
PERIODS = 2  # over which the amplitudes are taken then
STEP_ERROR = 0.5  # 1/s: a gain is off by less than this share times the step, as the ballistic update is of first order
SOURCE = "transfer function"


def platoon(run: Run) -> Results:
    """Gain of one car and of twenty, and the speed from which a platoon damps every disturbance."""
    frequency = np.geomspace(1e-3, 3.0, 200 if run.quick else 600)
    responses = []
    for speed in SPEEDS:
        run.say(f"Jacobian of a platoon at {speed:.0f} m/s")
        responses.append(_autograd_response(run, speed, frequency))
        expected, gain = peak_gain(FLOW, speed)[0], np.abs(responses[-1])
        yield near(f"largest gain of a car at {speed:.0f} m/s, Jacobian", expected, gain[0].max(), 2e-4, "", 4, SOURCE)
        yield near(
            f"gain of {FOLLOWERS} cars at {speed:.0f} m/s, Jacobian", expected**FOLLOWERS, gain.prod(0).max(), 4e-3,
            "", 3, SOURCE,
        )  # fmt: skip
    dt = 0.05 if run.quick else 0.02
    swung = _swing(run, dt)
    for speed, amplitudes in zip(SWUNG, swung, strict=True):
        expected = peak_gain(FLOW, speed)[0] ** FOLLOWERS
        measured = amplitudes[-1] / amplitudes[0]
        yield near(
            f"gain of {FOLLOWERS} cars at {speed:.0f} m/s, swinging leader", expected, measured,
            STEP_ERROR * dt * expected, "", 3, SOURCE,
        )  # fmt: skip
    exact = bisect(lambda v: string_stability(partials(FLOW, v)), 5.0, 25.0)
    measured = bisect(lambda v: string_stability(_autograd_partials(run, v)), 5.0, 25.0, 16)
    yield near("stable from, Jacobian", exact, measured, 0.01, "m/s", 2, "f_v^2/2 + f_v f_dv = f_s")
    curves = [np.abs(transfer(FLOW, v, frequency)) for v in SPEEDS]
    gains = [np.abs(r[0]) for r in responses]
    yield partial(
        validation_plots.draw_platoon, frequency, SPEEDS, curves, gains, SWUNG, swung,
        [peak_gain(FLOW, v)[0] for v in SWUNG],
    )  # fmt: skip


def _line(run: Run, speeds: tuple[float, ...], followers: int) -> TrafficState:
    """World b: a leader (slot 0) and its followers in uniform flow at ``speeds[b]``."""
    spacing = run.tensor([float(equilibrium_gap(FLOW, v)) + FLOW.length for v in speeds])[:, None]
    place = torch.arange(followers + 1, dtype=torch.float64, device=run.device)
    position = ROAD / 20 - place * spacing
    lane = torch.zeros_like(position, dtype=torch.int64)
    return TrafficState(position, run.tensor(speeds)[:, None].expand(-1, followers + 1), lane)


def _simulator(run: Run, dt: float) -> Simulator:
    leader = torch.zeros(1, dtype=torch.int64, device=run.device)
    return Simulator(straight(ROAD), Fleet(controlled=leader), idm(FLOW), dt=dt)


def _jacobian(run: Run, speed: float, followers: int) -> Array:
    action = Action(run.tensor([0.0])[None])
    return step_jacobian(_simulator(run, DT_JACOBIAN), _line(run, (speed,), followers), action)


def _autograd_response(run: Run, speed: float, frequency: Array) -> Array:
    """Complex ratio of each follower's speed to that of the car ahead, [followers, frequencies]."""
    cars, dt = FOLLOWERS + 1, DT_JACOBIAN
    jacobian = _jacobian(run, speed, FOLLOWERS)
    push = np.zeros(2 * cars)
    push[0], push[cars] = dt**2 / 2, dt  # the leader's acceleration in a ballistic step
    turn = np.exp(1j * frequency * dt)
    response = np.linalg.solve(turn[:, None, None] * np.eye(2 * cars) - jacobian, push[:, None])[:, cars:, 0]
    return (response[:, 1:] / response[:, :-1]).T


def _autograd_partials(run: Run, speed: float) -> Partials:
    """Derivatives of the acceleration, read from the Jacobian of a step of two cars."""
    jacobian = (_jacobian(run, speed, 1) - np.eye(4))[3] / DT_JACOBIAN  # the follower's acceleration
    of_gap, of_leader_speed, of_own_speed = jacobian[0], jacobian[2], jacobian[3]
    return Partials(gap=of_gap, speed=of_own_speed + of_leader_speed, closing=-of_leader_speed)


def _swing(run: Run, dt: float) -> list[Array]:
    """Amplitude of every car's speed [cars], m/s, in a simulation whose leader swings, for each of ``SWUNG``."""
    rates = np.array([peak_gain(FLOW, v)[1] for v in SWUNG])  # rad/s
    simulator, state = _simulator(run, dt), _line(run, SWUNG, FOLLOWERS)
    angular = run.tensor(rates)[:, None]

    def steer(step: int, _: TrafficState) -> Action:
        now, then = torch.sin(angular * step * dt), torch.sin(angular * (step + 1) * dt)
        return Action(SWING * (then - now) / dt)

    window = PERIODS * 2 * np.pi / rates  # s
    seconds = SETTLE + float(window.max())
    record = drive(run, simulator, state, seconds, what="platoon behind a swinging leader", every=0.2, steer=steer)
    time, speed = np.arange(record.steps + 1) * record.dt, to_numpy(record.speed)
    amplitudes = []
    for b, rate in enumerate(rates):
        late = time > time[-1] - window[b]
        basis = np.stack([np.sin(rate * time[late]), np.cos(rate * time[late]), np.ones(late.sum())], -1)
        sine, cosine, _ = np.linalg.lstsq(basis, speed[late, b], rcond=None)[0]
        amplitudes.append(np.hypot(sine, cosine))
    return amplitudes

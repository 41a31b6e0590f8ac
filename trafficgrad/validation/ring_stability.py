"""Linear stability of uniform flow on a ring: closed form, the Jacobian that autograd gives, and simulation."""

from __future__ import annotations

from functools import partial

import numpy as np

from trafficgrad.network import ring
from trafficgrad.render import validation_plots
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.validation.report import near
from trafficgrad.validation.runs import (
    Results,
    Run,
    drive,
    idm,
    separate_rings,
    step_jacobian,
    to_numpy,
    uniform_traffic,
)
from trafficgrad.validation.theory import FLOW, Array, bisect, critical_length, ring_speed, wave_growth

CARS = 22
LENGTHS = (220.0, 230.0, 260.0, 300.0, 400.0, 500.0)
DT_JACOBIAN = 1e-3  # s: what the step's own error adds to a rate is below |lam|^2 dt / 2, lam = rate + i frequency
SOURCE = "dispersion relation"
PUSH = 1e-6  # m, displacement of one car that starts the waves
STEP_ERROR = 0.02  # 1/s2: a rate is off by less than this times the step, as the ballistic update is of first order
SETTLE, FIT = 45.0, 45.0  # s, after which each wave's slower root is alone, and over which it is fitted


def ring_stability(run: Run) -> Results:
    """Growth rates of the fastest wave on six rings, and the length from which uniform flow is stable."""
    lengths = LENGTHS[1::2] if run.quick else LENGTHS
    expected = [wave_growth(FLOW, length, CARS) for length in lengths]
    jacobians = []
    for length, rates in zip(lengths, expected, strict=True):
        run.say(f"Jacobian of a step on {length:.0f} m")
        jacobians.append(_jacobian(run, length))
        yield near(f"growth on {length:.0f} m, Jacobian", rates.max(), _growth(jacobians[-1]), 2e-5, "1/s", 5, SOURCE)
    dt = 0.02 if run.quick else 0.01
    grown = _simulated_growth(run, lengths, dt)
    for length, rates, seen in zip(lengths, expected, grown, strict=True):
        fastest = seen[rates.argmax()]
        yield near(f"growth on {length:.0f} m, simulated", rates.max(), fastest, STEP_ERROR * dt, "1/s", 5, SOURCE)
    run.say("critical length")
    rounds = 8 if run.quick else 14
    measured = bisect(lambda length: -_growth(_jacobian(run, length)), 400.0, 470.0, rounds)
    exact = critical_length(FLOW, CARS, 400.0, 470.0)
    yield near("critical length, Jacobian", exact, measured, 0.5, "m", 1, SOURCE)
    many = np.linspace(200.0, 520.0, 65)
    curve = many, np.array([wave_growth(FLOW, length, CARS).max() for length in many])
    waves = [_waves(jacobian) for jacobian in jacobians]
    yield partial(validation_plots.draw_ring_stability, lengths, expected, waves, grown, curve)


def _jacobian(run: Run, length: float) -> Array:
    """Jacobian of a short step in uniform flow, [2N, 2N]."""
    simulator = Simulator(ring(length), Fleet(), idm(FLOW), dt=DT_JACOBIAN)
    return step_jacobian(simulator, uniform_traffic(run, [length], CARS, ring_speed(FLOW, length, CARS)))


def _growth(jacobian: Array) -> float:
    """Largest growth rate, 1/s, without the neutral turn of the whole ring."""
    modes = np.linalg.eigvals(jacobian)
    rest = np.delete(modes, np.argmin(np.abs(modes - 1)))
    return float(np.log(np.abs(rest)).max() / DT_JACOBIAN)


def _waves(jacobian: Array) -> Array:
    """Growth rates of the waves k = 1 ... n // 2, 1/s: the Jacobian of equal drivers on a ring is block circulant."""
    rates = []
    for k in range(1, CARS // 2 + 1):
        wave = np.exp(2j * np.pi * k * np.arange(CARS) / CARS)
        parts = jacobian.reshape(2, CARS, 2, CARS)
        block = np.einsum("i,aibj,j->ab", wave.conj(), parts, wave) / CARS
        rates.append(np.log(np.abs(np.linalg.eigvals(block)).max()) / DT_JACOBIAN)
    return np.array(rates)


def _simulated_growth(run: Run, lengths: tuple[float, ...], dt: float) -> list[Array]:
    """Growth rates of all waves [k], 1/s, of every length: one car is displaced by a micrometre, which starts them all.

    The amplitude of wave k of the cars' speeds is |sum v_n exp(-2 pi i k n / N)|; its logarithm is fitted by a line.
    """
    speeds = [ring_speed(FLOW, length, CARS) for length in lengths]
    state = uniform_traffic(run, lengths, CARS, speeds)
    position = state.position.clone()
    position[:, 0] += PUSH
    simulator = Simulator(separate_rings(lengths), Fleet(), idm(FLOW), dt=dt)
    start = TrafficState(position, state.speed, state.lane)
    record = drive(run, simulator, start, SETTLE + FIT, what="waves from a displacement of 1e-6 m", every=1.0)
    time = np.arange(record.steps + 1) * record.dt
    late = time >= SETTLE
    amplitude = np.abs(np.fft.fft(to_numpy(record.speed), axis=-1))[late][..., 1 : CARS // 2 + 1]
    grown = []
    for b in range(len(lengths)):
        logs = np.log(np.maximum(amplitude[:, b], 1e-300))
        rates = np.polyfit(time[late], logs, 1)[0]
        grown.append(np.where(amplitude[:, b].min(0) > 1e-10, rates, np.nan))  # below lies rounding
    return grown

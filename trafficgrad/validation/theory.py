"""Closed forms of traffic theory for the Intelligent Driver Model, in NumPy, independent of the simulator.

M. Treiber, A. Hennecke, D. Helbing: Congested traffic states in empirical observations and microscopic simulations,
Phys. Rev. E 62 (2000) 1805. Notation: s gap, v speed, dv = v - v_leader; f(s, v, dv) acceleration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drivers:
    """IDM parameters that all drivers share."""

    desired_speed: float = 30.0  # v0, m/s
    time_headway: float = 1.0  # T, s
    max_acceleration: float = 1.0  # a, m/s2
    comfortable_deceleration: float = 1.5  # b, m/s2
    min_gap: float = 2.0  # s0, m
    length: float = 5.0  # m
    exponent: float = 4.0  # delta


# Wu et al., "Flow" (arXiv 1710.05465), its ring of 22 cars.
FLOW = Drivers()
# Treiber, Hennecke, Helbing (2000), 120 km/h.
TREIBER_2000 = Drivers(120 / 3.6, 1.6, 0.73, 1.67)
# As FLOW, but with a longer headway and a quicker answer: uniform flow is stable at every speed.
STABLE = Drivers(30.0, 1.5, 3.0, 1.5)
# City traffic of M. Treiber, A. Kesting: Traffic Flow Dynamics (2013), ch. 11: 54 km/h.
CITY = Drivers(15.0, 1.0, 1.0, 1.5)


@dataclass(frozen=True)
class Partials:
    """Derivatives of the acceleration in the equilibrium of one speed."""

    gap: float  # f_s, 1/s2
    speed: float  # f_v, 1/s
    closing: float  # f_dv, 1/s


def equilibrium_gap(drivers: Drivers, speed: float | Array) -> Array:
    """Gap (m) behind a leader of the same ``speed`` (m/s): (s0 + v T) / sqrt(1 - (v / v0)^delta)."""
    v = np.asarray(speed, dtype=np.float64)
    wished = drivers.min_gap + v * drivers.time_headway
    return np.asarray(wished / np.sqrt(1 - (v / drivers.desired_speed) ** drivers.exponent))


def equilibrium_speed(drivers: Drivers, gap: float) -> float:
    """Speed (m/s) of uniform flow with ``gap`` (m)."""
    return bisect(lambda v: float(equilibrium_gap(drivers, v)) - gap, 0.0, drivers.desired_speed * (1 - 1e-12))


def ring_speed(drivers: Drivers, length: float, cars: int) -> float:
    """Speed (m/s) of uniform flow of ``cars`` on a ring of ``length`` m."""
    return equilibrium_speed(drivers, length / cars - drivers.length)


def flow(drivers: Drivers, speed: float | Array) -> Array:
    """Vehicles per second and lane of uniform flow at ``speed`` (m/s): v / (s_e + l)."""
    return np.asarray(speed / (equilibrium_gap(drivers, speed) + drivers.length))


def capacity(drivers: Drivers) -> tuple[float, float]:
    """Largest flow of uniform traffic, vehicles per second and lane, and its speed, m/s."""
    v = np.linspace(0.0, drivers.desired_speed, 200_001)[1:-1]
    best = int(np.argmax(flow(drivers, v)))
    return float(flow(drivers, v[best])), float(v[best])


def partials(drivers: Drivers, speed: float) -> Partials:
    """Derivatives of the acceleration in the equilibrium of ``speed`` (m/s)."""
    a, v0, delta = drivers.max_acceleration, drivers.desired_speed, drivers.exponent
    s = float(equilibrium_gap(drivers, speed))
    wished = drivers.min_gap + speed * drivers.time_headway
    return Partials(
        gap=2 * a * wished**2 / s**3,
        speed=-a * (delta / v0 * (speed / v0) ** (delta - 1) + 2 * drivers.time_headway * wished / s**2),
        closing=-speed / s**2 * wished * math.sqrt(a / drivers.comfortable_deceleration),
    )


def wave_growth(drivers: Drivers, length: float, cars: int) -> Array:
    """Growth rates (1/s) of the waves k = 1 ... cars // 2 of uniform flow on a ring of ``length`` m.

    Real part of the larger root of lam^2 - (f_v + f_dv (1 - e)) lam + f_s (1 - e) = 0, e = exp(-2 pi i k / n).
    """
    f = partials(drivers, ring_speed(drivers, length, cars))
    behind = 1 - np.exp(-2j * np.pi * np.arange(1, cars // 2 + 1) / cars)
    linear = f.speed + f.closing * behind
    root = np.sqrt(linear**2 - 4 * f.gap * behind)
    return np.maximum(((linear + root) / 2).real, ((linear - root) / 2).real)


def critical_length(drivers: Drivers, cars: int, low: float, high: float) -> float:
    """Length (m) between ``low`` and ``high`` of the ring on which uniform flow of ``cars`` turns stable."""
    return bisect(lambda length: -float(wave_growth(drivers, length, cars).max()), low, high)


def transfer(drivers: Drivers, speed: float, frequency: Array) -> npt.NDArray[np.complex128]:
    """Ratio of a follower's speed oscillation to its leader's at ``frequency`` (rad/s), in traffic of ``speed`` m/s.

    G(lam) = (f_s - lam f_dv) / (lam^2 - (f_v + f_dv) lam + f_s) at lam = i omega.
    """
    f, lam = partials(drivers, speed), 1j * frequency
    return np.asarray((f.gap - lam * f.closing) / (lam**2 - (f.speed + f.closing) * lam + f.gap))


def peak_gain(drivers: Drivers, speed: float) -> tuple[float, float]:
    """Largest |G| over all frequencies and where (rad/s); a platoon that damps everything has 1 at frequency 0."""
    frequency = np.linspace(0.0, 3.0, 300_001)
    gain = np.abs(transfer(drivers, speed, frequency))
    best = int(np.argmax(gain))
    return float(gain[best]), float(frequency[best])


def string_stability(f: Partials) -> float:
    """f_v^2 / 2 + f_v f_dv - f_s, 1/s2: positive where a platoon damps long waves."""
    return f.speed**2 / 2 + f.speed * f.closing - f.gap


def queue_discharge(drivers: Drivers, vehicles: int, formed: bool = False, dt: float = 0.01) -> Array:
    """When each of a queue passes the stop line, s after green, [vehicles]; integrated in steps of ``dt`` s.

    Parameters:
        formed: whether the queue has formed by itself, out of traffic at half the desired speed that came to a red
            signal; else the first stands ``min_gap`` before the line and the others as close behind each other.
    """
    parameters = {name: np.asarray(value, dtype=np.float64) for name, value in vars(drivers).items()}
    pace = drivers.desired_speed / 2 if formed else 0.0
    gap = float(equilibrium_gap(drivers, pace))
    begin = -(gap + 20.0 * pace)  # 20 s away, and gone through by the last
    time = -2.0 * vehicles * gap / pace - 20.0 if formed else 0.0
    place = begin - (drivers.length + gap) * np.arange(vehicles, dtype=np.float64)
    speed, passed = np.full(vehicles, pace), np.full(vehicles, np.nan)
    while np.isnan(passed[-1]):
        red = time < -dt / 2
        gaps = np.concatenate([[-place[0] if red else np.inf], place[:-1] - drivers.length - place[1:]])
        closing = np.concatenate([[speed[0] if red else 0.0], speed[1:] - speed[:-1]])
        faster = np.maximum(0.0, speed + idm_acceleration(speed, gaps, closing, parameters) * dt)
        moved = (speed + faster) / 2 * dt
        now = (place <= 0.0) & (place + moved > 0.0)
        passed[now] = time - dt * place[now] / moved[now]
        place, speed, time = place + moved, faster, time + dt
    return passed


def bisect(function: Callable[[float], float], low: float, high: float, rounds: int = 200) -> float:
    """Root of a function that is negative at ``low`` and positive at ``high``."""
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def idm_acceleration(
    speed: Array, gap: Array, closing_speed: Array, parameters: dict[str, Array], whole: bool = False
) -> Array:
    """IDM acceleration, m/s2; ``parameters`` by the names of :class:`Drivers`.

    ``whole`` False: s* = s0 + max(0, ...); True: s* = max(0, s0 + ...). The gap is bounded below at 0.001 m.
    """
    p = parameters
    strength = 2 * np.sqrt(p["max_acceleration"] * p["comfortable_deceleration"])
    dynamic = speed * p["time_headway"] + speed * closing_speed / strength
    wished = np.maximum(0.0, p["min_gap"] + dynamic) if whole else p["min_gap"] + np.maximum(0.0, dynamic)
    free = (speed / p["desired_speed"]) ** p["exponent"]
    return np.asarray(p["max_acceleration"] * (1 - free - (wished / np.maximum(gap, 1e-3)) ** 2))

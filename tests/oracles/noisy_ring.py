"""Noisy traffic on a ring, in NumPy and independent of the package: ``python tests/oracles/noisy_ring.py`` (seconds).

22 of Flow's drivers with acceleration noise 0.2 m/s2/sqrt(s), semi-implicit Euler, dt 0.1 s, speeds clipped at 0, from
standstill, 20 seeds. It prints what ``trafficgrad validate`` names "independent integrator": the settled jam of groups
``jam`` (400-600 s) and ``control`` (300-400 s), and the last 100 s of traffic in which one car drives the speed of
uniform flow from the start (300 s), or dissolves a jam grown for 400 s (1000 s).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CARS, BODY, DT, NOISE, SEEDS = 22, 5.0, 0.1, 0.2, 20
V0, T, A, B, S0 = 30.0, 1.0, 1.0, 1.5, 2.0
UNIFORM = {230.0: 3.4541, 260.0: 4.8159}  # m/s, of uniform flow
Target = Callable[[float], "float | None"]  # time (s) -> share of uniform flow that car 0 aims at; None: it is human


def simulate(length: float, seconds: float, target: Target = lambda time: None) -> tuple[np.ndarray, np.ndarray]:
    """Positions (m) and speeds (m/s) [times, seeds, cars], once in 0.5 s."""
    generator = np.random.default_rng(0)
    x = np.tile(np.arange(CARS) * length / CARS, (SEEDS, 1))
    v = np.zeros((SEEDS, CARS))
    places, speeds = [x.copy()], [v.copy()]
    for step in range(round(seconds / DT)):
        gap = np.maximum((np.roll(x, -1, 1) - x) % length - BODY, 1e-3)
        wished = S0 + np.maximum(0.0, v * T + v * (v - np.roll(v, -1, 1)) / (2 * np.sqrt(A * B)))
        human = A * (1 - (v / V0) ** 4 - (wished / gap) ** 2)
        acceleration = human + NOISE * np.sqrt(DT) * generator.standard_normal(v.shape)
        share = target(step * DT)
        if share is not None:
            wish = np.clip(share * UNIFORM[length] - v[:, 0], -1.0, 1.0)
            acceleration[:, 0] = np.minimum(wish, human[:, 0])
        v = np.maximum(0.0, v + acceleration * DT)
        x = (x + v * DT) % length
        if (step + 1) % 5 == 0:
            places.append(x.copy())
            speeds.append(v.copy())
    return np.array(places), np.array(speeds)


def wave_speed(position: np.ndarray, speed: np.ndarray, length: float) -> np.ndarray:
    """Speed (km/h) of the middle of the standing cars, [seeds]; records are 0.5 s apart."""
    place = np.unwrap(np.angle((np.exp(-speed) * np.exp(2j * np.pi * position / length)).sum(-1)), axis=0)
    return np.polyfit(np.arange(len(place)) * 0.5, place, 1)[0] * length / (2 * np.pi) * 3.6


def dissolve(time: float) -> float | None:
    """Human for 400 s, 0.7 of uniform flow for 100 s, then up to uniform flow within 100 s."""
    return None if time < 400 else 0.7 + 0.3 * min(1.0, max(0.0, (time - 500) / 100))


def main() -> None:
    """Print mean [lowest seed, highest seed]."""

    def say(name: str, values: np.ndarray) -> None:
        print(f"  {name}: {values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]", flush=True)

    def late(speed: np.ndarray) -> None:
        say("mean speed, m/s", speed.mean((0, 2)))
        say("deviation, m/s", speed.std(2).mean(0))

    for length in UNIFORM:
        position, speed = simulate(length, 600.0)
        print(f"{length:.0f} m, human, 400-600 s")
        late(speed[800:])
        say("lowest speed, m/s", speed[800:].min((0, 2)))
        say("wave speed, km/h", wave_speed(position[800:], speed[800:], length))
        print(f"{length:.0f} m, human, 300-400 s")
        late(speed[600:800])
        print(f"{length:.0f} m, one car at the speed of uniform flow, 200-300 s")
        late(simulate(length, 300.0, lambda time: 1.0)[1][-200:])
        print(f"{length:.0f} m, one car against a grown jam, 900-1000 s")
        late(simulate(length, 1000.0, dissolve)[1][-200:])


if __name__ == "__main__":
    main()

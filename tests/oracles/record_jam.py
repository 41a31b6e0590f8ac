"""Print SUMO's figures of jams on a ring: ``python tests/oracles/record_jam.py`` (eclipse-sumo, libsumo 1.28, seconds).

The ring of ``record_sumo.py`` for 600 s, on 230 and on 260 m, with the ballistic and with the Euler update. The numbers
are those of ``RECORDED`` in ``trafficgrad/validation/jam.py``. Nothing of the package is used: the wave is followed by
the middle of the cars that stand.
"""

from __future__ import annotations

import numpy as np
from record_sumo import INTEGRATORS, record_ring

LENGTHS = (230.0, 260.0)  # m
SECONDS, LATE = 600, 400  # s
INTERVAL = 0.5  # s
GROWTH = (80.0, 150.0)  # s


def statistics(position: np.ndarray, speed: np.ndarray, length: float) -> dict[str, float]:
    """Of records [times, cars] every ``INTERVAL`` s; the names are the fields of ``Recorded``."""
    time = np.arange(len(speed)) * INTERVAL
    late, grows = time >= LATE, (time >= GROWTH[0]) & (time <= GROWTH[1])
    deviation = speed.std(1)
    return {
        "mean_speed": speed[late].mean(),
        "highest_speed": speed[late].max(),
        "lowest_speed": speed[late].min(),
        "onset": time[np.argmax(deviation > 1.0)],
        "growth": np.polyfit(time[grows], np.log(deviation[grows]), 1)[0],
        "wave_speed": wave_speed(position[late], speed[late], length),
    }


def wave_speed(position: np.ndarray, speed: np.ndarray, length: float) -> float:
    """Speed (m/s) of the middle of the standing cars, against the traffic negative: slope of a line."""
    angle = 2 * np.pi * position / length
    slow = np.exp(-speed)  # weighs the standing cars
    place = np.angle((slow * np.exp(1j * angle)).sum(1))
    slope = np.polyfit(np.arange(len(place)) * INTERVAL, np.unwrap(place), 1)[0]
    return float(slope * length / (2 * np.pi))


def main() -> None:
    """Print a line for every ring and update rule."""
    for integrator in INTEGRATORS:
        for length in LENGTHS:
            record = record_ring(integrator, length, SECONDS, INTERVAL)
            found = statistics(record["position"], record["speed"], length)
            print(length, integrator, {name: round(float(value), 4) for name, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()

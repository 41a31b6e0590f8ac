"""One step of a road with a million vehicles: ``python examples/million_vehicles.py [vehicles]``."""

from __future__ import annotations

import sys
import time

import torch

from trafficgrad import IDM, MOBIL, Fleet, Simulator, TrafficState, ring

PER_EDGE, LANES, SPACING = 100, 4, 25.0  # vehicles on an edge; lanes; m of lane per vehicle


def main(vehicles: int = 1_000_000) -> None:
    """Print how long a step takes."""
    edges = vehicles // PER_EDGE
    slot = torch.arange(edges * PER_EDGE)
    row, lane = slot % PER_EDGE // LANES, slot % LANES
    generator = torch.Generator().manual_seed(0)
    drivers = IDM(desired_speed=15.0 + 20.0 * torch.rand(len(slot), generator=generator))
    network = ring(SPACING * PER_EDGE / LANES * edges, LANES, edges=edges)
    simulator = Simulator(network, Fleet(), drivers, MOBIL(sides="alternate"), max_braking=9.0)
    state = TrafficState(
        (row * SPACING + torch.rand(len(slot), generator=generator))[None],
        torch.full((1, len(slot)), 8.0),
        (slot // PER_EDGE * LANES + lane)[None],
    )
    with torch.no_grad():
        state = simulator.step(simulator.step(state))
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            state = simulator.step(state)
            times.append(time.perf_counter() - begun)
    backend = simulator.running_backend()
    print(
        f"{len(slot):,} vehicles on {edges:,} edges: {sorted(times)[2]:.3f} s a step ({backend.name}: {backend.reason})"
    )


if __name__ == "__main__":
    main(*(int(x) for x in sys.argv[1:]))

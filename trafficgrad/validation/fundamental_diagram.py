"""The fundamental diagram: flow over density of rings, capacity, and which uniform flow stays uniform."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from trafficgrad.render import validation_plots
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.validation.report import near
from trafficgrad.validation.runs import Results, Run, drive, idm, separate_rings, to_numpy, uniform_traffic
from trafficgrad.validation.theory import (
    FLOW,
    TREIBER_2000,
    Array,
    Drivers,
    capacity,
    equilibrium_gap,
    flow,
    ring_speed,
)

CARS = 22
# Above 434 m uniform flow of 22 of Flow's drivers is stable (group ring_stability); just above it settles too slowly.
STABLE = (550.0, 600.0, 700.0, 850.0, 1100.0, 1500.0, 2200.0, 3500.0)
UNSTABLE = (165.0, 185.0, 210.0, 240.0, 280.0, 330.0, 380.0)
JITTER = 3.0  # m, largest random displacement at the start
HOUR, KILOMETRE = 3600.0, 1000.0


def fundamental_diagram(run: Run) -> Results:
    """Capacity and the density there, for two sets of drivers; then rings of disturbed traffic on their branches."""
    capacities = []
    for name, drivers in (("Flow", FLOW), ("Treiber 2000", TREIBER_2000)):
        largest, speed = capacity(drivers)
        density, flow_ = _measured_capacity(run, drivers)
        source = f"{name} drivers, closed form"
        yield near(f"capacity, {name}", largest * HOUR, flow_ * HOUR, 1.0, "veh/h", 1, source)
        yield near(
            f"density at capacity, {name}", largest / speed * KILOMETRE, density * KILOMETRE, 0.1, "veh/km", 2, source
        )
        capacities.append((density, flow_))
    stable = STABLE[::3] if run.quick else STABLE
    unstable = () if run.quick else UNSTABLE
    measured = _disturbed(run, (*stable, *unstable), 300.0 if run.quick else 1200.0)
    densities = CARS / np.array((*stable, *unstable))
    flows = densities * measured
    for length, density, flow_ in zip(stable, densities, flows, strict=False):
        expected = density * ring_speed(FLOW, length, CARS)
        yield near(
            f"flow at {density * KILOMETRE:.1f} veh/km, stable", expected * HOUR, flow_ * HOUR, 0.01 * expected * HOUR,
            "veh/h", 1, "Flow drivers, closed form",
        )  # fmt: skip
    curves = [_curve(drivers) for drivers in (FLOW, TREIBER_2000)]
    yield partial(validation_plots.draw_fundamental_diagram, curves, capacities, densities, flows, len(stable))


def _curve(drivers: Drivers) -> tuple[Array, Array]:
    """Density (1/m) and flow (1/s) of uniform traffic at all speeds."""
    v = np.linspace(0.0, drivers.desired_speed, 2001)[:-1]
    return 1 / (equilibrium_gap(drivers, v) + drivers.length), flow(drivers, v)


def _measured_capacity(run: Run, drivers: Drivers) -> tuple[float, float]:
    """Density (1/m) and flow (1/s) where rings of exactly uniform traffic carry most; a parabola between the rings.

    Uniform traffic settles at its own speed although it may be unstable: nothing disturbs its symmetry.
    """
    _, speed = capacity(drivers)
    spread = np.linspace(0.85, 1.15, 13)
    spacing = spread * (float(equilibrium_gap(drivers, speed)) + drivers.length)
    lengths = tuple(CARS * spacing)
    simulator = Simulator(separate_rings(lengths), Fleet(), idm(drivers), dt=0.25)
    start = uniform_traffic(run, lengths, CARS, speed)
    record = drive(run, simulator, start, 150.0, what="uniform flow near capacity", every=10.0)
    flows = to_numpy(record.speed[-1]).mean(1) / spacing
    best = int(np.clip(flows.argmax(), 1, len(flows) - 2))
    near_best = slice(best - 1, best + 2)
    a, b, c = np.polyfit(1 / spacing[near_best], flows[near_best], 2)
    density = -b / (2 * a)
    return float(density), float(a * density**2 + b * density + c)


def _disturbed(run: Run, lengths: tuple[float, ...], seconds: float) -> Array:
    """Mean speed (m/s) of the last third of a run that starts with randomly displaced cars, for each ring."""
    speeds = [ring_speed(FLOW, length, CARS) for length in lengths]
    state = uniform_traffic(run, lengths, CARS, speeds)
    generator = torch.Generator().manual_seed(1)
    reach = np.minimum(JITTER, 0.3 * (np.array(lengths) / CARS - FLOW.length))
    shift = torch.rand(state.position.shape, generator=generator, dtype=torch.float64) * torch.as_tensor(reach)[:, None]
    position = (state.position + shift.to(run.device)) % run.tensor(lengths)[:, None]
    state = TrafficState(position, state.speed, state.lane)
    simulator = Simulator(separate_rings(lengths), Fleet(), idm(FLOW))
    record = drive(run, simulator, state, seconds, what="rings of disturbed traffic")
    return to_numpy(record.speed)[-record.steps // 3 :].mean((0, 2))

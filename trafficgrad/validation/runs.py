"""What every group of checks needs: equal drivers on rings, and simulations of which only a part is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.network import RoadNetwork
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory
from trafficgrad.validation.report import Check, Draw
from trafficgrad.validation.theory import Array, Drivers

Steer = Callable[[int, TrafficState], Action | None]  # step and state -> what the controlled vehicles do
_POINTS = 60  # of a drawn circle


@dataclass(frozen=True)
class Run:
    """How a group of checks shall run."""

    quick: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    say: Callable[[str], None] = lambda text: None  # shows what is going on

    def tensor(self, values: Sequence[float] | Array) -> Tensor:
        """float64 on the device."""
        return torch.as_tensor(np.asarray(values), dtype=torch.float64, device=self.device)


Results = Iterator[Check | Draw]  # of a group: checks as they are done, and how to draw its figure at the end


def idm(drivers: Drivers) -> IDM:
    """The package's IDM with these parameters."""
    return IDM(
        drivers.desired_speed,
        drivers.time_headway,
        drivers.max_acceleration,
        drivers.comfortable_deceleration,
        drivers.min_gap,
        drivers.exponent,
    )


def separate_rings(lengths: Sequence[float], lanes: int = 1) -> RoadNetwork:
    """Closed roads that do not touch, one per length (m): rings of different sizes in one batch of worlds."""
    graph = nx.MultiDiGraph()
    for i, length in enumerate(lengths):
        radius, left = length / (2 * math.pi), sum(lengths[:i])
        angles = np.linspace(0, 2 * math.pi, _POINTS)
        points = [(left + radius * math.sin(a), radius * (1 - math.cos(a))) for a in angles]
        graph.add_node(i, position=points[0])
        graph.add_edge(i, i, length=length, lanes=lanes, geometry=[*points[:-1], points[0]])
    return RoadNetwork.from_graph(graph)


def uniform_traffic(
    run: Run, lengths: Sequence[float], cars: int, speed: Sequence[float] | float = 0.0
) -> TrafficState:
    """World b: equally spaced cars on ring b of :func:`separate_rings` (one lane each), all at ``speed`` (m/s)."""
    size = run.tensor(lengths)[:, None]
    place = torch.arange(cars, dtype=torch.float64, device=run.device) / cars
    speeds = run.tensor(np.broadcast_to(np.asarray(speed, dtype=np.float64), (len(lengths),)).copy())
    lane = torch.arange(len(lengths), device=run.device)[:, None]
    return TrafficState(place * size, speeds[:, None].expand(-1, cars), lane.expand(-1, cars))


@torch.no_grad()
def drive(
    run: Run,
    simulator: Simulator,
    state: TrafficState,
    seconds: float,
    *,
    what: str,
    every: float = 0.5,
    steer: Steer | None = None,
    generator: torch.Generator | None = None,
) -> Trajectory:
    """Simulate ``seconds`` and keep the state once in ``every`` s; ``Trajectory.dt`` is that interval.

    Parameters:
        what: is shown, with the simulated time. steer: what controlled vehicles do. generator: of acceleration noise.
    """
    steps, stride = round(seconds / simulator.dt), max(1, round(every / simulator.dt))
    kept = [state]
    for step in range(steps):
        if step % 200 == 0:
            run.say(f"{what}: {step * simulator.dt:.0f} of {seconds:.0f} s")
        noise = simulator.sample_noise(state, generator) if generator is not None else None
        state = simulator.step(state, steer(step, state) if steer is not None else None, noise)
        if (step + 1) % stride == 0:
            kept.append(state)
    return Trajectory.of(kept, None, stride * simulator.dt)


def to_numpy(x: Tensor) -> Array:
    """float64 array on the CPU."""
    return np.asarray(x.detach().cpu().numpy(), dtype=np.float64)


def step_jacobian(simulator: Simulator, state: TrafficState, action: Action | None = None) -> Array:
    """d(position, speed)(t + dt) / d(position, speed)(t) of one world by reverse mode, [2N, 2N]."""
    count = state.vehicles

    def advance(z: Tensor) -> Tensor:
        after = simulator.step(TrafficState(z[:count], z[count:], state.lane[0]), action)
        return torch.cat([after.position[0], after.speed[0]])

    here = torch.cat([state.position[0], state.speed[0]])
    return to_numpy(torch.autograd.functional.jacobian(advance, here))

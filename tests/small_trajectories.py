"""Recorded trajectories with known drivers, for tests of calibration."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

import trafficgrad as tg
from trafficgrad.calibration import FollowingRecords, Trajectories

NAMES = ("desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap")
LOW = torch.tensor([22.0, 0.8, 0.7, 1.0, 1.5], dtype=torch.float64)
HIGH = torch.tensor([36.0, 1.8, 2.0, 2.5, 3.5], dtype=torch.float64)


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    """[count, 5] IDM parameters."""
    generator = torch.Generator().manual_seed(seed)
    return LOW + (HIGH - LOW) * torch.rand(count, 5, generator=generator, dtype=torch.float64)


def idm(values: torch.Tensor) -> tg.IDM:
    return tg.IDM(**dict(zip(NAMES, values.unbind(-1), strict=True)))


def profile(seconds: float, dt: float) -> torch.Tensor:
    """[T] m/s: a leader that stops, goes, brakes hard and vanishes ahead, so that everything about a driver shows."""
    times = [0, 15, 25, 35, 50, 60, 64, 75, 90, 120]
    speeds = [15, 15, 0, 0, 20, 20, 8, 8, 45, 45]
    t = np.arange(0.0, seconds + dt / 2, dt)
    return torch.from_numpy(np.interp(t * 120.0 / seconds, times, speeds))


def behind_profile(values: torch.Tensor, seconds: float = 120.0, dt: float = 0.1) -> tg.Trajectory:
    """One world a driver: slot 0 drives the profile, slot 1 follows; simulated by the simulator itself."""
    leader = profile(seconds, dt)
    worlds, steps = len(values), len(leader) - 1
    both = torch.stack([values, values], 1)  # the leader's own parameters do not matter
    model = tg.IDM(**dict(zip(NAMES, both.unbind(-1), strict=True)))
    simulator = tg.Simulator(tg.straight(10_000.0), tg.Fleet(controlled=[0]), model, dt=dt)
    start = tg.TrafficState(
        torch.tensor([[45.0, 0.0]], dtype=torch.float64).expand(worlds, 2),
        torch.tensor([[15.0, 14.0]], dtype=torch.float64).expand(worlds, 2),
        torch.zeros(worlds, 2, dtype=torch.int64),
    )
    plan = (leader.diff() / dt)[:, None, None].expand(steps, worlds, 1)
    return simulator.simulate(start, steps, actions=tg.Action(plan.contiguous()))


def records_of(record: tg.Trajectory, dt: float = 0.1) -> FollowingRecords:
    """Followers of :func:`behind_profile`."""
    worlds = record.position.shape[1]
    return FollowingRecords(
        ids=tuple(f"car{w}" for w in range(worlds)),
        driver=torch.arange(worlds),
        position=record.position[..., 1],
        speed=record.speed[..., 1],
        leader_rear=record.position[..., 0] - 5.0,
        leader_speed=record.speed[..., 0],
        samples=torch.full((worlds,), len(record.position)),
        start=torch.zeros(worlds, dtype=torch.float64),
        dt=dt,
    )


def write_pairs(path: Path, record: tg.Trajectory, **more: object) -> Path:
    """Leaders and followers of :func:`behind_profile` as a table with leaders."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "time", "position", "speed", "leader"])
        for world in range(record.position.shape[1]):
            for slot, name, leader in ((0, f"truck{world}", ""), (1, f"car{world}", f"truck{world}")):
                for t in range(record.position.shape[0]):
                    where, pace = float(record.position[t, world, slot]), float(record.speed[t, world, slot])
                    rows.writerow([name, f"{0.1 * t:.1f}", repr(where), repr(pace), leader])
    return path


def two_lanes(
    seed: int, politeness: float, threshold: float, steps: int = 3000, count: int = 40, length: float = 800.0
) -> tuple[tg.Simulator, tg.Trajectory]:
    """Different drivers who change lanes on a ring of two."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.tensor([18.0, 0.8, 0.8, 1.2, 1.5], dtype=torch.float64)
    high = torch.tensor([36.0, 1.6, 1.8, 2.2, 3.0], dtype=torch.float64)
    values = low + (high - low) * torch.rand(count, 5, generator=generator, dtype=torch.float64)
    mobil = tg.MOBIL(politeness=politeness, threshold=threshold, sides="alternate")
    simulator = tg.Simulator(tg.ring(length, 2), tg.Fleet(), idm(values), mobil, dt=0.1)
    i = torch.arange(count)
    start = tg.TrafficState(
        (i // 2).double() * (2 * length / count) + torch.rand(count, generator=generator).double(),
        torch.full((count,), 10.0).double(),
        i % 2,
    )
    return simulator, simulator.simulate(start, steps)


def as_trajectories(record: tg.Trajectory, circumference: float) -> Trajectories:
    """One world of a ring as recorded, without a detour by a file; leaders are not filled in."""
    place = record.position[:, 0].numpy()
    unknown = np.full(place.shape, np.nan)
    return Trajectories(
        ids=tuple(f"car{n}" for n in range(place.shape[1])),
        time=record.time[:, 0].numpy(),
        position=np.unwrap(place, period=circumference, axis=0),
        speed=record.speed[:, 0].numpy(),
        lane=record.lane[:, 0].numpy(),
        leader=np.full(place.shape, -2),
        gap=unknown,
        leader_speed=unknown,
        length=np.full(place.shape[1], 5.0),
        circumference=circumference,
    )

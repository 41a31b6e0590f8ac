"""Which gradient finds politeness and threshold of lane changes again? Two lanes, known drivers, four estimators.

The likelihood of what drivers chose (`trafficgrad calibrate --lane-change mobil`); and simulated lanes that shall be
the recorded ones a second later, through the simulator, with each mode of its lane gradient.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

import trafficgrad as tg
from trafficgrad import tree
from trafficgrad.calibration import Trajectories
from trafficgrad.calibration.lane_change_fit import calibrate_lane_changes

TRUTH, COUNT, LENGTH, AHEAD, FEW = (0.3, 0.2), 40, 800.0, 10, 10
STEPS, SEEDS, ROUNDS = (int(given) for given in (sys.argv[1:] + ["4000", "4", "150"][len(sys.argv) - 1 :]))
torch.set_num_threads(1)


def drive(seed: int) -> tuple[tg.Simulator, tg.Trajectory]:
    """Different drivers on a ring of two lanes."""
    generator = torch.Generator().manual_seed(seed)
    lowest = torch.tensor([18.0, 0.8, 0.8, 1.2, 1.5], dtype=torch.float64)
    highest = torch.tensor([36.0, 1.6, 1.8, 2.2, 3.0], dtype=torch.float64)
    drivers = tg.IDM(*(lowest + (highest - lowest) * torch.rand(COUNT, 5, generator=generator).double()).unbind(-1))
    simulator = tg.Simulator(tg.ring(LENGTH, 2), tg.Fleet(), drivers, tg.MOBIL(*TRUTH, sides="both"), dt=0.1)
    i = torch.arange(COUNT)
    place = (i // 2).double() * (2 * LENGTH / COUNT) + torch.rand(COUNT, generator=generator).double()
    return simulator, simulator.simulate(tg.TrafficState(place, torch.full((COUNT,), 10.0).double(), i % 2), STEPS)


def likelihood(simulator: tg.Simulator, record: tg.Trajectory) -> tuple[float, float]:
    place = record.position[:, 0].numpy()
    nobody = np.full(place.shape, np.nan)
    data = Trajectories(
        ids=tuple(map(str, range(COUNT))),
        time=record.time[:, 0].numpy(),
        position=np.unwrap(place, period=LENGTH, axis=0),
        speed=record.speed[:, 0].numpy(),
        lane=record.lane[:, 0].numpy(),
        leader=np.full(place.shape, -2),
        gap=nobody,
        leader_speed=nobody,
        length=np.full(COUNT, 5.0),
        circumference=LENGTH,
    )
    politeness, threshold = calibrate_lane_changes(data, simulator.car_following).values
    return float(politeness), float(threshold)


def matching(mode: str, simulator: tg.Simulator, record: tg.Trajectory) -> tuple[float, float]:
    """From recorded moments, the second around every lane change among them, one second is simulated each."""
    changed = (record.lane[1:, 0] != record.lane[:-1, 0]).any(1).nonzero()[:, 0]
    around = (changed[:, None] + torch.arange(-AHEAD, 2)).flatten()
    others = torch.arange(0, STEPS - AHEAD, 20)
    moments = torch.cat([around, others]).clamp(0, STEPS - AHEAD - 1).unique()
    start = tree.index(record.states, (moments, 0))
    lanes = torch.stack([record.lane[moments + t, 0] for t in range(1, AHEAD + 1)])
    width = float(simulator.network.lane_width[0])
    law = torch.tensor([0.0, 0.1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([law], lr=0.02)
    for _ in range(ROUNDS):
        guess = replace(
            simulator,
            lane_change=replace(simulator.lane_change, politeness=law[0], threshold=law[1]),
            lane_gradient=tg.LaneGradient(mode=mode),
        )
        driven = guess.simulate(start, AHEAD)
        missed = driven.lane[1:] + driven.lateral[1:] / width - lanes
        optimizer.zero_grad()
        error = missed.square().mean()
        if error.requires_grad:
            error.backward()
            optimizer.step()
    politeness, threshold = law.tolist()
    return politeness, threshold


records, changes = [], []
for seed in range(1, SEEDS + 1):
    one = drive(seed)
    count = int((one[1].lane[1:] != one[1].lane[:-1]).sum())
    if count >= FEW:
        records.append(one)
        changes.append(count)
print(f"truth: politeness {TRUTH[0]}, threshold {TRUTH[1]} m/s2; {COUNT} vehicles for {STEPS / 10:.0f} s each time")
print(f"{len(records)} of {SEEDS} records, those with at least {FEW} lane changes: {changes}")
estimators = {"likelihood of choices": likelihood}
estimators |= {f"lanes, {m}": (lambda s, r, m=m: matching(m, s, r)) for m in ("straight_through", "sigmoid", "blocked")}
for name, estimate in estimators.items():
    found = np.array([estimate(*one) for one in records])
    off = 100 * np.abs(found / np.array(TRUTH) - 1).max(0)
    mean = found.mean(0)
    print(
        f"{name:24s} politeness {mean[0]:.3f}, threshold {mean[1]:.3f}; at most {off[0]:.0f} % and {off[1]:.0f} % off"
    )

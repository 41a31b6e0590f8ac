"""Calibration: recover every driver's time headway and desired speed from recorded speeds."""

from dataclasses import replace

import torch

import trafficgrad as tg

torch.manual_seed(0)
start = tg.TrafficState(40.0 * torch.arange(10).double(), torch.full((10,), 10.0).double(), torch.zeros(10).long())
truth = tg.IDM(desired_speed=torch.linspace(20, 30, 10).double(), time_headway=torch.linspace(0.8, 1.6, 10).double())
simulator = tg.Simulator(tg.straight(1000.0), tg.Fleet(), truth, dt=0.2)
recording = simulator.simulate(start, 100).speed  # 20 s; put your own data here, [steps + 1, 1, drivers]

desired_speed = torch.full((10,), 25.0, dtype=torch.float64, requires_grad=True)
time_headway = torch.full((10,), 1.2, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.LBFGS([desired_speed, time_headway], max_iter=40, line_search_fn="strong_wolfe")


def error() -> torch.Tensor:
    guess = replace(simulator, car_following=tg.IDM(desired_speed=desired_speed, time_headway=time_headway))
    loss = (guess.simulate(start, 100).speed - recording).square().mean()
    optimizer.zero_grad()
    loss.backward()
    return loss


before = error().item()
optimizer.step(error)
print(f"mean squared speed error {before:.3f} -> {error().item():.2g} m2/s2")
print("time headways", [round(value, 2) for value in time_headway[:-1].tolist()], "(the last car follows nobody)")

"""Calibration: recover every driver's time headway from recorded speeds, through the simulator."""

from dataclasses import replace

import torch

import trafficgrad as tg

start = tg.TrafficState(40.0 * torch.arange(10).double(), torch.full((10,), 10.0).double(), torch.zeros(10).long())
truth = tg.IDM(desired_speed=30.0, time_headway=torch.linspace(0.8, 1.6, 10).double())
simulator = tg.Simulator(tg.straight(1000.0), tg.Fleet(), truth, dt=0.2)
recording = simulator.simulate(start, 100).speed  # 20 s; put your own data here, [steps + 1, 1, drivers]

headway = torch.full((10,), 1.2, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.LBFGS([headway], lr=0.5, max_iter=15, line_search_fn="strong_wolfe")


def error() -> torch.Tensor:
    guess = replace(simulator, car_following=replace(truth, time_headway=headway))
    loss = (guess.simulate(start, 100).speed - recording).square().mean()
    optimizer.zero_grad()
    loss.backward()
    return loss


before = error().item()
optimizer.step(error)
print(f"mean squared speed error {before:.3f} -> {error().item():.1g} m2/s2")
print("time headways in s:", [round(value, 2) for value in headway[:-1].tolist()], "(the front car follows nobody)")

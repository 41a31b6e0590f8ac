"""An inverse problem: where two unseen vehicles were, from how a third one drove behind them.

A platoon follows a leader. Only the leader and the last vehicle are observed, for 40 s; the gradient of the last one's
trajectory with respect to everybody's initial state tells where the others must have been.
"""

from dataclasses import replace

import torch

import trafficgrad as tg

torch.manual_seed(0)
count, dt = 4, 0.2
simulator = tg.Simulator(tg.straight(5000.0), tg.Fleet(controlled=[0]), tg.IDM(), dt=dt)
pace = torch.cat([torch.linspace(0, -4, 25), torch.zeros(25), torch.linspace(0, 5, 50), torch.zeros(100)])
actions = tg.Action((pace.diff(prepend=pace[:1]) / dt)[:, None, None].double())  # the leader brakes and speeds up
places = 400.0 - torch.cumsum(torch.tensor([0.0, 24.0, 36.0, 22.0]), 0).double()
truth = tg.TrafficState(places, torch.full((count,), 12.0).double() + torch.randn(count), torch.zeros(count).long())
seen = simulator.simulate(truth, 200, actions=actions)

hidden = slice(1, count - 1)
even = torch.linspace(float(places[0]), float(places[-1]), count).double()[hidden]
guess = torch.cat([even, torch.full((count - 2,), 12.0).double()]).requires_grad_()
optimizer = torch.optim.LBFGS([guess], lr=0.5, max_iter=300, history_size=20, line_search_fn="strong_wolfe")


def error() -> torch.Tensor:
    position, speed = truth.position.clone(), truth.speed.clone()
    position[:, hidden], speed[:, hidden] = guess[: count - 2], guess[count - 2 :]
    record = simulator.simulate(replace(truth, position=position, speed=speed), 200, actions=actions)
    missed = (record.position[..., -1] - seen.position[..., -1]).square().mean()
    optimizer.zero_grad()
    missed.backward()
    return missed


before = (guess[: count - 2] - places[hidden]).abs().max().item()
optimizer.step(error)
after = (guess[: count - 2] - places[hidden]).abs().max().item()
print(f"farthest unseen vehicle from its true place: {before:.2f} m at first, {after:.2f} m found")
print(f"root mean square error of the observed vehicle: {error().item() ** 0.5:.2g} m")

"""Model predictive control: one vehicle keeps a platoon steady behind a leader that brakes, looking 5 s ahead."""

import torch

import trafficgrad as tg

followers = tg.IDM(desired_speed=30.0, time_headway=1.0)
fleet = tg.Fleet(controlled=[0], follow_limit=True)  # slot 0 is ours, six cars follow it, slot 7 leads
simulator = tg.Simulator(tg.ring(1000.0), fleet, followers, dt=0.2)
state = tg.TrafficState(
    position=torch.tensor([400.0, 380.0, 360.0, 340.0, 320.0, 300.0, 280.0, 440.0]),
    speed=torch.tensor([15.0] * 7 + [6.0]),
    lane=torch.zeros(8, dtype=torch.int64),
)
plan = torch.zeros(25, 1, 1, requires_grad=True)  # accelerations, 25 steps of 0.2 s
for second in range(10):
    optimizer = torch.optim.Adam([plan], lr=0.3)
    for _ in range(5):
        future = simulator.simulate(state, 25, actions=tg.Action(plan))
        cost = future.speed[1:, 0, :7].diff(dim=0).square().mean() * 25 + plan.square().mean() * 0.1
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    state = simulator.simulate(state, 5, actions=tg.Action(plan[:5])).detach().state(-1)
    plan = torch.cat([plan[5:], plan[-1:].expand(5, 1, 1)]).detach().requires_grad_()
    print(f"{second + 1:2d} s: cost {cost.item():6.3f}, speeds", [round(v, 1) for v in state.speed[0].tolist()])

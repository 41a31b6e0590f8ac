"""Trajectory optimisation: 200 s of one vehicle's accelerations, all at once, that dissolve a stop-and-go wave."""

import torch

import trafficgrad as tg
from trafficgrad.control import ActionLimits, Planner, Search

scenario = tg.load_scenario("ring_1lane")
simulator = scenario.build()
state = scenario.initial_state(1, torch.Generator().manual_seed(0), simulator=simulator)  # the wave is grown


def cost(plan: tg.Trajectory) -> torch.Tensor:
    slow, uneven = -plan.speed[1:].mean((0, 2)), plan.speed[1:].std(-1).mean(0)
    return slow + 0.5 * uneven + 0.05 * plan.actions.acceleration.square().mean((0, 2))


limits = ActionLimits(acceleration=scenario.control.acceleration)
planner = Planner(simulator, cost, decisions=200, hold=10, limits=limits, search=Search("lbfgs", iterations=150))
human = simulator.simulate(state, planner.steps)
found = planner.plan(state)
planned = simulator.simulate(state, planner.steps, actions=found.actions)
uniform = scenario.observation.target_speed
for name, record in (("human drivers", human), ("planned", planned)):
    late = record.speed[-500:]
    share, deviation = 100 * float(late.mean()) / uniform, late.std(-1).mean()
    print(
        f"{name}: the last 50 s at {late.mean():.2f} m/s, {share:.1f} % of uniform flow, deviation {deviation:.2f} m/s"
    )

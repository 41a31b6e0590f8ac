"""The compiled follower drives and differentiates as the simulator does; light enough for the sanitizers."""

from __future__ import annotations

import pytest
import torch

import trafficgrad as tg
from trafficgrad.kernels.following import IDM_PARAMETERS, covers, follow
from trafficgrad.kernels.library import library

pytestmark = pytest.mark.skipif(library().functions is None, reason=str(library().missing))
STEPS, DT = 120, 0.2
DRIVERS = torch.tensor(
    [[30.0, 1.0, 1.0, 1.5, 2.0, 4.0], [22.0, 1.6, 0.8, 1.0, 3.0, 4.0], [36.0, 0.7, 2.0, 2.5, 1.5, 3.0]],
    dtype=torch.float64,
)


def leader_plan() -> torch.Tensor:
    """[STEPS, 1, 1] m/s2: brakes to standstill, waits, goes."""
    return torch.cat([torch.full((40,), -2.0), torch.zeros(20), torch.full((60,), 1.5)]).double()[:, None, None]


@pytest.mark.parametrize("integrator", ["ballistic", "semi_implicit_euler", "explicit_euler"])
@pytest.mark.parametrize("desired_gap", ["sumo", "paper"])
def test_the_kernel_follows_and_differentiates_as_the_simulator(integrator, desired_gap):
    parameters = DRIVERS.clone().requires_grad_()
    both = dict(zip(IDM_PARAMETERS, torch.stack([DRIVERS, parameters], 1).unbind(-1), strict=True))
    model = tg.IDM(desired_gap=desired_gap, **both)
    simulator = tg.Simulator(
        tg.straight(2000.0), tg.Fleet(controlled=[0]), model, dt=DT, integrator=integrator, backend="reference"
    )
    start = tg.TrafficState(
        torch.tensor([[40.0, 0.0]]).double().expand(3, 2),
        torch.tensor([[15.0, 14.0]]).double().expand(3, 2),
        torch.zeros(3, 2).long(),
    )
    record = simulator.simulate(start, STEPS, actions=tg.Action(leader_plan().expand(STEPS, 3, 1)))
    rear, pace = (record.position[..., 0] - 5.0).detach().contiguous(), record.speed[..., 0].detach().contiguous()
    assert (pace == 0.0).any()
    slopes = {  # worlds do not touch each other: one backward pass is enough for all
        (name, t): torch.autograd.grad(getattr(record, name)[t, :, 1].sum(), parameters, retain_graph=True)[0]
        for name in ("position", "speed")
        for t in (1, 50, STEPS)
    }
    for free in ([0, 1, 2, 3, 4, 5], [4, 1], [5]):
        for world in range(3):  # what is not free holds for all rows: one driver at a time
            fixed = {name: float(DRIVERS[world, p]) for p, name in enumerate(IDM_PARAMETERS)}
            own, names = tg.IDM(desired_gap=desired_gap, **fixed), [IDM_PARAMETERS[p] for p in free]
            assert covers(own, names)
            twice = [world, world]
            values, first = DRIVERS[twice][:, free], start.speed[twice, 1]
            position, speed, by_position, by_speed = follow(
                own, names, values, rear[:, twice], pace[:, twice], first, DT, integrator, slopes=True
            )
            for row in (0, 1):
                driven = record.position[:, world, 1].detach(), record.speed[:, world, 1].detach()
                torch.testing.assert_close((position[:, row], speed[:, row]), driven, rtol=0, atol=1e-9)
            for (name, t), slope in slopes.items():
                found = (by_position if name == "position" else by_speed)[t]
                torch.testing.assert_close(found, slope[world, free].expand(2, -1), rtol=1e-9, atol=1e-9)

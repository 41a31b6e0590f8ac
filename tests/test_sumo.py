"""The torch simulator follows SUMO 1.28's IDM (recorded by ``tests/oracles/record_sumo.py``) in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.network import ring, straight
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

GOLDEN = Path(__file__).parent / "golden"
METRES = METRES_PER_SECOND = 1e-3
DT = 0.1
EVERY = 10  # steps between recorded rows
IDM_PARAMETERS = ("desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap")


def load(case: str, integrator: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"sumo_{case}_{integrator}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def deviations(case: str, integrator: str, factors: list[float]) -> tuple[Tensor, Tensor]:
    """Largest |dx| and |dv| over the recording; one world per factor on the time headway, all worlds in one batch."""
    data = load(case, integrator)
    worlds, rows = len(factors), data["position"].shape[0]
    count = data["position"].shape[1]
    steps = (rows - 1) * EVERY
    following = {name: data[name] for name in IDM_PARAMETERS}
    following["time_headway"] = data["time_headway"] * torch.tensor(factors, dtype=torch.float64)[:, None]
    around = float(data["circumference"]) if case == "ring" else None
    network = straight(9000.0) if around is None else ring(around, edges=4)
    side = network.lane_length[0].double() if around else None
    fleet = Fleet(length=data["length"], controlled=[] if around else [0])
    simulator = Simulator(network, fleet, IDM(**following), dt=DT, integrator=integrator)  # type: ignore[arg-type]
    start = data["position"][0].expand(worlds, count)
    lane = torch.zeros(worlds, count, dtype=torch.int64)
    if side is not None:
        order = [network.lanes.index((edge, 0)) for edge in range(4)]
        lane = torch.tensor(order)[(start // side).long()]
        start = start - (start // side) * side
    state = TrafficState(start, data["speed"][0].expand(worlds, count), lane)
    plan = None
    if around is None:
        plan = torch.diff(data["leader_speed"]) / DT
    positions, speeds = [], []
    with torch.no_grad():
        for step in range(steps + 1):
            if step % EVERY == 0:
                at = state.position if side is None else state.position + state.lane * side
                positions.append(at)
                speeds.append(state.speed)
            if step < steps:
                action = None if plan is None else Action(plan[step].expand(worlds, 1))
                state = simulator.step(state, action)
    dx = torch.stack(positions, 1) - data["position"]
    if around is not None:
        dx = (dx + around / 2).remainder(around) - around / 2
    dv = torch.stack(speeds, 1) - data["speed"]
    return dx.abs().amax((1, 2)), dv.abs().amax((1, 2))


@pytest.mark.parametrize("integrator", ["ballistic", "semi_implicit_euler"])
@pytest.mark.parametrize("case", ["platoon", "ring"])
def test_follows_sumo_and_notices_one_percent_of_time_headway(case: str, integrator: str) -> None:
    dx, dv = deviations(case, integrator, [1.0, 1.01])
    assert dx[0] <= METRES and dv[0] <= METRES_PER_SECOND, (dx, dv)
    assert dx[1] > 100 * METRES and dv[1] > 10 * METRES_PER_SECOND, (dx, dv)


@pytest.mark.parametrize("case", ["platoon", "ring"])
def test_the_wrong_integrator_is_noticed(case: str) -> None:
    ballistic, euler = load(case, "ballistic"), load(case, "semi_implicit_euler")
    assert (ballistic["position"] - euler["position"]).abs().max() > 100 * METRES


@pytest.mark.parametrize("integrator", ["ballistic", "semi_implicit_euler"])
def test_recordings_hold_what_they_promise(integrator: str) -> None:
    """Ten followers of which no two agree in any parameter; 300 s; the traffic stops and flows."""
    platoon, circle = load("platoon", integrator), load("ring", integrator)
    assert platoon["position"].shape == (301, 11) and circle["position"].shape == (301, 22)
    for name in (*IDM_PARAMETERS, "length"):
        assert len(set(platoon[name].tolist())) == 11
    assert platoon["speed"].min() == 0 and platoon["speed"].max() > 20
    late = circle["speed"][200:]
    assert late.min() < 0.5 and late.max() > 6

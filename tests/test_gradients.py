"""Gradients of the simulator against Richardson-extrapolated central differences, float64, without switches."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import LaneGradient, clamp_contrast
from trafficgrad.lane_change import MOBIL
from trafficgrad.network import RoadNetwork, ring
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState
from trafficgrad.trajectory import Trajectory

pytestmark = pytest.mark.usefixtures("each_backend")

TOLERANCE = 1e-6  # of the group's largest gradient
VEHICLES, LANES, EDGES, LENGTH, CONTROLLED = 12, 3, 2, 72.0, (1, 5)
# step of the differences: metres, m/s, m/s2, and relative to each parameter
STEPS = {"position": 2e-2, "speed": 2e-2, "action": 2e-2}
RELATIVE = 2e-3
Groups = dict[str, Tensor]


def network() -> RoadNetwork:
    return ring(LENGTH, lanes=LANES, edges=EDGES)


def point(steps: int) -> Groups:
    """Where the derivative is taken: start, plan [T, C] and every IDM parameter [P]; no two drivers alike."""
    random = torch.Generator().manual_seed(3)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random, dtype=torch.float64)

    return {
        "position": torch.arange(VEHICLES, dtype=torch.float64) // LANES * LENGTH / 4 + uniform(0, 2, VEHICLES),
        "speed": uniform(6.5, 7.5, VEHICLES),
        "action": uniform(-0.15, 0.3, steps, len(CONTROLLED)),
        "desired_speed": uniform(18, 30, VEHICLES),
        "time_headway": uniform(0.9, 1.6, VEHICLES),
        "max_acceleration": uniform(0.6, 1.4, VEHICLES),
        "comfortable_deceleration": uniform(1.2, 2.4, VEHICLES),
        "min_gap": uniform(1.5, 3.0, VEHICLES),
        "exponent": uniform(3.0, 5.0, VEHICLES),
    }


def simulate(
    groups: Groups, integrator: str, mode: str, desired_gap: Literal["sumo", "paper"]
) -> tuple[Trajectory, Simulator]:
    """Run worlds [B]: every entry of ``groups`` has a leading [B], the plan is [B, T, C]."""
    road, worlds = network(), groups["position"].shape[0]
    steps = groups["action"].shape[1]
    parameters = {name: x for name, x in groups.items() if name not in STEPS}
    fleet = Fleet(length=4.5, acceleration_noise=0.1, controlled=CONTROLLED, control=("lane", "acceleration"))
    simulator = Simulator(
        road,
        fleet,
        IDM(**parameters, desired_gap=desired_gap),
        MOBIL(politeness=0.3, threshold=50.0 if mode == "blocked" else 0.1),
        lane_gradient=LaneGradient(mode=mode),  # type: ignore[arg-type]
        integrator=integrator,  # type: ignore[arg-type]
    )
    edge = (groups["position"].detach() >= LENGTH / EDGES).long()
    lane = torch.tensor([[road.lanes.index((e, n % LANES)) for n in range(VEHICLES)] for e in range(EDGES)])
    state = TrafficState(
        position=groups["position"] - edge * LENGTH / EDGES,
        speed=groups["speed"],
        lane=lane[edge, torch.arange(VEHICLES)],
        # with the gradient of choices on, nobody is free to choose: the carrier must then add nothing
        cooldown=torch.full_like(groups["speed"], 0.0 if mode == "blocked" else 1e6),
    )
    plan = groups["action"].transpose(0, 1)
    noise = torch.randn(steps, 1, VEHICLES, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    actions = Action(plan, torch.zeros_like(plan))
    return simulator.simulate(state, steps, actions=actions, noise=noise.expand(steps, worlds, VEHICLES)), simulator


def score(trajectory: Trajectory) -> Tensor:
    """[B]: a smooth function of all speeds and, periodic in the edge's length, of the last positions."""
    weights = torch.linspace(0.5, 1.5, VEHICLES, dtype=torch.float64)
    turn = 2 * math.pi * EDGES / LENGTH
    speeds = (weights * (trajectory.speed[1:] - 8.0) ** 2).mean((0, 2))
    return speeds + (weights * torch.sin(turn * trajectory.position[-1])).sum(-1)


def smooth_segment(trajectory: Trajectory, simulator: Simulator, groups: Groups) -> None:
    """No lane change, no stop, no bound of the model in any world at any time."""
    names = simulator.network.lanes
    numbers = torch.tensor([lane.number for lane in names])[trajectory.lane]
    assert (numbers == numbers[0, 0]).all()
    assert trajectory.speed.min() > 1.0
    model = {n: groups[n] for n in ("time_headway", "max_acceleration", "comfortable_deceleration", "min_gap")}
    for t in range(0, trajectory.speed.shape[0], 5):
        state = TrafficState(trajectory.position[t], trajectory.speed[t], trajectory.lane[t])
        seen = simulator.neighbors(state)
        assert seen.gap[..., 1].min() > 1.0
        root = 2 * (model["max_acceleration"] * model["comfortable_deceleration"]).sqrt()
        dynamic = state.speed * model["time_headway"] + state.speed * seen.closing_speed[..., 1] / root
        assert dynamic[:, [n for n in range(VEHICLES) if n not in CONTROLLED]].min() > 0.1


def differences(groups: Groups, *how: str) -> Groups:
    """Extrapolated central differences of the score; all perturbed worlds run as one batch."""
    shifts: list[tuple[str, int, float]] = []
    for name, x in groups.items():
        for entry in range(x.numel()):
            step = STEPS.get(name, RELATIVE * float(x.reshape(-1)[entry]))
            shifts += [(name, entry, step), (name, entry, -step), (name, entry, step / 2), (name, entry, -step / 2)]
    batch = {name: x.expand(len(shifts), *x.shape).clone() for name, x in groups.items()}
    for world, (name, entry, shift) in enumerate(shifts):
        batch[name][world].view(-1)[entry] += shift
    with torch.no_grad():
        trajectory, simulator = simulate(batch, *how)  # type: ignore[arg-type]
        smooth_segment(trajectory, simulator, batch)
        values = score(trajectory).view(-1, 4)
    steps = torch.tensor([shift for _, _, shift in shifts], dtype=torch.float64).view(-1, 4)[:, 0]
    coarse, fine = (values[:, 0] - values[:, 1]) / (2 * steps), (values[:, 2] - values[:, 3]) / steps
    flat, result = (4 * fine - coarse) / 3, {}
    for name, x in groups.items():
        result[name], flat = flat[: x.numel()].view(x.shape), flat[x.numel() :]
    return result


@pytest.mark.parametrize(
    "steps, integrator, mode, desired_gap",
    [
        (1, "ballistic", "blocked", "sumo"),
        (10, "ballistic", "blocked", "sumo"),
        (100, "ballistic", "blocked", "sumo"),
        (100, "ballistic", "straight_through", "sumo"),
        (100, "semi_implicit_euler", "straight_through", "paper"),
        (100, "explicit_euler", "blocked", "paper"),
    ],
)
def test_reverse_mode_equals_differences(
    steps: int, integrator: str, mode: str, desired_gap: Literal["sumo", "paper"]
) -> None:
    groups = {name: x.requires_grad_() for name, x in point(steps).items()}
    trajectory, _ = simulate({name: x[None] for name, x in groups.items()}, integrator, mode, desired_gap)
    gradients = torch.autograd.grad(score(trajectory).sum(), list(groups.values()))
    expected = differences({name: x.detach() for name, x in groups.items()}, integrator, mode, desired_gap)
    for (name, difference), gradient in zip(expected.items(), gradients, strict=True):
        size = difference.abs().max()
        assert size > 1e-7, f"{name} does not matter"
        error = (gradient - difference).abs().max() / size
        assert error <= TOLERANCE, f"{name}: {float(error):.2e} of max |g| = {float(size):.3g}"


def test_gradient_reaches_a_leader_through_the_reaction_of_its_followers() -> None:
    """A controlled vehicle that accelerates draws the driver behind it along; the last two actions come too late."""
    plan = torch.zeros(20, 1, 1, dtype=torch.float64, requires_grad=True)
    simulator = Simulator(ring(120.0), Fleet(controlled=[0]), IDM())
    state = TrafficState(
        torch.tensor([60.0, 40.0], dtype=torch.float64), torch.tensor([8.0, 8.0], dtype=torch.float64), torch.zeros(2)
    )
    follower = simulator.simulate(state, 20, actions=Action(plan)).speed[-1, 0, 1]
    (gradient,) = torch.autograd.grad(follower, [plan])
    assert (gradient[:-2] > 0).all() and gradient[-1] == 0


def test_compared_accelerations_are_kept_within_their_limits():
    """By default nobody brakes harder than 6 times its own comfortable deceleration; the other side is left alone."""
    braking = torch.tensor([[-1e7, -8.0, 2.0], [-1e7, -8.0, 40.0]], dtype=torch.float64)
    comfortable = torch.tensor([[1.5], [1.0]], dtype=torch.float64)
    assert clamp_contrast(braking, "drivers", comfortable).tolist() == [[-9.0, -8.0, 2.0], [-6.0, -6.0, 40.0]]
    assert clamp_contrast(braking, "drivers", 25.0).tolist() == [[-150.0, -8.0, 2.0], [-150.0, -8.0, 40.0]]
    assert clamp_contrast(braking, (-4.0, 1.0), comfortable).tolist() == [[-4.0, -4.0, 1.0], [-4.0, -4.0, 1.0]]
    assert clamp_contrast(braking, None, comfortable) is braking
    with pytest.raises(TrafficGradError, match="expected \\(low, high\\), None or 'drivers'"):
        LaneGradient(contrast_limits="driver")

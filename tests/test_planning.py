"""Plans and model predictive control: closed forms, bounds, warm starts, and what lanes need candidates for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import trafficgrad as tg
from trafficgrad.control import MPC, ActionLimits, Planner, Search


def alone(worlds: int = 1, dt: float = 0.1, **fleet: object) -> tuple[tg.Simulator, tg.TrafficState]:
    """One controlled vehicle on an empty road, 10 m/s, in float64."""
    simulator = tg.Simulator(tg.straight(5000.0, 2), tg.Fleet(controlled=[0], **fleet), tg.IDM(), dt=dt)
    zero = torch.zeros(worlds, 1, dtype=torch.float64)
    return simulator, tg.TrafficState(zero + 100.0, zero + 10.0, zero.long())


def effort(plan: tg.Trajectory) -> torch.Tensor:
    return plan.actions.acceleration.square().mean((0, 2))


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_the_cheapest_way_to_a_speed_is_an_even_acceleration(method):
    """Minimise w (v(T) - 14)^2 + mean a^2: a is the same at all times, 4 w T / (1 + w T^2) with T = 5 s."""
    simulator, state = alone()
    cost = lambda plan: 3.0 * (plan.speed[-1, :, 0] - 14.0) ** 2 + effort(plan)  # noqa: E731
    search = Search(method, iterations=400 if method == "adam" else 100, step=0.02)
    found = Planner(simulator, cost, decisions=50, search=search).plan(state)
    best = 4.0 * 3.0 * 5.0 / (1.0 + 3.0 * 25.0)
    tolerance = 0.02 if method == "adam" else 1e-3
    assert found.actions.acceleration.shape == (50, 1, 1)
    torch.testing.assert_close(
        found.actions.acceleration, torch.full((50, 1, 1), best).double(), rtol=0, atol=tolerance
    )
    assert float(found.cost) == pytest.approx(3.0 * (5.0 * best - 4.0) ** 2 + best**2, rel=0.01)
    assert (found.history.diff(dim=0) <= 0).all()


def test_bounds_hold_where_they_bind():
    simulator, state = alone()
    cost = lambda plan: -plan.position[-1, :, 0]  # noqa: E731
    limits = ActionLimits(acceleration=(-1.0, 1.5))
    found = Planner(simulator, cost, 20, limits=limits, search=Search("lbfgs")).plan(state)
    torch.testing.assert_close(found.actions.acceleration, torch.full((20, 1, 1), 1.5, dtype=torch.float64))


def test_worlds_are_planned_each_for_itself():
    simulator, state = alone(worlds=3)
    goal = torch.tensor([8.0, 10.0, 13.0], dtype=torch.float64)
    cost = lambda plan: (plan.speed[-1, :, 0] - goal[: plan.speed.shape[1]]) ** 2  # noqa: E731
    search = Search(iterations=80, step=0.05)
    found = Planner(simulator, cost, 10, hold=5, search=search).plan(state)
    end = simulator.simulate(state, 50, actions=found.actions).speed[-1, :, 0]
    torch.testing.assert_close(end, goal, rtol=0, atol=0.05)
    one = Planner(simulator, lambda plan: (plan.speed[-1, :, 0] - 13.0) ** 2, 10, hold=5, search=search)
    torch.testing.assert_close(one.plan(state.index([2])).decisions[:, 0], found.decisions[:, 2])


def test_decisions_are_held():
    simulator, state = alone()
    cost = lambda plan: -plan.position[-1, :, 0] + effort(plan)  # noqa: E731
    found = Planner(simulator, cost, 4, hold=5).plan(state)
    by_step = found.actions.acceleration.view(4, 5)
    assert (by_step == by_step[:, :1]).all() and by_step[0, 0] > by_step[-1, 0]


def test_candidates_find_the_lane_that_no_gradient_points_to():
    """A truck ahead in the own lane, a free lane beside: with blocked gradients only trying tells."""
    blocked = tg.LaneGradient(mode="blocked")
    simulator = tg.Simulator(
        tg.straight(5000.0, 2),
        tg.Fleet(controlled=[0], control="lane", follow_limit=True),
        tg.IDM(),
        dt=0.2,
        lane_gradient=blocked,
    )
    state = tg.TrafficState(torch.tensor([100.0, 140.0]), torch.tensor([15.0, 8.0]), torch.tensor([0, 0]))
    state = replace(state, driver=torch.tensor([[0, 1]]))
    slow = replace(simulator, car_following=tg.IDM(desired_speed=torch.tensor([30.0, 8.0])))
    planner = Planner(slow, lambda plan: -plan.position[-1, :, 0], 20, hold=5, limits=ActionLimits(lane=True))
    alone_ = replace(planner, search=Search(iterations=10)).plan(state)
    many = replace(planner, search=Search(iterations=10, candidates=16)).plan(state)
    assert (alone_.actions.lane.abs() < 1 / 3).all()  # stays behind
    passed = slow.simulate(state, planner.steps, actions=many.actions)
    assert bool((passed.lane[:, 0, 0] == 1).any())
    assert float(passed.position[-1, 0, 0]) > float(passed.position[-1, 0, 1]) + 50.0
    assert float(many.cost) < float(alone_.cost) - 50.0


def test_plans_know_noise_that_is_told():
    simulator, state = alone(acceleration_noise=1.0)
    noise = torch.randn(20, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cost = lambda plan: (plan.speed[1:, :, 0] - 10.0).square().mean(0)  # noqa: E731
    planner = Planner(simulator, cost, 20, search=Search("lbfgs", iterations=100))
    assert float(planner.plan(state, noise=noise).cost) < 1e-6
    assert float(planner.plan(state).cost) == 0.0


# ---------------------------------------------------------------------- model predictive control


def gap_keeper(replan: int = 1, iterations: int = 20) -> tuple[MPC, tg.TrafficState]:
    simulator = tg.Simulator(tg.straight(5000.0), tg.Fleet(controlled=[0]), tg.IDM(), dt=0.2)
    state = tg.TrafficState(torch.tensor([100.0, 130.0]), torch.tensor([10.0, 10.0]), torch.tensor([0, 0]))
    cost = lambda plan: (plan.position[1:, :, 1] - plan.position[1:, :, 0] - 20.0).square().mean(0) + effort(plan)  # noqa: E731
    return MPC(Planner(simulator, cost, 20, hold=2, search=Search(iterations=iterations)), replan), state


def test_it_reaches_a_gap_that_the_leader_keeps_changing():
    controller, state = gap_keeper()
    record = controller.planner.simulator.simulate(state, 100, controller)
    gap = record.position[..., 1] - record.position[..., 0]
    assert float((gap[-30:] - 20.0).abs().max()) < 1.0 < float((gap[0] - 20.0).abs())


def test_it_plans_when_its_part_is_done(monkeypatch):
    controller, state = gap_keeper(replan=3, iterations=1)
    starts = []
    plan = Planner.plan

    def noted(self: Planner, now: tg.TrafficState, start: torch.Tensor) -> object:
        starts.append((now, start))
        return plan(self, now, start)

    monkeypatch.setattr(Planner, "plan", noted)
    controller.planner.simulator.simulate(state, 14, controller)
    assert [round(float(now.time) / 0.2) for now, _ in starts] == [0, 6, 12]  # 3 decisions of 2 steps
    first = plan(controller.planner, state, starts[0][1]).decisions
    torch.testing.assert_close(starts[1][1][:-3], first[3:])  # goes on where the last plan would have
    torch.testing.assert_close(starts[1][1][-3:], first[-1:].expand(3, -1, -1))


def test_a_new_episode_begins_with_a_new_plan():
    controller, state = gap_keeper(replan=5)
    first = controller(state)
    record = controller.planner.simulator.simulate(state, 4, controller)
    again = controller(state)
    assert float(record.time[-1, 0]) > 0.0
    torch.testing.assert_close(again.acceleration, first.acceleration)
    both = tg.TrafficState(*(torch.cat([x, x]) for x in (state.position, state.speed, state.lane)))
    assert controller(both).acceleration.shape == (2, 1)


# ---------------------------------------------------------------------- mistakes


def test_mistakes_get_one_sentence():
    simulator, state = alone()
    cost = lambda plan: plan.position[-1, :, 0]  # noqa: E731
    for make, message in (
        (lambda: Search("newton"), "unknown method 'newton'"),
        (lambda: Search(candidates=0), "1 candidate"),
        (lambda: Search(step=0.0), "a step above 0"),
        (lambda: ActionLimits(acceleration=(2.0, -3.0)), "must be .lowest, highest."),
        (lambda: Planner(simulator, cost, 0), "at least 1 decision"),
        (lambda: Planner(replace(simulator, fleet=tg.Fleet()), cost, 5), "nothing to plan"),
        (lambda: MPC(Planner(simulator, cost, 5), 6), "replan must be 1 to 5"),
        (
            lambda: Planner(simulator, cost, 5).plan(state, torch.zeros(4, 1, 1)),
            "has shape .4, 1, 1., expected .5, 1, 1.",
        ),
        (lambda: Planner(simulator, lambda plan: plan.speed.mean(), 5).plan(state), "one number for each of 1 worlds"),
        (lambda: Planner(simulator, lambda plan: plan.speed[-1, :, 0] / 0.0, 5).plan(state), "not finite in world 0"),
    ):
        with pytest.raises(tg.TrafficGradError, match=message):
            make()

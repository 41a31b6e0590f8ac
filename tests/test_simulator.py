"""The simulator beyond the scalar oracle: steered vehicles, sigmoid mode, open roads, batches, bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import networkx as nx
import pytest
import torch
from torch import Tensor

import trafficgrad as tg
from trafficgrad import Action, Fleet, LaneGradient, Simulator, TrafficGradError, TrafficState

pytestmark = pytest.mark.usefixtures("each_backend")

DOUBLE = torch.float64


def state_of(position: list[float], speed: list[float], lane: list[int]) -> TrafficState:
    return TrafficState(
        torch.tensor([position], dtype=DOUBLE), torch.tensor([speed], dtype=DOUBLE), torch.tensor([lane])
    )


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=DOUBLE)


# ---------------------------------------------------------------------------------------------- steered vehicles


def steered(**changes: object) -> Simulator:
    road = tg.straight(1000.0, lanes=3, lane_width=4.0)
    base = Simulator(road, Fleet(controlled=[0], control="steered"), tg.IDM(20.0, 0.4, 35.0, 25.0, 1.5), dt=0.03)
    return replace(base, **changes)  # type: ignore[arg-type]


def bicycle(x: float, y: float, heading: float, v: float, a: float, delta: float, dt: float) -> tuple[float, ...]:
    """One explicit Euler step in plain Python; length and wheelbase 5 m."""
    beta = math.atan(0.5 * math.tan(delta))
    x += dt * v * math.cos(heading + beta)
    y += dt * v * math.sin(heading + beta)
    return x, y, heading + dt * v * math.sin(beta) / 2.5, v + dt * a


def test_bicycle_follows_the_scalar_formula_through_lane_changes() -> None:
    simulator, state = steered(), state_of([105.0, 50.0], [12.0, 0.0], [0, 2])
    x, y, heading, v = 105.0, 0.0, 0.0, 12.0
    seen = set()
    for step in range(150):
        a, delta = 2.0 * math.sin(step / 7), 0.12 * math.cos(step / 20)
        state = simulator.step(state, Action(row(a), steering=row(delta)))
        x, y, heading, v = bicycle(x, y, heading, v, a, delta, 0.03)
        lane = int(state.lane[0, 0])
        seen.add(lane)
        assert lane == round(y / 4.0)
        assert float(state.lateral[0, 0]) == pytest.approx(y - 4.0 * lane, abs=1e-9)
        assert [float(t[0, 0]) for t in (state.position, state.heading, state.speed)] == pytest.approx([x, heading, v])
    assert seen == {0, 1}


def test_steered_vehicle_leaves_the_road_and_is_nobodys_leader() -> None:
    simulator, state = steered(), state_of([105.0, 90.0], [12.0, 12.0], [0, 0])
    assert int(simulator.neighbors(state).leader[0, 1, 1]) == 0
    while int(state.lane[0, 0]) >= 0:
        state = simulator.step(state, Action(row(0.0), steering=row(-0.3)))
        assert float(state.time) < 3.0
    assert float(state.lateral[0, 0]) <= -2.0
    assert int(simulator.neighbors(state).leader[0, 1, 1]) == -1
    assert torch.isfinite(simulator.step(state, Action(row(0.0), steering=row(0.0))).position).all()


def test_steered_vehicle_may_reverse_over_an_edge() -> None:
    road = tg.straight(100.0, edges=2)
    simulator = Simulator(road, Fleet(controlled=[0], control="steered"), tg.IDM(), dt=0.1)
    state = state_of([0.3], [-5.0], [1])
    after = simulator.step(state, Action(row(0.0), steering=row(0.0)))
    assert int(after.lane[0, 0]) == 0
    assert float(after.position[0, 0]) == pytest.approx(49.8)


def test_straight_through_gradient_of_steering_sees_the_follower_it_cuts_in_on() -> None:
    """d(follower's speed)/d(lateral) = dt m'_k (B(N'_k) - B(N_k)), with m' of the softmax over lanes."""
    h, width, dt = 0.5, 4.0, 0.03
    simulator = steered(lane_gradient=LaneGradient(transition_width=h))
    base = state_of([105.0, 90.0], [12.0, 12.0], [0, 1])
    y = 1.7
    lateral = row(y, 0.0).requires_grad_()
    after = simulator.step(replace(base, lateral=lateral), Action(row(0.0), steering=row(0.0)))
    (gradient,) = torch.autograd.grad(after.speed[0, 1], lateral)
    weights = [math.exp(-((y - k * width) ** 2) / (2 * width * h)) for k in (0, 1)]  # no lane on the right
    m = weights[1] / sum(weights)
    with_it = simulator.car_following.acceleration(row(12.0), row(10.0), row(0.0))
    without = simulator.car_following.acceleration(row(12.0), row(math.inf), row(0.0))
    expected = dt * m * (1 - m) / h * float(with_it - without)
    assert float(gradient[0, 0]) == pytest.approx(expected, rel=1e-9)
    blocked = steered(lane_gradient=LaneGradient("blocked"))
    after = blocked.step(replace(base, lateral=lateral), Action(row(0.0), steering=row(0.0)))
    assert not after.speed.requires_grad


def test_sigmoid_mode_weighs_the_presence_of_a_steered_vehicle_in_the_values_too() -> None:
    base, y = state_of([105.0, 90.0], [12.0, 12.0], [0, 1]), 1.9
    state = replace(base, lateral=row(y, 0.0))
    act = Action(row(0.0), steering=row(0.0))
    hard = steered().step(state, act).speed[0, 1]
    soft = steered(lane_gradient=LaneGradient("sigmoid")).step(state, act).speed[0, 1]
    fully = steered().step(replace(base, lane=torch.tensor([[1, 1]])), act).speed[0, 1]
    assert float(fully) < float(soft) < float(hard)


# ---------------------------------------------------------------------------------------------- sigmoid choices


def two_lane_driver(mode: str) -> tuple[Simulator, TrafficState]:
    """A driver behind a slow car with a free lane on the left; feasible to change."""
    model = tg.IDM(desired_speed=25.0, time_headway=1.0, max_acceleration=1.5)
    gradient = LaneGradient(mode, temperature=1.0)  # type: ignore[arg-type]
    simulator = Simulator(tg.straight(1000.0, lanes=2), Fleet(), model, tg.MOBIL(sides="both"), lane_gradient=gradient)
    return simulator, state_of([100.0, 130.0], [15.0, 12.0], [0, 0])


def test_sigmoid_mode_mixes_the_accelerations_of_both_lanes() -> None:
    simulator, state = two_lane_driver("sigmoid")
    model = simulator.car_following
    stay = float(model.acceleration(row(15.0), row(25.0), row(3.0)))
    go = float(model.acceleration(row(15.0), row(math.inf), row(0.0)))
    weight = 1 / (1 + math.exp(-(go - stay - 0.1)))
    expected = 15.0 + 0.1 * ((1 - weight) * stay + weight * go)
    after = simulator.step(state)
    assert float(after.speed[0, 0]) == pytest.approx(expected, rel=1e-12)
    assert int(after.lane[0, 0]) == 1, "the lane itself stays hard"
    hard = two_lane_driver("blocked")[0].step(state)
    assert float(hard.speed[0, 0]) == pytest.approx(15.0 + 0.1 * stay, rel=1e-12)


def test_choices_of_the_controlled_vehicles_alone_carry_gradient() -> None:
    """``choices="controlled"`` cuts the gradient at drivers' decisions and changes nothing else."""
    generator = torch.Generator().manual_seed(0)
    scenario = tg.load_scenario("ring_4lane", ["simulation.warmup_steps=50"])
    simulator = scenario.build(dtype=DOUBLE)
    start = scenario.initial_state(2, generator, DOUBLE, simulator=simulator)
    lateral = torch.zeros_like(start.lateral).requires_grad_()
    ends = {}
    for choices in ("all", "controlled"):
        chosen = replace(simulator, lane_gradient=LaneGradient(choices=choices))  # type: ignore[arg-type]
        end = chosen.step(replace(start, lateral=lateral), Action(torch.zeros(2, 4, dtype=DOUBLE), torch.ones(2, 4)))
        ends[choices] = (end, torch.autograd.grad(end.speed.square().sum(), lateral)[0])
    assert torch.equal(ends["all"][0].position, ends["controlled"][0].position)
    slots = simulator.fleet.slots
    human = torch.ones(start.vehicles, dtype=torch.bool).index_fill(0, slots, False)
    assert torch.allclose(ends["all"][1][:, slots], ends["controlled"][1][:, slots], rtol=1e-12)
    assert float(ends["all"][1][:, human].abs().max()) > 0
    assert float(ends["controlled"][1][:, human].abs().max()) == 0


@pytest.mark.parametrize("choices", ["all", "controlled"])
def test_a_parameter_may_be_one_number_for_everybody_as_a_tensor(choices: str) -> None:
    """What a calibration differentiates by: a tensor without dimensions does what its value as a float does."""
    scenario = tg.load_scenario("ring_4lane", ["simulation.warmup_steps=50"])
    start = scenario.initial_state(2, torch.Generator().manual_seed(0), DOUBLE)
    act = Action(torch.zeros(2, 4, dtype=DOUBLE), torch.full((2, 4), 0.5, dtype=DOUBLE))
    ends, gradient = [], LaneGradient(choices=choices)  # type: ignore[arg-type]
    for number in (1.5, torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)):
        model = tg.IDM(desired_speed=25.0, comfortable_deceleration=number, time_headway=1.0)
        simulator = replace(scenario.build(dtype=DOUBLE), car_following=model, lane_gradient=gradient)
        lateral = torch.zeros_like(start.lateral).requires_grad_()
        state = replace(start, lateral=lateral)
        for _ in range(3):
            state = simulator.step(state, act)
        ends.append((state, torch.autograd.grad(state.speed.square().sum(), lateral, retain_graph=True)[0]))
    assert torch.equal(ends[0][0].speed, ends[1][0].speed)
    assert torch.equal(ends[0][1], ends[1][1]) and float(ends[0][1].abs().max()) > 0
    (by_braking,) = torch.autograd.grad(ends[1][0].speed.sum(), number)
    assert by_braking.shape == () and float(by_braking) != 0


# ---------------------------------------------------------------------------------------------- roads and batches


def test_vehicles_leave_an_open_road_and_free_their_followers() -> None:
    simulator = Simulator(tg.straight(200.0, edges=3), Fleet(), tg.IDM(desired_speed=20.0))
    state = state_of([60.0, 40.0], [18.0, 20.0], [2, 2])
    assert int(simulator.neighbors(state).leader[0, 1, 1]) == 0
    for _ in range(10):
        state = simulator.step(state)
    assert state.active.tolist() == [[False, True]]
    assert int(simulator.neighbors(state).leader[0, 1, 1]) == -1
    left = state.position[0, 0]
    assert float(simulator.step(state).position[0, 0]) == float(left), "who has left moves no more"


@pytest.mark.parametrize("edges", [1, 2, 5])
def test_a_ring_of_any_number_of_edges_is_the_same_road(edges: int) -> None:
    generator = torch.Generator().manual_seed(1)
    along = torch.arange(12, dtype=DOUBLE) * 20 + 3 * torch.rand(12, generator=generator, dtype=DOUBLE)
    lane = torch.arange(12) % 2
    one = Simulator(
        tg.ring(250.0, 2), Fleet(), tg.IDM(desired_speed=torch.linspace(10, 30, 12, dtype=DOUBLE)), tg.MOBIL()
    )
    cut = replace(one, network=tg.ring(250.0, 2, edges))
    piece = 250.0 / edges
    first = TrafficState(along[None], torch.full((1, 12), 5.0, dtype=DOUBLE), lane[None])
    second = replace(first, position=along[None] % piece, lane=(along // piece).long()[None] * 2 + lane)
    changes = 0
    for _ in range(400):
        before = first.lane
        first, second = one.step(first), cut.step(second)
        changes += int((first.lane != before).sum())
        assert torch.equal(first.lane, second.lane % 2)
        place = second.lane // 2 * piece + second.position
        assert torch.allclose(place, first.position, atol=1e-8) or torch.allclose(
            place % 250, first.position % 250, atol=1e-8
        )
    assert changes > 5


def test_network_survives_the_way_to_networkx_and_back() -> None:
    network = tg.ring(300.0, 3, edges=4, speed_limit=20.0)
    again = tg.RoadNetwork.from_graph(network.to_graph())
    assert again.lanes == network.lanes and again.edges == network.edges
    for name in ("lane_length", "speed_limit", "lane_width", "left", "right", "successors", "node_position"):
        assert torch.equal(getattr(again, name), getattr(network, name)), name
    assert all(torch.equal(a, b) for a, b in zip(again.geometry, network.geometry, strict=True))


def test_speed_limits_bind_per_lane_and_driver() -> None:
    simulator = Simulator(
        tg.straight(9000.0, speed_limit=15.0), Fleet(speed_factor=torch.tensor([1.0, 1.2], dtype=DOUBLE)), tg.IDM()
    )
    state = state_of([0.0, 2500.0], [10.0, 10.0], [0, 0])
    for _ in range(1500):
        state = simulator.step(state)
    assert state.speed[0].tolist() == pytest.approx([15.0, 18.0], abs=0.05)


def test_worlds_of_a_batch_are_independent_and_dtypes_are_kept() -> None:
    scenario = tg.load_scenario("ring_4lane", ["simulation.warmup_steps=0"])
    for dtype in (torch.float32, DOUBLE):
        simulator = scenario.build(dtype=dtype)
        states = scenario.initial_state(3, torch.Generator().manual_seed(0), dtype, simulator=simulator)
        noise = torch.randn(40, 3, 60, dtype=dtype, generator=torch.Generator().manual_seed(1))
        together = simulator.simulate(states, 40, noise=noise)
        alone = simulator.simulate(states.index([1]), 40, noise=noise[:, 1:2])
        assert together.position.dtype == dtype
        assert torch.equal(together.position[:, 1], alone.position[:, 0])


def test_permuting_the_slots_permutes_the_result() -> None:
    generator = torch.Generator().manual_seed(2)
    wishes = 15 + 15 * torch.rand(20, generator=generator, dtype=DOUBLE)
    position = 500 * torch.rand(1, 20, generator=generator, dtype=DOUBLE)
    lane = torch.randint(0, 3, (1, 20), generator=generator)
    simulator = Simulator(tg.ring(500.0, 3), Fleet(), tg.IDM(desired_speed=wishes), tg.MOBIL())
    start = TrafficState(position, torch.full((1, 20), 8.0, dtype=DOUBLE), lane)
    order = torch.randperm(20, generator=generator)
    shuffled = TrafficState(position[:, order], start.speed, lane[:, order], driver=order[None])
    one, two = simulator.simulate(start, 100), simulator.simulate(shuffled, 100)
    assert torch.allclose(one.position[-1][:, order], two.position[-1], atol=1e-9)
    assert torch.equal(one.lane[-1][:, order], two.lane[-1])


def test_open_loop_plan_and_controller_agree_and_trajectories_are_kept(tmp_path: object) -> None:
    scenario = tg.load_scenario("ring_4lane", ["simulation.warmup_steps=0"])
    simulator = scenario.build()
    state = scenario.initial_state(2, torch.Generator().manual_seed(0), simulator=simulator)
    plan = Action(torch.linspace(-1, 1, 30).view(30, 1, 1).expand(30, 2, 4), torch.full((30, 2, 4), 0.6))
    steps = iter(range(30))
    by_plan = simulator.simulate(state, 30, actions=plan)
    by_controller = simulator.simulate(state, 30, lambda _: tg.tree.index(plan, next(steps)))
    assert torch.equal(by_plan.position, by_controller.position)
    file = by_plan.save(f"{tmp_path}/run.npz")
    loaded = tg.Trajectory.load(file)
    assert torch.equal(loaded.lane, by_plan.lane) and torch.equal(loaded.actions.lane, plan.lane)
    assert loaded.steps == 30 and torch.equal(loaded.state(-1).speed, by_plan.state(-1).speed)


# ---------------------------------------------------------------------------------------------- bad input


def road_graph(**edge: object) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    graph.add_node("a", position=(0.0, 0.0))
    graph.add_node("b", position=(100.0, 0.0))
    graph.add_edge("a", "b", **edge)
    return graph


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (nx.DiGraph(), "networkx.MultiDiGraph, got DiGraph"),
        (nx.MultiDiGraph(), "no edges"),
        (road_graph(length=-3.0), "edge 'a' -> 'b': length must be a finite number of metres > 0"),
        (road_graph(lanes=0), "lanes must be an integer >= 1"),
        (road_graph(lane_width=0.0), "lane_width must be > 0"),
        (road_graph(geometry=[(0.0, 0.0)]), "at least two finite points"),
    ],
)
def test_impossible_graphs_are_refused(graph: nx.Graph, words: str) -> None:
    with pytest.raises(TrafficGradError, match=words):
        tg.RoadNetwork.from_graph(graph)


def test_bad_actions_states_and_settings_are_refused() -> None:
    simulator = Simulator(tg.ring(100.0), Fleet(controlled=[0]), tg.IDM())
    state = state_of([10.0, 50.0], [5.0, 5.0], [0, 0])
    with pytest.raises(TrafficGradError, match="not finite for controlled vehicle 0 of world 0"):
        simulator.step(state, Action(row(math.nan)))
    with pytest.raises(TrafficGradError, match=r"shape \[1, 1\]"):
        simulator.step(state, Action(row(1.0, 2.0)))
    with pytest.raises(TrafficGradError, match="controller or open-loop actions"):
        simulator.simulate(state, 1, lambda _: Action(row(0.0)), actions=Action(row(0.0)[None]))
    with pytest.raises(TrafficGradError, match="speed is not finite in world 0, vehicle slot 1"):
        replace(state, speed=row(1.0, math.inf)).validate()
    with pytest.raises(TrafficGradError, match=r"speed has shape \[1, 3\], but position has \[1, 2\]"):
        replace(state, speed=row(1.0, 2.0, 3.0))
    for change, words in (
        ({"integrator": "balistic"}, "did you mean 'ballistic'"),
        ({"dt": 0.0}, "dt must be a finite number of seconds > 0"),
        ({"backend": "fussed"}, "did you mean 'fused'"),
    ):
        with pytest.raises(TrafficGradError, match=words):
            replace(simulator, **change)
    with pytest.raises(TrafficGradError, match="did you mean 'steered'"):
        Fleet(controlled=[0], control="steerd")  # type: ignore[arg-type]
    with pytest.raises(TrafficGradError, match="distinct vehicle slots"):
        Fleet(controlled=[1, 1])
    with pytest.raises(TrafficGradError, match=r"IDM\.max_acceleration must be > 0"):
        tg.IDM(max_acceleration=-1.0)
    with pytest.raises(TrafficGradError, match="no trajectory file"):
        tg.Trajectory.load("nowhere.npz")

"""The fused kernel equals the reference, forward and backward, and does not depend on how it is called."""

from __future__ import annotations

import copy
import gc
import importlib
import math
import os
import pickle
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from fused_cases import Case, random_case, with_leaves
from torch import Tensor

from trafficgrad import kernels, tree
from trafficgrad.car_following import IDM
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import LaneGradient
from trafficgrad.kernels import fused, layout
from trafficgrad.kernels.fused import Run
from trafficgrad.kernels.library import library
from trafficgrad.lane_change import MOBIL
from trafficgrad.network import ring
from trafficgrad.scenario_config import load_scenario
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

SOURCES = Path(kernels.__file__).parent / "src"
FIELDS = (torch.float32, torch.float32, torch.int64)  # of position, speed and lane
FLOATS = ("position", "speed", "lateral", "heading", "cooldown")
needs_kernel = pytest.mark.skipif(library().functions is None, reason=str(library().missing))


def run(case: Case, backend: str, rollout: bool) -> TrafficState:
    """The state after one step, or the record of the states at all times of a rollout."""
    simulator = replace(case.simulator, backend=backend)  # type: ignore[arg-type]
    if rollout:
        return simulator.simulate(case.state, case.steps, actions=case.actions, noise=case.noise).states
    action = None if case.actions is None else tree.index(case.actions, 0)
    return simulator.step(case.state, action, None if case.noise is None else case.noise[0])


def pull_back(after: TrafficState, leaves: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Gradients of a random linear function of all floating fields."""
    generator = torch.Generator().manual_seed(seed)
    loss: Tensor | float = 0.0
    for name in FLOATS:
        x = getattr(after, name)
        loss = loss + (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)).sum()
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


@torch.no_grad()
def largest_acceleration(case: Case) -> float:
    """Of anybody in any lane, m/s2: differences of such numbers are known to their last bits only."""
    simulator = replace(case.simulator, backend="reference")
    around = simulator.neighbors(case.state)
    model = simulator.car_following.for_drivers(case.state.driver)
    gap = around.gap.clamp(min=0.001)
    behind = around.follower_gap.clamp(min=0.001)
    strongest = 40.0  # m, more than any s*
    scale = torch.as_tensor(model.max_acceleration).max()
    return float(scale * (strongest / torch.minimum(gap, behind).min()) ** 2)


def is_sane(record: TrafficState) -> bool:
    """Nobody reverses into absurd speeds, as steered vehicles do that must brake for somebody at arm's length."""
    return bool((record.speed.detach().abs() < 60).all())


@needs_kernel
@pytest.mark.parametrize("rollout", [False, True])
def test_values_and_gradients_on_random_states(rollout: bool) -> None:
    compared, inexact = 0, set[tuple[int, str]]()
    for seed in range(220):
        case, leaves = with_leaves(random_case(seed))
        expected = run(case, "reference", rollout)
        if not is_sane(expected):
            continue
        found = run(case, "fused", rollout)
        assert found.speed.grad_fn is None or "_Fused" in str(found.speed.grad_fn) or rollout
        for field in fields(TrafficState):
            x, y = getattr(expected, field.name), getattr(found, field.name)
            assert x.shape == y.shape and x.dtype == y.dtype, (seed, field.name)
            if x.is_floating_point():
                torch.testing.assert_close(y, x, rtol=1e-11, atol=1e-11, msg=lambda m, s=seed, f=field: f"{s} {f}: {m}")
            else:
                assert torch.equal(x, y), (seed, field.name)
        slopes, expected_slopes = pull_back(found, leaves, seed), pull_back(expected, leaves, seed)
        # Behind gaps of 1 mm accelerations of 1e7 m/s2 and more cancel: there the reference is not exact to 1e-11
        # itself, and a few of the gradients may differ; elsewhere none.
        cancels = largest_acceleration(case) > 1e5
        for name, x in expected_slopes.items():
            if not x.numel() or not bool(torch.isfinite(x).all()):
                continue
            compared += 1
            off = float((slopes[name] - x).abs().max())
            if off <= 1e-11 * float(x.abs().max()) + 1e-13:
                continue
            assert cancels, (seed, name, off, float(x.abs().max()))
            inexact.add((seed, name))
    assert len(inexact) <= 0.005 * compared, sorted(inexact)
    assert compared > 1000


@needs_kernel
def test_the_random_states_reach_every_branch() -> None:
    seen = Counter[str]()
    for seed in range(220):
        case = random_case(seed)
        simulator, state = replace(case.simulator, backend="fused"), case.state
        around = replace(simulator, backend="reference").neighbors(state)
        after = run(case, "fused", rollout=False)
        present = state.active & (state.lane >= 0)
        seen["inactive"] += int((~state.active).sum())
        seen["off the road"] += int((state.lane < 0).sum())
        seen["clipped gap"] += int((around.gap[present] < 0.001).sum())
        seen["ahead in another edge"] += int((after.position < state.position - 1.0).sum())
        seen["left the road"] += int((state.active & ~after.active).sum())
        seen["standing"] += int((present & (after.speed == 0.0)).sum())
        edge = simulator.network.tables(state.position.dtype, "cpu").edge[after.lane.clamp(min=0)]
        before = simulator.network.tables(state.position.dtype, "cpu").edge[state.lane.clamp(min=0)]
        seen["changed lane"] += int(((after.lane != state.lane) & (edge == before)).sum())
        leader = around.leader[..., 1]
        seen["two alone on a ring"] += int(((leader >= 0) & (leader == around.follower[..., 1])).sum())
        seen["alone"] += int((present & (leader < 0)).sum())
        for kind, limited in zip(simulator.fleet.control, simulator.fleet.limited, strict=True):
            seen[f"{kind}, follow_limit {limited}"] += 1
        same = (state.position[:, :, None] == state.position[:, None, :]) & present[:, :, None] & present[:, None, :]
        seen["ties"] += int(same.sum() - present.sum())
        seen[f"{simulator.lane_gradient.mode}, {simulator.lane_gradient.choices}"] += 1
        seen[f"{simulator.integrator}, {simulator.car_following.desired_gap}"] += 1  # type: ignore[attr-defined]
    kinds = [f"{kind}, follow_limit {limit}" for kind in ("acceleration", "lane", "steered") for limit in (True, False)]
    modes = [f"{m}, {c}" for m in ("blocked", "straight_through", "sigmoid") for c in ("all", "controlled")]
    ways = [f"{i}, {g}" for i in ("ballistic", "semi_implicit_euler", "explicit_euler") for g in ("sumo", "paper")]
    events = ["inactive", "off the road", "clipped gap", "ahead in another edge", "left the road", "standing"]
    events += ["changed lane", "two alone on a ring", "alone", "ties", *kinds, *modes, *ways]
    assert not [event for event in events if seen[event] < 3], seen


@needs_kernel
def test_float32_where_no_decision_is_close() -> None:
    """Decisions that survive disturbances of 1e-4 in all places and speeds come out alike, and values to 1e-5."""
    compared = 0
    for seed in range(250):
        case = random_case(seed, mode="straight_through")
        if largest_acceleration(case) > 1e4:
            continue  # single precision knows such numbers, and their differences, to a thousandth only
        exact = run(case, "reference", rollout=False)
        generator = torch.Generator().manual_seed(seed)
        firm = torch.ones(case.state.worlds, dtype=torch.bool)
        for _ in range(6):
            shaken = replace(
                case.state,
                position=case.state.position
                + 2e-4 * (torch.rand(case.state.position.shape, generator=generator) - 0.5),
                speed=case.state.speed + 2e-4 * torch.rand(case.state.speed.shape, generator=generator),
            )
            other = run(replace(case, state=shaken), "reference", rollout=False)
            alike = (other.lane == exact.lane) & (other.active == exact.active)
            # Sensitive values, behind a bumper at arm's length, are no test of single precision either.
            alike &= (other.speed - exact.speed).abs() < 1e-2
            firm &= alike.all(1)
        single = random_case(seed, mode="straight_through", dtype=torch.float32)
        single = replace(
            single,
            simulator=_in_single(case.simulator),
            state=tree.move(case.state, dtype=torch.float32),
            actions=None if case.actions is None else tree.move(case.actions, dtype=torch.float32),
            noise=None if case.noise is None else case.noise.float(),
        )
        found = run(single, "fused", rollout=False)
        assert found.position.dtype == torch.float32
        for world in firm.nonzero()[:, 0].tolist():
            assert torch.equal(found.lane[world], exact.lane[world]), seed
            for name in ("position", "speed", "lateral", "heading", "cooldown"):
                x, y = getattr(exact, name)[world], getattr(found, name)[world].double()
                assert float((x - y).abs().max()) <= 1e-5 * max(1.0, float(x.abs().max())), (seed, name)
            compared += 1
    assert compared > 60


def _in_single(simulator: Simulator) -> Simulator:
    def convert(record: object) -> object:
        changed = {k: v.float() for k, v in vars(record).items() if isinstance(v, Tensor) and v.is_floating_point()}
        return replace(record, **changed)  # type: ignore[type-var]

    parts = {name: getattr(simulator, name) for name in ("car_following", "lane_change", "fleet")}
    return replace(simulator, **{name: None if part is None else convert(part) for name, part in parts.items()})


def _ring(worlds: int, vehicles: int, lanes: int = 3) -> tuple[Simulator, TrafficState]:
    generator = torch.Generator().manual_seed(worlds * 1000 + vehicles)
    simulator = Simulator(
        ring(12.0 * vehicles / lanes, lanes, edges=2),
        Fleet(controlled=[0, 2], control=("lane", "acceleration"), follow_limit=True, acceleration_noise=0.2),
        IDM(torch.linspace(15.0, 30.0, vehicles), time_headway=1.0),
        MOBIL(politeness=0.2),
        max_braking=9.0,
    )
    half = 6.0 * vehicles / lanes
    state = TrafficState(
        torch.rand(worlds, vehicles, generator=generator) * half,
        8.0 * torch.rand(worlds, vehicles, generator=generator),
        torch.randint(0, 2 * lanes, (worlds, vehicles), generator=generator),
    )
    return simulator, state


def _everything(simulator: Simulator, state: TrafficState, steps: int = 6) -> list[Tensor]:
    """States at all times and gradients by actions and by all drivers' speeds."""
    idm = simulator.car_following
    assert isinstance(idm, IDM) and isinstance(idm.desired_speed, Tensor)
    worlds = state.worlds
    wanted = idm.desired_speed.expand(worlds, -1).clone().requires_grad_()
    simulator = replace(simulator, car_following=replace(idm, desired_speed=wanted))
    push = torch.zeros(steps, worlds, 2, requires_grad=True)
    wish = torch.full((steps, worlds, 2), 0.5, requires_grad=True)
    record = simulator.simulate(state, steps, actions=Action(push, wish))
    (record.speed.square().sum() + record.position[-1].sum()).backward()
    assert push.grad is not None and wish.grad is not None and wanted.grad is not None
    return [record.position, record.speed, record.lane, push.grad, wish.grad, wanted.grad]


@needs_kernel
def test_same_bits_for_any_threads_batch_and_order() -> None:
    simulator, state = _ring(40, 60)
    simulator = replace(simulator, backend="fused")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _everything(simulator, state)
        torch.set_num_threads(4)
        together = _everything(simulator, state)
    finally:
        torch.set_num_threads(before)
    for x, y in zip(alone, together, strict=True):
        assert torch.equal(x, y)
    part = _everything(simulator, state.index(slice(7, 9)))
    for x, y, dim in zip(alone, part, (1, 1, 1, 1, 1, 0), strict=True):
        assert torch.equal(x.narrow(dim, 7, 2), y)
    plan = kernels.plan_for(simulator, state)
    assert plan is not None
    expected = simulator.step(state)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(60, generator=generator).to(torch.int32) for _ in range(40)]
        plan.orders[40, 60] = [torch.stack(orders)]
        found = simulator.step(state)
        assert torch.equal(found.position, expected.position) and torch.equal(found.lane, expected.lane)


@needs_kernel
def test_same_bits_whether_lanes_beside_are_kept_or_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator, state = _ring(5, 50)
    simulator = replace(simulator, backend="fused")
    kept = _everything(simulator, state)
    monkeypatch.setattr(fused, "SIDES_KEPT", 0)
    for x, y in zip(kept, _everything(simulator, state), strict=True):
        assert torch.equal(x, y)


def _decisions(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Everything that four decisions of an environment tell, and the gradients by their actions."""
    env = TrafficEnv(load_scenario(name, ["simulation.warmup_steps=0", "pool_size=5"]), dtype=dtype)
    state = env.reset(5, torch.Generator().manual_seed(0))
    shape = (4, 5, *(() if env.agents is None else (env.agents,)), len(env.action_labels))
    actions = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()
    total, found = torch.zeros((), dtype=dtype), []
    for t in range(4):
        state, told = env.step(state, actions[t])
        total = total + told.reward.sum() + 0.01 * told.final_observation.square().sum()
        found += [told.final_observation, told.reward, told.terminated, *told.terms.values()]
    return [x.detach() for x in (*found, *torch.autograd.grad(total, actions))]


@needs_kernel
def test_same_bits_for_every_build() -> None:
    functions, best = library().functions, library().variant
    assert functions is not None
    simulator, state = _ring(5, 50)
    simulator = replace(simulator, backend="fused")
    cases = [(name, dtype) for name in ("ring_4lane", "pace_car_3lane") for dtype in (torch.float32, torch.float64)]
    expected, decided, seen = _everything(simulator, state), [_decisions(*case) for case in cases], 0
    try:
        for name in ("generic", "avx2", "avx512"):
            if functions.trafficgrad_use(name.encode()):
                seen += 1
                for x, y in zip(expected, _everything(simulator, state), strict=True):
                    assert torch.equal(x, y), name
                for case, told in zip(cases, decided, strict=True):
                    for x, y in zip(told, _decisions(*case), strict=True):
                        assert torch.equal(x, y), (name, *case)
    finally:
        assert functions.trafficgrad_use(best.encode())
    assert seen >= 1 and not functions.trafficgrad_use(b"another")


@needs_kernel
def test_a_rollout_is_its_steps() -> None:
    for seed in range(40):
        case = random_case(seed)
        simulator = replace(case.simulator, backend="fused")
        whole = run(case, "fused", rollout=True)
        state = case.state
        for t in range(case.steps):
            action = None if case.actions is None else tree.index(case.actions, t)
            state = simulator.step(state, action, None if case.noise is None else case.noise[t])
            for field in fields(TrafficState):
                x, y = getattr(whole, field.name)[t + 1], getattr(state, field.name)
                torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True, msg=f"{seed}, step {t}, {field.name}")


@needs_kernel
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("ring_4lane", ()),
        ("ring_4lane", ("observation.others=9", "observation.shared=false", "lane_gradient.mode=sigmoid")),
        (
            "ring_4lane",
            (
                "vehicles.controlled.control=steered",
                "control.steering_scale=0.05",
                "failure.off_road=true",
                "failure.centre_distance=4.0",
                "failure.farthest=40.0",
                "failure.reward=-1.0",
            ),
        ),
        ("ring_1lane", ("observation.others=2",)),
        ("pace_car_2lane", ("observation={kind: world}",)),
        (
            "pace_car_10lane",
            ("observation={kind: world}", "control.acceleration_scale=40.0", "control.acceleration=[-40.0, 40.0]"),
        ),
        ("pace_car_4lane", ("observation={kind: local, target_speed: 10.0}", "control.steering_scale=3.0")),
        ("pace_car_3lane", ()),
        ("pace_car_3lane", ("observation.shared=true",)),
        ("figure_eight", ()),
    ],
)
def test_decisions_are_those_of_the_reference(
    name: str, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision's steps and what they lead to in one call, requests that are held until they are granted, and their
    gradients.
    """
    short = ["simulation.warmup_steps=100", "pool_size=6", "lane_gradient.choices=all", "simulation.horizon_steps=30"]
    scenario = load_scenario(name, [*short, *overrides])
    env = TrafficEnv(scenario, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    begin = env.reset(6, generator)
    columns = len(env.action_labels)
    shape = (6, env.agents, columns) if env.agents else (6, columns)
    plan = 1.2 * torch.randn(8, *shape, generator=generator, dtype=torch.float64)
    noise = [env.sample_noise(6, generator) for _ in range(8)]
    found, changes = {}, 0.0
    for backend in ("reference", "fused"):
        monkeypatch.setenv(kernels.VARIABLE, backend)
        state, actions = begin, plan.clone().requires_grad_()
        total, seen = torch.zeros((), dtype=torch.float64), []
        for t in range(8):
            state, transition = env.step(state, actions[t], noise[t])
            total = total + transition.reward.sum() + 0.1 * transition.final_observation.square().mean()
            seen += [transition.reward, transition.final_observation, transition.done.double()]
            seen += [transition.terms[part] for part in sorted(transition.terms)]
            changes += float(transition.terms["lane_changes"].sum())
        found[backend] = (seen, torch.autograd.grad(total, actions)[0])
    for x, y in zip(found["reference"][0], found["fused"][0], strict=True):
        torch.testing.assert_close(y, x, rtol=1e-10, atol=1e-10)
    x, y = found["reference"][1], found["fused"][1]
    sound = x.isfinite()  # through overlapping vehicles a few overflow, in both alike
    assert torch.equal(sound, y.isfinite()) and float(sound.double().mean()) > 0.9
    assert float((x - y)[sound].abs().max()) <= 1e-10 * float(x[sound].abs().max())
    assert changes > 0 or name != "ring_4lane"
    told = env.simulator.decide(begin.traffic, 1, None, None, env._wish) if env._wish is not None else None
    assert (told is None) == (name == "figure_eight")  # its observation is one of a network


@needs_kernel
@pytest.mark.parametrize("name", ["ring_4lane", "ring_1lane", "pace_car_3lane"])
def test_decisions_in_single_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One decision after the other from the reference's states; a world counts where all came to the same lanes."""
    env = TrafficEnv(load_scenario(name, ["simulation.warmup_steps=50", "pool_size=20"]), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    state, worlds, same = env.reset(20, generator), 0, 0
    shape = (20, *(() if env.agents is None else (env.agents,)), len(env.action_labels))
    for _ in range(12):
        action, noise = 0.6 * torch.randn(shape, generator=generator), env.sample_noise(20, generator)
        told = {}
        for backend in ("reference", "fused"):
            monkeypatch.setenv(kernels.VARIABLE, backend)
            after, transition = env.step(state, action, noise)
            assert transition.reward.dtype == torch.float32
            numbers = [transition.reward[:, None], transition.final_observation.flatten(1)]
            numbers += [x[:, None].float() for _, x in sorted(transition.terms.items())]
            told[backend] = (after, torch.cat(numbers, 1))
        (state, x), (other, y) = told["reference"], told["fused"]
        alike = (state.traffic.lane == other.traffic.lane).all(1)
        torch.testing.assert_close(y[alike], x[alike], rtol=1e-4, atol=1e-5)
        worlds, same = worlds + 20, same + int(alike.sum())
    assert same >= 0.95 * worlds


@pytest.mark.parametrize("backend", ["reference", pytest.param("fused", marks=needs_kernel)])
def test_another_simulators_parameters_reach_the_reward(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also parameters of every world of its own, over the steps of a decision."""
    monkeypatch.setenv(kernels.VARIABLE, backend)
    settings = ["simulation.warmup_steps=20", "pool_size=2", "reward=[{kind: delay}]"]
    env = TrafficEnv(load_scenario("ring_4lane", settings), dtype=torch.float64)
    state = env.reset(2, torch.Generator().manual_seed(0))
    following = env.simulator.car_following
    wish = following.desired_speed.expand(2, -1).clone().requires_grad_()  # type: ignore[union-attr]
    other = env.with_simulator(replace(env.simulator, car_following=replace(following, desired_speed=wish)))
    action = torch.zeros(2, 4, 2, dtype=torch.float64)
    reward = other.step(state, action)[1].reward
    torch.testing.assert_close(reward.detach(), env.step(state, action)[1].reward)
    (gradient,) = torch.autograd.grad(reward.sum(), wish)
    drivers = state.traffic.driver  # everybody's delay is measured by the own wish
    assert bool((gradient.gather(1, drivers) != 0).all())


@needs_kernel
def test_graphs_are_freed_without_the_garbage_collector() -> None:
    """A decision's call and its results must not keep each other: a training would fill the memory."""
    env = TrafficEnv(load_scenario("ring_1lane", ["simulation.warmup_steps=0", "pool_size=1"]))
    state = env.reset(2, torch.Generator().manual_seed(0))
    action = torch.zeros(2, env.agents, 1, requires_grad=True)  # type: ignore[arg-type]
    env.step(state, action)
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(x), Run) for x in gc.get_objects())
        after, transition = env.step(state, action)
        torch.autograd.grad(transition.reward.sum(), action)
        del after, transition
        assert sum(issubclass(type(x), Run) for x in gc.get_objects()) == before
    finally:
        gc.enable()


@needs_kernel
def test_nothing_that_goes_in_changes() -> None:
    case, _ = with_leaves(random_case(5))
    kept = tree.tree_map(lambda x: x.detach().clone(), case.state)
    after = run(case, "fused", rollout=False)
    after.speed.sum().backward()
    for field in fields(TrafficState):
        assert torch.equal(getattr(kept, field.name), getattr(case.state, field.name)), field.name


@needs_kernel
def test_python_threads_may_share_a_simulator() -> None:
    simulator, state = _ring(30, 50)
    expected = simulator.simulate(state, 20).position
    wrong = []

    def work() -> None:
        for _ in range(10):
            if not torch.equal(simulator.simulate(state, 20).position, expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_kernel
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    simulator, state = _ring(64, 60)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = simulator.simulate(state, 10).position
        child = os.fork()
        if child == 0:
            same = torch.equal(simulator.simulate(state, 10).position, expected)
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_what_is_no_number_stays_none() -> None:
    simulator, state = _ring(2, 40)
    position = state.position.clone()
    position[0, ::3] = math.nan
    after = replace(simulator, backend="fused").step(replace(state, position=position))
    assert bool(torch.isnan(after.position[0, ::3]).all())
    clean = replace(simulator, backend="fused").step(state)
    assert torch.equal(after.position[1], clean.position[1])


@needs_kernel
def test_bad_input_gets_a_sentence() -> None:
    simulator, state = _ring(2, 12)
    lane = state.lane.clone()
    lane[1, 3] = 99
    with pytest.raises(TrafficGradError, match="lane of vehicle slot 3 in world 1 is no lane of the network"):
        simulator.step(replace(state, lane=lane))
    driver = state.driver.clone()
    driver[0, 5] = 12
    with pytest.raises(TrafficGradError, match="driver of vehicle slot 5 in world 0 is no row"):
        simulator.step(replace(state, driver=driver))
    for name in ("acceleration", "lane"):
        action = Action(torch.zeros(2, 2), torch.zeros(2, 2))
        getattr(action, name)[1, 0] = math.nan
        with pytest.raises(TrafficGradError, match=rf"Action.{name} is not finite for controlled vehicle 0 of world 1"):
            simulator.step(state, action)
    with pytest.raises(TrafficGradError, match=r"Action.acceleration must have shape \[2, 2\]"):
        simulator.step(state, Action(torch.zeros(2, 3)))
    with pytest.raises(TrafficGradError, match=r"noise must have shape \[2, 12\], got \[3, 12\]"):
        simulator.step(state, None, torch.zeros(3, 12))
    alike = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))  # the same in all worlds
    expected = replace(simulator, backend="reference").step(state, None, alike)
    torch.testing.assert_close(simulator.step(state, None, alike).position, expected.position)


@needs_kernel
@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("driver", torch.zeros(2, 12, dtype=torch.int32), "its driver is not int64"),
        ("active", torch.ones(2, 12, dtype=torch.uint8), "its active is not bool"),
        ("time", torch.zeros(1), r"its time has shape \[1\] for 2 worlds"),
        ("left", torch.zeros(1, dtype=torch.int64), r"its left has shape \[1\] for 2 worlds"),
        ("speed", torch.zeros(2, 12, dtype=torch.float64), "its fields differ in dtype"),
    ],
)
def test_memory_that_is_not_laid_out_as_the_kernel_reads_it(field: str, value: Tensor, why: str) -> None:
    """It is never handed over: the reference runs, or says what is wrong."""
    simulator, state = _ring(2, 12)
    other = replace(state, **{field: value})
    with pytest.raises(TrafficGradError, match=f"this state is not one for it: {why}"):
        replace(simulator, backend="fused").step(other)
    if field == "driver":
        same = replace(state, driver=value.long())
        torch.testing.assert_close(simulator.step(other).position, simulator.step(same).position)


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.delenv("TRAFFICGRAD_KERNEL", raising=False)
    yield monkeypatch


@needs_kernel
def test_surroundings_are_those_of_the_reference() -> None:
    for seed in range(120):
        case, leaves = with_leaves(random_case(seed))
        found = []
        for backend in ("reference", "fused"):
            around = replace(case.simulator, backend=backend).neighbors(case.state)  # type: ignore[arg-type]
            generator, loss = torch.Generator().manual_seed(seed), torch.zeros((), dtype=torch.float64)
            for name in ("gap", "follower_gap", "closing_speed", "follower_closing_speed"):
                x = getattr(around, name)
                weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
                loss = loss + (torch.where(torch.isfinite(x), x, 0.0) * weight).sum()
            wanted = [leaves["position"], leaves["speed"]]
            wanted += [leaves["fleet.length"]] if "fleet.length" in leaves else []
            slopes = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
            found.append([getattr(around, f.name) for f in fields(around)][:6] + list(slopes))
        for x, y in zip(*found, strict=True):
            assert x.dtype == y.dtype
            torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)


@needs_kernel
def test_the_simulator_says_what_runs(no_variable: pytest.MonkeyPatch) -> None:
    simulator, state = _ring(1, 12)
    assert simulator.running_backend().name == "fused"
    assert replace(simulator, backend="reference").running_backend() == ("reference", "it was asked for")
    choice = simulator.running_backend(torch.float64)
    assert choice.name == "reference" and "desired_speed is float32 and the state float64" in choice.reason
    with pytest.raises(TrafficGradError, match=r"backend 'fused' was demanded, but .* float32 and the state float64"):
        replace(simulator, backend="fused").running_backend(torch.float64)
    with pytest.raises(TrafficGradError, match="not one for it: its fields differ in dtype"):
        replace(simulator, backend="fused").step(replace(state, time=state.time.double()))
    with pytest.raises(TrafficGradError, match="not one for it: it has no slot 2, which is controlled"):
        replace(simulator, backend="fused").step(TrafficState(*(torch.ones(1, 2, dtype=x) for x in FIELDS)))
    no_variable.setenv(kernels.VARIABLE, "reference")
    assert simulator.running_backend().name == "reference"
    no_variable.setenv(kernels.VARIABLE, "fussed")
    with pytest.raises(TrafficGradError, match=r"TRAFFICGRAD_BACKEND is 'fussed' .did you mean 'fused'"):
        simulator.running_backend()
    with pytest.raises(TrafficGradError, match=r"Simulator.backend: unknown 'fast'"):
        replace(simulator, backend="fast")  # type: ignore[arg-type]


def test_without_a_kernel_the_reference_runs_and_one_notice_says_so(
    no_variable: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module("trafficgrad.kernels.library")
    no_variable.setattr(module, "FOLDER", tmp_path)
    module.library.cache_clear()
    kernels.say_once.cache_clear()
    try:
        simulator, state = _ring(1, 12)
        with pytest.warns(
            RuntimeWarning, match="was not built with this installation: install trafficgrad again"
        ) as told:
            for _ in range(3):
                state = simulator.step(state)
        assert len(told) == 1
        assert simulator.running_backend().name == "reference"
        with pytest.raises(TrafficGradError, match="'fused' was demanded, but the fused kernel was not built"):
            replace(simulator, backend="fused").step(state)
        (tmp_path / "libfused.so").write_bytes(b"no library")
        module.library.cache_clear()
        assert "cannot be loaded" in str(module.library().missing)
        no_variable.setenv("TRAFFICGRAD_KERNEL", str(tmp_path / "nowhere.so"))
        module.library.cache_clear()
        assert "there is no such file" in str(module.library().missing)
    finally:
        module.library.cache_clear()


@needs_kernel
def test_parameters_that_move_are_followed() -> None:
    simulator, state = _ring(1, 12)
    idm = simulator.car_following
    assert isinstance(idm, IDM) and isinstance(idm.desired_speed, Tensor)
    first = simulator.step(state).speed
    with torch.no_grad():
        idm.desired_speed.mul_(0.5)  # as an optimiser does
    second = simulator.step(state).speed
    assert not torch.equal(first, second)
    idm.desired_speed.data = idm.desired_speed.data * 2.0  # somewhere else in memory
    torch.testing.assert_close(simulator.step(state).speed, first)


@needs_kernel
def test_a_simulator_can_be_copied_and_pickled() -> None:
    simulator, state = _ring(1, 12)
    expected = simulator.step(state)
    for other in (copy.deepcopy(simulator), pickle.loads(pickle.dumps(simulator))):
        assert torch.equal(other.step(state).position, expected.position)


def test_both_sides_know_the_same_record() -> None:
    header = (SOURCES / "abi.h").read_text()
    header = re.sub(r"//.*", "", header)

    def members(name: str) -> list[str]:
        body = re.search(rf"struct {name} {{(.*?)\n}};", header, re.S)
        assert body is not None
        return [
            re.sub(r"\[.*\]", "", m).strip(" *")
            for m in re.findall(r"(?:^|[ ,*])\*?([a-z_0-9]+(?:\[\w+\])?)(?=[,;])", body[1])
        ]

    assert members("Setup") == [name for name, *_ in layout.Setup._fields_]
    found = members("Call")
    assert found[:-1] == list(layout.CALL[: len(found) - 1]) and found[-1] == "bar_value"
    assert members("Wish") == [name for name, *_ in layout.WishRecord._fields_]
    assert members("Outcome") == list(layout.OUTCOME)
    assert f"MOST_OTHERS = {layout.MOST_OTHERS};" in header
    for name, known in (("Parameter", layout.PARAMETERS), ("Term", layout.TERMS), ("Measure", layout.MEASURES)):
        listed = re.search(rf"enum {name} : int {{(.*?)\b[A-Z]+S\b\s*}}", header, re.S)
        assert listed is not None and len(re.findall(r"\w+", listed[1])) == len(known), name


@needs_kernel
def test_modes_cost_no_values() -> None:
    """Blocked and straight-through differ backward alone."""
    simulator, state = _ring(3, 30)
    record = []
    for mode in ("blocked", "straight_through"):
        push = torch.zeros(20, 3, 2, requires_grad=True)
        chosen = replace(simulator, lane_gradient=LaneGradient(mode), backend="fused")  # type: ignore[arg-type]
        record.append(chosen.simulate(state, 20, actions=Action(push, push * 0 + 0.5)).position)
    assert torch.equal(record[0], record[1])

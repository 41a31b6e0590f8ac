"""The fused kernel equals the reference where vehicles come: arrivals, queues, entries, and gradients through them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from fused_cases import leaves_of
from test_demand import INFLOWS, fork
from torch import Tensor

import trafficgrad as tg
from trafficgrad.car_following import IDM
from trafficgrad.demand import Demand, Inflow
from trafficgrad.envs import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import LaneGradient
from trafficgrad.kernels import VARIABLE
from trafficgrad.kernels.library import library, use_threads
from trafficgrad.lane_change import MOBIL
from trafficgrad.scenario_config import load_scenario
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

pytestmark = pytest.mark.skipif(library().functions is None, reason=str(library().missing))
DOUBLE = torch.float64
STEPS, WINDOW, WORLDS, ROWS = 90, 10, 3, 8
SEEDS = range(9)
EVENTS = (
    *("entered", "entered in a slot that was left in this step", "entered in a controlled slot", "waits"),
    *("several came to one inflow", "no slot is left", "nobody comes any more", "rates matter"),
)
WHOLE = (1, 2, 7, 8)  # seeds with which all of that happens


def case(seed: int) -> tuple[Simulator, TrafficState]:
    """A fork or a straight road of two edges with few or many slots, any drivers, and inflows of every kind."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def table(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(ROWS, generator=generator, dtype=DOUBLE)

    straight = seed % 3 == 0
    # Where roads meet limits are finite, so that they can be leaves.
    network = tg.straight(240.0, lanes=2, edges=2, speed_limit=rng.choice([15.0, 60.0])) if straight else fork()
    flows = list(INFLOWS)
    if straight:
        flows = [
            Inflow(0, kind="poisson", rate=0.9, drivers=(2, 8), controlled_share=0.3),
            Inflow(0, kind="constant", rate=2.5, drivers=(2, 5), lanes=(1,)),
            Inflow(1, kind="schedule", times=[0.0, 0.05, 0.1, 2.0, 2.0, 3.0], drivers=(2, 8), speed=6.0),
        ]
    fleet = Fleet(
        length=table(3.0, 12.0 if rng.random() < 0.5 else 5.0),
        acceleration_noise=0.3,
        speed_factor=table(0.8, 1.2),
        controlled=[5, 2],
        control=("lane", "acceleration"),
        follow_limit=True,
    )
    four = seed % 4 < 3
    model = IDM(
        table(5.0, 30.0),
        table(0.3, 2.0),
        table(0.6, 2.0),
        table(1.0, 3.0),
        table(0.5, 3.0),
        4.0 if four else table(2.0, 5.0),
    )
    demand = Demand(flows)
    slots = rng.choice([9, 14, 40])
    zero = torch.zeros(WORLDS, slots, dtype=DOUBLE)
    state = TrafficState(zero, zero.clone(), torch.zeros(WORLDS, slots, dtype=torch.int64))
    # Nobody within another: differences of accelerations of 1e7 m/s2 have no last bits.
    number = torch.arange(slots).expand(WORLDS, slots)
    there = (torch.rand(WORLDS, slots, generator=generator) < 0.6) & (number < 8)
    place = 15.0 * (number // 2) + 3.0 * torch.rand(WORLDS, slots, generator=generator, dtype=DOUBLE)
    state = replace(
        state,
        active=there,
        position=place,
        lane=number % 2,
        speed=9.0 * torch.rand(WORLDS, slots, generator=generator, dtype=DOUBLE),
        driver=torch.randint(2, ROWS, (WORLDS, slots), generator=generator),
        seed=torch.arange(WORLDS) + 100 * seed,
        next_id=torch.full((WORLDS,), 1000),
    )
    simulator = Simulator(
        network,
        fleet,
        model,
        MOBIL(politeness=0.2, cooldown=0.5) if seed % 2 else None,
        lane_gradient=LaneGradient(("blocked", "straight_through", "sigmoid")[seed // 3 % 3]),  # type: ignore[arg-type]
        demand=demand,
        max_braking=9.0,
    )
    return simulator, demand.start(state)


def with_leaves(
    simulator: Simulator, state: TrafficState, seed: int
) -> tuple[Simulator, TrafficState, dict[str, Tensor]]:
    """The case with everything as leaves, rates and the times of the next arrivals too."""
    simulator, state, leaves = leaves_of(simulator, state, ROWS)
    rng, generator, flows = random.Random(seed), torch.Generator().manual_seed(seed), []
    for q, flow in enumerate(simulator.demand.inflows):  # type: ignore[union-attr]
        if flow.kind == "schedule":
            flows.append(flow)
            continue
        rate = torch.as_tensor(flow.rate, dtype=DOUBLE)
        if rng.random() < 0.5:
            rate = rate * (0.8 + 0.4 * torch.rand(WORLDS, generator=generator, dtype=DOUBLE))
        leaves[f"rate {q}"] = rate.detach().clone().requires_grad_()
        flows.append(replace(flow, rate=leaves[f"rate {q}"]))
    leaves["next_arrival"] = state.next_arrival.clone().requires_grad_()
    return replace(simulator, demand=Demand(flows)), replace(state, next_arrival=leaves["next_arrival"]), leaves


def drive(seed: int) -> Counter[str]:
    """Windows of some steps on both backends, step by step and at once: every field after every step, and gradients.

    Longer windows would tell less: gradients through everybody's choice of lane grow without bound.
    """
    simulator, state = case(seed)
    generator, seen = torch.Generator().manual_seed(seed + 1000), Counter[str]()
    for begin in range(0, STEPS, WINDOW):
        chosen, start, leaves = with_leaves(simulator, state, seed + begin)
        push, wish = (torch.randn(WINDOW, WORLDS, 2, generator=generator, dtype=DOUBLE) for _ in range(2))
        leaves |= {"acceleration": push.requires_grad_(), "request": wish.requires_grad_()}
        noise = torch.randn(WINDOW, WORLDS, state.vehicles, generator=generator, dtype=DOUBLE)
        runs: dict[str, list[TrafficState]] = {}
        for backend in ("reference", "fused"):
            runs[backend] = [start]
            for t in range(WINDOW):
                one = replace(chosen, backend=backend)  # type: ignore[arg-type]
                runs[backend].append(one.step(runs[backend][-1], Action(push[t], wish[t]), noise[t]))
        whole = replace(chosen, backend="fused").simulate(start, WINDOW, actions=Action(push, wish), noise=noise)
        runs["at once"] = [whole.state(t) for t in range(WINDOW + 1)]
        slopes = {}
        for name, states in runs.items():
            for t, (one, other) in enumerate(zip(states, runs["reference"], strict=True)):
                _same(one, other, f"{name}, step {begin + t}")
            weights = torch.Generator().manual_seed(begin)
            total = torch.zeros((), dtype=DOUBLE)
            for after in states:
                weight = torch.randn(3, *after.position.shape, generator=weights, dtype=DOUBLE)
                total = total + (weight * torch.stack([after.position, after.speed, after.lateral])).sum()
                total = total + torch.where(torch.isfinite(after.next_arrival), after.next_arrival, 0.0).sum()
            slopes[name] = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for name in ("fused", "at once"):
            for leaf, x, y in zip(leaves, slopes["reference"], slopes[name], strict=True):
                assert float((x - y).abs().max()) <= 1e-11 * float(x.abs().max()) + 1e-13, (name, begin, leaf)
        state = runs["reference"][-1].detach()
        seen += _count(chosen, runs["reference"], dict(zip(leaves, slopes["reference"], strict=True)))
    return seen


def _same(one: TrafficState, other: TrafficState, where: str) -> None:
    for field in fields(TrafficState):
        x, y = getattr(one, field.name), getattr(other, field.name)
        assert x.dtype == y.dtype and x.shape == y.shape, (where, field.name)
        if x.is_floating_point():
            torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11, msg=lambda m, f=field: f"{where}, {f.name}: {m}")
        else:
            assert torch.equal(x, y), (where, field.name, (x != y).nonzero()[:4].tolist())


def _count(simulator: Simulator, states: list[TrafficState], slopes: dict[str, Tensor]) -> Counter[str]:
    seen = Counter[str]()
    rows = simulator.fleet.slots
    for before, after in itertools.pairwise(states):
        came = after.vehicle_id != before.vehicle_id
        seen["entered"] += int(came.sum())
        seen["entered in a slot that was left in this step"] += int((came & before.active).sum())
        seen["entered in a controlled slot"] += int(came[:, rows].sum())
        seen["entered further on than its length"] += int((came & (after.position > 12.0)).sum())
        seen["waits"] += int((after.arrivals > after.inserted).sum())
        seen["several came to one inflow"] += int((after.arrivals > before.arrivals + 1).sum())
        seen["no slot is left"] += int(after.active.all(1).sum())
        seen["nobody comes any more"] += int(torch.isinf(after.next_arrival).sum())
    seen["rates matter"] += sum(bool(x.abs().max() > 0) for name, x in slopes.items() if name.startswith("rate"))
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_values_and_gradients(seed: int) -> None:
    seen = drive(seed)
    for event in EVENTS if seed in WHOLE else ():
        assert seen[event] > 0, (event, seen)


def test_same_bits_for_any_batch_and_threads() -> None:
    simulator, state = case(1)
    noise = torch.randn(STEPS, WORLDS, state.vehicles, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    many = state.index([0, 1, 2] * 40)
    with use_threads(1):
        alone = simulator.simulate(state, STEPS, noise=noise)
    with use_threads(3):
        together = simulator.simulate(many, STEPS, noise=noise.repeat(1, 40, 1))
    for field in fields(TrafficState):
        x, y = getattr(alone, field.name), getattr(together, field.name)
        assert torch.equal(x.repeat(1, 40, *[1] * (x.dim() - 2)), y), field.name


@pytest.mark.parametrize(("name", "at_once"), [("intersection", True), ("merge", False), ("highway_truck", False)])
def test_decisions_of_environments_are_those_of_the_reference(
    name: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where vehicles are controlled an action is not for those who come during it: then step by step."""
    env = TrafficEnv(load_scenario(name, ["simulation.warmup_steps=60", "pool_size=4"]), dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    begin = env.reset(4, generator)
    shape = (6, 4, *(() if env.agents is None else (env.agents,)), len(env.action_labels))
    plan, noise = (
        torch.randn(shape, generator=generator, dtype=DOUBLE),
        [env.sample_noise(4, generator) for _ in range(6)],
    )
    found, whole = {}, []
    decide = env._drive_at_once
    monkeypatch.setattr(env, "_drive_at_once", lambda *given: whole.append(decide(*given)) or whole[-1])
    for backend in ("reference", "fused"):
        monkeypatch.setenv(VARIABLE, backend)
        state, seen = begin, []
        for action, kick in zip(plan, noise, strict=True):
            state, told = env.step(state, action, kick)
            seen += [told.reward, told.final_observation, told.done.double(), state.traffic.position]
            seen += [told.terms[part].double() for part in sorted(told.terms)]
        found[backend] = seen
    for x, y in zip(found["reference"], found["fused"], strict=True):
        torch.testing.assert_close(y, x, rtol=1e-10, atol=1e-10)
    assert [x is not None for x in whole] == [False] * 6 + [at_once] * 6


def test_what_the_kernel_leaves_to_the_reference() -> None:
    simulator, state = case(1)
    times = torch.tensor([0.5, 1.0], dtype=DOUBLE, requires_grad=True)
    flows = [Inflow(0, kind="schedule", times=times, drivers=(2, 8))]
    scheduled = replace(simulator, demand=Demand(flows))
    choice = scheduled.running_backend(DOUBLE)
    assert choice.name == "reference" and "the times of a schedule" in choice.reason
    after = scheduled.simulate(scheduled.demand.start(state), 12)  # type: ignore[union-attr]
    (slope,) = torch.autograd.grad(after.position[-1].sum(), times)
    assert bool(slope.abs().max() > 0)
    with pytest.raises(TrafficGradError, match=r"5 inflows, and it has 0: begin with demand.start\(state\)"):
        replace(simulator, backend="fused").step(replace(state, arrivals=state.arrivals[:, :0]))

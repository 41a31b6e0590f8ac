"""Random simulators and states that reach every branch of a step, for comparing the fused kernel with the reference."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.gradients import LaneGradient
from trafficgrad.lane_change import MOBIL, LaneChoice
from trafficgrad.network import ring, straight
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState


@dataclass(frozen=True)
class Case:
    """A simulator, a state of it, and what is done in ``T`` steps."""

    simulator: Simulator
    state: TrafficState
    actions: Action | None  # [T, B, C]
    noise: Tensor | None  # [T, B, N]

    @property
    def steps(self) -> int:
        return 4


def random_case(seed: int, mode: str | None = None, dtype: torch.dtype = torch.float64) -> Case:
    """Rings and open roads of 1 to 4 lanes and 1 to 3 edges, ties, empty lanes, standing and crawling vehicles,
    overlapping bodies, inactive slots, every kind of controlled vehicle, every option of the models.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    worlds, n = rng.choice([1, 2, 3]), rng.choice([1, 2, 3, rng.randint(4, 30)])
    lanes, edges, closed = rng.randint(1, 4), rng.randint(1, 3), rng.random() < 0.7
    any_exponent = rng.random() < 0.3
    extent = rng.choice([8.0, 15.0, 30.0]) * max(n, 3) / lanes + 20.0
    if any_exponent:  # two libraries' powers differ in the last bit: no differences of accelerations of 1e7 m/s2 then
        extent = 40.0 * max(n, 3)
    limit = rng.choice([math.inf, 12.5])
    network = (ring if closed else straight)(extent, lanes=lanes, edges=edges, speed_limit=limit)

    def per_driver(low: float, high: float, number: float, kinds: tuple[str, ...] = ("one",)) -> float | Tensor:
        kind = rng.choice(["number", "drivers", "drivers", "worlds", *kinds])
        if kind == "number":
            return number
        shape = {"drivers": (n,), "worlds": (worlds, n), "one": ()}[kind]
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=dtype)

    count = rng.randint(0, min(4, n))
    slots = rng.sample(range(n), count)
    kinds = [rng.choice(["acceleration", "lane", "lane", "steered"]) for _ in slots]
    fleet = Fleet(
        length=per_driver(3.0, 8.0, 5.0, ()),
        acceleration_noise=per_driver(0.0, 0.4, 0.2, ()),
        speed_factor=per_driver(0.8, 1.2, 1.0, ()),
        controlled=slots,
        control=tuple(kinds),
        follow_limit=tuple(rng.random() < 0.5 for _ in slots),
    )
    idm = IDM(
        per_driver(5.0, 30.0, 20.0),
        per_driver(0.5, 2.0, 1.0),
        per_driver(0.5, 3.0, 1.0),
        per_driver(1.0, 3.0, 1.5),
        per_driver(0.5, 3.0, 2.0),
        rng.choice([3.0, per_driver(2.0, 5.0, 4.0)]) if any_exponent else 4.0,
        rng.choice(["sumo", "paper"]),
    )
    mobil = MOBIL(
        rng.choice([0.0, per_driver(0.0, 0.8, 0.3)]),
        per_driver(-0.2, 0.3, 0.1),
        rng.choice([1e9, per_driver(2.0, 6.0, 3.0)]),
        rng.choice([0.0, per_driver(-0.2, 0.3, 0.1)]),
        rng.choice([0.0, per_driver(0.0, 3.0, 1.0)]),
        per_driver(0.1, 2.0, 0.5),
        rng.choice(["both", "alternate"]),
    )
    gradient = LaneGradient(
        mode or rng.choice(["straight_through", "straight_through", "blocked", "sigmoid"]),  # type: ignore[arg-type]
        temperature=rng.choice([0.1, 0.5]),
        choice_temperature=rng.choice([0.03, 0.3]),
        memory=rng.choice([0.5, 5.0, math.inf]),
        transition_width=rng.choice([0.1, 0.5]),
        contrast_limits=rng.choice(["drivers", None, (-4.0, 1.0)]),
        choices=rng.choice(["all", "all", "controlled"]),
    )
    simulator = Simulator(
        network,
        fleet,
        idm,
        rng.choice([mobil, mobil, mobil, None]),
        LaneChoice(rng.choice([0.5, 2.0]), rng.choice([4.0, 1e9]), rng.choice([4.0, 1e9]), rng.choice([0.0, 3.0])),
        gradient,
        dt=rng.choice([0.1, 0.1, 0.25, 1.0]),
        integrator=rng.choice(["ballistic", "semi_implicit_euler", "explicit_euler"]),
        max_braking=rng.choice([math.inf, 9.0, 4.0]),
    )
    lane = torch.tensor([[rng.randrange(len(network.lanes)) for _ in range(n)] for _ in range(worlds)])
    if rng.random() < 0.3:
        lane[:, :] = lane[:, :1]  # the other lanes are empty
    length = network.lane_length.to(dtype)[lane]
    place = torch.rand(worlds, n, generator=generator, dtype=dtype)
    style = "spaced" if any_exponent else rng.choice(["anywhere", "spaced", "grid"])
    if style == "spaced":
        order = torch.tensor([rng.sample(range(n), n) for _ in range(worlds)])
        place = (order + 0.3 * place) / n
    position = place * length
    if style == "grid":
        position = (position / 4.0).floor() * 4.0
    ends = torch.rand(worlds, n, generator=generator, dtype=dtype) < 0.1
    position = torch.where(ends, length - 0.3, position)
    paces = [[rng.choice([0.0, 0.0, 0.3, 5.0, rng.uniform(0, 20)]) for _ in range(n)] for _ in range(worlds)]
    state = TrafficState(
        position,
        torch.tensor(paces, dtype=dtype),
        lane,
        cooldown=torch.tensor(
            [[rng.choice([0.0, 0.0, 0.0, 0.05, 1.3]) for _ in range(n)] for _ in range(worlds)], dtype=dtype
        ),
        driver=torch.tensor([[rng.randrange(n) for _ in range(n)] for _ in range(worlds)]),
        active=torch.tensor([[rng.random() < 0.9 for _ in range(n)] for _ in range(worlds)]),
        time=torch.tensor([rng.randint(0, 40) * simulator.dt for _ in range(worlds)], dtype=dtype),
    )
    steered = [slot for slot, kind in zip(slots, kinds, strict=True) if kind == "steered"]
    for slot in steered:
        state.lateral[:, slot] = torch.tensor([rng.uniform(-1.9, 1.9) for _ in range(worlds)], dtype=dtype)
        state.heading[:, slot] = torch.tensor([rng.uniform(-0.5, 0.5) for _ in range(worlds)], dtype=dtype)
        if rng.random() < 0.1:
            state.lane[0, slot] = -1
    actions = None
    if rng.random() < 0.85:

        def plan(values: list[float]) -> Tensor:
            drawn = [rng.choice(values) + rng.uniform(-0.2, 0.2) for _ in range(4 * worlds * count)]
            return torch.tensor(drawn, dtype=dtype).reshape(4, worlds, count)

        actions = Action(
            plan([-5.0, -1.0, 0.0, 1.0]),
            None if rng.random() < 0.2 else plan([-0.8, -0.3, 0.0, 0.3, 0.8]),
            None if rng.random() < 0.2 else plan([-0.4, 0.0, 0.4]),
        )
    noise = torch.randn(4, worlds, n, generator=generator, dtype=dtype) if rng.random() < 0.6 else None
    return Case(simulator, state, actions, noise)


def leaves_of(
    simulator: Simulator, state: TrafficState, rows: int | None = None
) -> tuple[Simulator, TrafficState, dict[str, Tensor]]:
    """A simulator and a state with everything that may be differentiated by as leaves, and the leaves by name.

    Parameters that are numbers become tensors where roads meet and part, of ``rows`` drivers or those of the state.
    """
    leaves: dict[str, Tensor] = {}
    network, rows = simulator.network, rows or int(state.driver.max()) + 1

    def leaf(name: str, value: Tensor) -> Tensor:
        leaves[name] = value.detach().clone().requires_grad_()
        return leaves[name]

    def real(value: object) -> Tensor | None:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
        if isinstance(value, float) and not network.is_unbranched:
            return torch.full((rows,), value, dtype=state.position.dtype)
        return None

    names = ("position", "speed", "lateral", "heading", "cooldown", "passed")
    start = replace(state, **{name: leaf(name, getattr(state, name)) for name in names})
    parts = {"car_following": simulator.car_following, "lane_change": simulator.lane_change, "fleet": simulator.fleet}
    for part, record in parts.items():
        if record is None:
            continue
        found = {name: real(value) for name, value in vars(record).items() if name != "exponent"}
        changed = {name: leaf(f"{part}.{name}", value) for name, value in found.items() if value is not None}
        if isinstance(getattr(record, "exponent", None), Tensor):
            changed["exponent"] = leaf(f"{part}.exponent", record.exponent)  # type: ignore[union-attr]
        parts[part] = replace(record, **changed)
    signals = simulator.signals
    if not network.is_unbranched:
        limits = network.speed_limit if network.limits is None else network.limits
        network = network.with_speed_limits(leaf("limits", limits.clamp(max=40.0)))
    if signals is not None:
        times = {name: leaf(name, getattr(signals, name)) for name in ("durations", "offset")}
        signals = replace(signals, **times)
    return replace(simulator, network=network, signals=signals, **parts), start, leaves


def with_leaves(case: Case) -> tuple[Case, dict[str, Tensor]]:
    """The case with everything that may be differentiated by as leaves, and the leaves by name."""
    simulator, state, leaves = leaves_of(case.simulator, case.state)
    actions, noise = case.actions, case.noise
    if actions is not None:
        parts = {
            name: getattr(actions, name).clone().requires_grad_()
            for name in ("acceleration", "lane", "steering")
            if getattr(actions, name) is not None
        }
        leaves |= {f"action.{name}": x for name, x in parts.items()}
        actions = replace(actions, **parts)
    if noise is not None:
        noise = leaves["noise"] = noise.clone().requires_grad_()
    return Case(simulator, state, actions, noise), leaves

"""Random worlds for the scalar oracle and the same worlds as a torch simulator, float64, one world."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.gradients import LaneGradient
from trafficgrad.lane_change import MOBIL, LaneChoice
from trafficgrad.network import RoadNetwork, ring, straight
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

from .scalar_traffic import Road, Rules, Vehicle


@dataclass(frozen=True)
class World:
    """A world in the oracle's terms, the compiled network it stands on, and which driver sits in which slot."""

    network: RoadNetwork
    road: Road
    rules: Rules
    cars: list[Vehicle]
    time: float
    drivers: list[int]


def road_of(network: RoadNetwork) -> Road:
    """The oracle's road from the network's tables."""
    return Road(
        length=network.lane_length.double().tolist(),
        left=network.left.tolist(),
        right=network.right.tolist(),
        successor=network.successors[:, 0].tolist(),
        speed_limit=network.speed_limit.double().tolist(),
        width=network.lane_width.double().tolist(),
    )


def random_world(seed: int, most_per_lane: int = 12) -> World:
    """1-4 lanes, a ring or open road of 1-3 edges, 0-12 vehicles a lane: regular, on a grid with ties, or anywhere."""
    rng = random.Random(seed)
    lanes, edges, closed = rng.randint(1, 4), rng.randint(1, 3), rng.random() < 0.7
    counts = [rng.choice([0, 1, 2, rng.randint(0, most_per_lane)]) for _ in range(lanes)]
    if sum(counts) == 0:
        counts[rng.randrange(lanes)] = 1
    extent = 4.0 * rng.randint(12, 16) * max(1, max(counts) // 2) * edges / rng.choice([1, 1, edges])
    extent = round(extent) * 1.0 if rng.random() < 0.5 else extent + rng.random()
    limit = rng.choice([math.inf, 17.5])
    width = rng.choice([3.5, 3.0])
    builder = ring if closed else straight
    network = builder(extent if closed else extent + 600, lanes=lanes, edges=edges, speed_limit=limit, lane_width=width)
    road = road_of(network)
    rules = Rules(
        dt=rng.choice([0.1, 0.1, 0.25]),
        integrator=rng.choice(["ballistic", "semi_implicit_euler", "explicit_euler"]),
        desired_gap=rng.choice(["sumo", "paper"]),
        max_braking=rng.choice([math.inf, 4.0]),
        sides=rng.choice(["both", "both", "alternate", None]),
        memory=rng.choice([2.0, math.inf]),
        choice_min_gap=rng.choice([0.5, 2.0]),
        choice_safe_deceleration=rng.choice([4.0, 1e9]),
        choice_own_deceleration=rng.choice([4.0, 1e9]),
        choice_cooldown=rng.choice([0.0, 3.0]),
    )
    style = rng.choice(["regular", "grid", "anywhere"])
    alike = rng.random() < 0.3
    cars = []
    for lane, count in enumerate(counts):
        for n in range(count):
            if style == "regular":
                at = extent * (n + rng.uniform(0.0, 0.3)) / count
            elif style == "grid":
                at = math.floor(rng.uniform(0, extent) / 8.0) * 8.0
            else:
                at = rng.uniform(0, extent)
            cars.append(place(road, edges, lane, at, rng, alike))
    rng.shuffle(cars)
    for i in rng.sample(range(len(cars)), rng.randint(0, min(8, len(cars)))):
        cars[i] = replace(cars[i], control=rng.choice(["acceleration", "lane"]), follow_limit=rng.random() < 0.5)
    return World(network, road, rules, cars, rng.randint(0, 40) * rules.dt, rng.sample(range(len(cars)), len(cars)))


def place(road: Road, edges: int, lane: int, at: float, rng: random.Random, alike: bool) -> Vehicle:
    """A random vehicle ``at`` metres from the start of the road in the ``lane``-th lane from the right."""
    first = [x for x in range(len(road.length)) if x not in road.successor or edges == 1]
    first = first or list(range(len(road.length) // edges))
    here = next(x for x in first if road.right[x] == -1)
    for _ in range(lane):
        here = road.left[here]
    while at >= road.length[here] and road.successor[here] != -1:
        at, here = at - road.length[here], road.successor[here]
    if road.successor[here] != -1 and rng.random() < 0.05:
        at = road.length[here] - 0.5  # about to cross
    speed = rng.choice([0.0, 5.0, rng.uniform(0, 25)])
    cooldown = rng.choice([0.0, 0.0, 0.0, 0.05, 0.5, 1.3])
    if alike:
        return Vehicle(at, 5.0, here, cooldown=cooldown)
    return Vehicle(
        at,
        speed,
        here,
        cooldown=cooldown,
        length=rng.uniform(3, 9),
        acceleration_noise=rng.choice([0.0, 0.2]),
        speed_factor=rng.uniform(0.8, 1.1),
        desired_speed=rng.uniform(10, 35),
        time_headway=rng.uniform(0.5, 2.0),
        max_acceleration=rng.uniform(0.5, 3.0),
        comfortable_deceleration=rng.uniform(1, 3),
        min_gap=rng.uniform(0.5, 3),
        exponent=rng.uniform(2, 5),
        politeness=rng.choice([0.0, rng.uniform(0, 0.8)]),
        threshold=rng.uniform(0, 0.3),
        safe_deceleration=rng.choice([rng.uniform(2, 6), 1e9]),
        right_bias=rng.uniform(-0.1, 0.3),
        change_cooldown=rng.choice([0.0, 0.7, 3.0]),
        change_min_gap=rng.uniform(0.2, 2.0),
    )


def random_actions(cars: list[Vehicle], rng: random.Random) -> list[Vehicle]:
    """The same vehicles with fresh actions on the controlled ones."""
    requests = [-1.0, -1.0, -0.34, -0.3, 0.0, 0.3, 0.34, 1.0, 1.0, rng.uniform(-1, 1)]
    return [
        c if c.control is None else replace(c, acceleration=rng.uniform(-4, 2), request=rng.choice(requests))
        for c in cars
    ]


def table(world: World, name: str) -> Tensor:
    """Per-driver parameter [P] of the slots' vehicles."""
    values = torch.empty(len(world.cars), dtype=torch.float64)
    for slot, driver in enumerate(world.drivers):
        values[driver] = getattr(world.cars[slot], name)
    return values


def simulator_of(world: World, lane_gradient: LaneGradient | None = None, **parameters: Tensor) -> Simulator:
    """The torch simulator of a world; ``parameters`` replace per-driver tables (to differentiate by)."""
    rules, cars = world.rules, world.cars

    def get(name: str) -> Tensor:
        return parameters[name] if name in parameters else table(world, name)

    controlled = [i for i, c in enumerate(cars) if c.control is not None]
    fleet = Fleet(
        length=get("length"),
        acceleration_noise=get("acceleration_noise"),
        speed_factor=get("speed_factor"),
        controlled=controlled,
        control=tuple(cars[i].control for i in controlled),  # type: ignore[misc]
        follow_limit=tuple(cars[i].follow_limit for i in controlled),
    )
    drivers = ("desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap", "exponent")
    mobil = MOBIL(
        politeness=get("politeness"),
        threshold=get("threshold"),
        safe_deceleration=get("safe_deceleration"),
        right_bias=get("right_bias"),
        cooldown=get("change_cooldown"),
        min_gap=get("change_min_gap"),
        sides=rules.sides or "both",  # type: ignore[arg-type]
    )
    if lane_gradient is None:
        lane_gradient = LaneGradient(
            temperature=rules.temperature,
            choice_temperature=rules.choice_temperature,
            memory=rules.memory,
            contrast_limits=rules.contrast_limits,  # type: ignore[arg-type]
        )
    return Simulator(
        world.network,
        fleet,
        IDM(**{n: get(n) for n in drivers}, desired_gap=rules.desired_gap),  # type: ignore[arg-type]
        lane_change=None if rules.sides is None else mobil,
        lane_choice=LaneChoice(
            rules.choice_min_gap, rules.choice_safe_deceleration, rules.choice_own_deceleration, rules.choice_cooldown
        ),
        lane_gradient=lane_gradient,
        dt=rules.dt,
        integrator=rules.integrator,  # type: ignore[arg-type]
        max_braking=rules.max_braking,
    )


def state_of(world: World) -> TrafficState:
    """The torch state [1, N] of a world."""

    def real(name: str) -> Tensor:
        return torch.tensor([[getattr(c, name) for c in world.cars]], dtype=torch.float64)

    return TrafficState(
        position=real("position"),
        speed=real("speed"),
        lane=torch.tensor([[c.lane for c in world.cars]]),
        cooldown=real("cooldown"),
        driver=torch.tensor([world.drivers]),
        time=torch.tensor([world.time], dtype=torch.float64),
    )


def action_of(cars: list[Vehicle]) -> Action | None:
    """The torch action [1, C] that rides on the vehicles; None when they drive by themselves."""
    controlled = [c for c in cars if c.control is not None]
    if not controlled or controlled[0].acceleration is None:
        return None
    lane = None
    if controlled[0].request is not None:
        lane = torch.tensor([[c.request for c in controlled]], dtype=torch.float64)
    return Action(torch.tensor([[c.acceleration for c in controlled]], dtype=torch.float64), lane)

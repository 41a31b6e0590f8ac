"""One step of a traffic world in plain Python: the independent second implementation of the simulator's step.

Scalars, lists and explicit O(N^2) loops in float64; nothing is shared with the package. Positions are front bumpers,
a gap is the leader's rear bumper minus the own front bumper, vehicles at equal positions are ordered by their index
(the higher index is ahead), sides are k = -1 (right), 0 (own lane), +1 (left).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SIDES = (-1, 1)
SMALLEST_GAP = 0.001  # m, floor of the gap inside the car-following formula


@dataclass(frozen=True)
class Road:
    """Lanes: length (m), neighbouring lanes and the lane that follows at the end (-1 = none)."""

    length: list[float]
    left: list[int]
    right: list[int]
    successor: list[int]
    speed_limit: list[float]
    width: list[float]

    def beside(self, lane: int, k: int) -> int:
        """The lane on side ``k`` of ``lane``, -1 if there is none."""
        return lane if k == 0 else (self.left if k > 0 else self.right)[lane]

    def chain(self, lane: int) -> list[int]:
        """``lane`` and the lanes that follow, until the road ends or returns to ``lane``."""
        lanes = [lane]
        while self.successor[lanes[-1]] not in (-1, lane):
            lanes.append(self.successor[lanes[-1]])
        return lanes

    def strand(self, lane: int) -> frozenset[int]:
        """All lanes joined end to end with ``lane``: one queue of vehicles."""
        return frozenset(x for x in range(len(self.length)) if lane in self.chain(x) or x in self.chain(lane))


@dataclass(frozen=True)
class Vehicle:
    """State, body, driver and role of one vehicle."""

    position: float
    speed: float
    lane: int
    cooldown: float = 0.0
    length: float = 5.0
    acceleration_noise: float = 0.0
    speed_factor: float = 1.0
    desired_speed: float = 30.0
    time_headway: float = 1.0
    max_acceleration: float = 1.0
    comfortable_deceleration: float = 1.5
    min_gap: float = 2.0
    exponent: float = 4.0
    politeness: float = 0.2
    threshold: float = 0.1
    safe_deceleration: float = 4.0
    right_bias: float = 0.0
    change_cooldown: float = 3.0
    change_min_gap: float = 0.5
    control: str | None = None  # None (a driver), "acceleration" or "lane"
    follow_limit: bool = False
    acceleration: float | None = None  # action, m/s2; None: drives by car following
    request: float | None = None  # action, lane request


@dataclass(frozen=True)
class Rules:
    """What all vehicles share. ``sides`` is None without a lane-change model."""

    dt: float = 0.1
    integrator: str = "ballistic"
    desired_gap: str = "sumo"
    max_braking: float = math.inf
    sides: str | None = "both"
    choice_min_gap: float = 0.5
    choice_safe_deceleration: float = 4.0
    choice_own_deceleration: float = 4.0
    choice_cooldown: float = 3.0
    temperature: float = 0.3
    choice_temperature: float = 0.1
    memory: float = math.inf
    contrast_limits: tuple[float, float] | str | None = None  # "drivers": -6 times the comfortable deceleration


@dataclass
class View:
    """What vehicle i sees and would cause on one side of the snapshot."""

    lane: int
    leader: int | None
    follower: int | None
    gap: float
    follower_gap: float
    own: float  # A_k, m/s2
    follower_without: float  # N_k (k = 0: O'), 0 without a follower
    follower_with: float  # N'_k (k = 0: O), 0 without a follower


def idm(rules: Rules, road: Road, car: Vehicle, lane: int, gap: float, closing: float) -> float:
    """Acceleration of the Intelligent Driver Model behind a leader at ``gap`` (inf: free road)."""
    a, b = car.max_acceleration, car.comfortable_deceleration
    limit = road.speed_limit[lane] * car.speed_factor
    desired = car.desired_speed if car.desired_speed < limit else limit
    dynamic = car.speed * car.time_headway + car.speed * closing / (2 * math.sqrt(a * b))
    wished = max(0.0, car.min_gap + dynamic) if rules.desired_gap == "paper" else car.min_gap + max(0.0, dynamic)
    interaction = 0.0 if gap == math.inf else wished / max(gap, SMALLEST_GAP)
    return a * (1 - (car.speed / desired) ** car.exponent - interaction**2)


def behind(rules: Rules, road: Road, cars: list[Vehicle], car: int, leader: int | None, gap: float) -> float:
    """Car-following acceleration of ``car``, in its own lane, behind ``leader``; itself or None means a free road."""
    me = cars[car]
    if leader is None or leader == car:
        return idm(rules, road, me, me.lane, math.inf, 0.0)
    return idm(rules, road, me, me.lane, gap, me.speed - cars[leader].speed)


def find(road: Road, cars: list[Vehicle], i: int, lane: int) -> tuple[int | None, float, int | None, float]:
    """Leader, gap, follower and follower's gap of vehicle i if it stood in ``lane`` at its position."""
    me, leader, follower = cars[i], None, None
    ahead_key: tuple[int, float, int] | None = None
    behind_key: tuple[int, float, int] | None = None
    gap = follower_gap = math.inf
    for j, other in enumerate(cars):
        if j == i:
            continue
        distance = along(road, lane, me.position, i, other.lane, other.position, j)
        if distance is not None and (ahead_key is None or (distance[0], other.position, j) < ahead_key):
            ahead_key = (distance[0], other.position, j)
            leader, gap = j, distance[1] - other.length
        distance = along(road, other.lane, other.position, j, lane, me.position, i)
        if distance is not None and (behind_key is None or (distance[0], -other.position, -j) < behind_key):
            behind_key = (distance[0], -other.position, -j)
            follower, follower_gap = j, distance[1] - me.length
    return leader, gap, follower, follower_gap


def along(road: Road, lane: int, x: float, i: int, lane_to: int, x_to: float, j: int) -> tuple[int, float] | None:
    """Edge ends crossed and distance driven from (lane, x) forward to (lane_to, x_to); None if never reached."""
    if lane == lane_to and (x_to, j) > (x, i):
        return 0, x_to - x
    driven, at = 0.0, lane
    for hops in range(1, len(road.length) + 1):
        driven += road.length[at]
        at = road.successor[at]
        if at == -1:
            return None
        if at == lane_to:
            return hops, driven - x + x_to
    return None


def view(rules: Rules, road: Road, cars: list[Vehicle], i: int, k: int) -> View | None:
    """Evaluate side ``k`` for vehicle i on the snapshot; None if that lane does not exist."""
    me = cars[i]
    lane = road.beside(me.lane, k)
    if lane == -1:
        return None
    leader, gap, follower, follower_gap = find(road, cars, i, lane)
    closing = 0.0 if leader is None else me.speed - cars[leader].speed
    own = idm(rules, road, me, lane, gap, closing)
    without = with_me = 0.0
    if follower is not None:
        beyond = math.inf
        if leader is not None and leader != follower:
            beyond = follower_gap + me.length + gap  # behind i's leader, i not there
        without = behind(rules, road, cars, follower, leader, beyond)
        with_me = behind(rules, road, cars, follower, i, follower_gap)
    return View(lane, leader, follower, gap, follower_gap, own, without, with_me)


def views(rules: Rules, road: Road, cars: list[Vehicle], i: int) -> dict[int, View]:
    """All existing sides of vehicle i."""
    found = {k: view(rules, road, cars, i, k) for k in (-1, 0, 1)}
    return {k: seen for k, seen in found.items() if seen is not None}


def incentives(rules: Rules, road: Road, cars: list[Vehicle], i: int) -> dict[int, float]:
    """MOBIL: U_k of every existing side of vehicle i."""
    me, seen = cars[i], views(rules, road, cars, i)
    utility = {0: 0.0}
    for k in SIDES:
        if k in seen:
            new, old = seen[k], seen[0]
            others = (new.follower_with - new.follower_without) + (old.follower_without - old.follower_with)
            utility[k] = new.own - old.own + me.politeness * others - me.threshold - k * me.right_bias
    return utility


def feasible(rules: Rules, road: Road, cars: list[Vehicle], i: int, time: float) -> list[int]:
    """The set S: 0 and the sides that cool-down, gaps and safety allow, judged on the snapshot."""
    me, seen, allowed = cars[i], views(rules, road, cars, i), [0]
    if me.cooldown > 0 or me.control == "acceleration" or (me.control is None and rules.sides is None):
        return allowed
    for k in SIDES:
        if k not in seen:
            continue
        side = seen[k]
        if me.control == "lane":
            gap, safe = rules.choice_min_gap, rules.choice_safe_deceleration
            possible = side.own >= -rules.choice_own_deceleration
        else:
            gap, safe = me.change_min_gap, me.safe_deceleration
            turn = 1 if round(time / rules.dt) % 2 == 0 else -1
            possible = rules.sides == "both" or k == turn
        if possible and side.gap >= gap and side.follower_gap >= gap and side.follower_with >= -safe:
            allowed.append(k)
    return allowed


def decide(rules: Rules, road: Road, cars: list[Vehicle], i: int, time: float) -> tuple[int, float]:
    """The side that vehicle i wants and its incentive."""
    me, allowed = cars[i], feasible(rules, road, cars, i, time)
    if me.control is not None:
        request = 0 if me.request is None else (1 if me.request > 1 / 3 else -1 if me.request < -1 / 3 else 0)
        return (request if request in allowed else 0), 0.0
    utility = incentives(rules, road, cars, i)
    best = 0
    for k in (1, -1):  # ties: stay, then left
        if k in allowed and utility[k] > utility[best]:
            best = k
    return best, utility[best]


def accelerate(rules: Rules, road: Road, cars: list[Vehicle], i: int, noise: float) -> float:
    """Acceleration of vehicle i in its lane: model or action, noise, braking bound, follow limit, stop rule."""
    me = cars[i]
    leader, gap, _, _ = find(road, cars, i, me.lane)
    return respond(
        rules, me, behind(rules, road, cars, i, leader, gap), me.acceleration_noise * math.sqrt(rules.dt) * noise
    )


def respond(rules: Rules, car: Vehicle, following: float, noise: float = 0.0) -> float:
    """What ``car`` does where its car-following model says ``following``: B of the gradient formulas without noise."""
    acceleration = following if car.acceleration is None else car.acceleration
    acceleration = max(acceleration + noise, -rules.max_braking)
    if car.follow_limit and car.acceleration is not None:
        acceleration = min(acceleration, following)
    return stopped(rules, car, acceleration)


def stopped(rules: Rules, car: Vehicle, acceleration: float) -> float:
    """The stop rule: no stronger braking than to standstill within the step."""
    return max(acceleration, -car.speed / rules.dt)


def integrate(rules: Rules, car: Vehicle, acceleration: float) -> tuple[float, float]:
    """Distance driven and new speed."""
    speed = max(0.0, car.speed + acceleration * rules.dt)
    mean = {"ballistic": (car.speed + speed) / 2, "semi_implicit_euler": speed, "explicit_euler": car.speed}
    return mean[rules.integrator] * rules.dt, speed


def step(
    rules: Rules, road: Road, cars: list[Vehicle], time: float, noise: list[float] | None = None
) -> tuple[list[Vehicle], float]:
    """One step of one world: vehicles and time at t + dt. Actions ride on the vehicles."""
    count = range(len(cars))
    noise = [0.0] * len(cars) if noise is None else noise
    accelerations = [accelerate(rules, road, cars, i, noise[i]) for i in count]
    decisions = [decide(rules, road, cars, i, time) for i in count]
    moved = [integrate(rules, cars[i], accelerations[i]) for i in count]

    taken: set[tuple[object, ...]] = set()
    changes = [0] * len(cars)
    for i in sorted(count, key=lambda i: (cars[i].control is None, -decisions[i][1], i)):
        side = decisions[i][0]
        seen = view(rules, road, cars, i, side)
        if side == 0 or seen is None:
            continue
        place = (road.strand(seen.lane), seen.leader, seen.follower)
        if place in taken:
            continue
        taken.add(place)
        front = seen.gap if seen.leader is None else seen.gap + moved[seen.leader][0] - moved[i][0]
        rear = seen.follower_gap if seen.follower is None else seen.follower_gap + moved[i][0] - moved[seen.follower][0]
        smallest = cars[i].change_min_gap if cars[i].control is None else rules.choice_min_gap
        if front >= smallest and rear >= smallest:
            changes[i] = side

    after = []
    for i in count:
        car, (driven, speed) = cars[i], moved[i]
        position, lane = car.position + driven, car.lane
        while position >= road.length[lane] and road.successor[lane] != -1:
            position -= road.length[lane]
            lane = road.successor[lane]
        cooldown = car.cooldown - rules.dt
        if cooldown < 1e-3 * rules.dt:  # what rounding leaves of the last step is no step
            cooldown = 0.0
        if changes[i] != 0:
            lane = road.beside(lane, changes[i])
            cooldown = car.change_cooldown if car.control is None else rules.choice_cooldown
        after.append(replace(car, position=position, speed=speed, lane=lane, cooldown=cooldown))
    return after, time + rules.dt

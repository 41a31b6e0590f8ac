"""Straight-through gradients of one lane decision in plain Python, beside the scalar step of ``scalar_traffic``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .scalar_traffic import SIDES, Road, Rules, Vehicle, View, feasible, incentives, respond, views


@dataclass
class LaneAdjoint:
    """What the straight-through rules make of the cotangents of one vehicle."""

    lateral: float  # y_bar(t)
    incentive: dict[int, float] = field(default_factory=dict)  # U_bar_k, drivers
    request: float = 0.0  # u_bar, lane-choosing vehicles
    probability: dict[int, float] = field(default_factory=dict)  # pi over S
    slope: dict[int, float] = field(default_factory=dict)  # m'_k


def softmax(logits: dict[int, float]) -> dict[int, float]:
    """Normalised exponentials."""
    top = max(logits.values())
    weights = {k: math.exp(x - top) for k, x in logits.items()}
    total = sum(weights.values())
    return {k: w / total for k, w in weights.items()}


def membership_slopes(road: Road, lane: int) -> dict[int, float]:
    """m'_k of a vehicle bound to its lane: difference quotients over the existing neighbouring lanes."""
    width, sides = road.width[lane], [k for k in SIDES if road.beside(lane, k) != -1]
    if not sides:
        return {0: 0.0}
    if len(sides) == 2:
        return {-1: -1 / (2 * width), 0: 0.0, 1: 1 / (2 * width)}
    k = sides[0]
    return {k: k / width, 0: -k / width}


def lane_adjoint(
    rules: Rules, road: Road, cars: list[Vehicle], i: int, time: float, a_bar: list[float], y_bar_next: float
) -> LaneAdjoint:
    """Straight-through adjoint of vehicle i's lane change in one step.

    ``a_bar`` are the cotangents of all accelerations after the stop rule, ``y_bar_next`` that of its lateral(t + dt).
    B(.) is the whole response of a vehicle to a car-following acceleration (``respond``): the contrast of a controlled
    vehicle that does not follow is 0.
    """
    me, seen, allowed = cars[i], views(rules, road, cars, i), feasible(rules, road, cars, i, time)
    q_bar = road.width[me.lane] * y_bar_next
    result = LaneAdjoint(lateral=math.exp(-rules.dt / rules.memory) * y_bar_next)

    if me.control is None:
        utility = incentives(rules, road, cars, i)
        pi = softmax({k: utility[k] / rules.temperature for k in allowed})
        q = sum(k * p for k, p in pi.items())
        result.incentive = {k: q_bar * p * (k - q) / rules.temperature for k, p in pi.items()}
        result.probability = pi
    elif me.control == "lane" and me.request is not None:
        u, tau = me.request, rules.choice_temperature
        pi = softmax({k: -((u - 2 * k / 3) ** 2) / (2 * tau) for k in allowed})
        q = sum(k * p for k, p in pi.items())
        result.request = q_bar * sum(p * (k - q) * -(u - 2 * k / 3) / tau for k, p in pi.items())
        result.probability = pi

    def bounded(car: Vehicle, following: float) -> float:
        value = respond(rules, car, following)
        if rules.contrast_limits is None:
            return value
        if isinstance(rules.contrast_limits, str):  # "drivers"
            return max(value, -6.0 * car.comfortable_deceleration)
        low, high = rules.contrast_limits
        return min(max(value, low), high)

    def contrast(side: View) -> float:  # what i's presence does to the follower there, times its cotangent
        if side.follower is None:
            return 0.0
        car = cars[side.follower]
        return a_bar[side.follower] * (bounded(car, side.follower_with) - bounded(car, side.follower_without))

    if rules.sides is not None or any(c.control == "lane" and c.request is not None for c in cars):
        result.slope = membership_slopes(road, me.lane)  # where nobody can choose a lane, nothing is evaluated
    for k, slope in result.slope.items():
        result.lateral += slope * (a_bar[i] * bounded(me, seen[k].own) + contrast(seen[k]))
    return result

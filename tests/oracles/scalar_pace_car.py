"""The paper's pace car, one world, plain Python floats, written from the paper's rules and not from this package.

Son et al., "Gradient Informed Proximal Policy Optimization" (NeurIPS 2023): IDM drivers on parallel straight lanes, one
steered vehicle ahead of them. Vehicle 0 is the pace car; places are those of centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

DT, LENGTH, WIDTH, LIMIT = 0.03, 5.0, 4.0, 20.0
A_MAX, A_PREF, S0, HEADWAY = 35.0, 25.0, 1.5, 0.4
TARGET = 10.0


@dataclass
class PaceCar:
    """State of one world; ``lanes`` side by side, ``humans`` drivers dealt to them evenly."""

    lanes: int
    humans: int
    own_lane: int
    x: list[float] = field(default_factory=list)
    v: list[float] = field(default_factory=list)
    lane: list[int] = field(default_factory=list)
    y: float = 0.0
    heading: float = 0.0

    def __post_init__(self) -> None:
        share, more = divmod(self.humans, self.lanes)
        front = 0.0
        for k in range(self.lanes):
            for j in range(share + (1 if k < more else 0)):
                self.x.append(10.0 * j)
                self.lane.append(k)
                if k == self.own_lane:
                    front = 10.0 * j
        self.x.insert(0, front + 50.0)
        self.lane.insert(0, self.own_lane)
        self.v = [0.0] * (self.humans + 1)
        self.y = WIDTH * self.own_lane

    def idm(self, i: int) -> float:
        """Acceleration of driver ``i``."""
        gap, closing = 1e6, 0.0
        for j in range(len(self.x)):
            ahead = self.x[j] - self.x[i]
            if j != i and self.lane[j] == self.lane[i] and ahead >= 0 and ahead - LENGTH < gap:
                gap, closing = ahead - LENGTH, self.v[i] - self.v[j]
        gap = max(gap, 1e-3)
        v = self.v[i]
        wished = max(0.0, S0 + v * HEADWAY + v * closing / (2 * math.sqrt(A_MAX * A_PREF)))
        acceleration = A_MAX * (1 - (v / LIMIT) ** 4 - (wished / gap) ** 2)
        return -v / DT if v + acceleration * DT < 0 else acceleration

    def step(self, throttle: float, steer: float) -> tuple[float, str]:
        """One step with actions in [-1, 1]; the reward and what failed ("" = nothing)."""
        pushes = [self.idm(i) for i in range(1, len(self.x))]
        for i, push in enumerate(pushes, start=1):
            self.x[i] += self.v[i] * DT
            self.v[i] += push * DT
        v, push = self.v[0], 8.0 * throttle
        if v > 40.0:
            push = min(push, 40.0 - v)
        if v < -40.0:
            push = max(push, -40.0 - v)
        slip = math.atan(0.5 * math.tan(steer * math.radians(20.0)))
        self.x[0] += DT * v * math.cos(self.heading + slip)
        self.y += DT * v * math.sin(self.heading + slip)
        self.heading += DT * v * math.sin(slip) / (LENGTH / 2)
        self.v[0] += DT * push
        distances = [abs(self.y - WIDTH * k) for k in range(self.lanes)]
        nearest = min(range(self.lanes), key=lambda k: distances[k])
        self.lane[0] = nearest if distances[nearest] < WIDTH / 2 else -1
        return self.judge()

    def judge(self) -> tuple[float, str]:
        """Reward and failure of the present state."""
        others = range(1, len(self.x))
        distance = [math.hypot(self.x[i] - self.x[0], WIDTH * self.lane[i] - self.y) for i in others]
        if min(distance) < 2.5:
            return -1.0, "collision"
        if self.lane[0] < 0:
            return -1.0, "off road"
        if min(distance) > 100.0:
            return -1.0, "too far"
        if any(self.x[i] > self.x[0] for i in others):
            return -1.0, "behind"
        missed = sum(abs(self.v[i] - TARGET) / TARGET for i in others) / self.humans
        return 1.0 - min(1.0, missed), ""

    def observation(self) -> list[float]:
        """x and y relative to the pace car, speeds along and across."""
        return [
            *(x - self.x[0] for x in self.x),
            *((self.y if i == 0 else WIDTH * lane) - self.y for i, lane in enumerate(self.lane)),
            *(v * (math.cos(self.heading) if i == 0 else 1.0) for i, v in enumerate(self.v)),
            *(v * (math.sin(self.heading) if i == 0 else 0.0) for i, v in enumerate(self.v)),
        ]

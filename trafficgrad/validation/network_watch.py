"""Watching traffic on networks step by step: nobody touches anybody in the plane, and nobody is lost."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad import metrics
from trafficgrad.bodies import touching
from trafficgrad.car_following.base import look_up
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState
from trafficgrad.validation.watch import Tally

EVERY = 5  # steps between two looks at the bodies in the plane


class NetworkWatch:
    """Checks pairs of consecutive states on roads that meet and part, where vehicles come and go.

    The balance of a step: on the road before + inserted = on the road after + left; nobody is there twice; whoever
    stays in its slot keeps its driver.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.tally = Tally()
        self._simulator = simulator

    def add(self, before: TrafficState, after: TrafficState, fresh: Tensor | None = None) -> None:
        """One step; where an episode begins (``fresh``) does not matter here."""
        tally, simulator = self.tally, self._simulator
        there = after.active
        for name in ("position", "speed"):
            tally.count("not finite", ~torch.isfinite(getattr(after, name)) & there)
        tally.count("negative speed", (after.speed < 0) & there)
        came = (after.inserted - before.inserted).sum(1) - (after.left - before.left)
        tally.count("lost", there.sum(1) - before.active.sum(1) != came)
        empty = -1 - torch.arange(after.vehicles, device=there.device)
        ids = torch.where(there, after.vehicle_id, empty).sort(1).values
        tally.count("there twice", ids[:, 1:] == ids[:, :-1])
        same = there & before.active & (after.vehicle_id == before.vehicle_id)
        tally.count("identity", same & (after.driver != before.driver))
        tally.changes += int((metrics.changed_lanes(before, after, simulator.network) & same).sum())
        if tally.steps % EVERY == 0:
            length, width = (look_up(x, after.driver) for x in (simulator.fleet.length, simulator.fleet.width))
            pairs = touching(after, simulator.network, length, width)
            tally.count("touching", torch.ones(len(pairs), dtype=torch.bool))
        tally.steps += 1

    def finish(self) -> Tally:
        """What was seen."""
        return self.tally

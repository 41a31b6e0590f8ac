"""Watching traffic on networks step by step: nobody touches anybody in the plane, nobody is lost, nobody leaps."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad import metrics
from trafficgrad.bodies import touching
from trafficgrad.car_following.base import look_up
from trafficgrad.demand import MOST_ARRIVALS
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState
from trafficgrad.validation.watch import ROUNDING, Tally

EVERY = 0.5  # s between two looks at the bodies in the plane


class NetworkWatch:
    """Checks pairs of consecutive states on roads that meet and part, where vehicles come and go.

    The balance of a step: on the road before + inserted = on the road after + left, and arrivals = inserted + waiting,
    where everybody whose time has come has arrived. Nobody is there twice; whoever stays in its slot keeps its driver.
    Bodies are looked at in the plane: they do not touch, and move no further than their speed and one lane's width.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.tally = Tally()
        self._simulator = simulator
        self._every = max(1, round(EVERY / simulator.dt))
        network = simulator.network
        # Lines may be drawn longer than the length that is driven on them.
        drawn = [float(network.lane_geometry(lane).diff(dim=0).norm(dim=1).sum()) for lane in range(len(network.lanes))]
        self._scale = (torch.tensor(drawn, dtype=torch.float64) / network.lane_length).clamp(min=1.0)
        self._width = float(network.lane_width.max())

    def add(self, before: TrafficState, after: TrafficState, fresh: Tensor | None = None) -> None:
        """One step; where an episode begins (``fresh``) does not matter here."""
        tally, simulator = self.tally, self._simulator
        there = after.active
        for name in ("position", "speed"):
            tally.count("not finite", ~torch.isfinite(getattr(after, name)) & there)
        tally.count("negative speed", (after.speed < 0) & there)
        came = (after.inserted - before.inserted).sum(1) - (after.left - before.left)
        tally.count("lost", there.sum(1) - before.active.sum(1) != came)
        if simulator.demand is not None:
            self._check_queues(before, after)
        empty = -1 - torch.arange(after.vehicles, device=there.device)
        ids = torch.where(there, after.vehicle_id, empty).sort(1).values
        tally.count("there twice", ids[:, 1:] == ids[:, :-1])
        stays = there & before.active & (after.vehicle_id == before.vehicle_id)
        tally.count("identity", stays & (after.driver != before.driver))
        new = there & ~stays
        tally.count("identity", new & (after.vehicle_id < before.next_id[:, None]))
        tally.changes += int((metrics.changed_lanes(before, after, simulator.network) & stays).sum())
        if tally.steps % self._every == 0:
            length, width = (look_up(x, after.driver) for x in (simulator.fleet.length, simulator.fleet.width))
            pairs = touching(after, simulator.network, length, width)
            tally.count("touching", torch.ones(len(pairs), dtype=torch.bool))
            self._check_leaps(before, after, stays)
        tally.steps += 1

    def finish(self) -> Tally:
        """What was seen."""
        return self.tally

    def _check_queues(self, before: TrafficState, after: TrafficState) -> None:
        """Nobody enters who has not come, and nobody whose time has come is forgotten."""
        came = after.arrivals - before.arrivals
        due = (before.next_arrival <= after.time[:, None]).long()
        self.tally.count("waiting", (after.inserted > after.arrivals) | (after.inserted < before.inserted))
        self.tally.count("waiting", (came < due) | (came > MOST_ARRIVALS * due))
        overdue = (after.next_arrival <= after.time[:, None]) & (came < MOST_ARRIVALS)
        self.tally.count("waiting", overdue)

    def _check_leaps(self, before: TrafficState, after: TrafficState, stays: Tensor) -> None:
        network = self._simulator.network
        here, there = (network.locate(x.lane, x.position, x.lateral)[0] for x in (before, after))
        pace = torch.maximum(before.speed, after.speed).double().cpu() * self._simulator.dt + ROUNDING
        scale = torch.maximum(*(self._scale[x.lane.cpu().clamp(min=0)] for x in (before, after)))
        far = (there - here).norm(dim=-1).cpu() > pace * scale + self._width
        self.tally.count("jump", far & stays.cpu())

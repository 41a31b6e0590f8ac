"""Command ``lanes`` of a steered vehicle: which lane to be on, and how fast, in place of steering and acceleration.

On a road of several lanes that one vehicle shall hold by turns, what matters is whose turn it is. Here a policy tells
the urgency of each lane; the vehicle steers for the most urgent one. A *sweep*, optional, is an urgency of its own that
such a policy adds to: with it, action 0 is a hand-written controller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.gradients import straight_through_choice
from trafficgrad.observations.lanes import lane_leads
from trafficgrad.scenario_sections.control import LanesConfig
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState


class LaneCommand:
    """From actions [B, C, 1 + L] to a desired speed and a place across a straight road."""

    def __init__(self, config: LanesConfig, speed: tuple[float, float], simulator: Simulator) -> None:
        """``speed``: what -1 and 1 of the first component stand for, m/s."""
        self.config, self.speed, self.simulator = config, speed, simulator
        self.lanes = int(simulator.network.max_lanes)

    def __call__(self, rows: Tensor, traffic: TrafficState) -> tuple[Tensor, Tensor]:
        """Desired speed, m/s, and how far to the left of the vehicle the place is that it steers for, m, [B, C] each.

        A lane's urgency, in m: ``scale`` times its component, plus ``hysteresis`` for the lane that the vehicle is on
        its way to (where it will be in ``lookahead``), and with a sweep minus how far the vehicle is ahead of the
        lane's first driver and what ``speed_weight`` and ``distance_weight`` say. The most urgent lane is steered for,
        at ``inset`` m inside its nearer edge. Backward, a softmax of ``temperature`` stands in for the choice.
        """
        config, slots = self.config, self.simulator.fleet.slots
        t = self.simulator.network.tables(traffic.position.dtype, traffic.position.device)
        lane = traffic.lane.clamp(min=0)
        width = t.width[0]
        across = t.number[lane] * width + traffic.lateral
        own, speed, heading = across[:, slots], traffic.speed[:, slots], traffic.heading[:, slots]
        place = torch.arange(self.lanes, device=own.device)
        there = place * width  # [L], centre lines
        soon = own + config.lookahead * speed * torch.sin(heading)
        bound_for = torch.round(soon.detach() / width).clamp(0, self.lanes - 1)
        urgency = config.scale * rows[..., 1:] + config.hysteresis * (bound_for[..., None] == place)
        wished = self.speed[0] + 0.5 * (self.speed[1] - self.speed[0]) * (rows[..., 0].clamp(-1.0, 1.0) + 1.0)
        sweep = config.sweep
        if sweep is not None:
            lead, first_speed, _ = lane_leads(traffic, self.simulator)
            urgency = urgency - lead + sweep.speed_weight * first_speed
            urgency = urgency - sweep.distance_weight * (own[..., None] - there).abs() / width
            wished = sweep.speed + sweep.speed_gain * (sweep.lead - lead.amin(-1)) + config.speed_scale * rows[..., 0]
        aim = straight_through_choice(urgency, there.expand_as(urgency), config.temperature)
        beyond = (aim - own).abs() - (0.5 * width - config.inset)
        return wished, torch.where(beyond > 0, beyond * torch.sign(aim - own), torch.zeros_like(beyond))

"""What the decisions about lanes are made from, and who gets a gap that several want."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.car_following import CarFollowing
from trafficgrad.car_following.base import DriverModel
from trafficgrad.state import Neighbors, PerDriver

RIGHT, OWN, LEFT = 0, 1, 2


class LaneEvaluation(NamedTuple):
    """Car-following accelerations, m/s2, that a lane change would bring about. ``S`` sides are evaluated.

    A missing follower has 0 everywhere, so that it counts for nothing.
    """

    sides: Tensor  # [B, S] int64, index into (right, own, left) of each evaluated side
    exists: Tensor  # [B, N, S] bool, there is such a lane
    gap: Tensor  # [B, N, S] m, to the new leader
    follower_gap: Tensor  # [B, N, S] m, to the new follower
    own: Tensor  # [B, N] A_0, in the present lane
    own_there: Tensor  # [B, N, S] A_k
    follower_without: Tensor  # [B, N, S] N_k, the new follower as it drives now
    follower_with: Tensor  # [B, N, S] N'_k, the new follower behind the vehicle
    old_follower_with: Tensor  # [B, N] O, the present follower as it drives now
    old_follower_without: Tensor  # [B, N] O', the present follower behind the present leader


def pick_sides(x: Tensor, sides: Tensor) -> Tensor:
    """From [B, N, 3] (right, own, left) the sides [B, S], giving [B, N, S]."""
    return x.gather(2, sides[:, None, :].expand(-1, x.shape[1], -1))


def evaluate_lanes(
    model: CarFollowing,
    model_there: CarFollowing,
    speed: Tensor,
    own: Tensor,
    length: PerDriver,
    neighbors: Neighbors,
    exists: Tensor,
    sides: Tensor,
    slots: Tensor | None = None,
) -> LaneEvaluation:
    """Evaluate a change to each of ``sides`` for every vehicle, or for the vehicles ``slots`` [C] only.

    Parameters:
        model: parameters per vehicle [B, N]. model_there: the same under each side's speed limit, for the evaluated
            vehicles, with a dimension for the sides. speed, own: [B, N], ``own`` in the present lane. length: float or
            [B, N]. neighbors, exists: of the evaluated vehicles, [B, C, 3]. sides: [B, S].
    """
    own_here, speed_here = own, speed
    if slots is not None:
        own_here, speed_here = own[:, slots], speed[:, slots]
        length = length[:, slots] if isinstance(length, Tensor) else length
    gap, follower_gap = pick_sides(neighbors.gap, sides), pick_sides(neighbors.follower_gap, sides)
    own_there = model_there.acceleration(speed_here[..., None], gap, pick_sides(neighbors.closing_speed, sides))

    old_follower, old_leader = neighbors.follower[..., OWN], neighbors.leader[..., OWN]
    # Followers of all sides and the present one in one call: [B, N, S + 1].
    followers = torch.cat([pick_sides(neighbors.follower, sides), old_follower[..., None]], -1)
    there = followers.clamp(min=0)
    flat = there.reshape(speed.shape[0], -1)
    # Without the vehicle its follower has its leader, unless the two are alone on a closed road.
    alone = (old_leader < 0) | (old_leader == old_follower)
    joined = neighbors.follower_gap[..., OWN] + length + neighbors.gap[..., OWN]
    joined_closing = neighbors.follower_closing_speed[..., OWN] + neighbors.closing_speed[..., OWN]
    gaps = torch.cat([follower_gap, torch.where(alone, torch.inf, joined)[..., None]], -1)
    closing = torch.cat(
        [pick_sides(neighbors.follower_closing_speed, sides), torch.where(alone, 0.0, joined_closing)[..., None]], -1
    )
    changed = model.take(there).acceleration(speed.gather(1, flat).reshape(there.shape), gaps, closing)
    present = own.gather(1, flat).reshape(there.shape)
    missing = followers < 0
    changed, present = changed.masked_fill(missing, 0.0), present.masked_fill(missing, 0.0)
    return LaneEvaluation(
        sides=sides,
        exists=pick_sides(exists, sides),
        gap=gap,
        follower_gap=follower_gap,
        own=own_here,
        own_there=own_there,
        follower_without=present[..., :-1],
        follower_with=changed[..., :-1],
        old_follower_with=present[..., -1],
        old_follower_without=changed[..., -1],
    )


class LaneChange(DriverModel, ABC):
    """A driver's discretionary lane changes. Parameters are per driver; floats serve everybody."""

    min_gap: PerDriver  # m, below which a gap is not entered
    cooldown: PerDriver  # s between two changes
    safe_deceleration: PerDriver  # m/s2 that a new follower may be asked for

    @abstractmethod
    def sides_at(self, time: Tensor, dt: float) -> Tensor:
        """Sides considered in this step, [B, S] int64 (0 right, 2 left), for ``time`` [B] s."""

    @abstractmethod
    def feasible(self, evaluation: LaneEvaluation) -> Tensor:
        """Sides that may be entered, [B, N, S] bool."""

    @abstractmethod
    def incentive(self, evaluation: LaneEvaluation) -> Tensor:
        """U_k, [B, N, S] m/s2: what side k is worth; to stay is worth 0."""


def best_side(feasible: Tensor, incentive: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Hard decision: -1 right, 0 stay, +1 left ([B, N] int64) and its incentive; ties: stay, then left."""
    value = incentive.detach().masked_fill(~feasible, -torch.inf)
    best, direction = torch.zeros_like(value[..., 0]), torch.zeros_like(value[..., 0], dtype=torch.int64)
    k = sides - 1
    for s in range(value.shape[-1]):
        side = k[:, s, None].expand_as(direction)
        better = (value[..., s] > best) | ((value[..., s] == best) & (side == 1) & (direction == -1))
        best = torch.where(better, value[..., s], best)
        direction = torch.where(better, side, direction)
    return direction, best


def resolve_conflicts(
    direction: Tensor, incentive: Tensor, first: Tensor, leader: Tensor, target_chain: Tensor, chains: int
) -> Tensor:
    """One vehicle per gap: those of ``first`` (controlled) before the others, then larger incentive, then lower slot.

    A gap is what lies behind a leader, or an empty end of a road's chain of lanes.

    Parameters:
        direction: [B, N] wishes (-1, 0, 1). incentive: [B, N]. first: [N] bool. leader: [B, N] in the target lane.
        target_chain: [B, N] chain of the target lane. chains: number of chains.

    Returns:
        direction with the losers' wishes set to 0.
    """
    worlds, n = direction.shape
    wants = direction != 0
    gap = torch.where(leader >= 0, leader, n + target_chain)
    gap = torch.where(wants, gap, n + chains)
    priority = torch.where(first, torch.inf, incentive.detach())
    lowest = priority.new_full((worlds, n + chains + 1), -torch.inf)
    highest = lowest.scatter_reduce(1, gap, priority, "amax")
    slot = torch.arange(n, device=direction.device).expand(worlds, n)
    leading = torch.where(priority == highest.gather(1, gap), slot, n)
    winner = torch.full((worlds, n + chains + 1), n, device=direction.device).scatter_reduce(1, gap, leading, "amin")
    return torch.where(winner.gather(1, gap) == slot, direction, 0)

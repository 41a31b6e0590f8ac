"""What a simulation step reads of a network: tensors on one device and in one dtype."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from trafficgrad.network.plan import PlanTables


class JunctionTables(NamedTuple):
    """Over all lanes [A]; what makes no sense for a road lane is -1, 0 or False there. ``F`` foes, -1 = padding."""

    is_junction: Tensor  # [A] bool
    origin: Tensor  # [A] int64, road lane that a junction lane comes from
    target: Tensor  # [A] int64, road lane that it leads to
    gated: Tensor  # [A] bool, a vehicle needs the right of way to enter
    crosses: Tensor  # [A] bool, some other way crosses it
    merges: Tensor  # [A] bool, some other way leads into the same lane
    gives_way: Tensor  # [A] bool, one of those has a higher rank
    zips: Tensor  # [A] bool, one of those has the same rank, and nothing crosses it
    narrows: Tensor  # [A] m, where a body on it begins to touch one that leads into the same lane; 0 without any
    parts: Tensor  # [A] bool, some other way comes from the same lane
    apart: Tensor  # [A] m, where a rear on it is clear of those ways; 0 without any
    rank: Tensor  # [A] int64, higher goes first
    waits_at: Tensor  # [A] m, how far those may go who yield at a green, to wait inside the junction; 0 = to the line
    stop: Tensor  # [A] bool
    signal: Tensor  # [A] int64, -1 = none
    signal_index: Tensor  # [A] int64
    foe: Tensor  # [A, F] int64 lanes
    kind: Tensor  # [A, F] int64 of trafficgrad.network.conflicts
    own_entry: Tensor  # [A, F] m
    own_exit: Tensor  # [A, F] m
    foe_entry: Tensor  # [A, F] m
    foe_exit: Tensor  # [A, F] m


class LaneTables(NamedTuple):
    """``A`` lanes; -1 = none.

    ``ahead[j]`` and ``behind[j]`` serve pointer doubling along unbranched roads: the lane 2^j places ahead (behind),
    and the total length of the lanes passed on the way, the reached one included.
    """

    length: Tensor  # [A] m
    speed_limit: Tensor  # [A], or [B, A] where it differs from world to world, m/s; may have a graph
    width: Tensor  # [A] m
    left: Tensor  # [A] int64
    right: Tensor  # [A] int64
    successor: Tensor  # [A] int64, where a vehicle without a route goes on
    predecessor: Tensor  # [A] int64, the only one; -1 where there are none or several
    edge: Tensor  # [A] int64
    number: Tensor  # [A] int64, place on the edge, 0 = right
    chain: Tensor  # [A] int64, lanes that continue each other without branching share a chain
    offset: Tensor  # [A] m, from the start of the chain
    chain_length: Tensor  # [A] m, of a closed chain; inf for an open one
    ahead: tuple[tuple[Tensor, Tensor], ...]
    behind: tuple[tuple[Tensor, Tensor], ...]
    junctions: JunctionTables
    plan: PlanTables

    def limit(self, lane: Tensor) -> Tensor:
        """Speed limits on lanes (>= 0) [B, ...], m/s."""
        if self.speed_limit.dim() == 1:
            return self.speed_limit[lane]
        return self.speed_limit.gather(1, lane.reshape(len(lane), -1)).reshape(lane.shape)

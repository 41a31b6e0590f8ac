"""Speed limits that change: tensors of edges or lanes, which may require gradients and differ from world to world."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError

if TYPE_CHECKING:
    from trafficgrad.network.road_network import RoadNetwork


def check_worlds(network: RoadNetwork, worlds: int) -> None:
    """The network's limits are for so many worlds, or the same for all.

    Raises:
        TrafficGradError: they are for another number.
    """
    if network.limits is not None and network.limits.dim() == 2 and len(network.limits) != worlds:
        raise TrafficGradError(f"speed limits are for {len(network.limits)} worlds, the state has {worlds}")


def limits_of_lanes(network: RoadNetwork, limits: Tensor) -> Tensor:
    """Limits of all lanes, [A] or [B, A] m/s, of limits that are given for lanes, or for edges [E] or [B, E].

    Every lane of an edge gets the limit of the edge. A junction lane keeps its own, that of its curve, where that is
    lower than the limit of the edge which it comes from, and gets that one elsewhere.

    Raises:
        TrafficGradError: another shape, or (on the CPU) a limit that is not above 0.
    """
    edges, lanes = len(network.edges), len(network.lanes)
    if not limits.is_floating_point() or limits.dim() not in (1, 2) or limits.shape[-1] not in (edges, lanes):
        raise TrafficGradError(
            f"speed limits must be a floating-point tensor of {edges} edges or {lanes} lanes, [..., edges] or "
            f"[..., lanes] with worlds before them or not, got {limits.dtype} {list(limits.shape)}"
        )
    # On other devices looking at values would wait for them; there a NaN shows in the state.
    if limits.device.type == "cpu" and not bool((limits > 0).all()):
        row = int((~(limits > 0)).reshape(-1, limits.shape[-1]).any(0).nonzero()[0])
        what = f"edge {network.edges[row]}" if limits.shape[-1] == edges else f"lane {row}"
        raise TrafficGradError(f"speed limits must be > 0 m/s, that of {what} is not")
    if limits.shape[-1] == lanes:  # where every edge is one lane and there is no other, edges are lanes
        return limits
    origin = torch.where(network.is_junction, network.origin, torch.arange(lanes))
    from_edge = limits.index_select(-1, network.edge[origin].to(limits.device))
    own = torch.where(network.is_junction, network.speed_limit, torch.inf).to(limits)
    return torch.where(own < from_edge, own, from_edge)

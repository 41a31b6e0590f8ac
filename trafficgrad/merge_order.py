"""Who is next before and next after whom, where lanes merge: one order of all who are on the way into a lane."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.state import PerDriver


def around_in_merge(
    joined: Tensor, to_go: Tensor, ahead_of: Tensor, behind_of: tuple[Tensor, ...], size: PerDriver, lanes: int
) -> list[tuple[Tensor, Tensor]]:
    """Who is next before and next after each vehicle on the ways into one lane: slots (-1 = none) and gaps, [R, B, N].

    Gaps are 0 where there is nobody.

    Parameters:
        joined: [R, B, N] lane that a vehicle is on the way to, ``lanes`` = none; it may be on the way to several.
        to_go: [R, B, N] m to that lane's beginning. ahead_of: [R, B, N] bool, who counts before.
        behind_of: the same for who counts after; for each of them a pair is returned.
        size: of the bodies, m.
    """
    rounds, worlds, n = joined.shape

    def flat(x: Tensor) -> Tensor:
        return x.movedim(0, 1).reshape(worlds, -1)

    some = columns_where(flat(joined) < lanes)  # few are: nobody else needs to be sorted
    lane, distance = flat(joined)[:, some], flat(to_go)[:, some]
    slot = some % n
    own_size = of_columns(size, slot)
    order = torch.sort(distance, dim=1, stable=True)[1]
    order = order.gather(1, torch.sort(lane.gather(1, order), dim=1, stable=True)[1])
    count = len(some)
    place = torch.arange(count, device=lane.device).expand(worlds, count)
    group = lane.gather(1, order)
    member = group < lanes
    back = torch.empty_like(order).scatter_(1, order, place)

    def of_all(found: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """Slots and gaps of all vehicles again, [R, B, N]."""
        there = found >= 0
        who = torch.where(there, slot.expand(worlds, -1).gather(1, found.clamp(min=0)), -1)
        whole = torch.full((worlds, rounds * n), -1, device=lane.device).index_copy(1, some, who)
        gaps = gap.new_zeros(worlds, rounds * n).index_copy(1, some, torch.where(there, gap, 0.0))
        return whole.reshape(worlds, rounds, n).movedim(1, 0), gaps.reshape(worlds, rounds, n).movedim(1, 0)

    def length_of(found: Tensor) -> PerDriver:
        return own_size.gather(1, found.clamp(min=0)) if isinstance(own_size, Tensor) and own_size.dim() else own_size

    before = torch.where(flat(ahead_of)[:, some].gather(1, order) & member, place, -1).cummax(1)[0]
    before = torch.nn.functional.pad(before, (1, 0), value=-1)[:, :count]
    in_group = member & (before >= 0) & (group.gather(1, before.clamp(min=0)) == group)
    ahead = torch.where(in_group, order.gather(1, before.clamp(min=0)), -1).gather(1, back)
    to_it = distance - distance.gather(1, ahead.clamp(min=0)) - length_of(ahead)
    result = [of_all(ahead, to_it)]
    for counts in behind_of:
        after = torch.where(flat(counts)[:, some].gather(1, order) & member, place, count).flip(1).cummin(1)[0].flip(1)
        after = torch.nn.functional.pad(after, (0, 1), value=count)[:, 1:]
        in_group = member & (after < count) & (group.gather(1, after.clamp(max=count - 1)) == group)
        behind = torch.where(in_group, order.gather(1, after.clamp(max=count - 1)), -1).gather(1, back)
        from_it = distance.gather(1, behind.clamp(min=0)) - distance - own_size
        result.append(of_all(behind, from_it))
    return result


def columns_where(chosen: Tensor) -> Tensor:
    """Columns of ``chosen`` [B, M] that hold in some world, [K] int64; all of them where looking would wait."""
    if chosen.device.type == "cpu":
        return chosen.any(0).nonzero()[:, 0]
    return torch.arange(chosen.shape[1], device=chosen.device)


def of_columns(x: PerDriver, columns: Tensor) -> PerDriver:
    """A parameter [B, M] in these columns; what is the same for everybody stays so."""
    return x[:, columns] if isinstance(x, Tensor) and x.dim() else x

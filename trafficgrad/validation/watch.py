"""Watching traffic step by step for what must never happen; nothing here uses the simulator's own neighbour search."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.lane_change import MOBIL
from trafficgrad.network.tables import LaneTables
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState
from trafficgrad.validation.runs import to_numpy
from trafficgrad.validation.theory import Array, idm_acceleration

PAIRS = 200  # pairs of states that are looked at together
ROUNDING = 2e-3  # m, of float32 positions
BRAKING_ROUNDING = 0.01  # m/s2, that the same makes in an acceleration
IDM_NAMES = (
    "desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap", "exponent",
)  # fmt: skip


@dataclass
class Tally:
    """What was seen."""

    steps: int = 0
    changes: int = 0  # lane changes of all vehicles
    smallest_gap: float = np.inf  # m, between vehicles that are bound to their lane
    hardest_braking: float = -np.inf  # m/s2, asked of a new follower by the snapshot that the change was decided on
    violations: dict[str, int] = field(default_factory=dict)  # what -> how often; empty is good

    def count(self, what: str, mask: Tensor) -> None:
        """Add the number of True."""
        number = int(mask.sum())
        if number:
            self.violations[what] = self.violations.get(what, 0) + number


class Watch:
    """Collects pairs of consecutive states and checks them, many at a time."""

    def __init__(self, simulator: Simulator, vehicles: int, device: torch.device, steered: bool = True) -> None:
        """``steered`` False: nobody steers, so everybody counts as bound to a lane."""
        self.tally = Tally()
        self._simulator = simulator
        self._tables: LaneTables = simulator.network.tables(torch.float64, device)
        fleet = simulator.fleet
        self._steered = fleet.mask(vehicles, fleet.rows("steered") if steered else []).to(device)
        self._requests = fleet.mask(vehicles, fleet.rows("lane")).to(device)
        self._pairs: list[tuple[TrafficState, TrafficState, Tensor]] = []
        self._changed_at: Tensor | None = None  # [B, N] step of a vehicle's last lane change in this episode
        self._begun = 0

    def add(self, before: TrafficState, after: TrafficState, fresh: Tensor | None = None) -> None:
        """One step; ``fresh`` [B] bool: ``before`` begins an episode in these worlds."""
        none = torch.zeros(before.worlds, dtype=torch.bool, device=before.lane.device)
        self._pairs.append((before, after, none if fresh is None else fresh))
        if len(self._pairs) >= PAIRS:
            self.finish()

    def finish(self) -> Tally:
        """Check what has been collected since."""
        if self._pairs:
            firsts, seconds, fresh = zip(*self._pairs, strict=True)
            before, after = (_Scene(tree.stack(list(states)), self) for states in (firsts, seconds))
            self._check(before, after, torch.stack(fresh))
            self.tally.steps += len(self._pairs)
            self._pairs = []
        return self.tally

    def _check(self, a: _Scene, b: _Scene, fresh: Tensor) -> None:
        tally, bound = self.tally, ~self._steered
        finite = [torch.isfinite(getattr(b.state, name)) for name in ("position", "speed", "lateral", "heading")]
        tally.count("not finite", ~torch.stack(finite).all(0))
        tally.count("negative speed", (b.state.speed < 0) & bound)
        for name in ("vehicle_id", "driver"):
            tally.count("identity", getattr(a.state, name) != getattr(b.state, name))
        tally.count("lost", ~b.state.active)
        tally.smallest_gap = min(tally.smallest_gap, float(b.gap.masked_fill(~b.both_bound, torch.inf).min()))
        tally.count("overlap", (b.gap < 0) & b.both_bound)

        changed = (a.number != b.number) & a.state.active & b.state.active
        tally.changes += int(changed.sum())
        tally.count("change over two lanes", ((a.number - b.number).abs() > 1) & bound)
        self._check_motion(a, b)
        self._check_order(a, b, changed)
        self._check_cooldown(changed & bound, fresh, a.state)
        if self._simulator.lane_change is not None or bool(self._requests.any()):
            self._check_followers(a, b, changed & bound)

    def _check_motion(self, a: _Scene, b: _Scene) -> None:
        """Nobody moves further than its speed allows, and drivers never backwards."""
        moved = b.along - a.along
        closed = torch.isfinite(a.length)
        half = torch.where(closed, a.length, 0.0) / 2
        moved = torch.where(closed, torch.remainder(moved + half, torch.where(closed, a.length, 1.0)) - half, moved)
        reach = torch.maximum(a.state.speed.abs(), b.state.speed.abs()).double() * self._simulator.dt + ROUNDING
        on_road = (a.state.lane >= 0) & (b.state.lane >= 0)
        self.tally.count("jump", (moved.abs() > reach) & on_road)
        self.tally.count("backwards", (moved < -ROUNDING) & ~self._steered)

    def _check_order(self, a: _Scene, b: _Scene, changed: Tensor) -> None:
        """Without a lane change of those concerned a vehicle keeps its leader: nobody passes through anybody."""

        def at_leaders(flag: Tensor, scene: _Scene) -> Tensor:
            return flag.expand(scene.leader.shape).gather(-1, scene.leader.clamp(min=0)) & (scene.leader >= 0)

        excused = changed | self._steered | ~a.state.active | ~b.state.active
        excused = excused | at_leaders(excused, a) | at_leaders(excused, b)
        self.tally.count("order", (a.leader != b.leader) & ~excused)

    def _check_cooldown(self, changed: Tensor, fresh: Tensor, state: TrafficState) -> None:
        """Between two lane changes of a vehicle lies its cool-down."""
        model, choice = self._simulator.lane_change, self._simulator.lane_choice
        usual = model.for_drivers(state.driver.flatten(0, 1)).cooldown if model is not None else 0.0
        usual = usual.reshape(changed.shape) if isinstance(usual, Tensor) else torch.full(changed.shape, usual)
        needed = torch.where(self._requests, choice.cooldown, usual.to(changed.device)) / self._simulator.dt
        steps = self._begun + torch.arange(len(changed), device=changed.device)[:, None, None].expand(changed.shape)
        never = torch.full_like(steps[:1], -(10**9))
        earlier = never if self._changed_at is None else self._changed_at[None]
        last = torch.cat([earlier, torch.where(changed, steps, never)]).cummax(0)[0]
        begin = torch.where(fresh[..., None], steps, never).cummax(0)[0]
        waited = (steps - last[:-1]).masked_fill(last[:-1] < begin, 10**9)
        self.tally.count("cool-down", changed & (waited < needed - 1e-3))
        self._changed_at = last[-1].masked_fill(last[-1] < begin[-1], -(10**9))
        self._begun += len(changed)

    def _check_followers(self, a: _Scene, b: _Scene, changed: Tensor) -> None:
        """What the snapshot asked of each new follower: its acceleration behind the vehicle that changed."""
        t, w, i = changed.nonzero(as_tuple=True)
        if not len(t):
            return
        chain, along, speed = a.chain[t, w], a.along[t, w], a.state.speed[t, w].double()  # [E, N]
        target, place, own_speed = (x[t, w, i, None] for x in (b.chain, a.along, a.state.speed.double()))
        size = a.length[t, w, i, None]
        behind = place - along
        closed = torch.isfinite(size)
        behind = torch.where(closed, torch.remainder(behind, torch.where(closed, size, 1.0)), behind)
        itself = torch.arange(along.shape[1], device=along.device) == i[:, None]
        candidate = (chain == target) & a.state.active[t, w] & ~itself & (behind >= 0)
        distance, follower = behind.masked_fill(~candidate, torch.inf).min(1)
        there = torch.isfinite(distance)
        gap = distance - a.body[t, w, i]
        v = speed.gather(1, follower[:, None])[:, 0]
        driver = a.state.driver[t, w].gather(1, follower[:, None])[:, 0]
        asked = idm_acceleration(
            to_numpy(v), to_numpy(gap), to_numpy(v - own_speed[:, 0]), self._parameters(driver),
            whole=getattr(self._simulator.car_following, "desired_gap", "sumo") == "paper",
        )[there.cpu().numpy()]  # fmt: skip
        if len(asked):
            self.tally.hardest_braking = max(self.tally.hardest_braking, float(-asked.min()))
        model, requests = self._simulator.lane_change, self._requests[i].cpu().numpy()
        safe = model.safe_deceleration if isinstance(model, MOBIL) else np.inf
        usual = to_numpy(safe[a.state.driver[t, w, i]]) if isinstance(safe, Tensor) else np.full(len(t), safe)
        limit = np.where(requests, self._simulator.lane_choice.safe_deceleration, usual)[there.cpu().numpy()]
        self.tally.count("follower", torch.as_tensor(asked < -limit - BRAKING_ROUNDING))

    def _parameters(self, driver: Tensor) -> dict[str, Array]:
        """IDM parameters of ``driver`` [E]."""
        rows = {}
        for name in IDM_NAMES:
            value = getattr(self._simulator.car_following, name)
            rows[name] = to_numpy(value[driver]) if isinstance(value, Tensor) else np.full(len(driver), float(value))
        return rows


class _Scene:
    """States [T, B, N] and who follows whom in them, by a sort of its own."""

    def __init__(self, state: TrafficState, watch: Watch) -> None:
        t, fleet = watch._tables, watch._simulator.fleet
        self.state = state
        lane, on_road = state.lane.clamp(min=0), state.lane >= 0
        self.number = torch.where(on_road, t.number[lane], -1)
        self.chain = torch.where(on_road & state.active, t.chain[lane], -1)
        self.length = t.chain_length[lane]  # inf on an open road
        self.along = t.offset[lane] + state.position.double()
        size = fleet.length
        self.body = size[state.driver].double() if isinstance(size, Tensor) else torch.full_like(self.along, size)
        self.leader, self.gap = self._leaders()
        bound = ~watch._steered
        self.both_bound = bound & bound.expand(self.leader.shape).gather(-1, self.leader.clamp(min=0))

    def _leaders(self) -> tuple[Tensor, Tensor]:
        """Slot ahead in the own lane (-1 = none) and the gap to it, m (inf = none)."""
        order = (self.chain * 1e9 + self.along).argsort(dim=-1, stable=True)
        chain, along = self.chain.gather(-1, order), self.along.gather(-1, order)
        place = torch.arange(chain.shape[-1], device=chain.device).expand(chain.shape)
        row = (chain + 1).clamp(min=0)
        chains = int(row.max()) + 1
        beyond = chain.shape[-1]
        first = torch.full((*chain.shape[:-1], chains), beyond, device=chain.device)
        first = first.scatter_reduce(-1, row, place, "amin").gather(-1, row)
        last_of_lane = torch.ones_like(chain, dtype=torch.bool)
        last_of_lane[..., :-1] = chain[..., 1:] != chain[..., :-1]
        length = self.length.gather(-1, order)
        ahead = torch.where(last_of_lane, first, place + 1).clamp(max=beyond - 1)
        alone = (ahead == place) | (chain < 0) | (last_of_lane & ~torch.isfinite(length))
        distance = along.gather(-1, ahead) - along + torch.where(last_of_lane & torch.isfinite(length), length, 0.0)
        leader = order.gather(-1, ahead).masked_fill(alone, -1)
        gap = (distance - self.body.gather(-1, order).gather(-1, ahead)).masked_fill(alone, torch.inf)
        back = torch.empty_like(order).scatter(-1, order, place)
        return leader.gather(-1, back), gap.gather(-1, back)

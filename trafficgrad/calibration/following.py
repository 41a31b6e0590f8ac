"""Drivers behind recorded leaders: what a car-following model makes of them, and its exact derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trafficgrad.calibration.trajectories import Trajectories
from trafficgrad.car_following import IDM, CarFollowing
from trafficgrad.dynamics import Integrator, integrate
from trafficgrad.errors import TrafficGradError
from trafficgrad.kernels import following as kernel
from trafficgrad.kernels import wished

_CHUNK = 2_000_000  # row-times that are differentiated together: bounds memory


@dataclass(frozen=True)
class FollowingRecords:
    """``R`` stretches of time in which a vehicle and what is ahead of it are known, padded to ``T`` samples; float64.

    Padding repeats the last sample.
    """

    ids: tuple[str, ...]  # names of the drivers
    driver: Tensor  # [R] int64, index into ``ids``
    position: Tensor  # [T, R] m, front bumper
    speed: Tensor  # [T, R] m/s
    leader_rear: Tensor  # [T, R] m, rear bumper of the vehicle ahead; inf = nobody
    leader_speed: Tensor  # [T, R] m/s; 0 behind nobody
    samples: Tensor  # [R] int64, samples that are no padding
    start: Tensor  # [R] s, time of the first one
    dt: float  # s
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> Tensor:
        """[T, R] bool, no padding."""
        return torch.arange(len(self.position))[:, None] < self.samples

    def split(self, share: float, shortest: float) -> tuple[FollowingRecords, FollowingRecords | None]:
        """The first part of every record, and the last ``share`` of those of which both parts last ``shortest`` s."""
        kept = (self.samples - 1) - torch.floor((self.samples - 1) * share).long() + 1
        least = int(np.ceil(shortest / self.dt - 1e-6)) + 1
        apart = (self.samples - kept + 1 >= least) & (kept >= least) & (share > 0)
        first = self.part(torch.zeros_like(kept), torch.where(apart, kept, self.samples), torch.arange(len(kept)))
        rows = apart.nonzero()[:, 0]
        if not len(rows):
            return first, None
        return first, self.part((kept - 1)[rows], (self.samples - kept + 1)[rows], rows)

    def windows(self, seconds: float, most: int) -> FollowingRecords:
        """The records cut into pieces of about ``seconds``, each of which begins as recorded; ``most`` of a record."""
        size = max(2, round(seconds / self.dt))
        counts = torch.clamp((self.samples - 1) // size, min=1)
        rows = torch.arange(len(counts)).repeat_interleave(counts)
        number = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        last = number == counts[rows] - 1
        begin = number * size
        samples = torch.where(last, self.samples[rows] - begin, size + 1)
        # Evenly, where there are more.
        taken = torch.minimum(counts, torch.tensor(most))[rows]
        kept = (number + 1) * taken // counts[rows] > number * taken // counts[rows]
        return self.part(begin[kept], samples[kept], rows[kept])

    def part(self, begin: Tensor, samples: Tensor, rows: Tensor) -> FollowingRecords:
        """Pieces [K] of the records ``rows``: so many ``samples`` from sample ``begin`` on."""
        times = torch.arange(int(samples.max()))[:, None]
        at = begin + torch.minimum(times, samples - 1)
        fields = {n: getattr(self, n)[at, rows] for n in ("position", "speed", "leader_rear", "leader_speed")}
        return replace(
            self, **fields, samples=samples, driver=self.driver[rows], start=self.start[rows] + begin * self.dt
        )


def following_records(data: Trajectories, shortest: float = 5.0) -> FollowingRecords:
    """The stretches of trajectories that a car-following model can be fitted to.

    A stretch goes on where the leader changes, and ends where the vehicle, or what is ahead of it, is not recorded.
    Where vehicles overlap in the data (gap <= 0) it ends too.

    Parameters:
        shortest: shorter stretches are left out, s.

    Raises:
        TrafficGradError: none is long enough.
    """
    known = data.recorded & ~np.isnan(data.gap) & np.isfinite(data.leader_speed)
    touching = known & (data.gap <= 0.0)
    known &= ~touching
    least = int(np.ceil(shortest / data.dt - 1e-6)) + 1
    stretches, short = [], 0
    for vehicle in range(len(data.ids)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], known[:, vehicle].astype(np.int8), [0]])))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if end - begin >= least:
                stretches.append((vehicle, int(begin), int(end)))
            else:
                short += 1
    if not stretches:
        longest = f"{short} stretches are shorter" if short else "no vehicle is recorded together with its leader"
        raise TrafficGradError(
            f"nothing to calibrate with: expected a vehicle that is recorded with its leader for {shortest:g} s "
            f"without a hole, but {longest}; see the options for columns, holes and the shortest record"
        )
    most = max(end - begin for _, begin, end in stretches)
    fields = np.empty((4, most, len(stretches)))
    for row, (vehicle, begin, end) in enumerate(stretches):
        at = np.minimum(begin + np.arange(most), end - 1)
        position = data.position[at, vehicle]
        fields[:, :, row] = (
            position,
            data.speed[at, vehicle],
            position + data.gap[at, vehicle],
            data.leader_speed[at, vehicle],
        )
    notes = list(data.notes)
    notes += [f"{short} stretches shorter than {shortest:g} s were left out"] if short else []
    notes += [f"{int(touching.sum())} samples that touch the vehicle ahead were left out"] if touching.any() else []
    drivers = sorted({vehicle for vehicle, _, _ in stretches})
    place = {vehicle: i for i, vehicle in enumerate(drivers)}
    position, speed, leader_rear, leader_speed = torch.from_numpy(fields).unbind()
    return FollowingRecords(
        ids=tuple(data.ids[vehicle] for vehicle in drivers),
        driver=torch.tensor([place[vehicle] for vehicle, _, _ in stretches]),
        position=position,
        speed=speed,
        leader_rear=leader_rear,
        leader_speed=leader_speed,
        samples=torch.tensor([end - begin for _, begin, end in stretches]),
        start=torch.tensor([float(data.time[begin]) for _, begin, _ in stretches], dtype=torch.float64),
        dt=data.dt,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Followed:
    """What a model makes of ``M`` records: each begins as recorded, and then reacts to the recorded leader."""

    position: Tensor  # [T, M] m
    speed: Tensor  # [T, M] m/s
    position_slope: Tensor | None = None  # [T, M, P] derivative by each parameter
    speed_slope: Tensor | None = None  # [T, M, P]


def follow(
    model: CarFollowing,
    names: Sequence[str],
    parameters: Tensor,
    records: FollowingRecords,
    rows: Tensor,
    integrator: Integrator = "ballistic",
    slopes: bool = True,
) -> Followed:
    """Drive behind recorded leaders, and tell the exact derivatives by the parameters.

    The derivatives obey a linear recursion along the trajectory, whose coefficients are known once that is: all times
    of all records are differentiated in one go. That costs little more than the simulation itself.

    Parameters:
        model: its parameters but for ``names`` [P] hold. parameters: [M, P], of each row. rows: [M] int64, record of
            each row; the same one may stand in several. integrator: of the simulator that is calibrated.
    """
    share = max(1, _CHUNK // len(records.position))
    if len(rows) <= share:
        return _follow(model, names, parameters, records, rows, integrator, slopes)
    parts = [
        _follow(model, names, parameters[part], records, rows[part], integrator, slopes)
        for part in torch.arange(len(rows)).split(share)
    ]
    join = lambda name: torch.cat([getattr(part, name) for part in parts], 1)  # noqa: E731
    both = ("position_slope", "speed_slope") if slopes else ()
    return Followed(join("position"), join("speed"), **{name: join(name) for name in both})


def compiled(model: CarFollowing, names: Sequence[str]) -> bool:
    """Whether :func:`follow` is done by the kernel: each row then takes its time, and none is gained by a batch."""
    return isinstance(model, IDM) and wished("auto") != "reference" and kernel.covers(model, names)


def _follow(
    model: CarFollowing,
    names: Sequence[str],
    parameters: Tensor,
    records: FollowingRecords,
    rows: Tensor,
    integrator: Integrator,
    slopes: bool,
) -> Followed:
    rear, pace = records.leader_rear[:, rows], records.leader_speed[:, rows]
    # Gaps are told from the start of each record: positions of kilometres would cost digits of a gap.
    origin = records.position[0, rows]
    rear = rear - origin
    if compiled(model, names):
        assert isinstance(model, IDM)
        x, v, by_x, by_v = kernel.follow(
            model, names, parameters, rear, pace, records.speed[0, rows], records.dt, integrator, slopes
        )
        return Followed(x + origin, v, by_x, by_v)

    def step(x: Tensor, v: Tensor, rear: Tensor, pace: Tensor, theta: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        driver = replace(model, **dict(zip(names, theta, strict=True)))  # type: ignore[type-var]
        closing = torch.where(torch.isinf(rear), 0.0, v - pace)
        moved, speed = integrate(v, driver.acceleration(v, rear - x, closing), None, records.dt, integrator)
        return x + moved, speed

    with torch.no_grad():
        x, v = torch.zeros_like(origin), records.speed[0, rows]
        xs, vs = [x], [v]
        theta = parameters.detach().unbind(1)
        for t in range(len(rear) - 1):
            x, v = step(x, v, rear[t], pace[t], theta)
            xs.append(x)
            vs.append(v)
    position, speed = torch.stack(xs), torch.stack(vs)
    if not slopes:
        return Followed(position + origin, speed)
    before = [tensor[:-1].requires_grad_() for tensor in (position.clone(), speed.clone())]
    along = [column.expand_as(before[0]).contiguous().requires_grad_() for column in parameters.detach().unbind(1)]
    with torch.enable_grad():
        after = step(before[0], before[1], rear[:-1], pace[:-1], along)
        inputs = [*before, *along]
        partials = [
            torch.stack(torch.autograd.grad(y.sum(), inputs, retain_graph=y is after[0], materialize_grads=True), -1)
            for y in after
        ]
    by = torch.stack(partials, -2)  # [T - 1, M, 2, 2 + P], of (x', v') by (x, v, parameters)
    jacobian, forcing = by[..., :2].contiguous(), by[..., 2:].contiguous()
    slope = forcing.new_zeros(forcing.shape[1:])
    found = [slope]
    for t in range(len(jacobian)):
        slope = torch.baddbmm(forcing[t], jacobian[t], slope)
        found.append(slope)
    stacked = torch.stack(found)
    return Followed(position + origin, speed, stacked[:, :, 0], stacked[:, :, 1])

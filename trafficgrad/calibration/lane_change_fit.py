"""Lane-change parameters from recorded trajectories: the likelihood of what drivers chose, moment by moment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from trafficgrad.calibration.trajectories import Trajectories
from trafficgrad.car_following import CarFollowing
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.lane_change import MOBIL, LaneChange, LaneEvaluation
from trafficgrad.network import builders
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState

Reals = NDArray[np.float64]
BOUNDS: dict[str, tuple[float, float]] = {
    "politeness": (-1.0, 2.0),
    "threshold": (0.0, 3.0),
    "right_bias": (-2.0, 2.0),
}
FREE = ("politeness", "threshold")
SHARPEST, SOFTEST = 0.01, 2.0  # m/s2, of the choice
_LAPSE = 0.01  # share of choices that follow no model: refused changes, errors of lanes in the data
_CHUNK = 400_000  # vehicles that are evaluated together: bounds memory
_ROOM = 2000.0  # m of straight road beyond the last vehicle
_WIDTHS = 4  # standard errors that fit into the range of a parameter that is identified
_DECIDING = 0.5  # s before a change: whether the driver still wants to stay is not known
_CLEAR = 3.0  # temperatures from the boundary: there a choice is clear


@dataclass(frozen=True)
class LaneChangeFit:
    """Fitted parameters of a lane-change model, the same for all drivers."""

    names: tuple[str, ...]
    values: Reals  # [P]
    standard_error: Reals  # [P] same units
    temperature: float  # m/s2, how sharply incentives decide: small where the model explains the choices
    changes: int  # observed lane changes that were fitted
    moments: int  # in which a driver could have changed
    explained: float  # share of the held-out changes that the model does not clearly advise against
    false_alarms: float  # share of the held-out moments without a change in which it clearly advises one
    left_out: int  # observed changes that the model's safety rules forbid
    model: LaneChange

    def doubts(self) -> list[str]:
        """What the data do not tell, a phrase for each parameter."""
        found = []
        for name, value, error in zip(self.names, self.values, self.standard_error, strict=True):
            low, high = BOUNDS[name]
            if value - low < 1e-3 * (high - low) or high - value < 1e-3 * (high - low):
                found.append(f"{name} at the end of its range")
            elif not error < (high - low) / _WIDTHS:
                found.append(f"{name} not identified")
        return found


def calibrate_lane_changes(
    data: Trajectories,
    drivers: CarFollowing,
    model: LaneChange | None = None,
    free: tuple[str, ...] = FREE,
    holdout: float = 0.3,
) -> LaneChangeFit:
    """Fit the incentive of a lane-change model to what drivers did at every moment at which they could choose.

    The choice is softened as the gradients of :class:`~trafficgrad.gradients.LaneGradient` soften it, a softmax of the
    incentives; its temperature is fitted too. Moments in which the last change, or the beginning of a record, is less
    than a cool-down ago do not count, nor those just before a change. What a change would have meant for everybody
    comes from the car-following models.

    Parameters:
        data: all vehicles, with lanes. drivers: their car-following parameters, a row for each of ``data.ids``, or the
            same for all. model: its safety rules and what is not fitted; default: ``MOBIL()``. free: fitted parameters.
        holdout: share of the time, its end, on which the fit is judged.

    Raises:
        TrafficGradError: no lanes in the data, no lane change among them, an unknown parameter.
    """
    model = MOBIL() if model is None else model
    for name in free:
        if name not in BOUNDS:
            raise TrafficGradError(
                f"unknown lane-change parameter {name!r}{nearest_name(name, BOUNDS)}; there are {', '.join(BOUNDS)}"
            )
    moments = _moments(data, drivers, model)
    fitted, held = moments.split(holdout)
    if fitted.changes == 0:
        raise TrafficGradError(
            "expected lane changes to learn from, but no driver who could choose changed lane in the data that are "
            "fitted: longer records, or more lanes, are needed"
        )
    values, temperature, error = _most_likely(fitted, model, free)
    best = dataclasses.replace(model, **dict(zip(free, map(float, values), strict=True)))  # type: ignore[type-var]
    judged = held if held.changes else fitted
    worth = _incentives(judged, best).amax(-1)
    changed = judged.chosen != 0
    return LaneChangeFit(
        names=free,
        values=values,
        standard_error=error,
        temperature=temperature,
        changes=fitted.changes,
        moments=len(fitted.chosen),
        explained=float((worth[changed] > -_CLEAR * temperature).double().mean()),
        false_alarms=float((worth[~changed] > _CLEAR * temperature).double().mean()),
        left_out=moments.left_out,
        model=best,
    )


@dataclass(frozen=True)
class _Moments:
    """``K`` moments at which one driver could choose."""

    time: Tensor  # [K] s
    evaluation: LaneEvaluation  # of one vehicle each: [K, 1, 2]
    feasible: Tensor  # [K, 2] bool, right and left
    chosen: Tensor  # [K] int64: 0 stay, 1 right, 2 left
    left_out: int

    @property
    def changes(self) -> int:
        return int((self.chosen != 0).sum())

    def split(self, share: float) -> tuple[_Moments, _Moments]:
        """Those before the last ``share`` of the time, and the others."""
        if not len(self.time):
            return self, self
        end = self.time.min() + (1.0 - share) * (self.time.max() - self.time.min())
        return self._take(self.time <= end), self._take(self.time > end)

    def _take(self, mask: Tensor) -> _Moments:
        evaluation = LaneEvaluation(*(x[mask] for x in self.evaluation))
        return _Moments(self.time[mask], evaluation, self.feasible[mask], self.chosen[mask], self.left_out)


def _moments(data: Trajectories, drivers: CarFollowing, model: LaneChange) -> _Moments:
    lanes = int(data.lane.max()) + 1
    if lanes < 2:
        raise TrafficGradError("lane changes need a column lane with at least two lanes")
    simulator = _simulator(data, drivers, model, lanes)
    there = data.recorded & (data.lane >= 0)
    after = np.zeros_like(there)
    after[:-1] = there[:-1] & there[1:]
    step = np.zeros(data.lane.shape, dtype=np.int64)
    step[:-1] = np.where(after[:-1], data.lane[1:] - data.lane[:-1], 0)
    undecided = (step == 0) & _soon(step != 0, round(_DECIDING / data.dt))
    ready = (
        ~undecided
        & after
        & _ready(data, there, step, float(torch.as_tensor(model.cooldown).max()))
        & (np.abs(step) <= 1)
    )
    parts: list[_Moments] = []
    forbidden = 0
    times = max(1, _CHUNK // max(1, len(data.ids)))
    base = np.nanmin(np.where(there, data.position, np.nan)) if data.circumference is None else 0.0
    for first in range(0, len(data.time) - 1, times):
        rows = np.arange(first, min(first + times, len(data.time) - 1))
        state = _snapshots(data, there, rows, base)
        with torch.no_grad():
            evaluation = simulator.evaluate_lanes(state)
            feasible = model.for_drivers(state.driver).feasible(evaluation)
        considered = model.sides_at(state.time, data.dt)
        looks = (evaluation.sides[:, :, None] == considered[:, None, :]).any(-1)[:, None, :]
        chosen = torch.from_numpy(np.array([1, 0, 2])[step[rows] + 1])
        possible = feasible & looks
        taken = torch.where(chosen == 0, True, possible.gather(2, (chosen - 1).clamp(min=0)[..., None])[..., 0])
        known = torch.from_numpy(ready[rows])
        forbidden += int((known & ~taken).sum())
        keep = known & taken & possible.any(-1)
        t, n = keep.nonzero(as_tuple=True)
        picked = LaneEvaluation(evaluation.sides[t], *(x[t, n][:, None] for x in evaluation[1:]))
        parts.append(_Moments(state.time[t], picked, possible[t, n], chosen[t, n], 0))
    joined = LaneEvaluation(*(torch.cat(x) for x in zip(*(part.evaluation for part in parts), strict=True)))
    time, feasible, choices = (torch.cat([getattr(p, name) for p in parts]) for name in ("time", "feasible", "chosen"))
    return _Moments(time, joined, feasible, choices, forbidden)


def _simulator(data: Trajectories, drivers: CarFollowing, model: LaneChange, lanes: int) -> Simulator:
    if data.circumference is not None:
        network = builders.ring(data.circumference, lanes)
    else:
        there = data.position[np.isfinite(data.position)]
        network = builders.straight(float(there.max() - there.min()) + _ROOM, lanes)
    return Simulator(network, Fleet(length=torch.from_numpy(data.length)), drivers, model, dt=data.dt)


def _snapshots(data: Trajectories, there: NDArray[np.bool_], rows: NDArray[np.int64], base: float) -> TrafficState:
    """Recorded times as worlds of a state."""
    here = there[rows]
    place = np.where(here, data.position[rows] - base, 0.0)
    if data.circumference is not None:
        place = np.mod(place, data.circumference)
    return TrafficState(
        position=torch.from_numpy(place),
        speed=torch.from_numpy(np.where(here, data.speed[rows], 0.0)),
        lane=torch.from_numpy(np.where(here, data.lane[rows], 0)),
        active=torch.from_numpy(here),
        time=torch.from_numpy(data.time[rows]),
    )


def _ready(data: Trajectories, there: NDArray[np.bool_], step: NDArray[np.int64], cooldown: float) -> NDArray[np.bool_]:
    """[T, N]: the last change, and the beginning of the track, are longer ago than the cool-down."""
    since = np.zeros(len(data.ids))
    ready = np.zeros(there.shape, dtype=bool)
    for t in range(len(there)):
        since = np.where(there[t], since, 0.0)
        ready[t] = since >= cooldown - 1e-3 * data.dt
        since = np.where(step[t] != 0, 0.0, since + data.dt)
    return ready


def _soon(events: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """[T, N]: one of the events comes within so many steps."""
    soon = np.zeros_like(events)
    for ahead in range(1, steps + 1):
        soon[:-ahead] |= events[ahead:]
    return soon


def _incentives(moments: _Moments, model: LaneChange) -> Tensor:
    """[K, 2], of right and left; -inf where one may not go."""
    return model.incentive(moments.evaluation)[:, 0].masked_fill(~moments.feasible, -torch.inf)


def _most_likely(moments: _Moments, model: LaneChange, free: tuple[str, ...]) -> tuple[Reals, float, Reals]:
    """Parameters, temperature and standard errors."""
    closed = ~moments.feasible

    def loss(point: Tensor) -> Tensor:
        guess = dataclasses.replace(model, **dict(zip(free, point[:-1].unbind(), strict=True)))  # type: ignore[type-var]
        worth = (guess.incentive(moments.evaluation)[:, 0] / point[-1].exp()).masked_fill(closed, -torch.inf)
        share = torch.softmax(torch.cat([torch.zeros_like(worth[:, :1]), worth], -1), -1)
        chosen = share.gather(1, moments.chosen[:, None])[:, 0]
        return -torch.log((1.0 - _LAPSE) * chosen + _LAPSE / 3.0).mean()

    def with_gradient(x: Reals) -> tuple[float, Reals]:
        point = torch.from_numpy(x).requires_grad_()
        value = loss(point)
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient.numpy()

    bounds = [*(BOUNDS[name] for name in free), (np.log(SHARPEST), np.log(SOFTEST))]
    start = [float(torch.as_tensor(getattr(model, name)).mean()) for name in free]
    # From soft to sharp: first where the boundary lies roughly, then exactly.
    x = np.array([*start, np.log(0.5)])
    for sharpest in (0.2, 0.05, SHARPEST):
        bounds[-1] = (np.log(sharpest), np.log(SOFTEST))
        x = minimize(with_gradient, x, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    curvature = torch.autograd.functional.hessian(loss, torch.from_numpy(x))[:-1, :-1].numpy() * len(moments.chosen)
    size, direction = np.linalg.eigh(curvature)
    variance = (direction**2 / np.maximum(size, 1e-12)).sum(1)
    return x[:-1], float(np.exp(x[-1])), np.sqrt(variance)

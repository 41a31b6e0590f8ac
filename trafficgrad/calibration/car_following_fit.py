"""Car-following parameters from recorded trajectories: least squares with exact derivatives, from several starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult
from scipy.stats import qmc
from torch import Tensor

from trafficgrad.calibration.following import Followed, FollowingRecords, compiled, follow
from trafficgrad.calibration.lockstep import solve_together
from trafficgrad.car_following import IDM, CarFollowing
from trafficgrad.dynamics import Integrator
from trafficgrad.errors import TrafficGradError, nearest_name

Reals = NDArray[np.float64]
Measure = Literal["gap", "speed", "both"]
Loss = Literal["linear", "soft_l1", "huber", "cauchy"]
M = TypeVar("M", bound=CarFollowing)

# Where drivers are looked for, in the units of the model.
BOUNDS: dict[str, tuple[float, float]] = {
    "desired_speed": (1.0, 70.0),
    "time_headway": (0.1, 5.0),
    "max_acceleration": (0.1, 6.0),
    "comfortable_deceleration": (0.1, 6.0),
    "min_gap": (0.1, 10.0),
    "exponent": (1.0, 12.0),
}
FREE = ("desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap")
MEASURES: tuple[Measure, ...] = ("gap", "speed", "both")
LOSSES: tuple[Loss, ...] = ("linear", "soft_l1", "huber", "cauchy")
FLAT = 0.01  # m: less than this is what a tenth of a parameter does where the data say nothing about it
_WINDOW = 5.0  # s, pieces of records that the search begins with
_GUESSES = 2  # of them that are fitted to whole records
_LONGEST = 24  # pieces of a record
_PIECES = 240  # of all records that belong to one set of parameters
_EVALUATIONS = {True: 40, False: 100}  # of a search at most: the first, rough one, and the last
_TOLERANCE = {True: 1e-4, False: 1e-8}
_FAR = 1e6  # m or m/s, in place of an error that is no number
_HUGE = 1e100  # from here on it is none: its square would not be finite
UNCERTAIN = 0.2  # relative standard error from which on a parameter is called uncertain


@dataclass(frozen=True)
class FitSettings:
    """How parameters are looked for."""

    free: tuple[str, ...] = FREE  # parameters that are fitted; the model's own values hold for the others
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)  # besides ``BOUNDS``
    shared: bool = False  # one set of parameters for all drivers
    starts: int = 8  # the first is the model's own parameters, the others are spread over the bounds
    measure: Measure = "gap"  # whose error is made small
    loss: Loss = "soft_l1"  # of SciPy's; all but linear let few bad samples pull less
    loss_scale: float = 1.0  # m or m/s: where errors begin to count as bad
    holdout: float = 0.3  # share of each record, its end, that is not fitted but predicted
    shortest: float = 5.0  # s, of a part that is held out
    integrator: Integrator = "ballistic"
    seed: int = 0  # of the starts

    def __post_init__(self) -> None:
        for name in (*self.free, *self.bounds):
            if name not in BOUNDS:
                raise TrafficGradError(
                    f"unknown parameter {name!r}{nearest_name(name, BOUNDS)}; there are {', '.join(BOUNDS)}"
                )
        if not self.free or len(set(self.free)) < len(self.free):
            raise TrafficGradError(f"expected the names of different free parameters, got {list(self.free)}")
        for name, (low, high) in self.bounds.items():
            if not 0 < low < high:
                raise TrafficGradError(f"bounds of {name} must be 0 < lowest < highest, got {low:g} and {high:g}")
        for name, value, valid in (("measure", self.measure, MEASURES), ("loss", self.loss, LOSSES)):
            if value not in valid:
                raise TrafficGradError(
                    f"unknown {name} {value!r}{nearest_name(value, valid)}; valid are {', '.join(valid)}"
                )
        if self.starts < 1:
            raise TrafficGradError(f"expected at least 1 start, got {self.starts}")
        if not 0 <= self.holdout <= 0.9:
            raise TrafficGradError(f"holdout must be a share of 0 to 0.9 of each record, got {self.holdout:g}")
        if not self.loss_scale > 0:
            raise TrafficGradError(f"loss_scale must be above 0, got {self.loss_scale:g}")

    @property
    def limits(self) -> Reals:
        """[P, 2], lowest and highest value of every free parameter."""
        return np.array([self.bounds.get(name, BOUNDS[name]) for name in self.free])


@dataclass(frozen=True)
class Errors:
    """Root mean squares over the samples of each driver, [G]; NaN where there are none."""

    gap: Reals  # m
    speed: Reals  # m/s


@dataclass(frozen=True)
class Calibration:
    """Fitted parameters of ``G`` drivers (or 1 set for all), and what the data say about each of ``P`` parameters."""

    ids: tuple[str, ...]  # G names
    names: tuple[str, ...]  # P free parameters
    model: CarFollowing  # what holds for all, and what the fit started from
    values: Reals  # [G, P]
    standard_error: Reals  # [G, P] relative, from the scatter of the errors; too small where errors last
    effect: Reals  # [G, P] m (or m/s): change of the trajectory by a tenth of it, the others readjusted
    at_bound: NDArray[np.int8]  # [G, P], -1 or 1 where the best value is the lowest or highest one
    fit: Errors
    held_out: Errors
    before: Errors  # of the parameters that the fit started from, on what is held out, or else on what was fitted
    agreeing: Reals  # [G], share of the starts that came within 1 % of the best error
    settings: FitSettings
    records: FollowingRecords
    notes: tuple[str, ...] = ()

    def parameters(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Name -> [G], as a model takes them per driver."""
        return {name: torch.from_numpy(self.values[:, p].copy()).to(dtype) for p, name in enumerate(self.names)}

    def drivers(self, dtype: torch.dtype = torch.float64) -> CarFollowing:
        """The model with a row of parameters for each driver."""
        return dataclasses.replace(self.model, **self.parameters(dtype))  # type: ignore[type-var]

    def doubts(self, driver: int) -> list[str]:
        """What the data do not tell about a driver, a phrase for each kind of doubt."""
        groups: dict[str, list[str]] = {}
        for p, name in enumerate(self.names):
            shown = name.replace("_", " ")
            if self.at_bound[driver, p]:
                groups.setdefault("at its lowest" if self.at_bound[driver, p] < 0 else "at its highest", []).append(
                    shown
                )
            elif self.effect[driver, p] < FLAT:
                groups.setdefault("without effect", []).append(shown)
            elif self.standard_error[driver, p] > UNCERTAIN:
                shown += f" ±{100 * self.standard_error[driver, p]:.0f} %"
                groups.setdefault("uncertain", []).append(shown)
        return [f"{what}: {', '.join(names)}" for what, names in groups.items()]

    def predict(self, records: FollowingRecords) -> Followed:
        """What the fitted drivers do in records, one row for each of them."""
        group = torch.zeros_like(records.driver) if self.settings.shared else records.driver
        theta = torch.from_numpy(self.values)[group]
        rows = torch.arange(len(records.driver))
        return follow(self.model, self.names, theta, records, rows, self.settings.integrator, slopes=False)


def calibrate(
    records: FollowingRecords,
    model: M | None = None,
    settings: FitSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Fit a car-following model to each driver, or one to all: simulated behind its leader, it shall drive as recorded.

    The error of the whole trajectory is made small, not that of single accelerations: the model reacts to what it
    brought about itself. Every driver and start is a problem of its own, in the logarithms of the parameters, with the
    exact Jacobian.

    Reference: V. Punzo, M. Montanino, "Speed or spacing? Cumulative variables, and convolution of model errors and time
    in traffic flow models validation and calibration", Transportation Research Part B 91 (2016) 21.

    Parameters:
        records: what was recorded. model: fixed parameters, and the first start of the free ones; default: ``IDM()``.
        settings: how to look. progress: told how many of how many problems are solved.

    Raises:
        TrafficGradError: a model without such parameters, or whose own ones are per driver.
    """
    model_: CarFollowing = IDM() if model is None else model
    settings = settings or FitSettings()
    own = _own_values(model_, settings)
    fitted, held = records.split(settings.holdout, settings.shortest)
    group = torch.zeros_like(fitted.driver) if settings.shared else fitted.driver
    ids = ("all drivers",) if settings.shared else records.ids
    problem = _Problem(model_, settings, fitted, group)
    starts = _starts(own, settings)
    guesses, agreeing = _from_windows(problem, starts, len(ids), progress)
    results = _solve(problem, [point for points in guesses for point in points], [len(p) for p in guesses], rough=False)
    best = [min(of_driver, key=lambda result: result.cost) for of_driver in results]
    values = np.exp([result.x for result in best])
    around = zip(problem.residuals(range(len(ids)), values), values, strict=True)
    errors, effects = zip(*(_certainty(residual, slope * own) for (residual, slope), own in around), strict=True)
    judge = lambda part, rows: _errors(part, model_, settings, rows, len(ids))  # noqa: E731
    nothing = Errors(np.full(len(ids), np.nan), np.full(len(ids), np.nan))
    first = np.repeat(own[None], len(ids), 0)
    return Calibration(
        ids=ids,
        names=settings.free,
        model=model_,
        values=values,
        standard_error=np.array(errors),
        effect=np.array(effects),
        at_bound=np.array([_at_bound(result, settings.limits) for result in best], dtype=np.int8),
        fit=judge(fitted, values),
        held_out=nothing if held is None else judge(held, values),
        before=judge(fitted if held is None else held, first),
        agreeing=agreeing,
        settings=settings,
        records=records,
        notes=records.notes,
    )


def _from_windows(
    problem: _Problem, starts: Sequence[Reals], groups: int, progress: Callable[[int, int], None] | None
) -> tuple[list[list[Reals]], Reals]:
    """The best guesses of each group, as logarithms, and the share of starts that agree with the best.

    They are fitted to short pieces, each of which begins as recorded: there errors have no time to grow, so that the
    search hardly gets lost, and pieces are simulated side by side instead of one after the other.
    """
    short = problem.in_windows(_WINDOW)
    points = [np.log(start) for _ in range(groups) for start in starts]
    told = None if progress is None else lambda done: progress(done, len(points))
    kept, agreeing = [], []
    for results in _solve(short, points, [len(starts)] * groups, rough=True, progress=told):
        ranked = sorted(results, key=lambda result: result.cost)
        root = np.sqrt([result.cost for result in ranked])
        agree = root <= 1.01 * root[0] + 1e-6
        agreeing.append(float(agree.mean()))
        others = [result for result, same in zip(ranked, agree, strict=True) if not same]
        kept.append([result.x for result in (ranked[0], *others[: _GUESSES - 1])])
    return kept, np.array(agreeing)


def _solve(
    problem: _Problem,
    points: Sequence[Reals],
    counts: Sequence[int],
    rough: bool,
    progress: Callable[[int], None] | None = None,
) -> list[list[OptimizeResult]]:
    """Least squares of every group from as many points as ``counts`` says, in its order."""
    owner = np.repeat(np.arange(len(counts)), counts)
    settings = problem.settings
    results = solve_together(
        points,
        lambda problems, places: problem.evaluate(owner[list(problems)].tolist(), places),
        np.log(settings.limits.T),
        progress,
        # Where each row costs what it costs, threads that wait for each other would only cost more.
        side_by_side=not compiled(problem.model, settings.free),
        xtol=_TOLERANCE[rough],
        ftol=_TOLERANCE[rough],
        gtol=_TOLERANCE[rough],
        max_nfev=_EVALUATIONS[rough],
    )
    ends = np.cumsum(counts)
    return [results[end - count : end] for end, count in zip(ends.tolist(), counts, strict=True)]


class _Problem:
    """Residuals and Jacobians of groups of records that share parameters."""

    def __init__(self, model: CarFollowing, settings: FitSettings, records: FollowingRecords, group: Tensor) -> None:
        self.model, self.settings, self.records = model, settings, records
        self._rows = [(group == g).nonzero()[:, 0] for g in range(int(group.max()) + 1)]
        self._measured = [name for name in ("gap", "speed") if settings.measure in (name, "both")]
        whole = records.whole
        # The first sample is where the model begins. None: all others are there.
        masks = [whole[1:, rows].numpy() for rows in self._rows]
        self._there = [None if mask.all() else mask for mask in masks]
        seen = {"gap": records.position, "speed": records.speed}
        self._seen = [
            np.concatenate([_taken(seen[name][1:, rows].numpy(), there) for name in self._measured])
            for rows, there in zip(self._rows, self._there, strict=True)
        ]

    def in_windows(self, seconds: float) -> _Problem:
        """The same with records that are cut into pieces."""
        rough = max(1, _PIECES // max(len(rows) for rows in self._rows))
        pieces = self.records.windows(seconds, min(rough, _LONGEST))
        group = torch.zeros_like(pieces.driver) if self.settings.shared else pieces.driver
        return _Problem(self.model, self.settings, pieces, group)

    def residuals(self, groups: Sequence[int], values: Reals) -> list[tuple[Reals, Reals]]:
        """Of groups at parameters [G, P]: residuals [n] and their derivatives [n, P] by each."""
        sizes = [len(self._rows[g]) for g in groups]
        rows = self._rows[groups[0]] if len(groups) == 1 else torch.cat([self._rows[g] for g in groups])
        theta = torch.from_numpy(np.repeat(values, sizes, axis=0))
        found = follow(self.model, self.settings.free, theta, self.records, rows, self.settings.integrator)
        assert found.position_slope is not None and found.speed_slope is not None
        driven = {"gap": (found.position, found.position_slope), "speed": (found.speed, found.speed_slope)}
        arrays = [tuple(x.numpy()[1:] for x in driven[name]) for name in self._measured]
        told, first = [], 0
        for g, size in zip(groups, sizes, strict=True):
            own, there = slice(first, first + size), self._there[g]
            residual, slope = (
                _joined([_taken(x[:, own], there) for x in parts]) for parts in zip(*arrays, strict=True)
            )
            told.append((residual - self._seen[g], slope))
            first += size
        return told

    def evaluate(self, groups: Sequence[int], points: Sequence[Reals]) -> list[tuple[Reals, Reals]]:
        """What a solver needs to know at logarithms of parameters: :func:`condensed`, with the robust loss in them."""
        values = np.exp(np.stack(points))
        told = []
        for (residual, slope), scale in zip(self.residuals(groups, values), values, strict=True):
            short, jacobian = condensed(residual, slope, self.settings.loss, self.settings.loss_scale)
            told.append((short, jacobian * scale))
        return told


def _taken(values: NDArray, there: NDArray[np.bool_] | None) -> NDArray:
    """[T, M, ...] where ``there`` [T, M] (None: everywhere), [n, ...]."""
    return values.reshape(-1, *values.shape[2:]) if there is None else values[there]


def _joined(parts: Sequence[NDArray]) -> NDArray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def condensed(residual: Reals, slope: Reals, loss: Loss, scale: float) -> tuple[Reals, Reals]:
    """``P + 1`` residuals and their Jacobian [P + 1, P] in place of ``n``.

    Their sum of squares is the robust loss, the gradient is its gradient, and ``J^T J`` is that of the residuals
    ``f = sqrt(loss) sign(residual)``: any factor of ``[J f]^T [J f]`` has these properties, and a solver has no need of
    all rows. What is not finite, or huge, is far off, and says nothing about where to go.

    Parameters:
        residual: [n]. slope: [n, P], its derivatives. loss: of SciPy's. scale: where errors begin to count as bad.
    """
    products = np.empty((slope.shape[1] + 1,) * 2)
    with np.errstate(over="ignore", invalid="ignore"):
        errors, slopes = residual, slope
        if loss != "linear":
            z = np.square(residual / scale)
            rho, by_z = _RHO[loss](z)
            root = scale * np.sqrt(rho)
            errors = np.copysign(root, residual)
            slopes = slope * np.where(z > 1e-12, by_z * scale * np.sqrt(z) / np.maximum(root, 1e-300), 1.0)[:, None]
        products[:-1, :-1] = slopes.T @ slopes
        products[:-1, -1] = products[-1, :-1] = errors @ slopes
        products[-1, -1] = errors @ errors
    if not np.isfinite(products).all():
        far = ~(np.abs(residual) < _HUGE)
        lost = far | ~(np.abs(slope) < _HUGE).all(1)
        return condensed(np.where(far, _FAR, residual), np.where(lost[:, None], 0.0, slope), loss, scale)
    # Columns of length 1: errors that are nearly 0 lose no digits beside slopes that are not.
    length = np.sqrt(np.maximum(products.diagonal(), 1e-300))
    size, direction = np.linalg.eigh(products / (length * length[:, None]))
    factor = np.sqrt(np.maximum(size, 0.0))[:, None] * direction.T * length
    return factor[:, -1], factor[:, :-1]


# Loss and its derivative, of squared residuals in units of the scale (scipy.optimize.least_squares).
_RHO: dict[str, Callable[[Reals], tuple[Reals, Reals]]] = {
    "soft_l1": lambda z: (2.0 * z / (np.sqrt(1.0 + z) + 1.0), 1.0 / np.sqrt(1.0 + z)),
    "huber": lambda z: (np.where(z <= 1.0, z, 2.0 * np.sqrt(z) - 1.0), 1.0 / np.sqrt(np.maximum(z, 1.0))),
    "cauchy": lambda z: (np.log1p(z), 1.0 / (1.0 + z)),
}


def _own_values(model: CarFollowing, settings: FitSettings) -> Reals:
    values = []
    for name, (low, high) in zip(settings.free, settings.limits, strict=True):
        value = getattr(model, name, None)
        if value is None:
            raise TrafficGradError(f"{type(model).__name__} has no parameter {name!r}")
        if isinstance(value, Tensor) and value.dim():
            raise TrafficGradError(
                f"{name} of the model must be one number to start from, got shape {list(value.shape)}"
            )
        values.append(min(max(float(value), low * 1.001), high * 0.999))
    return np.array(values)


def _starts(own: Reals, settings: FitSettings) -> list[Reals]:
    """The model's own parameters, and a Latin hypercube in the middle of the bounds' logarithms."""
    limits = np.log(settings.limits)
    middle, half = limits.mean(1), 0.5 * (limits[:, 1] - limits[:, 0])
    sampler = qmc.LatinHypercube(len(own), seed=settings.seed)
    spread = sampler.random(settings.starts - 1) if settings.starts > 1 else np.zeros((0, len(own)))
    return [own, *np.exp(middle + 0.8 * half * (2.0 * spread - 1.0))]


def _certainty(residual: Reals, slope: Reals) -> tuple[Reals, Reals]:
    """Relative standard errors, and what a tenth of each parameter changes with the others readjusted, from residuals
    and Jacobian by logarithms.
    """
    residual, slope = (np.nan_to_num(x, posinf=_FAR, neginf=-_FAR) for x in (residual, slope))
    count, parameters = slope.shape
    size, direction = np.linalg.eigh(slope.T @ slope)
    size = np.maximum(size, 1e-12 * max(size.max(), 1e-12))
    variance = (direction**2 / size).sum(1)
    scatter = residual @ residual / max(count - parameters, 1)
    return np.sqrt(scatter * variance), 0.1 / np.sqrt(variance * count)


def _at_bound(result: OptimizeResult, limits: Reals) -> Reals:
    low, high = np.log(limits.T)
    near = 1e-3 * (high - low)
    return np.where(result.x - low < near, -1, np.where(high - result.x < near, 1, 0))


def _errors(
    records: FollowingRecords, model: CarFollowing, settings: FitSettings, values: Reals, groups: int
) -> Errors:
    group = torch.zeros_like(records.driver) if settings.shared else records.driver
    rows = torch.arange(len(group))
    found = follow(
        model, settings.free, torch.from_numpy(values)[group], records, rows, settings.integrator, slopes=False
    )
    there = records.whole.clone()
    there[0] = False

    def per_group(error: Tensor) -> Reals:
        square = torch.where(there, error, 0.0).square().sum(0)
        total = torch.zeros(groups, dtype=square.dtype).index_add(0, group, square)
        count = torch.zeros(groups, dtype=square.dtype).index_add(0, group, there.sum(0).to(square.dtype))
        return (total / count).sqrt().numpy()

    return Errors(per_group(found.position - records.position), per_group(found.speed - records.speed))

"""What a gradient check does, and which gradients it compares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.gradients import MODES, LaneGradient, SignalGradient
from trafficgrad.signals import FIXED

Wrt = Literal["actions", "drivers", "initial", "signals"]
Gradient = LaneGradient | SignalGradient
WRT: tuple[Wrt, ...] = get_args(Wrt)
# Work that the defaults allow, vehicle-steps: about half a minute for the reference, seconds for each mode.
_REFERENCE_WORK = 48_000_000
_SAMPLE_WORK = 4_000_000
_WINDOWS, _PAIRS, _SAMPLES = (24, 64), (64, 2000), (16, 256)  # fewest and most
_SHORT = {"transition_width": "width"}
_VARIED = {
    "LaneGradient": ("temperature", "choice_temperature", "memory", "transition_width"),
    "SignalGradient": ("headway",),
}
_STEPS, _CYCLES = 32, 2.0  # usual length of a window: decisions; cycles of the signals
_SD, _SD_OF_SIGNALS = 0.1, 2.0


class Sizes(NamedTuple):
    """How much is computed."""

    windows: int  # W
    steps: int  # T, decisions of a window
    pairs: int  # P, for each window
    samples: int  # K, for each window and mode
    sd: float


@dataclass(frozen=True)
class CheckSettings:
    """Windows, perturbations and numbers of samples. None means a number that depends on the scenario's size."""

    wrt: Wrt = "actions"  # what the gradient is taken by
    windows: int | None = None  # W
    steps: int | None = None  # T, decisions of a window; None: 32, or two cycles for signals, or a shorter horizon
    pairs: int | None = None  # P, antithetic pairs of the reference for each window; rounded up to a multiple of 4
    samples: int | None = (
        None  # K, perturbed pathwise gradients for each window and mode; rounded up to a multiple of 4
    )
    sd: float | None = None  # standard deviation of the smoothing: action units; relative change of a parameter; m and
    # m/s; s for signals. None: 0.1, and 2 s
    block: int = 8  # decisions that share an offset of the actions
    per_vehicle: bool = False  # drivers: every human driver's own parameters instead of shared changes
    discount: float = 1.0  # weight of a decision's reward, relative to the one before
    exploration: float = 0.3  # standard deviation of the actions' noise where no policy brings its own
    seed: int = 0

    def for_env(self, env: TrafficEnv) -> CheckSettings:
        """The settings with every number in place.

        Raises:
            TrafficGradError: a value that cannot be, or windows longer than an episode.
        """
        checked_wrt(self.wrt)
        steps = min(_usual_steps(env, self.wrt), env.horizon) if self.steps is None else self.steps
        sd = (_SD_OF_SIGNALS if self.wrt == "signals" else _SD) if self.sd is None else self.sd
        if not 1 <= steps <= env.horizon:
            raise TrafficGradError(
                f"windows of {steps} decisions do not fit: an episode of {env.scenario.name!r} has {env.horizon}"
            )
        for name, value in (("windows", self.windows), ("pairs", self.pairs), ("samples", self.samples)):
            if value is not None and value < 1:
                raise TrafficGradError(f"a gradient check needs {name} >= 1, got {value}")
        for name, size in (("sd", sd), ("exploration", self.exploration), ("discount", self.discount)):
            if not (math.isfinite(size) and size >= 0) or (name == "sd" and size == 0):
                raise TrafficGradError(f"a gradient check needs a finite {name} above 0, got {size}")
        if self.block < 1:
            raise TrafficGradError(f"a gradient check needs blocks of at least 1 decision, got {self.block}")
        work = steps * env.scenario.simulation.decision_steps * env.scenario.total
        windows = _fit(_REFERENCE_WORK / (1000 * work), _WINDOWS) if self.windows is None else self.windows
        work *= windows
        pairs = _fit(_REFERENCE_WORK / (2 * work), _PAIRS) if self.pairs is None else self.pairs
        samples = _fit(_SAMPLE_WORK / work, _SAMPLES) if self.samples is None else self.samples
        pairs, samples = (-(-number // 4) * 4 for number in (pairs, samples))
        return dataclasses.replace(self, windows=windows, steps=steps, pairs=pairs, samples=samples, sd=sd)

    @property
    def sizes(self) -> Sizes:
        """Every number, after :meth:`for_env`."""
        windows, steps, pairs, samples, sd = self.windows, self.steps, self.pairs, self.samples, self.sd
        if windows is None or steps is None or pairs is None or samples is None or sd is None:
            raise AssertionError("settings.for_env(env) comes first")
        return Sizes(windows, steps, pairs, samples, sd)

    @property
    def horizons(self) -> list[int]:
        """1, 2, 4, ... and T: after how many decisions the return is looked at."""
        steps = self.sizes.steps
        return [2**i for i in range(steps.bit_length()) if 2**i < steps] + [steps]


def checked_wrt(name: str) -> Wrt:
    """One of ``WRT``.

    Raises:
        TrafficGradError: it is none of them.
    """
    for known in WRT:
        if name == known:
            return known
    raise TrafficGradError(f"gradient by {name!r}{nearest_name(name, WRT)}; valid are {', '.join(WRT)}")


def gradient_variants(
    env: TrafficEnv,
    modes: Sequence[str] = (),
    vary: Mapping[str, Sequence[float]] | None = None,
    wrt: Wrt = "actions",
) -> dict[str, Gradient]:
    """The gradients to compare, by name: the scenario's own settings in each mode.

    Parameters:
        modes: some of ``gradients.MODES``; none: all of them.
        vary: settings of :class:`~trafficgrad.gradients.LaneGradient` (temperature, choice_temperature, memory,
            transition_width), or of :class:`~trafficgrad.gradients.SignalGradient` (headway) where the gradient is by
            signals, and the values that straight-through is tried with, in addition to the scenario's.
        wrt: what the gradient is taken by.

    Raises:
        TrafficGradError: an unknown mode or setting, or a transition width where nobody is steered.
    """
    for mode in modes:
        if mode not in MODES:
            raise TrafficGradError(
                f"unknown gradient mode {mode!r}{nearest_name(mode, MODES)}; valid are {', '.join(MODES)}"
            )
    base: Gradient = env.simulator.signal_gradient if wrt == "signals" else env.simulator.lane_gradient
    kind = type(base).__name__
    found: dict[str, Gradient] = {
        mode: dataclasses.replace(base, mode=mode) for mode in MODES if mode in modes or not modes
    }
    straight = dataclasses.replace(base, mode="straight_through")
    for key, values in (vary or {}).items():
        if key not in _VARIED[kind]:
            near, valid = nearest_name(key, _VARIED[kind]), ", ".join(_VARIED[kind])
            raise TrafficGradError(f"{kind}.{key} cannot be varied{near}; these can: {valid}")
        if key == "transition_width" and not env.simulator.fleet.rows("steered"):
            raise TrafficGradError(
                f"transition widths concern steered vehicles and {env.scenario.name!r} has none: leave --widths out"
            )
        for value in values:
            changed: dict[str, Any] = {key: float(value)}
            found[f"straight_through, {_SHORT.get(key, key)} {value:g}"] = dataclasses.replace(straight, **changed)
    return found


def _usual_steps(env: TrafficEnv, wrt: Wrt) -> int:
    signals = env.simulator.signals
    if wrt != "signals" or signals is None or not bool((signals.kind == FIXED).any()):
        return _STEPS
    cycle = signals.durations.detach().sum(-1)[signals.kind == FIXED].max()
    return math.ceil(_CYCLES * float(cycle) / (env.simulator.dt * env.scenario.simulation.decision_steps))


def _fit(wanted: float, bounds: tuple[int, int]) -> int:
    return int(min(max(wanted, bounds[0]), bounds[1]))

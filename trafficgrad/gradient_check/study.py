"""The whole check: windows, reference, every gradient mode, verdict."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trafficgrad.agents.actor_critic import Policy
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.gradient_check import measures
from trafficgrad.gradient_check.estimators import PathwiseSamples, pathwise_gradients
from trafficgrad.gradient_check.objective import WindowObjective
from trafficgrad.gradient_check.parameters import ActionOffsets, DriverParameters, InitialState, Parameters
from trafficgrad.gradient_check.references import (
    LocalReference,
    Progress,
    SmoothedReference,
    central_differences,
    evolution_strategies,
    nothing_tried,
)
from trafficgrad.gradient_check.report import (
    ALL,
    EVERYTHING,
    FAILING,
    FEWEST_WINDOWS,
    FREE,
    CheckResult,
    ModeReport,
    ReferenceReport,
    Table,
)
from trafficgrad.gradient_check.settings import CheckSettings, Gradient, gradient_variants
from trafficgrad.gradient_check.signal_timing import SignalTiming
from trafficgrad.gradient_check.verdict import judge
from trafficgrad.gradient_check.windows import collect_windows, policy_driver, untrained_driver
from trafficgrad.gradients import LaneGradient, SignalGradient

# Sizes of batches: tensors that stay in the processor's cache, graphs below 1 GB, differences in seconds.
_VEHICLES, _GRAPH, _DIFFERENCES = 40_000, 1_500_000, 8_000_000  # vehicles; vehicle-steps; vehicle-steps


def check_gradients(
    env: TrafficEnv,
    settings: CheckSettings | None = None,
    policy: Policy | None = None,
    variants: Mapping[str, Gradient] | None = None,
    policy_name: str = "",
    progress: Progress = lambda text: None,
) -> CheckResult:
    """How far the gradients of a scenario's returns can be trusted, mode by mode.

    Every mode's pathwise gradient, averaged over perturbed windows, is set beside evolution strategies with the same
    perturbations (:mod:`trafficgrad.gradient_check.references`), and at theta = 0 beside central differences.

    Parameters:
        env: the scenario; float64 is advised. Its own gradient mode does not matter.
        settings: what by, how much; default ``CheckSettings()``.
        policy: who drives; None: a scripted lane keeper or the action 0, with noise.
        variants: gradients by name, default :func:`gradient_variants`. policy_name: for the report.
        progress: is told what is being done.

    Raises:
        TrafficGradError: settings or a policy that do not fit the scenario.
    """
    settings = (settings or CheckSettings()).for_env(env)
    if settings.wrt == "actions":
        env.require_control()
    variants = gradient_variants(env, wrt=settings.wrt) if variants is None else variants
    parameters = parameters_of(env, settings)
    count, steps, pairs, samples, sd = settings.sizes
    streams = [torch.Generator().manual_seed(10 * settings.seed + i) for i in range(4)]
    driver = untrained_driver(env, settings.exploration) if policy is None else policy_driver(env, policy, policy_name)
    windows = collect_windows(env, driver, count, steps, streams[0], progress)
    objective = WindowObjective(env, windows, parameters, settings.horizons, settings.discount)
    hard = objective.with_gradient(LaneGradient("blocked")).with_gradient(SignalGradient("blocked"))
    free = parameters.free(windows.start)
    per_window = env.scenario.total * steps * env.scenario.simulation.decision_steps
    worlds = max(1, _VEHICLES // env.scenario.total)
    most = max(count, _DIFFERENCES // (4 * per_window))
    if settings.wrt == "signals":  # changes come at whole steps: small differences are 0
        local = nothing_tried(free)
    else:
        local = central_differences(hard, free, streams[1], most, worlds, progress)
    smoothed = evolution_strategies(hard, free, pairs, sd, streams[2], worlds, progress)
    eps = torch.randn(count, samples // 2, parameters.dimension, generator=streams[3], dtype=torch.float64)
    # Mirror images are neighbours, so that each half of the copies holds whole pairs.
    theta = sd * torch.stack([eps, -eps], 2).flatten(1, 2).to(env.device) * free[:, None]
    sets = {
        ALL: torch.ones_like(smoothed.failed, dtype=torch.bool),
        FREE: smoothed.failed == 0,
        FAILING: smoothed.failed > 0,
    }
    judged = FREE if bool(sets[FAILING].any()) and int(sets[FREE].sum()) >= FEWEST_WINDOWS else ALL
    modes = {}
    for name, gradient in variants.items():
        here = objective.with_gradient(gradient)

        def told(text: str, name: str = name) -> None:
            progress(f"{name}: {text}")

        batch = max(1, _GRAPH // per_window)
        at_zero = pathwise_gradients(here, torch.zeros_like(theta[:, :1]), batch, told)
        found = pathwise_gradients(here, theta, batch, told)
        modes[name] = _mode(name, gradient, found, at_zero, smoothed, local, free, sets, judged, parameters)
    result = CheckResult(
        scenario=env.scenario.name,
        driver=driver.name,
        settings=settings,
        components=parameters.components,
        vehicles=parameters.vehicles,
        dimension=parameters.dimension,
        judged=judged,
        reference=_reference(smoothed, sets, pairs),
        modes=modes,
    )
    return judge(result)


def parameters_of(env: TrafficEnv, settings: CheckSettings) -> Parameters:
    """The parameterisation that ``settings`` name.

    Raises:
        TrafficGradError: there is nothing of the kind in the scenario.
    """
    if settings.wrt == "drivers":
        return DriverParameters(env, settings.per_vehicle)
    if settings.wrt == "initial":
        return InitialState(env, settings.sizes.sd)
    if settings.wrt == "signals":
        return SignalTiming(env, settings.sizes.sd)
    return ActionOffsets(env, settings.sizes.steps, settings.block)


def _reference(smoothed: SmoothedReference, sets: Mapping[str, Tensor], pairs: int) -> ReferenceReport:
    last = smoothed.halves[:, :, -1]
    length = float((last[0] * last[1]).sum().clamp(min=0).sqrt())
    spread = float(smoothed.single_variance.sum().sqrt())
    return ReferenceReport(
        pairs=pairs,
        relative_error=float(smoothed.standard_error.norm()) / length if length > 0 else float("nan"),
        signal_to_noise=length / spread if spread > 0 else float("nan"),
        windows={name: int(mask.sum()) for name, mask in sets.items()},
        failed=float(smoothed.failed.mean()),
        changed=float(smoothed.changed.mean()),
        differs=float(smoothed.differs.mean()),
    )


def _mode(
    name: str,
    gradient: Gradient,
    found: PathwiseSamples,
    at_zero: PathwiseSamples,
    smoothed: SmoothedReference,
    local: LocalReference,
    free: Tensor,
    sets: Mapping[str, Tensor],
    judged: str,
    parameters: Parameters,
) -> ModeReport:
    gradients = found.gradients * free[:, None, None]
    count, copies = gradients.shape[:2]
    last = gradients[:, :, -1]
    halves, clipped = _halves(gradients), _halves(measures.clipped(last))
    masks = {part or EVERYTHING: parameters.component_mask(part) for part in (None, *parameters.components)}

    def table(gradient: Tensor, horizon: int, windows: Tensor) -> Table:
        reference = smoothed.halves[:, :, horizon]
        return {part: measures.agreement(gradient, reference, windows, mask) for part, mask in masks.items()}

    history = found.outcome.history.view(count, copies)
    return ModeReport(
        name=name,
        gradient=gradient,
        agreement={kind: table(halves[:, :, -1], -1, mask) for kind, mask in sets.items()},
        clipped={kind: table(clipped, -1, mask) for kind, mask in sets.items()},
        sample=measures.sample_statistics(
            last,
            halves[:, :, -1],
            found.finite,
            found.outcome.changed,
            history != at_zero.outcome.history[:, None],
            found.outcome.failed,
        ),
        local=measures.local_agreement(
            at_zero.gradients[:, 0, -1] * free, local.derivative, local.valid, local.tried, smoothed.differs == 0
        ),
        horizon=[table(halves[:, :, h], h, sets[judged]) for h in range(halves.shape[2])],
        norms=_norms(found.fine).tolist(),
    )


def _halves(gradients: Tensor) -> Tensor:
    """[2, W, ...], means over the two halves of the copies [W, K, ...]."""
    half = gradients.shape[1] // 2
    return torch.stack([gradients[:, :half].mean(1), gradients[:, half:].mean(1)])


def _norms(fine: Tensor) -> Tensor:
    """[time or horizon, vehicle], root mean square over windows of the norm over components."""
    rows = fine[:, -1] if fine.shape[2] > 1 else fine[:, :, 0]  # [W, time or horizon, V', F]
    return rows.square().sum(-1).mean(0).sqrt()

"""The exact lane gate: how biased a gradient through a lane choice is, beside the truth."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from trafficgrad.gradient_check.lane_gate import (
    SETTINGS,
    LaneGate,
    Quadrature,
    Setting,
    likelihood_ratio,
    pathwise,
)
from trafficgrad.gradients import MODES, LaneGradient
from trafficgrad.render import validation_plots
from trafficgrad.validation.report import Check, near, within
from trafficgrad.validation.runs import Results, Run

SAMPLES, QUICK_SAMPLES = (4000, 2000), (1500, 500)  # of the likelihood ratio, of pathwise
ERRORS = 4.0  # standard errors that an estimate may be off
TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
HALVED = 10  # settings in which straight-through has at most half of blocked's bias


def lane_gate(run: Run) -> Results:
    """Likelihood ratio beside the truth, pathwise beside its part, and the bias of every gradient mode."""
    settings = SETTINGS[:3] if run.quick else SETTINGS
    run.say("distances")
    exact = Quadrature(LaneGate(device=run.device), settings)
    scored, smooth = QUICK_SAMPLES if run.quick else SAMPLES
    truths = [exact.truth(setting) for setting in settings]
    generator = torch.Generator().manual_seed(0)
    for setting, true in zip(settings, truths, strict=True):
        name = _name(setting)
        run.say(name)
        both, margin = true.pathwise + true.jump, 1e-6 * true.total
        yield near(f"{name}: sum of the two parts", true.total, both, margin, "m", 3, "score")
        found = likelihood_ratio(exact.gate, setting, scored, generator)
        margin = ERRORS * found.standard_error
        yield near(f"{name}: likelihood ratio", true.total, found.value, margin, "m", 3, "quadrature, the whole")
        found = pathwise(exact.gate, setting, smooth, generator)
        margin = ERRORS * found.standard_error
        yield near(f"{name}: pathwise", true.pathwise, found.value, margin, "m", 3, "quadrature, the smooth part")
    biases = {}
    for mode in MODES:
        run.say(f"bias of {mode}")
        biases[mode] = exact.biases(LaneGradient(mode), settings)
        for setting, true, bias in zip(settings, truths, biases[mode], strict=True):
            yield Check(
                f"{_name(setting)}: {mode}", true.total, true.total * (1 + bias), -math.inf, math.inf, "m", 3, False,
                f"bias {100 * bias:+.0f} %",
            )  # fmt: skip
    halved = sum(
        abs(own) <= 0.5 * abs(blocked)
        for own, blocked in zip(biases["straight_through"], biases["blocked"], strict=True)
    )
    needed = len(settings) if run.quick else HALVED
    yield within(
        "settings in which straight_through has at most half of blocked's bias", needed, len(settings), halved, "",
        0, "biases above",
    )  # fmt: skip
    temperatures = TEMPERATURES[1::2] if run.quick else TEMPERATURES
    curves = []
    for temperature in temperatures:
        run.say(f"bias at temperature {temperature:g}")
        curves.append(exact.biases(LaneGradient(choice_temperature=temperature), settings))
    yield partial(
        validation_plots.draw_lane_gate, temperatures, np.array(curves), np.array(biases["blocked"]), settings,
        LaneGradient().choice_temperature,
    )  # fmt: skip


def _name(setting: Setting) -> str:
    return f"u ~ N({setting.mean:g}, {setting.deviation:g})"

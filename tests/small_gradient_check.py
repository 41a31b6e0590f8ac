"""Small environments and settings for the tests of the gradient check."""

from __future__ import annotations

import torch

from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.gradient_check import (
    CheckSettings,
    Driver,
    WindowObjective,
    collect_windows,
    parameters_of,
    untrained_driver,
)
from trafficgrad.scenario_config import load_scenario, parse_scenario

SHORT = ["simulation.warmup_steps=150", "simulation.horizon_steps=80", "pool_size=4", "driver_rows=16"]
TINY = CheckSettings(windows=6, steps=4, pairs=48, samples=16, block=2)
LANES = """\
kind: traffic
name: lanes
network: {kind: ring, length: 120.0, lanes: 2}
simulation: {horizon_steps: 60, decision_steps: 5, warmup_steps: 40}
vehicles:
  human: {count: 7, desired_speed: {uniform: [10, 30]}}
  controlled: {count: 1, control: lane}
reward: [{kind: mean_speed, scale: 10.0}]
lane_gradient: {choices: controlled, contrast_limits: [-9.0, 2.0]}
"""


def ring(dtype: torch.dtype = torch.float64) -> TrafficEnv:
    return TrafficEnv(load_scenario("ring_1lane", SHORT), dtype=dtype)


def lanes() -> TrafficEnv:
    return TrafficEnv(parse_scenario(LANES, "lanes"), dtype=torch.float64)


def objective(env: TrafficEnv, settings: CheckSettings, driver: Driver | None = None) -> WindowObjective:
    settings = settings.for_env(env)
    driver = driver or untrained_driver(env, settings.exploration)
    generator = torch.Generator().manual_seed(3)
    windows = collect_windows(env, driver, settings.sizes.windows, settings.sizes.steps, generator)
    return WindowObjective(env, windows, parameters_of(env, settings), settings.horizons)


def mirrored(windows: int, copies: int, dimension: int, sd: float) -> torch.Tensor:
    eps = torch.randn(windows, copies // 2, dimension, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return sd * torch.stack([eps, -eps], 2).flatten(1, 2)

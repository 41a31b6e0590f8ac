"""Whole episodes that no training has seen: what a controller achieves.

Traffic is drawn from streams of its own, with the table of drivers (:func:`held_out_env`, :func:`held_out_traffic`,
:func:`run_episodes`). Environments of other kinds are just played (:func:`play`). :func:`policy_measures` and
:func:`validation` take any scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.agents.actor_critic import Policy
from trafficgrad.envs import make_env
from trafficgrad.envs.base import DifferentiableEnv, EnvState
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.scenario_config import Scenario, TrafficScenario, require_traffic
from trafficgrad.state import TrafficState
from trafficgrad.trajectory import Trajectory

EnvController = Callable[[TrafficEnvState], Tensor | None]  # None: drive like everybody else

# Far from every training seed: traffic and the table of drivers are drawn from other streams.
HELD_OUT = 1_000_000
VALIDATION = 2_000_000


@dataclass(frozen=True)
class Episodes:
    """One episode in each of ``B`` worlds."""

    measures: dict[str, Tensor]  # name -> [B], means over the episode; `late_...` over its last part
    rewards: Tensor  # [T, B] per decision
    trajectory: Trajectory | None  # of traffic: every simulator step, where it was recorded


@dataclass(frozen=True)
class Traffic:
    """Episodes to come: warmed-up initial states and the noise of every world's own seed."""

    initial: TrafficState
    generators: tuple[torch.Generator, ...]


def held_out_env(scenario: Scenario, offset: int = HELD_OUT, device: torch.device | str = "cpu") -> TrafficEnv:
    """The scenario's environment with a table of human drivers that no training has seen.

    It is the hard one: where the training relaxes lane choices (``sigmoid``), its returns mean nothing.

    Raises:
        TrafficGradError: the scenario is not one of traffic.
    """
    scenario = require_traffic(scenario)
    if scenario.lane_gradient.mode == "sigmoid":
        hard = scenario.lane_gradient.model_copy(update={"mode": "blocked"})
        scenario = scenario.model_copy(update={"lane_gradient": hard})
    return TrafficEnv(scenario, seed=offset, device=device)


def held_out_traffic(env: TrafficEnv, seeds: Sequence[int], offset: int = HELD_OUT) -> Traffic:
    """Warmed-up traffic, world b from seed ``offset + seeds[b]`` alone."""
    generators = tuple(torch.Generator().manual_seed(offset + seed) for seed in seeds)
    initial = env.scenario.initial_state(len(seeds), generators, env.dtype, env.device, simulator=env.simulator)
    return Traffic(initial, generators)


@torch.no_grad()
def run_episodes(
    env: TrafficEnv,
    controller: EnvController | None,
    traffic: Traffic,
    record: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Episodes:
    """Drive one episode in every world of ``traffic``; the same traffic gives the same noise to every controller.

    A world that ends early (collision) counts up to there. ``controller`` None is human-only traffic. ``progress`` is
    told how many decisions are made.
    """
    generators = [torch.Generator() for _ in traffic.generators]
    for own, source in zip(generators, traffic.generators, strict=True):
        own.set_state(source.get_state())
    worlds, decisions = len(generators), env.horizon
    steps = env.scenario.simulation.decision_steps
    state = env.start(traffic.initial)
    alive = torch.ones(worlds, dtype=torch.bool, device=env.device)
    rows: list[dict[str, Tensor]] = []
    lived, states = [], [traffic.initial]
    for decision in range(decisions):
        if progress is not None:
            progress(decision)
        noise = torch.stack(
            [torch.randn(steps, env.scenario.total, generator=g, dtype=env.dtype) for g in generators], 1
        )
        action = controller(state) if controller is not None else None
        state, transition, driven = env.advance(state, action, noise.to(env.device))
        if record:
            states += [driven.state(t + 1) for t in range(driven.steps)]
        rows.append({**transition.terms, "reward": transition.reward})
        lived.append(alive)
        alive = alive & ~transition.terminated
    present = torch.stack(lived).to(env.dtype)
    series = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    seconds = env.simulator.dt * steps
    late = torch.zeros(decisions, 1, dtype=env.dtype, device=env.device)
    late[-max(1, round(env.scenario.late_seconds / seconds)) :] = 1.0

    def mean(x: Tensor, weight: Tensor) -> Tensor:
        return (x * weight).sum(0) / weight.sum(0).clamp(min=1.0)

    measures = {"reward": mean(series["reward"], present), "return": (series["reward"] * present).sum(0)}
    vehicles = series.get("vehicles", torch.full_like(present, float(env.scenario.total)))
    for name in ("speed_error", "mean_speed", "speed_deviation", "standing"):
        if name in series:
            measures[name] = mean(series[name], present)
            measures[f"late_{name}"] = mean(series[name], present * late)
    minutes = present.sum(0) * seconds / 60.0
    measures["length"] = present.sum(0)
    there = mean(vehicles, present)
    measures["lane_changes"] = (series["lane_changes"] * present).sum(0) / minutes / there.clamp(min=1e-6)
    measures["collisions"] = (series["collisions"] * present).sum(0)
    if "waiting_outside" in series:
        measures["vehicles"] = there
        measures["flow"] = (series["left"] * present).sum(0) / minutes * 60.0
        measures["travel_speed"] = mean(series["mean_speed"], vehicles * present)
        measures["waiting_outside"] = mean(series["waiting_outside"], present)
    trajectory = Trajectory.of(states, None, env.simulator.dt) if record else None
    return Episodes(measures, series["reward"], trajectory)


def policy_controller(policy: Policy, generator: torch.Generator | None = None) -> Callable[[EnvState], Tensor]:
    """A learnt policy, deterministic; with a ``generator`` it acts with its exploration noise."""
    if generator is None:
        return lambda state: policy(state.observation)
    return lambda state: policy.sample(state.observation, generator)


@torch.no_grad()
def play(env: DifferentiableEnv, controller: Callable[[Any], Tensor], episodes: int, seed: int = HELD_OUT) -> Episodes:
    """One episode in each of ``episodes`` worlds of any environment; a world that ends early counts up to there.

    Parameters:
        env: the environment. controller: what acts in its states. episodes: worlds side by side.
        seed: of initial states and of the environment's noise, drawn together for all worlds.

    Returns:
        Episodes whose measures are ``return`` (sum of rewards), ``length`` (decisions), and the means over the episode
        of the ``reward`` and of every term that the environment reports.
    """
    generator = torch.Generator().manual_seed(seed)
    state = env.reset(episodes, generator)
    alive = torch.ones_like(state.elapsed, dtype=torch.bool)
    rows: list[dict[str, Tensor]] = []
    lived = []
    for _ in range(env.horizon):
        state, transition = env.step(state, controller(state), env.sample_noise(episodes, generator))
        rows.append({**transition.terms, "reward": transition.reward})
        lived.append(alive)
        alive = alive & ~transition.done
    present = torch.stack(lived).to(rows[0]["reward"].dtype)
    length = present.sum(0)
    series = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    sums = {name: (x * present).sum(0) for name, x in series.items()}
    means = {name: total / length for name, total in sums.items()}
    return Episodes({**means, "return": sums["reward"], "length": length}, series["reward"], None)


def policy_measures(
    scenario: Scenario,
    policy: Policy,
    episodes: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """What a policy achieves in held-out episodes of a scenario of any kind.

    Parameters:
        scenario: what it is judged on. policy: deterministic, unless there is a generator.
        episodes: number of them; of traffic, that of the seeds 0 to ``episodes - 1``.
        generator: the policy acts with its exploration noise, drawn from it. device: where to compute.

    Returns:
        name -> [episodes]: ``return``, ``length`` in decisions, ``reward`` (mean of a decision) and the measures of
        :func:`run_episodes` or :func:`play`.
    """
    controller = policy_controller(policy, generator)
    if isinstance(scenario, TrafficScenario):
        env = held_out_env(scenario, device=device)
        return run_episodes(env, controller, held_out_traffic(env, range(episodes))).measures
    return play(make_env(scenario.judged(), device, dtype_of(policy)), controller, episodes).measures


def validation(
    scenario: Scenario, worlds: int, device: torch.device | str = "cpu"
) -> Callable[[Policy], dict[str, float]]:
    """Judge of policies during training, deterministic, in episodes of its own; ``score`` is the return over the
    horizon.
    """
    if isinstance(scenario, TrafficScenario):
        return _traffic_validation(scenario, worlds, device)

    def judge(policy: Policy) -> dict[str, float]:
        env = make_env(scenario.judged(), device, dtype_of(policy))
        return _scored(play(env, policy_controller(policy), worlds, VALIDATION).measures, env.horizon)

    return judge


def _traffic_validation(
    scenario: TrafficScenario, worlds: int, device: torch.device | str
) -> Callable[[Policy], dict[str, float]]:
    env = held_out_env(scenario, VALIDATION, device)
    traffic: list[Traffic] = []  # drawn when first needed

    def judge(policy: Policy) -> dict[str, float]:
        if not traffic:
            traffic.append(held_out_traffic(env, range(worlds), VALIDATION))
        return _scored(run_episodes(env, policy_controller(policy), traffic[0]).measures, env.horizon)

    return judge


def _scored(measures: dict[str, Tensor], horizon: int) -> dict[str, float]:
    means = {name: float(value.mean()) for name, value in tree.detach(measures).items()}
    return {"score": means["return"] / horizon, **means}


def dtype_of(policy: Policy) -> torch.dtype:
    """Floating point type of a policy; an environment that it plays computes in the same."""
    return next(policy.parameters()).dtype

"""Whole episodes on held-out traffic: what a controller achieves, and the hand-written ones to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.agents.actor_critic import Policy
from trafficgrad.control import Actuated, FanOutAndAlign, FixedTime, KeepLane, KeepLaneAndAlign, Ramp
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.network import RoadNetwork
from trafficgrad.scenario_config import Scenario
from trafficgrad.simulator import Controller
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
    trajectory: Trajectory | None  # every simulator step, where it was recorded


@dataclass(frozen=True)
class Traffic:
    """Episodes to come: warmed-up initial states and the noise of every world's own seed."""

    initial: TrafficState
    generators: tuple[torch.Generator, ...]


def held_out_env(scenario: Scenario, offset: int = HELD_OUT, device: torch.device | str = "cpu") -> TrafficEnv:
    """The scenario's environment with a table of human drivers that no training has seen.

    It is the hard one: where the training relaxes lane choices (``sigmoid``), its returns mean nothing.
    """
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
def run_episodes(env: TrafficEnv, controller: EnvController | None, traffic: Traffic, record: bool = False) -> Episodes:
    """Drive one episode in every world of ``traffic``; the same traffic gives the same noise to every controller.

    A world that ends early (collision) counts up to there. ``controller`` None is human-only traffic.
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
    for _ in range(decisions):
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


def baselines(env: TrafficEnv) -> dict[str, EnvController | None]:
    """Hand-written controllers that make sense in the scenario; None stands for human drivers. The first is the usual.

    Where signals are controlled and no vehicle, they are their fixed programme and an actuated one. The target speed of
    controlled vehicles is that of the reward or of the observation. The scenario's ``scripted`` section says how
    vehicles align.
    """
    scenario, network = env.scenario, env.simulator.network
    if not len(env.slots) and len(env.switches.signals):
        return {
            "fixed time": _scripted(env, FixedTime(env.simulator)),
            "actuated": _scripted(env, Actuated(env.simulator)),
        }
    table: dict[str, EnvController | None] = {"human only": None}
    speed = env.target if env.target is not None else scenario.observation.target_speed
    if speed is None or not len(env.slots) or len(env.switches.signals):
        return table
    bounds, scripted = scenario.control.acceleration, scenario.scripted
    ramp = None if scripted.ramp is None else Ramp(scripted.ramp.start, scripted.ramp.duration)
    table["keep lane"] = _scripted(env, KeepLane(env.simulator, speed, bounds))
    if _is_one_ring(network) and scripted.keep_lane_and_align:
        align = KeepLaneAndAlign(env.simulator, speed, correction=scripted.correction, bounds=bounds, ramp=ramp)
        table["keep lane and align"] = _scripted(env, align)
    if scenario.vehicles.controlled.control == "lane" and _is_one_ring(network) and network.max_lanes > 1:
        fan_out = FanOutAndAlign(env.simulator, speed, correction=scripted.correction, bounds=bounds, ramp=ramp)
        table["fan out and align"] = _scripted(env, fan_out)
    return table


def usual(env: TrafficEnv) -> EnvController | None:
    """Who drives, or switches the signals, where no policy is asked for: the first of the :func:`baselines`."""
    return next(iter(baselines(env).values()))


def _is_one_ring(network: RoadNetwork) -> bool:
    """Whether places along the road say who is beside whom."""
    return network.is_closed and network.is_unbranched


def _scripted(env: TrafficEnv, controller: Controller) -> EnvController:
    """A controller of traffic states as one of the environment."""
    return lambda state: env.encode(controller(state.traffic), state.traffic)


def policy_controller(policy: Policy, generator: torch.Generator | None = None) -> EnvController:
    """A learnt policy, deterministic; with a ``generator`` it acts with its exploration noise."""
    if generator is None:
        return lambda state: policy(state.observation)
    return lambda state: policy.sample(state.observation, generator)


def validation(
    scenario: Scenario, worlds: int, device: torch.device | str = "cpu"
) -> Callable[[Policy], dict[str, float]]:
    """Judge of policies during training, on traffic of its own; ``score`` is the return over the horizon."""
    env = held_out_env(scenario, VALIDATION, device)
    traffic: list[Traffic] = []  # drawn when first needed

    def judge(policy: Policy) -> dict[str, float]:
        if not traffic:
            traffic.append(held_out_traffic(env, range(worlds), VALIDATION))
        measures = run_episodes(env, policy_controller(policy), traffic[0]).measures
        means = {name: float(value.mean()) for name, value in tree.detach(measures).items()}
        return {"score": means["return"] / env.horizon, **means}

    return judge

"""Safety and identity: 10,000 steps of every scenario that ships, with human drivers and with random actions.

Drivers who are bound to their lane never overlap, never reverse, never pass through each other and move no further than
their speed allows; nobody is lost or swapped; a lane change leads to the lane beside, keeps the cool-down and asks of
the new follower no harder braking than its limit, judged on the snapshot on which it was decided. A steered vehicle may
cut in as it likes, and the scenario ends the episode by tests of its own: what its followers overlap is shown only.
On networks with junctions five worlds drive; no two bodies touch in the plane, and whoever came is on the road, has
left it or still waits to enter.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.lane_change import MOBIL
from trafficgrad.render import validation_plots
from trafficgrad.scenario_config import TrafficScenario, list_scenarios, load_traffic
from trafficgrad.scenario_roads import is_plain
from trafficgrad.simulator import Simulator
from trafficgrad.validation.network_watch import NetworkWatch
from trafficgrad.validation.report import Check
from trafficgrad.validation.runs import Results, Run
from trafficgrad.validation.watch import BRAKING_ROUNDING, Tally, Watch

STEPS, WORLDS, NETWORK_WORLDS = 10_000, 3, 5
QUICK_STEPS, QUICK_NETWORK_STEPS, QUICK_WORLDS = 100, 20, 2
HOLD = 1.0  # s: white noise in every short step would cancel itself and steer nobody out of its lane


def safety(run: Run) -> Results:
    """Every shipped scenario, with human drivers only and, where something is controlled, with random actions."""
    seen: dict[str, tuple[Tally, float]] = {}  # what is drawn: on networks nobody measures gaps along lanes
    for name, _ in list_scenarios("traffic"):
        scenario = load_traffic(name)
        plain = is_plain(scenario.network)
        worlds = QUICK_WORLDS if run.quick else WORLDS if plain else NETWORK_WORLDS
        scenario = load_traffic(name, [f"pool_size={worlds}", "driver_rows=512"])
        steered = scenario.vehicles.controlled.control == "steered" and scenario.vehicles.controlled.count > 0
        steps = (QUICK_STEPS if plain else QUICK_NETWORK_STEPS) if run.quick else STEPS
        for kind in kinds_of_runs(scenario):
            watched = watch_humans if kind == "human only" else watch_random_actions
            tally = watched(run, scenario, steps, worlds)
            random = kind == "random actions"
            limit = _braking_limit(scenario, requests=random)
            if plain:
                seen[f"{name}, {kind}"] = tally, limit
            yield from _judge(f"{name}, {kind}", tally, limit, steered and random)
    tallies, limits = zip(*seen.values(), strict=True) if seen else ((), ())
    yield partial(
        validation_plots.draw_safety, list(seen), [t.smallest_gap for t in tallies],
        [t.hardest_braking for t in tallies], limits,
    )  # fmt: skip


def kinds_of_runs(scenario: TrafficScenario) -> tuple[str, ...]:
    """How a scenario is run: with human drivers only and, where something is controlled, with random actions."""
    acts = scenario.vehicles.controlled.count > 0 or scenario.control.signals == "switch"
    return ("human only", "random actions") if acts else ("human only",)


@torch.no_grad()
def watch_humans(run: Run, scenario: TrafficScenario, steps: int, worlds: int) -> Tally:
    """Human drivers from their starting places on; on an open road for one episode, after which they drive apart."""
    simulator = scenario.build(device=run.device)
    goes_on = simulator.network.is_closed or simulator.demand is not None
    steps = steps if goes_on else min(steps, scenario.simulation.horizon_steps)
    state = scenario.place(worlds, torch.Generator().manual_seed(1), device=run.device)
    generator = torch.Generator().manual_seed(2)
    watch = _watch(run, scenario, simulator, steered=False)
    for step in range(steps):
        if step % 200 == 0:
            run.say(f"{scenario.name}, human only: {step:,} of {steps:,} steps")
        after = simulator.step(state, None, simulator.sample_noise(state, generator))
        watch.add(state, after)
        state = after
    return watch.finish()


@torch.no_grad()
def watch_random_actions(run: Run, scenario: TrafficScenario, steps: int, worlds: int) -> Tally:
    """Every component of the action uniform in [-1, 1], drawn anew every second, episodes and resets included."""
    env = TrafficEnv(scenario, device=run.device)
    generator = torch.Generator().manual_seed(3)
    pool = scenario.initial_state(worlds, generator, device=run.device, warm_up=not run.quick, simulator=env.simulator)
    state = env.start(pool)
    watch = _watch(run, scenario, env.simulator)
    shape = (worlds, *((env.agents,) if env.agents is not None else ()), len(env.action_labels))
    fresh = torch.ones(worlds, dtype=torch.bool, device=run.device)
    each = scenario.simulation.decision_steps
    hold = max(1, round(HOLD / (each * env.simulator.dt)))
    for decision in range(-(-steps // each)):
        if decision * each % 200 < each:
            run.say(f"{scenario.name}, random actions: {decision * each:,} of {steps:,} steps")
        if decision % hold == 0:
            action = (2.0 * torch.rand(shape, generator=generator) - 1.0).to(run.device)
        before = state.traffic
        state, transition, driven = env.advance(state, action, env.sample_noise(worlds, generator))
        for t in range(driven.steps):
            following = driven.state(t + 1)
            watch.add(before, following, fresh if t == 0 else None)
            before = following
        fresh = transition.done
    return watch.finish()


def _watch(run: Run, scenario: TrafficScenario, simulator: Simulator, steered: bool = True) -> Watch | NetworkWatch:
    if is_plain(scenario.network):
        return Watch(simulator, scenario.total, run.device, steered)
    return NetworkWatch(simulator)


def _judge(name: str, tally: Tally, limit: float, steered: bool) -> Iterator[Check]:
    source = f"{tally.steps:,} steps, {tally.changes:,} lane changes"
    if np.isfinite(tally.smallest_gap):
        yield Check(f"{name}: smallest gap", None, tally.smallest_gap, 0.0, np.inf, "m", 2, not steered, source)
    if np.isfinite(limit) and tally.hardest_braking > -np.inf:
        yield Check(
            f"{name}: braking of a new follower", None, tally.hardest_braking, -np.inf, limit + BRAKING_ROUNDING,
            "m/s2", 2, source="snapshot of the decision",
        )  # fmt: skip
    found = {what: n for what, n in tally.violations.items() if not (steered and what in ("overlap", "order"))}
    named = f" ({', '.join(f'{n} {what}' for what, n in found.items())})" if found else ""
    yield Check(f"{name}: violations{named}", 0.0, float(sum(found.values())), 0.0, 0.0, "", 0, source=source)


def _braking_limit(scenario: TrafficScenario, requests: bool) -> float:
    """The largest limit of anybody's lane changes, m/s2; -inf where nobody bound to a lane changes it.

    ``requests``: controlled vehicles may ask for lanes.
    """
    limits = [-np.inf]
    model = scenario.build().lane_change
    if isinstance(model, MOBIL):
        limits.append(float(torch.as_tensor(model.safe_deceleration).max()))
    if requests and scenario.vehicles.controlled.control == "lane" and scenario.vehicles.controlled.count:
        limits.append(scenario.control.lane_choice.safe_deceleration)
    return max(limits)

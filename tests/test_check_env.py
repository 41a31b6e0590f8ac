"""``check_env``: what agents rely on holds for the environments here, and whatever does not hold is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_env import ToyEnv, ToyState

from trafficgrad.envs import Ackley, DeJong, DifferentiableEnv, TrafficEnv, Transition, check_env
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import load_traffic

SMALL = ("simulation.warmup_steps=20", "simulation.horizon_steps=40", "pool_size=8", "driver_rows=64")
OPEN = ("simulation.warmup_steps=100", "simulation.horizon_steps=30", "pool_size=2")  # vehicles come and go


def traffic(name: str, *overrides: str, dtype: torch.dtype = torch.float64) -> TrafficEnv:
    return TrafficEnv(load_traffic(name, (*SMALL, *overrides)), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "build",
    [
        lambda dtype: DeJong(3, dtype=dtype),
        lambda dtype: Ackley(2, torch.tensor([3.0, -1.0]), dtype=dtype),
        lambda dtype: ToyEnv(None, dtype=dtype),
        lambda dtype: ToyEnv(2, reach=1.5, dtype=dtype),
        lambda dtype: traffic("ring_1lane", dtype=dtype),
        lambda dtype: traffic("ring_4lane", "lane_gradient.mode=blocked", dtype=dtype),
    ],
    ids=["de_jong", "ackley", "toy", "toy_vehicles", "ring_1lane", "ring_4lane"],
)
def test_the_environments_here_pass(build: Callable[[torch.dtype], DifferentiableEnv], dtype: torch.dtype) -> None:
    check_env(build(dtype))


@pytest.mark.parametrize("name", ["intersection", "merge"])
def test_open_roads_pass(name: str) -> None:
    """Where signals act, and where vehicles that act come and go."""
    check_env(traffic(name, *OPEN))


def test_a_biased_gradient_is_told_apart_from_an_exact_one() -> None:
    with pytest.raises(TrafficGradError, match="'lane_request'"):
        check_env(traffic("ring_4lane"))


# ---------------------------------------------------------------------- environments that are wrong


class Changed(ToyEnv):
    """The toy with functions that change what its methods take or return."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(vehicles=2, reach=1.5, dtype=torch.float64)
        self.changes = changes
        self.calls = 0

    def reset(self, batch: int, generator: torch.Generator | None = None) -> Any:
        state = super().reset(batch, generator)
        return self.changes["reset"](self, state) if "reset" in self.changes else state

    def stagger(self, env_state: ToyState, generator: torch.Generator | None = None) -> Any:
        state = super().stagger(env_state, generator)
        return self.changes["stagger"](state) if "stagger" in self.changes else state

    def sample_noise(self, batch: int, generator: torch.Generator | None = None) -> Any:
        noise = super().sample_noise(batch, generator)
        return self.changes["noise"](self, noise) if "noise" in self.changes else noise

    def present(self, env_state: Any) -> Tensor | None:
        return self.changes["present"](env_state) if "present" in self.changes else None

    def step(self, env_state: Any, action: Tensor, noise: Tensor | None = None) -> Any:
        self.calls += 1
        if "take" in self.changes:
            env_state, action, noise = self.changes["take"](self, env_state, action, noise)
        after, transition = super().step(env_state, action, noise)
        return self.changes["step"](self, env_state, action, after, transition) if "step" in self.changes else (
            after, transition)  # fmt: skip


def told(**changes: Callable[[Transition, Tensor, ToyState], Any]) -> Changed:
    """The toy with changed fields of its transitions: functions of the right one, the action and the state before."""

    def step(env: Any, before: ToyState, action: Tensor, after: Any, transition: Transition) -> Any:
        return after, replace(transition, **{name: f(transition, action, before) for name, f in changes.items()})

    return Changed(step=step)


def left(**changes: Callable[[ToyState, ToyState], Any]) -> Changed:
    """The toy with changed fields of the states after a step: functions of the right one and the one before."""

    def step(env: Any, before: ToyState, action: Tensor, after: Any, transition: Transition) -> Any:
        after = replace(after, **{name: f(after, before) for name, f in changes.items()})
        return after, replace(transition, observation=after.observation)

    return Changed(step=step)


def attribute(**values: Any) -> Changed:
    env = Changed()
    for name, value in values.items():
        setattr(env, name, value)
    return env


def lives(steps: int, promised: int) -> Changed:
    """The toy whose episodes have another length than it says."""

    def take(env: Any, state: ToyState, action: Tensor, noise: Tensor | None) -> Any:
        env.horizon = steps
        return state, action, noise

    def step(env: Any, before: ToyState, action: Tensor, after: Any, transition: Transition) -> Any:
        env.horizon = promised
        return after, transition

    env = Changed(take=take, step=step)
    env.horizon, env.reach = promised, 100.0
    return env


@dataclass(frozen=True)
class Unregistered:
    observation: Tensor
    elapsed: Tensor


def in_place(x: Tensor) -> Tensor:
    return x.add_(1.0).sub_(1.0)  # the values come back, the change does not go unseen


def goes_on(env: Changed, before: ToyState, action: Tensor, after: ToyState, transition: Transition) -> Any:
    """Only the clock of a finished world begins anew."""
    env.horizon = 10**6  # the base never truncates
    kept, whole = ToyEnv.step(env, before, action, None)
    env.horizon = 7
    elapsed = before.elapsed + 1
    done = elapsed >= 7
    kept = replace(kept, elapsed=torch.where(done, 0, elapsed))
    calm = torch.zeros_like(done)
    return kept, replace(whole, final_observation=kept.observation, terminated=calm, truncated=done)


def leaks(env: Changed, before: ToyState, action: Tensor, after: ToyState, transition: Transition) -> Any:
    """A fresh world that remembers the last action in its gradient alone."""
    touch = 0.5 * (action - action.detach()).flatten(1).sum(1)[:, None, None] * transition.done[:, None, None]
    after = replace(after, speed=after.speed + touch)
    return after, transition


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no environment": (lambda: object(), "derived from trafficgrad.envs.DifferentiableEnv, got a object"),
    "labels are a list": (lambda: attribute(action_labels=["ax", "ay"]), "action_labels is .* expected a tuple"),
    "a label twice": (lambda: attribute(observation_labels=("x", "y", "x", "vy")), "has a name twice"),
    "no actions": (lambda: attribute(action_labels=()), "takes actions"),
    "no observation": (lambda: attribute(observation_labels=()), "observation_labels is empty"),
    "agents": (lambda: attribute(agents=0), "agents is 0, expected a number of agents from 1 on, or None"),
    "agents missing": (
        lambda: attribute(agents=3),
        r"the observation after reset has shape \[4, 2, 4\], expected \[4, 3, 4\]",
    ),
    "horizon": (lambda: attribute(horizon=0), "horizon is 0"),
    "a column too few": (lambda: attribute(observation_labels=("x", "y", "vx")), r"\[4, 2, 4\], expected \[4, 2, 3\]"),
    "an action too many": (
        lambda: attribute(action_labels=("ax", "ay", "az")),
        r"failed on an action of shape \[4, 2, 3\]",
    ),
    "a measure that is not told": (lambda: attribute(task_measures=("pace",)), "task_measures names 'pace'"),
    "reset draws globally": (
        lambda: Changed(reset=lambda env, s: replace(s, position=torch.randn_like(s.position))),
        "reset draws from torch's global random numbers",
    ),
    "reset counts": (
        lambda: Changed(
            reset=lambda env, s: setattr(env, "calls", env.calls + 1) or replace(s, cursor=s.cursor + env.calls)
        ),
        "two resets with the same generator differ",
    ),
    "state is no record": (
        lambda: Changed(reset=lambda env, s: Unregistered(s.observation, s.elapsed)),
        "no field of a registered record",
    ),
    "state needs gradients": (
        lambda: Changed(reset=lambda env, s: replace(s, pool=s.pool.requires_grad_())),
        "tensors that require gradients",
    ),
    "observation of integers": (
        lambda: Changed(reset=lambda env, s: replace(s, observation=s.observation.long())),
        "is of type torch.int64, expected a floating point type",
    ),
    "observation is NaN": (
        lambda: Changed(reset=lambda env, s: replace(s, observation=s.observation * float("nan"))),
        "NaN or infinite",
    ),
    "clock of floats": (
        lambda: Changed(reset=lambda env, s: replace(s, elapsed=s.elapsed.double())),
        "elapsed after reset is of type torch.float64, expected torch.int64",
    ),
    "clock begins at 1": (
        lambda: Changed(reset=lambda env, s: replace(s, elapsed=s.elapsed + 1)),
        "elapsed after reset is .* expected 0 in every world",
    ),
    "stagger beyond the end": (
        lambda: Changed(stagger=lambda s: replace(s, elapsed=s.elapsed + 7)),
        "elapsed after stagger",
    ),
    "stagger draws globally": (
        lambda: Changed(stagger=lambda s: replace(s, elapsed=torch.randint_like(s.elapsed, 7))),
        "stagger draws from torch's global",
    ),
    "presence of others": (lambda: Changed(present=lambda s: s.elapsed == 0), "what present returned has shape"),
    "the absent act": (
        lambda: Changed(present=lambda s: torch.tensor([[True, False]]).expand(len(s.elapsed), 2)),
        "not present changes something",
    ),
    "noise draws globally": (
        lambda: Changed(noise=lambda env, x: torch.randn_like(x)),
        "sample_noise draws from torch's global",
    ),
    "noise is no tensor": (lambda: Changed(noise=lambda env, x: x.tolist()), "sample_noise returned list"),
    "noise of its own": (
        lambda: Changed(noise=lambda env, x: setattr(env, "calls", env.calls + 1) or x + env.calls),
        "two things from the same generator",
    ),
    "noise is infinite": (lambda: Changed(noise=lambda env, x: x / 0.0), "sample_noise returned a number that is NaN"),
    "noise of another shape": (
        lambda: Changed(noise=lambda env, x: x[..., :1].expand(*x.shape[:-1], 3)),
        r"failed on an action of shape \[4, 2, 2\] .* and noise \[4, 2, 3\]",
    ),
    "noise is the same for all": (
        lambda: Changed(noise=lambda env, x: x[:1] * 0.0),
        "does not depend on the number of worlds",
    ),
    "step changes the state": (
        lambda: Changed(take=lambda env, s, a, n: (replace(s, speed=in_place(s.speed)), a, n)),
        "changed its inputs in place",
    ),
    "step changes the action": (
        lambda: Changed(take=lambda env, s, a, n: (s, in_place(a), n)),
        "changed its inputs in place",
    ),
    "step draws noise itself": (
        lambda: Changed(take=lambda env, s, a, n: (s, a, torch.randn_like(a) if n is None else n)),
        "step draws from torch's global",
    ),
    "step counts": (
        lambda: Changed(take=lambda env, s, a, n: (s, a + 0.01 * env.calls, n)),
        "two steps from the same state .* differ",
    ),
    "no transition": (
        lambda: Changed(step=lambda env, s, a, after, t: (after, t.reward)),
        "step returned a Tensor, expected a state and a Transition",
    ),
    "state of another shape": (lambda: left(pool=lambda s, b: s.pool[:8]), "other shapes or types"),
    "reward of a column": (
        lambda: told(reward=lambda t, a, s: t.reward[:, None]),
        r"reward has shape \[4, 1\], expected \[4\]",
    ),
    "reward of another type": (
        lambda: told(reward=lambda t, a, s: t.reward.float()),
        "reward is of type torch.float32",
    ),
    "reward is NaN": (lambda: told(reward=lambda t, a, s: t.reward * float("nan")), "NaN or infinite"),
    "a flag of floats": (
        lambda: told(terminated=lambda t, a, s: t.terminated.double()),
        "terminated is of type torch.float64",
    ),
    "a term without worlds": (
        lambda: told(terms=lambda t, a, s: {"distance": t.reward.mean()}),
        "the term 'distance' has shape",
    ),
    "ends twice": (
        lambda: told(terminated=lambda t, a, s: t.terminated | t.truncated),
        "terminated and truncated at once",
    ),
    "ends early": (lambda: lives(7, promised=9), "is truncated in step 7 of its episode"),
    "ends late": (lambda: lives(7, promised=5), "is not truncated in step 5 of its episode"),
    "clock goes on": (
        lambda: left(elapsed=lambda s, b: b.elapsed + 1),
        "elapsed after a step is .*: one more, and 0 in worlds that ended",
    ),
    "clock stands": (lambda: left(elapsed=lambda s, b: b.elapsed), "elapsed after a step"),
    "no new beginning": (lambda: Changed(step=goes_on), "observation is final_observation"),
    "final is fresh": (
        lambda: told(final_observation=lambda t, a, s: t.observation),
        "observation is final_observation",
    ),
    "final is of before": (
        lambda: told(final_observation=lambda t, a, s: s.observation),
        "differ in a world that goes on",
    ),
    "two observations": (
        lambda: told(observation=lambda t, a, s: t.observation + 1.0),
        "not that of the new state",
    ),
    "worlds share a mean": (
        lambda: told(reward=lambda t, a, s: t.reward - t.reward.detach().mean()),
        "reward of a world depends on which other worlds",
    ),
    "worlds are counted": (
        lambda: told(reward=lambda t, a, s: t.reward / len(t.reward)),
        "reward of a world depends on which other worlds",
    ),
    "reward without graph": (
        lambda: told(reward=lambda t, a, s: t.reward.detach()),
        "the gradient of reward by the action 'ax' is 0, but central differences give",
    ),
    "gradient a thousandth too long": (
        lambda: told(reward=lambda t, a, s: t.reward + 0.001 * (t.reward - t.reward.detach())),
        "the gradient of reward by the action 'ax'",
    ),
    "final observation without graph": (
        lambda: told(final_observation=lambda t, a, s: t.final_observation.detach()),
        "the gradient of final_observation",
    ),
    "one action without gradient": (
        lambda: Changed(take=lambda env, s, a, n: (s, torch.cat([a[..., :1], a[..., 1:].detach()], -1), n)),
        "by the action 'ay' is 0",
    ),
    "graph cut between steps": (
        lambda: left(position=lambda s, b: s.position.detach(), speed=lambda s, b: s.speed.detach()),
        "the gradient of next step's reward",
    ),
    "gradient is NaN": (
        lambda: told(reward=lambda t, a, s: t.reward + 0.0 * (a - a.detach()).abs().sqrt().sum((1, 2))),
        "the gradient of reward by the action 'ax' is nan",
    ),
    "jagged": (
        lambda: told(reward=lambda t, a, s: t.reward + torch.sin(1e9 * a).sum((1, 2)).detach()),
        "differences of reward settle nowhere",
    ),
    "gradient through a reset": (lambda: Changed(step=leaks), "a gradient crosses a reset"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    build, sentence = WRONG[name]
    with pytest.raises(TrafficGradError, match=sentence) as error:
        check_env(build())
    assert "\n" not in str(error.value)


def test_gradients_of_what_is_not_differentiable_are_not_asked_for() -> None:
    env = told(reward=lambda t, a, s: t.reward.detach())
    env.differentiable = False
    check_env(env)


def test_kinks_do_not_count() -> None:
    """A clip at half the scale: half of the samples are beyond it, with slope 0 on both sides of the comparison."""
    check_env(Changed(take=lambda env, s, a, n: (s, a.clamp(-0.45, 0.45), n)))


def test_at_least_two_worlds() -> None:
    with pytest.raises(TrafficGradError, match="at least 2 worlds"):
        check_env(ToyEnv(), worlds=1)

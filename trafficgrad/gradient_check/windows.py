"""Windows: typical moments of a scenario, with everything random in them written down."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.agents.actor_critic import Policy
from trafficgrad.agents.controllers import baselines
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.errors import TrafficGradError
from trafficgrad.state import TrafficState


@dataclass(frozen=True)
class Driver:
    """Who drives the controlled vehicles: action = squash(mean(state) + std * eps + offset)."""

    name: str
    mean: Callable[[TrafficEnvState], Tensor]  # [B, C, A] or [B, C * A] as the environment takes it; differentiable
    std: Callable[[TrafficEnvState], Tensor]  # [], or anything that broadcasts against the mean
    squash: Callable[[Tensor], Tensor]

    def act(self, state: TrafficEnvState, eps: Tensor, offset: Tensor | None = None) -> Tensor:
        """The environment's action; ``offset`` [B, C, A]."""
        action = self.mean(state) + self.std(state) * eps
        return self.squash(action if offset is None else action + offset.reshape(action.shape))


@dataclass(frozen=True)
class Windows:
    """``W`` windows of ``T`` decisions and who drives in them."""

    driver: Driver
    start: TrafficState  # [W, N]
    eps: Tensor  # [T, W, C, A] or [T, W, C * A], standard normal, of the exploration
    noise: Tensor  # [T, decision_steps, W, N], standard normal, of the environment

    @property
    def count(self) -> int:
        """W."""
        return self.start.worlds


def policy_driver(env: TrafficEnv, policy: Policy, name: str) -> Driver:
    """A trained policy with its own exploration noise, in the environment's precision.

    Raises:
        TrafficGradError: its observations or actions have other sizes than the environment's.
    """
    spec = policy.spec
    own = (spec.observation_size, spec.action_size, spec.agents if policy.actor.copies > 1 else env.agents)
    if own != (len(env.observation_labels), len(env.action_labels), env.agents):
        raise TrafficGradError(
            f"the policy {name} maps {spec.observation_size} observations to {spec.action_size} actions, "
            f"{env.scenario.name!r} has {len(env.observation_labels)} and {len(env.action_labels)}: "
            "give a policy that was trained on this scenario"
        )
    frozen = copy.deepcopy(policy).to(env.device, env.dtype).requires_grad_(False)
    actor, normalizer = frozen.actor, frozen.normalizer

    def std(state: TrafficEnvState) -> Tensor:
        return actor.distribution(normalizer(state.observation))[1].exp() * actor.free

    return Driver(f"policy {name}", lambda state: actor(normalizer(state.observation)), std, actor.squash)


def untrained_driver(env: TrafficEnv, exploration: float) -> Driver:
    """Whoever drives where there is no policy, plus noise of standard deviation ``exploration``.

    The hand-written lane keeper at the scenario's target speed, or, where there is no target, the action 0. Where
    nothing is controlled the action has no numbers.
    """
    noise = torch.tensor(exploration, dtype=env.dtype, device=env.device)

    def std(state: TrafficEnvState) -> Tensor:
        return noise

    keep = baselines(env).get("keep lane")
    if keep is not None:
        scripted = keep

        def mean(state: TrafficEnvState) -> Tensor:
            action = scripted(state)
            assert action is not None
            return action

        return Driver("the scripted lane keeper with noise (no policy)", mean, std, lambda x: x)
    if not env.action_labels:
        return Driver(
            "car following alone (nothing is controlled)",
            lambda state: state.traffic.speed.new_zeros(state.traffic.worlds, 0, 0),
            std,
            lambda x: x,
        )
    size = len(env.action_labels)
    shape = (size,) if env.agents is None else (env.agents, size)
    return Driver(
        "action 0 with noise (no policy)",
        lambda state: state.traffic.speed.new_zeros(state.traffic.worlds, *shape),
        std,
        lambda x: x,
    )


@torch.no_grad()
def collect_windows(
    env: TrafficEnv,
    driver: Driver,
    count: int,
    steps: int,
    generator: torch.Generator,
    progress: Callable[[str], None] = lambda text: None,
) -> Windows:
    """Drive ``count`` worlds for random times, failures and resets included, and start a window in each.

    A window starts uniformly within an episode, so that its ``steps`` decisions fit before the time limit: its state is
    typical of what the driver meets.

    Parameters:
        generator: a CPU generator of everything random.
    """
    progress("warming up traffic ...")
    initial = env.scenario.initial_state(count, generator, env.dtype, env.device, simulator=env.simulator)
    wait = torch.randint(0, env.horizon - steps + 1, (count,), generator=generator)
    latest, waits = int(wait.max()), wait.to(env.device)
    state, start = env.start(initial), initial
    shape = driver.mean(state).shape

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=env.dtype).to(env.device)

    for t in range(latest):
        progress(f"driving to the windows' starts: decision {t} of {latest} ...")
        state, _ = env.step(state, driver.act(state, normal(*shape)), env.sample_noise(count, generator))
        start = tree.where(waits == t + 1, state.traffic, start)
    noise = torch.stack([env.sample_noise(count, generator) for _ in range(steps)])
    return Windows(driver, start, normal(steps, *shape), noise)

"""The one rollout: a window of decisions in all worlds, with or without the gradient through the environment.

The gradient of the advantages with respect to the actions takes a single backward pass. The loss is the sum of all
temporal-difference errors of the window; everything that is handed from one environment step to the next passes an
identity whose cotangent is multiplied by ``gamma * lambda``. An action then receives
``sum_k (gamma lambda)^k d(delta_{t+k})/d(a_t)``, which is dA_t/da_t of the generalised advantage itself. Resets need no
bookkeeping: the environment replaces finished worlds by ``where``, which cuts the graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.advantages import generalized_advantage
from trafficgrad.agents.losses import gaussian_log_prob
from trafficgrad.envs.base import DifferentiableEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import scale_gradients
from trafficgrad.tree import detach, register_record, tree_map, where


@dataclass(frozen=True)
class RolloutSettings:
    """How long, and what an advantage is."""

    window: int  # T, decisions per rollout
    gamma: float  # discount per decision
    gae_lambda: float  # decay of the generalised advantage
    reward_offset: float = 0.0  # subtracted from every reward before learning
    noise_memory: float = 0.0  # decisions over which exploration noise fades; 0: every decision draws its own
    gradient_lambda: float | None = None  # decay of the advantage whose gradient is taken; None: gae_lambda


@register_record
@dataclass(frozen=True)
class Carry:
    """What goes from one rollout to the next."""

    env_state: Any
    episode_return: Tensor  # [B], of the running episode so far
    episode_length: Tensor  # [B] int64, decisions of the running episode seen so far
    eps: Tensor | None = None  # [B, C, A], exploration noise of the last decision, 0 after a reset; None: not kept


@dataclass(frozen=True)
class Rollout:
    """A window of experience, time-major and detached. ``C`` is missing where the environment has one agent."""

    raw_observation: Tensor  # [T, B, C, O]
    observation: Tensor  # [T, B, C, O], normalised with the statistics frozen during the window
    action: Tensor  # [T, B, C, A], before any squashing
    eps: Tensor  # [T, B, C, A], action = mean + std * eps
    mean: Tensor  # [T, B, C, A]
    log_std: Tensor  # [A], or [T, B, C, A] where the network tells it
    log_prob: Tensor  # [T, B, C], per vehicle; the joint likelihood is the sum over C
    value: Tensor  # [T, B]
    next_value: Tensor  # [T, B], of the observation before any reset; 0 where the task ended
    reward: Tensor  # [T, B], the environment's, without the offset
    terminated: Tensor  # [T, B] bool
    truncated: Tensor  # [T, B] bool
    advantage: Tensor  # [T, B]
    return_: Tensor  # [T, B], advantage + value: the critic's target
    action_gradient: Tensor | None  # [T, B, C, A], dA_t/da_t; None without gradient
    terms: dict[str, Tensor]  # name -> [], means over the window of what the environment reports
    episodes: Tensor  # [], complete episodes that ended in the window
    episode_return: Tensor  # [], sum of their returns
    episode_length: Tensor  # [], sum of their lengths, decisions
    present: Tensor | None = (
        None  # [T, B, C] bool, there was an agent to act; its log_prob is 0 otherwise. None: always
    )

    def of_present(self, x: Tensor) -> Tensor:
        """Samples [T, B, C, ...] as [S, ...], those that are present; without absent ones ``x`` as it is."""
        return x if self.present is None else x[self.present]


class NonFiniteError(TrafficGradError):
    """A NaN or an infinite number in a rollout.

    Attributes:
        quantity: what is not finite.
        step: decision within the window.
        world: row of the batch.
        vehicle: controlled vehicle, or vehicle slot of a traffic state; None where it cannot be told.
    """

    def __init__(self, message: str, quantity: str, step: int, world: int, vehicle: int | None) -> None:
        super().__init__(message)
        self.quantity, self.step, self.world, self.vehicle = quantity, step, world, vehicle


def start(env_state: Any, eps: Tensor | None = None) -> Carry:
    """Carry for the first rollout from ``env_state``; ``eps``: standard normal, where noise has a memory."""
    elapsed = env_state.elapsed
    return Carry(
        detach(env_state),
        torch.zeros(elapsed.shape, dtype=env_state.observation.dtype, device=elapsed.device),
        torch.zeros_like(elapsed),
        eps,
    )


def begin(env_state: Any, networks: ActorCritic, settings: RolloutSettings, generator: torch.Generator) -> Carry:
    """Like :func:`start`, with the noise before the first decision where noise has a memory."""
    if settings.noise_memory == 0:
        return start(env_state)
    with torch.no_grad():
        mean = networks.actor(networks.normalizer(env_state.observation))
    return start(env_state, torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype))


def collect(
    env: DifferentiableEnv,
    carry: Carry,
    networks: ActorCritic,
    settings: RolloutSettings,
    generator: torch.Generator,
    gradient: bool,
) -> tuple[Carry, Rollout]:
    """Act for ``settings.window`` decisions in all worlds.

    Args:
        env: the environment; it must be differentiable if ``gradient`` is set.
        carry: where the worlds are; it is cut from any graph first.
        networks: actor, critic and normaliser; unchanged.
        settings: window, discounting, reward offset.
        generator: source of the exploration and of the environment's noise.
        gradient: also compute dA_t/da_t, through policy (closed loop), environment, reward and critic.

    Returns:
        The next carry and the rollout, both detached.
    """
    carry = detach(carry)
    env_state = carry.env_state
    decay = settings.gae_lambda if settings.gradient_lambda is None else settings.gradient_lambda
    factor = settings.gamma * decay
    worlds = env_state.elapsed.shape[0]
    actor, normalizer = networks.actor, networks.normalizer
    std = actor.log_std.detach().exp()
    raw, seen, finals, actions, noises, means, rewards, ends, limits, terms = ([] for _ in range(10))
    spreads: list[Tensor] = []
    there: list[Tensor] = []
    episode_return, episode_length = carry.episode_return, carry.episode_length
    finished: list[tuple[Tensor, Tensor, Tensor]] = []
    before = carry.eps
    assert (before is not None) == (settings.noise_memory > 0), "the carry was not begun for this noise"
    kept = math.exp(-1.0 / settings.noise_memory) if settings.noise_memory > 0 else 0.0
    fresh = math.sqrt(1.0 - kept * kept)
    with torch.set_grad_enabled(gradient):
        for _ in range(settings.window):
            observation = normalizer(env_state.observation)
            mean, log_std = actor.distribution(observation)
            eps = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
            if before is not None:
                eps = kept * before + fresh * eps
            if actor.free_or_none is not None:
                eps = eps * actor.free
            if actor.tells_std:
                spreads.append(log_std.detach())
                std = log_std.exp()
            action = torch.addcmul(mean, std, eps)
            noise = env.sample_noise(worlds, generator)
            elapsed = env_state.elapsed
            raw.append(env_state.observation.detach())
            now = env.present(env_state)
            if now is not None:
                there.append(now)
            env_state, transition = env.step(env_state, actor.squash(action), noise)
            if gradient:
                env_state = scale_gradients(env_state, factor) if factor else detach(env_state)
            seen.append(observation)
            finals.append(transition.final_observation)
            actions.append(action)
            noises.append(eps)
            means.append(mean.detach())
            rewards.append(transition.reward)
            ends.append(transition.terminated)
            limits.append(transition.truncated)
            terms.append(detach(transition.terms))
            done = transition.done
            if before is not None:
                # An episode begins with noise of its own.
                first = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
                before = where(done, first, eps)
            episode_return = episode_return + transition.reward.detach()
            episode_length = episode_length + 1
            complete = done & (episode_length == elapsed + 1)  # not those that were staggered into their middle
            finished.append((complete, episode_return, episode_length))
            episode_return = episode_return.masked_fill(done, 0.0)
            episode_length = episode_length.masked_fill(done, 0)
        reward, terminated, truncated = torch.stack(rewards), torch.stack(ends), torch.stack(limits)
        final = torch.stack(finals)
        # Where the task ended the value is 0 whatever the last observation holds, its gradient too: a NaN there would
        # otherwise turn 0 * NaN into a NaN on the way back.
        ended = terminated.view(*terminated.shape, *([1] * (final.dim() - terminated.dim())))
        final = final.masked_fill(ended, 0.0)
        next_value = networks.value(normalizer(final)).masked_fill(terminated, 0.0)
        with torch.no_grad():
            observations = torch.stack(seen)
            value = networks.value(observations)
        action_gradient = None
        if gradient:
            # The value of what was acted on is that of the decision before, damped on the way, unless a reset lies
            # between: so V is asked for gradients once, with the difference of the two weights.
            weight = torch.full_like(reward, settings.gamma)
            weight[:-1] -= factor * (~(terminated | truncated)[:-1]).to(weight.dtype)
            loss = reward.sum() + (weight * next_value).sum()
            action_gradient = torch.stack(torch.autograd.grad(loss, actions, allow_unused=True, materialize_grads=True))
            if actor.free_or_none is not None:
                action_gradient = action_gradient * actor.free
    reward, next_value = detach((reward, next_value))
    advantage = generalized_advantage(
        reward - settings.reward_offset, value, next_value, terminated | truncated, settings.gamma, settings.gae_lambda
    )
    action, mean = torch.stack(actions).detach(), torch.stack(means)
    present = torch.stack(there) if there else None
    log_std = torch.stack(spreads) if spreads else actor.log_std.detach().clone()
    log_prob = gaussian_log_prob(action, mean, log_std, actor.free_or_none)
    complete, returns, lengths = (torch.stack(x) for x in zip(*finished, strict=True))
    rollout = Rollout(
        raw_observation=torch.stack(raw),
        observation=observations,
        action=action,
        eps=torch.stack(noises),
        mean=mean,
        log_std=log_std,
        log_prob=log_prob if present is None else log_prob.masked_fill(~present, 0.0),
        value=value,
        next_value=next_value,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        advantage=advantage,
        return_=advantage + value,
        action_gradient=action_gradient,
        terms={name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]},
        episodes=complete.sum(),
        episode_return=returns.masked_fill(~complete, 0.0).sum(),
        episode_length=(lengths * complete).sum(),
        present=present,
    )
    return Carry(detach(env_state), episode_return, episode_length, before), rollout


def check_finite(rollout: Rollout, carry: Carry, gradient: bool = True, context: str = "") -> None:
    """Stop at the first NaN or infinite number of a rollout; one host synchronisation.

    Args:
        rollout: the window.
        carry: what it ended with, searched for the vehicle at fault where the quantity belongs to a whole world.
        gradient: also check the action gradient.
        context: put in front of the message, such as the iteration.

    Raises:
        NonFiniteError: naming the quantity, the decision, the world and, where it can be told, the vehicle.
    """
    quantities = {
        "observation": rollout.raw_observation,
        "action": rollout.action,
        "reward": rollout.reward,
        "value": rollout.next_value,
    }
    backward = {}
    if gradient and rollout.action_gradient is not None:
        backward["gradient of the advantage by the action"] = rollout.action_gradient
    if bool(torch.stack([x.isfinite().all() for x in (quantities | backward).values()]).all()):
        return
    bad = {name: (~x.isfinite()).flatten(1).any(1).nonzero() for name, x in quantities.items()}
    found = [(int(steps[0]), name) for name, steps in bad.items() if len(steps)]
    if found:
        step, name = min(found, key=lambda x: x[0])
    else:  # on the way back a NaN spreads to earlier decisions: it began at the latest
        quantities = backward
        ((name, x),) = backward.items()
        step = int((~x.isfinite()).flatten(1).any(1).nonzero()[-1])
    x = quantities[name][step]
    position = tuple((~x.isfinite()).nonzero()[0].tolist())
    world, vehicle, kind = position[0], None, "controlled vehicle"
    if x.dim() == 3:
        vehicle = position[1]
    elif x.dim() == 1:
        vehicle, kind = _nan_vehicle(carry.env_state, world, x.shape[0]), "vehicle"
    raise NonFiniteError(
        f"{context}the {name} is {float(x[position])} at decision {step} of the window, world {world}"
        + ("" if vehicle is None else f", {kind} {vehicle}")
        + ": training stops and keeps the last good policy",
        name,
        step,
        world,
        vehicle,
    )


def _nan_vehicle(env_state: Any, world: int, worlds: int) -> int | None:
    """Slot of the first vehicle with a NaN in any per-vehicle field of ``world``, None where there is none."""
    found: list[int] = []

    def look(x: Tensor) -> Tensor:
        if x.is_floating_point() and x.dim() == 2 and x.shape[0] == worlds:
            found.extend(x[world].isnan().nonzero().flatten().tolist())
        return x

    tree_map(look, env_state)
    return min(found, default=None)

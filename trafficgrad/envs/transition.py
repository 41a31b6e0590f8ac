"""Environments around a differentiable step: this package's physics, and simulators of one's own.

:class:`TransitionEnv` is what they have in common. :func:`from_transition` builds one from functions, and
:func:`with_pullback` makes a step of another framework, with its vector-Jacobian product, one that autograd knows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.envs.base import DifferentiableEnv, Transition
from trafficgrad.errors import TrafficGradError
from trafficgrad.tree import register_record

POOL_SIZE = 1024  # initial states that autoreset draws from

Pullback = Callable[[Tensor], tuple[Tensor | None, Tensor | None]]  # cotangent of the next state -> of state and action
Reward = Tensor | tuple[Tensor, dict[str, Tensor]]  # [B], and what is to be reported besides


@register_record
@dataclass(frozen=True)
class SimulatedState:
    """State of ``B`` environments around a simulator."""

    inner: Any  # the simulator's: a tensor [B, ...], or a registered record, tuple or dict of such
    observation: Tensor  # [B, O]
    elapsed: Tensor  # [B] int64, steps since the episode began
    pool: Any  # P initial states like ``inner``, drawn beforehand
    pool_next: Tensor  # [B] int64, which of them the world takes at its next reset


class TransitionEnv(DifferentiableEnv):
    """An environment around a step: what is simulated, seen, rewarded and fatal are methods of a subclass.

    An action [B, A] is clipped to [-1, 1], with slope 0 outside. There is no noise but that of the initial states. An
    episode is ``terminated`` where :meth:`failed` says so, and ``truncated`` after ``horizon`` steps.
    """

    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        observation_labels: Sequence[str],
        action_labels: Sequence[str],
        horizon: int,
        task_measures: Sequence[str] = (),
        pool_size: int = POOL_SIZE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Say what is seen and done.

        Parameters:
            observation_labels: O names. action_labels: A names. horizon: steps of an episode.
            task_measures: reported numbers worth a column in the training's table.
            pool_size: P, initial states drawn at :meth:`reset`, at least one a world.
            device, dtype: of observations and rewards; the simulator's state may have a type of its own.

        Raises:
            TrafficGradError: no step, or no initial state.
        """
        if horizon < 1 or pool_size < 1:
            raise TrafficGradError(f"expected a horizon and a pool of at least 1, got {horizon} and {pool_size}")
        self.observation_labels, self.action_labels = tuple(observation_labels), tuple(action_labels)
        self.agents, self.horizon, self.task_measures = None, horizon, tuple(task_measures)
        self.pool_size = pool_size
        self.device, self.dtype = torch.device(device), dtype

    @abstractmethod
    def initial(self, count: int, generator: torch.Generator | None) -> Any:
        """``count`` initial states of the simulator; ``generator`` lives on the CPU."""

    @abstractmethod
    def advance(self, inner: Any, action: Tensor) -> Any:
        """The simulator's next state; ``action`` [B, A] is within [-1, 1]."""

    @abstractmethod
    def observe(self, inner: Any) -> Tensor:
        """[B, O], what a policy sees."""

    @abstractmethod
    def rewarded(self, inner: Any, action: Tensor, after: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """[B], the reward of a step, and name -> [B] what is reported besides."""

    def failed(self, inner: Any) -> Tensor | None:
        """[B] bool, the task ended here; None: never."""
        return None

    @final
    def reset(self, batch: int, generator: torch.Generator | None = None) -> SimulatedState:
        """See the base class."""
        size = max(self.pool_size, batch)
        with torch.no_grad():
            pool = self.initial(size, generator)
            rows = torch.arange(batch, device=self.device)
            inner = tree.index(pool, rows)
            return SimulatedState(inner, self._seen(inner), torch.zeros_like(rows), pool, (rows + batch) % size)

    @final
    def step(
        self, env_state: SimulatedState, action: Tensor, noise: Tensor | None = None
    ) -> tuple[SimulatedState, Transition]:
        """See the base class.

        Raises:
            TrafficGradError: an action of another shape than [B, A].
        """
        worlds = len(env_state.elapsed)
        if action.shape != (worlds, len(self.action_labels)):
            raise TrafficGradError(
                f"action has shape {list(action.shape)}, expected [{worlds}, {len(self.action_labels)}]"
            )
        held = action.clamp(-1.0, 1.0)
        after = self.advance(env_state.inner, held)
        reward, terms = self.rewarded(env_state.inner, held, after)
        final, elapsed = self._seen(after), env_state.elapsed + 1
        failed = self.failed(after)
        terminated = torch.zeros_like(elapsed, dtype=torch.bool) if failed is None else failed
        truncated = (elapsed >= self.horizon) & ~terminated
        following = replace(env_state, inner=after, observation=final, elapsed=elapsed)
        transition = Transition(
            observation=final,
            final_observation=final,
            reward=reward.to(self.dtype),
            terminated=terminated,
            truncated=truncated,
            terms={name: x.detach().to(self.dtype) for name, x in terms.items()},
        )
        done = terminated | truncated
        # Looking at the values is free on a CPU; elsewhere it would wait for the device.
        if self.device.type == "cpu" and not bool(done.any()):
            return following, transition
        inner = tree.where(done, tree.index(env_state.pool, env_state.pool_next), after)
        following = replace(
            following,
            inner=inner,
            observation=self._seen(inner),
            elapsed=torch.where(done, 0, elapsed),
            pool_next=torch.where(
                done, (env_state.pool_next + worlds) % len(tree.leaves(env_state.pool)[0]), env_state.pool_next
            ),
        )
        return following, replace(transition, observation=following.observation)

    def sample_noise(self, batch: int, generator: torch.Generator | None = None) -> None:
        """None: there is no noise."""
        return None

    def stagger(self, env_state: SimulatedState, generator: torch.Generator | None = None) -> SimulatedState:
        """The clocks of the worlds stand anywhere in an episode, so that they do not all end together."""
        drawn = torch.randint(
            self.horizon, env_state.elapsed.shape, generator=generator, device=env_state.elapsed.device
        )
        return replace(env_state, elapsed=drawn)

    def _seen(self, inner: Any) -> Tensor:
        return self.observe(inner).to(self.dtype)


@final
class _OwnTransition(TransitionEnv):
    """What :func:`from_transition` returns."""

    def __init__(self, step: Any, initial: Any, observe: Any, reward: Any, failed: Any, **described: Any) -> None:
        super().__init__(**described)
        self._step, self._initial, self._observe, self._reward, self._failed = step, initial, observe, reward, failed

    def initial(self, count: int, generator: torch.Generator | None) -> Any:
        return tree.move(tree.detach(self._initial(count, generator)), self.device)

    def advance(self, inner: Any, action: Tensor) -> Any:
        return self._step(inner, action)

    def observe(self, inner: Any) -> Tensor:
        seen = inner if self._observe is None else self._observe(inner)
        if not isinstance(seen, Tensor) or seen.dim() != 2 or seen.shape[1] != len(self.observation_labels):
            came = f"a {type(seen).__name__}" if not isinstance(seen, Tensor) else f"shape {list(seen.shape)}"
            raise TrafficGradError(
                f"what is observed is {came}, expected [worlds, {len(self.observation_labels)}], a column for each name"
            )
        return seen

    def rewarded(self, inner: Any, action: Tensor, after: Any) -> tuple[Tensor, dict[str, Tensor]]:
        reward = self._reward(inner, action, after)
        return reward if isinstance(reward, tuple) else (reward, {})

    def failed(self, inner: Any) -> Tensor | None:
        return None if self._failed is None else self._failed(inner)


def from_transition(
    step: Callable[[Any, Tensor], Any],
    *,
    initial: Callable[[int, torch.Generator | None], Any],
    reward: Callable[[Any, Tensor, Any], Reward],
    observations: Sequence[str],
    actions: Sequence[str],
    horizon: int,
    observe: Callable[[Any], Tensor] | None = None,
    failed: Callable[[Any], Tensor] | None = None,
    task_measures: Sequence[str] = (),
    pool_size: int = POOL_SIZE,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DifferentiableEnv:
    """An environment around a differentiable simulator: every agent can be trained on it.

    A state is a tensor [B, ...], a registered record, a tuple or a dict of such. All functions are pure and treat every
    world by itself.

    Parameters:
        step: state, action [B, A] within [-1, 1] -> next state. Torch operations, or what :func:`with_pullback` makes
            of another framework's.
        initial: number of worlds P and a generator on the CPU -> P initial states, the source of all randomness.
        reward: state, action, next state -> reward [B], or that and name -> [B] of what is reported besides.
        observations: names of the columns a policy sees. actions: names of those it tells.
        horizon: steps after which an episode is cut off, and what would follow is estimated.
        observe: state -> [B, O]; None: the state itself, a tensor [B, O].
        failed: state -> [B] bool, where the task ended and nothing follows; None: never.
        task_measures: reported numbers worth a column in the training's table.
        pool_size: initial states drawn at a reset, from which worlds that ended begin anew.
        device, dtype: of observations and rewards.

    Raises:
        TrafficGradError: no step in an episode. Later: an observation of another shape than was named.
    """
    return _OwnTransition(
        step,
        initial,
        observe,
        reward,
        failed,
        observation_labels=observations,
        action_labels=actions,
        horizon=horizon,
        task_measures=task_measures,
        pool_size=pool_size,
        device=device,
        dtype=dtype,
    )


def with_pullback(
    step: Callable[[Tensor, Tensor], Tensor], vjp: Callable[[Tensor, Tensor], tuple[Tensor, Pullback]]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A step that autograd does not see through, as one that it differentiates.

    Parameters:
        step: state [B, S], action [B, A] -> next state [B, S]. It runs where no gradient is asked for.
        vjp: the same with the pullback: a function of the cotangent [B, S] of the next state that returns those of
            state and action, None for 0. It is JAX's ``vjp``, a tape of Warp, or the Jacobians of a simulator.

    Both get detached tensors. There is no second derivative: asking for one raises an error.
    """

    def differentiated(state: Tensor, action: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (state.requires_grad or action.requires_grad):
            return _PulledBack.apply(state, action, vjp)
        return step(state.detach(), action.detach())

    return differentiated


class _PulledBack(torch.autograd.Function):
    """The next state, with the given pullback as derivative."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, action: Tensor, vjp: Callable[..., tuple[Tensor, Pullback]]) -> Tensor:
        after, ctx.pullback = vjp(state.detach(), action.detach())
        return after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        by_state, by_action = ctx.pullback(cotangent)
        return by_state, by_action, None

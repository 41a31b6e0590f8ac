"""The return of windows as a function of parameters: what gradients and references are taken of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.envs.traffic import Scene, TrafficEnv, TrafficEnvState
from trafficgrad.gradient_check.parameters import Parameters
from trafficgrad.gradient_check.settings import Gradient
from trafficgrad.gradient_check.windows import Windows
from trafficgrad.gradients import SignalGradient
from trafficgrad.observations import observe
from trafficgrad.state import TrafficState
from trafficgrad.trajectory import Trajectory
from trafficgrad.tree import register_record

_MIX = 6364136223846793005  # Knuth's multiplier; odd, so that a product modulo 2^64 loses nothing


@register_record
@dataclass(frozen=True)
class Outcome:
    """What happened in ``S`` windows."""

    returns: Tensor  # [S, H], sum of rewards up to each horizon
    failed: Tensor  # [S] bool, the window ended with a failure
    changed: Tensor  # [S] bool, somebody changed lane
    history: Tensor  # [S] int64, fingerprint of all lanes, leaders and the end: equal if nothing discrete differs


class Evaluate(Protocol):
    """A function of parameters that references can be taken of."""

    def __call__(self, theta: Tensor, rows: Tensor) -> Outcome:
        """Outcome of the windows ``rows`` [S] at theta [S, D]."""


@dataclass(frozen=True)
class WindowObjective:
    """J_h(theta): the rewards of a window's first h decisions, in the hard environment of ``env``.

    A window counts until its first failure, the reward of that decision included; nothing after a reset does. The
    driver reacts to what it observes (closed loop); all noise is the window's own. Differentiable in theta.
    """

    env: TrafficEnv
    windows: Windows
    parameters: Parameters
    horizons: list[int]  # ascending, the last is T
    discount: float = 1.0

    def with_gradient(self, gradient: Gradient) -> WindowObjective:
        """The same with another way for gradients to pass lane changes, or signals."""
        if isinstance(gradient, SignalGradient):
            simulator = dataclasses.replace(self.env.simulator, signal_gradient=gradient)
        else:
            simulator = dataclasses.replace(self.env.simulator, lane_gradient=gradient)
        return dataclasses.replace(self, env=self.env.with_simulator(simulator))

    def __call__(self, theta: Tensor, rows: Tensor) -> Outcome:
        """See :class:`Evaluate`."""
        return self.run(self.parameters.spread(theta.to(self.env.dtype)), rows)

    def run(self, fine: Tensor, rows: Tensor) -> Outcome:
        """Outcome of the windows ``rows`` [S] at the fine parameters [S, T', V', F]."""
        env, start = self.parameters.place(self.env, self.windows.start.index(rows), fine)
        state = _begin(env, start)
        alive = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        failed, changed = ~alive, ~alive
        history = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        total, weight, returns = fine.new_zeros(len(rows)), 1.0, []
        for t in range(self.horizons[-1]):
            action = self.windows.driver.act(state, self.windows.eps[t, rows], self.parameters.offset(fine, t))
            state, transition, driven = env.advance(state, action, self.windows.noise[t][:, rows])
            total = total + weight * torch.where(alive, transition.reward, 0.0)
            weight *= self.discount
            changed = changed | (alive & (transition.terms["lane_changes"] > 0))
            leader = env.simulator.neighbors(tree.detach(state.traffic)).leader[..., 1]
            mixed = _fingerprint(history, driven.whole, leader, transition.terminated)
            history = torch.where(alive, mixed, history)
            failed = failed | (alive & transition.terminated)
            alive = alive & ~transition.done
            if t + 1 in self.horizons:
                returns.append(total)
        return Outcome(torch.stack(returns, -1), failed, changed, history)


def _begin(env: TrafficEnv, start: TrafficState) -> TrafficEnvState:
    """Worlds at ``start``, with its graph; finished ones are replaced by a stand-in that nobody looks at."""
    around = env.simulator.neighbors(start)
    scene = Scene(start, observe(start, around, env.simulator, env.scenario.observation, env.scenario.control))
    zero = torch.zeros(start.worlds, dtype=torch.int64, device=start.position.device)
    return TrafficEnvState(scene, zero, tree.detach(tree.index(scene, slice(0, 1))), zero)


@torch.no_grad()
def _fingerprint(history: Tensor, inner: Trajectory, leader: Tensor, ended: Tensor) -> Tensor:
    """``history`` [S] with the lanes of every simulator step, the leaders at the end and the end itself mixed in."""
    facts = torch.cat([*inner.lane[1:], torch.where(ended[:, None], -2, leader), ended[:, None].long()], -1)
    place = torch.arange(1, facts.shape[-1] + 1, device=facts.device)
    weights = (place * _MIX + 1442695040888963407) | 1
    mixed = ((facts + 3) * weights).sum(-1)
    return (history * _MIX + mixed) ^ (mixed >> 17)

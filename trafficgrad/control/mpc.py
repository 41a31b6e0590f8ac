"""Model predictive control: plan ahead, do the first part, plan again from what came of it."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.control.planning import Planner
from trafficgrad.errors import TrafficGradError
from trafficgrad.state import Action, TrafficState


class MPC:
    """A controller that plans from the present state, and again every ``replan`` decisions.

    A plan begins where the last one would have gone on (warm start). The controller notices by the states' time what
    has passed since it planned; where that does not fit, in a new episode, it begins anew. Its drivers are those of its
    simulator and drive without noise: what it did not foresee the next plan corrects.
    """

    def __init__(self, planner: Planner, replan: int = 1) -> None:
        """``replan``: decisions of a plan that are carried out.

        Raises:
            TrafficGradError: more than the plan has, or none.
        """
        if not 1 <= replan <= planner.decisions:
            raise TrafficGradError(f"replan must be 1 to {planner.decisions} decisions, those of a plan, got {replan}")
        self.planner, self.replan = planner, replan
        self._decisions: Tensor | None = None  # [K, B, M], the plan
        self._begun: Tensor | None = None  # [B] s, when it began

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles (and signals) in this step."""
        passed = self._passed(state)
        if passed is None or bool((passed < 0).any()) or bool((passed >= self.replan).any()):
            self._decisions = self.planner.plan(state, self._start(state, passed)).decisions
            self._begun = state.time.clone()
            passed = torch.zeros(state.worlds, dtype=torch.int64, device=state.time.device)
        assert self._decisions is not None
        now = self._decisions[passed, torch.arange(state.worlds, device=passed.device)]
        return self.planner.limits.action(now, self.planner.simulator)

    def _passed(self, state: TrafficState) -> Tensor | None:
        """[B] decisions since the plan began, -1 where the clock was set back; None: there is no plan for these."""
        if self._decisions is None or self._begun is None or len(self._begun) != state.worlds:
            return None
        steps = torch.round((state.time - self._begun) / self.planner.simulator.dt).long()
        return torch.where(steps >= 0, steps // self.planner.hold, -1)

    def _start(self, state: TrafficState, passed: Tensor | None) -> Tensor:
        """[K, B, M]: the rest of the plan, its last decision repeated; idle in new episodes."""
        idle = self.planner.idle(state)
        if passed is None or self._decisions is None:
            return idle
        rows = torch.arange(self.planner.decisions, device=passed.device)[:, None] + passed.clamp(min=0)
        known = (passed >= 0) & (passed < self.planner.decisions)
        kept = self._decisions[rows.clamp(max=self.planner.decisions - 1), torch.arange(state.worlds)]
        return torch.where(known[:, None], kept.to(idle), idle)

"""What a decision's simulator steps lead to: the reward's parts, measures, failures and what is observed at their end.

The fused kernel tells all of it in one call where it knows the terms (:func:`wish_of`); :class:`Judge` is the
reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trafficgrad import metrics, tree
from trafficgrad.errors import TrafficGradError
from trafficgrad.failures import failures
from trafficgrad.kernels.decision import Decision, Wish
from trafficgrad.kernels.layout import TERMS
from trafficgrad.rewards import WeightedReward, reward_terms
from trafficgrad.scenario_sections.task import (
    LanesObservation,
    LocalObservation,
    PaceReward,
    RewardTerm,
    WorldObservation,
)
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Neighbors, TrafficState
from trafficgrad.traffic_scenario import TrafficScenario
from trafficgrad.trajectory import Trajectory


@dataclass(frozen=True)
class Outcome:
    """Of a decision, before any reset."""

    last: TrafficState
    parts: dict[str, Tensor]  # of the reward, unweighted: name -> [B], means over the simulator steps
    measures: dict[str, Tensor]  # name -> [B], of the last state; without graph
    failed: Tensor  # [B] bool
    observation: Tensor | None  # of the last state, where it is known already
    around: Neighbors | None  # in the last state, where they are known already


class Driven:
    """The ``T`` simulator steps of a decision, as they went before any reset."""

    def __init__(self, whole: Callable[[], Trajectory], actions: list[Action | None], steps: int) -> None:
        """``actions`` of each step, or one for all."""
        self._whole, self._actions, self.steps = whole, actions, steps

    @cached_property
    def whole(self) -> Trajectory:
        """The states between all steps; where the fused kernel told the outcome, without graph."""
        return self._whole()

    def state(self, t: int) -> TrafficState:
        """The state after ``t`` steps."""
        return self.whole.state(t)

    def action_at(self, t: int) -> Action | None:
        """What was done in step ``t``."""
        return self._actions[t if len(self._actions) > 1 else 0]

    @cached_property
    def before(self) -> TrafficState:
        """The states before all steps as T * B worlds."""
        return self._side_by_side(slice(0, -1))

    @cached_property
    def after(self) -> TrafficState:
        """The states after all steps as T * B worlds."""
        return self._side_by_side(slice(1, None))

    @cached_property
    def action(self) -> Action | None:
        """What was done in all steps, [T * B, ...]."""
        if self.steps == 1 or self._actions[0] is None:
            return self._actions[0]
        return tree.concatenate([self.action_at(t) for t in range(self.steps)])

    def _side_by_side(self, times: slice) -> TrafficState:
        return tree.tree_map(lambda x: x[times].flatten(0, 1), self.whole.states)


def wish_of(scenario: TrafficScenario, target: float | None) -> Wish | None:
    """What the kernel is to tell of this scenario's decisions; None where it does not know the terms."""
    observation, failure = scenario.observation, scenario.failure
    terms = tuple((term.kind, _scale_of(term)) for term in scenario.reward)
    sees, shown = "nothing", {}
    if isinstance(observation, LocalObservation):
        names = ("speed_scale", "gap_scale", "distance_scale", "beside_distance", "others")
        sees, shown = "local", {name: getattr(observation, name) for name in names}
        shown["target_speed"] = observation.target_speed or 0.0
    elif isinstance(observation, WorldObservation):
        sees = "world"
    elif scenario.vehicles.controlled.count and not isinstance(observation, LanesObservation):
        return None
    if failure.touching or scenario.control.signals == "switch" or not set(TERMS).issuperset(x for x, _ in terms):
        return None
    return Wish(
        sees=sees if scenario.vehicles.controlled.count else "nothing",  # type: ignore[arg-type]
        **shown,
        terms=terms,
        fails_overlapping=failure.overlap,
        fails_off_road=failure.off_road,
        fails_overtaken=failure.overtaken,
        nearest=failure.centre_distance or 0.0,
        farthest=float("inf") if failure.farthest is None else failure.farthest,
        target=target or 0.0,
        standing=metrics.STANDING,
    )


def _scale_of(term: RewardTerm) -> float:
    return term.target if isinstance(term, PaceReward) else getattr(term, "scale", 1.0)


class Judge:
    """What a scenario makes of decisions."""

    def __init__(
        self,
        scenario: TrafficScenario,
        simulator: Simulator,
        human: Tensor,
        rewards: Mapping[str, WeightedReward] | None = None,
    ) -> None:
        """``human`` [N] bool: slots of the ordinary vehicles. ``rewards``: beside those of the scenario."""
        self._config, self._simulator, self._human = scenario.failure, simulator, human
        self.rewards = reward_terms(scenario.reward, human)
        for name, term in (rewards or {}).items():
            if name in self.rewards:
                raise TrafficGradError(f"rewards: the scenario has a term {name!r} already, give yours another name")
            self.rewards[name] = term
        self.target = next((term.target for term in scenario.reward if isinstance(term, PaceReward)), None)
        self._looks = isinstance(scenario.observation, LanesObservation)  # the kernel does not know it
        self.is_open = simulator.demand is not None or not simulator.network.is_closed
        self._places = {name: TERMS.index(name) for name in self.rewards if name in TERMS}
        self._told = ["mean_speed", "speed_deviation", "standing", "lane_changes", "collisions"]
        self._told += ["vehicles", "left"] if self.is_open else []
        self._told += [] if self.target is None else ["speed_error"]
        self._alike = not any(
            isinstance(x, Tensor) and x.dim() == 2
            for part in (simulator.car_following, simulator.fleet)
            for x in vars(part).values()
        )

    def told(self, decision: Decision, shared: bool) -> Outcome:
        """The outcome that the kernel has told; rows of the observation are joined unless ``shared``."""
        seen = decision.observation
        joined = seen if shared or seen.dim() == 2 else seen.flatten(1)
        return Outcome(
            decision.last,
            {name: decision.terms[place] for name, place in self._places.items()},
            {name: decision.measures[name] for name in self._told},
            decision.failed,
            None if self._looks else joined,
            None,
        )

    def judge(
        self,
        driven: Driven,
        begin: TrafficState,
        last: TrafficState,
        overlapping: Tensor,
        changes: Tensor,
        around: Neighbors,
    ) -> Outcome:
        """The reference.

        Args:
            driven: the steps from ``begin`` to ``last``.
            overlapping: [T, B] bool, somebody is within the vehicle ahead after each of them.
            changes: [B] lane changes, all together.
            around: who surrounds whom in the last state.
        """
        simulator, steps = self._simulator, driven.steps

        def over_steps(function: Callable[[TrafficState, Action | None, TrafficState, Tensor], Tensor]) -> Tensor:
            """What a function makes of every simulator step, [T, B, ...]; in one go where worlds have equal drivers."""
            if self._alike:
                found = function(driven.before, driven.action, driven.after, overlapping.flatten())
                return found.reshape(steps, -1, *found.shape[1:])
            return torch.stack(
                [
                    function(driven.state(t), driven.action_at(t), driven.state(t + 1), overlapping[t])
                    for t in range(steps)
                ]
            )

        parts = {
            name: over_steps(lambda *step, function=function: function(*step, simulator)).mean(0)
            for name, (_, function) in self.rewards.items()
        }
        ends = over_steps(
            lambda _, __, after, overlap: torch.stack(failures(after, overlap, simulator, self._config), -1)
        )
        failed, collided = ends.any(0).unbind(-1)
        return Outcome(last, parts, self._measures(begin, last, changes, collided), failed, None, around)

    def rewards_along(self, whole: Trajectory, actions: Action | None) -> Tensor:
        """The weighted reward of every simulator step of a trajectory, [T, B]; without what failures are worth."""
        steps = whole.steps
        driven = Driven(lambda: whole, [tree.index(actions, t) for t in range(steps)] if actions else [None], steps)
        total = None
        for name, (weight, function) in self.rewards.items():
            overlapping = driven.after.active.new_zeros(driven.after.worlds)
            if name == "collision":
                overlapping = metrics.overlaps(self._simulator.neighbors(driven.after)).any(-1)
            if self._alike:
                part = function(driven.before, driven.action, driven.after, overlapping, self._simulator)
                part = part.view(steps, -1)
            else:
                each = overlapping.view(steps, -1)
                part = torch.stack(
                    [
                        function(driven.state(t), driven.action_at(t), driven.state(t + 1), each[t], self._simulator)
                        for t in range(steps)
                    ]
                )
            total = weight * part if total is None else total + weight * part
        return whole.speed.new_zeros(whole.speed.shape[:2])[1:] if total is None else total

    @torch.no_grad()
    def _measures(
        self, before: TrafficState, state: TrafficState, changes: Tensor, collided: Tensor
    ) -> dict[str, Tensor]:
        dtype, human, demand = state.speed.dtype, self._human, self._simulator.demand
        measures = {
            "mean_speed": metrics.mean_speed(state),
            "speed_deviation": metrics.speed_deviation(state, human),
            "standing": metrics.standing(state, human),
            "lane_changes": changes,
            "collisions": collided.to(dtype),
        }
        if self.is_open:
            measures["vehicles"] = state.active.sum(-1).to(dtype)
            measures["left"] = (state.left - before.left).to(dtype)
        if demand is not None:
            measures["waiting_outside"] = demand.waiting(state).sum(-1).to(dtype)
        if self.target is not None:
            measures["speed_error"] = metrics.speed_error(state, self.target, human)
        return measures

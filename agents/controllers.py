"""Who may drive the controlled vehicles besides a policy: hand-written controllers, planners, and users' own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from trafficgrad.agents.episodes import EnvController
from trafficgrad.control import (
    MPC,
    ActionLimits,
    Actuated,
    AdaptiveCruise,
    CooperativeCruise,
    FanOutAndAlign,
    FixedTime,
    FollowerStopper,
    KeepLane,
    KeepLaneAndAlign,
    PISaturation,
    Planner,
    Ramp,
    Search,
)
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.import_path import import_name, is_import_path
from trafficgrad.network import RoadNetwork
from trafficgrad.simulator import Controller


def find_controller(name: str, env: TrafficEnv) -> EnvController | None:
    """A controller by its name, or by the import path ``module:object``; None: like everybody else.

    Names are those of the :func:`baselines`, ``human``, and of ``CONTROLLERS``. An import path leads to a callable from
    :class:`~trafficgrad.state.TrafficState` to :class:`~trafficgrad.state.Action`, or to a class or function that makes
    one from a :class:`~trafficgrad.simulator.Simulator`: one with a parameter of the name ``simulator``.

    Raises:
        TrafficGradError: there is none of this name, it does not fit this scenario, or the path leads to no controller.
    """
    known = {"human" if who is None else label: who for label, who in baselines(env).items()}
    if name in known:
        return known[name]
    if name == "human":
        return None
    if name in CONTROLLERS:
        return as_env_controller(env, CONTROLLERS[name](env))
    if is_import_path(name):
        return as_env_controller(env, _imported(name, env))
    names = [*known, *CONTROLLERS]
    raise TrafficGradError(
        f"no controller {name!r}{nearest_name(name, names)}; here may drive {', '.join(names)}, a callable by its "
        "import path module:object, or the policy of a run or a checkpoint"
    )


def baselines(env: TrafficEnv) -> dict[str, EnvController | None]:
    """Hand-written controllers that make sense in the scenario; None stands for human drivers. The first is the usual.

    Where signals are controlled and no vehicle, they are their fixed programme and an actuated one. The target speed of
    controlled vehicles is that of the reward or of the observation. The scenario's ``scripted`` section says how
    vehicles align.
    """
    scenario, network = env.scenario, env.simulator.network
    if not len(env.slots) and len(env.switches.signals):
        return {
            "fixed time": as_env_controller(env, FixedTime(env.simulator)),
            "actuated": as_env_controller(env, Actuated(env.simulator)),
        }
    table: dict[str, EnvController | None] = {"human only": None}
    speed = target_speed(env)
    if speed is None or not len(env.slots) or len(env.switches.signals):
        return table
    bounds, scripted = scenario.control.acceleration, scenario.scripted
    if scenario.control.command == "lanes":
        if scenario.control.lanes.sweep is not None:
            shape = (len(env.action_labels),) if env.agents is None else (env.agents, len(env.action_labels))
            table["sweep"] = lambda state: state.observation.new_zeros(state.traffic.worlds, *shape)
        return table
    ramp = None if scripted.ramp is None else Ramp(scripted.ramp.start, scripted.ramp.duration)
    table["keep lane"] = as_env_controller(env, KeepLane(env.simulator, speed, bounds))
    if _is_one_ring(network) and scripted.keep_lane_and_align:
        align = KeepLaneAndAlign(env.simulator, speed, correction=scripted.correction, bounds=bounds, ramp=ramp)
        table["keep lane and align"] = as_env_controller(env, align)
    if scenario.vehicles.controlled.control == "lane" and _is_one_ring(network) and network.max_lanes > 1:
        fan_out = FanOutAndAlign(env.simulator, speed, correction=scripted.correction, bounds=bounds, ramp=ramp)
        table["fan out and align"] = as_env_controller(env, fan_out)
    return table


def usual(env: TrafficEnv) -> EnvController | None:
    """Who drives, or switches the signals, where no policy is asked for: the first of the :func:`baselines`."""
    return next(iter(baselines(env).values()))


def _is_one_ring(network: RoadNetwork) -> bool:
    """Whether places along the road say who is beside whom."""
    return network.is_closed and network.is_unbranched


def as_env_controller(env: TrafficEnv, controller: Controller) -> EnvController:
    """A controller of traffic states as one of the environment."""
    return lambda state: env.encode(controller(state.traffic), state.traffic)


def target_speed(env: TrafficEnv) -> float | None:
    """The speed that controlled vehicles shall bring about, m/s: that of the reward, or of the observation."""
    return env.target if env.target is not None else env.scenario.observation.target_speed


# ---------------------------------------------------------------------- planners and classics


def plan_ahead(env: TrafficEnv, lanes: bool = True) -> MPC:
    """Model predictive control of a scenario's reward, as its section ``scripted.mpc`` says.

    Parameters:
        lanes: lane requests are planned too, where vehicles make them.

    Raises:
        TrafficGradError: there is nothing to plan.
    """
    scenario, settings = env.scenario, env.scenario.scripted.mpc
    env.require_control()
    if scenario.control.command == "lanes":
        raise TrafficGradError("mpc plans accelerations and steering: choose another control.command than lanes")
    kind, decision = scenario.vehicles.controlled.control, scenario.simulation.decision_steps
    seconds = env.simulator.dt * decision
    limits = ActionLimits(
        acceleration=scenario.control.acceleration,
        lane=lanes and kind == "lane",
        steering=scenario.control.steering if kind == "steered" else None,
        signal=bool(len(env.switches.signals)),
    )
    planner = Planner(
        env.simulator,
        lambda record: -env.rewards_of(record).mean(0),
        decisions=max(1, round(settings.horizon / seconds)),
        hold=decision,
        limits=limits,
        search=Search(
            iterations=settings.iterations,
            step=settings.step,
            candidates=settings.candidates,
            spread=settings.spread,
        ),
    )
    return MPC(planner, replan=min(planner.decisions, max(1, round(settings.replan / seconds))))


def _needs_target(env: TrafficEnv) -> float:
    speed = target_speed(env)
    if speed is None:
        raise TrafficGradError(
            f"scenario {env.scenario.name!r} names no target speed: set observation.target_speed, or a reward of kind "
            "pace"
        )
    return speed


def _classical(kind: Any) -> Callable[[TrafficEnv], Controller]:
    def make(env: TrafficEnv) -> Controller:
        _check_drives(env)
        return kind(env.simulator, _needs_target(env), bounds=env.scenario.control.acceleration)

    return make


def _saturated(env: TrafficEnv) -> Controller:
    _check_drives(env)
    return PISaturation(env.simulator, env.scenario.control.acceleration)


def _check_drives(env: TrafficEnv) -> None:
    if not len(env.slots) or env.scenario.control.command == "lanes":
        raise TrafficGradError(f"scenario {env.scenario.name!r} has no controlled vehicle that takes an acceleration")


CONTROLLERS: dict[str, Callable[[TrafficEnv], Controller]] = {
    "mpc": plan_ahead,
    "mpc keep lane": lambda env: plan_ahead(env, lanes=False),
    "constant speed": _classical(KeepLane),
    "follower stopper": _classical(FollowerStopper),
    "pi saturation": _saturated,
    "acc": _classical(AdaptiveCruise),
    "cacc": _classical(CooperativeCruise),
}


def _imported(path: str, env: TrafficEnv) -> Controller:
    thing = import_name(path)
    if not callable(thing):
        raise TrafficGradError(
            f"controller {path!r}: expected a callable from TrafficState to Action, got {type(thing).__name__}"
        )
    try:
        takes_simulator = "simulator" in inspect.signature(thing).parameters
    except (TypeError, ValueError):  # built-in callables do not tell
        takes_simulator = False
    made = thing(simulator=env.simulator) if takes_simulator else thing() if isinstance(thing, type) else thing
    if not callable(made):
        raise TrafficGradError(
            f"controller {path!r}: what it makes is no callable from TrafficState to Action, but {type(made).__name__}"
        )
    return made

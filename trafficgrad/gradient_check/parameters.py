"""What the gradient is taken by: offsets of actions, driver parameters, or the initial state of a window.

Signal timing is in :mod:`trafficgrad.gradient_check.signal_timing`.

Every kind has a fine form [S, time, vehicles, components], which is what the simulation reads and autograd
differentiates, and a coarse one theta [S, D] with D = blocks of time x groups of vehicles x components, which is what
references perturb. A coarse parameter stands for the sum over its group, so its gradient is the sum of theirs.
"""

from __future__ import annotations

import dataclasses
from abc import ABC

import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.car_following.base import look_up
from trafficgrad.envs.held_action import SWITCH, action_labels
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState

IDM_PARAMETERS = ("desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap")


class Parameters(ABC):
    """A parameterisation of windows in ``S`` worlds."""

    components: tuple[str, ...]  # F names
    vehicles: tuple[str, ...]  # names of the fine form's vehicles
    time_of: Tensor  # [T'] int64, block of each fine time
    vehicle_of: Tensor  # [V'] int64, group of each fine vehicle

    @property
    def shape(self) -> tuple[int, int, int]:
        """Blocks of time, groups of vehicles, components of theta."""
        return int(self.time_of.max()) + 1, int(self.vehicle_of.max()) + 1, len(self.components)

    @property
    def dimension(self) -> int:
        """D, numbers in theta."""
        blocks, groups, components = self.shape
        return blocks * groups * components

    def component_mask(self, component: str | None) -> Tensor:
        """[D] bool: the numbers of theta that belong to ``component``; None: all."""
        chosen = torch.tensor([component in (None, name) for name in self.components], device=self.time_of.device)
        return chosen.expand(self.shape).reshape(-1)

    def spread(self, theta: Tensor) -> Tensor:
        """The fine form [S, T', V', F] of theta [S, D]."""
        return theta.reshape(-1, *self.shape)[:, self.time_of][:, :, self.vehicle_of]

    def gather(self, fine: Tensor) -> Tensor:
        """Adjoint of :meth:`spread`: sums over the groups, [..., T', V', F] to [..., D]."""
        blocks, groups, components = self.shape
        by_block = fine.new_zeros((*fine.shape[:-3], blocks, *fine.shape[-2:]))
        by_block = by_block.index_add(-3, self.time_of, fine)
        by_group = fine.new_zeros((*fine.shape[:-3], blocks, groups, components))
        return by_group.index_add(-2, self.vehicle_of, by_block).flatten(-3)

    def free(self, start: TrafficState) -> Tensor:
        """[W, D] bool: what is perturbed at all in windows that begin with ``start``."""
        return torch.ones(start.worlds, self.dimension, dtype=torch.bool, device=start.position.device)

    def place(self, env: TrafficEnv, start: TrafficState, fine: Tensor) -> tuple[TrafficEnv, TrafficState]:
        """Environment and start state of the perturbed windows."""
        return env, start

    def offset(self, fine: Tensor, decision: int) -> Tensor | None:
        """[S, C, A], or joined [S, C * A + signals], what is added to the mean action of ``decision``."""
        return None


class ActionOffsets(Parameters):
    """Offsets of the mean action in units of the action's scale, constant over ``block`` decisions.

    Of the controlled vehicles, or of the signals where no vehicle is controlled.
    """

    def __init__(self, env: TrafficEnv, steps: int, block: int) -> None:
        vehicles, signals = len(env.slots), env.switches.signals
        if vehicles:
            self.components = action_labels(env.scenario)
            self.vehicles = tuple(f"controlled {c}" for c in range(vehicles))
        else:
            self.components = SWITCH
            self.vehicles = tuple(env.simulator.network.signals[s].name for s in signals.tolist())
        self.time_of = torch.arange(steps, device=env.device) // block
        self.vehicle_of = torch.arange(len(self.vehicles), device=env.device)
        self._kept = len(signals) if vehicles else 0  # actions at the end of the joint row that are not perturbed

    def offset(self, fine: Tensor, decision: int) -> Tensor:
        """See the class."""
        offset = fine[:, decision]
        return torch.nn.functional.pad(offset.flatten(1), (0, self._kept)) if self._kept else offset


class DriverParameters(Parameters):
    """IDM parameters p exp(theta) of human drivers: at theta = 0 the derivative is that by a relative change.

    One change for all human drivers of a world, or (``per_vehicle``) one for each.
    """

    def __init__(self, env: TrafficEnv, per_vehicle: bool) -> None:
        if not bool(env.human.any()):
            raise TrafficGradError(
                f"scenario {env.scenario.name!r} has no human driver whose parameters could be varied: "
                "take the gradient by actions or initial"
            )
        count = env.scenario.total
        self.components = IDM_PARAMETERS
        self.vehicles = tuple(f"slot {n}" for n in range(count))
        self.time_of = torch.zeros(1, dtype=torch.int64, device=env.device)
        place = torch.arange(count, device=env.device)
        self.vehicle_of = place if per_vehicle else torch.zeros_like(place)
        self._human, self._per_vehicle = env.human, per_vehicle

    def free(self, start: TrafficState) -> Tensor:
        """Controlled vehicles keep their parameters."""
        everything = super().free(start)
        return everything & self._human.repeat_interleave(len(self.components)) if self._per_vehicle else everything

    def place(self, env: TrafficEnv, start: TrafficState, fine: Tensor) -> tuple[TrafficEnv, TrafficState]:
        """An environment whose drivers are those of the slots, changed."""
        simulator, start = per_slot(env.simulator, start)
        model = simulator.car_following
        assert isinstance(model, IDM)
        factors = torch.where(self._human[:, None], fine[:, 0], 0.0).exp()
        changed = {name: getattr(model, name) * factors[..., i] for i, name in enumerate(self.components)}
        simulator = dataclasses.replace(simulator, car_following=dataclasses.replace(model, **changed))
        return env.with_simulator(simulator), start


class InitialState(Parameters):
    """Shifts of every vehicle's position (m) and speed (m/s) at the window's start.

    The speed of a vehicle that stands, or nearly does, stays as it is: it cannot go below 0 on both sides.
    """

    def __init__(self, env: TrafficEnv, sd: float) -> None:
        count = env.scenario.total
        self.components = ("position", "speed")
        self.vehicles = tuple(f"slot {n}" for n in range(count))
        self.time_of = torch.zeros(1, dtype=torch.int64, device=env.device)
        self.vehicle_of = torch.arange(count, device=env.device)
        self._slowest = 6.0 * sd

    def free(self, start: TrafficState) -> Tensor:
        """Positions of all, speeds of those that drive."""
        drives = start.speed.detach() > self._slowest
        return torch.stack([torch.ones_like(drives), drives], -1).flatten(1)

    def place(self, env: TrafficEnv, start: TrafficState, fine: Tensor) -> tuple[TrafficEnv, TrafficState]:
        """The shifted start."""
        position, speed = start.position + fine[:, 0, :, 0], start.speed + fine[:, 0, :, 1]
        return env, dataclasses.replace(start, position=position, speed=speed)


def per_slot(simulator: Simulator, state: TrafficState) -> tuple[Simulator, TrafficState]:
    """The same traffic with driver = slot and every per-driver parameter looked up, [B, N], so that each is its own."""
    driver, fleet = state.driver, simulator.fleet
    bodies = {
        name: look_up(getattr(fleet, name), driver)
        for name in ("length", "width", "acceleration_noise", "speed_factor")
    }
    change = simulator.lane_change
    changed = dataclasses.replace(
        simulator,
        fleet=dataclasses.replace(fleet, **bodies),  # type: ignore[arg-type]
        car_following=simulator.car_following.for_drivers(driver),
        lane_change=None if change is None else change.for_drivers(driver),
    )
    slots = torch.arange(state.vehicles, device=driver.device).expand(driver.shape)
    return changed, dataclasses.replace(state, driver=slots)

"""What a car-following model is: parameters per driver and an acceleration."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

from trafficgrad.state import PerDriver

M = TypeVar("M", bound="DriverModel")


class DriverModel:
    """A frozen dataclass of which some fields are per driver (float, [P] or [B, P])."""

    def for_drivers(self: M, driver: Tensor) -> M:
        """The model with every tensor parameter looked up per vehicle: [B, N] for ``driver`` [B, N]."""
        return self._map(lambda value: look_up(value, driver))

    def take(self: M, slots: Tensor) -> M:
        """From a model per vehicle [B, N], the model of the vehicles ``slots`` [B, ...] (>= 0)."""
        flat = slots.reshape(slots.shape[0], -1)
        return self._map(lambda value: value.gather(1, flat).reshape(slots.shape) if value.dim() else value)

    def beside(self: M) -> M:
        """From a model per vehicle [B, N], the same with a trailing dimension that broadcasts: [B, N, 1]."""
        return self._map(lambda value: value[..., None] if value.dim() else value)

    def _map(self: M, function: object) -> M:
        changed = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = function(value)  # type: ignore[operator]
        return dataclasses.replace(self, **changed) if changed else self  # type: ignore[type-var]


def look_up(value: PerDriver, driver: Tensor) -> PerDriver:
    """A per-driver parameter per vehicle: floats stay, [P] and [B, P] become [B, N] by row ``driver`` [B, N]."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value[driver] if value.dim() == 1 else value.gather(1, driver)


class CarFollowing(DriverModel, ABC):
    """Longitudinal behaviour of a driver behind a leader. Parameters are per driver; floats serve everybody."""

    desired_speed: PerDriver  # m/s
    time_headway: PerDriver  # s
    max_acceleration: PerDriver  # m/s2
    comfortable_deceleration: PerDriver  # m/s2
    min_gap: PerDriver  # m, at standstill

    @abstractmethod
    def acceleration(self, speed: Tensor, gap: Tensor, closing_speed: Tensor) -> Tensor:
        """Acceleration in m/s2.

        Parameters:
            speed: own speed, m/s. gap: to the leader's rear bumper, m; +inf without a leader.
            closing_speed: own speed - leader's speed, m/s; 0 without a leader. Shapes broadcast with the parameters.
        """


def limit_speed(model: CarFollowing, limit: Tensor) -> CarFollowing:
    """The model with its desired speed bounded by ``limit``, m/s; slope 0 in the speed where the limit binds."""
    bounded = torch.where(limit < model.desired_speed, limit, model.desired_speed)
    return dataclasses.replace(model, desired_speed=bounded)  # type: ignore[type-var]

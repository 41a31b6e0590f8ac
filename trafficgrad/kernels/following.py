"""Drivers behind recorded leaders by the compiled kernel, with the derivatives of where they go by their parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from trafficgrad.car_following import IDM, CarFollowing
from trafficgrad.dynamics import INTEGRATORS, Integrator
from trafficgrad.kernels.layout import PARAMETERS, FollowingRecord
from trafficgrad.kernels.library import library

IDM_PARAMETERS = PARAMETERS[:6]  # desired speed to exponent


def covers(model: CarFollowing, names: Sequence[str]) -> bool:
    """Whether the kernel is there and knows this model."""
    alike = all(not isinstance(getattr(model, name, None), Tensor) for name in IDM_PARAMETERS)
    return type(model) is IDM and alike and set(names) <= set(IDM_PARAMETERS) and library().functions is not None


def follow(
    model: IDM,
    names: Sequence[str],
    parameters: Tensor,
    leader_rear: Tensor,
    leader_speed: Tensor,
    first_speed: Tensor,
    dt: float,
    integrator: Integrator,
    slopes: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Positions (from 0 on) and speeds [T, M], and their derivatives [T, M, P] by ``names``.

    Parameters:
        model: holds what ``names`` leave out. parameters: [M, P]. leader_rear, leader_speed: [T, M]; rear inf: nobody.
        first_speed: [M]. All float64.
    """
    functions = library().functions
    assert functions is not None
    times, rows = leader_rear.shape
    own = torch.tensor([float(getattr(model, name)) for name in IDM_PARAMETERS], dtype=torch.float64)
    values = own.expand(rows, -1).clone()
    which = torch.tensor([IDM_PARAMETERS.index(name) for name in names])
    values[:, which] = parameters
    given = [x.contiguous() for x in (which, values, leader_rear, leader_speed, first_speed)]
    position, speed = torch.empty(2, times, rows, dtype=torch.float64).unbind()
    by = torch.empty(2, times, rows, len(names) if slopes else 0, dtype=torch.float64).unbind()
    four = "exponent" not in names and model.exponent == 4.0
    paper, number = model.desired_gap == "paper", INTEGRATORS.index(integrator)
    record = FollowingRecord(times, rows, number, paper, four, len(names), dt)
    places = [x.data_ptr() for x in (*given, position, speed)] + [x.data_ptr() if slopes else 0 for x in by]
    for field, place in zip(FollowingRecord._fields_[7:], places, strict=True):
        setattr(record, field[0], place)
    functions.trafficgrad_follow(ctypes.byref(record))
    return position, speed, *(by if slopes else (None, None))

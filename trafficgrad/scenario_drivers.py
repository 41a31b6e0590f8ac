"""The table of drivers that a scenario's ``vehicles`` section describes: which rows are whose, and their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from trafficgrad.config import error_at
from trafficgrad.errors import nearest_name
from trafficgrad.network.sumo_routes import VehicleType
from trafficgrad.scenario_sections.numbers import Listed, Number, Uniform, highest, lowest
from trafficgrad.scenario_sections.vehicles import DriverConfig, VehiclesConfig
from trafficgrad.state import PerDriver

HUMAN = "human"
_RESERVED = (HUMAN, "controlled")


class Group(NamedTuple):
    """Drivers of one kind and their rows."""

    name: str
    config: DriverConfig
    first: int
    size: int

    @property
    def rows(self) -> tuple[int, int]:
        """First row, and the row after the last."""
        return self.first, self.first + self.size


class DriverTable(NamedTuple):
    """A row for each controlled vehicle; then human-driven ones, as many of each class as its share says; then classes
    that only inflows name.
    """

    controlled: DriverConfig
    controlled_count: int
    everybody: tuple[int, int]  # rows of the human-driven ones, first and after the last
    groups: tuple[Group, ...]

    @property
    def longest(self) -> float:
        """Of all vehicles that may be there at the start, m."""
        there = [group.config for group in self.groups if group.first < self.everybody[1]]
        there += [self.controlled] if self.controlled_count else []
        return max(highest(config.length) for config in there)

    @property
    def widest_gap(self) -> float:
        """That drivers keep at standstill, m."""
        return max(highest(group.config.min_gap) for group in self.groups)

    @property
    def slow_speed(self) -> float:
        """Desired speed of the slowest class, its mean, m/s."""
        speeds = [group.config.desired_speed for group in self.groups]
        return min((lowest(speed) + highest(speed)) / 2 for speed in speeds)

    def rows(self, name: str | None, key: str) -> tuple[int, int]:
        """Rows of a class, or of everybody.

        Raises:
            PydanticCustomError: there is no such class, an error that names the key.
        """
        if name is None:
            return self.everybody
        names = [group.name for group in self.groups]
        if name not in names:
            raise error_at(key, f"no such class of vehicles {name!r}{nearest_name(name, names)}; there are {names}")
        return self.groups[names.index(name)].rows

    def parameter(
        self, name: str, generator: torch.Generator, dtype: torch.dtype, device: torch.device | str
    ) -> PerDriver:
        """Column of the table: a number where it is the same for all, else a tensor [rows]."""
        controlled, others = getattr(self.controlled, name), [getattr(g.config, name) for g in self.groups]
        count = self.controlled_count
        alike = not isinstance(others[0], Uniform | Listed) and all(value == others[0] for value in others)
        if alike and (others[0] == controlled or count == 0):
            return float(others[0])
        rows = [draw(controlled, count, generator)]
        rows += [draw(value, group.size, generator) for value, group in zip(others, self.groups, strict=True)]
        return torch.cat(rows).to(device=device, dtype=dtype)


def draw(value: Number, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` numbers, drawn or listed; float64 on the CPU, so that every dtype and device sees the same drivers."""
    if isinstance(value, Listed):
        listed = torch.tensor(value.values, dtype=torch.float64)
        return listed[torch.arange(count) % len(listed)]
    if not isinstance(value, Uniform):
        return torch.full((count,), float(value), dtype=torch.float64)
    low, high = value.uniform
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def driver_table(
    vehicles: VehiclesConfig, driver_rows: int, types: Mapping[str, VehicleType] | None = None
) -> DriverTable:
    """The rows of all drivers.

    Parameters:
        driver_rows: of all human-driven vehicles, and of each class that has no share. types: of SUMO, by name;
            ``vehicles.classes`` of the same name come first.

    Raises:
        PydanticCustomError: the shares make no sense, an error that names the key.
    """
    classes = vehicles.classes
    for name in classes:
        if name in _RESERVED:
            raise error_at(f"vehicles.classes.{name}", "this name is taken: choose another one")
    shared = {name: config.share for name, config in classes.items() if config.share > 0}
    total = sum(shared.values())
    if total > 1.0 + 1e-9:
        raise error_at("vehicles.classes", f"expected shares that sum to at most 1, got {total:g}")
    counts = {name: max(1, round(share * driver_rows)) for name, share in shared.items()}
    cars = driver_rows - sum(counts.values())
    if total < 1.0 - 1e-9 and cars < 1:
        raise error_at("driver_rows", f"{driver_rows} rows are too few for the shares of {len(shared)} classes")
    configs: dict[str, tuple[DriverConfig, int]] = {HUMAN: (vehicles.human, max(0, cars))}
    configs |= {name: (classes[name], count) for name, count in counts.items()}
    everybody = sum(count for _, count in configs.values())
    configs |= {name: (config, driver_rows) for name, config in classes.items() if name not in shared}
    for name, kind in (types or {}).items():
        if name not in configs:
            configs[name] = (_of_type(kind), driver_rows)
    first = vehicles.controlled.count
    groups = []
    for name, (config, count) in configs.items():
        if count:
            groups.append(Group(name, config, first, count))
            first += count
    count = vehicles.controlled.count
    return DriverTable(vehicles.controlled, count, (count, count + everybody), tuple(groups))


def _of_type(kind: VehicleType) -> DriverConfig:
    """Drivers of a type of SUMO; their speed factors have its mean and standard deviation."""
    spread = math.sqrt(3.0) * kind.speed_deviation
    factor: float | Uniform = kind.speed_factor
    if spread > 0:
        factor = Uniform(uniform=(max(0.1 * kind.speed_factor, kind.speed_factor - spread), kind.speed_factor + spread))
    try:
        return DriverConfig(
            length=kind.length,
            width=kind.width,
            desired_speed=kind.max_speed,
            time_headway=kind.time_headway,
            max_acceleration=kind.max_acceleration,
            comfortable_deceleration=kind.comfortable_deceleration,
            min_gap=kind.min_gap,
            speed_factor=factor,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise error_at(
            "network.routes", f"vehicle type {kind.name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None

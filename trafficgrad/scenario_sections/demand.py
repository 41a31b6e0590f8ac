"""Demand: who comes to the network, when, and where to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model, model_validator

from trafficgrad.config import StrictModel, error_at
from trafficgrad.scenario_sections.numbers import Count, NonNegative
from trafficgrad.scenario_sections.roads import Edge, Names, Numbers

Shares = dict[str, NonNegative]

if TYPE_CHECKING:

    class _From(StrictModel):
        """Has the field ``from``, which is no name in Python."""
else:
    _From = create_model("_From", __base__=StrictModel, **{"from": (Edge, Field(description="edge where they enter"))})


class InflowConfig(_From):
    """Vehicles that come to one edge. Without `to`, `routes` or `turns` they spread evenly over all exits, by the
    fastest way, and none goes back to where it came from.
    """

    to: Edge | Names | Shares | None = Field(
        default=None, description="edge where they go by the fastest way, a list of edges, or edges with shares"
    )
    routes: Shares | None = Field(default=None, description="names of `routes`, with shares")
    turns: dict[str, Shares] | None = Field(
        default=None,
        description="edge: {next edge: share}; at other edges all ways are equally likely, without turning back",
    )
    kind: Literal["poisson", "constant", "schedule"] = Field(
        default="poisson",
        description="poisson: independent of each other; constant: at equal intervals; schedule: at `times`",
    )
    rate: NonNegative | None = Field(default=None, description="vehicles/h (poisson and constant)")
    times: Numbers | None = Field(default=None, description="when they come (schedule), ascending, s")
    begin: float = Field(default=0.0, description="nobody comes before, s")
    end: float | None = Field(default=None, description="nobody comes from then on, s; null = never")
    vehicles: str | None = Field(
        default=None, description="human, or one of `vehicles.classes`; null = all of them by their shares"
    )
    controlled_share: float = Field(
        default=0.0, ge=0, le=1, description="of those who come, to be controlled as long as there are slots for them"
    )
    speed: NonNegative | None = Field(default=None, description="they enter at most so fast, m/s; null = as is safe")
    lanes: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="of the edge, that they enter; 0 = rightmost; null = any"
    )

    @property
    def origin(self) -> Edge:
        """The edge where they enter, ``from`` in the file."""
        edge: Edge = getattr(self, "from")
        return edge

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> InflowConfig:
        given = [name for name in ("to", "routes", "turns") if getattr(self, name) is not None]
        if len(given) > 1:
            raise error_at(given[1], f"expected one of to, routes and turns, got {' and '.join(given)}")
        if (self.kind == "schedule") != (self.times is not None):
            raise error_at("times", f"belong to kind: schedule, which needs them; the kind is {self.kind!r}")
        if (self.kind == "schedule") == (self.rate is not None):
            what = "belongs to kind: poisson or constant" if self.rate is not None else "this key is missing"
            raise error_at("rate", f"{what}; the kind is {self.kind!r}")
        if self.times is not None and list(self.times) != sorted(self.times):
            raise error_at("times", "expected ascending times")
        if self.end is not None and self.end < self.begin:
            raise error_at("end", f"expected at least begin = {self.begin:g}, got {self.end:g}")
        for name in ("to", "routes"):
            shares = getattr(self, name)
            if isinstance(shares, dict | tuple) and not (sum(shares.values()) if isinstance(shares, dict) else shares):
                raise error_at(name, "expected at least one, with a share above 0")
        return self


class TripsConfig(_From):
    """A cell of an origin-destination table: vehicles that drive from one edge to another by the fastest way."""

    to: Edge = Field(description="edge where they leave")
    rate: NonNegative = Field(description="vehicles/h, independent of each other")

    @property
    def origin(self) -> Edge:
        """The edge where they enter, ``from`` in the file."""
        edge: Edge = getattr(self, "from")
        return edge


Demands = Annotated[tuple[InflowConfig, ...], Field(strict=False)]
Trips = Annotated[tuple[TripsConfig, ...], Field(strict=False)]

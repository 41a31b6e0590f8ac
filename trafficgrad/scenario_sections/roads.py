"""Roads: networks of the builders and from files, routes on them, and how signals are controlled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from trafficgrad.config import StrictModel, error_at, name_kind
from trafficgrad.scenario_sections.numbers import Count, NonNegative, Positive

Edge = str | int  # its name or key, "node -> node", or its row
Numbers = Annotated[tuple[float, ...], Field(strict=False)]
Lengths = Annotated[tuple[Positive, ...], Field(strict=False)]
Names = Annotated[tuple[Edge, ...], Field(strict=False)]

_Lanes = Annotated[int, Field(ge=1)]
_WIDTH = Field(default=3.5, description="of a lane, m")


class _Road(StrictModel):
    length: Positive = Field(description="length of the whole road, m")
    lanes: _Lanes = Field(default=1, description="lanes side by side; lane 0 is the rightmost")
    edges: _Lanes = Field(default=1, description="pieces of equal length that the road is built of")
    speed_limit: Positive | None = Field(default=None, description="m/s; null = none")
    lane_width: Positive = Field(default=3.5, description="m")


class RingNetwork(_Road):
    """A closed circle."""

    kind: Literal["ring"]


class StraightNetwork(_Road):
    """A straight road with two ends."""

    kind: Literal["straight"]


class FigureEightNetwork(StrictModel):
    """A closed figure eight, whose straight roads cross at one junction."""

    kind: Literal["figure_eight"]
    radius: Positive = Field(default=30.0, description="of the loops, and half the length of the straight roads, m")
    lanes: _Lanes = Field(default=1, description="number of lanes")
    speed_limit: Positive = Field(default=30.0, description="m/s")
    right_of_way: Literal["priority", "all_way_stop"] = Field(default="priority", description="at the crossing")
    lane_width: Positive = _WIDTH


class MeterConfig(StrictModel):
    """A meter, the signal ``meter``: every green lets one waiting vehicle go on. Several lanes take turns."""

    rate: Positive = Field(description="vehicles/h, of all lanes; green and red together take 3600 s / rate")
    green: Positive = Field(default=2.0, description="s")
    distance: Positive = Field(default=80.0, description="from the stop line to where lanes join, m")

    @model_validator(mode="after")
    def _leaves_a_red(self) -> MeterConfig:
        if self.rate * self.green >= 3600.0:
            raise error_at(
                "rate",
                f"a green of {self.green:g} s for each vehicle leaves no red: expected a rate below "
                f"{3600.0 / self.green:g} vehicles/h, got {self.rate:g}",
            )
        return self


class MergeNetwork(StrictModel):
    """A highway that a ramp of one lane joins: ``highway_in``, ``ramp``, (``highway_merge``,) ``highway_out``."""

    kind: Literal["merge"]
    pre_merge_length: Positive = Field(default=600.0, description="highway before the merge, m")
    post_merge_length: Positive = Field(default=100.0, description="highway after the merge, m")
    ramp_length: Positive = Field(default=200.0, description="m")
    lanes: _Lanes = Field(default=1, description="of the highway")
    speed_limit: Positive = Field(default=30.0, description="m/s")
    ramp_speed_limit: Positive | None = Field(default=None, description="m/s; null = as on the highway")
    right_of_way: Literal["priority", "zipper"] = Field(
        default="priority", description="priority: the highway goes first; zipper: in turn"
    )
    acceleration_lane: NonNegative = Field(default=0.0, description="of the ramp, beside the highway, m; 0 = none")
    meter: MeterConfig | None = Field(default=None, description="null = none")
    lane_width: Positive = _WIDTH


class BottleneckNetwork(StrictModel):
    """A road that narrows twice, ``section_1`` to ``section_5``: of each pair of lanes one goes on, like a zip."""

    kind: Literal["bottleneck"]
    lanes: _Lanes = Field(default=4, description="at the beginning, a multiple of 4")
    speed_limit: Positive = Field(default=23.0, description="m/s")
    lengths: Lengths = Field(default=(100.0, 310.0, 140.0, 30.0, 155.0), description="of the five sections, m")
    meter: MeterConfig | None = Field(default=None, description="before the first narrowing; null = none")
    lane_width: Positive = _WIDTH


class _Signals(StrictModel):
    protected_left: bool = Field(default=False, description="left turns have a phase of their own")
    yellow: Positive = Field(default=3.0, description="s")
    all_red: NonNegative = Field(default=2.0, description="s")
    min_green: Positive = Field(default=5.0, description="shortest green of signals that are not fixed, s")
    max_green: Positive = Field(default=60.0, description="longest green of signals that are not fixed, s")
    lane_width: Positive = _WIDTH


class GridNetwork(_Signals):
    """A grid of two-way streets with a signal at every junction; section c of row r is ``east_R_C``, ``west_R_C``.

    Sections of columns are ``north_R_C`` and ``south_R_C``. Rows count from the south, columns from the west.
    """

    kind: Literal["grid"]
    rows: _Lanes = Field(default=3, description="streets from west to east")
    columns: _Lanes = Field(default=3, description="streets from south to north")
    inner_length: Positive = Field(default=300.0, description="between junctions, m")
    end_length: Positive = Field(default=300.0, description="from the outermost junctions to the streets' ends, m")
    lanes: _Lanes = Field(default=1, description="in each direction")
    speed_limit: Positive = Field(default=35.0, description="m/s")
    turns: bool = Field(default=True, description="whether one may turn at junctions")
    green: Positive = Field(default=31.0, description="s")
    left_green: NonNegative = Field(default=10.0, description="of protected left turns, s")
    yellow: Positive = Field(default=4.0, description="s")
    offsets: float | Numbers = Field(default=0.0, description="when the first phases begin, for all or each, s")


class IntersectionNetwork(_Signals):
    """A junction of two streets; for each side ``NAME_in`` (``NAME_in_approach``) and ``NAME_out``, NAME = east, ..."""

    kind: Literal["intersection"]
    lanes: _Lanes = Field(default=2, description="in each direction")
    arm_length: Positive = Field(default=200.0, description="from the middle to the outer end of an arm, m")
    control: Literal["signals", "priority", "all_way_stop"] = Field(
        default="signals", description="of the junction; priority: the east-west street goes first"
    )
    speed_limit: Positive = Field(default=13.9, description="m/s")
    left_lanes: Count = Field(default=1, description="turning lanes on each arm")
    pocket_length: Positive = Field(default=60.0, description="of the turning lanes, m")
    protected_left: bool = Field(default=True, description="left turns have a phase of their own")
    green: Positive = Field(default=30.0, description="s")
    left_green: NonNegative = Field(default=10.0, description="of protected left turns, s")
    offset: float = Field(default=0.0, description="when the first phase begins, s")


class RoundaboutNetwork(StrictModel):
    """A roundabout; for each arm ``NAME_in`` and ``NAME_out``, NAME = east, north, ... or arm_0, arm_1, ..."""

    kind: Literal["roundabout"]
    arms: int = Field(default=4, ge=2, description="roads that lead to it")
    radius: Positive = Field(default=20.0, description="of the middle of the ring road, m")
    lanes: int = Field(default=1, ge=1, le=2, description="of the ring and of every road in each direction")
    arm_length: Positive = Field(default=150.0, description="from the middle to the outer end of each arm, m")
    speed_limit: Positive = Field(default=13.9, description="of the arms, m/s")
    lane_width: Positive = _WIDTH


class HighwayNetwork(StrictModel):
    """A highway with an on-ramp, an off-ramp, both or none: ``highway_0``, ..., ``on_ramp``, ``off_ramp``."""

    kind: Literal["highway"]
    length: Positive = Field(default=3000.0, description="of the highway, m")
    lanes: _Lanes = Field(default=3, description="that go through")
    speed_limit: Positive = Field(default=33.3, description="m/s")
    on_ramp_at: Positive | None = Field(default=None, description="from the highway's start, m; null = no such ramp")
    off_ramp_at: Positive | None = Field(default=None, description="from the highway's start, m; null = no such ramp")
    acceleration_lane: Positive = Field(default=250.0, description="m")
    deceleration_lane: Positive = Field(default=200.0, description="m")
    ramp_length: Positive = Field(default=200.0, description="m")
    ramp_speed_limit: Positive = Field(default=22.2, description="m/s")
    lane_width: Positive = _WIDTH


class ArterialNetwork(_Signals):
    """A main street ``east_0``, ... and ``west_0``, ... with side streets ``north_in_J``, ``south_out_J``, ..."""

    kind: Literal["arterial"]
    junctions: _Lanes = Field(default=5, description="side streets, all with signals")
    spacing: Positive | Lengths = Field(default=300.0, description="between junctions, for all or each section, m")
    lanes: _Lanes = Field(default=2, description="of the main street in each direction")
    side_lanes: _Lanes = Field(default=1, description="of the side streets in each direction")
    side_length: Positive = Field(default=150.0, description="from the main street to the side streets' ends, m")
    end_length: Positive = Field(default=200.0, description="from the outermost junctions to the main street's ends, m")
    speed_limit: Positive = Field(default=13.9, description="m/s")
    left_lanes: Count = Field(default=0, description="turning lanes on the main street")
    pocket_length: Positive = Field(default=60.0, description="of the turning lanes, m")
    cycle: Positive = Field(default=60.0, description="s")
    green: Positive = Field(default=30.0, description="of the main street, s")
    left_green: NonNegative = Field(default=8.0, description="of protected left turns, s")
    offsets: float | Numbers = Field(
        default=0.0, description="when the main street's first phases begin, for all or each, s"
    )


class FileNetwork(StrictModel):
    """A network in the JSON format of trafficgrad."""

    kind: Literal["file"]
    path: str = Field(description="looked for beside the scenario, in the working folder and among the shipped maps")


class SumoNetwork(StrictModel):
    """A network of SUMO (.net.xml), and a demand for it."""

    kind: Literal["sumo"]
    path: str = Field(description="looked for beside the scenario, in the working folder and among the shipped maps")
    routes: str | Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        default=None, description="a route file or several; their vehicles come as the files say; null = none"
    )


class OsmNetwork(StrictModel):
    """The roads of an OpenStreetMap file."""

    kind: Literal["osm"]
    path: str = Field(description="looked for beside the scenario, in the working folder and among the shipped maps")


PlainNetwork = RingNetwork | StraightNetwork
MapNetwork = FileNetwork | SumoNetwork | OsmNetwork
BuiltNetwork = (
    FigureEightNetwork
    | MergeNetwork
    | BottleneckNetwork
    | GridNetwork
    | IntersectionNetwork
    | RoundaboutNetwork
    | HighwayNetwork
    | ArterialNetwork
)
NetworkConfig = Annotated[
    RingNetwork
    | StraightNetwork
    | FigureEightNetwork
    | MergeNetwork
    | BottleneckNetwork
    | GridNetwork
    | IntersectionNetwork
    | RoundaboutNetwork
    | HighwayNetwork
    | ArterialNetwork
    | FileNetwork
    | SumoNetwork
    | OsmNetwork,
    Field(discriminator="kind"),
    BeforeValidator(name_kind),
]


class SignalsConfig(StrictModel):
    """How all traffic signals of the network are controlled."""

    control: Literal["programme", "fixed", "actuated", "controlled"] = Field(
        default="programme",
        description="programme: as the network says; fixed: by the clock; actuated: green lasts while vehicles come; "
        "controlled: until an action asks for the next phase",
    )
    min_green: Positive | None = Field(
        default=None, description="shortest green of signals that are not fixed, s; null = as the network says"
    )
    max_green: Positive | None = Field(
        default=None, description="longest green of signals that are not fixed, s; null = as the network says"
    )


class RouteConfig(StrictModel):
    """A way through the network, for `demand` and for the vehicles that are there at the start."""

    name: str = Field(min_length=1, description="what `demand` calls it")
    edges: Names = Field(min_length=1, description="names of the edges, in driving order; each must lead to the next")
    loop: bool = Field(default=False, description="it begins again after its last edge")


Routes = Annotated[tuple[RouteConfig, ...], Field(strict=False)]

"""The records that the compiled kernel reads, member by member as in ``src/abi.h``, each eight bytes wide."""

from __future__ import annotations

import ctypes
import struct

PARAMETERS = (
    "desired_speed",
    "time_headway",
    "max_acceleration",
    "comfortable_deceleration",
    "min_gap",
    "exponent",
    "length",
    "noise_size",
    "speed_factor",
    "politeness",
    "threshold",
    "safe_deceleration",
    "right_bias",
    "change_cooldown",
    "change_min_gap",
)

# Tables of junction lanes: whole numbers, and metres.
JUNCTIONS = (
    *("is_junction", "origin", "target", "gated", "crosses", "merges", "gives_way", "zips", "parts", "stop", "rank"),
    *("signal", "signal_index", "foe", "kind"),
)
JUNCTION_PLACES = ("narrows", "apart", "waits_at", "own_entry", "own_exit", "foe_entry", "foe_exit")
# Tables of inflows: whole numbers, and what has the state's dtype.
INFLOWS = (
    *("inflow_poisson", "inflow_scheduled", "inflow_listed", "inflow_route", "listed_route", "times_start"),
    *("times_count", "inflow_first_driver", "inflow_drivers", "door_edge", "door_lane", "door_allowed"),
)
INFLOW_REALS = ("inflow_end", "times", "door_speed")
RIGHT_OF_WAY = ("time_gap", "safe_deceleration", "stop_deceleration", "reaction_time", "zip_distance")

_whole, _pointer, _real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_EACH = len(PARAMETERS)


class Setup(ctypes.Structure):
    """What stays the same from step to step: the road, the fleet, the rules."""

    _fields_ = (
        *((name, _whole) for name in ("lanes", "edges", "road_edges", "max_lanes", "chains", "closed", "crossings")),
        ("routes", _whole),
        *((name, _pointer) for name in ("edge", "number", "left", "right", "successor", "predecessor", "chain")),
        *((name, _pointer) for name in ("first_lane", "edge_lanes", "length", "width")),
        ("levels", _whole),
        *((name, _pointer) for name in ("ahead", "behind", "ahead_passed", "behind_passed")),
        ("has_limits", _whole),
        ("speed_limit", _pointer),
        ("limit_stride", _whole),
        *((name, _whole) for name in ("branched", "hops", "foes")),
        *((name, _pointer) for name in JUNCTIONS),
        *((name, _pointer) for name in JUNCTION_PLACES),
        *((name, _pointer) for name in ("next_lane", "following_row", "ends", "change", "route_start", "reach")),
        *((name, _real) for name in RIGHT_OF_WAY),
        *((name, _whole) for name in ("signals", "phases", "letters", "signal_mode")),
        ("headway", _real),
        *((name, _pointer) for name in ("durations", "offset", "shortest", "longest")),
        *((name, _whole) for name in ("durations_stride", "offset_stride")),
        *((name, _pointer) for name in ("letter", "signal_kind", "phase_count")),
        *((name, _whole) for name in ("inflows", "inflow_routes", "door_hops")),
        *((name, _pointer) for name in (*INFLOWS, *INFLOW_REALS, "inflow_share", "inflow_controlled")),
        ("controlled", _whole),
        *((name, _pointer) for name in ("slot", "control", "limited")),
        ("value", _pointer * _EACH),
        *((name, _whole * _EACH) for name in ("world_stride", "driver_stride", "rows")),
        *((name, _whole) for name in ("fourth_power", "is_polite", "is_biased")),
        *((name, _real) for name in ("dt", "max_braking")),
        *((name, _whole) for name in ("integrator", "paper_gap", "changes_lanes", "alternates")),
        *((name, _real) for name in ("choice_min_gap", "choice_safe", "choice_own", "choice_cooldown")),
        *((name, _whole) for name in ("mode", "everybody")),
        *((name, _real) for name in ("temperature", "choice_temperature", "decay", "transition_width")),
        ("contrast", _whole),
        *((name, _real) for name in ("contrast_low", "contrast_high")),
    )


# The members of a call, in order; all are whole numbers or addresses, 0 = missing.
CALL = (
    *("worlds", "vehicles", "steps", "threads", "soft", "keeps_sides", "order"),
    *("position", "speed", "lateral", "heading", "cooldown", "lane", "previous", "driver", "active", "time", "left"),
    *("route", "route_index", "right_of_way", "passed", "phase", "phase_time"),
    *("arrivals", "inserted", "next_arrival", "next_id", "vehicle_id", "seed", "rate", "rate_stride"),
    *("acceleration", "request", "steering", "noise", "signal_request"),
    *("next_position", "next_speed", "next_lateral", "next_heading", "next_cooldown"),
    *("next_lane", "next_previous", "next_active", "next_time", "next_left"),
    *("next_route_index", "next_right_of_way", "next_passed", "next_phase", "next_phase_time"),
    *("next_driver", "next_vehicle_id", "next_route", "next_arrivals", "next_inserted", "next_next_arrival"),
    "next_next_id",
    *("held", "granted", "overlaps"),
    *("coming", "coming_distance"),
    *("saved", "failed"),
    *("bar_next_position", "bar_next_speed", "bar_next_lateral", "bar_next_heading", "bar_next_cooldown"),
    *("bar_next_passed", "bar_next_next_arrival"),
    *("bar_position", "bar_speed", "bar_lateral", "bar_heading", "bar_cooldown", "bar_passed", "bar_next_arrival"),
    *("bar_acceleration", "bar_request", "bar_steering", "bar_noise"),
    *("bar_speed_limit", "bar_durations", "bar_offset", "bar_rate"),
    *(f"bar_{name}_value" for name in PARAMETERS),
)
pack_call = struct.Struct(f"={len(CALL)}q").pack
CALL_BYTES = 8 * len(CALL)

# The members of a sight, in order; all are addresses, 0 = missing.
SIGHT = (
    *("leader", "follower", "gap", "follower_gap", "closing", "follower_closing"),
    *("gate", "gate_distance", "end_distance", "slow", "slow_distance"),
    *("bar_gap", "bar_follower_gap", "bar_closing", "bar_follower_closing"),
    *("bar_gate_distance", "bar_end_distance", "bar_slow_distance", "bar_length"),
)
pack_sight = struct.Struct(f"={len(SIGHT)}q").pack
SIGHT_BYTES = 8 * len(SIGHT)

# What an environment can ask for about the states of a decision, in the kernel's order.
TERMS = ("pace", "mean_speed", "speed_deviation", "acceleration", "collision")
MEASURES = (
    *("mean_speed", "speed_deviation", "standing", "lane_changes", "collisions", "vehicles", "left", "speed_error"),
)
MOST_OTHERS = 16


class WishRecord(ctypes.Structure):
    """What an environment wants to know; the same from decision to decision."""

    _fields_ = (
        *((name, _pointer) for name in ("place", "circumference")),
        *((name, _whole) for name in ("sees", "others")),
        *((name, _real) for name in ("target_speed", "speed_scale", "gap_scale", "distance_scale", "beside_distance")),
        ("earns", _whole * len(TERMS)),
        ("scale", _real * len(TERMS)),
        *((name, _whole) for name in ("fails_overlapping", "fails_off_road", "fails_overtaken")),
        *((name, _real) for name in ("nearest", "farthest", "target", "standing")),
    )


class FollowingRecord(ctypes.Structure):
    """Drivers behind recorded leaders."""

    _fields_ = (
        *((name, _whole) for name in ("times", "rows", "integrator", "paper_gap", "fourth_power", "wanted")),
        ("dt", _real),
        *((name, _pointer) for name in ("which", "value", "leader_rear", "leader_speed", "first_speed")),
        *((name, _pointer) for name in ("position", "speed", "position_slope", "speed_slope")),
    )


# The members of an outcome, in order; all are whole numbers or addresses, 0 = missing.
OUTCOME = ("wish", "observation", "term", "measure", "failed", "collided", "bar_observation", "bar_term")
pack_outcome = struct.Struct(f"={len(OUTCOME)}q").pack
OUTCOME_BYTES = 8 * len(OUTCOME)

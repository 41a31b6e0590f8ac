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

_whole, _pointer, _real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_EACH = len(PARAMETERS)


class Setup(ctypes.Structure):
    """What stays the same from step to step: the road, the fleet, the rules."""

    _fields_ = (
        *((name, _whole) for name in ("lanes", "edges", "max_lanes", "chains", "closed", "crossings")),
        *((name, _pointer) for name in ("edge", "number", "left", "right", "successor", "predecessor", "chain")),
        *((name, _pointer) for name in ("first_lane", "edge_lanes", "length", "width")),
        ("levels", _whole),
        *((name, _pointer) for name in ("ahead", "behind", "ahead_passed", "behind_passed")),
        ("has_limits", _whole),
        ("speed_limit", _real),
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
    *("worlds", "vehicles", "steps", "threads", "soft", "order"),
    *("position", "speed", "lateral", "heading", "cooldown", "lane", "previous", "driver", "active", "time", "left"),
    *("acceleration", "request", "steering", "noise"),
    *("next_position", "next_speed", "next_lateral", "next_heading", "next_cooldown"),
    *("next_lane", "next_previous", "next_active", "next_time", "next_left"),
    *("saved", "failed"),
    *("bar_next_position", "bar_next_speed", "bar_next_lateral", "bar_next_heading", "bar_next_cooldown"),
    *("bar_position", "bar_speed", "bar_lateral", "bar_heading", "bar_cooldown"),
    *("bar_acceleration", "bar_request", "bar_steering", "bar_noise"),
    *(f"bar_{name}_value" for name in PARAMETERS),
)
pack_call = struct.Struct(f"={len(CALL)}q").pack
CALL_BYTES = 8 * len(CALL)

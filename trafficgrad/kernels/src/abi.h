// The plain C interface of the fused step. Every member is eight bytes wide, so that the layout is the same everywhere;
// trafficgrad/kernels/layout.py lists the members in the same order, and a test compares the two.
// "real" stands for float or double, as the entry point's name says. B worlds, N vehicle slots, C controlled vehicles,
// A lanes, T steps. Indices are checked before they get here.
#pragma once
#include <cstdint>

// Parameters per driver, in the order of Setup's values.
enum Parameter : int {
    DESIRED_SPEED, TIME_HEADWAY, MAX_ACCELERATION, COMFORTABLE_DECELERATION, MIN_GAP, EXPONENT,
    LENGTH, NOISE_SIZE, SPEED_FACTOR,
    POLITENESS, THRESHOLD, SAFE_DECELERATION, RIGHT_BIAS, CHANGE_COOLDOWN, CHANGE_MIN_GAP,
    PARAMETERS
};

enum Integrator : int64_t { BALLISTIC, SEMI_IMPLICIT_EULER, EXPLICIT_EULER };
enum Mode : int64_t { BLOCKED, STRAIGHT_THROUGH, SIGMOID };
enum Contrast : int64_t { UNBOUNDED, LIMITS, DRIVERS };
enum Control : int32_t { ACCELERATION, LANE, STEERED };

// What a world is refused for before anything is computed.
enum Failure : int64_t {
    NONE, MEMORY, BAD_LANE, BAD_DRIVER, BAD_ACCELERATION, BAD_REQUEST, BAD_STEERING, BAD_PREVIOUS, BAD_RIGHT_OF_WAY,
    BAD_ROUTE, BAD_ROUTE_INDEX, BAD_PHASE, BAD_SIGNAL
};

// What stays the same from step to step.
struct Setup {
    // the road; among `edges` every junction lane counts as one
    int64_t lanes, edges, road_edges, max_lanes, chains, closed, crossings, routes;
    const int32_t *edge, *number, *left, *right, *successor, *predecessor, *chain;  // [A], -1 = none
    const int32_t *first_lane, *edge_lanes;                                                        // [edges]
    const void *length, *width;                                                                    // real [A]
    int64_t levels;                            // of the tables that follow, [levels, A]: the lane 2^j places ahead
    const int32_t *ahead, *behind;             // (behind) along the road, and the length of the lanes passed on the
    const void *ahead_passed, *behind_passed;  // way, the reached one included
    int64_t has_limits;
    const void *speed_limit;  // real [A], [B, A] with a stride between worlds
    int64_t limit_stride;
    // roads that meet and part: junction lanes [A], their foes [A, foes], -1 = none
    int64_t branched, hops, foes;
    const int32_t *is_junction, *origin, *target, *gated, *crosses, *merges, *gives_way, *zips, *parts, *stop, *rank;
    const int32_t *signal, *signal_index, *foe, *kind;
    const void *narrows, *apart, *waits_at;                      // real [A]
    const void *own_entry, *own_exit, *foe_entry, *foe_exit;     // real [A, foes]
    // the plan: rows [X], lanes of an edge [X, max_lanes], first row of each route
    const int32_t *next_lane, *following_row, *ends, *change, *route_start;
    const void *reach;  // real [X, max_lanes]
    double time_gap, safe_deceleration, stop_deceleration, reaction_time, zip_distance;
    // signals: phases [S, P], letters [S, P, letters]; durations and offsets with a stride between worlds
    int64_t signals, phases, letters, signal_mode;
    double headway;
    const void *durations, *offset, *shortest, *longest;
    int64_t durations_stride, offset_stride;
    const int32_t *letter, *signal_kind, *phase_count;
    // demand: inflows [Q], their routes [Q, inflow_routes], lanes of their edges [Q, max_lanes], scheduled times
    int64_t inflows, inflow_routes, door_hops;
    const int32_t *inflow_poisson, *inflow_scheduled, *inflow_listed, *inflow_route, *listed_route, *times_start;
    const int32_t *times_count, *inflow_first_driver, *inflow_drivers, *door_edge, *door_lane, *door_allowed;
    const void *inflow_end, *times, *door_speed;        // real
    const double *inflow_share, *inflow_controlled;     // cumulative; of those who come
    // the fleet
    int64_t controlled;
    const int32_t *slot, *control, *limited;  // [C]
    // parameters per driver: value[b * world_stride + driver * driver_stride]
    const void *value[PARAMETERS];
    int64_t world_stride[PARAMETERS], driver_stride[PARAMETERS], rows[PARAMETERS];
    int64_t fourth_power, is_polite, is_biased;  // exponent is the number 4; politeness, right_bias are not the number 0
    // rules
    double dt, max_braking;
    int64_t integrator, paper_gap, changes_lanes, alternates;
    double choice_min_gap, choice_safe, choice_own, choice_cooldown;
    // gradients
    int64_t mode, everybody;
    double temperature, choice_temperature, decay, transition_width;
    int64_t contrast;
    double contrast_low, contrast_high;
};

// One call: a step, or T of them. Missing arrays are null.
struct Call {
    int64_t worlds, vehicles, steps, threads, soft;
    int64_t keeps_sides;  // who is in the lanes beside is kept for the way back, instead of searched again
    int32_t *order;  // [B, N] a permutation of the slots, any one: a hint that is renewed
    // the state before, [B, N]; time and left [B]
    const void *position, *speed, *lateral, *heading, *cooldown;
    const int64_t *lane, *previous, *driver;
    const uint8_t *active;
    const void *time;
    const int64_t *left;
    // on roads that meet and part; phase and its time [B, S]
    const int64_t *route, *route_index, *right_of_way;
    const void *passed;
    const int64_t *phase;
    const void *phase_time;
    // where vehicles come, [B, Q]; next_id and seed [B]; rate [Q] or [B, Q]
    const int64_t *arrivals, *inserted;
    const void *next_arrival;
    const int64_t *next_id, *vehicle_id, *seed;
    const void *rate;
    int64_t rate_stride;
    // what is done: acceleration, request, steering [T, B, C], noise [T, B, N], what signals are asked for [T, B, S]
    const void *acceleration, *request, *steering, *noise, *signal_request;
    // the states after, [T, B, N]; time and left [T, B]
    void *next_position, *next_speed, *next_lateral, *next_heading, *next_cooldown;
    int64_t *next_lane, *next_previous;
    uint8_t *next_active;
    void *next_time;
    int64_t *next_left;
    int64_t *next_route_index, *next_right_of_way;
    void *next_passed;
    int64_t *next_phase;
    void *next_phase_time;
    int64_t *next_driver, *next_vehicle_id, *next_route, *next_arrivals, *next_inserted;
    void *next_next_arrival;
    int64_t *next_next_id;
    // With `held` the action [B, C] is that of all steps, and a request is dropped once it is granted: at which step, -1 =
    // never, [B, C]. Its cotangent is that of the granting step, or the mean over all of them.
    int64_t held;
    int64_t *granted;
    uint8_t *overlaps;      // [T, B] somebody is within the vehicle ahead, before each step
    int64_t *coming;        // [B, A] who comes to each lane next, and from how far away; beside a sight
    void *coming_distance;  // real
    void *saved;      // [T, saved_bytes] for the way back; null = not needed
    int64_t *failed;  // [3] Failure, world, slot or row of `controlled`: what was refused, unchanged if nothing was
    // cotangents of the states after, [T, B, N], and of what led to them, which are written; parameters' [B, rows]
    const void *bar_next_position, *bar_next_speed, *bar_next_lateral, *bar_next_heading, *bar_next_cooldown;
    const void *bar_next_passed, *bar_next_next_arrival;
    void *bar_position, *bar_speed, *bar_lateral, *bar_heading, *bar_cooldown;
    void *bar_passed, *bar_next_arrival, *bar_acceleration, *bar_request, *bar_steering, *bar_noise;
    void *bar_speed_limit, *bar_durations, *bar_offset, *bar_rate;  // [B, A], [B, S, P], [B, S], [B, Q]
    void *bar_value[PARAMETERS];
};

// Who surrounds whom, [B, N, 3], and what lies ahead, [B, N, 3 gates] and [B, N]; beside a call of one step. Its own
// cotangents are added to: those of lengths [B, N], and the call's of positions and speeds.
struct Sight {
    int64_t *leader, *follower;
    void *gap, *follower_gap, *closing, *follower_closing;
    int64_t *gate;
    void *gate_distance, *end_distance;
    int64_t *slow;
    void *slow_distance;
    const void *bar_gap, *bar_follower_gap, *bar_closing, *bar_follower_closing;
    const void *bar_gate_distance, *bar_end_distance, *bar_slow_distance;
    void *bar_length;
};

// What an environment wants to know of the states that its decision leads to.
enum Sees : int64_t { SEES_NOTHING, SEES_LOCAL, SEES_WORLD };
enum Term : int { TERM_PACE, TERM_MEAN_SPEED, TERM_SPEED_DEVIATION, TERM_EFFORT, TERM_COLLISION, TERMS };
enum Measure : int {
    MEASURE_MEAN_SPEED, MEASURE_SPEED_DEVIATION, MEASURE_STANDING, MEASURE_LANE_CHANGES, MEASURE_COLLISIONS,
    MEASURE_VEHICLES, MEASURE_LEFT, MEASURE_SPEED_ERROR, MEASURES
};
constexpr int MOST_OTHERS = 16;  // controlled vehicles that are shown to another one

struct Wish {
    const void *place, *circumference;  // real [A]: where the lane begins along its chain, how long a closed one is
    int64_t sees, others;
    double target_speed, speed_scale, gap_scale, distance_scale, beside_distance;
    int64_t earns[TERMS];
    double scale[TERMS];  // of the pace: its target
    int64_t fails_overlapping, fails_off_road, fails_overtaken;
    double nearest, farthest;  // of centres, m; 0 and infinite = no test
    double target, standing;   // speeds of MEASURE_SPEED_ERROR, MEASURE_STANDING
};

// What it is told. The cotangents of the states after are then those of the last one alone, [B, N].
struct Outcome {
    const Wish *wish;
    void *observation;  // real [B, C, O]; of the world [B, 4 N]
    void *term;         // real [TERMS, B], means over the steps
    void *measure;      // real [MEASURES, B]
    uint8_t *failed, *collided;                    // [B] in any state after a step
    const void *bar_observation, *bar_term;
};

// Drivers behind recorded leaders: M rows of T times, double throughout. Positions count from each row's first.
struct Following {
    int64_t times, rows, integrator, paper_gap, fourth_power, wanted;  // wanted: P slopes
    double dt;
    const int64_t *which;                           // [P], among desired speed to exponent, the parameters of IDM
    const double *value;                            // [M, 6], of every row's driver
    const double *leader_rear, *leader_speed;       // [T, M]; rear inf = nobody
    const double *first_speed;                      // [M]
    double *position, *speed;                       // [T, M]
    double *position_slope, *speed_slope;           // [T, M, P], or null
};

#if defined(_WIN32)
#define TRAFFICGRAD_EXPORT extern "C" __declspec(dllexport)
#else
#define TRAFFICGRAD_EXPORT extern "C" __attribute__((visibility("default")))
#endif

TRAFFICGRAD_EXPORT void trafficgrad_sizes(int64_t *sizes);  // of Setup, Call, Sight, Wish, Outcome, Following
TRAFFICGRAD_EXPORT const char *trafficgrad_variant(void);       // the build that runs
TRAFFICGRAD_EXPORT int64_t trafficgrad_use(const char *variant);  // another build; 0 where this CPU cannot run it
TRAFFICGRAD_EXPORT int64_t trafficgrad_saved_bytes(
    const Setup *setup, int64_t worlds, int64_t vehicles, int64_t keeps_sides, int64_t real_bytes);
TRAFFICGRAD_EXPORT void trafficgrad_forward_float(const Setup *setup, const Call *call, const Outcome *outcome);
TRAFFICGRAD_EXPORT void trafficgrad_forward_double(const Setup *setup, const Call *call, const Outcome *outcome);
TRAFFICGRAD_EXPORT void trafficgrad_backward_float(const Setup *setup, const Call *call, const Outcome *outcome);
TRAFFICGRAD_EXPORT void trafficgrad_backward_double(const Setup *setup, const Call *call, const Outcome *outcome);
TRAFFICGRAD_EXPORT void trafficgrad_look_float(const Setup *setup, const Call *call, const Sight *sight);
TRAFFICGRAD_EXPORT void trafficgrad_look_double(const Setup *setup, const Call *call, const Sight *sight);
TRAFFICGRAD_EXPORT void trafficgrad_look_back_float(const Call *call, const Sight *sight);
TRAFFICGRAD_EXPORT void trafficgrad_look_back_double(const Call *call, const Sight *sight);
TRAFFICGRAD_EXPORT void trafficgrad_follow(const Following *following);

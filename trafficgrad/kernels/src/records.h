// What is known of vehicles and lanes where roads meet and part, as arrays.
#pragma once
#include "memory.h"

namespace TG_VARIANT {
namespace {

constexpr int GATES = 3;  // how many of them a driver thinks of at a time
template <class T> constexpr T LOOK_AHEAD = T(300.0);
template <class T> constexpr T CRAWL = T(0.5);

// What lies ahead of every vehicle of the group [N] along its way; distances are from the own lane's origin.
template <class T> struct AheadOf {
    int32_t *row;           // of the plan
    int32_t *gate[GATES];   // lanes that take the right of way, -1 = none
    T *gate_offset[GATES];  // infinite = none
    T *end_offset;          // where the lane ends without leading on; infinite = it does not
    int32_t *slow;          // lane whose lower speed limit is the next to matter, -1 = none
    T *slow_offset;
    int32_t *beyond;        // first vehicle met beyond the own edge, -1 = none
    T *beyond_offset;

    void reserve(int64_t n, Pieces &p) {
        row = p.take<int32_t>(n);
        for (int g = 0; g < GATES; ++g) {
            gate[g] = p.take<int32_t>(n);
            gate_offset[g] = p.take<T>(n);
        }
        end_offset = p.take<T>(n);
        slow = p.take<int32_t>(n);
        slow_offset = p.take<T>(n);
        beyond = p.take<int32_t>(n);
        beyond_offset = p.take<T>(n);
    }
};

// Per lane of one world.
template <class T> struct LaneSight {
    int32_t *departing;  // last vehicle whose front has left the lane and whose rear has not, -1 = none
    int32_t *coming;     // vehicle that comes to the lane next
    T *coming_time, *coming_distance;

    void reserve(int64_t lanes, Pieces &p) {
        departing = p.take<int32_t>(lanes);
        coming = p.take<int32_t>(lanes);
        coming_time = p.take<T>(lanes);
        coming_distance = p.take<T>(lanes);
    }
};

constexpr int ROUNDS = 2 + GATES;  // on the way into a lane: who is inside, who asks, who may enter its gates

// What bounds a driver's acceleration; for the way back.
enum Bound : uint8_t {
    BY_LEADER,     // the own lane's
    BY_VEHICLE,    // another one to follow; only places and speeds have gradients
    BY_ROOM,       // one in the lane beside, for whom room is made or who makes it
    BY_ZIP,        // room for who comes before where lanes join
    BY_COMFORT,    // that room, as far as comfortable braking goes
    BY_WALL,       // the lane's end
    BY_NOTHING     // a constant
};

// Outcome of a step's decisions at junctions, per slot of the group; K = ROUNDS + 1 others to follow.
template <class T> struct Passage {
    int32_t *right_of_way;  // last junction lane that may be entered, -1 = none
    int32_t *gate;          // the lane of the gate that is next, -1 = none
    T *gate_distance;       // m; from here
    uint8_t *closed, *enters;
    uint8_t *follows;  // bit r: there is a leader[r]; else it means nothing
    int32_t *leader[ROUNDS + 1];
    T *leader_gap[ROUNDS + 1];
    int32_t *zip_leader;
    T *zip_gap;

    void reserve(int64_t n, Pieces &p) {
        right_of_way = p.take<int32_t>(n);
        gate = p.take<int32_t>(n);
        gate_distance = p.take<T>(n);
        closed = p.take<uint8_t>(n);
        enters = p.take<uint8_t>(n);
        follows = p.take<uint8_t>(n);
        for (int k = 0; k <= ROUNDS; ++k) {
            leader[k] = p.take<int32_t>(n);
            leader_gap[k] = p.take<T>(n);
        }
        zip_leader = p.take<int32_t>(n);
        zip_gap = p.take<T>(n);
    }
};

// Somebody on the way into a lane.
template <class T> struct Member {
    T to_go;
    int32_t lane, entry;  // entry = round * vehicles + slot

    bool operator<(const Member &other) const {
        if (lane != other.lane) return lane < other.lane;
        return to_go < other.to_go || (to_go == other.to_go && entry < other.entry);
    }
};

// Buffers of one world.
template <class T> struct PassageWork {
    // per slot
    uint8_t *waits, *inside, *kept, *held, *approaches, *near, *able, *asks, *comes, *could_wait, *granted, *joins, *zips;
    uint8_t *is_open, *first_behind;
    uint8_t *number;     // gates that are kept
    int32_t *way, *rank, *letter;
    T *distance, *arrival;
    T *apart[ROUNDS];
    // per lane
    uint8_t *blocked, *somebody, *slow;
    T *room, *first_time, *coming_time, *last_rear, *waiting_rear, *busy;
    int32_t *first_slot, *coming_rank, *last_slot;
    int32_t *body_head;  // bodies on every lane, as a list
    int32_t *body_next;  // [2 N]
    Member<T> *members;  // [ROUNDS * N]

    void reserve(int64_t n, int64_t lanes, Pieces &p) {
        for (uint8_t **x : {&waits, &inside, &kept, &held, &approaches, &near, &able, &asks, &comes, &could_wait,
                            &granted, &joins, &zips, &is_open, &first_behind, &number})
            *x = p.take<uint8_t>(n);
        for (int32_t **x : {&way, &rank, &letter}) *x = p.take<int32_t>(n);
        for (T **x : {&distance, &arrival}) *x = p.take<T>(n);
        for (T *&x : apart) x = p.take<T>(n);
        for (uint8_t **x : {&blocked, &somebody, &slow}) *x = p.take<uint8_t>(lanes);
        for (T **x : {&room, &first_time, &coming_time, &last_rear, &waiting_rear, &busy}) *x = p.take<T>(lanes);
        for (int32_t **x : {&first_slot, &coming_rank, &last_slot, &body_head}) *x = p.take<int32_t>(lanes);
        body_next = p.take<int32_t>(2 * n);
        members = p.take<Member<T>>(ROUNDS * n);
    }
};

enum SpeedFrom : uint8_t { BY_WISH, BY_LIMIT, BY_LOWER_LIMIT };
enum GateFlag : uint8_t { GATE_BINDS = 1, GATE_ENTERS = 2, TURNS_RED = 4, TURNS_GREEN = 8, WAITS = 16, METERS = 32 };

// What a step on such roads leaves for the way back, per slot of the group.
template <class T> struct RoadTrace {
    T *speed;                // desired, with all limits
    uint8_t *from, *exists;  // SpeedFrom; bit 0: the right lane may be entered, bit 1: the left one
    int32_t *slow;           // lane of the lower limit ahead
    T *slow_distance;
    uint8_t *bound;          // Bound
    int32_t *leader;
    T *gap;
    uint8_t *gate;           // GateFlag
    T *gate_distance;        // to the line
    T *stop_distance;        // to where one stops
    T *value;                // what car following comes to in the end
    int32_t *signal;

    void reserve(int64_t n, Pieces &p) {
        for (uint8_t **x : {&from, &exists, &bound, &gate}) *x = p.take<uint8_t>(n);
        for (int32_t **x : {&slow, &leader, &signal}) *x = p.take<int32_t>(n);
        for (T **x : {&speed, &slow_distance, &gap, &gate_distance, &stop_distance, &value}) *x = p.take<T>(n);
    }
};

// Right, own and left lane as the route sees them, per slot of the group.
template <class T> struct RouteNeed {
    T *cost[3], *urgency;
    int32_t *side;  // -1 right, 0, +1 left: where the lane lies that leads on

    void reserve(int64_t n, Pieces &p) {
        for (T *&x : cost) x = p.take<T>(n);
        urgency = p.take<T>(n);
        side = p.take<int32_t>(n);
    }
};

// What of a driver decides how it enters the road.
template <class T> struct Entrant {
    T length, v0, th, b, s0, e, factor;
};

// Who enters in a step, one a inflow; for the way back. Per inflow of the worlds of the group.
template <class T> struct Admitted {
    int32_t *slot;           // where it enters, -1 = nobody does
    int32_t *leader, *lane;  // slot of who is ahead, -1 = nobody
    int32_t *driver_before;  // whose slot it was
    T *since;                // s since it came, if it came in this step; else -1
    T *gap;                  // to the leader

    void reserve(int64_t count, Pieces &p) {
        for (int32_t **x : {&slot, &leader, &lane, &driver_before}) *x = p.take<int32_t>(count);
        for (T **x : {&since, &gap}) *x = p.take<T>(count);
    }
};

template <class T> struct Entering {
    T position, speed;
    int32_t slot, lane, route, driver, inflow;
};

// Queues in front of a group of worlds, and buffers of one.
template <class T> struct Doors {
    int64_t *arrivals, *inserted;  // [worlds * inflows]
    T *next_arrival, *bar_next_arrival;
    int64_t *next_id;              // [worlds]
    int64_t *vehicle_id;           // [N]
    int32_t *comes;                // [worlds * lanes] who comes to each lane next, before the step
    T *comes_distance;
    // per inflow of a world
    T *since, *wait;
    int32_t *queue, *taken;
    Entering<T> *entering;
    // per lane
    T *rear;
    int32_t *last;  // slot of the last body, -1 = none

    void reserve(int64_t n, int64_t worlds, int64_t inflows, int64_t lanes, Pieces &p) {
        for (int64_t **x : {&arrivals, &inserted}) *x = p.take<int64_t>(worlds * inflows);
        for (T **x : {&next_arrival, &bar_next_arrival}) *x = p.take<T>(worlds * inflows);
        next_id = p.take<int64_t>(worlds);
        vehicle_id = p.take<int64_t>(n);
        comes = p.take<int32_t>(worlds * lanes);
        comes_distance = p.take<T>(worlds * lanes);
        for (T **x : {&since, &wait}) *x = p.take<T>(inflows);
        for (int32_t **x : {&queue, &taken}) *x = p.take<int32_t>(inflows);
        entering = p.take<Entering<T>>(inflows);
        rear = p.take<T>(lanes);
        last = p.take<int32_t>(lanes);
    }
};

}  // namespace
}  // namespace TG_VARIANT

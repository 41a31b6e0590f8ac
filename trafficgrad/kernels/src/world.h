// Working memory of a group of worlds, and what every stage of a step reads. Small worlds are computed side by side, so
// that loops are long: the group's N slots are those of its worlds behind each other.
#pragma once
#include "abi.h"
#include "idm.h"
#include "memory.h"
#include "records.h"
#include "roads.h"

namespace TG_VARIANT {
namespace {

// The state of a group while its steps are computed.
template <class T> struct Cars {
    T *position, *speed, *lateral, *heading, *cooldown;  // [N]
    int32_t *lane, *previous, *active;                   // [N]
    // where roads meet and part
    int32_t *route, *route_index, *right_of_way;
    T *passed;

    // `routes`: where roads meet and part, or vehicles come.
    void reserve(int64_t n, bool routes, Pieces &pieces) {
        position = pieces.take<T>(n);
        speed = pieces.take<T>(n);
        lateral = pieces.take<T>(n);
        heading = pieces.take<T>(n);
        cooldown = pieces.take<T>(n);
        if (routes) {
            route = pieces.take<int32_t>(n);
            route_index = pieces.take<int32_t>(n);
            right_of_way = pieces.take<int32_t>(n);
            passed = pieces.take<T>(n);
        }
        lane = pieces.take<int32_t>(n);
        previous = pieces.take<int32_t>(n);
        active = pieces.take<int32_t>(n);
    }
};

enum Event : uint8_t { CHANGED_LANE = 1, STUCK = 2 };

// What a step leaves for the way back: who is around whom, and who changed lane.
template <class T> struct Trace {
    Around<T> around;
    uint8_t *changed;  // CHANGED_LANE, STUCK at a lane's end
    T *there[2], *with[2];  // as the world's; of the lanes that drivers looked at
    RoadTrace<T> road;
    Admitted<T> admitted;

    // `sides`: of the lanes beside too; only gradients through lane choices need them. `inflows`: of all worlds.
    void reserve(int64_t n, bool sides, bool branched, int64_t inflows, Pieces &pieces) {
        if (branched) road.reserve(n, pieces);
        if (inflows) admitted.reserve(inflows, pieces);
        changed = pieces.take<uint8_t>(n);
        around.leader[OWN] = pieces.take<int32_t>(n);
        around.gap[OWN] = pieces.take<T>(n);
        if (sides) reserve_sides(n, pieces);
    }

    void reserve_sides(int64_t n, Pieces &pieces) {
        around.follower[OWN] = pieces.take<int32_t>(n);
        around.follower_gap[OWN] = pieces.take<T>(n);
        for (int k : {RIGHT, LEFT}) {
            around.leader[k] = pieces.take<int32_t>(n);
            around.follower[k] = pieces.take<int32_t>(n);
            around.gap[k] = pieces.take<T>(n);
            around.follower_gap[k] = pieces.take<T>(n);
        }
        for (int k = 0; k < 2; ++k) {
            there[k] = pieces.take<T>(n);
            with[k] = pieces.take<T>(n);
        }
    }
};

// Cotangents of a world's state, and of the parameters of its slots. One place more than slots, for "nobody".
template <class T> struct Bars {
    T *position, *speed, *lateral, *heading, *cooldown, *passed;

    void reserve(int64_t n, Pieces &pieces) {
        passed = pieces.take<T>(n + 1);
        position = pieces.take<T>(n + 1);
        speed = pieces.take<T>(n + 1);
        lateral = pieces.take<T>(n + 1);
        heading = pieces.take<T>(n + 1);
        cooldown = pieces.take<T>(n + 1);
    }
};

// A steered vehicle after its step.
template <class T> struct Pose {
    T way, speed, lateral;
};

template <class T> struct World {
    Cars<T> cars;
    Drivers<T> drivers, bar;
    Trace<T> trace;        // where nothing is to be kept
    Search<T> search;
    int32_t *present;      // [N] on the road
    int32_t *row;          // [N] of `controlled`, -1 = a driver
    T *following;          // [N] what car following asks for
    T *relaxed;            // [N] the same, in sigmoid mode with the lanes weighed
    T *acceleration;       // [N]
    T *carried;            // [N] acts after the stop rule
    T *moved;              // [N] m
    T *there[2], *with[2]; // [N] right and left lane: own acceleration, and the follower's behind the vehicle
    T *without;            // [N] the present follower's without the vehicle
    T *worth[2];           // [N] MOBIL's incentive, -inf where it is not feasible
    T *share[2], *stays;   // [N] weights of the right, the left and the own lane, pi
    T *best, *change_gap;  // [N] incentive of the decision; the gap below which it is refused
    int32_t *wish;         // [N] -1 right, 0 stay, 1 left
    int32_t *gap_winner;   // [N + worlds * chains]
    int32_t *wanting;      // [N]
    Pose<T> *steered;      // [worlds * C]
    int32_t *world;        // [N] of the group
    int64_t *driver;       // [N]
    T *time;               // [worlds]
    int64_t *left;         // [worlds]
    T *there_weight, *human_weight;  // [N] 1 = on the road; and not controlled
    T *overlapping;        // [worlds] states in which somebody was within the vehicle ahead
    int32_t *exists[2];    // [N] the lane to the right, to the left may be entered
    T *beside[2];          // [N] desired speed there
    // where roads meet and part
    AheadOf<T> ahead;
    LaneSight<T> sight;
    RouteNeed<T> need;
    Doors<T> doors;
    Passage<T> passage;
    PassageWork<T> passage_work;
    T *factor, *wish_speed;          // [N] of speed limits; desired without any
    T *restrained, *stopping, *free; // [N] with all that junctions ask; what the next gate asks; what all else does
    uint8_t *wants_room;             // [N]
    uint8_t *alone;                  // [vehicles]
    int32_t *phase;                  // [worlds * signals]
    T *phase_time;
    uint8_t *wanted;
    // on the way back
    T *bar_factor, *bar_wish;  // of factor and wish_speed
    T *bar_late, *bar_line;    // of the time of a signal's change, of the distance to its line
    Bars<T> bars[2];
    T *bar_following, *bar_acceleration, *bar_carried, *bar_gap, *bar_closing, *open;

    void reserve(const Setup &setup, int64_t n, int64_t worlds, bool sides, bool backward, Pieces &p) {
        const bool branched = setup.branched != 0;
        cars.reserve(n, branched || setup.inflows, p);
        for (T **x : {&drivers.v0, &drivers.th, &drivers.a, &drivers.b, &drivers.q, &drivers.s0, &drivers.e,
                      &drivers.length, &drivers.noise, &drivers.politeness, &drivers.threshold, &drivers.safe,
                      &drivers.bias, &drivers.cooldown, &drivers.gap})
            *x = p.take<T>(n);
        trace.reserve(n, true, branched, worlds * setup.inflows, p);
        if (setup.inflows) doors.reserve(n, worlds, setup.inflows, setup.lanes, p);
        search.reserve(setup, n, p);
        present = p.take<int32_t>(n);
        row = p.take<int32_t>(n);
        for (T **x : {&following, &relaxed, &acceleration, &carried, &moved, &best, &change_gap, &without, &stays})
            *x = p.take<T>(n);
        if (sides)
            for (int k = 0; k < 2; ++k) {
                there[k] = trace.there[k];
                with[k] = trace.with[k];
                for (T **x : {&worth[k], &share[k]}) *x = p.take<T>(n);
            }
        wish = p.take<int32_t>(n);
        gap_winner = p.take<int32_t>(n + worlds * setup.chains);
        wanting = p.take<int32_t>(n);
        steered = p.take<Pose<T>>(worlds * setup.controlled);
        world = p.take<int32_t>(n);
        driver = p.take<int64_t>(n);
        time = p.take<T>(worlds);
        left = p.take<int64_t>(worlds);
        overlapping = p.take<T>(worlds);
        there_weight = p.take<T>(n);
        human_weight = p.take<T>(n);
        if (sides)
            for (int k = 0; k < 2; ++k) exists[k] = p.take<int32_t>(n);
        factor = p.take<T>(n);
        wish_speed = p.take<T>(n);
        if (branched) {
            if (sides)
                for (int k = 0; k < 2; ++k) beside[k] = p.take<T>(n);
            ahead.reserve(n, p);
            sight.reserve(setup.lanes, p);
            need.reserve(n, p);
            passage.reserve(n, p);
            passage_work.reserve(n / worlds, setup.lanes, p);
            for (T **x : {&restrained, &stopping, &free}) *x = p.take<T>(n);
            wants_room = p.take<uint8_t>(n);
            alone = p.take<uint8_t>(n);
            phase = p.take<int32_t>(worlds * setup.signals);
            phase_time = p.take<T>(worlds * setup.signals);
            wanted = p.take<uint8_t>(worlds * setup.signals);
        } else {
            beside[0] = beside[1] = drivers.v0;
        }
        if (!backward) return;
        if (branched)
            for (T **x : {&bar_late, &bar_line}) *x = p.take<T>(n);
        bar_factor = p.take<T>(whole_lines<T>(n) + 1);
        bar_wish = p.take<T>(whole_lines<T>(n) + 1);
        bars[0].reserve(whole_lines<T>(n), p);
        bars[1].reserve(whole_lines<T>(n), p);
        for (T **x : {&bar_following, &bar_acceleration, &bar_carried, &bar_gap, &bar_closing, &open})
            *x = p.take<T>(whole_lines<T>(n) + 1);
        for (T **x : {&bar.v0, &bar.th, &bar.a, &bar.b, &bar.s0, &bar.e, &bar.length, &bar.noise, &bar.politeness,
                      &bar.threshold, &bar.bias, &bar.cooldown})
            *x = p.take<T>(whole_lines<T>(n) + 1);
    }
};

// Worlds that are computed side by side; it depends on their size alone, so that results do not depend on the batch.
inline int64_t group_size(int64_t vehicles) {
    constexpr int64_t SLOTS = 768;
    return vehicles >= SLOTS ? 1 : SLOTS / vehicles;
}

// What an entry point has been asked for, typed; one object per thread and call.
template <class T> struct Task {
    const Setup &setup;
    const Call &call;
    World<T> &world;
    const int64_t vehicles;  // of a world
    int64_t first, worlds;   // of the group
    int64_t n, m;            // slots of the group; and the places that belong to nobody, a whole number of vectors
    bool lanes;              // somebody may change lane
    bool asks;               // controlled vehicles ask for lanes
    bool soft;               // lane choices carry gradients
    bool keeps_sides;
    bool steered, branched;
    bool routes;             // the state's routes are known: where roads meet and part, or vehicles come
    bool lets_in;            // vehicles come
    const T *length, *width;

    Task(const Setup &setup, const Call &call, World<T> &world)
        : setup(setup), call(call), world(world), vehicles(call.vehicles), first(0), worlds(0), n(0), m(0),
          steered(false), branched(setup.branched != 0), routes(call.route != nullptr), lets_in(call.arrivals != nullptr),
          length(static_cast<const T *>(setup.length)), width(static_cast<const T *>(setup.width)) {
        bool lane_rows = false;
        for (int64_t c = 0; c < setup.controlled; ++c) {
            lane_rows |= setup.control[c] == LANE;
            steered |= setup.control[c] == STEERED;
        }
        asks = call.request && lane_rows;
        lanes = setup.max_lanes > 1 && (setup.changes_lanes || asks || steered);
        soft = lanes && call.soft;
        keeps_sides = soft && call.keeps_sides;
    }

    // Turns to the worlds from `begin` on.
    void turn_to(int64_t begin, int64_t count) {
        first = begin;
        if (count == worlds) return;
        worlds = count;
        n = worlds * vehicles;
        m = whole_lines<T>(n);
        for (int64_t i = 0; i < m; ++i) world.row[i] = -1;
        for (int64_t i = 0; i < m; ++i) world.world[i] = int32_t(i / vehicles);
        for (int64_t k = 0; k < worlds; ++k)
            for (int64_t c = 0; c < setup.controlled; ++c) world.row[k * vehicles + setup.slot[c]] = int32_t(c);
        // Harmless values where nobody is.
        Cars<T> &cars = world.cars;
        for (int64_t i = n; i < m; ++i) {
            cars.position[i] = cars.speed[i] = cars.lateral[i] = cars.heading[i] = cars.cooldown[i] = T(0);
            cars.lane[i] = cars.previous[i] = -1;
            if (branched) {
                cars.route[i] = cars.right_of_way[i] = -1;
                cars.route_index[i] = 0;
                cars.passed[i] = world.restrained[i] = T(0);
            }
            cars.active[i] = world.present[i] = 0;
            world.wish[i] = 0;
            for (T *x : {world.following, world.relaxed, world.acceleration, world.carried, world.moved, world.best,
                         world.change_gap, world.without, world.stays})
                x[i] = T(0);
        }
    }

    bool acts() const { return call.acceleration != nullptr; }
    bool steers(int64_t c) const { return setup.control[c] == STEERED && acts(); }

    // The group's part of an array [T, B, count].
    template <class X> X *part(X *array, int64_t t, int64_t count) const {
        return array + (t * call.worlds + first) * count;
    }
    // What row c of world k of the group does.
    T action(const void *array, int64_t t, int64_t k, int64_t c) const {
        return part(static_cast<const T *>(array), call.held ? 0 : t, setup.controlled)[k * setup.controlled + c];
    }
    // The lane that it asks for; nothing more after a held request was granted.
    T request(int64_t t, int64_t k, int64_t c) const {
        if (call.held) {
            const int64_t granted = call.granted[(first + k) * setup.controlled + c];
            if (granted >= 0 && t > granted) return T(0);
        }
        return action(call.request, t, k, c);
    }
    T action_of(const void *array, int64_t t, int64_t i) const {
        return action(array, t, world.world[i], world.row[i]);
    }

    // Calls visit(k, c, i) for the controlled vehicles of all worlds of the group: world, row, slot.
    template <class F> void for_controlled(F visit) const {
        for (int64_t k = 0; k < worlds; ++k)
            for (int64_t c = 0; c < setup.controlled; ++c) visit(k, c, k * vehicles + setup.slot[c]);
    }

    T value(Parameter name, int64_t k, int64_t driver) const {
        const T *values = static_cast<const T *>(setup.value[name]);
        return values[(first + k) * setup.world_stride[name] + driver * setup.driver_stride[name]];
    }

    // Looks every slot's parameters up.
    STAGE void meet_drivers() {
        const int64_t *driver = world.driver;
        Drivers<T> &d = world.drivers;
        // Mostly the same drivers drive in the same slots of all worlds.
        const size_t row = size_t(vehicles) * sizeof(int64_t);
        bool alike = true;
        for (int64_t k = 1; k < worlds && alike; ++k) alike = !std::memcmp(driver, driver + k * vehicles, row);
        const auto look_up = [&](Parameter name, T *to) {
            const int64_t stride = setup.driver_stride[name];
            for (int64_t i = n; i < m; ++i) to[i] = T(1);
            if (stride == 0 && setup.world_stride[name] == 0) {
                const T all = *static_cast<const T *>(setup.value[name]);
                for (int64_t i = 0; i < n; ++i) to[i] = all;
                return;
            }
            for (int64_t k = 0; k < worlds; ++k) {
                const T *values = static_cast<const T *>(setup.value[name]) + (first + k) * setup.world_stride[name];
                const int64_t *who = driver + k * vehicles;
                T *of_world = to + k * vehicles;
                if (k && alike && !setup.world_stride[name]) {
                    std::memcpy(of_world, to, size_t(vehicles) * sizeof(T));
                    continue;
                }
                for (int64_t i = 0; i < vehicles; ++i) of_world[i] = values[who[i] * stride];
            }
        };
        look_up(DESIRED_SPEED, d.v0);
        look_up(TIME_HEADWAY, d.th);
        look_up(MAX_ACCELERATION, d.a);
        look_up(COMFORTABLE_DECELERATION, d.b);
        look_up(MIN_GAP, d.s0);
        if (!setup.fourth_power) look_up(EXPONENT, d.e);
        look_up(LENGTH, d.length);
        if (call.noise) look_up(NOISE_SIZE, d.noise);
        if (setup.changes_lanes) {
            look_up(POLITENESS, d.politeness);
            look_up(THRESHOLD, d.threshold);
            look_up(SAFE_DECELERATION, d.safe);
            look_up(RIGHT_BIAS, d.bias);
            look_up(CHANGE_COOLDOWN, d.cooldown);
            look_up(CHANGE_MIN_GAP, d.gap);
        }
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) d.q[i] = T(2) * std::sqrt(d.a[i] * d.b[i]);
        std::memcpy(world.wish_speed, d.v0, size_t(m) * sizeof(T));
        look_up(SPEED_FACTOR, world.factor);
        if (setup.has_limits && !branched)  // the same limit everywhere
            for (int64_t i = 0; i < n; ++i) {
                const T bound = limit(world.world[i], 0) * world.factor[i];
                if (bound < d.v0[i]) d.v0[i] = bound;
            }
    }

    // The same for one slot whose driver is another now.
    void meet(int64_t i) {
        const int64_t k = world.world[i], who = world.driver[i];
        Drivers<T> &d = world.drivers;
        d.v0[i] = world.wish_speed[i] = value(DESIRED_SPEED, k, who);
        d.th[i] = value(TIME_HEADWAY, k, who);
        d.a[i] = value(MAX_ACCELERATION, k, who);
        d.b[i] = value(COMFORTABLE_DECELERATION, k, who);
        d.q[i] = T(2) * std::sqrt(d.a[i] * d.b[i]);
        d.s0[i] = value(MIN_GAP, k, who);
        d.e[i] = value(EXPONENT, k, who);
        d.length[i] = value(LENGTH, k, who);
        world.factor[i] = value(SPEED_FACTOR, k, who);
        if (call.noise) d.noise[i] = value(NOISE_SIZE, k, who);
        if (setup.changes_lanes) {
            d.politeness[i] = value(POLITENESS, k, who);
            d.threshold[i] = value(THRESHOLD, k, who);
            d.safe[i] = value(SAFE_DECELERATION, k, who);
            d.bias[i] = value(RIGHT_BIAS, k, who);
            d.cooldown[i] = value(CHANGE_COOLDOWN, k, who);
            d.gap[i] = value(CHANGE_MIN_GAP, k, who);
        }
        if (setup.has_limits && !branched) d.v0[i] = std::min(d.v0[i], limit(k, 0) * world.factor[i]);
    }

    T limit(int64_t k, int32_t lane) const {
        return static_cast<const T *>(setup.speed_limit)[(first + k) * setup.limit_stride + lane];
    }
    const T *durations(int64_t k) const {
        return static_cast<const T *>(setup.durations) + (first + k) * setup.durations_stride;
    }
    const T *offset(int64_t k) const {
        return static_cast<const T *>(setup.offset) + (first + k) * setup.offset_stride;
    }

    // When a signal's present phase began, less the time now: by its programme where it runs by the clock.
    // `cycles` is how many of them have passed since its offset.
    T late(int64_t k, int64_t signal, T time, int32_t phase, T elapsed, T *cycles = nullptr) const {
        const T began = time - elapsed;
        if (setup.signal_kind[signal] != 0) return began - time;
        const T *each = durations(k) + signal * setup.phases;
        T cycle = T(0), begins = T(0);
        for (int64_t p = 0; p < setup.phases; ++p) {
            if (p == phase) begins = cycle;
            cycle += each[p];
        }
        const T number = std::nearbyint((began - offset(k)[signal] - begins) / cycle);
        if (cycles) *cycles = number;
        return offset(k)[signal] + number * cycle + begins - time;
    }

    // Which lanes beside may be entered, where that is known from the road alone.
    void look_beside() {
        for (int k = 0; k < 2; ++k) {
            const int32_t *__restrict beside = k ? setup.left : setup.right, *__restrict lane = world.cars.lane;
            const int32_t *__restrict present = world.present;
            int32_t *__restrict exists = world.exists[k];
            if (setup.edges == 1) {  // their numbers say it
                const int32_t last = k ? int32_t(setup.lanes) - 1 : 0;
                for (int64_t i = 0; i < m; ++i) exists[i] = lane[i] != last ? present[i] : 0;
                continue;
            }
#pragma GCC ivdep
            for (int64_t i = 0; i < m; ++i) {
                const int32_t there = beside[lane[i] < 0 ? 0 : lane[i]];
                exists[i] = there >= 0 ? present[i] : 0;
            }
        }
    }
};

}  // namespace
}  // namespace TG_VARIANT

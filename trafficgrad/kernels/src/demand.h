// Vehicles that come to the edges of a network, wait, and enter where it is safe: trafficgrad/demand.py and
// trafficgrad/entrances.py for one world after the other. The rules are explained there.
#pragma once
#include "ways.h"

namespace TG_VARIANT {
namespace {

constexpr int MOST_ARRIVALS = 4;  // of one inflow in a step
constexpr int NEWTON_STEPS = 5;
template <class T> constexpr T WAITING_SHARE = T(0.65);
template <class T> constexpr T ENTRANCE_LOOK = T(200.0);  // m
template <class T> constexpr T FARTHEST = T(1e3);         // bounds inside formulas
template <class T> constexpr T LEAST = T(1e-3);

// What a random number decides, its last counter.
enum Purpose : int64_t { AN_INTERVAL, A_ROUTE, A_DRIVER, WHETHER_CONTROLLED };

inline uint64_t scramble(uint64_t bits) {
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
    return bits ^ bits >> 31;
}

// Within (0, 1): trafficgrad/randomness.py.
inline double uniform(int64_t seed, int64_t inflow, int64_t number, Purpose purpose) {
    constexpr uint64_t INCREMENT = 0x9E3779B97F4A7C15u;
    uint64_t bits = scramble(uint64_t(seed) + INCREMENT);
    for (int64_t counter : {inflow, number, int64_t(purpose)}) bits = scramble(bits + uint64_t(counter + 1) * INCREMENT);
    return (double(bits >> 12) + 0.5) * 0x1p-52;
}

template <class T, bool FOUR> struct Demand {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Call &call;
    Doors<T> &s;
    const int64_t inflows;
    const T dt;
    static constexpr T infinite = std::numeric_limits<T>::infinity();

    explicit Demand(Task<T> &task)
        : task(task), w(task.world), setup(task.setup), call(task.call), s(task.world.doors),
          inflows(task.setup.inflows), dt(T(task.setup.dt)) {}

    const T *real(const void *table) const { return static_cast<const T *>(table); }
    int64_t seed(int64_t k) const { return call.seed[task.first + k]; }
    T rate(int64_t k, int64_t q) const { return real(call.rate)[(task.first + k) * call.rate_stride + q]; }

    // Row of the tables of scheduled times.
    int64_t listed(int64_t q, int64_t number) const {
        const int64_t count = setup.times_count[q];
        return setup.times_start[q] + (number < count ? number : count);
    }

    // How long after the one before the vehicle `number` comes, times the rate.
    T share_of(int64_t k, int64_t q, int64_t number) const {
        return setup.inflow_poisson[q] ? T(-std::log(uniform(seed(k), q, number, AN_INTERVAL))) : T(1);
    }

    T arrival(int64_t k, int64_t q, T previous, int64_t number) const {
        const T each = rate(k, q);
        T time = each > T(0) ? previous + share_of(k, q, number) / each : infinite;
        if (setup.inflow_scheduled[q]) time = real(setup.times)[listed(q, number)];
        return time < real(setup.inflow_end)[q] ? time : infinite;
    }

    // ------------------------------------------------------------------ forward

    // Who has come by now, and who of them enters; after all else of the step.
    STAGE void let_in(const Admitted<T> &trace) {
        for (int64_t at = 0; at < task.worlds * inflows; ++at) trace.slot[at] = -1;
        for (int64_t k = 0; k < task.worlds; ++k)
            if (somebody_waits(k)) admit(k, trace);
    }

    bool somebody_waits(int64_t k) {
        const T now = w.time[k];
        bool found = false;
        for (int64_t q = 0; q < inflows; ++q) {
            const int64_t at = k * inflows + q;
            T &next = s.next_arrival[at];
            const T since = now - next;
            const bool fresh = s.arrivals[at] == s.inserted[at] && since >= T(0) && since < T(1.5) * dt;
            s.since[q] = fresh ? (since < dt ? since : dt) : T(-1);
            for (int j = 0; j < MOST_ARRIVALS && next <= now; ++j) {
                next = arrival(k, q, next, s.arrivals[at] + 1);
                ++s.arrivals[at];
            }
            found |= s.arrivals[at] > s.inserted[at];
        }
        return found;
    }

    STAGE void admit(int64_t k, const Admitted<T> &trace) {
        find_last_bodies(k);
        const int64_t waiting = queue_up(k), base = k * task.vehicles;
        int64_t ordinary = 0, kept = 0, taken = 0, entering = 0;
        for (int64_t p = 0; p < waiting; ++p) {
            const int64_t q = s.queue[p], at = k * inflows + q;
            const Head head = draw(k, q, kept);
            const Entry entry = find(k, q, head);
            if (!entry.safe) continue;
            bool first = true;  // one vehicle a lane, whether there is a slot for it or not
            for (int64_t r = 0; r < taken; ++r) first &= s.taken[r] != entry.lane;
            if (!first) continue;
            s.taken[taken++] = entry.lane;
            const int64_t slot = head.row >= 0 ? setup.slot[head.row] : next_open(base, ordinary);
            if (slot >= task.vehicles) continue;
            const int32_t i = int32_t(base + slot);
            trace.slot[at] = i;
            trace.leader[at] = entry.leader;
            trace.lane[at] = entry.lane;
            trace.driver_before[at] = int32_t(w.driver[i]);
            trace.since[at] = s.since[q];
            trace.gap[at] = entry.gap;
            s.entering[entering++] = {entry.position, entry.speed, i, entry.lane, head.route, head.driver, int32_t(q)};
        }
        for (int64_t p = 0; p < entering; ++p) put(k, s.entering[p]);
    }

    // The next open slot that is nobody's in particular; `cursor` goes past it.
    int64_t next_open(int64_t base, int64_t &cursor) const {
        while (cursor < task.vehicles && (w.cars.active[base + cursor] || w.row[base + cursor] >= 0)) ++cursor;
        return cursor < task.vehicles ? cursor++ : cursor;
    }

    // Inflows where somebody waits, from the longest wait to the shortest.
    int64_t queue_up(int64_t k) const {
        const T now = w.time[k];
        int64_t count = 0;
        for (int64_t q = 0; q < inflows; ++q) {
            const int64_t at = k * inflows + q, waits = s.arrivals[at] - s.inserted[at];
            if (waits <= 0) continue;
            const T each = rate(k, q);
            const T wait = setup.inflow_scheduled[q] ? now - real(setup.times)[listed(q, s.inserted[at])]
                                                     : T(waits) / (each > T(0) ? each : T(1));
            int64_t p = count++;
            for (; p > 0 && s.wait[p - 1] < wait; --p) {
                s.wait[p] = s.wait[p - 1];
                s.queue[p] = s.queue[p - 1];
            }
            s.wait[p] = wait;
            s.queue[p] = int32_t(q);
        }
        return count;
    }

    struct Head {
        int32_t route, driver, row;  // row of the controlled slots that is kept for it, -1 = an ordinary slot
    };

    // Route and driver of the head of a queue; `kept` counts the controlled slots that were looked at.
    Head draw(int64_t k, int64_t q, int64_t &kept) const {
        const int64_t number = s.inserted[k * inflows + q];
        Head head;
        const double u = uniform(seed(k), q, number, A_ROUTE);
        int64_t choice = 0;
        for (int64_t r = 0; r < setup.inflow_routes; ++r) choice += u >= setup.inflow_share[q * setup.inflow_routes + r];
        if (choice >= setup.inflow_routes) choice = setup.inflow_routes - 1;
        head.route = setup.inflow_listed[q] ? setup.listed_route[listed(q, number)]
                                            : setup.inflow_route[q * setup.inflow_routes + choice];
        const int64_t count = setup.inflow_drivers[q], drawn = int64_t(uniform(seed(k), q, number, A_DRIVER) * double(count));
        head.driver = int32_t(setup.inflow_first_driver[q] + (drawn < count ? drawn : count - 1));
        head.row = -1;
        if (!setup.controlled || !(uniform(seed(k), q, number, WHETHER_CONTROLLED) < setup.inflow_controlled[q])) return head;
        const int64_t base = k * task.vehicles;
        while (kept < setup.controlled && w.cars.active[base + setup.slot[kept]]) ++kept;
        if (kept == setup.controlled) return head;
        head.row = head.driver = int32_t(kept++);
        return head;
    }

    // The lowest rear on every lane, of those whose front is on it or who have not left it altogether.
    STAGE void find_last_bodies(int64_t k) const {
        const Cars<T> &c = w.cars;
        for (int64_t a = 0; a < setup.lanes; ++a) {
            s.rear[a] = infinite;
            s.last[a] = -1;
        }
        const auto take = [&](int32_t a, T rear, int64_t i) {
            if (!(rear < s.rear[a])) return;
            s.rear[a] = rear;
            s.last[a] = int32_t(i);
        };
        for (int64_t i = k * task.vehicles; i < (k + 1) * task.vehicles; ++i) {
            if (!c.active[i] || c.lane[i] < 0) continue;
            const T size = w.drivers.length[i];
            take(c.lane[i], c.position[i] - size, i);
            if (c.previous[i] >= 0 && c.position[i] < size)
                take(c.previous[i], task.length[c.previous[i]] + c.position[i] - size, i);
        }
    }

    // From the origin of `lane`, to which its last body's `slot` belongs, to that body's rear.
    T rear_on(int32_t lane, int32_t slot) const {
        const T rear = w.cars.position[slot] - w.drivers.length[slot];
        return rear + (w.cars.lane[slot] == lane ? T(0) : task.length[lane]);
    }

    // Where and how a head would enter.
    struct Entry {
        int32_t lane, leader;
        T gap, position, speed;
        bool safe;
    };

    // The last body on a lane, or the first met beyond it; -1 = nobody.
    int32_t look_ahead(const Ways<T> &ways, int32_t lane, int32_t row, int32_t route, T &rear) const {
        T passed = T(0);
        rear = infinite;
        for (int64_t hop = 0; s.last[lane] < 0; ++hop) {
            if (hop == setup.door_hops || !(passed < ENTRANCE_LOOK<T>)) return -1;
            const int32_t after = ways.lane_after(lane, row);
            if (after < 0) return -1;
            passed += task.length[lane];
            lane = after;
            row = ways.row_after(lane, row, route);
        }
        rear = rear_on(lane, s.last[lane]) + passed;
        return s.last[lane];
    }

    Entry find(int64_t k, int64_t q, const Head &head) const {
        const Ways<T> ways(task, k);
        const int64_t lanes = setup.max_lanes;
        const int32_t row = head.route >= 0 ? setup.route_start[head.route] : setup.door_edge[q];
        const Entrant<T> own = entrant(k, head.driver);
        const int32_t *door = setup.door_lane + q * lanes, *allowed = setup.door_allowed + q * lanes;
        const auto leads_on = [&](int64_t a) { return allowed[a] && setup.change[row * lanes + a] == 0; };
        bool direct = false;
        for (int64_t a = 0; a < lanes; ++a) direct |= leads_on(a);
        Entry entry{door[0], -1, infinite, T(0), T(0), false};
        T best = -infinite;
        for (int64_t a = 0; a < lanes; ++a) {
            if (!(direct ? leads_on(a) : allowed[a] != 0)) continue;
            T rear;
            const int32_t leader = look_ahead(ways, door[a], row, head.route, rear);
            const T gap = rear - start(own, door[a]);
            if (!(gap > best)) continue;  // the rightmost of equals
            best = entry.gap = gap;
            entry.lane = door[a];
            entry.leader = leader;
        }
        const Limits limits = limits_of(k, own, entry.lane);
        const T since = s.since[q] > T(0) ? s.since[q] : T(0), door_speed = real(setup.door_speed)[q];
        const T leader_speed = entry.leader >= 0 ? w.cars.speed[entry.leader] : T(0);
        const T possible = speed_of(own, limits.desired, entry.gap, leader_speed, since).speed;
        entry.speed = door_speed < possible ? door_speed : possible;
        const T wanted = std::min(std::min(leader_speed, WAITING_SHARE<T> * limits.desired), door_speed);
        entry.safe = entry.gap >= own.s0 && entry.speed >= wanted;
        if (task.branched) entry.safe = entry.safe && is_clear_behind(k, own, entry);
        const T place = start(own, entry.lane) + entry.speed * since, end = task.length[entry.lane];
        entry.position = place < end ? place : end;
        return entry;
    }

    // Whoever comes to the lane next can slow down for who enters.
    bool is_clear_behind(int64_t k, const Entrant<T> &own, const Entry &entry) const {
        const int64_t at = k * setup.lanes + entry.lane;
        const int32_t who = s.comes[at];
        const T pace = who >= 0 ? w.cars.speed[who] : T(0);
        const T spare = (s.comes_distance[at] - pace * dt) - own.s0;
        const T bounded = std::min(std::max(spare, T(0)), FARTHEST<T>);
        return spare >= pace * own.th && pace <= stopping_speed(own, bounded, entry.speed, own.th);
    }

    void put(int64_t k, const Entering<T> &one) {
        Cars<T> &c = w.cars;
        const int32_t i = one.slot;
        c.position[i] = one.position;
        c.speed[i] = one.speed;
        c.lateral[i] = c.heading[i] = c.cooldown[i] = c.passed[i] = T(0);
        c.lane[i] = one.lane;
        c.previous[i] = c.right_of_way[i] = -1;
        c.route[i] = one.route;
        c.route_index[i] = 0;
        c.active[i] = 1;
        w.driver[i] = one.driver;
        s.vehicle_id[i] = s.next_id[k]++;
        ++s.inserted[k * inflows + one.inflow];
        task.meet(i);
    }

    // ------------------------------------------------------------------ at which speed

    Entrant<T> entrant(int64_t k, int64_t driver) const {
        return {task.value(LENGTH, k, driver),        task.value(DESIRED_SPEED, k, driver),
                task.value(TIME_HEADWAY, k, driver),  task.value(COMFORTABLE_DECELERATION, k, driver),
                task.value(MIN_GAP, k, driver),       task.value(EXPONENT, k, driver),
                task.value(SPEED_FACTOR, k, driver)};
    }

    T start(const Entrant<T> &own, int32_t lane) const { return std::min(own.length, task.length[lane]); }

    struct Limits {
        T limit, desired;  // m/s
        bool binds;
    };

    Limits limits_of(int64_t k, const Entrant<T> &own, int32_t lane) const {
        const T limit = setup.has_limits ? task.limit(k, lane) : infinite, bound = limit * own.factor;
        return {limit, bound < own.v0 ? bound : own.v0, bound < own.v0};
    }

    static T stopping_speed(const Entrant<T> &own, T spare, T leader_speed, T reach) {
        const T lag = own.b * reach, root = lag * lag + leader_speed * leader_speed + T(2) * own.b * spare;
        return std::sqrt(root > T(1e-12) ? root : T(1e-12)) - lag;
    }

    static T power(T base, T exponent) { return FOUR ? base * base * (base * base) : std::pow(base, exponent); }

    // The speed, and what it was found by.
    struct Found {
        T speed, room, reach, even, at, slope;  // `even`: by one step of Newton's from `at`
        bool stops;                             // the speed from which one stops is lower
    };

    static Found speed_of(const Entrant<T> &own, T desired, T gap, T leader_speed, T since) {
        Found f{desired, FARTHEST<T>, own.th + since, desired, desired, T(1), false};
        if (gap == infinite) return f;
        const T least = gap > own.s0 ? gap : own.s0;
        f.room = least > LEAST<T> ? least : LEAST<T>;
        const T stopping = stopping_speed(own, f.room - own.s0, leader_speed, f.reach);
        T speed = std::min(desired, (f.room - own.s0) / std::max(f.reach, LEAST<T>));
        speed = speed > T(0) ? speed : T(0);
        for (int step = 0; step <= NEWTON_STEPS; ++step) {
            const T left = std::max(f.room - since * speed, LEAST<T>);
            const T ratio = (own.s0 + own.th * speed) / left, share = speed / desired;
            const T value = ratio * ratio + power(share, own.e) - T(1);
            T slope = T(2) * ratio * (own.th + since * ratio) / left;
            slope += own.e * (FOUR ? share * share * share : std::pow(share, own.e - T(1))) / desired;
            f.at = speed;
            f.slope = std::max(slope, T(1e-9));
            f.even = speed - value / f.slope;
            speed = f.even > T(0) ? f.even : T(0);
        }
        f.stops = stopping < f.even;
        const T lower = f.stops ? stopping : f.even;
        f.speed = lower > T(0) ? lower : T(0);
        return f;
    }

    // ------------------------------------------------------------------ the way back

    // Takes the cotangents of those who entered in step t to their leaders, their drivers and the rates of arrival, and
    // brings back who was in their slots. The state after the step is at hand. `give` is called with a slot whose driver
    // has changed, after all of its own cotangents are known.
    template <bool PARAMETERS, class Give>
    STAGE void pull(int64_t t, const Admitted<T> &trace, const Bars<T> &after, Give give) {
        for (int64_t k = 0; k < task.worlds; ++k)
            for (int64_t q = 0; q < inflows; ++q) {
                const int64_t at = k * inflows + q;
                const int32_t i = trace.slot[at];
                T bar_since = T(0);
                if (i >= 0) {
                    bar_since = pull_entry<PARAMETERS>(k, q, i, trace, after);
                    give(i);
                    w.driver[i] = trace.driver_before[at];
                    task.meet(i);
                }
                pull_arrivals(k, q, t);
                if (trace.since[at] >= T(0) && trace.since[at] < dt) s.bar_next_arrival[at] -= bar_since;
            }
    }

    template <bool PARAMETERS>
    T pull_entry(int64_t k, int64_t q, int64_t i, const Admitted<T> &trace, const Bars<T> &after) {
        const int64_t at = k * inflows + q;
        const T bar_place = after.position[i], bar_speed = after.speed[i];
        for (T *x : {after.position, after.speed, after.lateral, after.heading, after.cooldown, after.passed}) x[i] = T(0);
        const Entrant<T> own = entrant(k, w.driver[i]);
        Entrant<T> bar{T(0), T(0), T(0), T(0), T(0), T(0), T(0)};
        const int32_t lane = trace.lane[at], leader = trace.leader[at];
        const Limits limits = limits_of(k, own, lane);
        const T since = trace.since[at] > T(0) ? trace.since[at] : T(0), begin = start(own, lane);
        const T gap = trace.gap[at], leader_speed = leader >= 0 ? w.cars.speed[leader] : T(0);
        const Found f = speed_of(own, limits.desired, gap, leader_speed, since);
        const T door_speed = real(setup.door_speed)[q];
        const T entering = door_speed < f.speed ? door_speed : f.speed;
        T bar_begin = T(0), bar_since = T(0), bar_entering = bar_speed, bar_desired = T(0);
        if (begin + entering * since < task.length[lane]) {
            bar_begin = bar_place;
            bar_entering += bar_place * since;
            bar_since = bar_place * entering;
        }
        if (door_speed < f.speed) bar_entering = T(0);
        if (leader < 0) {
            bar_desired = bar_entering;
        } else if (f.speed > T(0)) {
            T bar_room = T(0);
            if (f.stops) {
                const T lag = own.b * f.reach, spare = f.room - own.s0;
                const T root = lag * lag + leader_speed * leader_speed + T(2) * own.b * spare;
                const T bar_root = root > T(1e-12) ? bar_entering / (T(2) * std::sqrt(root)) : T(0);
                const T bar_lag = T(2) * lag * bar_root - bar_entering;
                bar.b += bar_lag * f.reach + T(2) * spare * bar_root;
                bar.th += bar_lag * own.b;
                bar_since += bar_lag * own.b;
                after.speed[leader] += T(2) * leader_speed * bar_root;
                bar_room += T(2) * own.b * bar_root;
                bar.s0 -= T(2) * own.b * bar_root;
            } else {
                const T v = f.at, whole = f.room - since * v, left = std::max(whole, LEAST<T>);
                const T ratio = (own.s0 + own.th * v) / left, share = v / limits.desired;
                const T bar_value = -bar_entering / f.slope, bar_ratio = T(2) * ratio * bar_value;
                bar.s0 += bar_ratio / left;
                bar.th += bar_ratio * v / left;
                if (whole >= LEAST<T>) {
                    const T bar_left = -bar_ratio * ratio / left;
                    bar_room += bar_left;
                    bar_since -= v * bar_left;
                }
                const T steep = own.e * (FOUR ? share * share * share : std::pow(share, own.e - T(1)));
                bar_desired -= steep * bar_value * share / limits.desired;
                if (!FOUR && share > T(0)) bar.e += bar_value * power(share, own.e) * std::log(share);
            }
            T bar_gap = T(0);
            const T least = gap > own.s0 ? gap : own.s0;
            if (least > LEAST<T>) (gap > own.s0 ? bar_gap : bar.s0) += bar_room;
            after.position[leader] += bar_gap;
            bar_begin -= bar_gap;
            if (PARAMETERS) w.bar.length[leader] -= bar_gap;
        }
        if (!PARAMETERS) return bar_since;
        if (own.length < task.length[lane]) bar.length += bar_begin;
        if (limits.binds) {
            bar.factor += limits.limit * bar_desired;
            if (call.bar_speed_limit)
                static_cast<T *>(call.bar_speed_limit)[(task.first + k) * setup.lanes + lane] += own.factor * bar_desired;
        } else {
            bar.v0 += bar_desired;
        }
        w.bar.length[i] += bar.length;
        w.bar_wish[i] += bar.v0;
        w.bar.th[i] += bar.th;
        w.bar.b[i] += bar.b;
        w.bar.s0[i] += bar.s0;
        w.bar.e[i] += bar.e;
        w.bar_factor[i] += bar.factor;
        return bar_since;
    }

    // From the time of the next arrival after step t to that before it, and to the rate.
    void pull_arrivals(int64_t k, int64_t q, int64_t t) {
        const int64_t at = k * inflows + q;
        const int64_t number = (t ? task.part(call.next_arrivals, t - 1, inflows) : task.part(call.arrivals, 0, inflows))[at];
        const T *before = t ? task.part(static_cast<const T *>(call.next_next_arrival), t - 1, inflows)
                            : task.part(real(call.next_arrival), 0, inflows);
        const T now = task.part(static_cast<const T *>(call.next_time), t, 1)[k], each = rate(k, q);
        T &bar = s.bar_next_arrival[at];
        T next = before[at], bar_rate = T(0);
        for (int j = 0; j < MOST_ARRIVALS && next <= now; ++j) {
            next = arrival(k, q, next, number + 1 + j);
            if (next == infinite || setup.inflow_scheduled[q]) bar = bar_rate = T(0);
            else bar_rate -= share_of(k, q, number + 1 + j) / (each * each);
        }
        if (call.bar_rate) static_cast<T *>(call.bar_rate)[(task.first + k) * inflows + q] += bar_rate * bar;
    }
};

}  // namespace
}  // namespace TG_VARIANT

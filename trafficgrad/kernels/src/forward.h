// One step of a group of worlds, in the order of trafficgrad/simulator.py.
#pragma once
#include "demand.h"
#include "driving.h"
#include "lanes.h"
#include "outcome.h"

namespace TG_VARIANT {
namespace {

template <class T> inline T next_time(T time, T dt) {
    const T steps = time / dt, whole = std::nearbyint(steps);
    return std::abs(steps - whole) < T(0.01) ? (whole + T(1)) * dt : time + dt;
}

template <class T> struct Bicycle {
    T slip, sine, cosine, turn;  // of the course, and sin(slip) * 2 / length
    Bicycle(T heading, T steering, T length) {
        slip = std::atan(T(0.5) * std::tan(steering));
        sine = std::sin(heading + slip);
        cosine = std::cos(heading + slip);
        turn = std::sin(slip) * (T(2) / length);
    }
};

template <class T, bool FOUR, bool PAPER> struct Forward {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Call &call;
    int64_t n, m;
    const T dt;
    const Outcome *outcome;

    explicit Forward(Task<T> &task, const Outcome *outcome = nullptr)
        : task(task), w(task.world), setup(task.setup), call(task.call), n(0), m(0), dt(T(task.setup.dt)),
          outcome(outcome) {}

    // All steps of the worlds from `first` on.
    void run(int64_t first, int64_t count) {
        turn_to(first, count);
        if (!acceptable()) return;
        load();
        task.meet_drivers();
        if (call.held)
            for (int64_t c = 0; c < count * setup.controlled; ++c) call.granted[first * setup.controlled + c] = -1;
        std::memcpy(w.time, static_cast<const T *>(call.time) + first, size_t(count) * sizeof(T));
        for (int64_t k = 0; k < count; ++k) w.left[k] = call.left[first + k];
        if (outcome) {
            Judging<T>(task, *outcome).begin();
            std::memset(w.overlapping, 0, size_t(count) * sizeof(T));
        }
        for (int64_t t = 0; t < call.steps; ++t) {
            Trace<T> trace = w.trace;
            if (call.saved) keep_in_saved(trace, t);
            step(t, trace);
            if (call.held) note_grants(t, trace);
            for (int64_t k = 0; k < count; ++k) w.time[k] = next_time(w.time[k], dt);
            if (setup.signals) Lights<T>(task).advance(t);
            if (task.lets_in) Demand<T, FOUR>(task).let_in(trace.admitted);
            if (outcome) {
                if (t) count_overlaps(trace.around);
                Judging<T>(task, *outcome).note(t);
            }
            store(t);
        }
        if (!outcome) return;
        look_at_the_end();
        Judging<T>(task, *outcome).finish(w.overlapping);
    }

    // Who is around whom in the state that has been reached.
    void look_at_the_end() {
        see();
        const bool sides = outcome->wish->sees == SEES_LOCAL && setup.max_lanes > 1;
        look_around({outcome->wish->sees == SEES_LOCAL, sides, sides}, w.trace.around);
    }

    void count_overlaps(const Around<T> &around) const {
        for (int64_t k = 0; k < task.worlds; ++k) {
            const T *gap = around.gap[OWN] + k * task.vehicles;
            int32_t found = 0;
            for (int64_t i = 0; i < task.vehicles; ++i) found |= int32_t(gap[i] < T(0));
            w.overlapping[k] += T(found);
        }
    }

    void turn_to(int64_t first, int64_t count) {
        task.turn_to(first, count);
        n = task.n;
        m = task.m;
    }

    // Whether everything that is used as an index lies within its table, and what is done is finite.
    bool acceptable() const {
        const int64_t from = task.first * task.vehicles;
        int64_t rows = INT64_MAX;
        for (int64_t each : setup.rows)
            if (each > 1 && each < rows) rows = each;
        for (int64_t i = 0; i < n; ++i) {
            const int64_t lane = call.lane[from + i], driver = call.driver[from + i];
            if (lane < -1 || lane >= setup.lanes) return refuse(BAD_LANE, i / task.vehicles, i % task.vehicles);
            if (driver < 0 || driver >= rows) return refuse(BAD_DRIVER, i / task.vehicles, i % task.vehicles);
            if (!task.routes) continue;
            const int64_t previous = call.previous[from + i], right = call.right_of_way[from + i];
            if (previous < -1 || previous >= setup.lanes)
                return refuse(BAD_PREVIOUS, i / task.vehicles, i % task.vehicles);
            if (right < -1 || right >= setup.lanes)
                return refuse(BAD_RIGHT_OF_WAY, i / task.vehicles, i % task.vehicles);
            const int64_t route = call.route[from + i], index = call.route_index[from + i];
            if (route < -1 || route >= setup.routes) return refuse(BAD_ROUTE, i / task.vehicles, i % task.vehicles);
            if (route >= 0 && (index < 0 || index >= setup.route_start[route + 1] - setup.route_start[route]))
                return refuse(BAD_ROUTE_INDEX, i / task.vehicles, i % task.vehicles);
        }
        for (int64_t s = 0; s < task.worlds * setup.signals; ++s) {
            const int64_t phase = call.phase[task.first * setup.signals + s];
            if (phase < 0 || phase >= setup.phases) return refuse(BAD_PHASE, s / setup.signals, s % setup.signals);
        }
        if (call.signal_request)
            for (int64_t t = 0; t < call.steps; ++t) {
                const T *request = task.part(static_cast<const T *>(call.signal_request), t, setup.signals);
                for (int64_t s = 0; s < task.worlds * setup.signals; ++s)
                    if (!std::isfinite(request[s])) return refuse(BAD_SIGNAL, s / setup.signals, s % setup.signals);
            }
        const std::pair<const void *, Failure> given[] = {
            {call.acceleration, BAD_ACCELERATION}, {call.request, BAD_REQUEST}, {call.steering, BAD_STEERING}};
        for (const auto &[array, failure] : given) {
            if (!array) continue;
            for (int64_t t = 0; t < call.steps; ++t)
                for (int64_t k = 0; k < task.worlds; ++k)
                    for (int64_t c = 0; c < setup.controlled; ++c)
                        if (!std::isfinite(task.action(array, t, k, c))) return refuse(failure, k, c);
        }
        return true;
    }

    bool refuse(Failure failure, int64_t k, int64_t where) const {
        call.failed[0] = failure;
        call.failed[1] = task.first + k;
        call.failed[2] = where;
        return false;
    }

    // Where in `saved` the group's part of step t is.
    char *saved(int64_t t) const {
        const int64_t side_by_side = group_size(task.vehicles), groups = (call.worlds + side_by_side - 1) / side_by_side;
        Trace<T> trace;
        Pieces count{nullptr};
        reserve(trace, count);
        return static_cast<char *>(call.saved) + (t * groups + task.first / side_by_side) * count.used;
    }

    // Everything that is kept of step t is written to and read from there.
    void keep_in_saved(Trace<T> &trace, int64_t t) const {
        Pieces pieces{saved(t)};
        reserve(trace, pieces);
        if (!task.keeps_sides) return;
        for (int k = 0; k < 2; ++k) {
            w.there[k] = trace.there[k];
            w.with[k] = trace.with[k];
        }
    }

    void reserve(Trace<T> &trace, Pieces &pieces) const {
        const int64_t worlds = group_size(task.vehicles);
        trace.reserve(worlds * task.vehicles, task.keeps_sides, task.branched, worlds * setup.inflows, pieces);
    }

    STAGE void load() {
        const int64_t from = task.first * task.vehicles;
        Cars<T> &c = w.cars;
        const auto copy = [&](const void *source, T *to) {
            std::memcpy(to, static_cast<const T *>(source) + from, size_t(n) * sizeof(T));
        };
        copy(call.position, c.position);
        copy(call.speed, c.speed);
        copy(call.lateral, c.lateral);
        copy(call.cooldown, c.cooldown);
        if (task.steered) copy(call.heading, c.heading);
        for (int64_t i = 0; i < n; ++i) c.lane[i] = int32_t(call.lane[from + i]);
        for (int64_t i = 0; i < n; ++i) c.previous[i] = int32_t(call.previous[from + i]);
        for (int64_t i = 0; i < n; ++i) c.active[i] = call.active[from + i];
        std::memcpy(w.driver, call.driver + from, size_t(n) * sizeof(int64_t));
        if (task.lets_in) load_queues();
        if (!task.routes) return;
        copy(call.passed, c.passed);
        for (int64_t i = 0; i < n; ++i) c.route[i] = int32_t(call.route[from + i]);
        for (int64_t i = 0; i < n; ++i) c.route_index[i] = int32_t(call.route_index[from + i]);
        for (int64_t i = 0; i < n; ++i) c.right_of_way[i] = int32_t(call.right_of_way[from + i]);
        const int64_t signals = task.worlds * setup.signals, signal = task.first * setup.signals;
        for (int64_t s = 0; s < signals; ++s) w.phase[s] = int32_t(call.phase[signal + s]);
        for (int64_t s = 0; s < signals; ++s)
            w.phase_time[s] = static_cast<const T *>(call.phase_time)[signal + s];
    }

    void load_queues() {
        Doors<T> &d = w.doors;
        const int64_t from = task.first * setup.inflows, count = task.worlds * setup.inflows;
        std::memcpy(d.arrivals, call.arrivals + from, size_t(count) * sizeof(int64_t));
        std::memcpy(d.inserted, call.inserted + from, size_t(count) * sizeof(int64_t));
        std::memcpy(d.next_arrival, static_cast<const T *>(call.next_arrival) + from, size_t(count) * sizeof(T));
        std::memcpy(d.next_id, call.next_id + task.first, size_t(task.worlds) * sizeof(int64_t));
        std::memcpy(d.vehicle_id, call.vehicle_id + task.first * task.vehicles, size_t(n) * sizeof(int64_t));
    }

    void store_queues(int64_t t) const {
        const Doors<T> &d = w.doors;
        const auto copy = [&](const auto *source, auto *target, int64_t each) {
            std::memcpy(task.part(target, t, each), source, size_t(task.worlds * each) * sizeof(*source));
        };
        copy(d.arrivals, call.next_arrivals, setup.inflows);
        copy(d.inserted, call.next_inserted, setup.inflows);
        copy(d.next_arrival, static_cast<T *>(call.next_next_arrival), setup.inflows);
        copy(d.next_id, call.next_next_id, 1);
        copy(d.vehicle_id, call.next_vehicle_id, task.vehicles);
        copy(w.driver, call.next_driver, task.vehicles);
        int64_t *route = task.part(call.next_route, t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) route[i] = w.cars.route[i];
    }

    STAGE void store(int64_t t) {
        const Cars<T> &c = w.cars;
        const auto copy = [&](const T *source, void *target) {
            if (target) std::memcpy(task.part(static_cast<T *>(target), t, task.vehicles), source, size_t(n) * sizeof(T));
        };
        copy(c.position, call.next_position);
        copy(c.speed, call.next_speed);
        copy(c.lateral, call.next_lateral);
        copy(c.heading, call.next_heading);
        copy(c.cooldown, call.next_cooldown);
        int64_t *lane = task.part(call.next_lane, t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) lane[i] = c.lane[i];
        int64_t *previous = task.part(call.next_previous, t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) previous[i] = c.previous[i];
        if (call.next_active) {
            uint8_t *active = task.part(call.next_active, t, task.vehicles);
            for (int64_t i = 0; i < n; ++i) active[i] = uint8_t(c.active[i]);
        }
        std::memcpy(task.part(static_cast<T *>(call.next_time), t, 1), w.time, size_t(task.worlds) * sizeof(T));
        if (call.next_left) std::memcpy(task.part(call.next_left, t, 1), w.left, size_t(task.worlds) * sizeof(int64_t));
        if (task.lets_in) store_queues(t);
        if (!task.routes) return;
        copy(c.passed, call.next_passed);
        int64_t *index = task.part(call.next_route_index, t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) index[i] = c.route_index[i];
        int64_t *right = task.part(call.next_right_of_way, t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) right[i] = c.right_of_way[i];
        if (!setup.signals) return;
        int64_t *phase = task.part(call.next_phase, t, setup.signals);
        T *phase_time = task.part(static_cast<T *>(call.next_phase_time), t, setup.signals);
        for (int64_t s = 0; s < task.worlds * setup.signals; ++s) phase[s] = w.phase[s];
        for (int64_t s = 0; s < task.worlds * setup.signals; ++s) phase_time[s] = w.phase_time[s];
    }

    void step(int64_t t, Trace<T> &trace) {
        if (t == 0 || !setup.closed || task.steered) see();
        const Driving<T, FOUR, PAPER> driving(task, trace.around, trace.road);
        if (task.branched) {
            for (int64_t k = 0; k < task.worlds; ++k) {
                find_around_on_ways(
                    task, k, call.order + (task.first + k) * task.vehicles, task.lanes, trace.around, w.alone);
                if (task.lets_in) note_who_comes(k);
            }
            clear(trace.around, n, m, {task.lanes, task.lanes, task.lanes});
            driving.limit_speeds();
        } else {
            look_around(Lanes<T, FOUR, PAPER>::wanted(task, w.time), trace.around);
        }
        if (call.overlaps) note_overlaps(t, trace.around);
        follow(trace.around);
        Lanes<T, FOUR, PAPER> lanes(task, trace.around);
        const bool routes = task.branched && setup.changes_lanes && setup.max_lanes > 1;
        if (task.lanes) {
            if (task.branched) {
                driving.permit();
                driving.limit_speeds_beside();
                spread_exists(trace.road.exists);
                if (routes) driving.need();
            } else {
                task.look_beside();
            }
            lanes.decide(t, w.time, true);
        }
        const T *following = w.following;
        const bool sigmoid = task.soft && setup.mode == SIGMOID;
        if (sigmoid) {
            lanes.relax();
            following = w.relaxed;
            lanes.carry(t);
        }
        if (task.branched) {
            for (int64_t k = 0; k < task.worlds; ++k)
                Junctions<T, FOUR, PAPER>(task, trace.around, k, w.passage, w.passage_work).decide();
            driving.restrain(following, w.restrained, w.passage, routes);
            following = w.restrained;
            if (setup.signals) Lights<T>(task).see();
        }
        accelerate(t, following);
        move(t, sigmoid ? w.carried : nullptr);
        std::memset(trace.changed, 0, size_t(m));
        if (task.branched) cross_junctions(trace);
        else cross();
        change(trace);
    }

    // Who is around whom on roads that only go on.
    void look_around(Wanted wanted, const Around<T> &around) {
        for (int64_t k = 0; k < task.worlds; ++k) {
            const int64_t base = k * task.vehicles;
            find_around(
                setup, task.vehicles, int32_t(base), w.cars.position + base, w.drivers.length + base,
                w.cars.lane + base, w.present + base, call.order + (task.first + k) * task.vehicles, wanted, w.search,
                around);
        }
        clear(around, n, m, wanted);
    }

    void note_grants(int64_t t, const Trace<T> &trace) const {
        task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
            int64_t &granted = call.granted[(task.first + k) * setup.controlled + c];
            if (granted < 0 && trace.changed[i] & CHANGED_LANE) granted = t;
        });
    }

    void note_overlaps(int64_t t, const Around<T> &around) const {
        uint8_t *overlaps = task.part(call.overlaps, t, 1);
        for (int64_t k = 0; k < task.worlds; ++k) {
            const T *gap = around.gap[OWN] + k * task.vehicles;
            int32_t found = 0;
            for (int64_t i = 0; i < task.vehicles; ++i) found |= int32_t(gap[i] < T(0));
            overlaps[k] = uint8_t(found);
        }
    }

    void spread_exists(const uint8_t *bits) {
        for (int k = 0; k < 2; ++k) {
            for (int64_t i = 0; i < n; ++i) w.exists[k][i] = bits[i] >> k & 1;
            for (int64_t i = n; i < m; ++i) w.exists[k][i] = 0;
        }
    }

    void note_who_comes(int64_t k) {
        std::memcpy(w.doors.comes + k * setup.lanes, w.sight.coming, size_t(setup.lanes) * sizeof(int32_t));
        std::memcpy(w.doors.comes_distance + k * setup.lanes, w.sight.coming_distance, size_t(setup.lanes) * sizeof(T));
    }

    void tell_who_comes(int64_t k) {
        const int64_t at = (task.first + k) * setup.lanes;
        for (int64_t a = 0; a < setup.lanes; ++a) {
            const int32_t who = w.sight.coming[a];
            call.coming[at + a] = who < 0 ? -1 : who - k * task.vehicles;
            static_cast<T *>(call.coming_distance)[at + a] = w.sight.coming_distance[a];
        }
    }

    // Go on to the lanes that follow along the route; who has none left leaves the road, unless others of its edge lead on.
    STAGE void cross_junctions(Trace<T> &trace) {
        Cars<T> &c = w.cars;
        for (int64_t k = 0; k < task.worlds; ++k) {
            const Ways<T> ways(task, k);
            for (int64_t i = k * task.vehicles; i < (k + 1) * task.vehicles; ++i) {
                c.right_of_way[i] = w.passage.right_of_way[i];
                if (!w.present[i]) continue;
                int32_t row = w.ahead.row[i];
                for (int64_t hop = 0; hop < setup.crossings; ++hop) {
                    const int32_t here = c.lane[i];
                    const T length = task.length[here];
                    if (!(c.position[i] >= length)) break;
                    const int32_t after = ways.lane_after(here, row);
                    if (after < 0) {
                        if (!setup.ends[row] && !setup.is_junction[here]) {
                            c.position[i] = length;  // a lane that ends beside others is left by changing lanes alone
                            trace.changed[i] |= STUCK;
                            break;
                        }
                        c.active[i] = 0;
                        ++w.left[k];
                        break;
                    }
                    c.position[i] -= length;
                    c.previous[i] = here;
                    c.lane[i] = after;
                    row = ways.row_after(after, row, c.route[i]);
                }
                if (c.route[i] >= 0) c.route_index[i] = row - setup.route_start[c.route[i]];
            }
        }
        reverse_over_starts();
    }

    STAGE void see() {
        for (int64_t i = 0; i < m; ++i) w.present[i] = w.cars.lane[i] >= 0 ? w.cars.active[i] : 0;
    }

    STAGE void follow(const Around<T> &around) {
        const int32_t *__restrict leader = around.leader[OWN];
        const T *__restrict gap = around.gap[OWN], *__restrict speed = w.cars.speed;
        const Drivers<T> d = w.drivers;
        T *__restrict following = w.following;
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const int32_t l = leader[i] >= 0 ? leader[i] : int32_t(i);
            following[i] = idm<T, FOUR, PAPER>(speed[i], gap[i], speed[i] - speed[l], d.of(i));
        }
    }

    // Car following or action, noise, bounds: what every vehicle does before the stop rule.
    STAGE void accelerate(int64_t t, const T *__restrict following) {
        T *__restrict a = w.acceleration;
        std::memcpy(a, following, size_t(m) * sizeof(T));
        if (task.acts())
            task.for_controlled(
                [&](int64_t k, int64_t c, int64_t i) { a[i] = task.action(call.acceleration, t, k, c); });
        if (call.noise) {
            const T *__restrict noise = task.part(static_cast<const T *>(call.noise), t, task.vehicles);
            const T *__restrict size = w.drivers.noise;
            const T root = T(std::sqrt(setup.dt));
            for (int64_t i = 0; i < n; ++i) a[i] += size[i] * (noise[i] * root);
        }
        const T floor = -T(setup.max_braking);
        if (floor > -INFINITE<T>)
            for (int64_t i = 0; i < m; ++i) a[i] = a[i] > floor ? a[i] : floor;
        if (task.acts())
            task.for_controlled([&](int64_t, int64_t c, int64_t i) {
                if (setup.limited[c] && !(a[i] < following[i])) a[i] = following[i];
            });
        const int32_t *__restrict active = w.cars.active;
        for (int64_t i = 0; i < m; ++i) a[i] = active[i] ? a[i] : T(0);
    }

    STAGE void move(int64_t t, const T *__restrict carried) {
        Cars<T> &c = w.cars;
        T *__restrict speed = c.speed, *__restrict position = c.position, *__restrict lateral = c.lateral;
        T *__restrict cooldown = c.cooldown, *__restrict moved = w.moved;
        const T *__restrict a = w.acceleration;
        const int32_t *__restrict active = c.active;
        const T half = T(0.5 * setup.dt), decay = T(setup.decay), crumb = T(1e-3 * setup.dt);
        const int64_t method = setup.integrator;
        steer(t, carried);
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const T v = speed[i], reached = v + a[i] * dt;
            T fresh = reached > T(0) ? reached : T(0);
            if (carried) fresh = fresh + carried[i] * dt;
            const T way = method == BALLISTIC ? (v + fresh) * half : (method == SEMI_IMPLICIT_EULER ? fresh : v) * dt;
            moved[i] = active[i] ? way : T(0);
            speed[i] = active[i] ? fresh : T(0);
        }
        for (int64_t i = 0; i < m; ++i) lateral[i] *= decay;
        for (int64_t i = 0; i < m; ++i) {
            const T left = cooldown[i] - dt;
            cooldown[i] = left > crumb ? left : T(0);
        }
        if (task.steered)
            task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
                if (!task.steers(c)) return;
                const Pose<T> &pose = w.steered[k * setup.controlled + c];
                moved[i] = pose.way;
                speed[i] = pose.speed;
                lateral[i] = pose.lateral;
            });
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) position[i] += moved[i];
    }

    // Where steered vehicles go; the loop over all does not know them.
    void steer(int64_t t, const T *carried) {
        if (!task.steered) return;
        task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
            if (!task.steers(c)) return;
            const T angle = call.steering ? task.action(call.steering, t, k, c) : T(0);
            const T pushed = carried ? w.acceleration[i] + carried[i] : w.acceleration[i], v = w.cars.speed[i];
            const Bicycle<T> bicycle(w.cars.heading[i], angle, w.drivers.length[i]);
            const bool active = w.cars.active[i];
            w.steered[k * setup.controlled + c] = {
                active ? v * bicycle.cosine * dt : T(0), active ? v + pushed * dt : T(0),
                w.cars.lateral[i] + v * bicycle.sine * dt};
            w.cars.heading[i] = w.cars.heading[i] + v * bicycle.turn * dt;
        });
    }

    STAGE void cross() {
        Cars<T> &c = w.cars;
        if (!somebody_crosses()) return;
        for (int64_t i = 0; i < n; ++i) {
            if (!w.present[i]) continue;
            for (int64_t hop = 0; hop < setup.crossings; ++hop) {
                const int32_t here = c.lane[i];
                const T length = task.length[here];
                if (!(c.position[i] >= length)) break;
                const int32_t after = setup.successor[here];
                if (after < 0) {
                    if (c.active[i]) ++w.left[w.world[i]];
                    c.active[i] = 0;
                    break;
                }
                c.position[i] -= length;
                c.previous[i] = here;
                c.lane[i] = after;
            }
        }
        reverse_over_starts();
    }

    void reverse_over_starts() {
        Cars<T> &c = w.cars;
        if (!task.steered) return;
        task.for_controlled([&](int64_t, int64_t r, int64_t i) {  // they may reverse over the start of an edge
            if (setup.control[r] != STEERED || c.lane[i] < 0 || !(c.position[i] < T(0))) return;
            const int32_t before = setup.predecessor[c.lane[i]];
            if (before < 0) return;
            c.lane[i] = before;
            c.position[i] += task.length[before];
        });
    }

    STAGE bool somebody_crosses() const {
        const T *__restrict position = w.cars.position, *__restrict length = task.length;
        const int32_t *__restrict lane = w.cars.lane;
        int32_t found = 0;
        for (int64_t i = 0; i < m; ++i) {
            const int32_t here = lane[i] < 0 ? 0 : lane[i];
            found |= int32_t(position[i] >= length[here]) | int32_t(position[i] < T(0));
        }
        return found != 0;
    }

    STAGE void change(Trace<T> &trace) {
        Cars<T> &c = w.cars;
        const Around<T> &around = trace.around;
        if (setup.max_lanes > 1 && task.lanes) {
            for (int64_t i = 0; i < n; ++i) {
                if (!w.wish[i]) continue;
                const int side = w.wish[i] > 0 ? LEFT : RIGHT;
                const int32_t target = (w.wish[i] > 0 ? setup.left : setup.right)[c.lane[i] < 0 ? 0 : c.lane[i]];
                const int32_t l = around.leader[side][i], f = around.follower[side][i];
                const T ahead = l >= 0 ? w.moved[l] : T(0), behind = f >= 0 ? w.moved[f] : T(0);
                const T front = around.gap[side][i] + ahead - w.moved[i];
                const T rear = around.follower_gap[side][i] + w.moved[i] - behind;
                const T smallest = w.change_gap[i];
                if (target < 0 || !c.active[i] || !(front >= smallest) || !(rear >= smallest)) continue;
                c.lane[i] = target;
                trace.changed[i] |= CHANGED_LANE;
                if (task.branched && c.previous[i] >= 0) {
                    // A rear that is still on the edge before goes there too, where the lane beside leads to the new one.
                    const int32_t aside = (w.wish[i] > 0 ? setup.left : setup.right)[c.previous[i]];
                    if (aside >= 0 && setup.successor[aside] == target) c.previous[i] = aside;
                }
                const int32_t row = w.row[i];
                c.cooldown[i] = row >= 0 && setup.control[row] == LANE ? T(setup.choice_cooldown)
                                : setup.changes_lanes                ? w.drivers.cooldown[i]
                                                                     : T(0);
            }
        }
        if (!task.steered) return;
        task.for_controlled([&](int64_t, int64_t r, int64_t i) {
            if (setup.control[r] != STEERED || c.lane[i] < 0 || !c.active[i]) return;
            const int32_t here = c.lane[i];
            const T width = task.width[here], y = c.lateral[i];
            const int direction = int(y >= width / T(2)) - int(y <= -width / T(2));
            if (!direction) return;
            const int32_t target = (direction > 0 ? setup.left : setup.right)[here];
            if (target >= 0) c.lateral[i] = y - T(direction) * width;
            c.lane[i] = target;
        });
    }
};

}  // namespace
}  // namespace TG_VARIANT

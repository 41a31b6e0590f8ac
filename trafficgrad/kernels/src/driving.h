// What roads that meet, part and end ask of drivers beyond their leaders: speed limits in time, lanes that a route
// needs, room for others, stop lines. Follows trafficgrad/route_following.py, and Simulator._restrain and _slow_in_time.
#pragma once
#include "passage.h"

namespace TG_VARIANT {
namespace {

template <class T, bool FOUR, bool PAPER> struct Driving {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Around<T> &around;
    const RoadTrace<T> &trace;
    static constexpr T infinite = std::numeric_limits<T>::infinity();

    Driving(Task<T> &task, const Around<T> &around, const RoadTrace<T> &trace)
        : task(task), w(task.world), setup(task.setup), around(around), trace(trace) {}

    T x(int64_t i) const { return w.cars.position[i]; }
    T v(int64_t i) const { return w.cars.speed[i]; }
    int32_t lane(int64_t i) const { return w.cars.lane[i] < 0 ? 0 : w.cars.lane[i]; }
    T acceleration(int64_t i, T gap, T closing) const {
        return idm<T, FOUR, PAPER>(v(i), gap, closing, w.drivers.of(i));
    }
    int64_t planned(int64_t i, int32_t number) const {
        const int32_t last = int32_t(setup.max_lanes) - 1;
        return w.ahead.row[i] * setup.max_lanes + std::min(std::max(number, 0), last);
    }
    T limit_of(int64_t i, int32_t lane) const { return task.limit(w.world[i], lane) * w.factor[i]; }

    // Desired speeds under the limits here and, so far that comfortable braking suffices, of those ahead.
    STAGE void limit_speeds() const {
        for (int64_t i = 0; i < task.n; ++i) {
            T speed = w.wish_speed[i];
            trace.from[i] = BY_WISH;
            trace.slow[i] = w.ahead.slow[i];
            trace.slow_distance[i] = T(0);
            if (setup.has_limits) {
                const T here = limit_of(i, lane(i));
                if (here < speed) {
                    speed = here;
                    trace.from[i] = BY_LIMIT;
                }
                if (w.ahead.slow[i] >= 0) {
                    const T there = limit_of(i, w.ahead.slow[i]), far = w.ahead.slow_offset[i] - x(i);
                    const T distance = far > T(0) ? far : T(0);
                    const T square = there * there + T(2) * w.drivers.b[i] * distance, slow = std::sqrt(square);
                    trace.slow_distance[i] = distance;
                    if (square < infinite && slow < speed) {
                        speed = slow;
                        trace.from[i] = BY_LOWER_LIMIT;
                    }
                }
            }
            w.drivers.v0[i] = trace.speed[i] = speed;
        }
    }

    // Desired speeds in the lanes beside.
    STAGE void limit_speeds_beside() const {
        for (int k = 0; k < 2; ++k) {
            const int32_t *beside = k ? setup.left : setup.right;
            for (int64_t i = 0; i < task.n; ++i) {
                T speed = setup.has_limits ? w.wish_speed[i] : w.drivers.v0[i];
                if (setup.has_limits) {
                    const int32_t there = beside[lane(i)];
                    const T limit = limit_of(i, there < 0 ? 0 : there);
                    if (limit < speed) speed = limit;
                }
                w.beside[k][i] = speed;
            }
        }
    }

    // Whether a vehicle may leave its lane.
    STAGE void permit() const {
        const auto &ahead = w.ahead;
        for (int64_t i = 0; i < task.n; ++i) {
            trace.exists[i] = 0;
            if (!w.present[i]) continue;
            const int32_t here = lane(i);
            const T speed = v(i), rest = task.length[here] - x(i);
            const bool slow = speed < T(1);
            if (!(w.cars.previous[i] < 0 || x(i) >= w.drivers.length[i])) continue;
            const bool ends = ahead.end_offset[i] < infinite;
            if (w.cars.right_of_way[i] >= 0 && !(slow && ends)) continue;
            const bool late = rest < speed * speed / T(2.0 * 3.0) + T(0.5) * speed;
            for (int k = 0; k < 2; ++k) {
                if ((k ? setup.left : setup.right)[here] < 0) continue;
                const int32_t after = setup.next_lane[planned(i, setup.number[here] + (k ? 1 : -1))];
                const bool demanding =
                    after >= 0 && setup.is_junction[after] &&
                    (setup.gated[after] || setup.parts[after] || task.limit(w.world[i], after) < speed);
                if (slow || !(late && demanding)) trace.exists[i] |= uint8_t(1 << k);
            }
        }
    }

    // What the routes ask of every vehicle's lane.
    STAGE void need() const {
        const RouteNeed<T> &need = w.need;
        for (int64_t i = 0; i < task.n; ++i) {
            const int32_t here = lane(i), number = setup.number[here];
            const T speed = v(i);
            for (int k = -1; k <= 1; ++k) {
                const int64_t at = planned(i, number + k);
                const int32_t changes = std::abs(setup.change[at]);
                if (changes == 0 || setup.is_junction[here]) {
                    need.cost[k + OWN][i] = T(0);
                    if (k == 0) need.urgency[i] = T(0);
                    continue;
                }
                T left = static_cast<const T *>(setup.reach)[at] - x(i);
                left = left > T(0) ? left : T(0);
                T needed = T(changes) * (T(30) + T(8) * speed);
                needed = needed > T(1) ? needed : T(1);
                const T urgency = std::min(std::max(T(1) - left / needed, T(0)), T(1));
                const T wish = left < T(2) * needed ? T(0.5) * T(changes) : T(0);
                need.cost[k + OWN][i] = T(5) * urgency + wish;
                if (k == 0) need.urgency[i] = urgency;
            }
            const int32_t change = setup.change[planned(i, number)];
            need.side[i] = setup.is_junction[here] ? 0 : int32_t(change > 0) - int32_t(change < 0);
        }
    }

    // Accelerations as far as junctions, lane ends and others' lane changes allow, from `following` to `restrained`.
    STAGE void restrain(const T *following, T *restrained, const Passage<T> &passage, bool routes) const {
        for (int64_t i = 0; i < task.n; ++i) {
            restrained[i] = following[i];
            trace.bound[i] = BY_LEADER;
            trace.leader[i] = -1;
            trace.gap[i] = T(0);
            for (int r = 0; passage.follows[i] >> r; ++r)
                if (passage.follows[i] >> r & 1)
                    behind(restrained, i, passage.leader[r][i], passage.leader_gap[r][i], BY_VEHICLE);
            if (passage.zip_leader[i] >= 0) leave_room(restrained, i, passage);
            if (w.ahead.end_offset[i] < infinite) stop_at_end(restrained, i);
        }
        if (routes) make_room(restrained);
        for (int64_t i = 0; i < task.n; ++i) stop_at_gate(restrained, i, passage);
        if (setup.signals && setup.signal_mode != BLOCKED) turn(restrained, passage);
        std::memcpy(trace.value, restrained, size_t(task.n) * sizeof(T));
    }

    void bind(T *restrained, int64_t i, T value, uint8_t bound, int32_t leader, T gap) const {
        if (!(value < restrained[i])) return;
        restrained[i] = value;
        trace.bound[i] = bound;
        trace.leader[i] = leader;
        trace.gap[i] = gap;
    }

    void behind(T *restrained, int64_t i, int32_t leader, T gap, uint8_t bound) const {
        bind(restrained, i, acceleration(i, gap, v(i) - v(leader)), bound, leader, gap);
    }

    void leave_room(T *restrained, int64_t i, const Passage<T> &passage) const {
        const int32_t leader = passage.zip_leader[i];
        const T known = passage.zip_gap[i], gap = known < T(0.5) ? T(0.5) : known, floor = -w.drivers.b[i];
        const T value = acceleration(i, gap, v(i) - v(leader));
        if (value > floor) bind(restrained, i, value, BY_ZIP, leader, known);
        else bind(restrained, i, floor, BY_COMFORT, leader, known);
    }

    void stop_at_end(T *restrained, int64_t i) const {
        const bool to_the_right = setup.change[planned(i, setup.number[lane(i)])] < 0;
        const T end = w.ahead.end_offset[i] - x(i), early = end - T(14);
        const T distance = to_the_right && early > T(0) ? early : end;
        bind(restrained, i, acceleration(i, distance, v(i)), BY_WALL, -1, distance);
    }

    // Who must leave its lane soon falls back behind the one ahead in the other lane, and is let in by the one behind.
    void make_room(T *restrained) const {
        const T floor = T(-2);
        for (int64_t i = 0; i < task.n; ++i) w.wants_room[i] = wants_room(i);
        for (int64_t i = 0; i < task.n; ++i) {
            if (!w.wants_room[i]) continue;
            const int side = w.need.side[i] > 0 ? LEFT : RIGHT;
            const int32_t l = around.leader[side][i], f = around.follower[side][i];
            const T gap = around.gap[side][i], rear = around.follower_gap[side][i];
            if (l >= 0 && (gap > T(0) || rolls(i))) {
                const T value = acceleration(i, gap, v(i) - v(l));
                if (value > floor) bind(restrained, i, value, BY_ROOM, l, gap);
                else bind(restrained, i, floor, BY_NOTHING, -1, T(0));
            }
            if (f >= 0 && (rear > T(1) || rolls(f))) {
                const T value = acceleration(f, rear, v(f) - v(i));
                if (value > floor) bind(restrained, f, value, BY_ROOM, int32_t(i), rear);
                else bind(restrained, f, floor, BY_NOTHING, -1, T(0));
            }
        }
    }

    bool rolls(int64_t i) const { return v(i) > T(1) && v(i) < T(5); }

    bool wants_room(int64_t i) const {
        if (!(w.need.urgency[i] > T(0.1)) || w.need.side[i] == 0 || !w.cars.active[i]) return false;
        return trace.exists[i] >> (w.need.side[i] > 0) & 1;
    }

    void stop_at_gate(T *restrained, int64_t i, const Passage<T> &passage) const {
        trace.gate[i] = passage.enters[i] ? GATE_ENTERS : 0;
        trace.gate_distance[i] = passage.gate_distance[i];
        trace.signal[i] = -1;
        const int32_t gate = passage.gate[i];
        trace.stop_distance[i] = infinite;
        w.stopping[i] = infinite;
        w.free[i] = restrained[i];
        if (gate < 0) return;
        const T depth = static_cast<const T *>(setup.waits_at)[gate] - T(0.5) + w.drivers.s0[i];
        const T distance = passage.enters[i] ? passage.gate_distance[i] + depth : passage.gate_distance[i];
        trace.stop_distance[i] = distance;
        if (!passage.closed[i] && !passage.enters[i]) return;
        w.stopping[i] = acceleration(i, distance, v(i));
        if (w.stopping[i] < restrained[i]) {
            restrained[i] = w.stopping[i];
            trace.gate[i] |= GATE_BINDS;
        }
    }

    // What signals that have just changed do to this step, in sigmoid mode; for the others it is only noted.
    void turn(T *restrained, const Passage<T> &passage) const {
        const T dt = T(setup.dt);
        for (int64_t i = 0; i < task.n; ++i) {
            const int32_t gate = passage.gate[i];
            const int32_t signal = gate >= 0 && w.cars.active[i] ? setup.signal[gate] : -1;
            trace.signal[i] = signal;
            if (signal < 0) continue;
            const int64_t k = w.world[i], at = k * setup.signals + signal;
            const int32_t now = w.phase[at], count = setup.phase_count[signal], before = (now - 1 + count) % count;
            const auto open = [&](int32_t phase) {
                return setup.letter[(signal * setup.phases + phase) * setup.letters + setup.signal_index[gate]] >= YIELDING;
            };
            const bool fresh = w.phase_time[at] < T((1.0 - 1e-3) * setup.dt), opened = open(now), was = open(before);
            const bool waits = !opened && passage.closed[i];
            if (waits) trace.gate[i] |= WAITS;
            const T lasted = task.durations(k)[signal * setup.phases + before];
            if (lasted < T(2.0 * setup.headway)) trace.gate[i] |= METERS;
            if (fresh && !was && opened && !passage.closed[i] && !passage.enters[i]) trace.gate[i] |= TURNS_GREEN;
            if (fresh && was && waits) trace.gate[i] |= TURNS_RED;
            if (!(trace.gate[i] & (TURNS_GREEN | TURNS_RED))) continue;
            const T stopping = acceleration(i, trace.stop_distance[i], v(i));
            const T braked = stopping < w.free[i] ? stopping : w.free[i];
            const bool red = trace.gate[i] & TURNS_RED;
            const T fresh_value = red ? braked : w.free[i], old = red ? w.free[i] : braked;
            restrained[i] = fresh_value;
            if (setup.signal_mode == SIGMOID)
                restrained[i] += (task.late(k, signal, w.time[k], now, w.phase_time[at]) / dt + T(1)) * (old - fresh_value);
        }
    }
};

// Phases of all signals after a step: trafficgrad/signals.py.
template <class T> struct Lights {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;

    explicit Lights(Task<T> &task) : task(task), w(task.world), setup(task.setup) {}

    // Whether somebody comes to a green of each signal, before the step.
    void see() const {
        const int64_t count = setup.signals;
        for (int64_t s = 0; s < task.worlds * count; ++s) w.wanted[s] = 0;
        for (int64_t i = 0; i < task.n; ++i) {
            const int32_t gate = w.ahead.gate[0][i];
            if (gate < 0 || !w.cars.active[i] || setup.signal[gate] < 0) continue;
            const int32_t signal = setup.signal[gate];
            const int64_t at = w.world[i] * count + signal;
            const int32_t letter =
                setup.letter[(signal * setup.phases + w.phase[at]) * setup.letters + setup.signal_index[gate]];
            const T distance = w.ahead.gate_offset[0][i] - w.cars.position[i];
            if (letter >= YIELDING && distance < T(3) * w.cars.speed[i] + T(5)) w.wanted[at] = 1;
        }
    }

    // After the step; the worlds' times are already the new ones.
    void advance(int64_t t) const {
        const T dt = T(setup.dt), crumb = T(1e-3 * setup.dt);
        const T *request = static_cast<const T *>(task.call.signal_request);
        if (request) request = task.part(request, t, setup.signals);
        for (int64_t k = 0; k < task.worlds; ++k) {
            for (int64_t s = 0; s < setup.signals; ++s) {
                const int64_t at = k * setup.signals + s;
                int32_t &phase = w.phase[at];
                T &elapsed = w.phase_time[at];
                const T *durations = task.durations(k) + s * setup.phases;
                if (setup.signal_kind[s] == 0) {
                    by_clock(durations, task.offset(k)[s], w.time[k], phase, elapsed);
                    continue;
                }
                const T waited = elapsed + dt;
                const T least = static_cast<const T *>(setup.shortest)[s * setup.phases + phase];
                const T most = static_cast<const T *>(setup.longest)[s * setup.phases + phase];
                const int32_t *letters = setup.letter + (s * setup.phases + phase) * setup.letters;
                bool yellow = false, open = false;
                for (int64_t l = 0; l < setup.letters; ++l) {
                    yellow |= letters[l] == YELLOW;
                    open |= letters[l] >= YIELDING;
                }
                bool ends;
                if (yellow || !open) ends = waited >= durations[phase] - crumb;
                else if (setup.signal_kind[s] == 1)
                    ends = (waited >= least - crumb && !w.wanted[at]) || waited >= most - crumb;
                else
                    ends = (waited >= least - crumb && request && request[at] > T(0)) || waited >= most - crumb;
                if (ends) phase = (phase + 1) % setup.phase_count[s];
                elapsed = ends ? T(0) : waited;
            }
        }
    }

    void by_clock(const T *durations, T offset, T time, int32_t &phase, T &elapsed) const {
        const T crumb = T(1e-3);
        T cycle = T(0);
        for (int64_t p = 0; p < setup.phases; ++p) cycle += durations[p];
        T moment = std::fmod(time - offset + crumb, cycle);
        if (moment != T(0) && moment < T(0)) moment += cycle;
        T end = T(0), begin = T(0);
        int32_t now = 0;
        for (int64_t p = 0; p < setup.phases; ++p) {
            end += durations[p];
            if (!(moment >= end)) continue;
            now = int32_t(p) + 1;  // ends ascend, so this counts them
            begin = end;
        }
        phase = now;
        const T since = moment - begin - crumb;
        elapsed = since > T(0) ? since : T(0);
    }
};

}  // namespace
}  // namespace TG_VARIANT

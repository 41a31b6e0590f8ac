// The way back through what roads that meet, part and end ask of drivers, and through signals.
#pragma once
#include "pulling.h"

namespace TG_VARIANT {
namespace {

template <class T, bool FOUR, bool PAPER, bool PARAMETERS> struct RoadPulls : Pulling<T, FOUR, PAPER, PARAMETERS> {
    using Base = Pulling<T, FOUR, PAPER, PARAMETERS>;
    using Base::Base;
    using Base::task, Base::w, Base::setup, Base::call, Base::n, Base::m, Base::dt, Base::before, Base::after;
    using Base::add_parameters, Base::pull_wall;

    T free_speed(int64_t i, int32_t lane) const {
        const T limit = task.limit(w.world[i], lane < 0 ? 0 : lane) * w.factor[i];
        return limit < w.wish_speed[i] ? limit : w.wish_speed[i];
    }

    // What waiting at a red carries: see carry_passing() in trafficgrad/signal_gradients.py.
    void pull_passing(int64_t t, const Trace<T> &trace) {
        const RoadTrace<T> &road = trace.road;
        const int64_t *lane = task.part(call.next_lane, t, task.vehicles);
        const T *speed = task.part(static_cast<const T *>(call.next_speed), t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) {
            const T carried = after.passed[i] + (free_speed(i, int32_t(lane[i])) - speed[i]) * after.speed[i];
            const bool waits = road.gate[i] & WAITS;
            const T place = w.drivers.length[i] + w.drivers.s0[i];
            before.passed[i] = waits ? carried : place * after.position[i];
            w.bar_late[i] = w.bar_line[i] = T(0);
            if (!waits || !(road.gate[i] & TURNS_RED) || road.gate[i] & METERS) continue;
            const T v = w.cars.speed[i], distance = road.gate_distance[i];
            const Driver<T> d = w.drivers.of(i);
            const T free = idm<T, FOUR, PAPER>(v, INFINITE<T>, T(0), d);
            const T stopping = idm<T, FOUR, PAPER>(v, distance, v, d);
            const T density = pass_density(distance, v, free, stopping);
            w.bar_late[i] = density * carried;
            w.bar_line[i] = -density * carried / std::max(v, T(1));
        }
    }

    T pass_density(T distance, T speed, T free, T stopping) const {
        const T headway = T(setup.headway);
        const T share = std::max(free - stopping, T(0)) / std::max(free + T(setup.stop_deceleration), T(0.1));
        const T missed_by = distance * (T(1) - std::sqrt(share)) / std::max(speed, T(1));
        return std::exp(-std::max(missed_by, T(0)) / headway) / headway;
    }

    // From what drivers come to in the end down to what their leaders ask of them, and to what else bound them.
    void pull_restraint(const T *time, const RoadTrace<T> &road, const T *following) {
        const T step = dt;
        const bool carries = setup.signals && setup.signal_mode == STRAIGHT_THROUGH;
        for (int64_t i = 0; i < n; ++i) {
            const T bar = w.bar_following[i];
            T bar_free = bar, bar_stopping = T(0), bar_late = carries ? w.bar_late[i] : T(0);
            if (carries) before.position[i] -= w.bar_line[i];
            const T v = w.cars.speed[i];
            if (road.gate[i] & (TURNS_RED | TURNS_GREEN)) {
                const T free = road.bound[i] == BY_LEADER ? following[i] : bound_value(i, road);
                const T stopping = idm<T, FOUR, PAPER>(v, road.stop_distance[i], v, w.drivers.of(i));
                const bool red = road.gate[i] & TURNS_RED, brakes = stopping < free;
                const T braked = brakes ? stopping : free, fresh = red ? braked : free, old = red ? free : braked;
                bar_late += bar * (old - fresh) / step;
                T bar_fresh = bar, bar_old = T(0);
                if (setup.signal_mode == SIGMOID) {
                    const int64_t at = w.world[i] * setup.signals + road.signal[i];
                    const T late = task.late(w.world[i], road.signal[i], time[w.world[i]], w.phase[at], w.phase_time[at]);
                    bar_old = (late / step + T(1)) * bar;
                    bar_fresh = bar - bar_old;
                }
                const T bar_braked = red ? bar_fresh : bar_old;
                bar_free = red ? bar_old : bar_fresh;
                (brakes ? bar_stopping : bar_free) += bar_braked;
            } else if (road.gate[i] & GATE_BINDS) {
                bar_free = T(0);
                bar_stopping = bar;
            }
            if (bar_late != T(0)) pull_late(i, road.signal[i], bar_late, time);
            if (bar_stopping != T(0)) {
                const T bar_gap = pull_wall(bar_stopping, i, road.stop_distance[i]);
                if (road.gate[i] & GATE_ENTERS) w.bar.s0[i] += bar_gap;
            }
            pull_bound(i, bar_free, road);
        }
    }

    T bound_value(int64_t i, const RoadTrace<T> &road) const {
        const T v = w.cars.speed[i];
        switch (road.bound[i]) {
        case BY_COMFORT: return -w.drivers.b[i];
        case BY_NOTHING: return T(-2);
        case BY_WALL: return idm<T, FOUR, PAPER>(v, road.gap[i], v, w.drivers.of(i));
        default: {
            const T gap = road.bound[i] == BY_ZIP && road.gap[i] < T(0.5) ? T(0.5) : road.gap[i];
            return idm<T, FOUR, PAPER>(v, gap, v - w.cars.speed[road.leader[i]], w.drivers.of(i));
        }
        }
    }

    void pull_bound(int64_t i, T bar, const RoadTrace<T> &road) {
        const uint8_t bound = road.bound[i];
        w.bar_following[i] = bound == BY_LEADER ? bar : T(0);
        if (bound == BY_LEADER || bar == T(0) || bound == BY_NOTHING) return;
        if (bound == BY_COMFORT) {
            w.bar.b[i] -= bar;
        } else if (bound == BY_WALL) {
            pull_wall(bar, i, road.gap[i]);
        } else {
            const int32_t leader = road.leader[i];
            const bool clipped = bound == BY_ZIP && road.gap[i] < T(0.5);
            const T gap = clipped ? T(0.5) : road.gap[i], v = w.cars.speed[i];
            const Pull<T> p = pull_idm<T, FOUR, PAPER, true>(bar, v, gap, v - w.cars.speed[leader], w.drivers.of(i));
            before.speed[i] += p.v + p.closing;
            before.speed[leader] -= p.closing;
            if (!clipped) {
                before.position[leader] += p.gap;
                before.position[i] -= p.gap;
                if (bound == BY_ROOM) w.bar.length[leader] -= p.gap;
            }
            add_parameters(p, i);
        }
    }

    // From the time of a signal's change to its programme.
    void pull_late(int64_t i, int32_t signal, T bar, const T *time) {
        if (signal < 0 || setup.signal_kind[signal] != 0) return;
        const int64_t k = w.world[i], at = k * setup.signals + signal;
        T cycles = T(0);
        task.late(k, signal, time[k], w.phase[at], w.phase_time[at], &cycles);
        if (call.bar_offset) static_cast<T *>(call.bar_offset)[(task.first + k) * setup.signals + signal] += bar;
        if (!call.bar_durations) return;
        T *durations = static_cast<T *>(call.bar_durations) + ((task.first + k) * setup.signals + signal) * setup.phases;
        for (int64_t p = 0; p < setup.phases; ++p) durations[p] += bar * (cycles + T(p < w.phase[at]));
    }
};

}  // namespace
}  // namespace TG_VARIANT

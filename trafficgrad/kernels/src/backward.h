// The adjoint of a step: cotangents of the state after become those of the state before, of what was done, and of the
// parameters.
#pragma once
#include "pull_lanes.h"

namespace TG_VARIANT {
namespace {

template <class T, bool FOUR, bool PAPER, bool PARAMETERS> struct Backward : LanePulls<T, FOUR, PAPER, PARAMETERS> {
    using Base = LanePulls<T, FOUR, PAPER, PARAMETERS>;
    using Base::task, Base::w, Base::setup, Base::call, Base::n, Base::m, Base::dt, Base::before, Base::after;
    using Base::bar_of, Base::bound_speed, Base::for_parameters, Base::free_speed, Base::give_one, Base::row_of;
    using Base::pull_choice, Base::pull_membership, Base::pull_passing, Base::pull_restraint, Base::spend_all;
    Forward<T, FOUR, PAPER> forward;
    const Outcome *outcome;

    Backward(Task<T> &task, const Outcome *outcome) : Base(task), forward(task, outcome), outcome(outcome) {}

    void run(int64_t first, int64_t count) {
        forward.turn_to(first, count);
        n = task.n;
        m = task.m;
        forward.load();
        if (task.lets_in) load_end();
        task.meet_drivers();
        for (T **x : {&after.position, &after.speed, &after.lateral, &after.heading, &after.cooldown, &after.passed})
            std::memset(*x, 0, size_t(m + 1) * sizeof(T));
        if (PARAMETERS)
            for (T *x : {w.bar.v0, w.bar.th, w.bar.a, w.bar.b, w.bar.s0, w.bar.e, w.bar.length, w.bar.noise,
                         w.bar.politeness, w.bar.threshold, w.bar.bias, w.bar.cooldown, w.bar_factor, w.bar_wish})
                std::memset(x, 0, size_t(m + 1) * sizeof(T));
        clear_actions();
        for (int64_t t = call.steps - 1; t >= 0; --t) {
            if (outcome) {
                if (t == call.steps - 1) {
                    go_back_to(t);
                    receive_outcome();
                }
                Judging<T>(task, *outcome).pull_terms(t, after.speed);  // the state after step t is at hand
            } else {
                receive(t);
            }
            if (task.lets_in) take_out(t);
            const T *times = t ? task.part(static_cast<const T *>(call.next_time), t - 1, 1)
                               : static_cast<const T *>(call.time) + first;
            if (t) go_back_to(t - 1);
            else if (call.steps > 1 || outcome || task.lets_in) forward.load();
            Trace<T> trace = w.trace;
            forward.keep_in_saved(trace, t);
            step(t, times, trace);
            std::swap(after, before);
        }
        hand_over();
    }

    // The state and the drivers at the end, where others than at the beginning may drive.
    void load_end() {
        const int64_t last = call.steps - 1;
        go_back_to(last);
        std::memcpy(w.driver, task.part(call.next_driver, last, task.vehicles), size_t(n) * sizeof(int64_t));
        std::memset(w.doors.bar_next_arrival, 0, size_t(task.worlds * setup.inflows) * sizeof(T));
    }

    // Undoes what demand did in step t; the state after it is at hand.
    void take_out(int64_t t) {
        Trace<T> trace = w.trace;
        forward.keep_in_saved(trace, t);
        Demand<T, FOUR>(task).template pull<PARAMETERS>(
            t, trace.admitted, after, [&](int64_t i) { give_one(i); });
    }

    // Cotangents of what was done are added to: a held action gets them from all steps.
    void clear_actions() {
        for (void *array : {call.bar_acceleration, call.bar_request, call.bar_steering}) {
            if (!array) continue;
            for (int64_t t = 0; t < (call.held ? 1 : call.steps); ++t)
                std::memset(task.part(static_cast<T *>(array), t, setup.controlled), 0,
                            size_t(task.worlds * setup.controlled) * sizeof(T));
        }
    }

    // Adds what was asked about the last state, and about what is observed of it.
    void receive_outcome() {
        receive(0);
        if (!outcome->bar_observation) return;
        forward.look_at_the_end();
        Judging<T>(task, *outcome).pull_sight(after);
    }

    // Adds what was asked about the state after step t.
    STAGE void receive(int64_t t) {
        const auto add = [&](const void *source, T *__restrict to) {
            if (!source) return;
            const T *__restrict values = task.part(static_cast<const T *>(source), t, task.vehicles);
            for (int64_t i = 0; i < n; ++i) to[i] += values[i];
        };
        add(call.bar_next_position, after.position);
        add(call.bar_next_speed, after.speed);
        add(call.bar_next_lateral, after.lateral);
        add(call.bar_next_heading, after.heading);
        add(call.bar_next_cooldown, after.cooldown);
        add(call.bar_next_passed, after.passed);
        if (!task.lets_in || !call.bar_next_next_arrival) return;
        const T *bar = task.part(static_cast<const T *>(call.bar_next_next_arrival), t, setup.inflows);
        for (int64_t q = 0; q < task.worlds * setup.inflows; ++q) w.doors.bar_next_arrival[q] += bar[q];
    }

    // The state after step t is the one before the next.
    STAGE void go_back_to(int64_t t) {
        Cars<T> &c = w.cars;
        const auto copy = [&](const void *source, T *to) {
            std::memcpy(to, task.part(static_cast<const T *>(source), t, task.vehicles), size_t(n) * sizeof(T));
        };
        copy(call.next_position, c.position);
        copy(call.next_speed, c.speed);
        copy(call.next_lateral, c.lateral);
        copy(call.next_cooldown, c.cooldown);
        if (call.next_heading) copy(call.next_heading, c.heading);
        const int64_t *lane = task.part(call.next_lane, t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) c.lane[i] = int32_t(lane[i]);
        if (task.lets_in) {
            const int64_t *route = task.part(call.next_route, t, task.vehicles);
            for (int64_t i = 0; i < n; ++i) c.route[i] = int32_t(route[i]);
        }
        if (task.branched) {
            const int64_t *index = task.part(call.next_route_index, t, task.vehicles);
            for (int64_t i = 0; i < n; ++i) c.route_index[i] = int32_t(index[i]);
            for (int64_t q = 0; q < task.worlds * setup.signals; ++q) {
                w.phase[q] = int32_t(task.part(call.next_phase, t, setup.signals)[q]);
                w.phase_time[q] = task.part(static_cast<const T *>(call.next_phase_time), t, setup.signals)[q];
            }
        }
        if (!call.next_active) return;
        const uint8_t *active = task.part(call.next_active, t, task.vehicles);
        for (int64_t i = 0; i < n; ++i) c.active[i] = active[i];
    }

    STAGE void hand_over() {
        const auto copy = [&](const T *source, void *target) {
            if (target) std::memcpy(task.part(static_cast<T *>(target), 0, task.vehicles), source, size_t(n) * sizeof(T));
        };
        copy(after.position, call.bar_position);
        copy(after.speed, call.bar_speed);
        copy(after.lateral, call.bar_lateral);
        copy(after.heading, call.bar_heading);
        copy(after.cooldown, call.bar_cooldown);
        copy(after.passed, call.bar_passed);
        if (task.lets_in && call.bar_next_arrival)
            std::memcpy(task.part(static_cast<T *>(call.bar_next_arrival), 0, setup.inflows), w.doors.bar_next_arrival,
                        size_t(task.worlds * setup.inflows) * sizeof(T));
        if (!PARAMETERS) return;
        if (!task.branched)
            for (int64_t i = 0; i < n; ++i) bound_speed(i);
        for_parameters([&](T *target, int64_t rows, const T *values) {
            for (int64_t i = 0; i < n; ++i) target[row_of(i, rows)] += values[i];
        });
    }

    void step(int64_t t, const T *time, const Trace<T> &trace) {
        const Around<T> &around = trace.around;
        const RoadTrace<T> &road = trace.road;
        const bool routes = task.branched && setup.changes_lanes && setup.max_lanes > 1;
        if (task.branched || task.soft) forward.see();
        if (task.soft && !task.keeps_sides) forward.look_around({true, true, true}, around);
        if (task.branched) std::memcpy(w.drivers.v0, road.speed, size_t(n) * sizeof(T));
        forward.follow(around);
        Lanes<T, FOUR, PAPER> lanes(task, around);
        const T *following = w.following;
        const bool sigmoid = task.soft && setup.mode == SIGMOID;
        if (task.soft) {
            if (task.branched) {
                const Driving<T, FOUR, PAPER> driving(task, around, road);
                for (int64_t k = 0; k < task.worlds; ++k) {
                    const Ways<T> ways(task, k);
                    for (int64_t i = k * task.vehicles; i < (k + 1) * task.vehicles; ++i) w.ahead.row[i] = ways.plan_row(i);
                }
                driving.limit_speeds_beside();
                forward.spread_exists(road.exists);
                if (routes) driving.need();
            } else {
                task.look_beside();
            }
            lanes.decide(t, time, false);
        }
        if (sigmoid) {
            lanes.relax();
            following = w.relaxed;
        }
        if (task.branched) {
            if (setup.signals && setup.signal_mode == STRAIGHT_THROUGH) pull_passing(t, trace);
            else std::memcpy(before.passed, after.passed, size_t(m) * sizeof(T));
            std::memcpy(w.restrained, road.value, size_t(n) * sizeof(T));
            following = w.restrained;
        }
        if (!task.branched && task.lets_in) std::memcpy(before.passed, after.passed, size_t(m) * sizeof(T));
        pull_motion(t, following, trace);
        if (task.branched) pull_restraint(time, road, sigmoid ? w.relaxed : w.following);
        if (task.soft) {
            pull_membership(t, lanes);
            pull_choice(t, lanes, sigmoid);
        }
        pull_following(around);
        if (!task.branched) return;
        spend_all(road);
        if (setup.signals && setup.signal_mode == STRAIGHT_THROUGH)  // speeds were looked at without what was carried
            for (int64_t i = 0; i < n; ++i)
                before.passed[i] -= (free_speed(i, w.cars.lane[i]) - w.cars.speed[i]) * before.speed[i];
    }

    // Change of lane, motion, stop rule, bounds, noise, action: down to what car following asked for.
    STAGE void pull_motion(int64_t t, const T *__restrict following, const Trace<T> &trace) {
        T *__restrict a = w.acceleration, *__restrict open = w.open;
        std::memcpy(a, following, size_t(m) * sizeof(T));
        if (task.acts())
            task.for_controlled(
                [&](int64_t k, int64_t c, int64_t i) { a[i] = task.action(call.acceleration, t, k, c); });
        const T root = T(std::sqrt(setup.dt)), floor = -T(setup.max_braking);
        const T *noise = call.noise ? task.part(static_cast<const T *>(call.noise), t, task.vehicles) : nullptr;
        if (noise)
            for (int64_t i = 0; i < n; ++i) a[i] += w.drivers.noise[i] * (noise[i] * root);
        if (floor > -INFINITE<T>) {
#pragma GCC ivdep
            for (int64_t i = 0; i < m; ++i) {
                open[i] = a[i] > floor ? T(1) : T(0);
                a[i] = a[i] > floor ? a[i] : floor;
            }
        } else {
            for (int64_t i = 0; i < m; ++i) open[i] = T(1);
        }
        if (task.acts())
            task.for_controlled([&](int64_t, int64_t c, int64_t i) {
                if (!setup.limited[c] || a[i] < following[i]) return;
                a[i] = following[i];
                open[i] = T(-1);  // bound by car following
            });
        const T *__restrict v = w.cars.speed;
        const int32_t *__restrict active = w.cars.active;
        if (task.branched)
            for (int64_t i = 0; i < n; ++i)
                if (trace.changed[i] & STUCK) after.position[i] = T(0);  // it stands at the lane's end, whatever it drove
        const T *__restrict to_position = after.position, *__restrict to_speed = after.speed;
        T *__restrict bar_v = before.speed, *__restrict bar_x = before.position;
        T *__restrict bar_a = w.bar_acceleration, *__restrict bar_carried = w.bar_carried;
        const T half = T(0.5 * setup.dt), decay = T(setup.decay), crumb = T(1e-3 * setup.dt);
        const T in_new = setup.integrator == BALLISTIC ? half : setup.integrator == SEMI_IMPLICIT_EULER ? dt : T(0);
        const T in_old = setup.integrator == BALLISTIC ? half : setup.integrator == EXPLICIT_EULER ? dt : T(0);
        // Conditions are of the numbers' own type here: compilers make vectors of them then.
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const T there = T(active[i]), pushed = there > T(0) ? a[i] : T(0);
            const T way = there > T(0) ? to_position[i] : T(0), speed = there > T(0) ? to_speed[i] : T(0);
            const T fresh = speed + in_new * way, reached = v[i] + pushed * dt;
            const T moving = reached > T(0) ? fresh : T(0);
            bar_x[i] = to_position[i];
            bar_carried[i] = fresh * dt;
            bar_a[i] = there > T(0) ? moving * dt : T(0);
            bar_v[i] = in_old * way + moving;
        }
        const T *__restrict to_lateral = after.lateral, *__restrict to_cooldown = after.cooldown;
        const T *__restrict cooldown = w.cars.cooldown;
        T *__restrict bar_lateral = before.lateral, *__restrict bar_cooldown = before.cooldown;
        const uint8_t *__restrict changed = trace.changed;
        for (int64_t i = 0; i < m; ++i) bar_lateral[i] = decay * to_lateral[i];
        std::memcpy(before.heading, after.heading, size_t(m) * sizeof(T));
        for (int64_t i = 0; i < m; ++i) {
            const T fresh = T(changed[i] & CHANGED_LANE), running = cooldown[i] - dt > crumb ? to_cooldown[i] : T(0);
            bar_cooldown[i] = fresh > T(0) ? T(0) : running;
        }
        if (PARAMETERS && setup.changes_lanes)
            for (int64_t i = 0; i < m; ++i)
                if (trace.changed[i] & CHANGED_LANE && !(w.row[i] >= 0 && setup.control[w.row[i]] == LANE))
                    w.bar.cooldown[i] += after.cooldown[i];
        pull_steering(t);
        // Below: bar_acceleration becomes that of the value before bounds and noise, bar_following takes its share.
        T *__restrict bar_f = w.bar_following;
        for (int64_t i = 0; i < m; ++i) {
            bar_f[i] = open[i] < T(0) ? bar_a[i] : T(0);
            bar_a[i] = open[i] > T(0) ? bar_a[i] : T(0);
        }
        if (noise) {
            T *bar_noise = static_cast<T *>(call.bar_noise);
            if (bar_noise) {
                bar_noise = task.part(bar_noise, t, task.vehicles);
                for (int64_t i = 0; i < n; ++i) bar_noise[i] = bar_a[i] * w.drivers.noise[i] * root;
            }
            if (PARAMETERS)
                for (int64_t i = 0; i < n; ++i) w.bar.noise[i] += bar_a[i] * noise[i] * root;
        }
        if (task.acts()) {
            task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
                if (T *bar_action = bar_of(call.bar_acceleration, t, k, c)) *bar_action += bar_a[i];
                bar_a[i] = T(0);
            });
        }
        for (int64_t i = 0; i < m; ++i) bar_f[i] += bar_a[i];
    }

    void pull_steering(int64_t t) {
        if (!task.steered) return;
        task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
            if (!task.steers(c)) return;
            const bool active = w.cars.active[i];
            const T v = w.cars.speed[i], size = w.drivers.length[i];
            const T angle = call.steering ? task.action(call.steering, t, k, c) : T(0);
            const Bicycle<T> bicycle(w.cars.heading[i], angle, size);
            const T way = active ? after.position[i] : T(0), speed = active ? after.speed[i] : T(0);
            const T across = after.lateral[i], turned = after.heading[i];
            const T lever = std::cos(bicycle.slip) * (T(2) / size);
            const T course = v * dt * (bicycle.cosine * across - bicycle.sine * way);
            const T slip = course + v * lever * dt * turned;
            before.speed[i] = bicycle.cosine * dt * way + bicycle.sine * dt * across + bicycle.turn * dt * turned + speed;
            before.heading[i] = course + turned;
            before.lateral[i] = across;
            w.bar_acceleration[i] = active ? speed * dt : T(0);
            w.bar_carried[i] = speed * dt;
            if (PARAMETERS) w.bar.length[i] -= v * bicycle.turn / size * dt * turned;
            const T tangent = std::tan(angle);
            if (T *bar_steering = bar_of(call.bar_steering, t, k, c))
                *bar_steering += slip * T(0.5) * (T(1) + tangent * tangent) / (T(1) + T(0.25) * tangent * tangent);
        });
    }

    STAGE void pull_following(const Around<T> &around) {
        const int32_t *__restrict leader = around.leader[OWN];
        const T *__restrict gap = around.gap[OWN], *__restrict speed = w.cars.speed, *__restrict bar = w.bar_following;
        T *__restrict bar_gap = w.bar_gap, *__restrict bar_closing = w.bar_closing;
        T *__restrict bar_v = before.speed, *__restrict bar_x = before.position;
        const Drivers<T> d = w.drivers;
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const int32_t l = leader[i] >= 0 ? leader[i] : int32_t(i);
            const Pull<T> p =
                pull_idm<T, FOUR, PAPER, PARAMETERS>(bar[i], speed[i], gap[i], speed[i] - speed[l], d.of(i));
            const bool follows = leader[i] >= 0;
            bar_v[i] += p.v + (follows ? p.closing : T(0));
            bar_closing[i] = follows ? p.closing : T(0);
            bar_gap[i] = follows ? p.gap : T(0);
            bar_x[i] -= bar_gap[i];
            if (PARAMETERS) {
                w.bar.v0[i] += p.v0;
                w.bar.th[i] += p.th;
                w.bar.a[i] += p.a;
                w.bar.b[i] += p.b;
                w.bar.s0[i] += p.s0;
                w.bar.e[i] += p.e;
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            const int64_t l = leader[i] >= 0 ? leader[i] : m;
            bar_x[l] += bar_gap[i];
            bar_v[l] -= bar_closing[i];
            if (PARAMETERS) w.bar.length[l] -= bar_gap[i];
        }
    }
};

}  // namespace
}  // namespace TG_VARIANT

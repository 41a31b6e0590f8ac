// The adjoint of a step: cotangents of the state after become those of the state before, of what was done, and of the
// parameters. Which derivative is used where a choice has none is said in trafficgrad/gradients.py.
#pragma once
#include "forward.h"

namespace TG_VARIANT {
namespace {

template <class T, bool FOUR, bool PAPER, bool PARAMETERS> struct Backward {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Call &call;
    int64_t n, m;
    const T dt;
    Forward<T, FOUR, PAPER> forward;
    Bars<T> after, before;  // of this step

    const Outcome *outcome;

    Backward(Task<T> &task, const Outcome *outcome)
        : task(task), w(task.world), setup(task.setup), call(task.call), n(0), m(0), dt(T(task.setup.dt)),
          forward(task, outcome), after(task.world.bars[0]), before(task.world.bars[1]), outcome(outcome) {}

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

    // Where the cotangent of what row c of world k did in step t is added up; null = nobody asks.
    T *bar_of(void *array, int64_t t, int64_t k, int64_t c) const {
        if (!array) return nullptr;
        return task.part(static_cast<T *>(array), call.held ? 0 : t, setup.controlled) + k * setup.controlled + c;
    }

    // A request's cotangent, by the rule for held ones.
    void add_request(int64_t t, int64_t k, int64_t c, T bar) const {
        T *target = bar_of(call.bar_request, t, k, c);
        if (!target) return;
        if (!call.held) {
            *target = bar;
            return;
        }
        const int64_t granted = call.granted[(task.first + k) * setup.controlled + c];
        if (granted < 0) *target += bar / T(call.steps);
        else if (t == granted) *target = bar;
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

    // The cotangents of a slot's parameters belong to its driver; they begin anew for who was there before.
    void give_one(int64_t i) {
        if (!PARAMETERS) return;
        if (!task.branched) bound_speed(i);
        for_parameters([&](T *target, int64_t rows, T *values) { target[row_of(i, rows)] += values[i]; });
        for (T *x : {w.bar.v0, w.bar.th, w.bar.a, w.bar.b, w.bar.s0, w.bar.e, w.bar.length, w.bar.noise,
                     w.bar.politeness, w.bar.threshold, w.bar.bias, w.bar.cooldown, w.bar_factor, w.bar_wish})
            x[i] = T(0);
    }

    int64_t row_of(int64_t i, int64_t rows) const {
        return (task.first + w.world[i]) * rows + (rows > 1 ? w.driver[i] : 0);
    }

    // Calls visit(where it is added to, rows, cotangents of the slots) for every parameter that is asked for.
    template <class F> void for_parameters(F visit) {
        const std::pair<Parameter, T *> found[] = {
            {DESIRED_SPEED, w.bar_wish},          {TIME_HEADWAY, w.bar.th},       {MAX_ACCELERATION, w.bar.a},
            {COMFORTABLE_DECELERATION, w.bar.b},  {MIN_GAP, w.bar.s0},            {EXPONENT, w.bar.e},
            {LENGTH, w.bar.length},               {NOISE_SIZE, w.bar.noise},      {POLITENESS, w.bar.politeness},
            {THRESHOLD, w.bar.threshold},         {RIGHT_BIAS, w.bar.bias},       {CHANGE_COOLDOWN, w.bar.cooldown},
            {SPEED_FACTOR, w.bar_factor}};
        for (const auto &[name, values] : found)
            if (T *target = static_cast<T *>(call.bar_value[name])) visit(target, setup.rows[name], values);
    }

    // Where the one speed limit of a road that only goes on binds, the desired speed's cotangent is the speed factor's.
    void bound_speed(int64_t i) {
        const T limit = setup.has_limits ? task.limit(w.world[i], 0) : INFINITE<T>;
        if (setup.has_limits && limit * w.factor[i] < w.wish_speed[i]) w.bar_factor[i] += limit * w.bar.v0[i];
        else w.bar_wish[i] += w.bar.v0[i];
        w.bar.v0[i] = T(0);
    }

    // Hands a desired speed's cotangent on to what bounds it.
    void spend(int64_t i, T bar, uint8_t from, int32_t lane, T distance) {
        if (from == BY_WISH) {
            w.bar_wish[i] += bar;
            return;
        }
        const int64_t k = w.world[i];
        const T limit = task.limit(k, lane);
        T bar_limit = bar;  // of the limit times the factor
        if (from == BY_LOWER_LIMIT) {
            const T there = limit * w.factor[i], square = there * there + T(2) * w.drivers.b[i] * distance;
            const T bar_square = bar / (T(2) * std::sqrt(square));
            bar_limit = T(2) * there * bar_square;
            w.bar.b[i] += T(2) * distance * bar_square;
            if (distance > T(0)) before.position[i] -= T(2) * w.drivers.b[i] * bar_square;
        }
        w.bar_factor[i] += bar_limit * limit;
        if (call.bar_speed_limit)
            static_cast<T *>(call.bar_speed_limit)[(task.first + k) * setup.lanes + lane] += bar_limit * w.factor[i];
    }

    void spend_all(const RoadTrace<T> &road) {
        for (int64_t i = 0; i < n; ++i) {
            const T bar = w.bar.v0[i];
            w.bar.v0[i] = T(0);
            if (bar == T(0)) continue;
            const int32_t here = w.cars.lane[i] < 0 ? 0 : w.cars.lane[i];
            spend(i, bar, road.from[i], road.from[i] == BY_LOWER_LIMIT ? road.slow[i] : here, road.slow_distance[i]);
        }
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

    // Braking for a place ahead; returns the distance's cotangent.
    T pull_wall(T bar, int64_t i, T distance) {
        const T v = w.cars.speed[i];
        const Pull<T> p = pull_idm<T, FOUR, PAPER, true>(bar, v, distance, v, w.drivers.of(i));
        before.speed[i] += p.v + p.closing;
        before.position[i] -= p.gap;
        add_parameters(p, i);
        return p.gap;
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

    // A cotangent of the acceleration of vehicle i behind `leader`, -1 = nobody.
    void pull(T bar, int64_t i, int32_t leader, T gap, T closing) {
        const Pull<T> p = pull_idm<T, FOUR, PAPER, PARAMETERS>(bar, w.cars.speed[i], gap, closing, w.drivers.of(i));
        before.speed[i] += p.v;
        if (leader >= 0) {
            before.speed[i] += p.closing;
            before.speed[leader] -= p.closing;
            before.position[leader] += p.gap;
            before.position[i] -= p.gap;
        }
        if (!PARAMETERS) return;
        add_parameters(p, i);
        if (leader >= 0) w.bar.length[leader] -= p.gap;
    }

    // The same in the lane beside, where another speed limit may hold.
    void pull_beside(T bar, int64_t i, int k, int32_t leader, T gap, T closing, const Driver<T> &there) {
        Pull<T> p = pull_idm<T, FOUR, PAPER, true>(bar, w.cars.speed[i], gap, closing, there);
        before.speed[i] += p.v;
        if (leader >= 0) {
            before.speed[i] += p.closing;
            before.speed[leader] -= p.closing;
            before.position[leader] += p.gap;
            before.position[i] -= p.gap;
            w.bar.length[leader] -= p.gap;
        }
        if (setup.has_limits) {
            const int32_t lane = (k ? setup.left : setup.right)[w.cars.lane[i]], at = lane < 0 ? 0 : lane;
            const bool binds = task.limit(w.world[i], at) * w.factor[i] < w.wish_speed[i];
            spend(i, p.v0, binds ? BY_LIMIT : BY_WISH, at, T(0));
            p.v0 = T(0);
        }
        add_parameters(p, i);
    }

    void add_parameters(const Pull<T> &p, int64_t i) {
        w.bar.v0[i] += p.v0;
        w.bar.th[i] += p.th;
        w.bar.a[i] += p.a;
        w.bar.b[i] += p.b;
        w.bar.s0[i] += p.s0;
        w.bar.e[i] += p.e;
    }

    // Being in a lane: what a vehicle's lateral place does to it and to the followers in all lanes.
    STAGE void pull_membership(int64_t t, const Lanes<T, FOUR, PAPER> &lanes) {
        const Around<T> &around = lanes.around;
        if (setup.everybody) pull_drivers(t, lanes);
        lanes.for_chosen([&](int64_t i) {
            if (setup.everybody && !is_steered(i)) return;
            const auto m = lanes.membership(i, t);
            T sum = 0;
            for (int k = 0; k < 3; ++k) {
                const int32_t f = around.follower[k][i];
                sum += m.slope[k] * (w.bar_carried[i] * m.own[k] + (f >= 0 ? w.bar_carried[f] * m.effect[k] : T(0)));
            }
            before.lateral[i] += sum;
        });
    }

    bool is_steered(int64_t i) const { return w.row[i] >= 0 && setup.control[w.row[i]] == STEERED; }

    // The same for all who are bound to lanes, in loops: Lanes::membership() with its parts in arrays. Lanes::done() is
    // written as bounds of every vehicle, so that little must be fetched of followers.
    void pull_drivers(int64_t t, const Lanes<T, FOUR, PAPER> &lanes) {
        const Around<T> &around = lanes.around;
        T *__restrict cap = w.bar_gap, *__restrict least = w.bar_closing, *__restrict felt = w.open;
        T *__restrict present = w.acceleration, *__restrict sum = w.moved;
        const T *__restrict speed = w.cars.speed;
        const T floor = -T(setup.max_braking), step = dt;
        const bool limits = setup.contrast == LIMITS;
        const T high = limits ? T(setup.contrast_high) : INFINITE<T>, low = limits ? T(setup.contrast_low) : -INFINITE<T>;
        std::memcpy(felt, w.bar_carried, size_t(m) * sizeof(T));
        for (int64_t i = 0; i < m; ++i) cap[i] = INFINITE<T>;
        for (int64_t i = 0; i < m; ++i) least[i] = floor > -speed[i] / step ? floor : -speed[i] / step;
        if (task.acts())
            task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
                const T action = task.action(call.acceleration, t, k, c);
                cap[i] = action > floor ? action : floor;
                least[i] = -speed[i] / step;
                if (!setup.limited[c]) felt[i] = T(0);  // it does not hear of others
            });
        if (setup.contrast == DRIVERS) {
            const T *__restrict comfortable = w.drivers.b;
            for (int64_t i = 0; i < m; ++i) {
                const T hardest = T(setup.contrast_low) * comfortable[i];
                least[i] = least[i] > hardest ? least[i] : hardest;
            }
        }
        const auto done = [=](T acceleration, T cap, T least) {
            T response = acceleration < cap ? acceleration : cap;
            response = response > least ? response : least;
            response = response < high ? response : high;
            return response > low ? response : low;
        };
        const T *__restrict following = w.following, *__restrict without = w.without;
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) present[i] = done(following[i], cap[i], least[i]);
        const int32_t *__restrict active = w.cars.active, *__restrict lane = w.cars.lane;
        const int32_t *__restrict right = w.exists[0], *__restrict left = w.exists[1];
        const T *__restrict width = task.width;
        T *__restrict to_right = w.best, *__restrict to_left = w.change_gap;
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const T share = (right[i] & left[i] ? T(0.5) : T(1)) / width[lane[i] < 0 ? 0 : lane[i]];
            to_right[i] = right[i] & active[i] ? -share : T(0);
            to_left[i] = left[i] & active[i] ? share : T(0);
        }
        const int32_t *__restrict follower = around.follower[OWN];
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const int32_t f = follower[i] >= 0 ? follower[i] : int32_t(i);
            const T value = felt[f] * (present[f] - done(without[i], cap[f], least[f]));
            const T effect = follower[i] >= 0 ? value : T(0);
            sum[i] = -(to_right[i] + to_left[i]) * (felt[i] * present[i] + effect);
        }
        for (int k = 0; k < 2; ++k) {
            const int32_t *__restrict beside = around.follower[k ? LEFT : RIGHT];
            const T *__restrict there = w.there[k], *__restrict with = w.with[k], *__restrict m_k = k ? to_left : to_right;
#pragma GCC ivdep
            for (int64_t i = 0; i < m; ++i) {
                const int32_t f = beside[i] >= 0 ? beside[i] : int32_t(i);
                const T value = felt[f] * (done(with[i], cap[f], least[f]) - present[f]);
                const T effect = beside[i] >= 0 ? value : T(0);
                sum[i] += m_k[i] * (felt[i] * done(there[i], cap[i], least[i]) + effect);
            }
        }
        if (task.steered)
            task.for_controlled([&](int64_t, int64_t, int64_t i) {
                if (is_steered(i)) sum[i] = T(0);
            });
        for (int64_t i = 0; i < m; ++i) before.lateral[i] += sum[i];
    }

    // Choosing a lane: from the lateral place, and in sigmoid mode the mixed acceleration, to incentives and requests.
    STAGE void pull_choice(int64_t t, const Lanes<T, FOUR, PAPER> &lanes, bool sigmoid) {
        const Around<T> &around = lanes.around;
        T *mixed = w.bar_acceleration;
        if (sigmoid) {
            std::memcpy(mixed, w.bar_following, size_t(n) * sizeof(T));
            lanes.for_chosen([&](int64_t i) {
                if (lanes.weighed(i)) w.bar_following[i] = w.stays[i] * mixed[i];
            });
        }
        lanes.for_chosen([&](int64_t i) {
            const T right = w.share[0][i], left = w.share[1][i];
            if ((right == T(0) && left == T(0)) || !lanes.weighed(i)) return;
            const T stay = w.stays[i], q = task.width[w.cars.lane[i]] * after.lateral[i];
            T bar_right = -q, bar_left = q, bar_stay = T(0), there[2] = {T(0), T(0)};
            if (sigmoid) {
                bar_right += w.there[0][i] * mixed[i];
                bar_left += w.there[1][i] * mixed[i];
                bar_stay = w.following[i] * mixed[i];
                there[0] = right * mixed[i];
                there[1] = left * mixed[i];
            }
            const T mean = right * bar_right + stay * bar_stay + left * bar_left;
            const T to_right = right * (bar_right - mean), to_left = left * (bar_left - mean);
            const int32_t row = w.row[i];
            if (row < 0) {
                pull_incentive(lanes, i, to_right / T(setup.temperature), to_left / T(setup.temperature), there);
            } else {
                const T u = task.request(t, w.world[i], row), centre = T(2.0 / 3.0);
                const T towards = to_right * (u + centre) + stay * (bar_stay - mean) * u + to_left * (u - centre);
                add_request(t, w.world[i], row, -towards / T(setup.choice_temperature));
            }
            for (int k = 0; k < 2; ++k) {
                if (there[k] == T(0)) continue;
                const int side = k ? LEFT : RIGHT;
                const int32_t l = around.leader[side][i];
                const T closing = l >= 0 ? w.cars.speed[i] - w.cars.speed[l] : T(0);
                if (task.branched) pull_beside(there[k], i, k, l, around.gap[side][i], closing, lanes.beside(k, i));
                else pull(there[k], i, l, around.gap[side][i], closing);
            }
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

    void pull_incentive(const Lanes<T, FOUR, PAPER> &lanes, int64_t i, T right, T left, T there[2]) {
        const Around<T> &around = lanes.around;
        const T both = right + left, u[2] = {right, left};
        there[0] += right;
        there[1] += left;
        w.bar_following[i] -= both;  // A_0
        if (PARAMETERS) {
            w.bar.threshold[i] -= both;
            w.bar.bias[i] += right - left;
        }
        if (!setup.is_polite) return;
        const T p = w.drivers.politeness[i];
        if (PARAMETERS) w.bar.politeness[i] += right * lanes.others(0, i) + left * lanes.others(1, i);
        for (int k = 0; k < 2; ++k) {
            if (u[k] == T(0)) continue;
            const int side = k ? LEFT : RIGHT;
            const int32_t f = around.follower[side][i];
            if (f < 0) continue;
            w.bar_following[f] -= p * u[k];
            pull(p * u[k], f, int32_t(i), around.follower_gap[side][i], w.cars.speed[f] - w.cars.speed[i]);
        }
        const int32_t f = around.follower[OWN][i];
        if (f < 0 || both == T(0)) return;
        w.bar_following[f] -= p * both;
        pull_without(lanes, i, f, p * both);
    }

    // The follower behind the present leader: gap = follower's gap + own length + own gap.
    void pull_without(const Lanes<T, FOUR, PAPER> &lanes, int64_t i, int32_t f, T bar) {
        T gap, closing;
        lanes.joined(i, gap, closing);
        const int32_t l = lanes.around.leader[OWN][i];
        const bool alone = l < 0 || l == f;
        // Own places and the own length cancel out.
        pull(bar, f, alone ? -1 : l, gap, closing);
    }
};

}  // namespace
}  // namespace TG_VARIANT

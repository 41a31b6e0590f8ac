// What all stages of the way back share: the cotangents before and after a step, those of parameters, and how an
// acceleration's cotangent is taken apart.
#pragma once
#include "forward.h"

namespace TG_VARIANT {
namespace {

template <class T, bool FOUR, bool PAPER, bool PARAMETERS> struct Pulling {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Call &call;
    int64_t n, m;
    const T dt;
    Bars<T> after, before;  // of this step

    explicit Pulling(Task<T> &task)
        : task(task), w(task.world), setup(task.setup), call(task.call), n(0), m(0), dt(T(task.setup.dt)),
          after(task.world.bars[0]), before(task.world.bars[1]) {}

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

    // Braking for a place ahead; returns the distance's cotangent.
    T pull_wall(T bar, int64_t i, T distance) {
        const T v = w.cars.speed[i];
        const Pull<T> p = pull_idm<T, FOUR, PAPER, true>(bar, v, distance, v, w.drivers.of(i));
        before.speed[i] += p.v + p.closing;
        before.position[i] -= p.gap;
        add_parameters(p, i);
        return p.gap;
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
};

}  // namespace
}  // namespace TG_VARIANT

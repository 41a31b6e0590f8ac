// The Intelligent Driver Model and its derivatives, written once for the formula and once for the way back. The order of
// operations is that of trafficgrad/car_following/idm.py, so that hard decisions come out alike.
#pragma once
#include <cmath>

#include "abi.h"

namespace TG_VARIANT {
namespace {

template <class T> constexpr T SMALLEST_GAP = T(0.001);

template <class T> struct Driver {
    T v0, th, a, b, q, s0, e;  // q = 2 sqrt(a b)
};

// Parameters of every slot. v0 is bounded by the speed limit.
template <class T> struct Drivers {
    T *v0, *th, *a, *b, *q, *s0, *e, *length, *noise, *politeness, *threshold, *safe, *bias, *cooldown, *gap;

    Driver<T> of(int64_t i) const { return {v0[i], th[i], a[i], b[i], q[i], s0[i], e[i]}; }
};

template <class T, bool FOUR, bool PAPER> inline T idm(T v, T gap, T closing, const Driver<T> &d) {
    const T dynamic = v * d.th + v * closing / d.q;
    T desired;
    if (PAPER) {
        const T whole = d.s0 + dynamic;
        desired = whole > T(0) ? whole : T(0);
    } else {
        desired = d.s0 + (dynamic > T(0) ? dynamic : T(0));
    }
    const T bounded = gap > SMALLEST_GAP<T> ? gap : SMALLEST_GAP<T>;
    const T speed = v / d.v0, room = desired / bounded;
    const T square = speed * speed;
    const T power = FOUR ? square * square : std::pow(speed, d.e);
    return d.a * (T(1) - power - room * room);
}

// Cotangents of what goes into one evaluation.
template <class T> struct Pull {
    T v, gap, closing, v0, th, a, b, s0, e;
};

// With `parameters` unset only v, gap and closing are filled in.
template <class T, bool FOUR, bool PAPER, bool parameters>
inline Pull<T> pull_idm(T bar, T v, T gap, T closing, const Driver<T> &d) {
    Pull<T> out;
    const T slowness = T(1) / d.q, inverse = T(1) / d.v0;
    const T dynamic = v * d.th + v * closing / d.q;
    const T whole = d.s0 + dynamic;
    T desired;
    bool binds;
    if (PAPER) {
        binds = whole > T(0);
        desired = binds ? whole : T(0);
    } else {
        binds = dynamic > T(0);
        desired = d.s0 + (binds ? dynamic : T(0));
    }
    const bool open = gap > SMALLEST_GAP<T>;
    const T bounded = open ? gap : SMALLEST_GAP<T>;
    const T speed = v * inverse, nearness = T(1) / bounded, room = desired * nearness;
    const T steep = FOUR ? T(4) * speed * speed * speed : d.e * std::pow(speed, d.e - T(1));
    const T bar_speed = -bar * d.a * steep;
    const T bar_desired = T(-2) * bar * d.a * room * nearness;
    const T bar_dynamic = binds ? bar_desired : T(0);
    out.gap = open ? -bar_desired * room : T(0);
    out.closing = bar_dynamic * v * slowness;
    out.v = bar_speed * inverse + bar_dynamic * (d.th + closing * slowness);
    if (parameters) {
        const T power = FOUR ? speed * speed * speed * speed : std::pow(speed, d.e);
        // q = 2 sqrt(a b), so that dq/da = q / (2 a).
        const T bar_q = -bar_dynamic * v * closing * slowness * slowness;
        out.a = bar * (T(1) - power - room * room) + bar_q * d.q / (T(2) * d.a);
        out.b = bar_q * d.q / (T(2) * d.b);
        out.v0 = -bar_speed * speed * inverse;
        out.th = bar_dynamic * v;
        out.s0 = PAPER ? bar_dynamic : bar_desired;
        out.e = FOUR || !(speed > T(0)) ? T(0) : -bar * d.a * power * std::log(speed);
    } else {
        out.a = out.b = out.v0 = out.th = out.s0 = out.e = T(0);
    }
    return out;
}

}  // namespace
}  // namespace TG_VARIANT

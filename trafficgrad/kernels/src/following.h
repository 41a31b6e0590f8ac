// Drivers behind recorded leaders, and the derivatives of where they go by their parameters, forward in time.
#pragma once
#include "idm.h"

namespace TG_VARIANT {
namespace {

constexpr int64_t PARAMETERS_OF_IDM = 6;  // v0, T, a, b, s0, exponent

template <bool FOUR, bool PAPER> void follow(const Following &f, int64_t m) {
    const double *p = f.value + m * PARAMETERS_OF_IDM;
    const Driver<double> driver{p[0], p[1], p[2], p[3], 2.0 * std::sqrt(p[2] * p[3]), p[4], p[5]};
    double x = 0.0, v = f.first_speed[m];
    double by_x[PARAMETERS_OF_IDM] = {}, by_v[PARAMETERS_OF_IDM] = {};
    for (int64_t t = 0;; ++t) {
        const int64_t here = t * f.rows + m;
        f.position[here] = x;
        f.speed[here] = v;
        if (f.position_slope)
            for (int64_t k = 0; k < f.wanted; ++k) {
                f.position_slope[here * f.wanted + k] = by_x[f.which[k]];
                f.speed_slope[here * f.wanted + k] = by_v[f.which[k]];
            }
        if (t + 1 == f.times) return;
        const double rear = f.leader_rear[here];
        const bool follows = !std::isinf(rear);
        const double gap = rear - x, closing = follows ? v - f.leader_speed[here] : 0.0;
        const double reached = v + idm<double, FOUR, PAPER>(v, gap, closing, driver) * f.dt;
        const bool moves = reached > 0.0;
        const double after = moves ? reached : 0.0;
        if (f.position_slope) {
            const Pull<double> by = pull_idm<double, FOUR, PAPER, true>(1.0, v, gap, closing, driver);
            const double own[PARAMETERS_OF_IDM] = {by.v0, by.th, by.a, by.b, by.s0, by.e};
            const double by_speed = by.v + (follows ? by.closing : 0.0);
            for (int64_t k = 0; k < f.wanted; ++k) {
                const int64_t i = f.which[k];
                const double pushed = by_speed * by_v[i] - by.gap * by_x[i] + own[i];
                const double then = moves ? by_v[i] + f.dt * pushed : 0.0;
                by_x[i] += f.dt * (f.integrator == 0 ? 0.5 * (by_v[i] + then) : f.integrator == 1 ? then : by_v[i]);
                by_v[i] = then;
            }
        }
        x += f.integrator == 0 ? (v + after) * (0.5 * f.dt) : (f.integrator == 1 ? after : v) * f.dt;
        v = after;
    }
}

inline void follow_all(const Following &f) {
    for (int64_t m = 0; m < f.rows; ++m) {
        if (f.fourth_power)
            f.paper_gap ? follow<true, true>(f, m) : follow<true, false>(f, m);
        else
            f.paper_gap ? follow<false, true>(f, m) : follow<false, false>(f, m);
    }
}

}  // namespace
}  // namespace TG_VARIANT

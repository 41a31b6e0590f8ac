// The way back through lane choices and through being in a lane. Which derivative is used where a choice has none is said
// in trafficgrad/gradients.py.
#pragma once
#include "pull_roads.h"

namespace TG_VARIANT {
namespace {

template <class T, bool FOUR, bool PAPER, bool PARAMETERS> struct LanePulls : RoadPulls<T, FOUR, PAPER, PARAMETERS> {
    using Base = RoadPulls<T, FOUR, PAPER, PARAMETERS>;
    using Base::Base;
    using Base::task, Base::w, Base::setup, Base::call, Base::n, Base::m, Base::dt, Base::before, Base::after;
    using Base::add_request, Base::pull, Base::pull_beside;

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

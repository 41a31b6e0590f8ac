// Lane decisions: what changing to the right and to the left is worth, who may, who gets a gap that several want; and,
// for gradients, how likely a choice was and what being in a lane does to others. Follows trafficgrad/lane_stages.py.
#pragma once
#include "world.h"

namespace TG_VARIANT {
namespace {

template <class T> constexpr T INFINITE = std::numeric_limits<T>::infinity();

template <class T, bool FOUR, bool PAPER> struct Lanes {
    Task<T> &task;
    const Around<T> &around;
    World<T> &w;
    const int64_t n, m;

    Lanes(Task<T> &task, const Around<T> &around) : task(task), around(around), w(task.world), n(task.n), m(task.m) {}

    // Own acceleration in the lane to the right (k = 0) or left (k = 1), and what its follower would do then.
    STAGE void evaluate(int k) const {
        const int side = k ? LEFT : RIGHT;
        const int32_t *__restrict leader = around.leader[side], *__restrict follower = around.follower[side];
        const T *__restrict gap = around.gap[side], *__restrict follower_gap = around.follower_gap[side];
        const T *__restrict speed = w.cars.speed;
        const Drivers<T> d = w.drivers;
        const T *__restrict wished = w.beside[k];
        T *__restrict there = w.there[k], *__restrict with = w.with[k];
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const int32_t l = leader[i] >= 0 ? leader[i] : int32_t(i);
            Driver<T> own = d.of(i);
            own.v0 = wished[i];
            there[i] = idm<T, FOUR, PAPER>(speed[i], gap[i], speed[i] - speed[l], own);
        }
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const int32_t f = follower[i] >= 0 ? follower[i] : int32_t(i);
            const T value = idm<T, FOUR, PAPER>(speed[f], follower_gap[i], speed[f] - speed[i], d.of(f));
            with[i] = follower[i] >= 0 ? value : T(0);
        }
    }

    // Gap and closing speed of the follower towards the leader, were the vehicle away.
    void joined(int64_t i, T &gap, T &closing) const {
        const int32_t l = around.leader[OWN][i], f = around.follower[OWN][i];
        const bool alone = l < 0 || f < 0 || l == f;
        const T *speed = w.cars.speed;
        const int32_t ahead = alone ? int32_t(i) : l, behind = alone ? int32_t(i) : f;
        const T whole = around.follower_gap[OWN][i] + w.drivers.length[i] + around.gap[OWN][i];
        gap = alone ? INFINITE<T> : whole;
        closing = (speed[behind] - speed[i]) + (speed[i] - speed[ahead]);
    }

    // What the present follower would do without the vehicle.
    STAGE void evaluate_without() const {
        const int32_t *__restrict leader = around.leader[OWN], *__restrict follower = around.follower[OWN];
        const T *__restrict gap = around.gap[OWN], *__restrict follower_gap = around.follower_gap[OWN];
        const T *__restrict speed = w.cars.speed;
        const Drivers<T> d = w.drivers;
        T *__restrict without = w.without;
        // joined() for all of them.
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const int32_t self = int32_t(i), f = follower[i] >= 0 ? follower[i] : self;
            const int32_t l = leader[i] >= 0 ? leader[i] : f;
            const int32_t behind = l == f ? self : f, ahead = l == f ? self : l;
            const T whole = follower_gap[i] + d.length[i] + gap[i];
            const T closing = (speed[behind] - speed[i]) + (speed[i] - speed[ahead]);
            const T value = idm<T, FOUR, PAPER>(speed[f], l == f ? INFINITE<T> : whole, closing, d.of(f));
            without[i] = follower[i] >= 0 ? value : T(0);
        }
    }

    T present_follower(int side, int64_t i) const {
        const int32_t f = around.follower[side][i];
        return f >= 0 ? w.following[f] : T(0);
    }

    // What p multiplies: the advantage of others.
    T others(int k, int64_t i) const {
        return w.with[k][i] - present_follower(k ? LEFT : RIGHT, i) + (w.without[i] - present_follower(OWN, i));
    }

    // MOBIL's incentive, -inf where the change is not feasible.
    STAGE void judge(int k) const {
        const Setup &setup = task.setup;
        const int side = k ? LEFT : RIGHT;
        const int32_t *__restrict exists = w.exists[k];
        const T *__restrict gap = around.gap[side], *__restrict follower_gap = around.follower_gap[side];
        const T *__restrict there = w.there[k], *__restrict with = w.with[k], *__restrict following = w.following;
        const Drivers<T> d = w.drivers;
        const T *__restrict cooldown = w.cars.cooldown;
        T *__restrict worth = w.worth[k];
        const T sign = T(side - 1);
        for (int64_t i = 0; i < m; ++i) {
            T value = there[i] - following[i] - d.threshold[i];
            if (setup.is_polite) value += d.politeness[i] * others(k, i);
            if (setup.is_biased) value -= sign * d.bias[i];
            worth[i] = value;
        }
        const int32_t *__restrict present = w.present, *__restrict row = w.row;
#pragma GCC ivdep
        for (int64_t i = 0; i < m; ++i) {
            const int32_t free = row[i] < 0 ? present[i] & exists[i] : 0;
            T value = free ? worth[i] : -INFINITE<T>;
            value = gap[i] >= d.gap[i] ? value : -INFINITE<T>;
            value = follower_gap[i] >= d.gap[i] ? value : -INFINITE<T>;
            value = with[i] >= -d.safe[i] ? value : -INFINITE<T>;
            worth[i] = cooldown[i] <= T(0) ? value : -INFINITE<T>;
        }
    }

    // Feasibility and incentive with what the route asks for. A lane that must be left soon is left more readily: without
    // a cool-down, and with harder braking. A lane that must be left sooner than the present one is not entered.
    void judge_with_route(int k) const {
        const int side = k ? LEFT : RIGHT;
        const T *gap = around.gap[side], *follower_gap = around.follower_gap[side];
        const Drivers<T> &d = w.drivers;
        const T sign = T(side - 1);
        for (int64_t i = 0; i < n; ++i) {
            const T gain = w.need.cost[OWN][i] - w.need.cost[side][i];
            T &worth = w.worth[k][i];
            if (!(gain > T(0))) {
                worth = gain == T(0) ? worth + gain : -INFINITE<T>;
                continue;
            }
            const T hardest = -(d.safe[i] + T(2) * w.need.urgency[i]);
            const bool roomy = gap[i] >= d.gap[i] && follower_gap[i] >= d.gap[i];
            const bool bearable = w.with[k][i] >= hardest && w.there[k][i] >= hardest;
            const bool free = w.present[i] && w.row[i] < 0;
            T value = w.there[k][i] - w.following[i] - d.threshold[i];
            if (task.setup.is_polite) value += d.politeness[i] * others(k, i);
            if (task.setup.is_biased) value -= sign * d.bias[i];
            worth = w.exists[k][i] && roomy && bearable && free ? value + gain : -INFINITE<T>;
        }
    }

    void nobody_goes(int k, int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; ++i) w.worth[k][i] = -INFINITE<T>;
    }

    static bool odd_step(T time, T dt) { return int64_t(std::nearbyint(time / dt)) % 2 != 0; }

    // In which worlds of the group drivers look to the right (0) and to the left (1) in this step.
    struct Looks {
        bool side[2], mixed;  // in some world; not the same in all
    };

    static Looks looks(const Task<T> &task, const T *time) {
        const Setup &setup = task.setup;
        const bool mobil = setup.changes_lanes;
        if (!mobil || !setup.alternates) return {{mobil, mobil}, false};
        int64_t odd = 0;
        for (int64_t k = 0; k < task.worlds; ++k) odd += odd_step(time[k], T(setup.dt));
        return {{odd > 0, odd < task.worlds}, odd > 0 && odd < task.worlds};
    }

    // Whom a step must find.
    static Wanted wanted(const Task<T> &task, const T *time) {
        if (!task.lanes) return {false, false, false};
        if (task.soft || task.asks) return {true, true, true};
        const Looks all = looks(task, time);
        return {bool(task.setup.is_polite), all.side[0], all.side[1]};
    }

    // Fills in wishes (`choose`), and what gradients need: on the way back, and in sigmoid mode forward too. `time` is that of each world of the group.
    void decide(int64_t t, const T *time, bool choose) const {
        const Setup &setup = task.setup;
        const bool mobil = setup.changes_lanes, soft = task.soft && (!choose || setup.mode == SIGMOID);
        const bool all = soft && setup.everybody;
        const Looks sides = looks(task, time);
        if (choose)
            for (int64_t i = 0; i < m; ++i) {
                w.wish[i] = 0;
                w.best[i] = T(0);
                w.change_gap[i] = T(0);
            }
        bool known[2] = {false, false};
        if ((mobil && choose) || all) {  // on the way back drivers' choices matter only if they carry gradients
            // What the step has kept of it.
            const bool kept = !choose && task.keeps_sides && mobil;
            for (int k = 0; k < 2; ++k) {
                if (!sides.side[k] && !all) continue;
                if (!(kept && (sides.side[k] || setup.mode == SIGMOID))) evaluate(k);
                known[k] = true;
            }
            if (all || setup.is_polite) evaluate_without();
            for (int k = 0; k < 2; ++k) {
                if (!sides.side[k]) {
                    nobody_goes(k, 0, m);
                    continue;
                }
                judge(k);
                if (task.branched) judge_with_route(k);
            }
            if (sides.mixed)
                for (int64_t k = 0; k < task.worlds; ++k)
                    nobody_goes(odd_step(time[k], T(setup.dt)), k * task.vehicles, (k + 1) * task.vehicles);
            if (choose && mobil) choose_sides();
        }
        if (!all && (task.asks || (soft && setup.controlled))) {
            // Only the controlled vehicles matter, and what was not looked at for drivers.
            task.for_controlled([&](int64_t, int64_t c, int64_t i) {
                if (soft || setup.control[c] == LANE) evaluate_one(i, known);
            });
        }
        if (soft) weigh(t);
        if (choose && task.asks) grant(t);
        if (choose) one_per_gap();
    }

    // A driver as it would be in the lane beside.
    Driver<T> beside(int k, int64_t i) const {
        Driver<T> own = w.drivers.of(i);
        own.v0 = w.beside[k][i];
        return own;
    }

    void evaluate_one(int64_t i, const bool known[2]) const {
        const T *speed = w.cars.speed;
        for (int k = 0; k < 2; ++k) {
            if (known[k]) continue;
            const int side = k ? LEFT : RIGHT;
            const int32_t l = around.leader[side][i], f = around.follower[side][i];
            const T closing = l >= 0 ? speed[i] - speed[l] : T(0);
            w.there[k][i] = idm<T, FOUR, PAPER>(speed[i], around.gap[side][i], closing, beside(k, i));
            w.with[k][i] = f < 0 ? T(0)
                                 : idm<T, FOUR, PAPER>(
                                       speed[f], around.follower_gap[side][i], speed[f] - speed[i], w.drivers.of(f));
        }
        const int32_t f = around.follower[OWN][i];
        w.without[i] = T(0);
        if (f >= 0) {
            T gap, closing;
            joined(i, gap, closing);
            w.without[i] = idm<T, FOUR, PAPER>(speed[f], gap, closing, w.drivers.of(f));
        }
    }

    STAGE void choose_sides() const {
        const Setup &setup = task.setup;
        for (int64_t i = 0; i < m; ++i) {
            const T right = w.worth[0][i], left = w.worth[1][i];
            T best = T(0);
            int32_t wish = 0;
            if (right > best) {
                best = right;
                wish = -1;
            }
            if (left > best || (left == best && wish == -1)) {
                best = left;
                wish = 1;
            }
            w.best[i] = best;
            w.wish[i] = wish;
            if (setup.changes_lanes) w.change_gap[i] = w.drivers.gap[i];
        }
    }

    bool choice_feasible(int k, int64_t i) const {
        const Setup &setup = task.setup;
        const int side = k ? LEFT : RIGHT;
        const T smallest = T(setup.choice_min_gap);
        return w.exists[k][i] && w.cars.active[i] && w.cars.cooldown[i] <= T(0) && around.gap[side][i] >= smallest &&
               around.follower_gap[side][i] >= smallest && w.with[k][i] >= -T(setup.choice_safe) &&
               w.there[k][i] >= -T(setup.choice_own);
    }

    static int requested(T request) {
        const T limit = T(1.0 / 3.0);
        return int(request > limit) - int(request < -limit);
    }

    void grant(int64_t t) const {
        const Setup &setup = task.setup;
        task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
            if (setup.control[c] != LANE) return;
            const int wish = requested(task.request(t, k, c));
            w.wish[i] = wish != 0 && choice_feasible(wish > 0, i) ? wish : 0;
            w.change_gap[i] = T(setup.choice_min_gap);
        });
    }

    // pi over right, own and left; 0 for those whose choice carries no gradient.
    STAGE void weigh(int64_t t) const {
        const Setup &setup = task.setup;
        for (int64_t i = 0; i < n; ++i) {
            w.share[0][i] = w.share[1][i] = T(0);
            w.stays[i] = T(1);
        }
        if (setup.everybody && setup.changes_lanes) {
            const T scale = T(setup.temperature);
            for (int64_t i = 0; i < n; ++i) {
                const T right = w.worth[0][i], left = w.worth[1][i];
                if (right == -INFINITE<T> && left == -INFINITE<T>) continue;
                soften(right / scale, T(0), left / scale, i);
            }
        }
        if (!task.asks) return;
        const T scale = T(2) * T(setup.choice_temperature), centre = T(2.0 / 3.0);
        task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
            if (setup.control[c] != LANE) return;
            const T u = task.request(t, k, c);
            const T right = choice_feasible(0, i) ? -(u + centre) * (u + centre) / scale : -INFINITE<T>;
            const T left = choice_feasible(1, i) ? -(u - centre) * (u - centre) / scale : -INFINITE<T>;
            soften(right, -(u * u) / scale, left, i);
        });
    }

    void soften(T right, T own, T left, int64_t i) const {
        const T top = std::max(own, std::max(right, left));
        const auto weight = [&](T x) { return x == top ? T(1) : x == -INFINITE<T> ? T(0) : std::exp(x - top); };
        const T r = weight(right), o = weight(own), l = weight(left);
        const T sum = r + o + l;
        w.share[0][i] = r / sum;
        w.share[1][i] = l / sum;
        w.stays[i] = o / sum;
    }

    // One vehicle per gap: controlled first, then larger incentive, then lower slot.
    STAGE void one_per_gap() const {
        int64_t count = 0;
        for (int64_t i = 0; i < n; ++i) {
            w.wanting[count] = int32_t(i);
            count += w.wish[i] != 0;
        }
        for (int64_t m = 0; m < count; ++m) w.gap_winner[gap_of(w.wanting[m])] = -1;
        const auto priority = [&](int32_t i) { return w.row[i] >= 0 ? INFINITE<T> : w.best[i]; };
        for (int64_t m = 0; m < count; ++m) {
            const int32_t i = w.wanting[m];
            int32_t &winner = w.gap_winner[gap_of(i)];
            if (winner < 0 || priority(i) > priority(winner)) winner = i;
        }
        for (int64_t m = 0; m < count; ++m) {
            const int32_t i = w.wanting[m];
            if (w.gap_winner[gap_of(i)] != i) w.wanting[m] = -1 - i;
        }
        for (int64_t m = 0; m < count; ++m)
            if (w.wanting[m] < 0) w.wish[-1 - w.wanting[m]] = 0;
    }

    int64_t gap_of(int32_t i) const {
        const bool left = w.wish[i] > 0;
        const int32_t leader = around.leader[left ? LEFT : RIGHT][i];
        if (leader >= 0) return leader;
        const int32_t target = (left ? task.setup.left : task.setup.right)[w.cars.lane[i]];
        return n + int64_t(w.world[i]) * task.setup.chains + task.setup.chain[target < 0 ? 0 : target];
    }

    // ------------------------------------------------------------------ being in a lane

    // What an acceleration comes to, for the comparison of with and without: B().
    T done(T acceleration, int64_t i, int64_t t) const {
        const Setup &setup = task.setup;
        const T dt = T(setup.dt), floor = -T(setup.max_braking), v = w.cars.speed[i];
        T response = acceleration > floor ? acceleration : floor;
        if (task.acts() && w.row[i] >= 0) {
            const T action = task.action_of(task.call.acceleration, t, i);
            const T cap = action > floor ? action : floor;
            if (cap != INFINITE<T>) response = cap < acceleration ? cap : acceleration;
        }
        if (!(v + response * dt > T(0))) response = -v / dt;
        if (setup.contrast == LIMITS) {
            const T low = T(setup.contrast_low), high = T(setup.contrast_high);
            response = response < low ? low : response > high ? high : response;
        } else if (setup.contrast == DRIVERS) {
            const T hardest = T(setup.contrast_low) * w.drivers.b[i];
            response = response > hardest ? response : hardest;
        }
        return response;
    }

    bool deaf(int64_t i) const { return task.acts() && w.row[i] >= 0 && !task.setup.limited[w.row[i]]; }

    // Slopes m'_k and effects of the membership of vehicle i in the lanes: of itself and of each lane's follower.
    struct Membership {
        T slope[3], own[3], effect[3], soft[3];
    };

    Membership membership(int64_t i, int64_t t) const {
        const Setup &setup = task.setup;
        Membership m;
        const T width = task.width[w.cars.lane[i] < 0 ? 0 : w.cars.lane[i]];
        const bool right = w.exists[0][i], left = w.exists[1][i], active = w.cars.active[i];
        const bool steered = w.row[i] >= 0 && setup.control[w.row[i]] == STEERED;
        if (steered) {
            const T h = T(setup.transition_width), y = w.cars.lateral[i];
            T logit[3], top = -INFINITE<T>, sum = 0, mean = 0;
            for (int k = 0; k < 3; ++k) {
                const bool exists = k == OWN || (k == RIGHT ? right : left);
                const T off = y - T(k - 1) * width;
                logit[k] = exists ? -(off * off) / (T(2) * width * h) : -INFINITE<T>;
                top = std::max(top, logit[k]);
            }
            for (int k = 0; k < 3; ++k) sum += m.soft[k] = std::exp(logit[k] - top);
            for (int k = 0; k < 3; ++k) mean += (m.soft[k] /= sum) * T(k - 1);
            for (int k = 0; k < 3; ++k) m.slope[k] = m.soft[k] * (T(k - 1) - mean) / h;
        } else {
            const T share = T(1) - T(0.5) * T(right && left);
            m.slope[LEFT] = left ? share / width : T(0);
            m.slope[RIGHT] = right ? -share / width : T(0);
            m.slope[OWN] = -(m.slope[LEFT] + m.slope[RIGHT]);
        }
        for (int k = 0; k < 3; ++k) {
            if (!active) m.slope[k] = T(0);
            const int32_t f = around.follower[k][i];
            m.own[k] = m.effect[k] = T(0);
            if (!deaf(i)) m.own[k] = done(k == OWN ? w.following[i] : w.there[k == LEFT][i], i, t);
            if (f < 0 || !active || deaf(f)) continue;
            const T with = k == OWN ? w.following[f] : w.with[k == LEFT][i];
            const T without = k == OWN ? w.without[i] : w.following[f];
            m.effect[k] = done(with, f, t) - done(without, f, t);
        }
        return m;
    }

    // Whose membership carries a gradient: everybody's, or that of the controlled vehicles.
    template <class F> void for_chosen(F visit) const {
        if (task.setup.everybody)
            for (int64_t i = 0; i < n; ++i) visit(i);
        else
            task.for_controlled([&](int64_t, int64_t, int64_t i) { visit(i); });
    }

    // What steered vehicles between lanes do to others in sigmoid mode, forward.
    STAGE void carry(int64_t t) const {
        for (int64_t i = 0; i < n; ++i) w.carried[i] = T(0);
        for_chosen([&](int64_t i) {
            if (!(w.row[i] >= 0 && task.setup.control[w.row[i]] == STEERED && w.present[i])) return;
            const Membership m = membership(i, t);
            for (int k = 0; k < 3; ++k) {
                const int32_t f = around.follower[k][i];
                if (f >= 0) w.carried[f] += (m.soft[k] - T(k == OWN)) * m.effect[k];
            }
        });
    }

    bool weighed(int64_t i) const {
        const Setup &setup = task.setup;
        if (setup.everybody && (setup.changes_lanes || task.asks)) return true;
        return task.asks && w.row[i] >= 0;
    }

    // Accelerations as the weights of the lanes mix them, in sigmoid mode.
    STAGE void relax() const {
        for (int64_t i = 0; i < n; ++i) w.relaxed[i] = w.following[i];
        for_chosen([&](int64_t i) {
            if (!weighed(i)) return;
            const T right = w.share[0][i], left = w.share[1][i], stay = w.stays[i];
            w.relaxed[i] = right * w.there[0][i] + stay * w.following[i] + left * w.there[1][i];
        });
    }
};

}  // namespace
}  // namespace TG_VARIANT

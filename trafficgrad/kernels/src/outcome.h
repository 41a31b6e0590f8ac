// What an environment makes of the states that its decision leads to: what is observed of the last one, what they earn,
// what is measured and who fails; and the way back to places and speeds. The definitions are those of
// trafficgrad/observations, rewards.py, metrics.py and failures.py; roads only go on.
#pragma once
#include <algorithm>

#include "world.h"

namespace TG_VARIANT {
namespace {

// A sum in eight strands, which fit a vector.
template <class T, class F> inline T total(int64_t count, F each) {
    T strand[8] = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int j = 0; j < 8; ++j) strand[j] += each(i + j);
    for (; i < count; ++i) strand[i % 8] += each(i);
    return ((strand[0] + strand[4]) + (strand[1] + strand[5])) + ((strand[2] + strand[6]) + (strand[3] + strand[7]));
}

template <class T> struct Judging {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Call &call;
    const Outcome &out;
    const Wish &wish;
    const int64_t vehicles;
    const T *place, *circumference;
    static constexpr T FAR = T(1000);

    Judging(Task<T> &task, const Outcome &out)
        : task(task), w(task.world), setup(task.setup), call(task.call), out(out), wish(*out.wish),
          vehicles(task.vehicles), place(static_cast<const T *>(out.wish->place)),
          circumference(static_cast<const T *>(out.wish->circumference)) {}

    // ---------------------------------------------------------------- what is earned, measured, and who fails

    T &term(int64_t which, int64_t k) const {
        return static_cast<T *>(out.term)[which * call.worlds + task.first + k];
    }
    T &measure(int64_t which, int64_t k) const {
        return static_cast<T *>(out.measure)[which * call.worlds + task.first + k];
    }

    void begin() const {
        for (int64_t k = 0; k < task.worlds; ++k) {
            for (int64_t i = 0; i < TERMS; ++i) term(i, k) = T(0);
            for (int64_t i = 0; i < MEASURES; ++i) measure(i, k) = T(0);
            out.failed[task.first + k] = out.collided[task.first + k] = 0;
        }
    }

    // Vehicles of one world at one time; weights are 1 or 0. (Conditions on whole numbers inside sums of reals were
    // vectorised wrongly by GCC 12.)
    struct Traffic {
        const T *speed, *there, *human;
        int64_t count;

        T number(const T *weight) const {
            return std::max(total<T>(count, [&](int64_t i) { return weight[i]; }), T(1));
        }
        T mean(const T *weight, T number) const {
            return total<T>(count, [&](int64_t i) { return speed[i] * weight[i]; }) / number;
        }
        T missed(T target, T people) const {
            return total<T>(count, [&](int64_t i) { return std::abs(speed[i] - target) * human[i]; }) / people;
        }
        T variance(const T *weight, T mean, T number) const {
            return total<T>(count, [&](int64_t i) {
                       const T off = speed[i] - mean;
                       return off * off * weight[i];
                   }) / number;
        }
    };

    void weigh() const {
        for (int64_t i = 0; i < task.n; ++i) w.there_weight[i] = T(w.cars.active[i] & 1);
        for (int64_t i = 0; i < task.n; ++i) w.human_weight[i] = T(w.cars.active[i] & int32_t(w.row[i] < 0));
    }

    Traffic traffic(int64_t k) const {
        const int64_t base = k * vehicles;
        return {w.cars.speed + base, w.there_weight + base, w.human_weight + base, vehicles};
    }

    // After step t, before its state is stored.
    STAGE void note(int64_t t) const {
        const int64_t *lane_before = t ? task.part(call.next_lane, t - 1, vehicles) : call.lane + task.first * vehicles;
        const uint8_t *active_before = active_before_step(t);
        const T share = T(1) / T(call.steps);
        weigh();
        for (int64_t k = 0; k < task.worlds; ++k) {
            const int64_t base = k * vehicles;
            const Traffic all = traffic(k);
            if (wish.earns[TERM_PACE]) {
                const T target = T(wish.scale[TERM_PACE]);
                const T missed = all.missed(target, all.number(all.human)) / target;
                term(TERM_PACE, k) += missed < T(1) ? (T(1) - missed) * share : T(0);
            }
            if (wish.earns[TERM_MEAN_SPEED]) {
                const T mean = all.mean(all.there, all.number(all.there));
                term(TERM_MEAN_SPEED, k) += mean / T(wish.scale[TERM_MEAN_SPEED]) * share;
            }
            if (wish.earns[TERM_SPEED_DEVIATION]) {
                const T count = all.number(all.there);
                const T variance = all.variance(all.there, all.mean(all.there, count), count);
                if (variance > T(0))
                    term(TERM_SPEED_DEVIATION, k) -= std::sqrt(variance) / T(wish.scale[TERM_SPEED_DEVIATION]) * share;
            }
            if (wish.earns[TERM_EFFORT] && task.acts()) {
                T there = T(0), effort = T(0);
                for (int64_t c = 0; c < setup.controlled; ++c) {
                    if (!active_before[base + setup.slot[c]]) continue;
                    const T a = task.action(call.acceleration, t, k, c) / T(wish.scale[TERM_EFFORT]);
                    there += T(1);
                    effort += a * a;
                }
                term(TERM_EFFORT, k) -= effort / std::max(there, T(1)) * share;
            }
            int32_t changed = 0;
            for (int64_t i = 0; i < vehicles; ++i) {
                const int64_t before = lane_before[base + i] < 0 ? 0 : lane_before[base + i];
                const int32_t now = w.cars.lane[base + i] < 0 ? 0 : w.cars.lane[base + i];
                changed += int32_t(w.cars.active[base + i] && setup.number[now] != setup.number[before]);
            }
            measure(MEASURE_LANE_CHANGES, k) += T(changed);
            judge(k);
        }
    }

    const uint8_t *active_before_step(int64_t t) const {
        if (t && call.next_active) return task.part(call.next_active, t - 1, vehicles);
        return call.active + task.first * vehicles;
    }

    // Whether world k has failed in the state at hand, overlaps apart.
    void judge(int64_t k) const {
        uint8_t &failed = out.failed[task.first + k], &collided = out.collided[task.first + k];
        const int64_t base = k * vehicles;
        const bool centres = wish.nearest > 0 || wish.farthest < INFINITE<double> || wish.fails_overtaken;
        for (int64_t c = 0; c < setup.controlled; ++c) {
            const int64_t me = base + setup.slot[c];
            if (wish.fails_off_road && w.cars.lane[me] < 0) failed = 1;
            if (!centres || !w.cars.active[me]) continue;
            T nearest = INFINITE<T>;
            for (int64_t i = base; i < base + vehicles; ++i) {
                if (i == me || !w.cars.active[i]) continue;
                const T ahead = centre_ahead(me, i), aside = across(i) - across(me);
                nearest = std::min(nearest, std::hypot(ahead, aside));
                if (wish.fails_overtaken && ahead > T(0) && w.row[i] < 0) failed = 1;
            }
            if (nearest < T(wish.nearest)) failed = collided = 1;
            if (nearest < INFINITE<T> && nearest > T(wish.farthest)) failed = 1;
        }
    }

    // Who is around whom in the last state; what is seen and measured of it. `overlapping` [worlds] counts the states
    // before it, after the first, in which vehicles overlapped.
    STAGE void finish(const T *overlapping) const {
        const T steps = T(call.steps);
        for (int64_t k = 0; k < task.worlds; ++k) {
            uint8_t &failed = out.failed[task.first + k], &collided = out.collided[task.first + k];
            const T *gap = w.trace.around.gap[OWN] + k * vehicles;
            bool now = false;
            for (int64_t i = 0; i < vehicles; ++i) now |= gap[i] < T(0);
            const T overlaps = overlapping[k] + (now ? T(1) : T(0));
            if (overlaps > T(0) && wish.fails_overlapping) failed = collided = 1;
            if (wish.earns[TERM_COLLISION]) term(TERM_COLLISION, k) = -overlaps / steps;
            const Traffic all = traffic(k);
            const T people = all.number(all.human), everybody = all.number(all.there);
            const T variance = all.variance(all.human, all.mean(all.human, people), people);
            measure(MEASURE_MEAN_SPEED, k) = all.mean(all.there, everybody);
            measure(MEASURE_SPEED_DEVIATION, k) = variance > T(0) ? std::sqrt(variance) : T(0);
            const T slow = T(wish.standing);
            const auto stands = [&](int64_t i) { return (all.speed[i] < slow ? T(1) : T(0)) * all.human[i]; };
            measure(MEASURE_STANDING, k) = total<T>(vehicles, stands) / people;
            measure(MEASURE_COLLISIONS, k) = T(collided);
            measure(MEASURE_VEHICLES, k) = total<T>(vehicles, [&](int64_t i) { return all.there[i]; });
            measure(MEASURE_LEFT, k) = T(w.left[k] - call.left[task.first + k]);
            measure(MEASURE_SPEED_ERROR, k) = all.missed(T(wish.target), people);
        }
        if (wish.sees == SEES_LOCAL) see_locally();
        if (wish.sees == SEES_WORLD) see_world();
    }

    // Cotangents of what step t earned, to the speeds after it and to what was done.
    STAGE void pull_terms(int64_t t, T *bar_speed) const {
        const T *bar_term = static_cast<const T *>(out.bar_term);
        if (!bar_term) return;
        const uint8_t *active_before = active_before_step(t);
        const T share = T(1) / T(call.steps);
        weigh();
        for (int64_t k = 0; k < task.worlds; ++k) {
            const int64_t base = k * vehicles;
            const auto of = [&](int64_t which) { return bar_term[which * call.worlds + task.first + k] * share; };
            const Traffic all = traffic(k);
            T *__restrict bar = bar_speed + base;
            if (wish.earns[TERM_PACE] && of(TERM_PACE) != T(0)) {
                const T target = T(wish.scale[TERM_PACE]), people = all.number(all.human);
                if (all.missed(target, people) / target < T(1)) {
                    const T each = of(TERM_PACE) / target / people;
                    for (int64_t i = 0; i < vehicles; ++i) {
                        const T off = all.speed[i] - target;
                        bar[i] -= (off > T(0) ? each : off < T(0) ? -each : T(0)) * all.human[i];
                    }
                }
            }
            if (wish.earns[TERM_MEAN_SPEED]) {
                const T each = of(TERM_MEAN_SPEED) / T(wish.scale[TERM_MEAN_SPEED]) / all.number(all.there);
                for (int64_t i = 0; i < vehicles; ++i) bar[i] += each * all.there[i];
            }
            if (wish.earns[TERM_SPEED_DEVIATION]) {
                const T count = all.number(all.there), mean = all.mean(all.there, count);
                const T variance = all.variance(all.there, mean, count);
                if (variance > T(0)) {
                    const T scale = T(wish.scale[TERM_SPEED_DEVIATION]);
                    const T each = of(TERM_SPEED_DEVIATION) / scale / std::sqrt(variance) / count;
                    for (int64_t i = 0; i < vehicles; ++i) bar[i] -= each * (all.speed[i] - mean) * all.there[i];
                }
            }
            if (wish.earns[TERM_EFFORT] && call.bar_acceleration) {
                T there = T(0);
                for (int64_t c = 0; c < setup.controlled; ++c)
                    there += active_before[base + setup.slot[c]] ? T(1) : T(0);
                const T scale = T(wish.scale[TERM_EFFORT]);
                const T each = T(-2) * of(TERM_EFFORT) / std::max(there, T(1)) / (scale * scale);
                T *bar_action = task.part(static_cast<T *>(call.bar_acceleration), call.held ? 0 : t, setup.controlled);
                for (int64_t c = 0; c < setup.controlled; ++c)
                    if (active_before[base + setup.slot[c]])
                        bar_action[k * setup.controlled + c] += each * task.action(call.acceleration, t, k, c);
            }
        }
    }

    // ---------------------------------------------------------------- places

    int32_t lane(int64_t i) const { return w.cars.lane[i] < 0 ? 0 : w.cars.lane[i]; }
    int32_t number(int64_t i) const { return setup.number[lane(i)]; }
    T along(int64_t i) const { return place[lane(i)] + w.cars.position[i]; }
    T across(int64_t i) const { return T(number(i)) * task.width[lane(i)] + w.cars.lateral[i]; }  // m
    T offset(int64_t i) const { return w.cars.lateral[i] / task.width[lane(i)]; }                // lanes

    // The short way round a closed road.
    static T around(T distance, T circumference) {
        if (!(circumference < INFINITE<T>)) return distance;
        const T turns = std::nearbyint(distance / circumference);
        return turns == T(0) ? distance : distance - turns * circumference;
    }
    // The same without branches: an infinite road has no turns.
    static T around_any(T distance, T circumference) {
        const T whole = circumference < INFINITE<T> ? circumference : T(0);
        return distance - std::nearbyint(distance / circumference) * whole;
    }
    T ahead(int64_t me, int64_t i) const { return around(along(i) - along(me), circumference[lane(me)]); }
    T centre_ahead(int64_t me, int64_t i) const {
        const T mine = along(me) - T(0.5) * w.drivers.length[me], other = along(i) - T(0.5) * w.drivers.length[i];
        return around(other - mine, circumference[lane(me)]);
    }

    // ---------------------------------------------------------------- everybody, seen from the first controlled one

    const T *heading() const {
        return task.steered ? w.cars.heading : static_cast<const T *>(call.heading) + task.first * vehicles;
    }

    void see_world() const {
        const T *course = heading();
        for (int64_t k = 0; k < task.worlds; ++k) {
            T *row = static_cast<T *>(out.observation) + (task.first + k) * 4 * vehicles;
            const int64_t base = k * vehicles, me = base + setup.slot[0];
            for (int64_t j = 0; j < vehicles; ++j) {
                const int64_t i = base + j;
                row[j] = centre_ahead(me, i);
                row[vehicles + j] = across(i) - across(me);
                row[2 * vehicles + j] = w.cars.speed[i] * std::cos(course[i]);
                row[3 * vehicles + j] = w.cars.speed[i] * std::sin(course[i]);
            }
        }
    }

    void pull_world(const Bars<T> &bars) const {
        const T *course = heading();
        for (int64_t k = 0; k < task.worlds; ++k) {
            const T *bar = static_cast<const T *>(out.bar_observation) + (task.first + k) * 4 * vehicles;
            const int64_t base = k * vehicles, me = base + setup.slot[0];
            for (int64_t j = 0; j < vehicles; ++j) {
                const int64_t i = base + j;
                if (i != me) {
                    bars.position[i] += bar[j];
                    bars.position[me] -= bar[j];
                    bars.lateral[i] += bar[vehicles + j];
                    bars.lateral[me] -= bar[vehicles + j];
                }
                const T cosine = std::cos(course[i]), sine = std::sin(course[i]), v = w.cars.speed[i];
                const T bar_along = bar[2 * vehicles + j], bar_across = bar[3 * vehicles + j];
                bars.speed[i] += bar_along * cosine + bar_across * sine;
                bars.heading[i] += v * (bar_across * cosine - bar_along * sine);
            }
        }
    }

    // ---------------------------------------------------------------- the surroundings of every controlled vehicle

    bool several() const { return setup.max_lanes > 1; }
    int64_t columns() const {
        const int64_t lanes = setup.max_lanes;
        return 1 + (several() ? lanes + 1 : 0) + wish.others * (several() ? 2 : 1) + (several() ? 3 * 7 : 6);
    }

    // The other controlled vehicles that row c of world k sees, the nearest first; who is not there is far.
    struct Other {
        T distance;  // ahead
        int32_t row;
        bool there;
    };
    int64_t find_others(int64_t k, int64_t c, Other *found) const {
        const int64_t base = k * vehicles, me = base + setup.slot[c];
        int64_t count = 0;
        for (int64_t j = 0; j < setup.controlled; ++j) {
            if (j == c) continue;
            const int64_t i = base + setup.slot[j];
            const bool there = w.cars.active[i];
            const Other other{there ? ahead(me, i) : FAR, int32_t(j), there};
            int64_t at = count < wish.others ? count++ : wish.others;
            for (; at > 0 && std::abs(found[at - 1].distance) > std::abs(other.distance); --at)
                if (at < wish.others) found[at] = found[at - 1];
            if (at < wish.others) found[at] = other;
        }
        return count;
    }

    // Fills `who` [3] with the fastest driver who approaches vehicle `me` from behind on the lane to the right, the own
    // and the one to the left, -1 = nobody. `places` and `lanes` are those of the world's vehicles; who does not count
    // has lane -9.
    void find_threats(int64_t base, int64_t me, const T *places, const int32_t *lanes, int64_t *who) const {
        T fastest[3] = {-INFINITE<T>, -INFINITE<T>, -INFINITE<T>};
        who[0] = who[1] = who[2] = -1;
        const int32_t right = number(me) - 1;
        const T mine = places[me - base], length = circumference[lane(me)], farthest = -T(wish.distance_scale);
        const T *__restrict speed = w.cars.speed + base, *__restrict there = places;
        T *__restrict nearing = w.change_gap;  // free now
        for (int64_t j = 0; j < vehicles; ++j) {
            const T ahead = around_any(there[j] - mine, length);
            const T v = ahead < T(0) ? speed[j] : -INFINITE<T>;
            nearing[j] = ahead > farthest ? v : -INFINITE<T>;
        }
        for (int64_t j = 0; j < vehicles; ++j) {
            if (nearing[j] == -INFINITE<T>) continue;
            const int32_t side = lanes[j] - right;
            if (side < 0 || side > 2 || !(nearing[j] > fastest[side])) continue;
            fastest[side] = nearing[j];
            who[side] = base + j;
        }
    }

    // What find_threats() reads of world k.
    void set_out(int64_t k, T *places, int32_t *lanes) const {
        for (int64_t j = 0; j < vehicles; ++j) {
            const int64_t i = k * vehicles + j;
            places[j] = along(i);
            lanes[j] = w.cars.active[i] && w.row[i] < 0 && w.cars.lane[i] >= 0 ? number(i) : -9;
        }
    }

    bool is_beside(int64_t base, int64_t c, int side) const {
        const int64_t me = base + setup.slot[c];
        for (int64_t j = 0; j < setup.controlled; ++j) {
            const int64_t i = base + setup.slot[j];
            if (j == c || !w.cars.active[i] || number(i) - number(me) != side - OWN) continue;
            if (std::abs(ahead(me, i)) < T(wish.beside_distance)) return true;
        }
        return false;
    }

    // Calls visit(k, c, me, first column of the row, threats) for all controlled vehicles.
    template <class X, class F> void rows(X *array, F visit) const {
        const int64_t width = columns();
        T *places = w.moved;  // free now
        int32_t *lanes = w.wanting;
        int64_t threats[3];
        task.for_controlled([&](int64_t k, int64_t c, int64_t i) {
            if (c == 0) set_out(k, places, lanes);
            find_threats(k * vehicles, i, places, lanes, threats);
            visit(k, c, i, array + ((task.first + k) * setup.controlled + c) * width, threats);
        });
    }

    void see_locally() const {
        const Around<T> &near = w.trace.around;
        const T speed_scale = T(wish.speed_scale), gap_scale = T(wish.gap_scale);
        rows(static_cast<T *>(out.observation), [&](int64_t k, int64_t c, int64_t me, T *row, const int64_t *threats) {
            std::fill(row, row + columns(), T(0));
            if (!w.cars.active[me]) return;
            const int64_t base = k * vehicles;
            const T v = w.cars.speed[me];
            *row++ = (v - T(wish.target_speed)) / speed_scale;
            if (several()) {
                row[number(me)] = T(1);
                row += setup.max_lanes;
                *row++ = w.cars.cooldown[me] / T(3);
            }
            Other others[MOST_OTHERS];
            const int64_t count = find_others(k, c, others);
            const T mine = T(number(me)) + offset(me);
            for (int64_t j = 0; j < count; ++j) {
                const int64_t i = base + setup.slot[others[j].row];
                *row++ = others[j].distance / T(wish.distance_scale);
                if (several())
                    *row++ = others[j].there ? (T(number(i)) + offset(i) - mine) / T(setup.max_lanes - 1) : T(0);
            }
            row += (wish.others - count) * (several() ? 2 : 1);
            for (int side : {RIGHT, OWN, LEFT}) {
                if (!several() && side != OWN) continue;
                if (several()) {
                    const int32_t *beside = side == RIGHT ? setup.right : setup.left;
                    *row++ = side == OWN || beside[lane(me)] >= 0 ? T(1) : T(0);
                }
                const int32_t l = near.leader[side][me], f = near.follower[side][me];
                const T gap = near.gap[side][me] / gap_scale, rear = near.follower_gap[side][me] / gap_scale;
                *row++ = l >= 0 && gap < T(1) ? gap : T(1);
                *row++ = f >= 0 && rear < T(1) ? rear : T(1);
                *row++ = l < 0 ? T(0) : -(v - w.cars.speed[l]) / speed_scale;
                *row++ = f < 0 ? T(0) : (w.cars.speed[f] - v) / speed_scale;
                *row++ = is_beside(base, c, side) ? T(1) : T(0);
                const int64_t threat = threats[side];
                *row++ = threat < 0 ? T(0) : (w.cars.speed[threat] - v) / speed_scale;
            }
        });
    }

    void pull_locally(const Bars<T> &bars) const {
        const Around<T> &near = w.trace.around;
        const T speed_scale = T(wish.speed_scale), gap_scale = T(wish.gap_scale);
        const T *bars_seen = static_cast<const T *>(out.bar_observation);
        rows(bars_seen, [&](int64_t k, int64_t c, int64_t me, const T *bar, const int64_t *threats) {
            if (!w.cars.active[me]) return;
            const int64_t base = k * vehicles;
            const T width = task.width[lane(me)];
            bars.speed[me] += *bar++ / speed_scale;
            if (several()) {
                const int32_t index = number(me);  // central slope of the hat functions over the lanes
                if (index + 1 < setup.max_lanes) bars.lateral[me] += T(0.5) * bar[index + 1] / width;
                if (index > 0) bars.lateral[me] -= T(0.5) * bar[index - 1] / width;
                bar += setup.max_lanes;
                bars.cooldown[me] += *bar++ / T(3);
            }
            Other others[MOST_OTHERS];
            const int64_t count = find_others(k, c, others);
            for (int64_t j = 0; j < count; ++j) {
                const int64_t i = base + setup.slot[others[j].row];
                const T bar_ahead = *bar++ / T(wish.distance_scale);
                const T bar_aside = several() ? *bar++ / T(setup.max_lanes - 1) : T(0);
                if (!others[j].there) continue;
                bars.position[i] += bar_ahead;
                bars.position[me] -= bar_ahead;
                bars.lateral[i] += bar_aside / task.width[lane(i)];
                bars.lateral[me] -= bar_aside / width;
            }
            bar += (wish.others - count) * (several() ? 2 : 1);
            for (int side : {RIGHT, OWN, LEFT}) {
                if (!several() && side != OWN) continue;
                if (several()) ++bar;
                const int32_t l = near.leader[side][me], f = near.follower[side][me];
                const T bar_gap = *bar++ / gap_scale, bar_rear = *bar++ / gap_scale;
                const T bar_closing = *bar++ / speed_scale, bar_follower = *bar++ / speed_scale;
                if (l >= 0) {
                    if (near.gap[side][me] / gap_scale < T(1)) {
                        bars.position[l] += bar_gap;
                        bars.position[me] -= bar_gap;
                    }
                    bars.speed[l] += bar_closing;
                    bars.speed[me] -= bar_closing;
                }
                if (f >= 0) {
                    if (near.follower_gap[side][me] / gap_scale < T(1)) {
                        bars.position[me] += bar_rear;
                        bars.position[f] -= bar_rear;
                    }
                    bars.speed[f] += bar_follower;
                    bars.speed[me] -= bar_follower;
                }
                ++bar;
                const int64_t threat = threats[side];
                const T bar_threat = *bar++ / speed_scale;
                if (threat < 0) continue;
                bars.speed[threat] += bar_threat;
                bars.speed[me] -= bar_threat;
            }
        });
    }

    // Cotangents of what is observed of the state at hand, whose neighbours have been found.
    STAGE void pull_sight(const Bars<T> &bars) const {
        if (!out.bar_observation) return;
        if (wish.sees == SEES_LOCAL) pull_locally(bars);
        if (wish.sees == SEES_WORLD) pull_world(bars);
    }
};

}  // namespace
}  // namespace TG_VARIANT

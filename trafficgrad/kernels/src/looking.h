// Who surrounds whom, as Simulator.neighbors tells it, and the way back to places, speeds and lengths.
#pragma once
#include "forward.h"

namespace TG_VARIANT {
namespace {

template <class T> struct Looking {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Call &call;
    const Sight &sight;
    static constexpr T infinite = std::numeric_limits<T>::infinity();

    Looking(Task<T> &task, const Sight &sight)
        : task(task), w(task.world), setup(task.setup), call(task.call), sight(sight) {}

    void run(int64_t first, int64_t count) {
        Forward<T, true, false> forward(task);
        forward.turn_to(first, count);
        if (!forward.acceptable()) return;
        forward.load();
        task.meet_drivers();
        forward.see();
        const Around<T> &around = w.trace.around;
        const bool several = setup.max_lanes > 1;
        for (int64_t k = 0; k < count; ++k) {
            int32_t *order = call.order + (first + k) * task.vehicles;
            const int64_t base = k * task.vehicles;
            if (task.branched) {
                find_around_on_ways(task, k, order, true, around, w.alone);
                forward.tell_who_comes(k);
            } else {
                find_around(
                    setup, task.vehicles, int32_t(base), w.cars.position + base, w.drivers.length + base,
                    w.cars.lane + base, w.present + base, order, {true, several, several}, w.search, around);
            }
        }
        for (int side : {RIGHT, OWN, LEFT}) tell(side, side == OWN || several || task.branched);
        if (task.branched) tell_ahead();
    }

    template <class X> X *cell(X *array, int64_t i, int64_t width) const {
        return array + (task.first * task.vehicles + i) * width;
    }
    T *real(void *array, int64_t i, int64_t width) const { return cell(static_cast<T *>(array), i, width); }

    void tell(int side, bool known) {
        const Around<T> &around = w.trace.around;
        for (int64_t i = 0; i < task.n; ++i) {
            const int32_t l = known ? around.leader[side][i] : -1, f = known ? around.follower[side][i] : -1;
            const int32_t base = int32_t(w.world[i] * task.vehicles);
            const T v = w.cars.speed[i];
            cell(sight.leader, i, 3)[side] = l < 0 ? -1 : l - base;
            cell(sight.follower, i, 3)[side] = f < 0 ? -1 : f - base;
            real(sight.gap, i, 3)[side] = l < 0 ? infinite : around.gap[side][i];
            real(sight.follower_gap, i, 3)[side] = f < 0 ? infinite : around.follower_gap[side][i];
            real(sight.closing, i, 3)[side] = l < 0 ? T(0) : v - w.cars.speed[l];
            real(sight.follower_closing, i, 3)[side] = f < 0 ? T(0) : w.cars.speed[f] - v;
        }
    }

    void tell_ahead() {
        for (int64_t i = 0; i < task.n; ++i) {
            const T x = w.cars.position[i];
            for (int g = 0; g < GATES; ++g) {
                cell(sight.gate, i, GATES)[g] = w.ahead.gate[g][i];
                real(sight.gate_distance, i, GATES)[g] = w.ahead.gate_offset[g][i] - x;
            }
            *real(sight.end_distance, i, 1) = w.ahead.end_offset[i] - x;
            *cell(sight.slow, i, 1) = w.ahead.slow[i];
            *real(sight.slow_distance, i, 1) = w.ahead.slow_offset[i] - x;
        }
    }

    // Of worlds first to last; the cotangents that are written are zero before.
    static void pull(const Call &call, const Sight &sight, int64_t first, int64_t last) {
        const int64_t n = call.vehicles;
        T *bar_x = static_cast<T *>(call.bar_position), *bar_v = static_cast<T *>(call.bar_speed);
        T *bar_size = static_cast<T *>(sight.bar_length);
        const auto of = [](const void *array, int64_t at) { return array ? static_cast<const T *>(array)[at] : T(0); };
        for (int64_t b = first; b < last; ++b) {
            for (int64_t i = b * n; i < (b + 1) * n; ++i) {
                for (int side = 0; side < 3; ++side) {
                    const int64_t at = i * 3 + side, l = sight.leader[at], f = sight.follower[at];
                    if (l >= 0) {
                        const T gap = of(sight.bar_gap, at), closing = of(sight.bar_closing, at);
                        bar_x[b * n + l] += gap;
                        bar_x[i] -= gap;
                        bar_size[b * n + l] -= gap;
                        bar_v[i] += closing;
                        bar_v[b * n + l] -= closing;
                    }
                    if (f >= 0) {
                        const T gap = of(sight.bar_follower_gap, at), closing = of(sight.bar_follower_closing, at);
                        bar_x[i] += gap;
                        bar_x[b * n + f] -= gap;
                        bar_size[i] -= gap;
                        bar_v[b * n + f] += closing;
                        bar_v[i] -= closing;
                    }
                }
                bar_x[i] -= of(sight.bar_end_distance, i) + of(sight.bar_slow_distance, i);
                for (int g = 0; g < GATES; ++g) bar_x[i] -= of(sight.bar_gate_distance, i * GATES + g);
            }
        }
    }
};

}  // namespace
}  // namespace TG_VARIANT

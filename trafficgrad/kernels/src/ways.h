// Looking along the way where roads meet, part and end: trafficgrad/paths.py, one vehicle and one lane after the other.
#pragma once
#include "world.h"

namespace TG_VARIANT {
namespace {

template <class T> struct Ways {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const int64_t k;      // world of the group
    const int64_t base;   // its first slot
    const T *length;
    LaneSight<T> &sight;
    Search<T> &search;

    Ways(Task<T> &task, int64_t k)
        : task(task), w(task.world), setup(task.setup), k(k), base(k * task.vehicles), length(task.length),
          sight(task.world.sight), search(task.world.search) {}

    int32_t number(int32_t lane) const { return setup.number[lane]; }

    int32_t plan_row(int64_t i) const {
        const Cars<T> &c = w.cars;
        if (c.route[i] >= 0) return setup.route_start[c.route[i]] + c.route_index[i];
        const int32_t own = setup.edge[c.lane[i] < 0 ? 0 : c.lane[i]];
        return own < setup.road_edges ? own : 0;
    }

    int32_t lane_after(int32_t lane, int32_t row) const {
        if (setup.is_junction[lane]) return setup.target[lane];
        return setup.next_lane[row * setup.max_lanes + number(lane)];
    }

    int32_t row_after(int32_t entered, int32_t row, int32_t route) const {
        if (setup.is_junction[entered]) return row;
        return route < 0 ? setup.edge[entered] : setup.following_row[row];
    }

    T limit(int32_t lane) const { return task.limit(k, lane); }

    bool waits_inside(int64_t i) const {
        const Cars<T> &c = w.cars;
        if (!w.present[i]) return false;
        const T place = static_cast<const T *>(setup.waits_at)[c.lane[i]];
        return place > T(0) && c.right_of_way[i] < 0 && c.position[i] <= place;
    }

    bool covers_previous(int64_t i) const {
        return w.cars.previous[i] >= 0 && w.cars.position[i] < w.drivers.length[i];
    }

    // Looks along the own lanes of everybody. `alone`: nobody is ahead on the own lane of the edge.
    STAGE void look(const uint8_t *alone) {
        for (int64_t a = 0; a < setup.lanes; ++a) {
            sight.departing[a] = sight.coming[a] = -1;
            sight.coming_time[a] = sight.coming_distance[a] = std::numeric_limits<T>::infinity();
        }
        for (int64_t r = 0; r < search.begin[setup.edges]; ++r) {  // in the order of the search: ties go to the first
            const int64_t i = search.sorted[r].slot + base;
            if (!covers_previous(i)) continue;
            int32_t &last = sight.departing[w.cars.previous[i]];
            if (last < 0 || w.cars.position[i] < w.cars.position[last]) last = int32_t(i);
        }
        const AheadOf<T> &a = w.ahead;
        const auto fill = [&](auto *array, auto value) { std::fill(array + base, array + base + task.vehicles, value); };
        constexpr T infinite = std::numeric_limits<T>::infinity();
        for (int g = 0; g < GATES; ++g) {
            fill(a.gate[g], -1);
            fill(a.gate_offset[g], infinite);
        }
        fill(a.end_offset, infinite);
        fill(a.slow_offset, infinite);
        fill(a.slow, -1);
        fill(a.beyond, -1);
        fill(a.beyond_offset, T(0));
        for (int64_t i = base; i < base + task.vehicles; ++i) a.row[i] = plan_row(i);
        // Neighbours go the same ways.
        for (int64_t r = 0; r < search.begin[setup.edges]; ++r) {
            const int64_t i = search.sorted[r].slot + base;
            look_along_own(i, alone[i - base]);
        }
    }

    // The nearer of the first vehicle on the next lane and of who is just leaving this one; -1 = nobody.
    int32_t met_between(int32_t at, int32_t after, bool goes_on) const {
        int32_t found = goes_on && search.first[after] >= 0 ? int32_t(search.first[after] + base) : -1;
        const int32_t leaving = sight.departing[at];
        if (leaving >= 0 && (found < 0 || w.cars.position[leaving] < w.cars.position[found])) found = leaving;
        return found;
    }

    STAGE void look_along_own(int64_t i, bool announcing) {
        AheadOf<T> &a = w.ahead;
        const T x = w.cars.position[i], braking = w.drivers.b[i], pace = w.cars.speed[i] + CRAWL<T>;
        int32_t at = w.cars.lane[i], row = a.row[i];
        const int32_t route = w.cars.route[i];
        T offset = length[at], lowest = std::numeric_limits<T>::infinity();
        int seen = 0;
        if (waits_inside(i)) {
            a.gate[0][i] = at;
            a.gate_offset[0][i] = T(0);
            seen = 1;
        }
        bool seeking = true;
        for (int64_t hop = 0; hop < setup.hops; ++hop) {
            const int32_t after = lane_after(at, row);
            if (after < 0 && !(setup.ends[row] && !setup.is_junction[at])) a.end_offset[i] = offset;
            if (!(offset - x < LOOK_AHEAD<T>)) return;
            const bool goes_on = after >= 0;
            bool meets = false;
            if (seeking) {
                const int32_t found = met_between(at, goes_on ? after : 0, goes_on);
                meets = found >= 0;
                if (meets) {
                    a.beyond_offset[i] = offset;
                    if (found != i) a.beyond[i] = found;
                    seeking = false;
                }
            }
            if (!goes_on) return;
            if (announcing) announce(after, i, offset - x, pace);
            announcing = announcing && !meets;
            if (setup.gated[after]) {
                if (seen < GATES) {
                    a.gate[seen][i] = after;
                    a.gate_offset[seen][i] = offset;
                }
                ++seen;
            }
            if (setup.has_limits) {
                const T there = limit(after), square = there * there + T(2) * braking * (offset - x);
                if (square < lowest) {
                    a.slow[i] = after;
                    a.slow_offset[i] = offset;
                    lowest = square;
                }
            }
            row = row_after(after, row, route);
            offset += length[after];
            at = after;
        }
    }

    void announce(int32_t lane, int64_t i, T distance, T pace) {
        const T time = distance / pace;
        if (!(time <= sight.coming_time[lane]) || std::isinf(time)) return;
        if (time == sight.coming_time[lane]) {
            if (sight.coming[lane] > i) return;
            if (sight.coming[lane] == i && sight.coming_distance[lane] < distance) return;
        }
        sight.coming[lane] = int32_t(i);
        sight.coming_time[lane] = time;
        sight.coming_distance[lane] = distance;
    }

    // The first vehicle on the way on from the lane beside, -1 = nobody, and the road from that lane's origin.
    STAGE int32_t look_along_side(int64_t i, int32_t at, T &offset) const {
        const T x = w.cars.position[i];
        int32_t row = w.ahead.row[i];
        const int32_t route = w.cars.route[i];
        offset = length[at];
        for (int64_t hop = 0; hop < setup.hops; ++hop) {
            if (!(offset - x < LOOK_AHEAD<T>)) return -1;
            const int32_t after = lane_after(at, row);
            const bool goes_on = after >= 0;
            const int32_t found = met_between(at, goes_on ? after : 0, goes_on);
            if (found >= 0) return found == i ? -1 : found;
            if (!goes_on) return -1;
            row = row_after(after, row, route);
            offset += length[after];
            at = after;
        }
        return -1;
    }
};

// Fills in who is around each vehicle of world k where roads meet and part, and what lies ahead.
template <class T>
STAGE void find_around_on_ways(
    Task<T> &task, int64_t k, int32_t *order, bool sides, const Around<T> &around, uint8_t *alone
) {
    const Setup &setup = task.setup;
    World<T> &w = task.world;
    Search<T> &s = w.search;
    const int64_t n = task.vehicles, base = k * n;
    const T *position = w.cars.position + base, *length = w.drivers.length + base;
    const int32_t *lane = w.cars.lane + base, *present = w.present + base;
    constexpr T infinite = std::numeric_limits<T>::infinity();
    put_in_order(setup, n, position, lane, present, order, s);
    if (s.begin[setup.edges] < n) {
        const bool some = sides;
        clear(around, base, base + n, {some, some, some});
    }
    find_ends(setup, lane, sides, s);
    // Who has nobody ahead on the own lane of the edge.
    for (int64_t i = 0; i < n; ++i) alone[i] = 0;
    for (int64_t e = 0; e < setup.edges; ++e) {
        const int32_t lanes = setup.edge_lanes[e], right = setup.first_lane[e];
        for (int32_t a = 0; a < lanes; ++a) s.met[a + 1].slot = -1;
        for (int64_t r = s.begin[e + 1] - 1; r >= s.begin[e]; --r) {
            const int32_t slot = s.sorted[r].slot;
            Met<T> &met = s.met[lane[slot] - right + 1];
            alone[slot] = met.slot < 0;
            met.slot = slot;
        }
    }
    Ways<T> ways(task, k);
    ways.look(alone);
    const auto lead = [&](int side, int64_t i, int32_t slot, T offset) {
        around.leader[side][i] = slot;
        around.gap[side][i] =
            slot < 0 ? infinite : w.cars.position[slot] - w.cars.position[i] + offset - w.drivers.length[slot];
    };
    for (int64_t e = 0; e < setup.edges; ++e) {
        const int64_t begin = s.begin[e], end = s.begin[e + 1];
        if (begin == end) continue;
        const int32_t lanes = setup.edge_lanes[e], right = setup.first_lane[e];
        Met<T> *met = s.met + 1;
        for (int32_t a = -1; a <= lanes; ++a) met[a].slot = -1;
        for (int64_t r = end - 1; r >= begin; --r) {
            const int32_t slot = s.sorted[r].slot, a = lane[slot] - right;
            const int64_t i = slot + base;
            if (met[a].slot >= 0) lead(OWN, i, met[a].slot, T(0));
            else lead(OWN, i, w.ahead.beyond[i], w.ahead.beyond_offset[i]);
            if (sides) {
                for (int side : {RIGHT, LEFT}) {
                    const int32_t there = a + (side == LEFT ? 1 : -1);
                    if (there < 0 || there >= lanes) {
                        lead(side, i, -1, T(0));
                    } else if (met[there].slot >= 0) {
                        lead(side, i, met[there].slot, T(0));
                    } else {
                        T offset;
                        const int32_t found = ways.look_along_side(i, right + there, offset);
                        lead(side, i, found, offset);
                    }
                }
            }
            met[a].slot = int32_t(i);
        }
        if (!sides) continue;
        for (int32_t a = -1; a <= lanes; ++a) {
            met[a] = {T(0), T(0), T(0), -1};
            if (a < 0 || a >= lanes) continue;
            const int32_t comes = w.sight.coming[right + a];
            if (comes < 0) continue;
            met[a] = {w.cars.position[comes], w.sight.coming_distance[right + a] + w.cars.position[comes], T(0), comes};
        }
        for (int64_t r = begin; r < end; ++r) {
            const int32_t slot = s.sorted[r].slot, a = lane[slot] - right;
            const int32_t i = slot + int32_t(base);
            const T x = position[slot], size = length[slot];
            for (int side : {RIGHT, OWN, LEFT}) {
                const Met<T> &one = met[a + side - OWN];
                const bool nobody = one.slot < 0 || one.slot == i;
                around.follower[side][i] = nobody ? -1 : one.slot;
                around.follower_gap[side][i] = nobody ? infinite : x - one.position + one.offset - size;
            }
            met[a] = {x, T(0), size, i};
        }
    }
}

}  // namespace
}  // namespace TG_VARIANT

// Who may enter a junction, and what those do who may not: trafficgrad/right_of_way.py for one world after the other.
// The rules are explained there; names are the same.
#pragma once
#include "ways.h"

namespace TG_VARIANT {
namespace {

enum Letter : int32_t { RED, YELLOW, YIELDING, GREEN };
enum ConflictKind : int32_t { CROSSING = 0, MERGE = 1, DIVERGE = 2 };  // as in trafficgrad/network/conflicts.py

template <class T> constexpr T FAR = T(1.0e4);
constexpr int32_t GREEN_RANK = 1000;
template <class T, bool FOUR, bool PAPER> struct Junctions {
    Task<T> &task;
    World<T> &w;
    const Setup &setup;
    const Around<T> &around;
    const Ways<T> ways;
    const Passage<T> &out;
    PassageWork<T> &s;
    const int64_t k, base, n;
    const int32_t *phase;
    static constexpr T infinite = std::numeric_limits<T>::infinity();

    Junctions(Task<T> &task, const Around<T> &around, int64_t k, const Passage<T> &out, PassageWork<T> &work)
        : task(task), w(task.world), setup(task.setup), around(around), ways(task, k), out(out), s(work), k(k),
          base(k * task.vehicles), n(task.vehicles), phase(task.world.phase + k * task.setup.signals) {}

    const T *real(const void *table) const { return static_cast<const T *>(table); }
    T length(int32_t lane) const { return task.length[lane]; }
    T x(int64_t i) const { return w.cars.position[i]; }
    T v(int64_t i) const { return w.cars.speed[i]; }
    int32_t lane(int64_t i) const { return w.cars.lane[i] < 0 ? 0 : w.cars.lane[i]; }
    T size(int64_t i) const { return w.drivers.length[i]; }
    int32_t gate(int g, int64_t i) const { return w.present[i] ? w.ahead.gate[g][i] : -1; }
    T gate_distance(int g, int64_t i) const { return gate(g, i) >= 0 ? w.ahead.gate_offset[g][i] - x(i) : infinite; }
    T acceleration(int64_t i, T gap, T closing) const {
        return idm<T, FOUR, PAPER>(v(i), gap, closing, w.drivers.of(i));
    }

    int32_t shown(int32_t signal, int32_t index) const {
        if (signal < 0 || !setup.signals) return YIELDING;  // a network may have signals that the simulation has not
        return setup.letter[(signal * setup.phases + phase[signal]) * setup.letters + (index < 0 ? 0 : index)];
    }

    static T travel_time(T distance, T speed, T acceleration, T limit) {
        const T top = std::max(std::min(limit, T(50.0)), speed);
        const T gaining = (top - speed) / acceleration;
        const T on_the_way = (speed + top) / T(2) * gaining;
        if (distance < on_the_way) return (std::sqrt(speed * speed + T(2) * acceleration * distance) - speed) / acceleration;
        return gaining + (distance - on_the_way) / top;
    }

    bool holds(int64_t i, int g) const { return s.held[i - base] >> g & 1; }
    bool keeps(int64_t i, int g) const { return s.kept[i - base] >> g & 1; }

    STAGE void decide() {
        look_at_gates();
        keep_rights();
        ask();
        first_come();
        grant();
        merge();
        part();
        for (int64_t i = base; i < base + n; ++i) conclude(i);
    }

    // Who waits, who is inside, who has had the right of way.
    STAGE void look_at_gates() {
        for (int64_t a = 0; a < setup.lanes; ++a) s.blocked[a] = s.somebody[a] = s.slow[a] = 0;
        for (int64_t i = base; i < base + n; ++i) {
            const int64_t j = i - base;
            s.waits[j] = ways.waits_inside(i);
            s.inside[j] = w.present[i] && setup.is_junction[lane(i)] && !s.waits[j];
            s.held[j] = 0;
            for (int g = GATES - 1; g >= 0; --g) {
                const int32_t way = gate(g, i);
                const bool last = way >= 0 && way == w.cars.right_of_way[i] && way != w.cars.previous[i];
                if (last || (g + 1 < GATES && holds(i, g + 1))) s.held[j] |= uint8_t(1 << g);
            }
            if (w.present[i] && v(i) < T(6.0)) s.slow[lane(i)] = 1;
            if (!s.waits[j]) continue;
            s.somebody[lane(i)] = 1;
            if (x(i) - size(i) < real(setup.apart)[lane(i)]) s.blocked[setup.origin[lane(i)]] = 1;
        }
    }

    // Behind somebody on the own lane who does not have the right of way, or behind who waits inside.
    void hindrance(int64_t i, int g, bool &before_line, bool &blocked) const {
        const int32_t way = gate(g, i), leader = around.leader[OWN][i];
        const T front = around.gap[OWN][i] + size(leader < 0 ? base : leader);
        before_line = leader >= 0 && front < gate_distance(g, i);
        blocked = false;
        if (way >= 0 && !s.waits[i - base]) {
            const int32_t origin = setup.origin[way];
            blocked = s.blocked[origin < 0 ? 0 : origin];
        }
    }

    bool leader_holds(int64_t i, int32_t way) const {
        const int32_t leader = around.leader[OWN][i];
        if (leader < 0) return false;
        for (int g = 0; g < GATES; ++g)
            if (holds(leader, g) && gate(g, leader) == way) return true;
        return false;
    }

    bool is_behind_waiting(int64_t i, int g) const {
        bool before_line, blocked;
        hindrance(i, g, before_line, blocked);
        return blocked || (before_line && !leader_holds(i, gate(g, i)));
    }

    int32_t letter_of(int64_t i, int g) const {
        const int32_t way = gate(g, i);
        return way < 0 ? YIELDING : shown(setup.signal[way], setup.signal_index[way]);
    }

    T stopping(int64_t i, int g) const {
        const int32_t way = gate(g, i);
        return acceleration(i, gate_distance(g, i), way >= 0 ? v(i) : T(0));
    }

    STAGE void keep_rights() {
        const T hardest = -T(setup.stop_deceleration);
        for (int64_t i = base; i < base + n; ++i) {
            const int64_t j = i - base;
            s.kept[j] = s.number[j] = 0;
            for (int g = 0; g < GATES; ++g) {
                if (!holds(i, g)) break;
                const bool committed = stopping(i, g) < hardest;
                if (!committed && !(letter_of(i, g) >= YIELDING && !is_behind_waiting(i, g))) break;
                s.kept[j] |= uint8_t(1 << g);
                ++s.number[j];
            }
        }
    }

    // Who asks for the next gate, and who comes to it.
    STAGE void ask() {
        count_room();
        const T far = FAR<T>;
        for (int64_t i = base; i < base + n; ++i) {
            const int64_t j = i - base;
            const int g = s.number[j] < GATES ? s.number[j] : GATES - 1;
            const int32_t next = s.number[j] < GATES ? gate(g, i) : -1, way = next < 0 ? 0 : next;
            const bool approaches = next >= 0, waits = s.waits[j];
            const T distance = approaches ? gate_distance(g, i) : infinite;
            s.approaches[j] = approaches;
            s.way[j] = way;
            s.distance[j] = distance;
            s.letter[j] = letter_of(i, g);
            if (!approaches) {  // nothing of it matters then, but that a gate behind the last is not open
                s.is_open[j] = s.letter[j] >= YIELDING || waits;
                s.near[j] = s.able[j] = s.asks[j] = s.comes[j] = s.zips[j] = s.could_wait[j] = 0;
                s.rank[j] = 0;
                continue;
            }
            bool before_line, blocked;
            hindrance(i, g, before_line, blocked);
            s.first_behind[j] = !(before_line || blocked);
            const Driver<T> d = w.drivers.of(i);
            const T speed = v(i);
            s.is_open[j] = s.letter[j] >= YIELDING || waits;
            s.near[j] = distance < speed * speed / (T(2) * d.b) + speed * T(setup.reaction_time) + d.s0 + T(1);
            const bool stopped = !setup.stop[way] || (speed < T(0.3) && distance < d.s0 + T(3));
            const int32_t target = setup.target[way] < 0 ? 0 : setup.target[way];
            const T needs = size(i) + d.s0;
            const T room = s.room[target] + (waits ? needs : T(0));
            const bool is_short = length(target) < needs;
            const int32_t edge = setup.edge[target];
            const bool leaves = edge < setup.road_edges && setup.ends[edge];
            const bool fits = room >= needs || !(setup.crosses[way] || (setup.gives_way[way] && s.slow[target])) ||
                              is_short || leaves;
            s.able[j] = s.is_open[j] && stopped && fits;
            const bool is_free = waits || !s.somebody[way];
            const bool behind_waiting = blocked || (before_line && !leader_holds(i, way));
            s.asks[j] = s.able[j] && s.near[j] && !behind_waiting && is_free;
            s.comes[j] = (s.able[j] && s.first_behind[j]) || s.asks[j];
            s.rank[j] = setup.rank[way] + (s.letter[j] == GREEN ? GREEN_RANK : 0) +
                        (waits && s.letter[j] < YIELDING ? 2 * GREEN_RANK : 0);
            s.arrival[j] = travel_time(std::min(std::max(distance, T(0)), far), speed, d.a, ways.limit(way));
            if (setup.zips[way]) s.arrival[j] = std::min(distance + length(way), far);
            if (setup.stop[way] && stopped) s.arrival[j] = -std::min(around.gap[OWN][i], far);
            s.zips[j] = s.is_open[j] && setup.zips[way] && distance < T(setup.zip_distance);
            s.could_wait[j] = real(setup.waits_at)[way] > T(0) && s.near[j] && fits && s.first_behind[j] && !waits &&
                              is_free;
            if (!s.could_wait[j]) continue;
            s.could_wait[j] = s.letter[j] == YIELDING ||
                              (s.letter[j] == YELLOW && stopping(i, g) < -T(setup.stop_deceleration));
        }
    }

    // Metres of each lane that nobody on it or bound for it will stand on in a jam.
    STAGE void count_room() {
        for (int64_t a = 0; a < setup.lanes; ++a) s.room[a] = T(0);
        const auto needs = [&](int64_t i) { return size(i) + w.drivers.s0[i]; };
        for (int64_t i = base; i < base + n; ++i)
            if (w.present[i]) s.room[lane(i)] += needs(i);
        for (int64_t i = base; i < base + n; ++i)
            if ((s.inside[i - base] || s.waits[i - base]) && setup.target[lane(i)] >= 0)
                s.room[setup.target[lane(i)]] += needs(i);
        for (int g = 0; g < GATES; ++g)
            for (int64_t i = base; i < base + n; ++i)
                if (keeps(i, g) && setup.target[gate(g, i)] >= 0) s.room[setup.target[gate(g, i)]] += needs(i);
        for (int64_t a = 0; a < setup.lanes; ++a) s.room[a] = length(int32_t(a)) - s.room[a];
    }

    // Per junction lane: who asks first, who comes first and with which rank, whose rear clears it last.
    STAGE void first_come() {
        for (int64_t a = 0; a < setup.lanes; ++a) {
            s.first_time[a] = s.coming_time[a] = s.last_rear[a] = s.waiting_rear[a] = infinite;
            s.first_slot[a] = s.last_slot[a] = -1;
            s.coming_rank[a] = -1000000;
            s.busy[a] = T(0);
        }
        for (int64_t i = base; i < base + n; ++i) {
            const int64_t j = i - base;
            const int32_t way = s.way[j];
            if (s.asks[j] && s.arrival[j] < s.first_time[way]) {
                s.first_time[way] = s.arrival[j];
                s.first_slot[way] = int32_t(i);
            }
            if (s.comes[j]) {
                s.coming_time[way] = std::min(s.coming_time[way], s.arrival[j]);
                s.coming_rank[way] = std::max(s.coming_rank[way], s.rank[j]);
            }
            const T rear = x(i) - size(i);
            if (s.inside[j]) take_rear(lane(i), rear, i);
            if (s.waits[j]) s.waiting_rear[lane(i)] = std::min(s.waiting_rear[lane(i)], rear);
            const int32_t before = w.cars.previous[i];
            if (w.present[i] && ways.covers_previous(i) && setup.is_junction[before])
                take_rear(before, length(before) + x(i) - size(i), i);
            for (int g = 0; g < GATES; ++g)
                if (keeps(i, g)) take_rear(gate(g, i), -gate_distance(g, i) - size(i), i);
        }
    }

    void take_rear(int32_t a, T rear, int64_t i) {
        if (!(rear < s.last_rear[a]) && !(rear == s.last_rear[a] && i < s.last_slot[a])) return;
        s.last_rear[a] = rear;
        s.last_slot[a] = int32_t(i);
    }

    struct Foe {
        int32_t lane, kind;
        T own_entry, own_exit, entry, exit;
    };

    Foe foe(int32_t way, int64_t f) const {
        const int64_t at = way * setup.foes + f;
        return {setup.foe[at], setup.kind[at], real(setup.own_entry)[at], real(setup.own_exit)[at],
                real(setup.foe_entry)[at], real(setup.foe_exit)[at]};
    }

    bool occupies(const Foe &one) const {
        if (one.kind != CROSSING) return false;
        const bool in_the_way = one.entry < real(setup.waits_at)[one.lane];
        return s.last_rear[one.lane] < one.exit || (s.waiting_rear[one.lane] < one.exit && in_the_way);
    }

    // How long those who ask first at stop signs wait in any case until the ways that cross theirs are clear.
    void count_waiting_times() {
        for (int64_t i = base; i < base + n; ++i) {
            const int64_t j = i - base;
            const int32_t way = s.way[j];
            if (!s.asks[j] || s.first_slot[way] != i) continue;
            for (int64_t f = 0; f < setup.foes; ++f) {
                const Foe one = foe(way, f);
                if (one.lane < 0) break;  // padding
                if (!occupies(one)) continue;
                const int32_t holder = s.last_slot[one.lane];
                const T distance = std::min(std::max(one.exit - s.last_rear[one.lane], T(0)), FAR<T>);
                if (holder < 0 || !(distance > T(0))) continue;
                const T time = travel_time(distance, v(holder), w.drivers.a[holder], ways.limit(one.lane));
                s.busy[way] = std::max(s.busy[way], time);
            }
        }
    }

    // Against every foe of the way asked for.
    STAGE void grant() {
        bool stop_signs = false;
        for (int64_t j = 0; j < n; ++j) stop_signs |= (s.asks[j] || s.could_wait[j]) && setup.stop[s.way[j]];
        if (stop_signs) count_waiting_times();
        for (int64_t i = base; i < base + n; ++i) {
            const int64_t j = i - base;
            s.granted[j] = 0;
            if (!s.asks[j] && !s.could_wait[j]) continue;
            const int32_t way = s.way[j];
            const T depth = real(setup.waits_at)[way], limit = ways.limit(way), mine = s.arrival[j];
            const T to_way = std::min(std::max(s.distance[j], -FAR<T>), FAR<T>);
            bool barred = false, before_it = false;
            for (int64_t f = 0; f < setup.foes; ++f) {
                const Foe one = foe(way, f);
                if (one.lane < 0) break;
                const bool crossing = one.kind == CROSSING, occupied = occupies(one);
                before_it |= occupied && one.own_entry < depth;
                T to_clear = to_way + one.own_exit + size(i);
                if (!(to_clear > T(0))) continue;  // behind the rear
                const int32_t rank = s.coming_rank[one.lane], first = s.first_slot[one.lane];
                const T time = s.first_time[one.lane];
                const bool sooner = time < mine || (time == mine && first < i);
                bool yields = first >= 0 && (rank > s.rank[j] || (rank == s.rank[j] && sooner));
                const T clear_at = travel_time(to_clear, v(i), w.drivers.a[i], limit);
                const T pace = std::min(ways.limit(one.lane), T(50.0));
                const bool meets = s.coming_time[one.lane] + one.entry / pace < clear_at + T(setup.time_gap);
                const bool cut_off = crossing && rank > s.rank[j] && meets;
                if (setup.stop[way]) {
                    const T later = s.busy[one.lane];
                    if (later > T(0) && clear_at <= later + T(2.5)) yields = false;
                }
                barred |= (yields && (crossing || one.kind == MERGE)) || occupied || cut_off;
            }
            s.granted[j] = s.asks[j] && !barred;
            s.could_wait[j] = s.could_wait[j] && !before_it;
        }
    }

    // Where lanes merge: the place in the common order.
    STAGE void merge() {
        int64_t count = 0;
        const T *narrows = real(setup.narrows);
        for (int64_t i = base; i < base + n; ++i) {
            const int64_t j = i - base;
            const int32_t way = s.way[j], here = lane(i);
            out.follows[i] = 0;
            out.zip_leader[i] = -1;
            s.joins[j] = s.approaches[j] && setup.merges[way] && s.near[j];
            const auto enter = [&](int r, int32_t target, T to_go, T apart) {
                s.members[count++] = {to_go, target, int32_t(r * n + j)};
                s.apart[r][j] = std::max(apart, T(0));
            };
            if (s.inside[j] && setup.merges[here])
                enter(0, setup.target[here], length(here) - x(i), setup.zips[here] ? narrows[here] - x(i) : T(0));
            if (s.joins[j] || s.zips[j]) {
                const T near = std::min(s.distance[j], FAR<T>);
                enter(1, setup.target[way], std::min(s.distance[j] + length(way), FAR<T>),
                      setup.zips[way] ? near + narrows[way] : T(0));
            }
            for (int g = 0; s.kept[j] >> g; ++g) {
                const int32_t a = gate(g, i);
                if (!keeps(i, g) || !setup.merges[a]) continue;
                const T distance = gate_distance(g, i);
                enter(2 + g, setup.target[a], std::min(distance + length(a), FAR<T>),
                      setup.zips[a] ? std::min(distance, FAR<T>) + narrows[a] : T(0));
            }
        }
        if (!count) return;
        std::sort(s.members, s.members + count);
        for (int64_t p = 0; p < count; ++p) follow_in_order(p);
        for (int64_t p = 0; p < count; ++p)
            if (s.members[p].entry / n == 1) find_gap(p, count);
        for (int64_t p = 0; p < count; ++p) {
            if (s.members[p].entry / n != 1) continue;
            const int64_t j = s.members[p].entry % n, i = j + base;
            if (s.granted[j]) continue;
            out.follows[i] &= uint8_t(~2);
            if (s.zips[j]) fall_in_line(p);
        }
    }

    // In turn: those who come to the same lane count, whether they may enter yet or not.
    void fall_in_line(int64_t p) {
        const int64_t j = s.members[p].entry % n, i = j + base;
        for (int64_t q = p - 1; q >= 0 && s.members[q].lane == s.members[p].lane; --q) {
            const int64_t other = s.members[q].entry % n;
            if (s.members[q].entry / n == 1 && !s.zips[other]) continue;
            out.zip_leader[i] = int32_t(other + base);
            out.zip_gap[i] = s.members[p].to_go - s.members[q].to_go - size(other + base) + room_later(1, j);
            return;
        }
    }

    // Beside each other is no danger yet where lanes only begin to join.
    T room_later(int r, int64_t j) const {
        const int64_t i = j + base;
        const T apart = s.apart[r][j], time = apart / std::max(v(i), T(0.3));
        return std::min(T(0.4) * apart, T(0.5) * T(0.5) * w.drivers.b[i] * time * time);
    }

    // Who has the right of way and is next ahead of an entry in the common order.
    void follow_in_order(int64_t p) {
        const int r = int(s.members[p].entry / n);
        const int64_t j = s.members[p].entry % n, i = j + base;
        for (int64_t q = p - 1; q >= 0 && s.members[q].lane == s.members[p].lane; --q) {
            if (s.members[q].entry / n == 1) continue;  // only asks
            const int64_t other = s.members[q].entry % n + base;
            out.follows[i] |= uint8_t(1 << r);
            out.leader[r][i] = int32_t(other);
            out.leader_gap[r][i] = s.members[p].to_go - s.members[q].to_go - size(other) + room_later(r, j);
            return;
        }
    }

    // Whether who asks fits between those next to it; who has precedence and only comes, and who has the right of way.
    void find_gap(int64_t p, int64_t count) {
        const int64_t j = s.members[p].entry % n, i = j + base;
        if (!s.joins[j]) return;
        for (bool coming : {true, false}) {
            int32_t behind = -1;
            T rear_gap = T(0);
            for (int64_t q = p + 1; q < count && s.members[q].lane == s.members[p].lane; ++q) {
                const int64_t other = s.members[q].entry % n;
                if (s.members[q].entry / n == 1 && !(coming && s.able[other] && s.joins[other] && goes_first(s.way[other])))
                    continue;
                behind = int32_t(other + base);
                rear_gap = s.members[q].to_go - s.members[p].to_go - size(i);
                break;
            }
            if (!gap_is_safe(i, behind, rear_gap)) s.granted[j] = 0;
        }
    }

    bool goes_first(int32_t way) const {
        if (!setup.merges[way]) return false;
        for (int64_t f = 0; f < setup.foes; ++f) {
            const Foe one = foe(way, f);
            if (one.lane < 0) break;
            if (one.kind == MERGE && !(setup.rank[one.lane] < setup.rank[way])) return false;
        }
        return true;
    }

    bool gap_is_safe(int64_t i, int32_t behind, T rear_gap) const {
        const int32_t leader = out.follows[i] & 2 ? out.leader[1][i] : -1;
        const T gap = leader >= 0 ? out.leader_gap[1][i] : infinite, hardest = -T(setup.safe_deceleration);
        const T own = acceleration(i, leader >= 0 ? gap : infinite, leader >= 0 ? v(i) - v(leader) : T(0));
        if (leader >= 0 && !(gap > T(0.5))) return false;
        if (!(own >= hardest)) return false;
        if (behind < 0) return true;
        return rear_gap > T(0.5) && acceleration(behind, rear_gap, v(behind) - v(i)) >= hardest;
    }

    // The next body ahead on a way that parts from the own one and is not clear of it yet.
    STAGE void part() {
        bool any = false;
        for (int64_t i = base; i < base + n; ++i) {
            int32_t current;
            T begin;
            if (!parting_way(i, current, begin)) continue;
            if (!any) list_bodies();
            any = true;
            T nearest = infinite;
            for (int64_t f = 0; f < setup.foes; ++f) {
                const Foe one = foe(current, f);
                if (one.lane < 0) break;
                if (one.kind != DIVERGE) continue;
                const int32_t entry = body_beyond(one.lane, -begin);
                if (entry < 0) continue;
                const int64_t slot = entry % n + base;
                const T rear = front_of(entry) - size(slot);
                if (slot == i || !(rear < one.exit) || !(begin + rear < nearest)) continue;
                nearest = begin + rear;
                out.follows[i] |= uint8_t(1 << ROUNDS);
                out.leader[ROUNDS][i] = int32_t(slot);
                out.leader_gap[ROUNDS][i] = nearest;
            }
        }
    }

    bool parting_way(int64_t i, int32_t &current, T &begin) const {
        if (!w.present[i]) return false;
        const int32_t here = lane(i);
        if (s.inside[i - base] || s.waits[i - base]) {
            current = here;
            begin = -x(i);
        } else {
            current = ways.lane_after(here, w.ahead.row[i]);
            begin = length(here) - x(i);
            if (current < 0) return false;
        }
        return setup.parts[current] != 0;
    }

    // Entries: slot, and slots + slot for the part of a body on the lane that the front has left.
    void list_bodies() {
        for (int64_t a = 0; a < setup.lanes; ++a) s.body_head[a] = -1;
        const auto put = [&](int32_t a, int64_t entry) {
            s.body_next[entry] = s.body_head[a];
            s.body_head[a] = int32_t(entry);
        };
        const auto matters = [&](int32_t a) { return setup.parts[a] != 0; };  // ways part from each other
        for (int64_t j = n - 1; j >= 0; --j)
            if (w.present[j + base] && ways.covers_previous(j + base) && matters(w.cars.previous[j + base]))
                put(w.cars.previous[j + base], n + j);
        for (int64_t j = n - 1; j >= 0; --j)
            if (w.present[j + base] && matters(lane(j + base))) put(lane(j + base), j);
    }

    T front_of(int32_t entry) const {
        const int64_t i = entry % n + base;
        return entry < n ? x(i) : length(w.cars.previous[i]) + x(i);
    }

    int32_t body_beyond(int32_t a, T place) const {
        int32_t found = -1;
        for (int32_t entry = s.body_head[a]; entry >= 0; entry = s.body_next[entry])
            if (front_of(entry) > place && (found < 0 || front_of(entry) < front_of(found))) found = entry;
        return found;
    }

    void conclude(int64_t i) {
        const int64_t j = i - base;
        const bool granted = s.granted[j];
        int32_t last_kept = s.number[j] ? gate(s.number[j] - 1, i) : -1;
        if (last_kept < 0 && s.inside[j] && real(setup.waits_at)[lane(i)] > T(0)) last_kept = lane(i);
        out.right_of_way[i] = granted ? s.way[j] : last_kept;
        out.enters[i] = (s.waits[j] || s.could_wait[j]) && !granted;
        out.closed[i] = s.approaches[j] && !granted && !out.enters[i] && (s.near[j] || !s.is_open[j]);
        const int g = s.number[j] < GATES ? s.number[j] : GATES - 1;
        out.gate[i] = w.ahead.gate[g][i];
        out.gate_distance[i] = w.ahead.gate_offset[g][i] - x(i);
    }
};

}  // namespace
}  // namespace TG_VARIANT

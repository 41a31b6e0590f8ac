// Leaders and followers in the own, left and right lane, along roads that only go on: trafficgrad/neighbors.py in one
// sweep forwards and one backwards over the vehicles in the order (edge, position, slot).
#pragma once
#include <algorithm>
#include <limits>
#include <type_traits>

#include "abi.h"
#include "memory.h"

namespace TG_VARIANT {
namespace {

enum Side : int { RIGHT = 0, OWN = 1, LEFT = 2 };

// Who surrounds whom; slots, -1 = nobody. Gaps are infinite towards nobody.
template <class T> struct Around {
    int32_t *leader[3], *follower[3];
    T *gap[3], *follower_gap[3];
};

template <class T> struct Place {
    T position;
    int32_t slot;
    bool operator<(const Place &other) const {
        return position < other.position || (position == other.position && slot < other.slot);
    }
};

// Somebody met on the way along an edge; infinitely far where there is nobody.
template <class T> struct Met {
    T position, offset, length;  // of the road between, to be added to the difference of the positions; of the body
    int32_t slot;                // of the group, -1 = nobody
};

// What of the surroundings is wanted: followers, and who is in the lanes to the right and to the left.
struct Wanted {
    bool follower, right, left;
};

// Buffers of a search.
template <class T> struct Search {
    Place<T> *sorted;           // [N]
    int32_t *begin;             // [edges + 1]
    int32_t *first, *last;      // [A] slot of the first and the last vehicle of every lane, -1 = none
    int32_t *next;              // [edges] while sorting
    Met<T> *met;                // [max_lanes + 2] in each lane of an edge, so far

    void reserve(const Setup &setup, int64_t vehicles, Pieces &pieces) {
        sorted = pieces.take<Place<T>>(vehicles);
        begin = pieces.take<int32_t>(setup.edges + 1);
        next = pieces.take<int32_t>(setup.edges);
        first = pieces.take<int32_t>(setup.lanes);
        last = pieces.take<int32_t>(setup.lanes);
        met = pieces.take<Met<T>>(setup.max_lanes + 2);
    }
};

// Insertion sort, which repairs the order of the step before in next to no time; a real sort where it does not.
template <class T> void repair(Place<T> *places, int64_t count) {
    int64_t budget = 8 * count + 64;
    for (int64_t i = 1; i < count; ++i) {
        const Place<T> one = places[i];
        int64_t j = i;
        while (j > 0 && one < places[j - 1]) {
            places[j] = places[j - 1];
            --j;
        }
        places[j] = one;
        budget -= i - j;
        if (budget < 0) {
            std::sort(places, places + count);
            return;
        }
    }
}

// A place to sort by, also where a position is no number.
template <class T> inline Place<T> place_of(T position, int32_t slot) {
    return {position == position ? position : std::numeric_limits<T>::infinity(), slot};
}

// Sorts who is on the road, and leaves the new order as a hint for the next step.
template <class T>
STAGE void put_in_order(
    const Setup &setup, int64_t n, const T *position, const int32_t *lane, const int32_t *present, int32_t *order,
    Search<T> &s
) {
    if (setup.edges == 1) {
        int64_t count = 0;
        for (int64_t r = 0; r < n; ++r) {
            const int32_t i = order[r];
            s.sorted[count] = place_of(position[i], i);
            count += present[i] != 0;
        }
        s.begin[0] = 0;
        s.begin[1] = int32_t(count);
    } else {
        for (int64_t e = 0; e <= setup.edges; ++e) s.begin[e] = 0;
        for (int64_t i = 0; i < n; ++i)
            if (present[i]) ++s.begin[setup.edge[lane[i]] + 1];
        for (int64_t e = 0; e < setup.edges; ++e) {
            s.begin[e + 1] += s.begin[e];
            s.next[e] = s.begin[e];
        }
        for (int64_t r = 0; r < n; ++r) {
            const int32_t i = order[r];
            if (present[i]) s.sorted[s.next[setup.edge[lane[i]]]++] = place_of(position[i], i);
        }
    }
    for (int64_t e = 0; e < setup.edges; ++e) repair(s.sorted + s.begin[e], s.begin[e + 1] - s.begin[e]);
    const int64_t count = s.begin[setup.edges];
    for (int64_t r = 0; r < count; ++r) order[r] = s.sorted[r].slot;
    if (count < n) {
        int64_t r = count;
        for (int64_t i = 0; i < n; ++i)
            if (!present[i]) order[r++] = int32_t(i);
    }
}

// The road passed when the vehicle found is `count` lanes on, summed as the reference sums it: from powers of two.
template <class T>
T passed_lanes(const Setup &setup, const int32_t *to, const T *passed, int32_t lane, int64_t count, bool forward) {
    if (count <= 1) return forward ? T(0) : passed[lane];
    int64_t level = 0;
    while ((int64_t(2) << level) < count) ++level;
    const int64_t at = level * setup.lanes + lane;
    return passed[at] + passed_lanes(setup, to, passed, to[at], count - (int64_t(1) << level), forward);
}

// First vehicle beyond the end of a lane, looking as far as it takes, and the road up to its lane's beginning from ours.
template <class T> inline int32_t look_ahead(const Setup &setup, const Search<T> &s, int32_t lane, T &offset) {
    int32_t at = setup.ahead[lane];
    for (int64_t k = 1; k <= setup.lanes && at >= 0; ++k, at = setup.ahead[at]) {
        if (s.first[at] < 0) continue;
        offset = static_cast<const T *>(setup.length)[lane] +
                 passed_lanes(setup, setup.ahead, static_cast<const T *>(setup.ahead_passed), lane, k, true);
        return s.first[at];
    }
    offset = 0;
    return -1;
}

// The same backwards, from our lane's beginning.
template <class T> inline int32_t look_back(const Setup &setup, const Search<T> &s, int32_t lane, T &offset) {
    int32_t at = setup.behind[lane];
    for (int64_t k = 1; k <= setup.lanes && at >= 0; ++k, at = setup.behind[at]) {
        if (s.last[at] < 0) continue;
        offset = passed_lanes(setup, setup.behind, static_cast<const T *>(setup.behind_passed), lane, k, false);
        return s.last[at];
    }
    offset = 0;
    return -1;
}

// First and last vehicle of every lane; each edge is searched only as far as it takes.
template <class T> void find_ends(const Setup &setup, const int32_t *lane, bool sides, Search<T> &s) {
    for (int64_t a = 0; a < setup.lanes; ++a) s.first[a] = s.last[a] = -1;
    for (int64_t e = 0; e < setup.edges; ++e) {
        int32_t missing = setup.edge_lanes[e];
        for (int64_t r = s.begin[e]; r < s.begin[e + 1] && missing; ++r) {
            int32_t &first = s.first[lane[s.sorted[r].slot]];
            if (first >= 0) continue;
            first = s.sorted[r].slot;
            --missing;
        }
        if (!sides) continue;
        missing = setup.edge_lanes[e];
        for (int64_t r = s.begin[e + 1] - 1; r >= s.begin[e] && missing; --r) {
            int32_t &last = s.last[lane[s.sorted[r].slot]];
            if (last >= 0) continue;
            last = s.sorted[r].slot;
            --missing;
        }
    }
}

// Nobody around the slots from `begin` to `end`.
template <class T> void clear(const Around<T> &around, int64_t begin, int64_t end, Wanted wanted) {
    constexpr T infinite = std::numeric_limits<T>::infinity();
    for (int k = 0; k < 3; ++k) {
        if ((k == RIGHT && !wanted.right) || (k == LEFT && !wanted.left)) continue;
        for (int64_t i = begin; i < end; ++i) {
            around.leader[k][i] = -1;
            around.gap[k][i] = infinite;
            if (k == OWN && !wanted.follower) continue;
            around.follower[k][i] = -1;
            around.follower_gap[k][i] = infinite;
        }
    }
}

template <class T> inline Met<T> nobody() { return {std::numeric_limits<T>::infinity(), T(0), T(0), -1}; }

// One edge: forwards for who is ahead, backwards for who is behind.
template <bool FOLLOWER, bool TO_THE_RIGHT, bool TO_THE_LEFT, class T, class MetThere>
inline void sweep_edge(
    const Setup &setup, int64_t e, int32_t base, const T *__restrict position, const T *__restrict length,
    const int32_t *__restrict lane, const Search<T> &s, const Around<T> &around, MetThere met_there
) {
    const int64_t begin = s.begin[e], end = s.begin[e + 1];
    if (begin == end) return;
    const int32_t lanes = setup.edge_lanes[e], right = setup.first_lane[e];
    const Place<T> *__restrict sorted = s.sorted;
    Met<T> *met = s.met + 1;
    const Around<T> to = around;
    met[-1] = met[lanes] = nobody<T>();
    for (int32_t k = 0; k < lanes; ++k) {
        T offset;
        const int32_t slot = look_ahead(setup, s, right + k, offset);
        met[k] = met_there(slot, offset);
    }
    for (int64_t r = end - 1; r >= begin; --r) {
        const int32_t slot = sorted[r].slot, i = slot + base, k = lane[slot] - right;
        const T x = position[slot];
        const auto write = [&](int side, const Met<T> &one) {
            to.leader[side][i] = one.slot;
            to.gap[side][i] = one.position - x + one.offset - one.length;
        };
        write(OWN, met[k].slot == i ? nobody<T>() : met[k]);
        if (TO_THE_RIGHT) write(RIGHT, met[k - 1]);
        if (TO_THE_LEFT) write(LEFT, met[k + 1]);
        met[k] = {x, T(0), length[slot], i};
    }
    if (!FOLLOWER && !TO_THE_RIGHT && !TO_THE_LEFT) return;
    for (int32_t k = 0; k < lanes; ++k) {
        T offset;
        const int32_t slot = look_back(setup, s, right + k, offset);
        met[k] = met_there(slot, offset);
        if (slot < 0) met[k].position = -met[k].position;
    }
    met[-1].position = met[lanes].position = -std::numeric_limits<T>::infinity();
    for (int64_t r = begin; r < end; ++r) {
        const int32_t slot = sorted[r].slot, i = slot + base, k = lane[slot] - right;
        const T x = position[slot], size = length[slot];
        const auto write = [&](int side, const Met<T> &one) {
            to.follower[side][i] = one.slot;
            to.follower_gap[side][i] = x - one.position + one.offset - size;
        };
        if (FOLLOWER) {
            const bool itself = met[k].slot == i;
            to.follower[OWN][i] = itself ? -1 : met[k].slot;
            to.follower_gap[OWN][i] =
                itself ? std::numeric_limits<T>::infinity() : x - met[k].position + met[k].offset - size;
        }
        if (TO_THE_RIGHT) write(RIGHT, met[k - 1]);
        if (TO_THE_LEFT) write(LEFT, met[k + 1]);
        met[k] = {x, T(0), size, i};
    }
}

// The same as find_around() for leaders alone on a road of one lane, where everybody is on it and still in order. False
// where it is not so: then what was filled in means nothing.
template <class T>
inline bool follow_in_order(
    const Setup &setup, int64_t n, int32_t base, const T *position, const T *length, const int32_t *present,
    const int32_t *order, Search<T> &s, const Around<T> &around
) {
    int32_t *leader = around.leader[OWN] + base, ok = present[order[0]] != 0;
    T *gap = around.gap[OWN] + base;
    int32_t slot = order[0];
    T x = position[slot];
    for (int64_t r = 1; r < n; ++r) {
        const int32_t next = order[r];
        const T y = position[next];
        ok &= int32_t(x < y) & int32_t(present[next] != 0);
        leader[slot] = next + base;
        gap[slot] = y - x - length[next];
        slot = next;
        x = y;
    }
    if (!ok || !(x < std::numeric_limits<T>::infinity())) return false;
    s.first[0] = order[0];
    T offset;
    const int32_t first = n > 1 ? look_ahead(setup, s, 0, offset) : -1;
    leader[slot] = first < 0 ? -1 : first + base;
    gap[slot] = first < 0 ? std::numeric_limits<T>::infinity() : position[first] - x + offset - length[first];
    return true;
}

// Fills in who is around each vehicle of one world, whose first slot in the group is `base`.
template <class T>
STAGE void find_around(
    const Setup &setup, int64_t n, int32_t base, const T *position, const T *length, const int32_t *lane,
    const int32_t *present, int32_t *order, Wanted wanted, Search<T> &s, const Around<T> &around
) {
    if (setup.lanes == 1 && !wanted.follower &&
        follow_in_order(setup, n, base, position, length, present, order, s, around))
        return;
    put_in_order(setup, n, position, lane, present, order, s);
    if (s.begin[setup.edges] < n) clear(around, base, base + n, wanted);
    find_ends(setup, lane, wanted.follower || wanted.right || wanted.left, s);
    const auto met_there = [&](int32_t slot, T offset) {
        return slot < 0 ? nobody<T>() : Met<T>{position[slot], offset, length[slot], slot + base};
    };
    const auto sweep = [&](auto follower, auto to_the_right, auto to_the_left) {
        for (int64_t e = 0; e < setup.edges; ++e)
            sweep_edge<follower.value, to_the_right.value, to_the_left.value>(
                setup, e, base, position, length, lane, s, around, met_there);
    };
    // Built for what steps want.
    constexpr std::true_type yes;
    constexpr std::false_type no;
    if (wanted.follower) wanted.right || wanted.left ? sweep(yes, yes, yes) : sweep(yes, no, no);
    else if (wanted.right) wanted.left ? sweep(no, yes, yes) : sweep(no, yes, no);
    else wanted.left ? sweep(no, no, yes) : sweep(no, no, no);
}

}  // namespace
}  // namespace TG_VARIANT

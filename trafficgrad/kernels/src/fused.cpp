// What the outside sees: picks the build for this CPU and spreads worlds over threads.
#include <cstring>

#include "abi.h"
#include "threads.h"
#include "variant.h"

#define TG_VARIANT shared
#include "following.h"
#include "memory.h"

namespace generic { extern const Variant variant; }
#ifdef TG_X86
namespace avx2 { extern const Variant variant; }
namespace avx512 { extern const Variant variant; }
#endif

namespace {

// Builds that this CPU can run, the fastest first.
int64_t usable(const Variant *found[3]) {
    int64_t count = 0;
#ifdef TG_X86
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        found[count++] = &avx512::variant;
    if (has_avx2) found[count++] = &avx2::variant;
#endif
    found[count++] = &generic::variant;
    return count;
}

std::atomic<const Variant *> chosen{nullptr};

const Variant &variant() {
    const Variant *known = chosen.load(std::memory_order_relaxed);
    if (!known) {
        const Variant *found[3];
        usable(found);
        chosen = known = found[0];
    }
    return *known;
}

// Vehicle-steps that are worth waking a thread for.
constexpr int64_t WORTHWHILE = 4000;

// Calls work(first, last, memory) for parts of the worlds, on several threads where that is worth it.
template <class Work> void over_worlds(const Call &call, int64_t bytes, Work work) {
    const int64_t amount = call.worlds * call.vehicles * call.steps;
    const int64_t side_by_side = variant().group_size(call.vehicles);
    const int64_t groups = (call.worlds + side_by_side - 1) / side_by_side;
    int64_t parts = call.threads;
    if (parts > amount / WORTHWHILE) parts = amount / WORTHWHILE;
    if (parts > groups) parts = groups;
    if (parts < 1) parts = 1;
    share_out(parts, [&](int64_t part) {
        thread_local shared::Arena arena;
        char *memory = arena.reserve(bytes);
        if (!memory) {
            call.failed[0] = MEMORY;
            return;
        }
        const int64_t first = groups * part / parts * side_by_side, end = groups * (part + 1) / parts * side_by_side;
        work(first, end < call.worlds ? end : call.worlds, memory);
    });
}

void run(const Setup &setup, const Call &call, const Outcome *outcome, bool backward, bool real64) {
    const Variant &v = variant();
    over_worlds(call, v.working_bytes(setup, call, backward, real64), [&](int64_t first, int64_t last, char *memory) {
        (backward ? v.backward : v.forward)(setup, call, outcome, real64, first, last, memory);
    });
}

void look(const Setup &setup, const Call &call, const Sight &sight, bool real64) {
    const Variant &v = variant();
    over_worlds(call, v.working_bytes(setup, call, false, real64), [&](int64_t first, int64_t last, char *memory) {
        v.look(setup, call, sight, real64, first, last, memory);
    });
}

void look_back(const Call &call, const Sight &sight, bool real64) {
    over_worlds(call, 0, [&](int64_t first, int64_t last, char *) {
        variant().look_back(call, sight, real64, first, last);
    });
}

}  // namespace

void trafficgrad_sizes(int64_t *sizes) {
    sizes[0] = sizeof(Setup);
    sizes[1] = sizeof(Call);
    sizes[2] = sizeof(Sight);
    sizes[3] = sizeof(Wish);
    sizes[4] = sizeof(Outcome);
    sizes[5] = sizeof(Following);
}

const char *trafficgrad_variant(void) { return variant().name; }

int64_t trafficgrad_use(const char *name) {
    const Variant *found[3];
    const int64_t count = usable(found);
    for (int64_t k = 0; k < count; ++k)
        if (!std::strcmp(found[k]->name, name)) {
            chosen = found[k];
            return 1;
        }
    return 0;
}

int64_t trafficgrad_saved_bytes(
    const Setup *setup, int64_t worlds, int64_t vehicles, int64_t keeps_sides, int64_t real_bytes
) {
    return variant().saved_bytes(*setup, worlds, vehicles, keeps_sides != 0, real_bytes == 8);
}

void trafficgrad_forward_float(const Setup *setup, const Call *call, const Outcome *outcome) {
    run(*setup, *call, outcome, false, false);
}
void trafficgrad_forward_double(const Setup *setup, const Call *call, const Outcome *outcome) {
    run(*setup, *call, outcome, false, true);
}
void trafficgrad_backward_float(const Setup *setup, const Call *call, const Outcome *outcome) {
    run(*setup, *call, outcome, true, false);
}
void trafficgrad_backward_double(const Setup *setup, const Call *call, const Outcome *outcome) {
    run(*setup, *call, outcome, true, true);
}
void trafficgrad_look_float(const Setup *setup, const Call *call, const Sight *sight) { look(*setup, *call, *sight, false); }
void trafficgrad_look_double(const Setup *setup, const Call *call, const Sight *sight) { look(*setup, *call, *sight, true); }
void trafficgrad_look_back_float(const Call *call, const Sight *sight) { look_back(*call, *sight, false); }
void trafficgrad_look_back_double(const Call *call, const Sight *sight) { look_back(*call, *sight, true); }
void trafficgrad_follow(const Following *following) { shared::follow_all(*following); }

// The entry points of one build of the kernel; there is one build for each kind of CPU.
#pragma once
#include "abi.h"

struct Variant {
    const char *name;
    int64_t (*group_size)(int64_t vehicles);  // worlds that are computed side by side
    int64_t (*working_bytes)(const Setup &, const Call &, bool backward, bool real64);
    int64_t (*saved_bytes)(const Setup &, int64_t worlds, int64_t vehicles, bool keeps_sides, bool real64);
    void (*look)(const Setup &, const Call &, const Sight &, bool real64, int64_t first, int64_t last, char *memory);
    void (*look_back)(const Call &, const Sight &, bool real64, int64_t first, int64_t last);
    void (*forward)(
        const Setup &, const Call &, const Outcome *, bool real64, int64_t first, int64_t last, char *memory);
    void (*backward)(
        const Setup &, const Call &, const Outcome *, bool real64, int64_t first, int64_t last, char *memory);
};

// One build of the kernel. TG_VARIANT names it; the compiler's flags say for which CPUs it is.
#include "variant.h"

#include "backward.h"
#include "looking.h"

namespace TG_VARIANT {
namespace {

template <class T> int64_t working_bytes_of(const Setup &setup, const Call &call, bool backward) {
    World<T> world;
    Pieces count{nullptr};
    const int64_t worlds = group_size(call.vehicles);
    world.reserve(setup, worlds * call.vehicles, worlds, setup.max_lanes > 1, backward, count);
    return count.used;
}

int64_t working_bytes(const Setup &setup, const Call &call, bool backward, bool real64) {
    return real64 ? working_bytes_of<double>(setup, call, backward) : working_bytes_of<float>(setup, call, backward);
}

template <class T> int64_t saved_bytes_of(const Setup &setup, int64_t worlds, int64_t vehicles, bool keeps_sides) {
    const int64_t side_by_side = group_size(vehicles);
    Trace<T> trace;
    Pieces count{nullptr};
    trace.reserve(
        side_by_side * vehicles, keeps_sides, setup.branched != 0, side_by_side * setup.inflows, count);
    return (worlds + side_by_side - 1) / side_by_side * count.used;
}

int64_t saved_bytes(const Setup &setup, int64_t worlds, int64_t vehicles, bool keeps_sides, bool real64) {
    return real64 ? saved_bytes_of<double>(setup, worlds, vehicles, keeps_sides)
                  : saved_bytes_of<float>(setup, worlds, vehicles, keeps_sides);
}

template <class Stage, class T> void over(Task<T> &task, const Outcome *outcome, int64_t first, int64_t last) {
    Stage stage(task, outcome);
    const int64_t side_by_side = group_size(task.vehicles);
    for (int64_t b = first; b < last; b += side_by_side) stage.run(b, std::min(side_by_side, last - b));
}

template <class T, bool FOUR, bool PAPER>
void run_as(Task<T> &task, const Outcome *outcome, bool backward, int64_t first, int64_t last) {
    if (!backward) return over<Forward<T, FOUR, PAPER>>(task, outcome, first, last);
    bool parameters = task.branched;  // desired speeds there depend on places, through the limits ahead
    for (const void *bar : task.call.bar_value) parameters |= bar != nullptr;
    if (parameters)
        over<Backward<T, FOUR, PAPER, true>>(task, outcome, first, last);
    else
        over<Backward<T, FOUR, PAPER, false>>(task, outcome, first, last);
}

template <class T>
void run(
    const Setup &setup, const Call &call, const Outcome *outcome, bool backward, int64_t first, int64_t last, char *memory
) {
    World<T> world;
    Pieces pieces{memory};
    const int64_t worlds = group_size(call.vehicles);
    world.reserve(setup, worlds * call.vehicles, worlds, setup.max_lanes > 1, backward, pieces);
    Task<T> task(setup, call, world);
    const bool four = setup.fourth_power != 0, paper = setup.paper_gap != 0;
    if (four && paper) run_as<T, true, true>(task, outcome, backward, first, last);
    else if (four) run_as<T, true, false>(task, outcome, backward, first, last);
    else if (paper) run_as<T, false, true>(task, outcome, backward, first, last);
    else run_as<T, false, false>(task, outcome, backward, first, last);
}

void forward(
    const Setup &setup, const Call &call, const Outcome *outcome, bool real64, int64_t first, int64_t last, char *memory
) {
    real64 ? run<double>(setup, call, outcome, false, first, last, memory)
           : run<float>(setup, call, outcome, false, first, last, memory);
}

void backward(
    const Setup &setup, const Call &call, const Outcome *outcome, bool real64, int64_t first, int64_t last, char *memory
) {
    real64 ? run<double>(setup, call, outcome, true, first, last, memory)
           : run<float>(setup, call, outcome, true, first, last, memory);
}

template <class T>
void look_as(const Setup &setup, const Call &call, const Sight &sight, int64_t first, int64_t last, char *memory) {
    World<T> world;
    Pieces pieces{memory};
    const int64_t side_by_side = group_size(call.vehicles);
    world.reserve(setup, side_by_side * call.vehicles, side_by_side, setup.max_lanes > 1, false, pieces);
    Task<T> task(setup, call, world);
    Looking<T> looking(task, sight);
    for (int64_t b = first; b < last; b += side_by_side) looking.run(b, std::min(side_by_side, last - b));
}

void look(
    const Setup &setup, const Call &call, const Sight &sight, bool real64, int64_t first, int64_t last, char *memory
) {
    real64 ? look_as<double>(setup, call, sight, first, last, memory)
           : look_as<float>(setup, call, sight, first, last, memory);
}

void look_back(const Call &call, const Sight &sight, bool real64, int64_t first, int64_t last) {
    real64 ? Looking<double>::pull(call, sight, first, last) : Looking<float>::pull(call, sight, first, last);
}

}  // namespace

extern const Variant variant;
const Variant variant{TG_VARIANT_NAME, group_size, working_bytes, saved_bytes, look, look_back, forward, backward};

}  // namespace TG_VARIANT

// Working memory of one thread: a block that grows when it must and is handed out piece by piece, never per step.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

// Stages stay functions of their own, so that a profiler can tell them apart.
#if defined(_MSC_VER)
#define STAGE __declspec(noinline)
#else
#define STAGE __attribute__((noinline))
#endif

namespace TG_VARIANT {
namespace {

constexpr int64_t ALIGNMENT = 64;

// Loops over vehicles run over whole vectors: so many places every array has, the last ones belong to nobody.
template <class T> constexpr int64_t PER_LINE = ALIGNMENT / int64_t(sizeof(T));
template <class T> inline int64_t whole_lines(int64_t n) { return (n + PER_LINE<T> - 1) / PER_LINE<T> * PER_LINE<T>; }

inline int64_t padded(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Hands out pieces of a block; with a null block it only counts how large the block must be.
struct Pieces {
    char *block;
    int64_t used = 0;

    template <class X> X *take(int64_t count) {
        char *at = block ? block + used : nullptr;
        used += padded(count * int64_t(sizeof(X)));
        return reinterpret_cast<X *>(at);
    }
};

struct Arena {
    char *raw = nullptr;
    int64_t size = 0;

    ~Arena() { std::free(raw); }

    // At least `bytes`, aligned; null where there is no memory. What was there before is lost.
    char *reserve(int64_t bytes) {
        if (bytes + ALIGNMENT > size) {
            std::free(raw);
            size = bytes + ALIGNMENT;
            raw = static_cast<char *>(std::malloc(size_t(size)));
            if (!raw) {
                size = 0;
                return nullptr;
            }
        }
        return raw + (ALIGNMENT - reinterpret_cast<uintptr_t>(raw) % ALIGNMENT) % ALIGNMENT;
    }
};

}  // namespace
}  // namespace TG_VARIANT

// Memory of large pages, since a lookup goes anywhere in it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace unhot {

constexpr uint64_t kPageBytes = 2 << 20;

struct Freed {
    void operator()(void* memory) const noexcept { std::free(memory); }
};

template <typename T>
using Memory = std::unique_ptr<T[], Freed>;

// Memory for numbers, not set; for large pages, if so asked, which takes a multiple of their size.
template <typename T>
Memory<T> memory_for(uint64_t count, bool large) {
    const uint64_t line = 64, bytes = (count * sizeof(T) + line - 1) / line * line;
    void* made = std::aligned_alloc(large ? kPageBytes : line, bytes);
    if (!made) throw std::bad_alloc();
#if defined(__linux__)
    if (large) madvise(made, bytes, MADV_HUGEPAGE);
#endif
    return Memory<T>(static_cast<T*>(made));
}

}  // namespace unhot

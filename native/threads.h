// A small pool of threads: none is started before it is needed, and a forked child begins without.
#pragma once

#include <cstdint>
#include <functional>

namespace unhot {

// The number of threads used at most, the caller's included.
int threads();
void set_threads(int count);

// Calls body(begin, end) for ranges that cover [0, items), on several threads where `bytes` of work outweigh waking them.
// The ranges depend on neither timing nor the number of threads in a way that a body for single items could see.
void parallel(int64_t items, int64_t bytes, const std::function<void(int64_t, int64_t)>& body);

}  // namespace unhot

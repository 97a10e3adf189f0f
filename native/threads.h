// A small pool of threads: none is started before it is needed, and a forked child begins without.
#pragma once

#include <cstdint>
#include <functional>

namespace unhot {

// The number of threads used at most, the caller's included.
int threads();
void set_threads(int count);

// The entry of an OpenMP library for a parallel region: calls function(data) in each thread of its team, the caller's included.
using Region = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);

// From now on, work of the calling thread is done by the OpenMP team of a framework in the same process, or none.
void join_openmp(Region region);

// Calls body(begin, end) for ranges that cover [0, items), on several threads where `bytes` of work outweigh waking them.
// The ranges depend on neither timing nor the number of threads in a way that a body for single items could see.
void parallel(int64_t items, int64_t bytes, const std::function<void(int64_t, int64_t)>& body);

}  // namespace unhot

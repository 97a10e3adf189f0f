// The loops over rows, compiled once for each instruction set: UNHOT_ISA names the namespace and CMake gives the flags.

#include <cstring>
#include <limits>
#include <vector>

#include "job.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace unhot::UNHOT_ISA {

namespace {

#include "elements.h"
#include "panels.h"
#include "crossing.h"
#include "generated/laws.h"

constexpr int64_t kLine = 64;
constexpr int64_t kPrefetchLimit = 512;  // bytes of a row; beyond, the processor's own prefetcher has caught on

// Rows prefetched ahead: a miss takes about as long as copying this many of dim 64.  Where rows are computed, their arrays and
// gradients are more lines each, and the processor has room for few misses at once: asked for more, it drops them, or holds up
// the computation (docs/performance.md).
constexpr int64_t kAhead = 16, kAheadOfComputation = 3;

inline void prefetch(const void* row, int64_t bytes) {
    const char* p = static_cast<const char*>(row);
    for (int64_t at = 0; at < (bytes < kPrefetchLimit ? bytes : kPrefetchLimit); at += kLine) __builtin_prefetch(p + at);
}

// Calls f(k) for the rows [begin, end) of a job, ahead of which are fetched the arrays in `looked` (bits), and the steps of the
// last touches and the gradients if the job has them.
template <typename T, typename F>
inline void for_rows(const Job<T>& job, unsigned looked, int64_t begin, int64_t end, F f) {
    const int64_t bytes = job.dim * static_cast<int64_t>(sizeof(T));
    for (int64_t k = begin; k < end; ++k) {
        const int64_t next = k + kAheadOfComputation;
        if (next < end) {
            const int64_t at = job.rows[next] * job.dim;
            for (int a = 0; a < job.arrays; ++a)
                if (looked >> a & 1) prefetch(job.state[a] + at, bytes);
            if (job.last) __builtin_prefetch(job.last + job.rows[next]);
            if (job.gradients) {
                const int64_t first = job.starts[next], most = first + kAhead, stop = job.starts[next + 1];
                for (int64_t i = first; i < (most < stop ? most : stop); ++i)
                    prefetch(job.gradients + job.order[i] * job.dim, bytes);
            }
        }
        f(k);
    }
}

// The coefficients of row k.
template <typename Law, typename T>
inline const typename Law::Line* line(const Job<T>& job, int64_t k) {
    return static_cast<const typename Law::Line*>(job.coefficients) + job.which[k] * job.width;
}

template <typename T>
inline void row_state(const Job<T>& job, int64_t row, T** state) {
    for (int a = 0; a < job.arrays; ++a) state[a] = job.state[a] + row * job.dim;
}

template <typename T>
void gather_settled(const Job<T>& job, int64_t begin, int64_t end) {
    const size_t bytes = static_cast<size_t>(job.dim) * sizeof(T);
    with_law<T>(job.rule.law, [&]<typename Law>() {
        for_rows(job, Law::kLooked, begin, end, [&](int64_t k) {
            T* state[kMostArrays];
            row_state(job, job.rows[k], state);
            T* first = job.out + job.order[job.starts[k]] * job.dim;
            if (job.which[k] >= 0)
                Law::with_settle(job.rule, line<Law>(job, k),
                                 [&](const auto& settle) { settle_into<Law>(settle, state, first, job.dim); });
            else
                std::memcpy(first, state[0], bytes);
            for (int64_t i = job.starts[k] + 1; i < job.starts[k + 1]; ++i)
                std::memcpy(job.out + job.order[i] * job.dim, first, bytes);
        });
    });
}

template <typename T>
void settle(const Job<T>& job, int64_t begin, int64_t end) {
    with_law<T>(job.rule.law, [&]<typename Law>() {
        for_rows(job, kAllArrays, begin, end, [&](int64_t k) {
            T* state[kMostArrays];
            row_state(job, job.rows[k], state);
            if (job.which[k] >= 0)
                Law::with_settle(job.rule, line<Law>(job, k),
                                 [&](const auto& settler) { settle_in_place<Law>(settler, state, job.dim); });
            job.last[job.rows[k]] = job.now;
        });
    });
}

// The sum of row k's gradients: the gradient itself if there is one, else summed in double in the order of the ids.
template <typename T>
inline const T* row_gradient(const Job<T>& job, int64_t k, double* sum, T* rounded) {
    const int64_t first = job.starts[k], stop = job.starts[k + 1], bytes = job.dim * static_cast<int64_t>(sizeof(T));
    const T* g = job.gradients + job.order[first] * job.dim;
    if (stop - first == 1) return g;
    for (int64_t i = 0; i < job.dim; ++i) sum[i] = static_cast<double>(g[i]);
    for (int64_t at = first + 1; at < stop; ++at) {
        if (at + kAhead < stop) prefetch(job.gradients + job.order[at + kAhead] * job.dim, bytes);
        const T* next = job.gradients + job.order[at] * job.dim;
        for (int64_t i = 0; i < job.dim; ++i) sum[i] += static_cast<double>(next[i]);
    }
    for (int64_t i = 0; i < job.dim; ++i) rounded[i] = static_cast<T>(sum[i]);
    return rounded;
}

template <typename T>
void step(const Job<T>& job, int64_t begin, int64_t end) {
    static thread_local std::vector<double> sum;
    static thread_local std::vector<T> rounded;
    sum.resize(static_cast<size_t>(job.dim));
    rounded.resize(static_cast<size_t>(job.dim));
    double* sums = sum.data();
    T* roundeds = rounded.data();
    with_law<T>(job.rule.law, [&]<typename Law>() {
        const typename Law::Update update(job.scalars, job.rule.parameters);
        for_rows(job, kAllArrays, begin, end, [&](int64_t k) {
            T* state[kMostArrays];
            row_state(job, job.rows[k], state);
            const T* g = row_gradient(job, k, sums, roundeds);
            if (job.which && job.which[k] >= 0)
                Law::with_settle(job.rule, line<Law>(job, k),
                                 [&](const auto& settle) { settle_and_update<Law>(settle, update, state, g, job.dim); });
            else
                update_in_place<Law>(update, state, g, job.dim);
            if (job.last) job.last[job.rows[k]] = job.now;
        });
    });
}

// Copies around the caches.  `to` and `bytes` are multiples of 16; pieces of 32 bytes make full use of the write combining.
#if defined(__SSE2__)
inline void stream_row(char* to, const char* from, int64_t bytes) {
    const auto piece = [to, from](int64_t at) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
    };
    int64_t at = 0;
#if defined(__AVX__)
    if (reinterpret_cast<uintptr_t>(to) & 16) piece(at), at += 16;
    for (; at + 32 <= bytes; at += 32)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at)));
#endif
    for (; at < bytes; at += 16) piece(at);
}
constexpr bool kCanStream = true;
inline void stream_end() { _mm_sfence(); }
#else
inline void stream_row(char*, const char*, int64_t) {}
constexpr bool kCanStream = false;
inline void stream_end() {}
#endif

template <typename T>
void gather(const Gather<T>& job, int64_t begin, int64_t end) {
    const int64_t bytes = job.dim * static_cast<int64_t>(sizeof(T));
    const bool streaming =
        kCanStream && job.streaming && ((reinterpret_cast<uintptr_t>(job.out) | static_cast<uintptr_t>(bytes)) & 15) == 0;
    for (int64_t k = begin; k < end; ++k) {
        if (k + kAhead < end) prefetch(job.weights + job.ids[k + kAhead] * job.dim, bytes);
        const T* row = job.weights + job.ids[k] * job.dim;
        T* to = job.out + k * job.dim;
        if (streaming)
            stream_row(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(row), bytes);
        else
            std::memcpy(to, row, static_cast<size_t>(bytes));
    }
    if (streaming) stream_end();
}

template <typename T>
void pool(const Pool<T>& job, int64_t begin, int64_t end) {
    static thread_local std::vector<double> buffer;
    buffer.resize(static_cast<size_t>(job.dim));
    double* sum = buffer.data();
    const int64_t dim = job.dim, bytes = dim * static_cast<int64_t>(sizeof(T)), last = job.offsets[end];
    for (int64_t bag = begin; bag < end; ++bag) {
        const int64_t first = job.offsets[bag], stop = job.offsets[bag + 1];
        T* out = job.out + bag * dim;
        if (first == stop) {
            for (int64_t i = 0; i < dim; ++i) out[i] = T(0);
            continue;
        }
        double weight = 0;
        for (int64_t at = first; at < stop; ++at) {
            if (at + kAhead < last) prefetch(job.values + job.ids[at + kAhead] * dim, bytes);
            const T* row = job.values + job.ids[at] * dim;
            if (job.mode == 2) {
                for (int64_t i = 0; i < dim; ++i) out[i] = at == first ? row[i] : largest(out[i], row[i]);
                continue;
            }
            const double factor = job.weights ? job.weights[at] : 1.0;
            weight += factor;
            for (int64_t i = 0; i < dim; ++i) {
                const double term = static_cast<double>(row[i]) * factor;
                sum[i] = at == first ? term : sum[i] + term;
            }
        }
        if (job.mode == 0)
            for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<T>(sum[i]);
        else if (job.mode == 1)
            for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<T>(sum[i] / weight);
    }
}

}  // namespace

template <typename T>
Functions<T> functions() {
    return {gather<T>, gather_settled<T>, settle<T>, step<T>, pool<T>};
}

template Functions<float> functions<float>();
template Functions<double> functions<double>();

}  // namespace unhot::UNHOT_ISA

// The loops over rows, compiled once for each instruction set: UNHOT_ISA names the namespace and CMake gives the flags.

#include <algorithm>
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

// Calls f(k, store, row) for the rows [begin, end) of a job, ahead of which are fetched the arrays in `looked` (bits), the
// steps of the last touches, and the gradients if `reads`. `row` is counted from the store's first one.
template <bool reads, typename T, typename F>
inline void for_rows(const Job<T>& job, unsigned looked, int64_t begin, int64_t end, F f) {
    Finder<T> find(job.stores, job.stores_count), find_ahead(job.stores, job.stores_count);
    for (int64_t k = begin; k < end; ++k) {
        const int64_t next = k + kAheadOfComputation;
        if (next < end) {
            const int64_t row = job.rows[next];
            const Store<T>& store = find_ahead(row);
            const int64_t local = row - store.first, size = static_cast<int64_t>(sizeof(T));
            for (int a = 0; a < job.arrays; ++a)
                if (looked >> a & 1) prefetch(store.state[a] + local * store.width[a], store.width[a] * size);
            if (job.last) __builtin_prefetch(job.last + row);
            if constexpr (reads) {
                const int64_t first = job.starts[next], most = first + kAhead, stop = job.starts[next + 1];
                for (int64_t i = first; i < (most < stop ? most : stop); ++i)
                    prefetch(job.vectors.at(job.order[i]), store.dim * size);
            }
        }
        const Store<T>& store = find(job.rows[k]);
        f(k, store, job.rows[k] - store.first);
    }
}

// The coefficients of row k.
template <typename Law, typename T>
inline const typename Law::Line* line(const Job<T>& job, int64_t k) {
    return static_cast<const typename Law::Line*>(job.coefficients) + job.line_of_row[k] * job.width;
}

template <typename T>
inline void row_state(const Job<T>& job, const Store<T>& store, int64_t row, T** state) {
    for (int a = 0; a < job.arrays; ++a) state[a] = store.state[a] + row * store.width[a];
}

template <typename T>
void gather_settled(const Job<T>& job, int64_t begin, int64_t end) {
    with_law<T>(job.formula.law, [&]<typename Law>() {
        for_rows<false>(job, Law::kLooked, begin, end, [&](int64_t k, const Store<T>& store, int64_t row) {
            const size_t bytes = static_cast<size_t>(store.dim) * sizeof(T);
            T* state[kMostArrays];
            row_state(job, store, row, state);
            T* first = job.vectors.at(job.order[job.starts[k]]);
            if (job.line_of_row[k] >= 0)
                Law::with_settle(job.formula, line<Law>(job, k),
                                 [&](const auto& settle) { settle_into<Law>(settle, state, first, store.dim); });
            else
                std::memcpy(first, state[0], bytes);
            for (int64_t i = job.starts[k] + 1; i < job.starts[k + 1]; ++i)
                std::memcpy(job.vectors.at(job.order[i]), first, bytes);
        });
    });
}

// The vectors of rows with deferred steps, settled: vectors.each[k] is that of row k. Other rows have none.
template <typename T>
void settle_apart(const Job<T>& job, int64_t begin, int64_t end) {
    with_law<T>(job.formula.law, [&]<typename Law>() {
        for_rows<false>(job, Law::kLooked, begin, end, [&](int64_t k, const Store<T>& store, int64_t row) {
            if (job.line_of_row[k] < 0) return;
            T* state[kMostArrays];
            row_state(job, store, row, state);
            Law::with_settle(job.formula, line<Law>(job, k),
                             [&](const auto& settle) { settle_into<Law>(settle, state, job.vectors.each[k], store.dim); });
        });
    });
}

template <typename T>
void settle(const Job<T>& job, int64_t begin, int64_t end) {
    with_law<T>(job.formula.law, [&]<typename Law>() {
        for_rows<false>(job, kAllArrays, begin, end, [&](int64_t k, const Store<T>& store, int64_t row) {
            if (job.last[job.rows[k]] == kFrozen) return;
            T* state[kMostArrays];
            row_state(job, store, row, state);
            if (job.line_of_row[k] >= 0)
                Law::with_settle(job.formula, line<Law>(job, k),
                                 [&](const auto& settler) { settle_in_place<Law>(settler, state, store.dim); });
            job.last[job.rows[k]] = job.now;
        });
    });
}

// The sum of row k's gradients: the gradient itself if there is one, else summed in double in the order of the ids.
template <typename T>
inline const T* row_gradient(const Job<T>& job, int64_t k, int64_t dim, double* sum, T* rounded) {
    const int64_t first = job.starts[k], stop = job.starts[k + 1], bytes = dim * static_cast<int64_t>(sizeof(T));
    const double* factors = job.vectors.factors;
    const T* g = job.vectors.at(job.order[first]);
    if (stop - first == 1 && !factors) return g;
    const double factor = factors ? factors[job.order[first]] : 1.0;
    for (int64_t i = 0; i < dim; ++i) sum[i] = static_cast<double>(g[i]) * factor;
    for (int64_t at = first + 1; at < stop; ++at) {
        if (at + kAhead < stop) prefetch(job.vectors.at(job.order[at + kAhead]), bytes);
        const T* next = job.vectors.at(job.order[at]);
        const double by = factors ? factors[job.order[at]] : 1.0;
        for (int64_t i = 0; i < dim; ++i) sum[i] += static_cast<double>(next[i]) * by;
    }
    for (int64_t i = 0; i < dim; ++i) rounded[i] = static_cast<T>(sum[i]);
    return rounded;
}

template <typename T>
void step(const Job<T>& job, int64_t begin, int64_t end) {
    static thread_local std::vector<double> sum;
    static thread_local std::vector<T> rounded;
    int64_t widest = 0;
    for (int64_t s = 0; s < job.stores_count; ++s) widest = std::max(widest, job.stores[s].dim);
    sum.resize(static_cast<size_t>(widest));
    rounded.resize(static_cast<size_t>(widest));
    double* sums = sum.data();
    T* roundeds = rounded.data();
    with_law<T>(job.formula.law, [&]<typename Law>() {
        const typename Law::Update update(job.scalars, job.formula.parameters);
        for_rows<true>(job, kAllArrays, begin, end, [&](int64_t k, const Store<T>& store, int64_t row) {
            if (job.last && job.last[job.rows[k]] == kFrozen) return;
            T* state[kMostArrays];
            row_state(job, store, row, state);
            const T* g = row_gradient(job, k, store.dim, sums, roundeds);
            if (job.line_of_row && job.line_of_row[k] >= 0)
                Law::with_settle(job.formula, line<Law>(job, k),
                                 [&](const auto& settle) { settle_and_update<Law>(settle, update, state, g, store.dim); });
            else
                update_in_place<Law>(update, state, g, store.dim);
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
    Finder<T> find(job.stores, job.stores_count), find_ahead(job.stores, job.stores_count);
    for (int64_t k = begin; k < end; ++k) {
        if (k + kAhead < end) {
            const Store<T>& store = find_ahead(job.ids[k + kAhead]);
            prefetch(store.state[0] + (job.ids[k + kAhead] - store.first) * store.dim,
                     store.dim * static_cast<int64_t>(sizeof(T)));
        }
        const Store<T>& store = find(job.ids[k]);
        const int64_t bytes = store.dim * static_cast<int64_t>(sizeof(T));
        const T* row = store.state[0] + (job.ids[k] - store.first) * store.dim;
        T* to = job.out.at(k);
        if (kCanStream && job.streaming && ((reinterpret_cast<uintptr_t>(to) | static_cast<uintptr_t>(bytes)) & 15) == 0)
            stream_row(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(row), bytes);
        else
            std::memcpy(to, row, static_cast<size_t>(bytes));
    }
    if (job.streaming) stream_end();
}

// The vectors of the bags [begin, end): their rows are summed in double in the order of the ids, and rounded once.
template <typename T>
void pool_rows(const PoolJob<T>& job, int64_t begin, int64_t end) {
    static thread_local std::vector<double> buffer;
    int64_t widest = 0;
    for (int64_t s = 0; s < job.bags_count; ++s) widest = std::max(widest, job.bags[s].store->dim);
    buffer.resize(static_cast<size_t>(widest));
    double* __restrict sum = buffer.data();
    const Bags<T>* bags = job.bags;
    for (int64_t bag = begin; bag < end; ++bag) {
        while (bag >= bags->first + bags->count) ++bags;
        const Store<T>& store = *bags->store;
        const int64_t b = bag - bags->first, dim = store.dim, first = bags->starts[b], stop = bags->starts[b + 1];
        const int64_t last = bags->starts[bags->count], bytes = dim * static_cast<int64_t>(sizeof(T));
        const auto row_at = [&](int64_t at) {
            const T* settled = job.place ? job.settled[job.place[at]] : nullptr;
            return settled ? settled : store.state[0] + (job.ids[at] - store.first) * dim;
        };
        T* __restrict out = bags->out + b * bags->stride;
        if (first == stop) {
            for (int64_t i = 0; i < dim; ++i) out[i] = T(0);
            continue;
        }
        double weight = 0;
        for (int64_t at = first; at < stop; ++at) {
            if (at + kAhead < last) prefetch(row_at(at + kAhead), bytes);
            const T* row = row_at(at);
            if (bags->mode == 2) {
                for (int64_t i = 0; i < dim; ++i) out[i] = at == first ? row[i] : largest(out[i], row[i]);
                continue;
            }
            const double factor = bags->factors ? bags->factors[at] : 1.0;
            weight += factor;
            if (at == first)
                for (int64_t i = 0; i < dim; ++i) sum[i] = static_cast<double>(row[i]) * factor;
            else
                for (int64_t i = 0; i < dim; ++i) sum[i] += static_cast<double>(row[i]) * factor;
        }
        if (bags->mode == 0)
            for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<T>(sum[i]);
        else if (bags->mode == 1)
            for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<T>(sum[i] / weight);
    }
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
    return {gather<T>, gather_settled<T>, settle_apart<T>, settle<T>, step<T>, pool_rows<T>, pool<T>};
}

template Functions<float> functions<float>();
template Functions<double> functions<double>();

}  // namespace unhot::UNHOT_ISA

// The loops over rows, compiled once for each instruction set: UNHOT_ISA names the namespace and CMake gives the flags.

#include <cstring>
#include <vector>

#include "job.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace unhot::UNHOT_ISA {

namespace {

#include "elements.h"
#include "linear.h"
#include "measure.h"
#include "crossing.h"
#include "sign.h"
#include "closed_form.h"

constexpr int64_t kAhead = 12;          // rows prefetched ahead: a miss takes about as long as this many rows of dim 64
constexpr int64_t kPrefetchLimit = 512; // bytes of a row; beyond, the processor's own prefetcher has caught on

inline void prefetch(const void* row, int64_t bytes) {
    const char* p = static_cast<const char*>(row);
    for (int64_t at = 0; at < (bytes < kPrefetchLimit ? bytes : kPrefetchLimit); at += 64) __builtin_prefetch(p + at);
}

template <typename T>
inline void prefetch_state(const Job<T>& job, int64_t k, int64_t end) {
    if (k + kAhead >= end) return;
    const int64_t at = job.rows[k + kAhead] * job.dim;
    for (int a = 0; a < job.arrays; ++a) prefetch(job.state[a] + at, job.dim * static_cast<int64_t>(sizeof(T)));
}

// Calls f.template operator()<Family>() with the family that the rule names.
template <typename T, typename F>
inline void with_family(const Rule& rule, F&& f) {
    switch (rule.family) {
        case kLinear:
            switch (rule.variant) {
                case 0: return f.template operator()<Linear<T, false, kNone>>();
                case 1: return f.template operator()<Linear<T, true, kNone>>();
                case 2: return f.template operator()<Linear<T, false, kSum>>();
                case 4: return f.template operator()<Linear<T, false, kMean>>();
                case 5: return f.template operator()<Linear<T, true, kMean>>();
                case 6: return f.template operator()<Linear<T, false, kCentered>>();
                case 7: return f.template operator()<Linear<T, true, kCentered>>();
                default: return f.template operator()<Linear<T, false, kDelta>>();
            }
        case kMeasure:
            switch (rule.variant) {
                case kSecondMoment: return f.template operator()<Measure<T, kSecondMoment>>();
                case kLargestSecondMoment: return f.template operator()<Measure<T, kLargestSecondMoment>>();
                default: return f.template operator()<Measure<T, kNorm>>();
            }
        case kCrossing: return f.template operator()<Crossing<T>>();
        case kSign: return f.template operator()<Sign<T>>();
        default:
            if (rule.variant) return f.template operator()<ClosedForm<T, true>>();
            return f.template operator()<ClosedForm<T, false>>();
    }
}

// Settles row k, in place or (weights only) into out.
template <typename Kernel, typename T>
inline void settle_row(const Job<T>& job, int64_t k, T* const* state, T* out, bool all) {
    if constexpr (std::is_same_v<Kernel, Crossing<T>>) {
        const double* c = static_cast<const double*>(job.coefficients) + job.which[k] * job.width;
        Kernel::settle(job.rule, c, state, out, job.dim, all);
    } else {
        const T* c = static_cast<const T*>(job.coefficients) + job.which[k] * job.width;
        Kernel::settle(job.rule, c, state, out, job.dim, all);
    }
}

template <typename T>
inline void row_state(const Job<T>& job, int64_t row, T** state) {
    for (int a = 0; a < job.arrays; ++a) state[a] = job.state[a] + row * job.dim;
}

template <typename T>
void gather_settled(const Job<T>& job, int64_t begin, int64_t end) {
    const size_t bytes = static_cast<size_t>(job.dim) * sizeof(T);
    with_family<T>(job.rule, [&]<typename Kernel>() {
        T* state[kMostArrays];
        for (int64_t k = begin; k < end; ++k) {
            prefetch_state(job, k, end);
            row_state(job, job.rows[k], state);
            T* first = job.out + job.order[job.starts[k]] * job.dim;
            if (job.which[k] >= 0)
                settle_row<Kernel>(job, k, state, first, false);
            else
                std::memcpy(first, state[0], bytes);
            for (int64_t i = job.starts[k] + 1; i < job.starts[k + 1]; ++i)
                std::memcpy(job.out + job.order[i] * job.dim, first, bytes);
        }
    });
}

template <typename T>
void settle(const Job<T>& job, int64_t begin, int64_t end) {
    with_family<T>(job.rule, [&]<typename Kernel>() {
        T* state[kMostArrays];
        for (int64_t k = begin; k < end; ++k) {
            prefetch_state(job, k, end);
            row_state(job, job.rows[k], state);
            if (job.which[k] >= 0) settle_row<Kernel>(job, k, state, state[0], true);
            job.last[job.rows[k]] = job.now;
        }
    });
}

// The sum of row k's gradients: the gradient itself if there is one, else summed in double in the order of the ids.
template <typename T>
inline const T* row_gradient(const Job<T>& job, int64_t k, double* sum, T* rounded) {
    const int64_t first = job.starts[k], stop = job.starts[k + 1];
    const T* g = job.gradients + job.order[first] * job.dim;
    if (stop - first == 1) return g;
    for (int64_t i = 0; i < job.dim; ++i) sum[i] = static_cast<double>(g[i]);
    for (int64_t at = first + 1; at < stop; ++at) {
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
    with_family<T>(job.rule, [&]<typename Kernel>() {
        T* state[kMostArrays];
        for (int64_t k = begin; k < end; ++k) {
            prefetch_state(job, k, end);
            row_state(job, job.rows[k], state);
            if (job.which && job.which[k] >= 0) settle_row<Kernel>(job, k, state, state[0], true);
            Kernel::update(job.rule, job.scalars, state, row_gradient(job, k, sums, roundeds), job.dim);
            if (job.last) job.last[job.rows[k]] = job.now;
        }
    });
}

#if defined(__SSE2__)
// Copies around the caches; false if the row is not aligned for it.
inline bool stream_row(char* to, const char* from, int64_t bytes) {
    if ((reinterpret_cast<uintptr_t>(to) | static_cast<uintptr_t>(bytes)) & 15) return false;
    for (int64_t at = 0; at < bytes; at += 16)
        _mm_stream_si128(
            reinterpret_cast<__m128i*>(to + at), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
    return true;
}
inline void stream_end() { _mm_sfence(); }
#else
inline bool stream_row(char*, const char*, int64_t) { return false; }
inline void stream_end() {}
#endif

template <typename T>
void gather(const Gather<T>& job, int64_t begin, int64_t end) {
    const int64_t bytes = job.dim * static_cast<int64_t>(sizeof(T));
    for (int64_t k = begin; k < end; ++k) {
        if (k + kAhead < end) prefetch(job.weights + job.ids[k + kAhead] * job.dim, bytes);
        const T* row = job.weights + job.ids[k] * job.dim;
        T* to = job.out + k * job.dim;
        if (!job.streaming || !stream_row(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(row), bytes))
            std::memcpy(to, row, static_cast<size_t>(bytes));
    }
    if (job.streaming) stream_end();
}

template <typename T>
void pool(const Pool<T>& job, int64_t begin, int64_t end) {
    static thread_local std::vector<double> buffer;
    buffer.resize(static_cast<size_t>(job.dim));
    double* sum = buffer.data();
    const int64_t dim = job.dim;
    for (int64_t bag = begin; bag < end; ++bag) {
        const int64_t first = job.offsets[bag], stop = job.offsets[bag + 1];
        T* out = job.out + bag * dim;
        if (first == stop) {
            for (int64_t i = 0; i < dim; ++i) out[i] = T(0);
            continue;
        }
        double weight = 0;
        for (int64_t at = first; at < stop; ++at) {
            if (at + kAhead < job.offsets[end])
                prefetch(job.values + job.ids[at + kAhead] * dim, dim * static_cast<int64_t>(sizeof(T)));
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

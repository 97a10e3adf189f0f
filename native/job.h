// What a kernel is given: raw pointers and sizes, and the function table that each instruction set fills.
#pragma once

#include <cstdint>

#include "generated/law_numbers.h"

namespace unhot {

constexpr int kMostArrays = 4;  // weights and up to three slots

// A law with its options, and what is the same for all rows.
struct Rule {
    int law;
    const double* parameters;
    const double* table;  // the sums of `kCrossing` for every t in the ring, else null
};

// Work on the distinct rows `rows[0..count)` of a (rows, dim) table of T.
template <typename T>
struct Job {
    Rule rule;
    T* state[kMostArrays];  // weights first, then the slots
    int arrays;
    int64_t dim;

    const int64_t* rows;
    const int32_t* which;      // the line of coefficients of each row, -1 if nothing is deferred; null if for all rows
    const void* coefficients;  // (lines, width) of T; of double for the crossing family
    int64_t width;

    const int64_t* order;   // positions of each row's ids, grouped by row
    const int64_t* starts;  // rows k's positions are order[starts[k]..starts[k + 1])
    const T* gradients;     // (ids, dim)
    const T* scalars;       // the step's coefficients

    uint32_t* last;  // the step of each row's last touch, or null
    uint32_t now;
    T* out;  // (ids, dim)
};

template <typename T>
struct Gather {
    const T* weights;
    int64_t rows, dim;
    const int64_t* ids;
    T* out;
    bool streaming;  // the output is too large for the caches: write around them
};

template <typename T>
struct Pool {
    const T* values;
    int64_t dim;
    const int64_t* ids;
    const int64_t* offsets;  // bag b holds ids[offsets[b]..offsets[b + 1])
    const double* weights;   // or null
    int mode;                // 0 sum, 1 mean, 2 max
    T* out;
};

// Every function works on the items [begin, end) alone, so that ranges may run on different threads.
template <typename T>
struct Functions {
    void (*gather)(const Gather<T>&, int64_t begin, int64_t end);
    void (*gather_settled)(const Job<T>&, int64_t begin, int64_t end);
    void (*settle)(const Job<T>&, int64_t begin, int64_t end);
    void (*step)(const Job<T>&, int64_t begin, int64_t end);
    void (*pool)(const Pool<T>&, int64_t begin, int64_t end);
};

// The functions compiled for each instruction set (rows.cpp, once for each).
#define UNHOT_DECLARE(isa)                         \
    namespace isa {                                \
    template <typename T>                          \
    Functions<T> functions();                      \
    extern template Functions<float> functions();  \
    extern template Functions<double> functions(); \
    }
UNHOT_DECLARE(portable)
#if defined(__x86_64__)
UNHOT_DECLARE(avx2)
UNHOT_DECLARE(avx512)
#endif
#undef UNHOT_DECLARE

}  // namespace unhot

// What a kernel is given: raw pointers and sizes, and the function table that each instruction set fills.
#pragma once

#include <algorithm>
#include <cstdint>

#include "generated/law_numbers.h"
#include "plan.h"

namespace unhot {

constexpr int kMostArrays = 4;  // weights and up to three slots

// A law with its options, and what is the same for all rows.
struct Formula {
    int law;
    const double* parameters;
    const double* table;  // the sums of `kCrossing` for every t in the ring, else null
};

// One table's arrays: the weights first, (rows, dim), then the slots, each (rows, dim) or (rows, 1) as `width` says. Its rows
// have the numbers [first, first + rows) among those of all tables of a clock.
template <typename T>
struct Store {
    T* state[kMostArrays];
    int64_t width[kMostArrays];
    int64_t first, rows, dim;
};

// Finds the store that has a row, if one has. Rows of one store mostly follow each other, so the last one found is tried first.
template <typename T>
class Finder {
   public:
    Finder(const Store<T>* stores, int64_t count) : begin_(stores), end_(stores + count), store_(stores) {}

    inline const Store<T>& operator()(int64_t row) {
        if (!has(*store_, row)) look(row);
        return *store_;
    }

    static inline bool has(const Store<T>& store, int64_t row) {
        return static_cast<uint64_t>(row) - static_cast<uint64_t>(store.first) < static_cast<uint64_t>(store.rows);
    }

   private:
    [[gnu::noinline]] void look(int64_t row) {
        if (store_ + 1 < end_ && has(store_[1], row)) {  // as where each sample has an id of each store
            ++store_;
            return;
        }
        const auto after = std::upper_bound(begin_, end_, row, [](int64_t r, const Store<T>& s) { return r < s.first; });
        store_ = after == begin_ ? begin_ : after - 1;
    }

    const Store<T>*begin_, *end_, *store_;
};

// A vector for each id: where it goes to, or where its gradient is, which is to be multiplied by a factor if there are such.
template <typename T>
struct Vectors {
    T* base;
    int64_t stride;         // numbers from one vector to the next
    T* const* each;         // of each id, where they do not lie in one array in the order of the ids; else null
    const double* factors;  // of each id, or null

    inline T* at(int64_t i) const { return each ? each[i] : base + i * stride; }
};

// Work on the distinct rows `rows[0..count)` of some tables, all of T.
template <typename T>
struct Job {
    Formula formula;
    const Store<T>* stores;
    int64_t stores_count;
    int arrays;  // of each store

    const int64_t* rows;
    const int32_t* line_of_row;  // the line of coefficients of each row, -1 if nothing is deferred; null if for all rows
    const void* coefficients;    // (lines, width) of T; of double for the crossing law
    int64_t width;

    const int64_t* order;   // positions of each row's ids, grouped by row
    const int64_t* starts;  // rows k's positions are order[starts[k]..starts[k + 1])
    Vectors<T> vectors;     // the gradients that are read, or the outputs that are written
    const T* scalars;       // the step's coefficients

    uint32_t* last;  // the step of each row's last touch, or null
    uint32_t now;
};

// Bags of ids of one store, each pooled into a vector.
template <typename T>
struct Bags {
    const Store<T>* store;
    int64_t first, count;   // which of all bags they are
    const int64_t* starts;  // bag b holds the ids at starts[b]..starts[b + 1]
    const double* factors;  // of each id, or null
    int mode;               // 0 sum, 1 mean, 2 max
    T* out;
    int64_t stride;
};

// Pools bags of rows, of which some have been settled elsewhere.
template <typename T>
struct PoolJob {
    const Bags<T>* bags;
    int64_t bags_count;
    const int64_t* ids;
    const int32_t* place;     // of each id's row among the distinct ones; null where all rows stand as they are
    const T* const* settled;  // the vector of each of these, or null for a row that stands as it is
};

template <typename T>
struct Gather {
    const Store<T>* stores;
    int64_t stores_count;
    const int64_t* ids;
    Vectors<T> out;
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
    void (*settle_apart)(const Job<T>&, int64_t begin, int64_t end);
    void (*settle)(const Job<T>&, int64_t begin, int64_t end);
    void (*step)(const Job<T>&, int64_t begin, int64_t end);
    void (*pool_rows)(const PoolJob<T>&, int64_t begin, int64_t end);
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

// What a kernel may be given without reading or writing memory that is not the caller's.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "job.h"
#include "plan.h"

namespace unhot {

inline void check(bool good, const char* message) {
    if (!good) throw std::invalid_argument(message);
}

// How much of everything a rule reads; `arrays` is 0 for a rule that there is not.
struct Needs {
    int arrays;
    int64_t parameters, width, scalars;
};

inline Needs needs(int family, int variant, int64_t parameters, const double* p) {
    switch (family) {
        case kLinear: {
            constexpr int none = 0, sum = 1, delta = 4;
            const int momentum = variant & 1, divisor = variant >> 1;
            if (variant < 0 || divisor > delta || (momentum && (divisor == sum || divisor == delta))) return {};
            return {1 + momentum + (divisor == none ? 0 : divisor > 2 ? 2 : 1), 0, 8, 13};
        }
        case kMeasure: {
            if (variant < 0 || variant > 2) return {};
            const double panels = parameters == 3 ? p[1] : 0, terms = parameters == 3 ? p[2] : 0;
            const bool real = panels >= 1 && terms >= 1 && panels < 1 << 20 && terms < 1 << 10;
            return {variant == 1 ? 4 : 3, 3, 7 + (real ? static_cast<int64_t>(panels * (1 + terms)) : int64_t{1} << 40), 12};
        }
        case kCrossing: return {variant == 0 ? 3 : 0, 4, 6, 7};
        case kSign: return {variant == 0 ? 2 : 0, 1, 8, 8};
        case kClosedForm: return {variant == 0 || variant == 1 ? 3 : 0, 6, variant == 1 ? 17 : 1, 9};
        default: return {};
    }
}

inline void check_rows(const int64_t* rows, int64_t count, int64_t limit) {
    if (outside(rows, count, limit) >= 0) throw std::out_of_range("a row number lies outside of the table");
}

// A ring has a power of two of entries.
inline void check_ring(int64_t entries) {
    check(entries > 0 && (entries & (entries - 1)) == 0, "a history's entries must be a power of two");
}

// Whether each line of the step measure says to use 1 to `most` terms.
template <typename T>
inline void check_terms(const T* lines, int64_t count, int64_t width, double most) {
    bool good = true;
    for (int64_t k = 0; k < count; ++k) {
        const auto used = static_cast<double>(lines[k * width + 6]);
        good &= used >= 1 && used <= most;  // not so for a NaN
    }
    check(good, "a line of coefficients has more terms than the rule");
}

// Whether `which` names lines of which there are so many, or -1.
inline void check_lines(const int32_t* which, int64_t count, int64_t lines) {
    bool bad = false;
    for (int64_t k = 0; k < count; ++k) bad |= which[k] < -1 || which[k] >= lines;
    check(!bad, "a row names a line of coefficients that there is not");
}

// Whether starts[0..count] rise from 0 or more to at most `limit`.
inline void check_starts(const int64_t* starts, int64_t count, int64_t limit) {
    bool bad = starts[0] < 0 || starts[count] > limit;
    for (int64_t k = 0; k < count; ++k) bad |= starts[k] > starts[k + 1];
    check(!bad, "positions do not rise from 0 to the number of ids");
}

// Whether each row has at least one place in `order`, and all places are among so many.
inline void check_plan(const int64_t* order, int64_t places, const int64_t* starts, int64_t rows) {
    check_starts(starts, rows, places);
    bool bad = false;
    for (int64_t k = 0; k < rows; ++k) bad |= starts[k] == starts[k + 1];
    check(!bad && outside(order, places, places) < 0, "a plan's places are not those of the ids");
}

}  // namespace unhot

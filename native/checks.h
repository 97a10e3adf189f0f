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

// The numbers in a line of coefficients of a law.
inline int64_t width_of(int law, const double* parameters) {
    const int64_t width = kLawSizes[law].width;
    if (!kLawSizes[law].panels) return width;
    const double panels = parameters[MeasureShared::panels], terms = parameters[MeasureShared::terms];
    check(panels >= 1 && terms >= 1 && panels < 1 << 20 && terms < 1 << 10, "there are no such panels");
    return width + static_cast<int64_t>(panels * (1 + terms));
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
        const auto used = static_cast<double>(lines[k * width + MeasureCoefficients::used]);
        good &= used >= 1 && used <= most;  // not so for a NaN
    }
    check(good, "a line of coefficients has more terms than the law");
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

// The coefficients of deferred rows, from the history of the steps made: one line for each distinct step of a last touch.
// The twins of Linear.coefficients and StepMeasure.coefficients in src/unhot/rules.
#pragma once

#include <cstdint>

namespace unhot {

// Where the entries of the steps lie: position step & mask, in blocks of `block` positions with one suffix each.
struct Ring {
    int64_t mask, block;
};

// entry (ring, 5) and suffix (blocks, 5) as in MatrixHistory; out (count, 8).
template <typename T>
void matrix_coefficients(
    const Ring& ring, const double* entry, const double* suffix, const int64_t* steps, int64_t count, T* out);

// scale (ring, 3), suffix (blocks, 3), polynomial (ring, panels, width) and used (ring) as in MeasureHistory;
// out (count, 7 + panels width).
template <typename T>
void measure_coefficients(
    const Ring& ring, const double* scale, const double* suffix, const double* polynomial, const int64_t* used,
    int64_t panels, int64_t width, const int64_t* steps, int64_t count, T* out);

}  // namespace unhot

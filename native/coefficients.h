// The history of the steps made, extended by one step, and the coefficients of deferred rows read from it: one line for
// each distinct step of a last touch.  The twins of src/unhot/kernels/reference_history.py.
#pragma once

#include <cstdint>

namespace unhot {

// Where the entries of the steps lie: position step & mask, in blocks of `block` positions with one suffix each.
struct Ring {
    int64_t mask, block;
};

// entries (count, 5) become those of a step's 2x2 matrix after them.
void matrix_extend(double* entries, int64_t count, const double* matrix, double average);

// A step of the step measure: its points c_s, the terms wanted, the decays and the rate.
struct MeasureStep {
    int64_t start, step, window;
    int64_t oldest, open;     // the closed blocks are those from `oldest` to `open`
    const double* powers;     // by distance
    const int64_t* panel_of;  // by distance
    double height;
    const double* to_powers;  // (terms, terms)
    int64_t terms;
    const double* factors;  // of weight, momentum and moment
    double rate;
    const double* centres;  // of the panels of the step's own entry
};

// scale (ring, 3), suffix (blocks, 3), polynomial (ring, panels, width) and used (ring) as in MeasureHistory.
void measure_extend(const Ring& ring, double* scale, double* suffix, double* polynomial, int64_t* used, int64_t panels,
                    int64_t width, const MeasureStep& s);

// entry (ring, 5) and suffix (blocks, 5) as in MatrixHistory; out (count, 8).
template <typename T>
void matrix_coefficients(const Ring& ring, const double* entry, const double* suffix, const int64_t* steps, int64_t count,
                         T* out);

// scale (ring, 3), suffix (blocks, 3), polynomial (ring, panels, width) and used (ring) as in MeasureHistory;
// out (count, 7 + panels width).
template <typename T>
void measure_coefficients(const Ring& ring, const double* scale, const double* suffix, const double* polynomial,
                          const int64_t* used, int64_t panels, int64_t width, const int64_t* steps, int64_t count, T* out);

}  // namespace unhot

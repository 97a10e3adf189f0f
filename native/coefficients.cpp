#include "coefficients.h"

#include <algorithm>
#include <cmath>

namespace unhot {

namespace {

constexpr int64_t kAhead = 16;

// `pair` of src/unhot/kernels/reference_history.py.
template <typename T>
inline void pair(double factor, T* out) {
    out[0] = factor >= 0.5 ? T(1) : static_cast<T>(factor);
    out[1] = static_cast<T>(factor - static_cast<double>(out[0]));
}

// `slot_pair` of the same.
template <typename T>
inline void slot_pair(double factor, T* out) {
    if (std::abs(factor) < 0x1p-100) {
        const double root = std::sqrt(std::abs(factor));
        out[0] = static_cast<T>(root);
        out[1] = static_cast<T>(std::copysign(root, factor));
    } else {
        pair(factor, out);
    }
}

}  // namespace

void matrix_extend(double* entries, int64_t count, const double* matrix, double average) {
    const double m00 = matrix[0], m01 = matrix[1], m10 = matrix[2], m11 = matrix[3];
    for (double* e = entries; e < entries + 5 * count; e += 5) {
        const double p00 = e[0], p01 = e[1], p10 = e[2], p11 = e[3];
        e[0] = m00 * p00 + m01 * p10;
        e[1] = m00 * p01 + m01 * p11;
        e[2] = m10 * p00 + m11 * p10;
        e[3] = m10 * p01 + m11 * p11;
        e[4] = average * e[4];
    }
}

namespace {

// The loop over the entries.  TERMS is their number where it is known to the compiler, which then unrolls what is done for
// each, or 0.
template <int TERMS>
void extend_entries(const Ring& ring, double* scale, double* polynomial, int64_t* used, int64_t panels, int64_t width,
                    const MeasureStep& s) {
    const int64_t terms = TERMS ? TERMS : s.terms, oldest = s.step - s.window;
    const double decay = s.factors[0];
    for (int64_t t = s.start; t < s.step; ++t) {
        const int64_t position = t & ring.mask;
        double* entry = scale + 3 * position;
        double* panel = polynomial + panels * width * position;
        for (int i = 0; i < 3; ++i) entry[i] *= s.factors[i];
        if (decay != 1.0)
            for (int64_t p = 0; p < panels; ++p)
                for (int64_t i = 1; i < width; ++i) panel[p * width + i] *= decay;
        if (t < oldest) continue;
        const int64_t distance = s.step - t;
        double* k = panel + s.panel_of[distance] * width;
        const double root = std::sqrt(s.powers[distance] * s.height / k[0]);
        const double q = (1.0 - root) / (1.0 + root), weight = s.rate * entry[1];
        double sum[TERMS ? TERMS : 32];  // series() of the NumPy twin; terms are at most 20
        double chebyshev = 1.0 / root;
        for (int64_t i = 0; i < terms; ++i) sum[i] = chebyshev * s.to_powers[i];
        chebyshev *= 2.0;
        for (int64_t row = 1; row < terms; ++row) {
            chebyshev *= q;
            for (int64_t i = 0; i < terms; ++i) sum[i] += chebyshev * s.to_powers[row * terms + i];
        }
        for (int64_t i = 0; i < terms; ++i) k[1 + i] += weight * sum[i];
        if (used[position] < terms) used[position] = terms;
    }
}

}  // namespace

void measure_extend(const Ring& ring, double* scale, double* suffix, double* polynomial, int64_t* used, int64_t panels,
                    int64_t width, const MeasureStep& s) {
    // The lengths of float32 with the usual betas.
    const auto extend = s.terms == 4 ? extend_entries<4> : s.terms == 5 ? extend_entries<5> : extend_entries<0>;
    extend(ring, scale, polynomial, used, panels, width, s);
    const int64_t blocks = (ring.mask + 1) / ring.block;
    for (int64_t b = s.oldest; b < s.open;) {  // in the pieces that lie together
        const int64_t at = b % blocks, count = std::min(s.open - b, blocks - at);
        for (double* f = suffix + 3 * at; f < suffix + 3 * (at + count); f += 3)
            for (int i = 0; i < 3; ++i) f[i] *= s.factors[i];
        b += count;
    }
    const int64_t now = s.step & ring.mask;
    double* panel = polynomial + panels * width * now;
    for (int64_t p = 0; p < panels; ++p, panel += width) {
        panel[0] = s.centres[p];
        for (int64_t i = 1; i < width; ++i) panel[i] = 0.0;
    }
    used[now] = 1;
    for (int i = 0; i < 3; ++i) {
        scale[3 * now + i] = 1.0;
        if (s.step % ring.block == 0) suffix[3 * (now / ring.block) + i] = 1.0;
    }
}

template <typename T>
void matrix_coefficients(const Ring& ring, const double* entry, const double* suffix, const int64_t* steps, int64_t count,
                         T* out) {
    for (int64_t k = 0; k < count; ++k, out += 8) {
        if (k + kAhead < count) __builtin_prefetch(entry + 5 * (steps[k + kAhead] & ring.mask));
        const int64_t position = steps[k] & ring.mask;
        const double* e = entry + 5 * position;
        const double* f = suffix + 5 * (position / ring.block);
        pair(f[0] * e[0] + f[1] * e[2], out);
        out[2] = static_cast<T>(f[0] * e[1] + f[1] * e[3]);
        out[3] = static_cast<T>(f[2] * e[0] + f[3] * e[2]);
        slot_pair(f[2] * e[1] + f[3] * e[3], out + 4);
        slot_pair(f[4] * e[4], out + 6);
    }
}

template <typename T>
void measure_coefficients(const Ring& ring, const double* scale, const double* suffix, const double* polynomial,
                          const int64_t* used, int64_t panels, int64_t width, const int64_t* steps, int64_t count, T* out) {
    for (int64_t k = 0; k < count; ++k) {
        if (k + kAhead < count) {
            const int64_t ahead = steps[k + kAhead] & ring.mask;
            __builtin_prefetch(scale + 3 * ahead);
            __builtin_prefetch(used + ahead);
            const double* first = polynomial + panels * width * ahead;
            for (int64_t i = 0; i < panels * width; i += 8) __builtin_prefetch(first + i);
            __builtin_prefetch(first + panels * width - 1);  // entries do not begin at a cache line
        }
        const int64_t position = steps[k] & ring.mask;
        const double* s = scale + 3 * position;
        const double* f = suffix + 3 * (position / ring.block);
        pair(s[0] * f[0], out);
        slot_pair(s[1] * f[1], out + 2);
        slot_pair(s[2] * f[2], out + 4);
        out[6] = static_cast<T>(used[position]);
        out += 7;
        const double* p = polynomial + panels * width * position;
        for (int64_t panel = 0; panel < panels; ++panel, p += width, out += width) {
            out[0] = static_cast<T>(p[0]);
            for (int64_t i = 1; i < width; ++i) out[i] = static_cast<T>(p[i] * f[0]);
        }
    }
}

#define UNHOT_INSTANTIATE(T)                                                                                                 \
    template void matrix_coefficients<T>(const Ring&, const double*, const double*, const int64_t*, int64_t, T*);            \
    template void measure_coefficients<T>(const Ring&, const double*, const double*, const double*, const int64_t*, int64_t, \
                                          int64_t, const int64_t*, int64_t, T*);
UNHOT_INSTANTIATE(float)
UNHOT_INSTANTIATE(double)
#undef UNHOT_INSTANTIATE

}  // namespace unhot

// What the laws call, and the loops over the elements of a row.  Included once for each instruction set, inside its namespace.
//
// Nothing here may be contracted or reordered: the operations are those of src/unhot/laws, one for one, and tests hold the two
// to the same bits.

template <typename T>
struct WeightPair {
    T hi, lo;
    // w (hi + lo) - move, rounded at the size of w once: a decay below half a unit in the last place counts with the move.
    inline T less(T w, T move) const { return w * hi - (lo != T(0) ? move - w * lo : move); }
};

template <typename T>
struct CarriedPair {
    T hi, lo, scale;
    CarriedPair(T high, T low)
        : hi(high), lo(high < T(0.5) && (low == high || low == -high) ? T(0) : low),
          scale(high < T(0.5) && (low == high || low == -high) ? low : T(1)) {}
    // x (hi + lo), or x hi lo for a small factor (`slot_pair`); an infinite x stays. The law adds 0, which makes 0 of -0.
    inline T operator()(T x) const {
        constexpr T most = std::numeric_limits<T>::max();
        const T y = (x * hi) * scale + (x * lo + T(0));
        return x > most || x < -most ? x : y;
    }
};

template <typename T>
inline T largest(T a, T b) {  // NumPy's maximum: a NaN on either side stays
    return (a >= b || a != a) ? a : b;
}

template <typename T>
inline T smallest(T a, T b) {
    return (a <= b || a != a) ? a : b;
}

inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }

template <typename T>
inline T sign_of(T x) {
    return x > T(0) ? T(1) : (x < T(0) ? T(-1) : (x == T(0) ? T(0) : x));
}

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

template <typename T>
inline T exponential(T x) {
    return static_cast<T>(__builtin_exp(static_cast<double>(x)));
}

inline double power(double x, double exponent) { return __builtin_pow(x, exponent); }

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

template <typename T>
inline T mean_square_of(const T* g, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
    return static_cast<T>(sum / static_cast<double>(dim));
}

// An element of a row is its values in the weights and the slots, x[0..kArrays).  A law (generated/laws.h) is
//
//     kArrays                     how many arrays its state has
//     kOfRow                      which of them (bits) have one number for each row: it is the same in all elements
//     kLooked                     which of them (bits) a lookup needs
//     Line                        the type of its coefficients
//     with_settle(formula, c, f)  calls f with what settles an element by the line of coefficients c
//     Update(scalars, shared)     what makes the step: update(x, g); if it has a `mean_square`, that is the row's gradient's
//
// and what settles is either  settle(x), with `kWrites` saying which arrays it changes (bits), or, where rows are better
// taken whole (`kByRow`),  settle.row(state, out, dim, all).

// Applies f(x, i) to the elements of a row; stores the arrays in WRITES.
template <typename Law, unsigned WRITES, typename T, typename F>
inline void in_place(T* const* state, int64_t dim, F f) {
    constexpr int n = Law::kArrays;
    T* __restrict a0 = state[0];
    T* __restrict a1 = n > 1 ? state[1] : nullptr;
    T* __restrict a2 = n > 2 ? state[2] : nullptr;
    T* __restrict a3 = n > 3 ? state[3] : nullptr;
    constexpr unsigned row = Law::kOfRow, each = WRITES & ~row, once = WRITES & row;
    T old[kMostArrays] = {}, made[kMostArrays] = {};  // of the row
    if constexpr (row & 2) old[1] = made[1] = *a1;
    if constexpr (row & 4) old[2] = made[2] = *a2;
    if constexpr (row & 8) old[3] = made[3] = *a3;
    for (int64_t i = 0; i < dim; ++i) {
        T x[kMostArrays] = {a0[i]};
        if constexpr (n > 1) x[1] = row & 2 ? old[1] : a1[i];
        if constexpr (n > 2) x[2] = row & 4 ? old[2] : a2[i];
        if constexpr (n > 3) x[3] = row & 8 ? old[3] : a3[i];
        f(x, i);
        if constexpr (each & 1) a0[i] = x[0];
        if constexpr (n > 1 && (each & 2)) a1[i] = x[1];
        if constexpr (n > 2 && (each & 4)) a2[i] = x[2];
        if constexpr (n > 3 && (each & 8)) a3[i] = x[3];
        if constexpr (once & 2) made[1] = x[1];
        if constexpr (once & 4) made[2] = x[2];
        if constexpr (once & 8) made[3] = x[3];
    }
    if constexpr (once & 2) *a1 = made[1];
    if constexpr (once & 4) *a2 = made[2];
    if constexpr (once & 8) *a3 = made[3];
}

// out[i] = the settled weights of a row, which stays as it is.
template <typename Law, typename Settle, typename T>
inline void settle_into(Settle settle, T* const* state, T* __restrict out, int64_t dim) {
    if constexpr (Settle::kByRow) {
        settle.row(state, out, dim, false);
    } else {
        in_place<Law, 0>(state, dim, [settle, out](T* x, int64_t i) {
            settle(x);
            out[i] = x[0];
        });
    }
}

template <typename Law, typename Settle, typename T>
inline void settle_in_place(Settle settle, T* const* state, int64_t dim) {
    if constexpr (Settle::kByRow)
        settle.row(state, state[0], dim, true);
    else
        in_place<Law, Settle::kWrites>(state, dim, [settle](T* x, int64_t) { settle(x); });
}

constexpr unsigned kAllArrays = (1u << kMostArrays) - 1;

// Tells what makes the step what it needs of the gradient of the whole row.
template <typename Update, typename T>
inline void see_row(Update& update, const T* g, int64_t dim) {
    if constexpr (requires { update.mean_square; }) update.mean_square = mean_square_of(g, dim);
}

template <typename Law, typename T>
inline void update_in_place(typename Law::Update update, T* const* state, const T* __restrict g, int64_t dim) {
    see_row(update, g, dim);
    in_place<Law, kAllArrays>(state, dim, [update, g](T* x, int64_t i) { update(x, g[i]); });
}

// Both in one pass: the settled elements never leave the registers.
template <typename Law, typename Settle, typename T>
inline void settle_and_update(Settle settle, typename Law::Update update, T* const* state, const T* __restrict g, int64_t dim) {
    if constexpr (Settle::kByRow) {
        settle.row(state, state[0], dim, true);
        update_in_place<Law>(update, state, g, dim);
    } else {
        see_row(update, g, dim);
        in_place<Law, kAllArrays>(state, dim, [settle, update, g](T* x, int64_t i) {
            settle(x);
            update(x, g[i]);
        });
    }
}

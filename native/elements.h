// Arithmetic shared by the families.  Included once for each instruction set, inside its namespace.
//
// Nothing here may be contracted or reordered: the operations are those of src/unhot/rules, one for one, and tests hold
// the two to the same bits.

template <typename T>
struct Pair {
    T hi, lo;
    // x (hi + lo), without turning an infinite x into NaN where lo is 0.
    inline T operator()(T x) const { return lo != T(0) ? x * hi + x * lo : x * hi; }
};

template <typename T>
inline T largest(T a, T b) {  // NumPy's maximum: a NaN on either side stays
    return (a >= b || a != a) ? a : b;
}

template <typename T>
inline T smallest(T a, T b) {
    return (a <= b || a != a) ? a : b;
}

template <typename T>
inline T magnitude(T x) {
    return x < T(0) ? -x : (x == T(0) ? T(0) : x);
}

template <typename T>
inline T sign_of(T x) {
    return x > T(0) ? T(1) : (x < T(0) ? T(-1) : (x == T(0) ? T(0) : x));
}

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

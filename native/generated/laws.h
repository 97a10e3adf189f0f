// Printed by tools/print_kernels.py from src/unhot/laws: change those, and run it again.
#pragma once

template <typename T>
struct Linear {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 1;
    static constexpr unsigned kLooked = 1;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 1;
        T w_lo, w_hi;

        Settle(const T* c, const double*) {
            w_lo = c[1];
            w_hi = c[0];
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T t2 = w * w_hi;
            x[0] = (w_lo != T(0)) ? (t2 + (w * w_lo)) : t2;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, g_w;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            g_w = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T t3 = g * g_w;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t3) : t3);
        }
    };
};

template <typename T>
struct LinearMomentum {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 2;
    static constexpr unsigned kLooked = 3;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 3;
        T w_hi, w_lo, w_b, b_w, b_hi, derived_0, derived_1;

        Settle(const T* c, const double*) {
            const T given_b_lo = c[5];
            w_hi = c[0];
            w_lo = c[1];
            w_b = c[2];
            b_w = c[3];
            b_hi = c[4];
            const bool t6 = (b_hi < T(0.5)) && (magnitude(given_b_lo) == b_hi);
            derived_0 = t6 ? given_b_lo : T(1.0);
            derived_1 = t6 ? T(0.0) : given_b_lo;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T momentum = x[1];
            const T t7 = momentum * w_b;
            const T t8 = (b_w != T(0)) ? (w * b_w) : T(0.0);
            const T t9 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t8) : (((momentum * b_hi) * derived_0) + ((momentum * derived_1) + t8));
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t7) : t7);
            x[1] = t9;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, w_b, g_w, b_w, g_b, b_hi, b_lo;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            w_b = s[2];
            g_w = s[6];
            b_w = s[3];
            g_b = s[7];
            b_hi = s[4];
            b_lo = s[5];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T t8 = (momentum * w_b) + (g * g_w);
            const T t9 = g * g_b;
            const T t10 = (b_w != T(0)) ? ((w * b_w) + t9) : t9;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t8) : t8);
            x[1] = (magnitude(momentum) == kInfinity<T>) ? (momentum + t10) : ((momentum * b_hi) + ((momentum * b_lo) + t10));
        }
    };
};

template <typename T>
struct LinearSum {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 2;
    static constexpr unsigned kLooked = 1;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 1;
        T w_lo, w_hi;

        Settle(const T* c, const double*) {
            w_lo = c[1];
            w_hi = c[0];
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T t2 = w * w_hi;
            x[0] = (w_lo != T(0)) ? (t2 + (w * w_lo)) : t2;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, inside, outside, g_w;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            inside = s[11];
            outside = s[12];
            g_w = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T sum = x[1];
            const T t5 = sum + (g * g);
            const T t6 = (g / (root((t5 + inside)) + outside)) * g_w;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t6) : t6);
            x[1] = t5;
        }
    };
};

template <typename T>
struct LinearMean {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 2;
    static constexpr unsigned kLooked = 1;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 3;
        T w_lo, w_hi, v_hi, derived_0, derived_1;

        Settle(const T* c, const double*) {
            const T given_v_lo = c[7];
            w_lo = c[1];
            w_hi = c[0];
            v_hi = c[6];
            const bool t4 = (v_hi < T(0.5)) && (magnitude(given_v_lo) == v_hi);
            derived_0 = t4 ? given_v_lo : T(1.0);
            derived_1 = t4 ? T(0.0) : given_v_lo;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T velocity = x[1];
            const T t5 = w * w_hi;
            const T t6 = (magnitude(velocity) == kInfinity<T>) ? (velocity + T(0.0)) : (((velocity * v_hi) * derived_0) + ((velocity * derived_1) + T(0.0)));
            x[0] = (w_lo != T(0)) ? (t5 + (w * w_lo)) : t5;
            x[1] = t6;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, share, v_hi, v_lo, inside, outside, g_w;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            share = s[10];
            v_hi = s[8];
            v_lo = s[9];
            inside = s[11];
            outside = s[12];
            g_w = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T velocity = x[1];
            const T t8 = (g * share) * g;
            const T t9 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t8) : ((velocity * v_hi) + ((velocity * v_lo) + t8));
            const T t10 = (g / (root((t9 + inside)) + outside)) * g_w;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t10) : t10);
            x[1] = t9;
        }
    };
};

template <typename T>
struct LinearMomentumMean {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 3;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 7;
        T w_hi, w_lo, w_b, b_w, b_hi, derived_0, derived_1, v_hi, derived_2, derived_3;

        Settle(const T* c, const double*) {
            const T given_b_lo = c[5];
            const T given_v_lo = c[7];
            w_hi = c[0];
            w_lo = c[1];
            w_b = c[2];
            b_w = c[3];
            b_hi = c[4];
            v_hi = c[6];
            const bool t8 = (b_hi < T(0.5)) && (magnitude(given_b_lo) == b_hi);
            const bool t9 = (v_hi < T(0.5)) && (magnitude(given_v_lo) == v_hi);
            derived_0 = t8 ? given_b_lo : T(1.0);
            derived_1 = t8 ? T(0.0) : given_b_lo;
            derived_2 = t9 ? given_v_lo : T(1.0);
            derived_3 = t9 ? T(0.0) : given_v_lo;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T momentum = x[1];
            const T velocity = x[2];
            const T t10 = momentum * w_b;
            const T t11 = (b_w != T(0)) ? (w * b_w) : T(0.0);
            const T t12 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t11) : (((momentum * b_hi) * derived_0) + ((momentum * derived_1) + t11));
            const T t13 = (magnitude(velocity) == kInfinity<T>) ? (velocity + T(0.0)) : (((velocity * v_hi) * derived_2) + ((velocity * derived_3) + T(0.0)));
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t10) : t10);
            x[1] = t12;
            x[2] = t13;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, w_b, share, v_hi, v_lo, inside, outside, g_w, b_w, g_b, b_hi, b_lo;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            w_b = s[2];
            share = s[10];
            v_hi = s[8];
            v_lo = s[9];
            inside = s[11];
            outside = s[12];
            g_w = s[6];
            b_w = s[3];
            g_b = s[7];
            b_hi = s[4];
            b_lo = s[5];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T velocity = x[2];
            const T t13 = (g * share) * g;
            const T t14 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t13) : ((velocity * v_hi) + ((velocity * v_lo) + t13));
            const T t15 = g / (root((t14 + inside)) + outside);
            const T t16 = (momentum * w_b) + (t15 * g_w);
            const T t17 = t15 * g_b;
            const T t18 = (b_w != T(0)) ? ((w * b_w) + t17) : t17;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t16) : t16);
            x[1] = (magnitude(momentum) == kInfinity<T>) ? (momentum + t18) : ((momentum * b_hi) + ((momentum * b_lo) + t18));
            x[2] = t14;
        }
    };
};

template <typename T>
struct LinearCentered {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 1;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 7;
        T w_lo, w_hi, v_hi, derived_0, derived_1;

        Settle(const T* c, const double*) {
            const T given_v_lo = c[7];
            w_lo = c[1];
            w_hi = c[0];
            v_hi = c[6];
            const bool t4 = (v_hi < T(0.5)) && (magnitude(given_v_lo) == v_hi);
            const T t5 = t4 ? given_v_lo : T(1.0);
            const T t6 = t4 ? T(0.0) : given_v_lo;
            derived_0 = t5;
            derived_1 = t6;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T velocity = x[1];
            const T average_gradient = x[2];
            const T t5 = w * w_hi;
            const T t6 = (magnitude(velocity) == kInfinity<T>) ? (velocity + T(0.0)) : (((velocity * v_hi) * derived_0) + ((velocity * derived_1) + T(0.0)));
            const T t7 = (magnitude(average_gradient) == kInfinity<T>) ? (average_gradient + T(0.0)) : (((average_gradient * v_hi) * derived_0) + ((average_gradient * derived_1) + T(0.0)));
            x[0] = (w_lo != T(0)) ? (t5 + (w * w_lo)) : t5;
            x[1] = t6;
            x[2] = t7;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, share, v_hi, v_lo, inside, outside, g_w;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            share = s[10];
            v_hi = s[8];
            v_lo = s[9];
            inside = s[11];
            outside = s[12];
            g_w = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T velocity = x[1];
            const T average_gradient = x[2];
            const T t8 = g * share;
            const T t9 = t8 * g;
            const T t10 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t9) : ((velocity * v_hi) + ((velocity * v_lo) + t9));
            const T t11 = (magnitude(average_gradient) == kInfinity<T>) ? (average_gradient + t8) : ((average_gradient * v_hi) + ((average_gradient * v_lo) + t8));
            const T t12 = (g / (root(((t10 - (t11 * t11)) + inside)) + outside)) * g_w;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t12) : t12);
            x[1] = t10;
            x[2] = t11;
        }
    };
};

template <typename T>
struct LinearMomentumCentered {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 4;
    static constexpr unsigned kLooked = 3;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 15;
        T w_hi, w_lo, w_b, b_w, b_hi, derived_0, derived_1, v_hi, derived_2, derived_3;

        Settle(const T* c, const double*) {
            const T given_b_lo = c[5];
            const T given_v_lo = c[7];
            w_hi = c[0];
            w_lo = c[1];
            w_b = c[2];
            b_w = c[3];
            b_hi = c[4];
            v_hi = c[6];
            const bool t8 = (b_hi < T(0.5)) && (magnitude(given_b_lo) == b_hi);
            const bool t9 = (v_hi < T(0.5)) && (magnitude(given_v_lo) == v_hi);
            const T t10 = t9 ? given_v_lo : T(1.0);
            const T t11 = t9 ? T(0.0) : given_v_lo;
            derived_0 = t8 ? given_b_lo : T(1.0);
            derived_1 = t8 ? T(0.0) : given_b_lo;
            derived_2 = t10;
            derived_3 = t11;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T momentum = x[1];
            const T velocity = x[2];
            const T average_gradient = x[3];
            const T t10 = momentum * w_b;
            const T t11 = (b_w != T(0)) ? (w * b_w) : T(0.0);
            const T t12 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t11) : (((momentum * b_hi) * derived_0) + ((momentum * derived_1) + t11));
            const T t13 = (magnitude(velocity) == kInfinity<T>) ? (velocity + T(0.0)) : (((velocity * v_hi) * derived_2) + ((velocity * derived_3) + T(0.0)));
            const T t14 = (magnitude(average_gradient) == kInfinity<T>) ? (average_gradient + T(0.0)) : (((average_gradient * v_hi) * derived_2) + ((average_gradient * derived_3) + T(0.0)));
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t10) : t10);
            x[1] = t12;
            x[2] = t13;
            x[3] = t14;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, w_b, share, v_hi, v_lo, inside, outside, g_w, b_w, g_b, b_hi, b_lo;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            w_b = s[2];
            share = s[10];
            v_hi = s[8];
            v_lo = s[9];
            inside = s[11];
            outside = s[12];
            g_w = s[6];
            b_w = s[3];
            g_b = s[7];
            b_hi = s[4];
            b_lo = s[5];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T velocity = x[2];
            const T average_gradient = x[3];
            const T t13 = g * share;
            const T t14 = t13 * g;
            const T t15 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t14) : ((velocity * v_hi) + ((velocity * v_lo) + t14));
            const T t16 = (magnitude(average_gradient) == kInfinity<T>) ? (average_gradient + t13) : ((average_gradient * v_hi) + ((average_gradient * v_lo) + t13));
            const T t17 = g / (root(((t15 - (t16 * t16)) + inside)) + outside);
            const T t18 = (momentum * w_b) + (t17 * g_w);
            const T t19 = t17 * g_b;
            const T t20 = (b_w != T(0)) ? ((w * b_w) + t19) : t19;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t18) : t18);
            x[1] = (magnitude(momentum) == kInfinity<T>) ? (momentum + t20) : ((momentum * b_hi) + ((momentum * b_lo) + t20));
            x[2] = t15;
            x[3] = t16;
        }
    };
};

template <typename T>
struct LinearDelta {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 1;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 7;
        T w_lo, w_hi, v_hi, derived_0, derived_1;

        Settle(const T* c, const double*) {
            const T given_v_lo = c[7];
            w_lo = c[1];
            w_hi = c[0];
            v_hi = c[6];
            const bool t4 = (v_hi < T(0.5)) && (magnitude(given_v_lo) == v_hi);
            const T t5 = t4 ? given_v_lo : T(1.0);
            const T t6 = t4 ? T(0.0) : given_v_lo;
            derived_0 = t5;
            derived_1 = t6;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T velocity = x[1];
            const T delta = x[2];
            const T t5 = w * w_hi;
            const T t6 = (magnitude(velocity) == kInfinity<T>) ? (velocity + T(0.0)) : (((velocity * v_hi) * derived_0) + ((velocity * derived_1) + T(0.0)));
            const T t7 = (magnitude(delta) == kInfinity<T>) ? (delta + T(0.0)) : (((delta * v_hi) * derived_0) + ((delta * derived_1) + T(0.0)));
            x[0] = (w_lo != T(0)) ? (t5 + (w * w_lo)) : t5;
            x[1] = t6;
            x[2] = t7;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, inside, share, v_hi, v_lo, g_w;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            inside = s[11];
            share = s[10];
            v_hi = s[8];
            v_lo = s[9];
            g_w = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T velocity = x[1];
            const T delta = x[2];
            const T t7 = (g * share) * g;
            const T t8 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t7) : ((velocity * v_hi) + ((velocity * v_lo) + t7));
            const T t9 = (g * root((delta + inside))) / root((t8 + inside));
            const T t10 = t9 * g_w;
            const T t11 = (t9 * share) * t9;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t10) : t10);
            x[1] = t8;
            x[2] = (magnitude(delta) == kInfinity<T>) ? (delta + t11) : ((delta * v_hi) + ((delta * v_lo) + t11));
        }
    };
};

template <typename T>
struct RowwiseSum {
    static constexpr unsigned kOfRow = 2;
    using Line = T;
    static constexpr int kArrays = 2;
    static constexpr unsigned kLooked = 1;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 1;
        T w_lo, w_hi;

        Settle(const T* c, const double*) {
            w_lo = c[1];
            w_hi = c[0];
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T t2 = w * w_hi;
            x[0] = (w_lo != T(0)) ? (t2 + (w * w_lo)) : t2;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, inside, outside, g_w;
        T mean_square{};  // the gradient's over the row: to be set before the calls

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            inside = s[11];
            outside = s[12];
            g_w = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T sum = x[1];
            const T t6 = sum + mean_square;
            const T t7 = (g / (root((t6 + inside)) + outside)) * g_w;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t7) : t7);
            x[1] = t6;
        }
    };
};

template <typename T>
struct MeasureSecondMoment : Panels<T, 3, false> {
    static constexpr unsigned kOfRow = 0;
    struct Update {
        T w_hi, w_lo, m_g, m_hi, m_lo, alpha, v_g, v_hi, v_lo, c, epsilon;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            m_g = s[4];
            m_hi = s[2];
            m_lo = s[3];
            alpha = s[8];
            v_g = s[7];
            v_hi = s[5];
            v_lo = s[6];
            c = s[10];
            epsilon = s[11];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T velocity = x[2];
            const T t11 = g * m_g;
            const T t12 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t11) : ((momentum * m_hi) + ((momentum * m_lo) + t11));
            const T t13 = (g * v_g) * g;
            const T t14 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t13) : ((velocity * v_hi) + ((velocity * v_lo) + t13));
            const T t15 = (t12 * alpha) / ((root(t14) * c) + epsilon);
            x[0] = (w * w_hi) - ((w_lo != T(0)) ? (t15 - (w * w_lo)) : t15);
            x[1] = t12;
            x[2] = t14;
        }
    };
};

template <typename T>
struct MeasureLargestSecondMoment : Panels<T, 4, false> {
    static constexpr unsigned kOfRow = 0;
    struct Update {
        T w_hi, w_lo, m_g, m_hi, m_lo, alpha, v_g, v_hi, v_lo, c, epsilon;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            m_g = s[4];
            m_hi = s[2];
            m_lo = s[3];
            alpha = s[8];
            v_g = s[7];
            v_hi = s[5];
            v_lo = s[6];
            c = s[10];
            epsilon = s[11];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T velocity = x[2];
            const T largest_velocity = x[3];
            const T t11 = g * m_g;
            const T t12 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t11) : ((momentum * m_hi) + ((momentum * m_lo) + t11));
            const T t13 = (g * v_g) * g;
            const T t14 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t13) : ((velocity * v_hi) + ((velocity * v_lo) + t13));
            const T t15 = largest(largest_velocity, t14);
            const T t16 = (t12 * alpha) / ((root(t15) * c) + epsilon);
            x[0] = (w * w_hi) - ((w_lo != T(0)) ? (t16 - (w * w_lo)) : t16);
            x[1] = t12;
            x[2] = t14;
            x[3] = t15;
        }
    };
};

template <typename T>
struct MeasureNorm : Panels<T, 3, true> {
    static constexpr unsigned kOfRow = 0;
    struct Update {
        T w_hi, w_lo, m_g, m_hi, m_lo, alpha, v_hi, v_lo, c, epsilon;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            m_g = s[4];
            m_hi = s[2];
            m_lo = s[3];
            alpha = s[8];
            v_hi = s[5];
            v_lo = s[6];
            c = s[10];
            epsilon = s[11];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T norm = x[2];
            const T t10 = g * m_g;
            const T t11 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t10) : ((momentum * m_hi) + ((momentum * m_lo) + t10));
            const T t12 = largest(((magnitude(norm) == kInfinity<T>) ? (norm + T(0.0)) : ((norm * v_hi) + ((norm * v_lo) + T(0.0)))), magnitude(g));
            const T t13 = (t11 * alpha) / ((t12 * c) + epsilon);
            x[0] = (w * w_hi) - ((w_lo != T(0)) ? (t13 - (w * w_lo)) : t13);
            x[1] = t11;
            x[2] = t12;
        }
    };
};

template <typename T>
struct MeasureSecondMomentNesterov : Panels<T, 3, false> {
    static constexpr unsigned kOfRow = 0;
    struct Update {
        T w_hi, w_lo, gamma, m_g, m_hi, m_lo, alpha, v_g, v_hi, v_lo, c, epsilon;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            gamma = s[9];
            m_g = s[4];
            m_hi = s[2];
            m_lo = s[3];
            alpha = s[8];
            v_g = s[7];
            v_hi = s[5];
            v_lo = s[6];
            c = s[10];
            epsilon = s[11];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T velocity = x[2];
            const T t12 = g * m_g;
            const T t13 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t12) : ((momentum * m_hi) + ((momentum * m_lo) + t12));
            const T t14 = t13 * alpha;
            const T t15 = (g * v_g) * g;
            const T t16 = (magnitude(velocity) == kInfinity<T>) ? (velocity + t15) : ((velocity * v_hi) + ((velocity * v_lo) + t15));
            const T t17 = ((gamma != T(0)) ? (t14 + (g * gamma)) : t14) / ((root(t16) * c) + epsilon);
            x[0] = (w * w_hi) - ((w_lo != T(0)) ? (t17 - (w * w_lo)) : t17);
            x[1] = t13;
            x[2] = t16;
        }
    };
};

template <typename T>
struct Crossing : CrossingSettle<T> {
    static constexpr unsigned kOfRow = 0;
    struct Update {
        T m_g, m_hi, m_lo, alpha, u_hi, u_lo, epsilon;

        Update(const T* s, const double*) {
            m_g = s[2];
            m_hi = s[0];
            m_lo = s[1];
            alpha = s[5];
            u_hi = s[3];
            u_lo = s[4];
            epsilon = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T norm = x[2];
            const T t7 = g * m_g;
            const T t8 = (magnitude(momentum) == kInfinity<T>) ? (momentum + t7) : ((momentum * m_hi) + ((momentum * m_lo) + t7));
            const T t9 = largest(((magnitude(norm) == kInfinity<T>) ? (norm + T(0.0)) : ((norm * u_hi) + ((norm * u_lo) + T(0.0)))), (magnitude(g) + epsilon));
            x[0] = w - ((t8 * alpha) / t9);
            x[1] = t8;
            x[2] = t9;
        }
    };
};

template <typename T>
struct Sign {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 2;
    static constexpr unsigned kLooked = 3;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 3;
        T w_hi, w_lo, rates, m_hi, derived_0, derived_1, k_floor;

        Settle(const T* c, const double* k) {
            const T given_m_lo = c[4];
            w_hi = c[0];
            w_lo = c[1];
            rates = c[2];
            m_hi = c[3];
            k_floor = static_cast<T>(k[0]);
            const bool t6 = (m_hi < T(0.5)) && (magnitude(given_m_lo) == m_hi);
            derived_0 = t6 ? given_m_lo : T(1.0);
            derived_1 = t6 ? T(0.0) : given_m_lo;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T momentum = x[1];
            const T t7 = sign_of(momentum);
            const T t8 = t7 * rates;
            const T t9 = magnitude(momentum);
            const T t10 = largest(((magnitude(t9) == kInfinity<T>) ? (t9 + T(0.0)) : (((t9 * m_hi) * derived_0) + ((t9 * derived_1) + T(0.0)))), k_floor);
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t8) : t8);
            x[1] = t7 * t10;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_hi, w_lo, beta_1, share, rate, m_g, m_hi, m_lo;

        Update(const T* s, const double*) {
            w_hi = s[0];
            w_lo = s[1];
            beta_1 = s[3];
            share = s[4];
            rate = s[2];
            m_g = s[7];
            m_hi = s[5];
            m_lo = s[6];
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T momentum = x[1];
            const T t8 = sign_of(((momentum * beta_1) + (g * share))) * rate;
            const T t9 = g * m_g;
            x[0] = (w * w_hi) + ((w_lo != T(0)) ? ((w * w_lo) + t8) : t8);
            x[1] = (magnitude(momentum) == kInfinity<T>) ? (momentum + t9) : ((momentum * m_hi) + ((momentum * m_lo) + t9));
        }
    };
};

template <typename T>
struct ClosedForm {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 7;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 1;
        T k_l1, derived_0, k_beta, k_over_rate, k_twice_l2;
        double k_exponent;

        Settle(const T*, const double* k) {
            k_l1 = static_cast<T>(k[3]);
            k_exponent = k[5];
            k_beta = static_cast<T>(k[4]);
            k_over_rate = static_cast<T>(k[0]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x) const {
            const T accumulator = x[1];
            const T linear = x[2];
            const T t6 = (smallest(largest(linear, derived_0), k_l1) - linear) / (((static_cast<T>(power(accumulator, k_exponent)) + k_beta) * k_over_rate) + k_twice_l2);
            x[0] = t6;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_lo, w_hi, k_twice_shrinkage, over_rate, k_l1, derived_0, k_beta, k_twice_l2;
        double k_exponent;

        Update(const T* s, const double* k) {
            w_lo = s[1];
            w_hi = s[0];
            k_twice_shrinkage = static_cast<T>(k[1]);
            k_exponent = k[5];
            over_rate = s[2];
            k_l1 = static_cast<T>(k[3]);
            k_beta = static_cast<T>(k[4]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T accumulator = x[1];
            const T linear = x[2];
            const T t9 = w * w_hi;
            const T t10 = (w_lo != T(0)) ? (t9 + (w * w_lo)) : t9;
            const T t11 = accumulator + (g * g);
            const double t12 = power(t11, k_exponent);
            const T t13 = (g + (t10 * k_twice_shrinkage)) - ((static_cast<T>((t12 - power(accumulator, k_exponent))) * over_rate) * t10);
            const T t14 = linear + t13;
            const T t15 = (smallest(largest(t14, derived_0), k_l1) - t14) / (((static_cast<T>(t12) + k_beta) * over_rate) + k_twice_l2);
            x[0] = t15;
            x[1] = t11;
            x[2] = t14;
        }
    };
};

template <typename T>
struct ClosedFormRoot {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 7;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 1;
        T k_l1, derived_0, k_beta, k_over_rate, k_twice_l2;

        Settle(const T*, const double* k) {
            k_l1 = static_cast<T>(k[3]);
            k_beta = static_cast<T>(k[4]);
            k_over_rate = static_cast<T>(k[0]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x) const {
            const T accumulator = x[1];
            const T linear = x[2];
            const T t5 = (smallest(largest(linear, derived_0), k_l1) - linear) / (((root(accumulator) + k_beta) * k_over_rate) + k_twice_l2);
            x[0] = t5;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_lo, w_hi, k_twice_shrinkage, over_rate, k_l1, derived_0, k_beta, k_twice_l2;

        Update(const T* s, const double* k) {
            w_lo = s[1];
            w_hi = s[0];
            k_twice_shrinkage = static_cast<T>(k[1]);
            over_rate = s[2];
            k_l1 = static_cast<T>(k[3]);
            k_beta = static_cast<T>(k[4]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T accumulator = x[1];
            const T linear = x[2];
            const T t8 = w * w_hi;
            const T t9 = (w_lo != T(0)) ? (t8 + (w * w_lo)) : t8;
            const T t10 = accumulator + (g * g);
            const T t11 = root(t10);
            const T t12 = linear + ((g + (t9 * k_twice_shrinkage)) - (((t11 - root(accumulator)) * over_rate) * t9));
            x[0] = (smallest(largest(t12, derived_0), k_l1) - t12) / (((t11 + k_beta) * over_rate) + k_twice_l2);
            x[1] = t10;
            x[2] = t12;
        }
    };
};

template <typename T>
struct ClosedFormShrinks {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 7;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 5;
        T first, k_l1, derived_0, k_least, k_beta, series, series_0, series_1, series_2, series_3, series_4, series_5, series_6, series_7, series_8, series_9, series_10, series_11, series_12, series_13, series_14, k_over_rate, k_twice_l2;
        double k_exponent;

        Settle(const T* c, const double* k) {
            first = c[0];
            k_l1 = static_cast<T>(k[3]);
            k_least = static_cast<T>(k[6]);
            k_exponent = k[5];
            k_beta = static_cast<T>(k[4]);
            series = c[1];
            series_0 = c[2];
            series_1 = c[3];
            series_2 = c[4];
            series_3 = c[5];
            series_4 = c[6];
            series_5 = c[7];
            series_6 = c[8];
            series_7 = c[9];
            series_8 = c[10];
            series_9 = c[11];
            series_10 = c[12];
            series_11 = c[13];
            series_12 = c[14];
            series_13 = c[15];
            series_14 = c[16];
            k_over_rate = static_cast<T>(k[0]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T accumulator = x[1];
            const T linear = x[2];
            const T t24 = linear + (w * first);
            const T t25 = smallest(largest(t24, derived_0), k_l1);
            const T t26 = static_cast<T>(power(accumulator, k_exponent)) + k_beta;
            const T t27 = k_least / t26;
            const T t28 = (T(2) * t27) - T(1);
            const T t29 = T(2) * t28;
            const T t30 = T(0) * t28;
            const T t31 = (series_14 + (t29 * t30)) - t30;
            const T t32 = (series_13 + (t29 * t31)) - t30;
            const T t33 = (series_12 + (t29 * t32)) - t31;
            const T t34 = (series_11 + (t29 * t33)) - t32;
            const T t35 = (series_10 + (t29 * t34)) - t33;
            const T t36 = (series_9 + (t29 * t35)) - t34;
            const T t37 = (series_8 + (t29 * t36)) - t35;
            const T t38 = (series_7 + (t29 * t37)) - t36;
            const T t39 = (series_6 + (t29 * t38)) - t37;
            const T t40 = (series_5 + (t29 * t39)) - t38;
            const T t41 = (series_4 + (t29 * t40)) - t39;
            const T t42 = (series_3 + (t29 * t41)) - t40;
            const T t43 = (series_2 + (t29 * t42)) - t41;
            const T t44 = (series_1 + (t29 * t43)) - t42;
            const T t45 = (t24 - t25) * exponential((t27 * ((series + (t28 * ((series_0 + (t29 * t44)) - t43))) - t44)));
            x[0] = -t45 / ((t26 * k_over_rate) + k_twice_l2);
            x[2] = t25 + t45;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_lo, w_hi, k_twice_shrinkage, over_rate, k_l1, derived_0, k_beta, k_twice_l2;
        double k_exponent;

        Update(const T* s, const double* k) {
            w_lo = s[1];
            w_hi = s[0];
            k_twice_shrinkage = static_cast<T>(k[1]);
            k_exponent = k[5];
            over_rate = s[2];
            k_l1 = static_cast<T>(k[3]);
            k_beta = static_cast<T>(k[4]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T accumulator = x[1];
            const T linear = x[2];
            const T t9 = w * w_hi;
            const T t10 = (w_lo != T(0)) ? (t9 + (w * w_lo)) : t9;
            const T t11 = accumulator + (g * g);
            const double t12 = power(t11, k_exponent);
            const T t13 = (g + (t10 * k_twice_shrinkage)) - ((static_cast<T>((t12 - power(accumulator, k_exponent))) * over_rate) * t10);
            const T t14 = linear + t13;
            const T t15 = (smallest(largest(t14, derived_0), k_l1) - t14) / (((static_cast<T>(t12) + k_beta) * over_rate) + k_twice_l2);
            x[0] = t15;
            x[1] = t11;
            x[2] = t14;
        }
    };
};

template <typename T>
struct ClosedFormShrinksRoot {
    static constexpr unsigned kOfRow = 0;
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 7;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 5;
        T first, k_l1, derived_0, k_least, k_beta, series, series_0, series_1, series_2, series_3, series_4, series_5, series_6, series_7, series_8, series_9, series_10, series_11, series_12, series_13, series_14, k_over_rate, k_twice_l2;

        Settle(const T* c, const double* k) {
            first = c[0];
            k_l1 = static_cast<T>(k[3]);
            k_least = static_cast<T>(k[6]);
            k_beta = static_cast<T>(k[4]);
            series = c[1];
            series_0 = c[2];
            series_1 = c[3];
            series_2 = c[4];
            series_3 = c[5];
            series_4 = c[6];
            series_5 = c[7];
            series_6 = c[8];
            series_7 = c[9];
            series_8 = c[10];
            series_9 = c[11];
            series_10 = c[12];
            series_11 = c[13];
            series_12 = c[14];
            series_13 = c[15];
            series_14 = c[16];
            k_over_rate = static_cast<T>(k[0]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x) const {
            const T w = x[0];
            const T accumulator = x[1];
            const T linear = x[2];
            const T t23 = linear + (w * first);
            const T t24 = smallest(largest(t23, derived_0), k_l1);
            const T t25 = root(accumulator) + k_beta;
            const T t26 = k_least / t25;
            const T t27 = (T(2) * t26) - T(1);
            const T t28 = T(2) * t27;
            const T t29 = T(0) * t27;
            const T t30 = (series_14 + (t28 * t29)) - t29;
            const T t31 = (series_13 + (t28 * t30)) - t29;
            const T t32 = (series_12 + (t28 * t31)) - t30;
            const T t33 = (series_11 + (t28 * t32)) - t31;
            const T t34 = (series_10 + (t28 * t33)) - t32;
            const T t35 = (series_9 + (t28 * t34)) - t33;
            const T t36 = (series_8 + (t28 * t35)) - t34;
            const T t37 = (series_7 + (t28 * t36)) - t35;
            const T t38 = (series_6 + (t28 * t37)) - t36;
            const T t39 = (series_5 + (t28 * t38)) - t37;
            const T t40 = (series_4 + (t28 * t39)) - t38;
            const T t41 = (series_3 + (t28 * t40)) - t39;
            const T t42 = (series_2 + (t28 * t41)) - t40;
            const T t43 = (series_1 + (t28 * t42)) - t41;
            const T t44 = (t23 - t24) * exponential((t26 * ((series + (t27 * ((series_0 + (t28 * t43)) - t42))) - t43)));
            x[0] = -t44 / ((t25 * k_over_rate) + k_twice_l2);
            x[2] = t24 + t44;
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        f(Settle(c, formula.parameters));
    }

    struct Update {
        T w_lo, w_hi, k_twice_shrinkage, over_rate, k_l1, derived_0, k_beta, k_twice_l2;

        Update(const T* s, const double* k) {
            w_lo = s[1];
            w_hi = s[0];
            k_twice_shrinkage = static_cast<T>(k[1]);
            over_rate = s[2];
            k_l1 = static_cast<T>(k[3]);
            k_beta = static_cast<T>(k[4]);
            k_twice_l2 = static_cast<T>(k[2]);
            derived_0 = -k_l1;
        }

        inline void operator()(T* x, T g) const {
            const T w = x[0];
            const T accumulator = x[1];
            const T linear = x[2];
            const T t8 = w * w_hi;
            const T t9 = (w_lo != T(0)) ? (t8 + (w * w_lo)) : t8;
            const T t10 = accumulator + (g * g);
            const T t11 = root(t10);
            const T t12 = linear + ((g + (t9 * k_twice_shrinkage)) - (((t11 - root(accumulator)) * over_rate) * t9));
            x[0] = (smallest(largest(t12, derived_0), k_l1) - t12) / (((t11 + k_beta) * over_rate) + k_twice_l2);
            x[1] = t10;
            x[2] = t12;
        }
    };
};

// Calls f.template operator()<Law>() with the law of this number.
template <typename T, typename F>
inline void with_law(int law, F&& f) {
    switch (law) {
        case kLinear: return f.template operator()<Linear<T>>();
        case kLinearMomentum: return f.template operator()<LinearMomentum<T>>();
        case kLinearSum: return f.template operator()<LinearSum<T>>();
        case kLinearMean: return f.template operator()<LinearMean<T>>();
        case kLinearMomentumMean: return f.template operator()<LinearMomentumMean<T>>();
        case kLinearCentered: return f.template operator()<LinearCentered<T>>();
        case kLinearMomentumCentered: return f.template operator()<LinearMomentumCentered<T>>();
        case kLinearDelta: return f.template operator()<LinearDelta<T>>();
        case kRowwiseSum: return f.template operator()<RowwiseSum<T>>();
        case kMeasureSecondMoment: return f.template operator()<MeasureSecondMoment<T>>();
        case kMeasureLargestSecondMoment: return f.template operator()<MeasureLargestSecondMoment<T>>();
        case kMeasureNorm: return f.template operator()<MeasureNorm<T>>();
        case kMeasureSecondMomentNesterov: return f.template operator()<MeasureSecondMomentNesterov<T>>();
        case kCrossing: return f.template operator()<Crossing<T>>();
        case kSign: return f.template operator()<Sign<T>>();
        case kClosedForm: return f.template operator()<ClosedForm<T>>();
        case kClosedFormRoot: return f.template operator()<ClosedFormRoot<T>>();
        case kClosedFormShrinks: return f.template operator()<ClosedFormShrinks<T>>();
        case kClosedFormShrinksRoot: return f.template operator()<ClosedFormShrinksRoot<T>>();
    }
}

// The linear family: SGD, Adagrad, RMSprop, Adadelta (src/unhot/rules/linear.py).

enum Divisor { kNone = 0, kSum = 1, kMean = 2, kCentered = 3, kDelta = 4 };

template <typename T, bool MOMENTUM, int DIVISOR>
struct Linear {
    using Line = T;
    static constexpr int kAverage = MOMENTUM ? 2 : 1;  // where the averages begin in the state
    static constexpr int kArrays = kAverage + (DIVISOR == kNone ? 0 : DIVISOR < kCentered ? 1 : 2);
    static constexpr unsigned kLooked = MOMENTUM ? 3 : 1;
    static constexpr bool kDecays = DIVISOR >= kMean;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = kDecays ? kAllArrays : kLooked;
        WeightPair<T> w_pair;
        CarriedPair<T> b_pair, v_pair;
        T w_b, b_w;

        inline void operator()(T* x) const {
            const T w = x[0];
            if constexpr (MOMENTUM) {
                const T b = x[1];
                x[0] = w_pair(w, b * w_b);
                x[1] = b_pair(b, b_w != T(0) ? w * b_w : T(0));
            } else {
                x[0] = w_pair(w);
            }
            if constexpr (kDecays) x[kAverage] = v_pair(x[kAverage]);
            if constexpr (DIVISOR >= kCentered) x[kAverage + 1] = v_pair(x[kAverage + 1]);
        }
    };

    template <typename F>
    static inline void with_settle(const Rule&, const T* c, F f) {
        f(Settle{{c[0], c[1]}, {c[4], c[5]}, {c[6], c[7]}, c[2], c[3]});
    }

    struct Update {
        WeightPair<T> w_pair;
        SlotPair<T> b_pair, v_pair;
        T w_b, b_w, g_w, g_b, share, inside, outside;

        Update(const Rule&, const T* s)
            : w_pair{s[0], s[1]}, b_pair{s[4], s[5]}, v_pair{s[8], s[9]}, w_b(s[2]), b_w(s[3]), g_w(s[6]), g_b(s[7]),
              share(s[10]), inside(s[11]), outside(s[12]) {}

        // The gradient over its divisor; moves the averages.
        inline T divided(T* x, T g) const {
            if constexpr (DIVISOR == kNone) return g;
            T& v = x[kAverage];
            if constexpr (DIVISOR == kSum) {
                v = v + g * g;
                return g / (root(v + inside) + outside);
            } else {
                v = v_pair(v, (g * share) * g);
                if constexpr (DIVISOR == kMean) return g / (root(v + inside) + outside);
                T& other = x[kAverage + 1];
                if constexpr (DIVISOR == kCentered) {
                    other = v_pair(other, g * share);
                    return g / (root((v - other * other) + inside) + outside);
                } else {
                    const T q = (g * root(other + inside)) / root(v + inside);
                    other = v_pair(other, (q * share) * q);
                    return q;
                }
            }
        }

        inline void operator()(T* x, T g) const {
            const T q = divided(x, g), w = x[0];
            if constexpr (MOMENTUM) {
                const T b = x[1];
                x[0] = w_pair(w, b * w_b + q * g_w);
                x[1] = b_pair(b, b_w != T(0) ? w * b_w + q * g_b : q * g_b);
            } else {
                x[0] = w_pair(w, q * g_w);
            }
        }
    };
};

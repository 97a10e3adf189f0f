// The family of closed forms: Ftrl (src/unhot/rules/closed_form.py).

template <typename T, bool SHRINKS>
struct ClosedForm {
    using Line = T;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 7;
    static constexpr int kTerms = 16;

    static inline T power_of(T x, double power) {
        return power == 0.5 ? root(x) : static_cast<T>(__builtin_pow(static_cast<double>(x), power));
    }

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = SHRINKS ? 5 : 1;
        const T* c;
        T over_rate, twice_l2, l1, beta, least;
        double power;

        Settle(const Rule& rule, const T* line) : c(line) {
            const double* p = rule.parameters;
            over_rate = static_cast<T>(p[0]), twice_l2 = static_cast<T>(p[1]), l1 = static_cast<T>(p[2]);
            beta = static_cast<T>(p[3]), power = p[4], least = static_cast<T>(p[5]);
        }

        inline void operator()(T* x) const {
            const T z = x[2], sum = power_of(x[1], power) + beta;
            if constexpr (SHRINKS) {
                const T first = z + x[0] * c[0];
                const T kept = smallest(largest(first, -l1), l1);
                const T part = least / sum, variable = T(2) * part - T(1);
                T before = T(0), after = T(0);
                for (int j = kTerms; j > 1; --j) {
                    const T next = c[j] + T(2) * variable * before - after;
                    after = before;
                    before = next;
                }
                const T y = (first - kept) * static_cast<T>(__builtin_exp(part * (c[1] + variable * before - after)));
                x[0] = -y / (sum * over_rate + twice_l2);
                x[2] = kept + y;
            } else {
                const T kept = smallest(largest(z, -l1), l1);
                x[0] = (kept - z) / (sum * over_rate + twice_l2);
            }
        }
    };

    template <typename F>
    static inline void with_settle(const Rule& rule, const T* c, F f) {
        f(Settle(rule, c));
    }

    struct Update {
        WeightPair<T> w_pair;
        T over_rate, twice_shrinkage, twice_l2, l1, beta;
        double power;

        Update(const Rule& rule, const T* s)
            : w_pair{s[0], s[1]}, over_rate(s[2]), twice_shrinkage(s[3]), twice_l2(s[4]), l1(s[5]), beta(s[6]),
              power(rule.parameters[4]) {}

        inline void operator()(T* x, T g) const {
            const T decayed = w_pair(x[0]), total = x[1] + g * g;
            T risen, rise;
            if (power == 0.5) {
                risen = root(total), rise = risen - root(x[1]);
            } else {  // what is left of the difference counts: it is formed before rounding
                const double wide = __builtin_pow(static_cast<double>(total), power);
                risen = static_cast<T>(wide), rise = static_cast<T>(wide - __builtin_pow(static_cast<double>(x[1]), power));
            }
            const T moved = (rise * over_rate) * decayed;
            x[2] = x[2] + ((g + decayed * twice_shrinkage) - moved);
            const T kept = smallest(largest(x[2], -l1), l1);
            x[0] = (kept - x[2]) / ((risen + beta) * over_rate + twice_l2);
            x[1] = total;
        }
    };
};

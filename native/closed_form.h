// The family of closed forms: Ftrl (src/unhot/rules/closed_form.py).

template <typename T, bool SHRINKS>
struct ClosedForm {
    static constexpr int kTerms = 16;

    static inline T power_of(T x, T power) {
        return power == T(0.5) ? root(x) : static_cast<T>(__builtin_pow(x, power));
    }

    static void settle(const Rule& rule, const T* c, T* const* state, T* out, int64_t dim, bool all) {
        const double* p = rule.parameters;
        const T over_rate = static_cast<T>(p[0]), twice_l2 = static_cast<T>(p[1]), l1 = static_cast<T>(p[2]);
        const T beta = static_cast<T>(p[3]), power = static_cast<T>(p[4]), least = static_cast<T>(p[5]);
        const T* w = state[0];
        const T* n = state[1];
        T* z = state[2];
        for (int64_t i = 0; i < dim; ++i) {
            const T x = power_of(n[i], power) + beta;
            if constexpr (SHRINKS) {
                const T first = z[i] + w[i] * c[0];
                const T kept = smallest(largest(first, -l1), l1);
                const T variable = T(2) * (least / x) - T(1);
                T before = T(0), after = T(0);
                for (int j = kTerms; j > 1; --j) {
                    const T next = c[j] + T(2) * variable * before - after;
                    after = before;
                    before = next;
                }
                const T y = (first - kept) * static_cast<T>(__builtin_exp(c[1] + variable * before - after));
                out[i] = -y / (x * over_rate + twice_l2);
                if (all) z[i] = kept + y;
            } else {
                const T kept = smallest(largest(z[i], -l1), l1);
                out[i] = (kept - z[i]) / (x * over_rate + twice_l2);
            }
        }
    }

    static void update(const Rule&, const T* s, T* const* state, const T* __restrict g, int64_t dim) {
        const Pair<T> w_pair{s[0], s[1]};
        const T over_rate = s[2], twice_shrinkage = s[3], twice_l2 = s[4], l1 = s[5], beta = s[6], power = s[7];
        T* __restrict w = state[0];
        T* __restrict n = state[1];
        T* __restrict z = state[2];
        for (int64_t i = 0; i < dim; ++i) {
            const T decayed = w_pair(w[i]), total = n[i] + g[i] * g[i], risen = power_of(total, power);
            const T moved = ((risen - power_of(n[i], power)) * over_rate) * decayed;
            z[i] = z[i] + ((g[i] + decayed * twice_shrinkage) - moved);
            const T kept = smallest(largest(z[i], -l1), l1);
            w[i] = (kept - z[i]) / ((risen + beta) * over_rate + twice_l2);
            n[i] = total;
        }
    }
};

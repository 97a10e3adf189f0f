// The family of signs: Lion (src/unhot/rules/sign.py).

template <typename T>
struct Sign {
    static void settle(const Rule& rule, const T* c, T* const* state, T* out, int64_t dim, bool all) {
        const Pair<T> w_pair{c[0], c[1]}, m_pair{c[6], c[7]};
        const T rates = c[2], floor = static_cast<T>(rule.parameters[0]);
        const T* w = state[0];
        T* m = state[1];
#pragma GCC ivdep
        for (int64_t i = 0; i < dim; ++i) {
            const T sign = sign_of(m[i]);
            out[i] = w_pair(w[i]) + sign * rates;
            if (all) m[i] = sign * largest(m_pair(magnitude(m[i])), floor);
        }
    }

    static void update(const Rule&, const T* s, T* const* state, const T* __restrict g, int64_t dim) {
        const Pair<T> w_pair{s[0], s[1]}, m_pair{s[5], s[6]};
        const T rate = s[2], beta_1 = s[3], share = s[4], m_g = s[7];
        T* __restrict w = state[0];
        T* __restrict m = state[1];
        for (int64_t i = 0; i < dim; ++i) {
            const T direction = sign_of(m[i] * beta_1 + g[i] * share);
            w[i] = w_pair(w[i]) + direction * rate;
            m[i] = m_pair(m[i]) + g[i] * m_g;
        }
    }
};

// The family of the crossing maximum: PyTorch's Adamax (src/unhot/rules/crossing.py).

template <typename T>
struct Crossing {
    static void settle(const Rule& rule, const double* c, T* const* state, T* out, int64_t dim, bool all) {
        const Pair<T> m_pair{static_cast<T>(c[0]), static_cast<T>(c[1])};
        const Pair<T> u_pair{static_cast<T>(c[2]), static_cast<T>(c[3])};
        const T total = static_cast<T>(c[4]), epsilon = static_cast<T>(rule.parameters[0]);
        const int64_t t = static_cast<int64_t>(c[5]);
        const T* w = state[0];
        T* m = state[1];
        T* u = state[2];
        for (int64_t i = 0; i < dim; ++i) {
            const T end = u_pair(u[i]);
            T movement = total / largest(u[i], epsilon);
            if (!(end >= epsilon)) movement = static_cast<T>(crossed(rule, static_cast<double>(u[i]), t));
            out[i] = w[i] - m[i] * movement;
            if (all) {
                m[i] = m_pair(m[i]);
                u[i] = largest(end, epsilon);
            }
        }
    }

    // head[J]/u + tail[J]/epsilon in double, where c_s u falls below epsilon after J steps.
    static double crossed(const Rule& rule, double u, int64_t t) {
        const double epsilon = rule.parameters[0], beta_2 = rule.parameters[1];
        const int64_t now = static_cast<int64_t>(rule.parameters[2]), mask = static_cast<int64_t>(rule.parameters[3]);
        u = largest(u, epsilon);
        const double steps = __builtin_floor(__builtin_log(u / epsilon) / -__builtin_log(beta_2));
        const double most = static_cast<double>(now - t);
        const int64_t j = steps > 0 ? static_cast<int64_t>(steps < most ? steps : most) : 0;
        const double* start = rule.table + 3 * (t & mask);
        const double* middle = rule.table + 3 * ((t + j) & mask);
        const double beta = __builtin_exp(middle[2] - start[2]);
        const double power = __builtin_pow(beta_2, static_cast<double>(j));
        return (start[0] - beta / power * middle[0]) / u + beta * middle[1] / epsilon;
    }

    static void update(const Rule&, const T* s, T* const* state, const T* __restrict g, int64_t dim) {
        const Pair<T> m_pair{s[0], s[1]}, u_pair{s[3], s[4]};
        const T m_g = s[2], alpha = s[5], epsilon = s[6];
        T* __restrict w = state[0];
        T* __restrict m = state[1];
        T* __restrict u = state[2];
        for (int64_t i = 0; i < dim; ++i) {
            m[i] = m_pair(m[i]) + g[i] * m_g;
            u[i] = largest(u_pair(u[i]), magnitude(g[i]) + epsilon);
            w[i] = w[i] - (m[i] * alpha) / u[i];
        }
    }
};

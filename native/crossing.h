// The family of the crossing maximum: PyTorch's Adamax (src/unhot/rules/crossing.py).

template <typename T>
struct Crossing {
    using Line = double;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 7;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 7;
        const Rule* rule;
        CarriedPair<T> m_pair, u_pair;
        T total, epsilon;
        int64_t t;

        inline void operator()(T* x) const {
            const T m = x[1], u = x[2], end = u_pair(u);
            T movement = (m / largest(u, epsilon)) * total;
            if (!(end >= epsilon)) movement = static_cast<T>(crossed(*rule, static_cast<double>(m), static_cast<double>(u), t));
            x[0] = x[0] - movement;
            x[1] = m_pair(m);
            x[2] = largest(end, epsilon);
        }
    };

    template <typename F>
    static inline void with_settle(const Rule& rule, const double* c, F f) {
        const auto narrow = [](double number) { return static_cast<T>(number); };
        f(Settle{&rule,
                 {narrow(c[0]), narrow(c[1])},
                 {narrow(c[2]), narrow(c[3])},
                 narrow(c[4]),
                 narrow(rule.parameters[0]),
                 static_cast<int64_t>(c[5])});
    }

    // m (head[J]/u + tail[J]/epsilon) in double, where c_s u falls below epsilon after J steps.
    static double crossed(const Rule& rule, double m, double u, int64_t t) {
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
        return (m / u) * (start[0] - beta / power * middle[0]) + (m * beta / epsilon) * middle[1];
    }

    struct Update {
        SlotPair<T> m_pair, u_pair;
        T m_g, alpha, epsilon;

        Update(const Rule&, const T* s) : m_pair{s[0], s[1]}, u_pair{s[3], s[4]}, m_g(s[2]), alpha(s[5]), epsilon(s[6]) {}

        inline void operator()(T* x, T g) const {
            x[1] = m_pair(x[1], g * m_g);
            x[2] = largest(u_pair(x[2]), magnitude(g) + epsilon);
            x[0] = x[0] - (x[1] * alpha) / x[2];
        }
    };
};

// What carries rows of PyTorch's Adamax over their deferred steps (src/unhot/laws/crossing.py).

template <typename T>
struct CrossingSettle {
    using Line = double;
    using C = CrossingCoefficients;
    using K = CrossingShared;
    static constexpr int kArrays = 3;
    static constexpr unsigned kLooked = 7;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 7;
        const Formula* formula;
        CarriedPair<T> m_pair, u_pair;
        T total, epsilon;
        int64_t t;

        inline void operator()(T* x) const {
            const T m = x[1], u = x[2], end = u_pair(u);
            T movement = (m / largest(u, epsilon)) * total;
            if (!(end >= epsilon))
                movement = static_cast<T>(crossed(*formula, static_cast<double>(m), static_cast<double>(u), t));
            x[0] = x[0] - movement;
            x[1] = m_pair(m);
            x[2] = largest(end, epsilon);
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const double* c, F f) {
        const auto narrow = [](double number) { return static_cast<T>(number); };
        f(Settle{&formula,
                 {narrow(c[C::m_hi]), narrow(c[C::m_lo])},
                 {narrow(c[C::u_hi]), narrow(c[C::u_lo])},
                 narrow(c[C::total]),
                 narrow(formula.parameters[K::epsilon]),
                 static_cast<int64_t>(c[C::start])});
    }

    // m (head[J]/u + tail[J]/epsilon) in double, where c_s u falls below epsilon after J steps.
    static double crossed(const Formula& formula, double m, double u, int64_t t) {
        const double epsilon = formula.parameters[K::epsilon], beta_2 = formula.parameters[K::beta_2];
        const int64_t now = static_cast<int64_t>(formula.parameters[K::now]),
                      mask = static_cast<int64_t>(formula.parameters[K::mask]);
        u = largest(u, epsilon);
        const double steps = __builtin_floor(__builtin_log(u / epsilon) / -__builtin_log(beta_2));
        const double most = static_cast<double>(now - t);
        const int64_t j = steps > 0 ? static_cast<int64_t>(steps < most ? steps : most) : 0;
        const double* start = formula.table + 3 * (t & mask);
        const double* middle = formula.table + 3 * ((t + j) & mask);
        const double beta = __builtin_exp(middle[2] - start[2]);
        const double power = __builtin_pow(beta_2, static_cast<double>(j));
        return (m / u) * (start[0] - beta / power * middle[0]) + (m * beta / epsilon) * middle[1];
    }
};

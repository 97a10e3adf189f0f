// The family of signs: Lion (src/unhot/rules/sign.py).

template <typename T>
struct Sign {
    using Line = T;
    static constexpr int kArrays = 2;
    static constexpr unsigned kLooked = 3;

    struct Settle {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 3;
        WeightPair<T> w_pair;
        CarriedPair<T> m_pair;
        T rates, floor;

        inline void operator()(T* x) const {
            const T sign = sign_of(x[1]);
            x[0] = w_pair(x[0], sign * rates);
            x[1] = sign * largest(m_pair(magnitude(x[1])), floor);
        }
    };

    template <typename F>
    static inline void with_settle(const Rule& rule, const T* c, F f) {
        f(Settle{{c[0], c[1]}, {c[6], c[7]}, c[2], static_cast<T>(rule.parameters[0])});
    }

    struct Update {
        WeightPair<T> w_pair;
        SlotPair<T> m_pair;
        T rate, beta_1, share, m_g;

        Update(const Rule&, const T* s)
            : w_pair{s[0], s[1]}, m_pair{s[5], s[6]}, rate(s[2]), beta_1(s[3]), share(s[4]), m_g(s[7]) {}

        inline void operator()(T* x, T g) const {
            const T direction = sign_of(x[1] * beta_1 + g * share);
            x[0] = w_pair(x[0], direction * rate);
            x[1] = m_pair(x[1], g * m_g);
        }
    };
};

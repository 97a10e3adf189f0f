// What carries rows of the step measure over their deferred steps: polynomials, one for each panel of points
// (src/unhot/laws/measure.py, docs/mathematics.md).

constexpr int kUnrolledTerms = 8;  // up to here the polynomial is unrolled into the loop over the elements

template <typename T, int ARRAYS, bool NORM>
struct Panels {
    using Line = T;
    using C = MeasureCoefficients;
    using K = MeasureShared;
    static constexpr int kArrays = ARRAYS;
    static constexpr int kRoot = kArrays - 1;  // where the root's square (NORM: the root) stands in the state
    static constexpr unsigned kLooked = 3 | 1 << kRoot;

    static inline T divisor(T x) { return NORM ? x : root(x); }

    // Whether no step has added to a panel so far.
    static inline bool empty(const T* panel, int used) {
        for (int j = 1; j <= used; ++j)
            if (panel[j] != T(0)) return false;
        return true;
    }

    // One centre: a square root, a division and a polynomial of fixed length, of which the first `used` terms count.
    template <int TERMS>
    struct OnePanel {
        static constexpr bool kByRow = false;
        static constexpr unsigned kWrites = 7;
        WeightPair<T> w_pair;
        CarriedPair<T> m_pair, v_pair;
        T epsilon, twice, centre, k[TERMS];

        OnePanel(const Formula& formula, const T* c, int used)
            : w_pair{c[C::w_hi], c[C::w_lo]}, m_pair{c[C::m_hi], c[C::m_lo]}, v_pair{c[C::v_hi], c[C::v_lo]},
              epsilon(static_cast<T>(formula.parameters[K::epsilon])), twice(epsilon + epsilon), centre(c[C::panels]) {
            for (int j = 0; j < TERMS; ++j) k[j] = j < used ? c[C::panels + 1 + j] : T(0);
        }

        inline void operator()(T* x) const {
            const T over = T(1) / (centre * divisor(x[kRoot]) + epsilon);
            const T u = T(1) - twice * over;
            T sum = k[TERMS - 1];
#pragma GCC unroll 8
            for (int j = TERMS - 2; j >= 0; --j) sum = sum * u + k[j];
            x[0] = w_pair.less(x[0], (x[1] * over) * sum);  // of untouched rows x[1] is 0, where sum * over may overflow
            x[1] = m_pair(x[1]);
            x[2] = v_pair(x[2]);
        }
    };

    // Many terms or panels: in groups of elements that stay in registers and the first cache.
    struct ManyPanels {
        static constexpr bool kByRow = true;
        static constexpr int kGroup = 16;
        const Formula& formula;
        const T* c;
        int panels, used;

        void row(T* const* state, T* out, int64_t dim, bool all) const {
            const WeightPair<T> w_pair{c[C::w_hi], c[C::w_lo]};
            const CarriedPair<T> m_pair{c[C::m_hi], c[C::m_lo]}, v_pair{c[C::v_hi], c[C::v_lo]};
            T* m = state[1];
            T* v = state[2];
            for (int64_t start = 0; start < dim; start += kGroup) {
                const int n = static_cast<int>(dim - start < kGroup ? dim - start : kGroup);
                T momentum[kGroup] = {}, distance[kGroup] = {}, total[kGroup] = {};
                for (int i = 0; i < n; ++i) momentum[i] = m[start + i];
                for (int i = 0; i < n; ++i) distance[i] = divisor(state[kRoot][start + i]);
                movement(momentum, distance, total);
                for (int i = 0; i < n; ++i) {
                    const int64_t at = start + i;
                    out[at] = w_pair.less(state[0][at], total[i]);
                    if (all) {
                        m[at] = m_pair(m[at]);
                        v[at] = v_pair(v[at]);
                    }
                }
            }
        }

        // The momenta times the sum of the panels at the roots `distance`.
        void movement(const T* momentum, const T* distance, T* total) const {
            const T epsilon = static_cast<T>(formula.parameters[K::epsilon]), twice = epsilon + epsilon;
            const int stride = 1 + static_cast<int>(formula.parameters[K::terms]);
            for (int p = 0; p < panels; ++p) {
                const T* panel = c + C::panels + p * stride;
                if (p > 0 && empty(panel, used)) continue;
                T over[kGroup], u[kGroup], sum[kGroup];
                for (int i = 0; i < kGroup; ++i) {
                    over[i] = T(1) / (panel[0] * distance[i] + epsilon);
                    u[i] = T(1) - twice * over[i];
                    sum[i] = panel[used];
                }
                for (int j = used - 1; j > 0; --j)
                    for (int i = 0; i < kGroup; ++i) sum[i] = sum[i] * u[i] + panel[j];
                for (int i = 0; i < kGroup; ++i) {
                    const T part = (momentum[i] * over[i]) * sum[i];
                    total[i] = p ? total[i] + part : part;
                }
            }
        }
    };

    template <typename F>
    static inline void with_settle(const Formula& formula, const T* c, F f) {
        const int used = static_cast<int>(c[C::used]), stride = 1 + static_cast<int>(formula.parameters[K::terms]);
        int panels = static_cast<int>(formula.parameters[K::panels]);
        while (panels > 1 && empty(c + C::panels + (panels - 1) * stride, used)) --panels;
        if (panels > 1 || used > kUnrolledTerms) return f(ManyPanels{formula, c, panels, used});
        // The lengths that the usual betas settle at, float32 and float64; each is compiled into three loops of its own.
        if (used <= 4) return f(OnePanel<4>(formula, c, used));
        if (used == 5) return f(OnePanel<5>(formula, c, used));
        return f(OnePanel<kUnrolledTerms>(formula, c, used));
    }
};

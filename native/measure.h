// The family of the step measure: Adam, AdamW, NAdam, Keras's Adamax (src/unhot/rules/measure.py, step_measure.py).

enum Root { kSecondMoment = 0, kLargestSecondMoment = 1, kNorm = 2 };

constexpr int kHead = 7;           // weight, momentum and moment pairs, and the number of terms
constexpr int kUnrolledTerms = 8;  // up to here the polynomial is unrolled into the loop over the elements

template <typename T, int ROOT>
struct Measure {
    static inline T divisor(const T* x, int64_t i) { return ROOT == kNorm ? x[i] : root(x[i]); }

    static void settle(const Rule& rule, const T* c, T* const* state, T* out, int64_t dim, bool all) {
        const int panels = static_cast<int>(rule.parameters[1]);
        const int used = static_cast<int>(c[6]);
        if (panels == 1 && used <= kUnrolledTerms) {
            all ? unrolled<true>(used, rule, c, state, out, dim) : unrolled<false>(used, rule, c, state, out, dim);
        } else {
            general(rule, c, state, out, dim, all, panels, used);
        }
    }

    template <bool ALL>
    static void unrolled(int used, const Rule& rule, const T* c, T* const* state, T* out, int64_t dim) {
        switch (used) {
            case 1: return one_panel<ALL, 1>(rule, c, state, out, dim);
            case 2: return one_panel<ALL, 2>(rule, c, state, out, dim);
            case 3: return one_panel<ALL, 3>(rule, c, state, out, dim);
            case 4: return one_panel<ALL, 4>(rule, c, state, out, dim);
            case 5: return one_panel<ALL, 5>(rule, c, state, out, dim);
            case 6: return one_panel<ALL, 6>(rule, c, state, out, dim);
            case 7: return one_panel<ALL, 7>(rule, c, state, out, dim);
            default: return one_panel<ALL, 8>(rule, c, state, out, dim);
        }
    }

    // One centre: a square root, a division and a polynomial of fixed length for each element.
    template <bool ALL, int TERMS>
    static void one_panel(const Rule& rule, const T* c, T* const* state, T* out, int64_t dim) {
        const Pair<T> w_pair{c[0], c[1]}, m_pair{c[2], c[3]}, v_pair{c[4], c[5]};
        const T epsilon = static_cast<T>(rule.parameters[0]), twice = epsilon + epsilon, centre = c[kHead];
        T k[TERMS];
        for (int j = 0; j < TERMS; ++j) k[j] = c[kHead + 1 + j];
        const T* w = state[0];
        const T* x = state[ROOT == kLargestSecondMoment ? 3 : 2];
        T* m = state[1];
        T* v = state[2];
#pragma GCC ivdep
        for (int64_t i = 0; i < dim; ++i) {
            const T over = T(1) / (centre * divisor(x, i) + epsilon);
            const T u = T(1) - twice * over;
            T sum = k[TERMS - 1];
#pragma GCC unroll 8
            for (int j = TERMS - 2; j >= 0; --j) sum = sum * u + k[j];
            const T moved = m[i] * (sum * over);
            out[i] = w_pair(w[i]) - moved;
            if (ALL) {
                m[i] = m_pair(m[i]);
                v[i] = v_pair(v[i]);
            }
        }
    }

    // Many terms or panels: element by element in groups that stay in registers and the first cache.
    static void general(
        const Rule& rule, const T* c, T* const* state, T* out, int64_t dim, bool all, int panels, int used) {
        constexpr int kGroup = 16;
        const Pair<T> w_pair{c[0], c[1]}, m_pair{c[2], c[3]}, v_pair{c[4], c[5]};
        const T epsilon = static_cast<T>(rule.parameters[0]), twice = epsilon + epsilon;
        const int stride = 1 + static_cast<int>(rule.parameters[2]);
        const T* x = state[ROOT == kLargestSecondMoment ? 3 : 2];
        T* m = state[1];
        T* v = state[2];
        for (int64_t start = 0; start < dim; start += kGroup) {
            const int n = static_cast<int>(dim - start < kGroup ? dim - start : kGroup);
            T distance[kGroup] = {}, total[kGroup] = {};
            for (int i = 0; i < n; ++i) distance[i] = divisor(x, start + i);
            for (int p = 0; p < panels; ++p) {
                const T* panel = c + kHead + p * stride;
                bool empty = p > 0;
                for (int j = 1; j <= used && empty; ++j) empty = panel[j] == T(0);
                if (empty) continue;
                T over[kGroup], u[kGroup], sum[kGroup];
                for (int i = 0; i < kGroup; ++i) {
                    over[i] = T(1) / (panel[0] * distance[i] + epsilon);
                    u[i] = T(1) - twice * over[i];
                    sum[i] = panel[used];
                }
                for (int j = used - 1; j > 0; --j)
                    for (int i = 0; i < kGroup; ++i) sum[i] = sum[i] * u[i] + panel[j];
                for (int i = 0; i < kGroup; ++i)
                    total[i] = p ? total[i] + sum[i] * over[i] : sum[i] * over[i];
            }
            for (int i = 0; i < n; ++i) {
                const int64_t at = start + i;
                out[at] = w_pair(state[0][at]) - m[at] * total[i];
                if (all) {
                    m[at] = m_pair(m[at]);
                    v[at] = v_pair(v[at]);
                }
            }
        }
    }

    static void update(const Rule&, const T* s, T* const* state, const T* __restrict g, int64_t dim) {
        s[9] != T(0) ? apply<true>(s, state, g, dim) : apply<false>(s, state, g, dim);
    }

    template <bool WITH_GRADIENT>
    static void apply(const T* s, T* const* state, const T* __restrict g, int64_t dim) {
        const Pair<T> w_pair{s[0], s[1]}, m_pair{s[2], s[3]}, v_pair{s[5], s[6]};
        const T m_g = s[4], v_g = s[7], alpha = s[8], gamma = s[9], c = s[10], epsilon = s[11];
        T* __restrict w = state[0];
        T* __restrict m = state[1];
        T* __restrict v = state[2];
        T* __restrict most = ROOT == kLargestSecondMoment ? state[3] : nullptr;
        for (int64_t i = 0; i < dim; ++i) {
            const T moment = m_pair(m[i]) + g[i] * m_g;
            T second = v_pair(v[i]), x;
            if constexpr (ROOT == kNorm) {
                second = largest(second, magnitude(g[i]));
                x = second;
            } else {
                second = second + (g[i] * g[i]) * v_g;
                if constexpr (ROOT == kLargestSecondMoment) {
                    most[i] = largest(most[i], second);
                    x = root(most[i]);
                } else {
                    x = root(second);
                }
            }
            const T numerator = WITH_GRADIENT ? moment * alpha + g[i] * gamma : moment * alpha;
            w[i] = w_pair(w[i]) - numerator / (x * c + epsilon);
            m[i] = moment;
            v[i] = second;
        }
    }
};

// The linear family: SGD, Adagrad, RMSprop, Adadelta (src/unhot/rules/linear.py).

enum Divisor { kNone = 0, kSum = 1, kMean = 2, kCentered = 3, kDelta = 4 };

template <typename T, bool MOMENTUM, int DIVISOR>
struct Linear {
    static constexpr bool kDecays = DIVISOR >= kMean;
    static constexpr int kAverage = MOMENTUM ? 2 : 1;  // where the averages begin in the state

    // out may be the weights themselves; with `all` the slots are settled in place too.
    static void settle(const Rule&, const T* c, T* const* state, T* out, int64_t dim, bool all) {
        const Pair<T> w_pair{c[0], c[1]}, b_pair{c[4], c[5]}, v_pair{c[6], c[7]};
        const T w_b = c[2], b_w = c[3];
        const T* w = state[0];
        T* b = MOMENTUM ? state[1] : nullptr;
        if (!MOMENTUM) {
#pragma GCC ivdep
            for (int64_t i = 0; i < dim; ++i) out[i] = w_pair(w[i]);
        } else if (!all) {
            for (int64_t i = 0; i < dim; ++i) out[i] = w_pair(w[i]) + b[i] * w_b;
        } else {
            T* __restrict ww = state[0];
            T* __restrict bb = state[1];
            for (int64_t i = 0; i < dim; ++i) {
                const T old_w = ww[i], old_b = bb[i], rest = b_pair(old_b);
                ww[i] = w_pair(old_w) + old_b * w_b;
                bb[i] = b_w != T(0) ? rest + old_w * b_w : rest;
            }
        }
        if (all && kDecays) {
            T* __restrict v = state[kAverage];
            for (int64_t i = 0; i < dim; ++i) v[i] = v_pair(v[i]);
            if (DIVISOR == kCentered || DIVISOR == kDelta) {
                T* __restrict other = state[kAverage + 1];
                for (int64_t i = 0; i < dim; ++i) other[i] = v_pair(other[i]);
            }
        }
    }

    static void update(const Rule&, const T* s, T* const* state, const T* __restrict g, int64_t dim) {
        const Pair<T> w_pair{s[0], s[1]}, b_pair{s[4], s[5]}, v_pair{s[8], s[9]};
        const T w_b = s[2], b_w = s[3], g_w = s[6], g_b = s[7], share = s[10], inside = s[11], outside = s[12];
        T* __restrict w = state[0];
        T* __restrict b = MOMENTUM ? state[1] : nullptr;
        T* __restrict v = DIVISOR != kNone ? state[kAverage] : nullptr;
        T* __restrict other = DIVISOR >= kCentered ? state[kAverage + 1] : nullptr;
        for (int64_t i = 0; i < dim; ++i) {
            T q = g[i];
            if constexpr (DIVISOR == kSum) {
                v[i] = v[i] + g[i] * g[i];
                q = g[i] / (root(v[i] + inside) + outside);
            } else if constexpr (DIVISOR == kMean) {
                v[i] = v_pair(v[i]) + (g[i] * g[i]) * share;
                q = g[i] / (root(v[i] + inside) + outside);
            } else if constexpr (DIVISOR == kCentered) {
                v[i] = v_pair(v[i]) + (g[i] * g[i]) * share;
                other[i] = v_pair(other[i]) + g[i] * share;
                q = g[i] / (root((v[i] - other[i] * other[i]) + inside) + outside);
            } else if constexpr (DIVISOR == kDelta) {
                v[i] = v_pair(v[i]) + (g[i] * g[i]) * share;
                q = (g[i] * root(other[i] + inside)) / root(v[i] + inside);
                other[i] = v_pair(other[i]) + (q * q) * share;
            }
            const T old_w = w[i];
            if constexpr (MOMENTUM) {
                const T old_b = b[i], rest = b_pair(old_b);
                w[i] = (w_pair(old_w) + old_b * w_b) + q * g_w;
                b[i] = (b_w != T(0) ? rest + old_w * b_w : rest) + q * g_b;
            } else {
                w[i] = w_pair(old_w) + q * g_w;
            }
        }
    }
};

// The instruction sets that the kernels are compiled for, and which of them is in use.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "job.h"

namespace unhot {

enum class Isa { portable, avx2, avx512 };

inline bool supported(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2");
    if (isa == Isa::avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw");
#endif
    return isa == Isa::portable;
}

inline Isa best() { return supported(Isa::avx512) ? Isa::avx512 : supported(Isa::avx2) ? Isa::avx2 : Isa::portable; }

inline Isa chosen = best();

inline const char* name_of(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable"; }

inline void use(const std::string& name) {
    for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
        if (name == name_of(isa)) {
            if (!supported(isa)) throw std::invalid_argument("this processor does not have " + name);
            chosen = isa;
            return;
        }
    throw std::invalid_argument("the instruction set must be 'portable', 'avx2' or 'avx512', not '" + name + "'");
}

template <typename T>
Functions<T> functions() {
#if defined(__x86_64__)
    if (chosen == Isa::avx512) return avx512::functions<T>();
    if (chosen == Isa::avx2) return avx2::functions<T>();
#endif
    return portable::functions<T>();
}

}  // namespace unhot

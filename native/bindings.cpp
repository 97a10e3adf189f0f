// The Python module unhot._native: checks of shapes and bounds, threads, and nothing of the mathematics.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "checks.h"
#include "coefficients.h"
#include "job.h"
#include "plan.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace unhot {
namespace {

template <typename T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kStreamingBytes = 8 << 20;  // outputs from this size on are written around the caches

enum class Isa { portable, avx2, avx512 };

bool supported(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2");
    if (isa == Isa::avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw");
#endif
    return isa == Isa::portable;
}

Isa best() { return supported(Isa::avx512) ? Isa::avx512 : supported(Isa::avx2) ? Isa::avx2 : Isa::portable; }

Isa chosen = best();

const char* name_of(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable"; }

void use(const std::string& name) {
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

int64_t py_group(In<int64_t, 1> ids, nb::object last, Out<int64_t, 1> rows, Out<int64_t, 1> order, Out<int64_t, 1> starts) {
    const auto count = ids.shape(0);
    check(rows.shape(0) >= count && order.shape(0) >= count && starts.shape(0) > count && count < (1u << 30),
          "group: rows and order must hold one number for each id, starts one more; at most 2**30 ids");
    const uint32_t* touches = last.is_none() ? nullptr : nb::cast<In<uint32_t, 1>>(last, false).data();
    nb::gil_scoped_release release;
    return group(ids.data(), static_cast<int64_t>(count), touches, rows.data(), order.data(), starts.data());
}

int64_t py_outside(In<int64_t, 1> ids, int64_t rows) {
    nb::gil_scoped_release release;
    return outside(ids.data(), static_cast<int64_t>(ids.shape(0)), rows);
}

bool py_same(In<int64_t, 1> ids, In<int64_t, 1> others) {
    return ids.shape(0) == others.shape(0) && std::equal(ids.data(), ids.data() + ids.shape(0), others.data());
}

int64_t py_last_steps(In<uint32_t, 1> last, In<int64_t, 1> rows, uint32_t now, Out<int64_t, 1> steps, Out<int32_t, 1> which) {
    const auto count = rows.shape(0);
    check(steps.shape(0) >= count && which.shape(0) >= count && count < (1u << 30),
          "last_steps: steps and which must hold one number for each row; at most 2**30 rows");
    nb::gil_scoped_release release;
    check_rows(rows.data(), static_cast<int64_t>(count), static_cast<int64_t>(last.shape(0)));
    return last_steps(last.data(), rows.data(), static_cast<int64_t>(count), now, steps.data(), which.data());
}

void py_matrix_extend(Out<double, 2> entries, In<double, 1> matrix, double average) {
    check(entries.shape(1) == 5 && matrix.shape(0) == 4, "matrix_extend: entries of 5 numbers, a matrix of 4");
    matrix_extend(entries.data(), static_cast<int64_t>(entries.shape(0)), matrix.data(), average);
}

void py_measure_extend(Out<double, 2> scale, Out<double, 2> suffix, Out<double, 3> polynomial, Out<int64_t, 1> used,
                       int64_t start, int64_t step, int64_t window, int64_t oldest, int64_t open, In<double, 1> powers,
                       In<int64_t, 1> panel_of, double height, In<double, 2> to_powers, std::array<double, 3> factors,
                       double rate, const std::vector<double>& centres) {
    const auto ring = static_cast<int64_t>(scale.shape(0));
    check_ring(ring);
    check(suffix.shape(0) > 0 && suffix.shape(0) <= scale.shape(0), "measure_extend: a suffix for each block");
    const auto block = ring / static_cast<int64_t>(suffix.shape(0));
    const auto terms = static_cast<int64_t>(to_powers.shape(0));
    check(scale.shape(1) == 3 && polynomial.shape(0) == scale.shape(0) && used.shape(0) == scale.shape(0) &&
              suffix.shape(1) == 3 && static_cast<int64_t>(suffix.shape(0)) * block == ring &&
              centres.size() == polynomial.shape(1) && oldest >= 0 && open - oldest <= ring / block &&
              to_powers.shape(1) == to_powers.shape(0) && terms >= 1 && terms <= 32 &&
              terms < static_cast<int64_t>(polynomial.shape(2)) && window < static_cast<int64_t>(powers.shape(0)) &&
              powers.shape(0) == panel_of.shape(0) && step - start <= ring,
          "measure_extend: the history's arrays do not fit together");
    const MeasureStep s{start,           step,   window,           oldest, open,           powers.data(),
                        panel_of.data(), height, to_powers.data(), terms,  factors.data(), rate,
                        centres.data()};
    nb::gil_scoped_release release;
    check_rows(panel_of.data(), static_cast<int64_t>(panel_of.shape(0)), static_cast<int64_t>(polynomial.shape(1)));
    measure_extend(Ring{ring - 1, block}, scale.data(), suffix.data(), polynomial.data(), used.data(),
                   static_cast<int64_t>(polynomial.shape(1)), static_cast<int64_t>(polynomial.shape(2)), s);
}

template <typename T>
void py_matrix_coefficients(int64_t block, In<double, 2> entry, In<double, 2> suffix, In<int64_t, 1> steps, Out<T, 2> out) {
    check(block > 0 && static_cast<int64_t>(suffix.shape(0)) * block >= static_cast<int64_t>(entry.shape(0)) &&
              entry.shape(1) == 5 && suffix.shape(1) == 5 && out.shape(0) == steps.shape(0) && out.shape(1) == 8,
          "matrix_coefficients: entries of 5, out of 8 numbers");
    check_ring(static_cast<int64_t>(entry.shape(0)));
    const Ring ring{static_cast<int64_t>(entry.shape(0)) - 1, block};
    nb::gil_scoped_release release;
    matrix_coefficients(ring, entry.data(), suffix.data(), steps.data(), static_cast<int64_t>(steps.shape(0)), out.data());
}

template <typename T>
void py_measure_coefficients(int64_t block, In<double, 2> scale, In<double, 2> suffix, In<double, 3> polynomial,
                             In<int64_t, 1> used, In<int64_t, 1> steps, Out<T, 2> out) {
    check(block > 0 && static_cast<int64_t>(suffix.shape(0)) * block >= static_cast<int64_t>(scale.shape(0)) &&
              scale.shape(1) == 3 && suffix.shape(1) == 3 && used.shape(0) == scale.shape(0) &&
              polynomial.shape(0) == scale.shape(0) && out.shape(0) == steps.shape(0) &&
              out.shape(1) == 7 + polynomial.shape(1) * polynomial.shape(2),
          "measure_coefficients: the history's arrays do not fit together, or out does not fit them");
    check_ring(static_cast<int64_t>(scale.shape(0)));
    const Ring ring{static_cast<int64_t>(scale.shape(0)) - 1, block};
    nb::gil_scoped_release release;
    measure_coefficients(ring, scale.data(), suffix.data(), polynomial.data(), used.data(),
                         static_cast<int64_t>(polynomial.shape(1)), static_cast<int64_t>(polynomial.shape(2)), steps.data(),
                         static_cast<int64_t>(steps.shape(0)), out.data());
}

template <typename T>
void py_gather(In<T, 2> weights, In<int64_t, 1> ids, Out<T, 2> out) {
    check(out.shape(0) == ids.shape(0) && out.shape(1) == weights.shape(1), "gather: out must be (ids, dim)");
    const auto bytes = static_cast<int64_t>(out.size() * sizeof(T));
    const Gather<T> job{weights.data(),
                        static_cast<int64_t>(weights.shape(0)),
                        static_cast<int64_t>(weights.shape(1)),
                        ids.data(),
                        out.data(),
                        bytes >= kStreamingBytes};
    nb::gil_scoped_release release;
    check_rows(ids.data(), static_cast<int64_t>(ids.shape(0)), static_cast<int64_t>(weights.shape(0)));
    const auto gather = functions<T>().gather;
    parallel(static_cast<int64_t>(ids.shape(0)), 2 * bytes, [&](int64_t b, int64_t e) { gather(job, b, e); });
}

template <typename T>
void py_pool(In<T, 2> values, In<int64_t, 1> ids, In<int64_t, 1> offsets, nb::object weights, int mode, Out<T, 2> out) {
    check(offsets.shape(0) == out.shape(0) + 1 && out.shape(1) == values.shape(1), "pool: out must be (bags, dim)");
    const double* factors = nullptr;
    if (!weights.is_none()) {
        auto array = nb::cast<In<double, 1>>(weights, false);
        check(array.shape(0) == ids.shape(0), "pool: weights must hold one number for each id");
        factors = array.data();
    }
    const Pool<T> job{values.data(), static_cast<int64_t>(values.shape(1)), ids.data(), offsets.data(), factors, mode,
                      out.data()};
    nb::gil_scoped_release release;
    check(mode >= 0 && mode <= 2, "pool: the mode must be 0, 1 or 2");
    check_rows(ids.data(), static_cast<int64_t>(ids.shape(0)), static_cast<int64_t>(values.shape(0)));
    check_starts(offsets.data(), static_cast<int64_t>(out.shape(0)), static_cast<int64_t>(ids.shape(0)));
    const auto pool = functions<T>().pool;
    const auto bytes = static_cast<int64_t>((ids.shape(0) + out.shape(0)) * out.shape(1) * sizeof(T));
    parallel(static_cast<int64_t>(out.shape(0)), bytes, [&](int64_t b, int64_t e) { pool(job, b, e); });
}

// What a job needs of the rule and the table.  The arrays are the caller's, and never converted: it keeps them alive.
template <typename T>
struct Table {
    Job<T> job{};
    LawSizes sizes{};
    int64_t height, width, count = 0, lines = 0;  // rows of the table and of the plan, lines of coefficients

    Table(nb::tuple rule, const Out<T, 2>& weights, nb::list slots) {
        check(nb::len(rule) == 3, "a rule is its law, parameters and table");
        job.rule.law = nb::cast<int>(rule[0]);
        check(job.rule.law >= 0 && job.rule.law < kLaws, "there is no such law");
        sizes = kLawSizes[job.rule.law];
        const auto parameters = nb::cast<In<double, 1>>(rule[1], false);
        job.rule.parameters = parameters.data();
        job.arrays = 1 + static_cast<int>(nb::len(slots));
        check(job.arrays == sizes.arrays, "the law has not as many slots");
        check(static_cast<int64_t>(parameters.shape(0)) == sizes.parameters, "the law has not as many parameters");
        width = width_of(job.rule.law, parameters.data());
        if (job.rule.law == kCrossing) {
            const auto sums = nb::cast<In<double, 2>>(rule[2], false);
            check_ring(static_cast<int64_t>(sums.shape(0)));
            check(static_cast<double>(sums.shape(0)) == parameters.data()[CrossingShared::mask] + 1 && sums.shape(1) == 3,
                  "the rule's table has another size");
            job.rule.table = sums.data();
        }
        height = static_cast<int64_t>(weights.shape(0));
        job.dim = static_cast<int64_t>(weights.shape(1));
        job.state[0] = weights.data();
        for (int a = 1; a < job.arrays; ++a) {
            const auto slot = nb::cast<Out<T, 2>>(slots[a - 1], false);
            check(slot.shape(0) == weights.shape(0) && slot.shape(1) == weights.shape(1), "slots must have the weights' shape");
            job.state[a] = slot.data();
        }
    }

    void plan(const In<int64_t, 1>& rows, nb::object which, nb::object coefficients) {
        job.rows = rows.data();
        count = static_cast<int64_t>(rows.shape(0));
        if (which.is_none()) return;
        const auto named = nb::cast<In<int32_t, 1>>(which, false);
        check(named.shape(0) == rows.shape(0), "which must hold one number for each row");
        job.which = named.data();
        if (job.rule.law == kCrossing)
            read(nb::cast<In<double, 2>>(coefficients, false));
        else
            read(nb::cast<In<T, 2>>(coefficients, false));
    }

    template <typename L>
    void read(const In<L, 2>& coefficients) {
        job.coefficients = coefficients.data();
        lines = static_cast<int64_t>(coefficients.shape(0));
        job.width = static_cast<int64_t>(coefficients.shape(1));
        check(job.width >= width, "a line of coefficients is too short for the rule");
    }

    void touches(const Out<uint32_t, 1>& last) {
        check(static_cast<int64_t>(last.shape(0)) == height, "last must hold one number for each row of the table");
        job.last = last.data();
    }

    // What takes a look at every number; the caller has let go of the interpreter.
    void check_numbers(int64_t places) const {
        check_rows(job.rows, count, height);
        if (job.which) check_lines(job.which, count, lines);
        if (job.which && sizes.panels)
            check_terms(static_cast<const T*>(job.coefficients), lines, job.width, job.rule.parameters[MeasureShared::terms]);
        if (job.starts) check_plan(job.order, places, job.starts, count);
    }

    int64_t bytes(size_t rows) const {
        return static_cast<int64_t>(rows) * job.dim * job.arrays * 2 * static_cast<int64_t>(sizeof(T));
    }
};

template <typename T>
void py_gather_settled(nb::tuple rule, Out<T, 2> weights, nb::list slots, In<int64_t, 1> rows, In<int64_t, 1> order,
                       In<int64_t, 1> starts, nb::object which, nb::object coefficients, Out<T, 2> out) {
    Table<T> table(rule, weights, slots);
    table.plan(rows, which, coefficients);
    check(starts.shape(0) == rows.shape(0) + 1 && order.shape(0) == out.shape(0) && out.shape(1) == weights.shape(1),
          "gather_settled: the plan does not fit out");
    check(table.job.which, "gather_settled: which must be given");
    table.job.order = order.data();
    table.job.starts = starts.data();
    table.job.out = out.data();
    nb::gil_scoped_release release;
    table.check_numbers(static_cast<int64_t>(order.shape(0)));
    const auto run = functions<T>().gather_settled;
    parallel(static_cast<int64_t>(rows.shape(0)), table.bytes(rows.shape(0)),
             [&](int64_t b, int64_t e) { run(table.job, b, e); });
}

template <typename T>
void py_settle(nb::tuple rule, Out<T, 2> weights, nb::list slots, Out<uint32_t, 1> last, In<int64_t, 1> rows, nb::object which,
               nb::object coefficients, uint32_t now) {
    Table<T> table(rule, weights, slots);
    table.plan(rows, which, coefficients);
    check(table.job.which, "settle: which must be given");
    table.touches(last);
    table.job.now = now;
    nb::gil_scoped_release release;
    table.check_numbers(0);
    const auto run = functions<T>().settle;
    parallel(static_cast<int64_t>(rows.shape(0)), table.bytes(rows.shape(0)),
             [&](int64_t b, int64_t e) { run(table.job, b, e); });
}

template <typename T>
void py_step(nb::tuple rule, Out<T, 2> weights, nb::list slots, nb::object last, In<int64_t, 1> rows, In<int64_t, 1> order,
             In<int64_t, 1> starts, nb::object which, nb::object coefficients, uint32_t now, In<T, 1> scalars,
             In<T, 2> gradients) {
    Table<T> table(rule, weights, slots);
    table.plan(rows, which, coefficients);
    check(
        starts.shape(0) == rows.shape(0) + 1 && order.shape(0) == gradients.shape(0) && gradients.shape(1) == weights.shape(1),
        "step: the plan does not fit gradients");
    check(static_cast<int64_t>(scalars.shape(0)) >= table.sizes.scalars, "step: the rule needs more scalars");
    table.job.order = order.data();
    table.job.starts = starts.data();
    table.job.scalars = scalars.data();
    table.job.gradients = gradients.data();
    table.job.now = now;
    if (!last.is_none()) table.touches(nb::cast<Out<uint32_t, 1>>(last, false));
    nb::gil_scoped_release release;
    table.check_numbers(static_cast<int64_t>(order.shape(0)));
    const auto run = functions<T>().step;
    parallel(static_cast<int64_t>(rows.shape(0)), table.bytes(rows.shape(0)),
             [&](int64_t b, int64_t e) { run(table.job, b, e); });
}

template <typename T>
void define(nb::module_& module) {
    const auto none = nb::arg().none();
    const auto same = nb::arg().noconvert();
    module.def("matrix_coefficients", &py_matrix_coefficients<T>, nb::arg(), same, same, same, same);
    module.def("measure_coefficients", &py_measure_coefficients<T>, nb::arg(), same, same, same, same, same, same);
    module.def("gather", &py_gather<T>, same, same, same);
    module.def("pool", &py_pool<T>, same, same, same, none, nb::arg(), same);
    module.def("gather_settled", &py_gather_settled<T>, nb::arg(), same, nb::arg(), same, same, same, none, none, same);
    module.def("settle", &py_settle<T>, nb::arg(), same, nb::arg(), same, same, none, none, nb::arg());
    module.def("step", &py_step<T>, nb::arg(), same, nb::arg(), none, same, same, same, none, none, nb::arg(), same, same);
}

}  // namespace
}  // namespace unhot

NB_MODULE(_native, module) {
    using namespace unhot;
    module.doc() = "The native kernels of unhot; unhot.kernels.native gives them the shape of the NumPy ones.";
    const auto same = nb::arg().noconvert();
    module.def("group", &py_group, same, nb::arg().none(), same, same, same);
    module.def("outside", &py_outside, same, nb::arg());
    module.def("same", &py_same, same, same);
    module.def("last_steps", &py_last_steps, same, same, nb::arg(), same, same);
    module.def("matrix_extend", &py_matrix_extend, same, same, nb::arg());
    module.def("measure_extend", &py_measure_extend, same, same, same, same, nb::arg(), nb::arg(), nb::arg(), nb::arg(),
               nb::arg(), same, same, nb::arg(), same, nb::arg(), nb::arg(), nb::arg());
    define<float>(module);
    define<double>(module);
    module.def("isa", [] { return std::string(name_of(chosen)); });
    module.def("isas", [] {
        nb::list list;
        for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
            if (supported(isa)) list.append(name_of(isa));
        return list;
    });
    module.def("use", &use);
    module.def("threads", &threads);
    module.def("set_threads", &set_threads);
    module.def("join_openmp", [](uintptr_t region) { join_openmp(reinterpret_cast<Region>(region)); });
}

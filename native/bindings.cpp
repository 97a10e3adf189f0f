// The Python module unhot._native: checks of shapes and bounds, threads, and nothing of the mathematics.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bindings_keys.h"
#include "checks.h"
#include "coefficients.h"
#include "instructions.h"
#include "job.h"
#include "plan.h"
#include "stores.h"
#include "text.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace unhot {
namespace {

int64_t py_group(In<int64_t, 1> ids, Out<int64_t, 1> rows, Out<int64_t, 1> order, Out<int64_t, 1> starts) {
    const auto count = ids.shape(0);
    check(rows.shape(0) >= count && order.shape(0) >= count && starts.shape(0) > count && count < (1u << 30),
          "group: rows and order must hold one number for each id, starts one more; at most 2**30 ids");
    nb::gil_scoped_release release;
    return group(ids.data(), static_cast<int64_t>(count), nullptr, rows.data(), order.data(), starts.data());
}

int64_t py_outside(In<int64_t, 1> ids, int64_t rows) {
    nb::gil_scoped_release release;
    return outside(ids.data(), static_cast<int64_t>(ids.shape(0)), rows);
}

int64_t py_number_rows(Out<int64_t, 1> ids, const std::vector<int64_t>& counts, const std::vector<int64_t>& rows,
                       const std::vector<int64_t>& firsts) {
    const auto count = static_cast<int64_t>(ids.shape(0));
    int64_t left = count;
    bool good = rows.size() == counts.size() && firsts.size() == counts.size();
    for (const int64_t own : counts) good &= own >= 0 && (left -= own) >= 0;
    check(good && left == 0, "number_rows: a number of ids, of rows and of the first row for each table");
    nb::gil_scoped_release release;
    return number_rows(ids.data(), counts.data(), rows.data(), firsts.data(), static_cast<int64_t>(counts.size()));
}

bool py_same(In<int64_t, 1> ids, In<int64_t, 1> others) {
    return ids.shape(0) == others.shape(0) && std::equal(ids.data(), ids.data() + ids.shape(0), others.data());
}

int64_t py_last_steps(In<uint32_t, 1> last, In<int64_t, 1> rows, uint32_t now, Out<int64_t, 1> steps, Out<int32_t, 1> line) {
    const auto count = rows.shape(0);
    check(steps.shape(0) >= count && line.shape(0) >= count && count < (1u << 30),
          "last_steps: steps and line must hold one number for each row; at most 2**30 rows");
    nb::gil_scoped_release release;
    check_rows(rows.data(), static_cast<int64_t>(count), static_cast<int64_t>(last.shape(0)));
    return last_steps(last.data(), rows.data(), static_cast<int64_t>(count), now, steps.data(), line.data());
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

template <typename T>
void define(nb::module_& module, const char* name) {
    const auto none = nb::arg().none();
    const auto same = nb::arg().noconvert();
    module.def("matrix_coefficients", &py_matrix_coefficients<T>, nb::arg(), same, same, same, same);
    module.def("measure_coefficients", &py_measure_coefficients<T>, nb::arg(), same, same, same, same, same, same);
    module.def("pool", &py_pool<T>, same, same, same, none, nb::arg(), same);
    nb::class_<Stores<T>>(module, name)
        .def(nb::init<nb::list, const std::vector<int64_t>&, nb::object>(), nb::arg(), nb::arg(), none)
        .def("pending", &Stores<T>::pending, same, nb::arg(), same, same)
        .def("gather", &Stores<T>::gather, same, nb::arg())
        .def("gather_settled", &Stores<T>::gather_settled, nb::arg(), same, same, same, same, nb::arg(), nb::arg())
        .def("pool", &Stores<T>::pool, same, nb::arg())
        .def("pool_settled", &Stores<T>::pool_settled, nb::arg(), same, same, same, same, same, nb::arg(), nb::arg())
        .def("settle", &Stores<T>::settle, nb::arg(), same, same, nb::arg(), nb::arg())
        .def("step", &Stores<T>::step, nb::arg(), same, same, same, none, none, nb::arg(), same, nb::arg());
}

template <typename T>
std::tuple<int64_t, int64_t, int64_t, bool> py_parse_lines(In<uint8_t, 1> text, int separator, bool keyless, bool spaced,
                                                           Out<T, 2> numbers, Out<int64_t, 2> keys, Out<int64_t, 2> odd) {
    const auto rows = static_cast<int64_t>(numbers.shape(0)), dim = static_cast<int64_t>(numbers.shape(1));
    check(dim > 0 && static_cast<int64_t>(keys.shape(0)) == rows && keys.shape(1) == 2 && odd.shape(1) == 4 &&
              static_cast<int64_t>(odd.shape(0)) >= dim && separator > 0 && separator < 128,
          "parse_lines: two places for each row's key, four for each odd number, of which a line's must fit");
    const ParsedLines<T> out{numbers.data(), rows, keys.data(), odd.data(), static_cast<int64_t>(odd.shape(0))};
    Progress done;
    {
        nb::gil_scoped_release release;
        done = parse_lines<T>(reinterpret_cast<const char*>(text.data()), static_cast<int64_t>(text.shape(0)), dim,
                              static_cast<char>(separator), keyless, spaced, out);
    }
    return {done.rows, done.consumed, done.odd, done.ragged};
}

}  // namespace
}  // namespace unhot

NB_MODULE(_native, module) {
    using namespace unhot;
    nb::set_leak_warnings(false);  // of tables that there are until the interpreter ends
    module.doc() = "The native kernels of unhot; unhot.kernels.native gives them the shape of the NumPy ones.";
    const auto same = nb::arg().noconvert();
    module.def("group", &py_group, same, same, same, same);
    module.def("outside", &py_outside, same, nb::arg());
    module.def("number_rows", &py_number_rows, same, nb::arg(), nb::arg(), nb::arg());
    module.def("same", &py_same, same, same);
    module.def("last_steps", &py_last_steps, same, same, nb::arg(), same, same);
    module.def("matrix_extend", &py_matrix_extend, same, same, nb::arg());
    module.def("measure_extend", &py_measure_extend, same, same, same, same, nb::arg(), nb::arg(), nb::arg(), nb::arg(),
               nb::arg(), same, same, nb::arg(), same, nb::arg(), nb::arg(), nb::arg());
    define<float>(module, "StoresFloat32");
    define<double>(module, "StoresFloat64");
    module.def("parse_lines", &py_parse_lines<float>, same, nb::arg(), nb::arg(), nb::arg(), same, same, same);
    module.def("parse_lines", &py_parse_lines<double>, same, nb::arg(), nb::arg(), nb::arg(), same, same, same);
    define_keys(module);
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

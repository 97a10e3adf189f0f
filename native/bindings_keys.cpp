// Keys for Python: the map, with checks of what it is given, and lists of Python's objects as arrays and back.

#include "bindings_keys.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "checks.h"
#include "keys.h"

namespace nb = nanobind;

namespace unhot {
namespace {

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The arrays of `unhot.keys.packing.Packed`, held as long as they are read.
class Column {
   public:
    explicit Column(nb::tuple packed) : held_(packed) {
        check(packed.size() == 5, "keys: (kind, data, offsets, large, missing)");
        const auto kind = nb::cast<int>(packed[0]);
        check(kind >= 0 && kind <= 3, "keys: there is no such kind");
        view.kind = static_cast<Kind>(kind);
        if (view.kind == Kind::integer) {
            const auto data = nb::cast<In<int64_t>>(packed[1], false);
            view.integers = reinterpret_cast<const uint64_t*>(data.data());
            view.count = static_cast<int64_t>(data.shape(0));
            view.large = mask(packed[3]);
            for (int64_t k = 0; view.large && k < view.count; ++k)
                check(!view.large[k] || view.integers[k] >> 63, "keys: only negative data can be large");
        } else {
            const auto data = nb::cast<In<uint8_t>>(packed[1], false);
            view.bytes = data.data();
            const auto size = static_cast<int64_t>(data.shape(0));
            In<int32_t> narrow;
            if (nb::try_cast(packed[2], narrow, false)) {
                view.offsets32 = narrow.data();
                check_offsets(view.offsets32, narrow.shape(0), size);
            } else {
                const auto wide = nb::cast<In<int64_t>>(packed[2], false);
                view.offsets64 = wide.data();
                check_offsets(view.offsets64, wide.shape(0), size);
            }
        }
        view.missing = mask(packed[4]);
        if (view.kind == Kind::none)
            for (int64_t k = 0; k < view.count; ++k) check(view.is_missing(k), "keys: those without a kind are missing");
    }

    KeyColumn view{};

   private:
    template <typename T>
    void check_offsets(const T* offsets, size_t size, int64_t limit) {
        check(size >= 1 && offsets[0] >= 0 && offsets[size - 1] <= limit, "keys: offsets must lie within the data");
        bool bad = false;
        for (size_t k = 1; k < size; ++k) bad |= offsets[k] < offsets[k - 1];
        check(!bad, "keys: offsets must rise");
        view.count = static_cast<int64_t>(size) - 1;
    }

    const bool* mask(nb::handle given) const {
        if (given.is_none()) return nullptr;
        const auto array = nb::cast<In<bool>>(given, false);
        check(static_cast<int64_t>(array.shape(0)) == view.count, "keys: a mask must have one boolean for each key");
        return array.data();
    }

    nb::tuple held_;
};

RowNumbers numbers_of(const std::array<int64_t, 4>& rows) {
    check(rows[3] >= 0, "keys: there cannot be fewer than no buckets");
    return {rows[0], rows[1], rows[2], rows[3]};
}

int64_t* checked(const Column& column, const Out<int64_t>& out) {
    check(static_cast<int64_t>(out.shape(0)) == column.view.count, "keys: out must hold one number for each key");
    return out.data();
}

std::array<int64_t, 2> pair(const Outcome& outcome) { return {static_cast<int64_t>(outcome.refusal), outcome.place}; }

// A vector's numbers as an array of NumPy, to which they now belong.
template <typename To, typename From>
nb::object array_of(std::vector<From>&& numbers) {
    static_assert(sizeof(To) == sizeof(From));
    auto* kept = new std::vector<From>(std::move(numbers));
    nb::capsule owner(kept, [](void* one) noexcept { delete static_cast<std::vector<From>*>(one); });
    if (kept->capacity() == 0) kept->reserve(1);
    auto* data = reinterpret_cast<To*>(kept->data());
    return nb::cast(nb::ndarray<nb::numpy, To, nb::ndim<1>>(data, {kept->size()}, owner));
}

nb::object mask_of(std::vector<uint8_t>&& marks) { return marks.empty() ? nb::none() : array_of<bool>(std::move(marks)); }

nb::tuple packed(TakenKeys&& taken) {
    const int kind = static_cast<int>(taken.kind);
    if (taken.kind == Kind::integer)
        return nb::make_tuple(kind, array_of<int64_t>(std::move(taken.integers)), nb::none(), mask_of(std::move(taken.large)),
                              mask_of(std::move(taken.missing)));
    return nb::make_tuple(kind, array_of<uint8_t>(std::move(taken.bytes)), array_of<int64_t>(std::move(taken.offsets)),
                          nb::none(), mask_of(std::move(taken.missing)));
}

std::array<int64_t, 4> py_counts(const KeyMap& keys) {
    nb::gil_scoped_release release;
    const KeyCounts counts = keys.counts();
    return {static_cast<int64_t>(counts.kind), counts.keys, counts.rows, (counts.negative ? 1 : 0) + (counts.large ? 2 : 0)};
}

int64_t py_bytes(const KeyMap& keys) {
    nb::gil_scoped_release release;
    return static_cast<int64_t>(keys.bytes());
}

int64_t py_find(const KeyMap& keys, nb::tuple given, const std::array<int64_t, 4>& rows, Out<int64_t> out) {
    const Column column(given);
    const RowNumbers numbers = numbers_of(rows);
    int64_t* to = checked(column, out);
    nb::gil_scoped_release release;
    return keys.find(column.view, numbers, to);
}

std::array<int64_t, 2> py_add(KeyMap& keys, nb::tuple given, const std::array<int64_t, 4>& rows, Out<int64_t> out, bool unique,
                              bool empty) {
    const Column column(given);
    const RowNumbers numbers = numbers_of(rows);
    int64_t* to = checked(column, out);
    nb::gil_scoped_release release;
    return pair(keys.add(column.view, numbers, to, unique, empty));
}

int64_t py_remove(KeyMap& keys, nb::tuple given, const std::array<int64_t, 4>& rows, Out<int64_t> out) {
    const Column column(given);
    const RowNumbers numbers = numbers_of(rows);
    int64_t* to = checked(column, out);
    nb::gil_scoped_release release;
    return keys.remove(column.view, numbers, to);
}

std::array<int64_t, 2> py_load(KeyMap& keys, nb::tuple given, In<int64_t> free) {
    const Column column(given);
    nb::gil_scoped_release release;
    return pair(keys.load(column.view, free.data(), static_cast<int64_t>(free.shape(0))));
}

nb::tuple py_take(const KeyMap& keys, In<int64_t> rows) {
    TakenKeys taken;
    {
        nb::gil_scoped_release release;
        taken = keys.take(rows.data(), static_cast<int64_t>(rows.shape(0)));
    }
    nb::object absent = mask_of(std::move(taken.absent));
    return nb::make_tuple(packed(std::move(taken)), absent);
}

nb::tuple py_take_all(const KeyMap& keys) {
    TakenKeys taken;
    std::vector<int64_t> free;
    {
        nb::gil_scoped_release release;
        taken = keys.take_all(free);
    }
    nb::object rows = array_of<int64_t>(std::move(free));
    return nb::make_tuple(packed(std::move(taken)), rows);
}

// ------------------------------------------------------------------ Python's objects

constexpr Py_ssize_t kAhead = 12;  // objects fetched before they are read: they lie anywhere in memory

// The objects of a list, or of an array of objects; nothing in here runs Python, so that both stay as they are.
class Objects {
   public:
    explicit Objects(nb::handle values) {
        if (PyList_Check(values.ptr())) {
            list_ = values.ptr();
            count = PyList_Size(list_);
            return;
        }
        if (PyObject_GetBuffer(values.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) nb::raise_python_error();
        array_ = static_cast<PyObject* const*>(view_.buf);
        count = view_.len / static_cast<Py_ssize_t>(sizeof(PyObject*));
        if (!view_.format || std::string_view(view_.format) != "O") {
            PyBuffer_Release(&view_);
            throw std::invalid_argument("keys: an array must hold objects");
        }
    }
    Objects(const Objects&) = delete;
    Objects& operator=(const Objects&) = delete;
    ~Objects() {
        if (array_) PyBuffer_Release(&view_);
    }

    PyObject* operator[](Py_ssize_t k) const {
        if (list_) return PyList_GetItem(list_, k);
        return array_[k] ? array_[k] : Py_None;  // an array that was never written holds nothing
    }

    Py_ssize_t count = 0;

   private:
    PyObject* list_ = nullptr;
    PyObject* const* array_ = nullptr;
    Py_buffer view_{};
};

// Keys of one kind, packed as they come.
class Packing {
   public:
    explicit Packing(Py_ssize_t count, std::vector<PyObject*>&& none) : count_(count), none_(std::move(none)) {}

    // Whether the object is a key of the same kind as those before, or a missing value.
    bool add(PyObject* object) {
        PyTypeObject* type = Py_TYPE(object);
        if (kind_ != Kind::integer && PyUnicode_Check(object)) {
            Py_ssize_t size = 0;
            const char* text = PyUnicode_AsUTF8AndSize(object, &size);
            if (!text) {
                PyErr_Clear();  // a surrogate
                return false;
            }
            return is(Kind::text) && add_text(text, size);
        }
        if (type == &PyLong_Type) return is(Kind::integer) && add_integer(object);
        if (PyBytes_Check(object)) return is(Kind::bytes) && add_text(PyBytes_AsString(object), PyBytes_Size(object));
        if (object == Py_None || (type == &PyFloat_Type && std::isnan(PyFloat_AsDouble(object)))) return add_missing();
        for (PyObject* one : none_)
            if (object == one) return add_missing();
        return false;
    }

    nb::object packed() {
        const int kind = static_cast<int>(kind_);
        if (kind_ == Kind::integer)
            return nb::make_tuple(kind, array_of<int64_t>(std::move(integers_)), nb::none(), mask_of(std::move(large_)),
                                  mask_of(std::move(missing_)));
        if (offsets_.empty()) begin();
        return nb::make_tuple(kind, array_of<uint8_t>(std::move(bytes_)), array_of<int64_t>(std::move(offsets_)), nb::none(),
                              mask_of(std::move(missing_)));
    }

   private:
    // The first key says what all are; missing values before it wait for that.
    bool is(Kind kind) {
        if (kind_ == kind) return true;
        if (kind_ != Kind::none) return false;
        kind_ = kind;
        begin();
        return true;
    }

    void begin() {
        if (kind_ == Kind::integer) {
            integers_.reserve(static_cast<size_t>(count_));
            integers_.resize(static_cast<size_t>(done_));
        } else {
            offsets_.reserve(static_cast<size_t>(count_) + 1);
            offsets_.resize(static_cast<size_t>(done_) + 1);
        }
    }

    bool add_text(const char* text, Py_ssize_t size) {
        bytes_.insert(bytes_.end(), text, text + size);
        offsets_.push_back(static_cast<int64_t>(bytes_.size()));
        ++done_;
        return true;
    }

    bool add_integer(PyObject* object) {
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
        if (overflow < 0) return false;
        if (overflow > 0) {
            const unsigned long long large = PyLong_AsUnsignedLongLong(object);
            if (PyErr_Occurred()) {
                PyErr_Clear();  // 2^64 or more
                return false;
            }
            mark(large_);
            integers_.push_back(static_cast<uint64_t>(large));
        } else {
            integers_.push_back(static_cast<uint64_t>(value));
        }
        ++done_;
        return true;
    }

    bool add_missing() {
        mark(missing_);
        if (kind_ == Kind::integer)
            integers_.push_back(0);
        else if (kind_ != Kind::none)
            offsets_.push_back(static_cast<int64_t>(bytes_.size()));
        ++done_;
        return true;
    }

    void mark(std::vector<uint8_t>& mask) {
        if (mask.empty()) mask.resize(static_cast<size_t>(count_));
        mask[static_cast<size_t>(done_)] = 1;
    }

    Kind kind_ = Kind::none;
    Py_ssize_t count_, done_ = 0;
    std::vector<PyObject*> none_;
    std::vector<uint8_t> bytes_, large_, missing_;
    std::vector<uint64_t> integers_;
    std::vector<int64_t> offsets_;
};

// The objects as packed keys, or None if Python has to look at them: there is one of another kind, or what may be no key.
nb::object py_pack(nb::object values, nb::list missing) {
    const Objects objects(values);
    std::vector<PyObject*> none;
    for (nb::handle one : missing) none.push_back(one.ptr());
    Packing packing(objects.count, std::move(none));
    for (Py_ssize_t k = 0; k < objects.count; ++k) {
        if (k + kAhead < objects.count) {
            const auto* ahead = reinterpret_cast<const char*>(objects[k + kAhead]);
            __builtin_prefetch(ahead);
            __builtin_prefetch(ahead + 64);
        }
        if (!packing.add(objects[k])) return nb::none();
    }
    return packing.packed();
}

// The packed keys as a list of Python's objects. Bytes that are no UTF-8 become surrogates.
nb::list py_unpack(nb::tuple given) {
    const Column column(given);
    const KeyColumn& keys = column.view;
    nb::list made;
    for (int64_t k = 0; k < keys.count; ++k) {
        if (keys.is_missing(k)) {
            made.append(nb::none());
            continue;
        }
        PyObject* object;
        if (keys.kind == Kind::integer) {
            object = keys.is_large(k) ? PyLong_FromUnsignedLongLong(keys.integers[k])
                                      : PyLong_FromLongLong(static_cast<int64_t>(keys.integers[k]));
        } else {
            const auto* bytes = reinterpret_cast<const char*>(keys.bytes + keys.start(k));
            const auto length = static_cast<Py_ssize_t>(keys.length(k));
            object = keys.kind == Kind::text ? PyUnicode_DecodeUTF8(bytes, length, "surrogateescape")
                                             : PyBytes_FromStringAndSize(bytes, length);
        }
        if (!object) nb::raise_python_error();
        made.append(nb::steal(object));
    }
    return made;
}

}  // namespace

void define_keys(nb::module_& module) {
    const auto same = nb::arg().noconvert();
    nb::class_<KeyMap>(module, "KeyMap")
        .def(nb::init<>())
        .def("counts", &py_counts)
        .def("bytes", &py_bytes)
        .def("find", &py_find, nb::arg(), nb::arg(), same)
        .def("add", &py_add, nb::arg(), nb::arg(), same, nb::arg(), nb::arg())
        .def("remove", &py_remove, nb::arg(), nb::arg(), same)
        .def("load", &py_load, nb::arg(), same)
        .def("take", &py_take, same)
        .def("take_all", &py_take_all);
    module.def("pack", &py_pack, nb::arg(), nb::arg());
    module.def("unpack", &py_unpack, nb::arg());
}

}  // namespace unhot

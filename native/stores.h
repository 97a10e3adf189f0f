// The arrays of the tables of a clock, as Python hands them over: what works on their rows, and the checks before.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>
#include <vector>

#include "checks.h"
#include "instructions.h"
#include "job.h"
#include "plan.h"
#include "threads.h"

namespace unhot {

namespace nb = nanobind;

template <typename T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kStreamingBytes = 8 << 20;  // outputs from this size on are written around the caches
constexpr int64_t kMostRows = int64_t{1} << 40;

// The arrays of all tables of a clock, checked once. They are the caller's, and kept alive here.
template <typename T>
class Stores {
   public:
    Stores(nb::list states, const std::vector<int64_t>& firsts, nb::object last) : held_(nb::make_tuple(states, last)) {
        check(nb::len(states) == firsts.size() && !firsts.empty(), "Stores: a first row for each store");
        for (size_t s = 0; s < firsts.size(); ++s) {
            const auto state = nb::cast<nb::list>(states[s]);
            const auto count = nb::len(state);
            check(count >= 1 && count <= kMostArrays, "Stores: there must be 1 to 4 arrays");
            check(s == 0 || static_cast<int>(count) == arrays_, "Stores: all stores must have as many arrays");
            arrays_ = static_cast<int>(count);
            Store<T> store{};
            for (int i = 0; i < arrays_; ++i) {
                const auto array = nb::cast<Out<T, 2>>(state[static_cast<size_t>(i)], false);
                if (i == 0) {
                    store.rows = static_cast<int64_t>(array.shape(0));
                    store.dim = static_cast<int64_t>(array.shape(1));
                }
                store.width[i] = static_cast<int64_t>(array.shape(1));
                check(
                    static_cast<int64_t>(array.shape(0)) == store.rows && (store.width[i] == store.dim || store.width[i] == 1),
                    "Stores: slots must have the weights' shape, or one number for each row");
                if (store.width[i] != store.dim) whole_ &= ~(1u << i);
                if (store.width[i] != 1) of_row_ &= ~(1u << i);
                store.state[i] = array.data();
            }
            store.first = firsts[s];
            check(store.first >= end_ && store.first < kMostRows && store.rows < kMostRows,
                  "Stores: first rows must rise by the stores' rows");
            end_ = store.first + store.rows;
            alike_ &= stores_.empty() || store.dim == stores_[0].dim;
            stores_.push_back(store);
        }
        if (last.is_none()) return;
        const auto touches = nb::cast<Out<uint32_t, 1>>(last, false);
        check(static_cast<int64_t>(touches.shape(0)) >= end_, "Stores: last must hold one number for each row");
        last_ = touches.data();
    }

    // The distinct rows of the ids, the distinct steps of their last touches, where each id occurs, and where each row begins
    // there: one after the other in `room`, which has a number for each id of all four, and one more.
    std::array<int64_t, 2> pending(In<int64_t, 1> ids, uint32_t now, Out<int64_t, 1> room, Out<int32_t, 1> line_of_row) const {
        const auto count = ids.shape(0);
        check(room.shape(0) > 4 * count && line_of_row.shape(0) >= count && count < (1u << 30),
              "pending: four numbers for each id, and one more; at most 2**30 ids");
        check(last_, "pending: the steps of last touches are not noted");
        int64_t *rows = room.data(), *steps = rows + count, *order = steps + count, *starts = order + count;
        nb::gil_scoped_release release;
        check_rows(ids.data(), static_cast<int64_t>(count), end_);
        const auto found = group(ids.data(), static_cast<int64_t>(count), last_, rows, order, starts);
        return {found, last_steps(last_, rows, found, now, steps, line_of_row.data())};
    }

    void gather(In<int64_t, 1> ids, nb::list segments) const {
        const Segments to(*this, segments, true);
        check(to.places == static_cast<int64_t>(ids.shape(0)), "gather: a vector for each id");
        const int64_t bytes = to.numbers * static_cast<int64_t>(sizeof(T));
        const Gather<T> job{stores_.data(), static_cast<int64_t>(stores_.size()), ids.data(), to.vectors,
                            bytes >= kStreamingBytes};
        nb::gil_scoped_release release;
        to.check_ids(ids.data());
        const auto gather = functions<T>().gather;
        parallel(to.places, 2 * bytes, [&](int64_t b, int64_t e) { gather(job, b, e); });
    }

    void gather_settled(nb::tuple law, In<int64_t, 1> rows, In<int64_t, 1> order, In<int64_t, 1> starts,
                        In<int32_t, 1> line_of_row, nb::object coefficients, nb::list segments) const {
        Work work(*this, law, rows, line_of_row, coefficients);
        const Segments to(*this, segments, true);
        work.plan(order, starts, to);
        nb::gil_scoped_release release;
        work.check_numbers(&to);
        work.run(functions<T>().gather_settled);
    }

    // Pools bags of rows as they stand: (store, vectors, starts, factors, mode) for the ids of one store after the other's.
    void pool(In<int64_t, 1> ids, nb::list bags) const {
        const Pooled to(*this, bags, static_cast<int64_t>(ids.shape(0)));
        const PoolJob<T> job{to.bags.data(), static_cast<int64_t>(to.bags.size()), ids.data(), nullptr, nullptr};
        nb::gil_scoped_release release;
        to.check_ids(ids.data());
        to.run(job);
    }

    // The same, of settled rows: those with deferred steps are settled elsewhere, each once.
    void pool_settled(nb::tuple law, In<int64_t, 1> ids, In<int64_t, 1> rows, In<int64_t, 1> order, In<int64_t, 1> starts,
                      In<int32_t, 1> line_of_row, nb::object coefficients, nb::list bags) const {
        const auto count = static_cast<int64_t>(ids.shape(0));
        Work work(*this, law, rows, line_of_row, coefficients);
        const Pooled to(*this, bags, count);
        check(static_cast<int64_t>(order.shape(0)) == count && static_cast<int64_t>(starts.shape(0)) == work.count + 1,
              "the plan does not fit the ids");
        nb::gil_scoped_release release;
        to.check_ids(ids.data());
        work.check_numbers(nullptr);
        check_plan(order.data(), count, starts.data(), work.count);
        const auto distinct = static_cast<size_t>(work.count);
        std::vector<int32_t> place(static_cast<size_t>(count), -1);
        std::vector<T*> settled(distinct);
        std::vector<int64_t> offsets(distinct), one_each(distinct + 1);
        int64_t numbers = 0;
        bool same = starts.data()[0] == 0 && starts.data()[distinct] == count;  // then no place is left out if none is twice
        auto find = finder();
        for (size_t k = 0; k < distinct; ++k) {
            for (int64_t i = starts.data()[k]; i < starts.data()[k + 1]; ++i) {
                const int64_t at = order.data()[i];
                same &= ids.data()[at] == rows.data()[k] && place[static_cast<size_t>(at)] < 0;
                place[static_cast<size_t>(at)] = static_cast<int32_t>(k);
            }
            offsets[k] = numbers;
            one_each[k] = static_cast<int64_t>(k);
            if (line_of_row.data()[k] >= 0) numbers += find(rows.data()[k]).dim;
        }
        one_each[distinct] = work.count;
        check(same, "the plan is not that of the ids");
        const std::unique_ptr<T[]> vectors(new T[static_cast<size_t>(numbers)]);
        for (size_t k = 0; k < distinct; ++k) settled[k] = line_of_row.data()[k] >= 0 ? vectors.get() + offsets[k] : nullptr;
        work.job.order = work.job.starts = one_each.data();
        work.job.vectors = {nullptr, 0, settled.data(), nullptr};
        work.run(functions<T>().settle_apart);
        to.run({to.bags.data(), static_cast<int64_t>(to.bags.size()), ids.data(), place.data(), settled.data()});
    }

    void settle(nb::tuple law, In<int64_t, 1> rows, In<int32_t, 1> line_of_row, nb::object coefficients, uint32_t now) const {
        Work work(*this, law, rows, line_of_row, coefficients);
        check(last_, "settle: the steps of last touches are not noted");
        work.job.last = last_;
        work.job.now = now;
        nb::gil_scoped_release release;
        work.check_numbers(nullptr);
        work.run(functions<T>().settle);
    }

    void step(nb::tuple law, In<int64_t, 1> rows, In<int64_t, 1> order, In<int64_t, 1> starts, nb::object line_of_row,
              nb::object coefficients, uint32_t now, In<T, 1> scalars, nb::list segments) const {
        Work work(*this, law, rows);
        if (!line_of_row.is_none()) work.deferred(nb::cast<In<int32_t, 1>>(line_of_row, false), coefficients);
        const Segments gradients(*this, segments, false);
        work.plan(order, starts, gradients);
        check(static_cast<int64_t>(scalars.shape(0)) >= work.sizes.scalars, "step: the law needs more scalars");
        work.job.scalars = scalars.data();
        work.job.last = last_;
        work.job.now = now;
        nb::gil_scoped_release release;
        work.check_numbers(&gradients);
        work.run(functions<T>().step);
    }

   private:
    // Vectors for ids: of each store in turn, or of the same again, (store, array); the array has a row for each id.
    struct Segments {
        Vectors<T> vectors{};
        int64_t places = 0, numbers = 0;

        Segments(const Stores& owner, nb::list segments, bool written) : owner_(owner) {
            parts_.reserve(nb::len(segments));
            for (nb::handle item : segments) {
                const auto part = nb::cast<nb::tuple>(item);
                check(nb::len(part) == 4, "a segment is a store, an array, bags and factors");
                const auto s = nb::cast<int64_t>(part[0]);
                check(s < static_cast<int64_t>(owner.stores_.size()) && (s >= 0 || owner.alike_), "there is no such store");
                if (written)
                    add(static_cast<int32_t>(s), nb::cast<nb::ndarray<T, nb::ndim<2>, nb::device::cpu>>(part[1], false), part);
                else
                    add(static_cast<int32_t>(s), nb::cast<nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>>(part[1], false),
                        part);
            }
            bool weighted = false, bagged = false;
            for (const Part& part : parts_) weighted |= part.factors != nullptr, bagged |= part.bags != nullptr;
            if (parts_.size() == 1) vectors = {parts_[0].base, parts_[0].stride, nullptr, parts_[0].factors};
            if (parts_.size() == 1 && !bagged) return;
            each_.resize(static_cast<size_t>(places));
            for (const Part& part : parts_)
                for (int64_t i = 0; i < part.end - part.begin; ++i)
                    each_[static_cast<size_t>(part.begin + i)] = part.base + (part.bags ? part.bags[i] : i) * part.stride;
            vectors.each = each_.data();
            if (parts_.size() == 1 || !weighted) return;
            factors_.assign(static_cast<size_t>(places), 1.0);
            for (const Part& part : parts_)
                if (part.factors) std::copy_n(part.factors, part.end - part.begin, factors_.data() + part.begin);
            vectors.factors = factors_.data();
        }

        // Whether the ids of each segment are rows of its store.
        void check_ids(const int64_t* ids) const {
            for (const Part& part : parts_)
                if (part.store < 0)
                    owner_.check_own(ids + part.begin, part.end - part.begin);
                else if (outside_of(owner_.stores_[static_cast<size_t>(part.store)], ids + part.begin, part.end - part.begin))
                    throw std::out_of_range("a row number lies outside of the table");
        }

        // Whether the places at which a row stands are in segments of its store.
        void check_places(const int64_t* rows, int64_t count, const int64_t* order, const int64_t* starts) const {
            if (owner_.stores_.size() == 1 || (parts_.size() == 1 && parts_[0].store < 0)) return;
            bool bad = false;
            size_t known = 0;
            auto find = owner_.finder();
            for (int64_t k = 0; k < count; ++k) {
                const auto store = &find(rows[k]) - owner_.stores_.data();
                for (int64_t i = starts[k]; i < starts[k + 1]; ++i) {
                    if (order[i] < parts_[known].begin || order[i] >= parts_[known].end) known = part_of(order[i]);
                    bad |= parts_[known].store >= 0 && parts_[known].store != store;
                }
            }
            check(!bad, "a vector is not that of its row's table");
        }

       private:
        template <typename Array>  // whose rows need not follow each other
        void add(int32_t store, const Array& array, const nb::tuple& given) {
            const auto rows = static_cast<int64_t>(array.shape(0)), dim = static_cast<int64_t>(array.shape(1));
            const bool whole = dim <= 1 || rows == 0 || array.stride(1) == 1;
            check(dim == owner_.stores_[static_cast<size_t>(std::max(store, 0))].dim && whole,
                  "vectors do not fit their table");
            Part part{store, places, places + rows, const_cast<T*>(array.data()), array.stride(0), nullptr, nullptr};
            if (!given[2].is_none()) {  // which vector each id has
                const auto bags = nb::cast<In<int64_t, 1>>(given[2], false);
                check_rows(bags.data(), static_cast<int64_t>(bags.shape(0)), rows);
                part.bags = bags.data();
                part.end = places + static_cast<int64_t>(bags.shape(0));
            }
            const int64_t count = part.end - part.begin;
            if (!given[3].is_none()) {
                const auto factors = nb::cast<In<double, 1>>(given[3], false);
                check(static_cast<int64_t>(factors.shape(0)) == count, "a factor for each id");
                part.factors = factors.data();
            }
            parts_.push_back(part);
            places += count;
            numbers += count * dim;
        }

        struct Part {
            int32_t store;
            int64_t begin, end;
            T* base;
            int64_t stride;
            const int64_t* bags;
            const double* factors;
        };

        size_t part_of(int64_t place) const {
            const auto after =
                std::upper_bound(parts_.begin(), parts_.end(), place, [](int64_t p, const Part& part) { return p < part.end; });
            return static_cast<size_t>(after - parts_.begin());
        }

        const Stores& owner_;
        std::vector<Part> parts_;
        std::vector<T*> each_;
        std::vector<double> factors_;
    };

    // Bags of each store in turn, and the vectors that they are pooled into.
    struct Pooled {
        std::vector<Bags<T>> bags;
        int64_t ids = 0;

        Pooled(const Stores& owner, nb::list given, int64_t count) {
            for (nb::handle item : given) {
                const auto part = nb::cast<nb::tuple>(item);
                check(nb::len(part) == 5, "bags are a store, vectors, starts, factors and a mode");
                const auto s = nb::cast<size_t>(part[0]);
                const auto out = nb::cast<nb::ndarray<T, nb::ndim<2>, nb::device::cpu>>(part[1], false);
                const auto starts = nb::cast<In<int64_t, 1>>(part[2], false);
                const auto mode = nb::cast<int>(part[4]);
                check(s < owner.stores_.size() && mode >= 0 && mode <= 2, "there is no such store, or no such mode");
                const Store<T>& store = owner.stores_[s];
                const auto rows = static_cast<int64_t>(out.shape(0));
                const bool whole = store.dim <= 1 || rows == 0 || out.stride(1) == 1;
                check(static_cast<int64_t>(out.shape(1)) == store.dim && whole, "vectors do not fit their table");
                check(starts.shape(0) == out.shape(0) + 1, "one start more than bags");
                check_starts(starts.data(), rows, count);
                check(starts.data()[0] == ids, "bags must begin where the last ones ended");
                ids = starts.data()[rows];
                Bags<T> made{&store, total_, rows, starts.data(), nullptr, mode, out.data(), out.stride(0)};
                if (!part[3].is_none()) {
                    const auto factors = nb::cast<In<double, 1>>(part[3], false);
                    check(static_cast<int64_t>(factors.shape(0)) == count, "a factor for each id");
                    made.factors = factors.data();
                }
                total_ += rows;
                if (rows) bags.push_back(made);
                widest_ = std::max(widest_, store.dim);
            }
            check(ids == count, "bags must hold all ids");
        }

        void check_ids(const int64_t* all) const {
            for (const Bags<T>& part : bags)
                if (outside_of(*part.store, all + part.starts[0], part.starts[part.count] - part.starts[0]))
                    throw std::out_of_range("a row number lies outside of the table");
        }

        void run(const PoolJob<T>& job) const {
            const auto pool = functions<T>().pool_rows;
            parallel(total_, (ids + total_) * widest_ * static_cast<int64_t>(sizeof(T)),
                     [&](int64_t b, int64_t e) { pool(job, b, e); });
        }

       private:
        int64_t total_ = 0, widest_ = 0;
    };

    // What a job needs of the law and the rows.
    struct Work {
        Job<T> job{};
        LawSizes sizes{};
        const Stores& owner;
        int64_t width, count, lines = 0, places = 0;

        Work(const Stores& stores, nb::tuple law, const In<int64_t, 1>& rows) : owner(stores) {
            check(nb::len(law) == 3, "a law is its number, parameters and table");
            job.formula.law = nb::cast<int>(law[0]);
            check(job.formula.law >= 0 && job.formula.law < kLaws, "there is no such law");
            sizes = kLawSizes[job.formula.law];
            const auto parameters = nb::cast<In<double, 1>>(law[1], false);
            job.formula.parameters = parameters.data();
            job.arrays = owner.arrays_;
            check(job.arrays == sizes.arrays, "the law has not as many slots");
            check(owner.has_widths(sizes.of_row), "the law's slots have other shapes");
            check(static_cast<int64_t>(parameters.shape(0)) == sizes.parameters, "the law has not as many parameters");
            width = width_of(job.formula.law, parameters.data());
            if (job.formula.law == kCrossing) {
                const auto sums = nb::cast<In<double, 2>>(law[2], false);
                check_ring(static_cast<int64_t>(sums.shape(0)));
                check(static_cast<double>(sums.shape(0)) == parameters.data()[CrossingShared::mask] + 1 && sums.shape(1) == 3,
                      "the law's table has another size");
                job.formula.table = sums.data();
            }
            job.stores = owner.stores_.data();
            job.stores_count = static_cast<int64_t>(owner.stores_.size());
            job.rows = rows.data();
            count = static_cast<int64_t>(rows.shape(0));
        }

        Work(const Stores& stores, nb::tuple law, const In<int64_t, 1>& rows, const In<int32_t, 1>& line_of_row,
             nb::object coefficients)
            : Work(stores, law, rows) {
            deferred(line_of_row, coefficients);
        }

        // Which rows have deferred steps, and what carries them.
        void deferred(const In<int32_t, 1>& line_of_row, nb::object coefficients) {
            check(static_cast<int64_t>(line_of_row.shape(0)) == count, "line_of_row must hold one number for each row");
            job.line_of_row = line_of_row.data();
            if (job.formula.law == kCrossing)
                read(nb::cast<In<double, 2>>(coefficients, false));
            else
                read(nb::cast<In<T, 2>>(coefficients, false));
        }

        void plan(const In<int64_t, 1>& order, const In<int64_t, 1>& starts, const Segments& segments) {
            places = static_cast<int64_t>(order.shape(0));
            check(static_cast<int64_t>(starts.shape(0)) == count + 1 && places == segments.places,
                  "the plan does not fit the vectors");
            job.order = order.data();
            job.starts = starts.data();
            job.vectors = segments.vectors;
        }

        // What takes a look at every number; the caller has let go of the interpreter.
        void check_numbers(const Segments* segments) const {
            owner.check_own(job.rows, count);
            if (job.line_of_row) check_lines(job.line_of_row, count, lines);
            if (job.line_of_row && sizes.panels)
                check_terms(static_cast<const T*>(job.coefficients), lines, job.width,
                            job.formula.parameters[MeasureShared::terms]);
            if (!segments) return;
            check_plan(job.order, places, job.starts, count);
            segments->check_places(job.rows, count, job.order, job.starts);
        }

        void run(void (*work)(const Job<T>&, int64_t, int64_t)) const {
            int64_t widest = 0;
            for (const Store<T>& store : owner.stores_) widest = std::max(widest, store.dim);
            parallel(count, count * widest * job.arrays * 2 * static_cast<int64_t>(sizeof(T)),
                     [&](int64_t b, int64_t e) { work(job, b, e); });
        }

       private:
        template <typename L>
        void read(const In<L, 2>& coefficients) {
            job.coefficients = coefficients.data();
            lines = static_cast<int64_t>(coefficients.shape(0));
            job.width = static_cast<int64_t>(coefficients.shape(1));
            check(job.width >= width, "a line of coefficients is too short for the law");
        }
    };

    Finder<T> finder() const { return Finder<T>(stores_.data(), static_cast<int64_t>(stores_.size())); }

    // Whether the arrays of all stores have one number for each row where these bits say so, and one for each element
    // elsewhere.
    bool has_widths(unsigned of_row) const {
        const unsigned all = (1u << arrays_) - 1;
        return (of_row & ~of_row_) == 0 && (all & ~of_row & ~whole_) == 0;
    }

    // Whether each row is one of a store.
    void check_own(const int64_t* rows, int64_t count) const {
        auto find = finder();
        bool bad = false;
        for (int64_t k = 0; k < count; ++k) bad |= !Finder<T>::has(find(rows[k]), rows[k]);
        if (bad) throw std::out_of_range("a row number lies outside of the tables");
    }

    static bool outside_of(const Store<T>& store, const int64_t* ids, int64_t count) {
        bool bad = false;
        for (int64_t i = 0; i < count; ++i) bad |= !Finder<T>::has(store, ids[i]);
        return bad;
    }

    std::vector<Store<T>> stores_;
    int arrays_ = 0;
    unsigned whole_ = ~0u, of_row_ = ~0u;  // which arrays (bits) have one number for each element, and for each row
    uint32_t* last_ = nullptr;
    int64_t end_ = 0;
    bool alike_ = true;  // whether all have the same dim
    nb::object held_;
};

}  // namespace unhot

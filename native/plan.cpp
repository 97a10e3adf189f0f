#include "plan.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace unhot {

namespace {

constexpr int64_t kAhead = 16;

// An open-addressed table from a key to its place in a list of distinct keys; at most half full.
class Places {
   public:
    explicit Places(int64_t count) {
        const uint64_t size = std::bit_ceil(static_cast<uint64_t>(count < 8 ? 16 : 2 * count));
        shift_ = 64 - std::countr_zero(size);
        mask_ = size - 1;
        if (slots().size() < size) slots().resize(size);
        table_ = slots().data();
        std::memset(table_, 0xff, size * sizeof(int32_t));
    }

    // The place of `key` among keys[0..found); adds it there if it is new.  Writes keys[found] in any case.
    inline int32_t place(int64_t key, int64_t* keys, int32_t& found) {
        keys[found] = key;
        uint64_t at = (static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull) >> shift_;
        for (;; at = (at + 1) & mask_) {
            // Whether a key is new cannot be foretold, so that no branch depends on it (compilers make one of `?:`): a new
            // key finds itself.
            const int32_t known = table_[at], fresh = known < 0, place = known + ((found - known) & -fresh);
            if (keys[place] == key) {
                table_[at] = place;
                found += fresh;
                return place;
            }
        }
    }

   private:
    static std::vector<int32_t>& slots() {
        static thread_local std::vector<int32_t> slots;
        return slots;
    }
    int32_t* table_;
    int shift_;
    uint64_t mask_;
};

}  // namespace

int64_t outside(const int64_t* ids, int64_t count, int64_t rows) {
    const auto limit = static_cast<uint64_t>(rows);  // a negative id is then larger than any row number
    constexpr int64_t kPiece = 256;
    for (int64_t start = 0; start < count; start += kPiece) {
        const int64_t stop = std::min(start + kPiece, count);
        bool bad = false;  // no branch in the loop, so that the compiler makes vectors of it
        for (int64_t i = start; i < stop; ++i) bad |= static_cast<uint64_t>(ids[i]) >= limit;
        if (!bad) continue;
        for (int64_t i = start; i < stop; ++i)
            if (static_cast<uint64_t>(ids[i]) >= limit) return i;
    }
    return -1;
}

int64_t number_rows(int64_t* ids, const int64_t* counts, const int64_t* rows, const int64_t* firsts, int64_t tables) {
    int64_t begin = 0;
    for (int64_t t = 0; t < tables; begin += counts[t++]) {
        const int64_t bad = outside(ids + begin, counts[t], rows[t]);
        if (bad >= 0) return begin + bad;
        for (int64_t i = begin; i < begin + counts[t]; ++i) ids[i] += firsts[t];
    }
    return -1;
}

int64_t group(const int64_t* ids, int64_t count, const uint32_t* last, int64_t* rows, int64_t* order, int64_t* starts) {
    static thread_local std::vector<int32_t> buffer;
    if (buffer.size() < static_cast<size_t>(2 * count)) buffer.resize(static_cast<size_t>(2 * count));
    int32_t* place = buffer.data();  // of each id's row among `rows`
    int32_t* times = place + count;  // that each row occurs
    Places places(count);
    int32_t found = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (last) __builtin_prefetch(last + ids[i]);
        times[found] = 0;
        ++times[place[i] = places.place(ids[i], rows, found)];
    }
    // starts[k + 1] begins as the start of row k, and is the start of row k + 1 once all of row k is in.
    int64_t start = starts[0] = 0;
    for (int32_t k = 0; k < found; ++k) {
        starts[k + 1] = start;
        start += times[k];
    }
    for (int64_t i = 0; i < count; ++i) order[starts[place[i] + 1]++] = i;
    return found;
}

int64_t last_steps(const uint32_t* last, const int64_t* rows, int64_t count, uint32_t now, int64_t* steps, int32_t* line) {
    Places table(count);
    int32_t found = 0;
    for (int64_t k = 0; k < count; ++k) {
        if (k + kAhead < count) __builtin_prefetch(last + rows[k + kAhead]);
        const uint32_t step = last[rows[k]];
        line[k] = step == now || step == kFrozen ? -1 : table.place(step, steps, found);
    }
    return found;
}

}  // namespace unhot

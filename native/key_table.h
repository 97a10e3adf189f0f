// The hash table from keys to row numbers. It grows by one segment at a time, so that no insertion waits for more than the
// division of a segment.
//
// A segment has lines of 64 bytes, in each of which lie some keys with their rows. A key lies in the line that its hash names,
// or if that is full, in one of the next; each line counts the keys that have passed it, so that a search ends at the first
// line that none has passed, and a removed key leaves nothing behind. A directory names the segment by the first bits of the
// place of the hash. A segment that is full is divided in two; if it was the only one of its entry in the directory, the
// directory doubles.
//
// Segments that filled up at the same time would all be half empty afterwards. Hashes are therefore spread unevenly over the
// directory, three times as densely at its beginning as at its end, and the segments are divided one after the other: the table
// is 0.59 to 0.65 full, whatever its size.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "key_hash.h"
#include "key_memory.h"

namespace unhot {

constexpr uint32_t kNoRow = 0xFFFFFFFF;
constexpr uint64_t kLineBytes = 64;

// Integers: a row has one more bit, which says that the key is 2^63 or more.
struct IntegerLine {
    static constexpr int kPlaces = 5;
    uint64_t keys[kPlaces];
    uint32_t rows[kPlaces];
    uint32_t passed;

    uint32_t hash(int place) const { return hash_of(keys[place]); }
};

// Texts: the hash in place of the key, which lies elsewhere.
struct TextLine {
    static constexpr int kPlaces = 7;
    uint32_t keys[kPlaces];
    uint32_t rows[kPlaces];
    uint32_t passed;
    uint32_t unused;

    uint32_t hash(int place) const { return keys[place]; }
};

static_assert(sizeof(IntegerLine) == kLineBytes && sizeof(TextLine) == kLineBytes);

// The memory of segments of the usual size: many in one large page, since a lookup goes anywhere.
class Blocks {
   public:
    static constexpr int kLineBits = 10;
    static constexpr uint64_t kBytes = kLineBytes << kLineBits;

    void* take() {
        if (free_.empty()) {
            // The first ones alone: a small table takes no large page.
            const bool large = slabs_.size() >= kSingle;
            const uint64_t count = large ? kPageBytes / kBytes : 1;
            free_.reserve((slabs_.size() + 1) *
                          (kPageBytes / kBytes));  // for all that there can be: to give one back cannot fail
            slabs_.push_back(memory_for<char>(count * kBytes, large));
            for (uint64_t k = count; k-- > 0;) free_.push_back(slabs_.back().get() + k * kBytes);
        }
        void* block = free_.back();
        free_.pop_back();
        return block;
    }

    void give_back(void* block) noexcept { free_.push_back(block); }

   private:
    static constexpr uint64_t kSingle = 8;
    std::vector<Memory<char>> slabs_;
    std::vector<void*> free_;
};

template <typename Line>
class KeyTable {
   public:
    KeyTable() : directory_(1), owners_(1) {
        segments_.reserve(1);
        segments_.push_back(Segment{allocate(0), 0, 0, 0});
        directory_[0] = entry(segments_[0]);
    }
    KeyTable(const KeyTable&) = delete;
    KeyTable& operator=(const KeyTable&) = delete;
    ~KeyTable() {
        for (Segment& segment : segments_) release(segment);
    }

    // Where a key with this hash lies, if it is there: in this line, or in one of the next within the segment.
    struct Place {
        Line* lines;
        uint64_t mask, line;

        Line& operator*() const { return lines[line]; }
        void next() { line = (line + 1) & mask; }
    };

    // What finds them, apart: a compiler knows that nothing in a loop changes it.
    struct View {
        const uint64_t* directory;
        int shift;

        Place place(uint32_t hash) const {
            const uint64_t found = directory[spread(hash) >> shift];
            const uint64_t mask = (uint64_t{1} << (found & (kLineBytes - 1))) - 1;
            return Place{reinterpret_cast<Line*>(found & ~(kLineBytes - 1)), mask, hash & mask};
        }
    };

    View view() const { return View{directory_.data(), shift_}; }
    Place place(uint32_t hash) const { return view().place(hash); }

    // Makes room for one more key with this hash; nothing has changed if it throws.
    void make_room(uint32_t hash) {
        for (;;) {
            const uint64_t at = spread(hash) >> shift_;
            const Segment& segment = segments_[owners_[at]];
            if (segment.count < most(segment.bits)) return;
            const bool small = segment.depth == 0 && segment.bits < Blocks::kLineBits;
            if (small || segment.depth >= deepest())
                double_lines(hash);
            else
                divide(hash);
        }
    }

    // Adds a key that is not there, after make_room.
    template <typename Key>
    void add(uint32_t hash, Key key, uint32_t row) noexcept {
        ++segments_[owners_[spread(hash) >> shift_]].count;
        put(place(hash), key, row);
    }

    // Removes the key that has this row.
    void remove(uint32_t hash, uint32_t row) noexcept {
        for (Place at = place(hash);; at.next()) {
            Line& line = *at;
            for (int k = 0; k < Line::kPlaces; ++k) {
                if (line.rows[k] != row) continue;
                line.rows[k] = kNoRow;
                line.keys[k] = 0;
                for (Place back = place(hash); back.line != at.line; back.next()) --(*back).passed;
                --segments_[owners_[spread(hash) >> shift_]].count;
                return;
            }
        }
    }

    uint64_t bytes() const {
        uint64_t sum = directory_.capacity() * (sizeof(uint64_t) + sizeof(uint32_t)) + segments_.capacity() * sizeof(Segment);
        for (const Segment& segment : segments_) sum += kLineBytes << segment.bits;
        return sum;
    }

   private:
    struct Segment {
        Line* lines;
        uint32_t count;
        uint8_t depth;  // the bits that the places of its hashes have in common
        uint8_t bits;   // of the number of its lines
    };

    // An increasing function from 32 bits to 32, whose slope rises from 1/2 to 3/2.
    static uint64_t spread(uint32_t hash) {
        const uint64_t x = hash;
        return (x + ((x * x) >> 32)) >> 1;
    }

    static uint64_t entry(const Segment& segment) { return reinterpret_cast<uint64_t>(segment.lines) | segment.bits; }
    static uint64_t most(int bits) { return ((uint64_t{Line::kPlaces} << bits) * 9) / 10; }

    // Keys that were chosen to collide could make the directory as large as they like: then a segment gets more lines.
    int deepest() const { return std::min<int>(30, 4 + static_cast<int>(std::bit_width(segments_.size()))); }

    Line* allocate(int bits) {
        auto* lines = bits == Blocks::kLineBits ? static_cast<Line*>(blocks_.take())
                                                : memory_for<Line>(uint64_t{1} << bits, false).release();
        clear(lines, bits);
        return lines;
    }

    static void clear(Line* lines, int bits) noexcept {
        Line none{};
        for (uint32_t& row : none.rows) row = kNoRow;
        std::fill_n(lines, uint64_t{1} << bits, none);
    }

    void release(const Segment& segment) noexcept {
        if (segment.bits == Blocks::kLineBits)
            blocks_.give_back(segment.lines);
        else
            std::free(segment.lines);
    }

    template <typename Key>
    static void put(Place at, Key key, uint32_t row) noexcept {
        for (;; at.next()) {
            Line& line = *at;
            for (int k = 0; k < Line::kPlaces; ++k) {
                if (line.rows[k] != kNoRow) continue;
                line.keys[k] = key;
                line.rows[k] = row;
                return;
            }
            ++line.passed;
        }
    }

    // The first of the entries of a segment, which lie side by side.
    size_t first_entry(uint32_t hash, int depth) const {
        const uint64_t count = directory_.size() >> depth;
        return static_cast<size_t>((spread(hash) >> shift_) & ~(count - 1));
    }

    void double_lines(uint32_t hash) {
        const uint32_t owner = owners_[spread(hash) >> shift_];
        const Segment before = segments_[owner];
        Segment after{allocate(before.bits + 1), before.count, before.depth, static_cast<uint8_t>(before.bits + 1)};
        const uint64_t mask = (uint64_t{1} << after.bits) - 1;
        each(before.lines, before.bits,
             [&](const Line& line, int k) { put(Place{after.lines, mask, line.hash(k) & mask}, line.keys[k], line.rows[k]); });
        segments_[owner] = after;
        std::fill_n(directory_.begin() + static_cast<ptrdiff_t>(first_entry(hash, after.depth)),
                    directory_.size() >> after.depth, entry(after));
        release(before);
    }

    void divide(uint32_t hash) {
        const uint32_t owner = owners_[spread(hash) >> shift_];
        if (segments_[owner].depth == 32 - shift_) {
            std::vector<uint64_t> directory(2 * directory_.size());
            std::vector<uint32_t> owners(2 * owners_.size());
            for (size_t at = 0; at < directory.size(); ++at) {
                directory[at] = directory_[at / 2];
                owners[at] = owners_[at / 2];
            }
            directory_.swap(directory);
            owners_.swap(owners);
            --shift_;
        }
        const int bits = segments_[owner].bits;
        const uint64_t lines = uint64_t{1} << bits;
        if (scratch_.size() < lines) scratch_.resize(lines);
        if (segments_.size() == segments_.capacity()) segments_.reserve(2 * segments_.size());
        segments_.push_back(Segment{allocate(bits), 0, 0, static_cast<uint8_t>(bits)});
        Segment &low = segments_[owner], &high = segments_.back();
        high.depth = ++low.depth;
        std::copy_n(low.lines, lines, scratch_.data());
        clear(low.lines, bits);
        low.count = 0;
        each(scratch_.data(), bits, [&](const Line& line, int k) {
            const uint32_t own = line.hash(k);
            Segment& half = (spread(own) >> (32 - low.depth)) & 1 ? high : low;
            ++half.count;
            put(Place{half.lines, lines - 1, own & (lines - 1)}, line.keys[k], line.rows[k]);
        });
        const size_t count = directory_.size() >> low.depth;
        const size_t first = first_entry(hash, low.depth - 1) + count;
        std::fill_n(directory_.begin() + static_cast<ptrdiff_t>(first), count, entry(high));
        std::fill_n(owners_.begin() + static_cast<ptrdiff_t>(first), count, static_cast<uint32_t>(segments_.size() - 1));
    }

    template <typename Work>
    static void each(const Line* lines, int bits, const Work& work) {
        for (uint64_t l = 0; l < uint64_t{1} << bits; ++l)
            for (int k = 0; k < Line::kPlaces; ++k)
                if (lines[l].rows[k] != kNoRow) work(lines[l], k);
    }

    Blocks blocks_;
    std::vector<uint64_t> directory_;  // the address of a segment's lines, and the bits of their number
    std::vector<uint32_t> owners_;     // the segment's number
    std::vector<Segment> segments_;
    std::vector<Line> scratch_;
    int shift_ = 32;
};

}  // namespace unhot

// The map from keys to row numbers and back; src/unhot/keys/maps.py says what it does. It knows arrays, not Python.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "key_store.h"
#include "key_table.h"

namespace unhot {

// The kinds and the refusals have the numbers of KINDS and REASONS in src/unhot/keys.
enum class Kind { none, integer, text, bytes };
enum class Refusal { none, kind, utf8, length, rows, known, filled };

struct Outcome {
    Refusal refusal;
    int64_t place;
};

// Keys as arrays; what is not there is null.
struct KeyColumn {
    Kind kind;
    int64_t count;
    const uint64_t* integers;
    const bool* large;
    const uint8_t* bytes;
    const int32_t* offsets32;
    const int64_t* offsets64;
    const bool* missing;

    bool is_missing(int64_t k) const { return missing && missing[k]; }
    bool is_large(int64_t k) const { return large && large[k]; }
    int64_t start(int64_t k) const { return offsets32 ? offsets32[k] : offsets64[k]; }
    uint64_t length(int64_t k) const { return static_cast<uint64_t>(start(k + 1) - start(k)); }
};

constexpr int64_t kAsKey = -2;
constexpr int64_t kMostRows = (int64_t{1} << 31) - 1;

struct RowNumbers {
    int64_t first, unknown, missing, buckets;
};

// Any number of threads may be in here to read, or one to write. A forked child finds the gate open, since the threads that
// were inside are not there; but if one of them was writing, whoever enters gets an error.
class Gate {
   public:
    void enter_to_read();
    void leave_reading() noexcept;
    void enter_to_write();
    void leave_writing() noexcept;

   private:
    uint64_t wait_for_turn(uint64_t state, uint64_t mark);

    std::atomic<uint64_t> state_{0};  // the number of the fork, then one bit of the writer, one of those who wait, the readers
};

class Reading {
   public:
    explicit Reading(Gate& gate) : gate_(gate) { gate_.enter_to_read(); }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading() { gate_.leave_reading(); }

   private:
    Gate& gate_;
};

class Writing {
   public:
    explicit Writing(Gate& gate) : gate_(gate) { gate_.enter_to_write(); }
    Writing(const Writing&) = delete;
    Writing& operator=(const Writing&) = delete;
    ~Writing() { gate_.leave_writing(); }

   private:
    Gate& gate_;
};

// Keys by their rows, as they are handed out.
struct TakenKeys {
    Kind kind = Kind::none;
    std::vector<uint64_t> integers;
    std::vector<uint8_t> bytes, large, missing, absent;  // masks, empty where nothing is marked; absent is missing, too
    std::vector<int64_t> offsets;
};

struct KeyCounts {
    Kind kind;
    int64_t keys, rows;
    bool negative, large;
};

class KeyMap {
   public:
    KeyCounts counts() const;
    uint64_t bytes() const;  // of memory, taken for keys

    // The place of the first unknown key, or -1.
    int64_t find(const KeyColumn& column, const RowNumbers& rows, int64_t* out) const;
    Outcome add(const KeyColumn& column, const RowNumbers& rows, int64_t* out, bool unique, bool empty);
    int64_t remove(const KeyColumn& column, const RowNumbers& rows, int64_t* out);
    TakenKeys take(const int64_t* rows, int64_t count) const;
    TakenKeys take_all(std::vector<int64_t>& free) const;

    // Fills a new map: the rows in `free`, which rise, are those of no key.
    Outcome load(const KeyColumn& column, const int64_t* free, int64_t count);

   private:
    using Numbers = std::vector<uint32_t>;

    int64_t find_range(const KeyColumn& column, const RowNumbers& rows, int64_t* out, int64_t begin, int64_t end) const;
    template <typename Use>
    void look_up(const KeyColumn& column, int64_t begin, int64_t end, const Use& use) const;
    template <typename Use>
    void look_up_integers(const KeyColumn& column, int64_t begin, int64_t end, const Use& use) const;
    template <typename Use>
    void look_up_texts(const KeyColumn& column, int64_t begin, int64_t end, const Use& use) const;
    uint32_t row_of(const KeyColumn& column, int64_t k) const;
    uint32_t row_of_integer(uint64_t key, bool large) const;
    uint32_t row_of_text(const uint8_t* bytes, uint64_t length, uint32_t hash) const;
    bool is_text(uint32_t row, const uint8_t* bytes, uint64_t length) const;

    Refusal add_one(const KeyColumn& column, int64_t k, uint32_t& row);
    void forget(uint32_t row) noexcept;
    void undo(const Numbers& added, uint64_t rows) noexcept;
    void take_rows(const int64_t* rows, int64_t count, TakenKeys& taken) const;

    mutable Gate gate_;
    Kind kind_ = Kind::none;
    bool negative_ = false, any_large_ = false;
    uint64_t keys_ = 0;
    int64_t missing_ = -1;  // the row of the missing key
    KeyTable<IntegerLine> integers_;
    KeyTable<TextLine> texts_;
    Pieces held_;         // integers, or the spans of texts, by row
    Marks live_, large_;  // rows that have a key; those whose integer is 2^63 or more
    Texts bytes_;
    Numbers free_;  // rows that are free, a heap whose first is the lowest
};

}  // namespace unhot

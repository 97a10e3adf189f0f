#include "keys.h"

#include <pthread.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "instructions.h"
#include "key_hash.h"
#include "threads.h"

namespace unhot {

namespace {

std::atomic<uint32_t> forks{0};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });

constexpr uint64_t kReaders = (uint64_t{1} << 30) - 1, kWaiting = uint64_t{1} << 30, kWriter = uint64_t{1} << 31;

uint64_t generation() { return static_cast<uint64_t>(forks.load(std::memory_order_relaxed)) << 32; }

// Whether the bytes are UTF-8 as Unicode defines it: nothing overlong, no surrogates, nothing past the last character.
bool is_utf8(const uint8_t* at, uint64_t length) {
    const uint8_t* end = at + length;
    while (at < end) {
        if (end - at >= 8 && !(eight_bytes(at) & 0x8080808080808080)) {
            at += 8;
            continue;
        }
        const uint8_t lead = *at++;
        if (lead < 0x80) continue;
        const int more = lead >= 0xC2 && lead < 0xE0 ? 1 : (lead & 0xF0) == 0xE0 ? 2 : lead >= 0xF0 && lead < 0xF5 ? 3 : 0;
        if (!more || end - at < more) return false;
        for (int k = 0; k < more; ++k)
            if ((at[k] & 0xC0) != 0x80) return false;
        if ((lead == 0xE0 && at[0] < 0xA0) || (lead == 0xED && at[0] >= 0xA0) || (lead == 0xF0 && at[0] < 0x90) ||
            (lead == 0xF4 && at[0] >= 0x90))
            return false;
        at += more;
    }
    return true;
}

// Whether two texts of one length are equal; most are short.
inline bool same_bytes(const uint8_t* a, const uint8_t* b, uint64_t length) {
    if (length > 16) return std::memcmp(a, b, length) == 0;
    if (length >= 8) return !((eight_bytes(a) ^ eight_bytes(b)) | (eight_bytes(a + length - 8) ^ eight_bytes(b + length - 8)));
    if (length >= 4) return !((four_bytes(a) ^ four_bytes(b)) | (four_bytes(a + length - 4) ^ four_bytes(b + length - 4)));
    for (uint64_t k = 0; k < length; ++k)
        if (a[k] != b[k]) return false;
    return true;
}

int64_t bucket_of(const KeyColumn& column, int64_t k, int64_t buckets) {
    BucketHash hash;
    if (!column.is_missing(k)) {
        if (column.kind == Kind::integer) {
            for (int shift = 0; shift < 64; shift += 8) hash.add(static_cast<uint8_t>(column.integers[k] >> shift));
        } else {
            const uint8_t* bytes = column.bytes + column.start(k);
            for (uint64_t b = 0; b < column.length(k); ++b) hash.add(bytes[b]);
        }
    }
    return hash.bucket(buckets);
}

constexpr uint32_t kLargeRow = uint32_t{1} << 31;

constexpr uint32_t kElsewhere = kNoRow - 1;  // of a key that may lie in another line: no row has this number

constexpr int64_t kBlock = 8;    // keys that are looked up together
constexpr int64_t kLag = 4;      // blocks between two stages of a lookup: by then, memory is there
constexpr int64_t kChunk = 256;  // keys that are looked up before some of them are added

template <int kStages>
constexpr int kSlots = static_cast<int>(kLag) * (kStages - 1) + 1;

// The row of each key, as it stands in the key's line; kNoRow if the key is not there; kElsewhere if it may lie in another
// line, or if it may be two: the same bits are those of a negative key and of one of 2^63 or more. Empty places have the bits
// of 0.
//
// Which of its places holds the key cannot be foretold, so that no branch depends on it.
using CompareLines = void (*)(const IntegerLine* const* lines, const uint64_t* keys, int64_t count, uint32_t* rows);

void compare_portable(const IntegerLine* const* lines, const uint64_t* keys, int64_t count, uint32_t* rows) {
    for (int64_t i = 0; i < count; ++i) {
        const IntegerLine& line = *lines[i];
        uint32_t row = kNoRow, same = 0;
        for (int k = 0; k < IntegerLine::kPlaces; ++k) {
            const uint32_t equal = line.keys[k] == keys[i];
            row &= line.rows[k] | (equal - 1);
            same += equal;
        }
        const bool sure = row == kNoRow ? !line.passed : same == 1;
        rows[i] = sure ? row : kElsewhere;
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void compare_avx2(const IntegerLine* const* lines, const uint64_t* keys, int64_t count,
                                                  uint32_t* rows) {
    for (int64_t i = 0; i < count; ++i) {
        const IntegerLine& line = *lines[i];
        const __m256i key = _mm256_set1_epi64x(static_cast<long long>(keys[i]));
        const __m256i four = _mm256_load_si256(reinterpret_cast<const __m256i*>(line.keys));
        const auto places = static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(key, four)))) |
                            static_cast<uint32_t>(line.keys[4] == keys[i]) << 4;
        const uint32_t row = line.rows[places ? __builtin_ctz(places) : 0];
        const bool sure = places ? !(places & (places - 1)) && row != kNoRow : !line.passed;
        rows[i] = sure ? (places ? row : kNoRow) : kElsewhere;
    }
}
#endif

// The same of a text's hash in its line; whether the text is the same is seen later.
uint32_t compare_text_line(const TextLine& line, uint32_t hash) {
    uint32_t places = 0;
#if defined(__SSE2__)
    const __m128i key = _mm_set1_epi32(static_cast<int>(hash));
    for (int half = 0; half < 2; ++half) {
        const __m128i four = _mm_load_si128(reinterpret_cast<const __m128i*>(line.keys) + half);
        places |= static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(key, four)))) << (4 * half);
    }
    places &= (1u << TextLine::kPlaces) - 1;  // a row comes after the keys
#else
    for (int k = 0; k < TextLine::kPlaces; ++k) places |= static_cast<uint32_t>(line.keys[k] == hash) << k;
#endif
    if (!places) return line.passed ? kElsewhere : kNoRow;
    return places & (places - 1) ? kElsewhere : std::min(line.rows[__builtin_ctz(places)], kElsewhere);
}

CompareLines compare_lines() {
#if defined(__x86_64__)
    if (chosen != Isa::portable) return compare_avx2;
#endif
    return compare_portable;
}

// Calls work(stage, first, count, slot) for the stages of each block of keys, those of one block in turn. What one stage
// fetches is there when the next one is due, since those of other blocks lie in between. Each block that is on its way has a
// slot.
template <int kStages, typename Work>
void in_stages(int64_t begin, int64_t end, const Work& work) {
    const int64_t blocks = (end - begin + kBlock - 1) / kBlock;
    for (int64_t turn = 0; turn < blocks + kLag * (kStages - 1); ++turn) {
        for (int stage = 0; stage < kStages; ++stage) {
            const int64_t block = turn - kLag * stage, first = begin + block * kBlock;
            if (block < 0 || block >= blocks) continue;
            work(stage, first, std::min<int64_t>(kBlock, end - first), static_cast<int>(block % kSlots<kStages>));
        }
    }
}

}  // namespace

// ------------------------------------------------------------------ threads

void Gate::enter_to_read() {
    uint64_t state = state_.load(std::memory_order_acquire);
    for (;;) {
        state = wait_for_turn(state, 0);
        if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return;
    }
}

void Gate::leave_reading() noexcept {
    const uint64_t state = state_.fetch_sub(1, std::memory_order_release) - 1;
    if ((state & kWaiting) && !(state & kReaders)) state_.notify_all();
}

void Gate::enter_to_write() {
    uint64_t state = state_.load(std::memory_order_acquire);
    for (;;) {
        state = wait_for_turn(state, kWaiting);
        if (state_.compare_exchange_weak(state, generation() | kWriter, std::memory_order_acquire)) return;
    }
}

void Gate::leave_writing() noexcept {
    state_.store(generation(), std::memory_order_release);
    state_.notify_all();
}

// The state, once one may enter: a reader while nobody writes or waits to, a writer while nobody is there.
uint64_t Gate::wait_for_turn(uint64_t state, uint64_t mark) {
    for (;;) {
        if ((state & ~uint64_t{0xFFFFFFFF}) != generation()) {
            if (state & kWriter)
                throw std::runtime_error(
                    "another thread was changing the vocabulary when this process was forked: load or make it again.");
            // What the readers of the other process have left here.
            if (!state_.compare_exchange_weak(state, generation(), std::memory_order_acquire)) continue;
            return generation();
        }
        const uint64_t busy = state & (kWriter | (mark ? kReaders : kWaiting));
        if (!busy) return state;
        if (mark && !(state & mark)) {
            if (!state_.compare_exchange_weak(state, state | mark, std::memory_order_acquire)) continue;
            state |= mark;
        }
        state_.wait(state, std::memory_order_acquire);
        state = state_.load(std::memory_order_acquire);
    }
}

// ------------------------------------------------------------------ lookups

KeyCounts KeyMap::counts() const {
    const Reading reading(gate_);
    return {kind_, static_cast<int64_t>(keys_), static_cast<int64_t>(held_.size()), negative_, any_large_};
}

uint64_t KeyMap::bytes() const {
    const Reading reading(gate_);
    return integers_.bytes() + texts_.bytes() + bytes_.bytes() + held_.size() * sizeof(uint64_t) + held_.size() / 4;
}

bool KeyMap::is_text(uint32_t row, const uint8_t* bytes, uint64_t length) const {
    const uint64_t span = held_[row];
    return Texts::length(span) == length && same_bytes(bytes_.address(span), bytes, length);
}

uint32_t KeyMap::row_of_integer(uint64_t key, bool large) const {
    auto at = integers_.place(hash_of(key));
    const uint64_t start = at.line;
    do {  // after keys have come and gone, each line of a small segment may have been passed by one
        const IntegerLine& line = *at;
        for (int k = 0; k < IntegerLine::kPlaces; ++k)
            if (line.keys[k] == key && line.rows[k] != kNoRow && (line.rows[k] >= kLargeRow) == large)
                return line.rows[k] & ~kLargeRow;
        if (!line.passed) return kNoRow;
        at.next();
    } while (at.line != start);
    return kNoRow;
}

uint32_t KeyMap::row_of_text(const uint8_t* bytes, uint64_t length, uint32_t hash) const {
    auto at = texts_.place(hash);
    const uint64_t start = at.line;
    do {
        const TextLine& line = *at;
        for (int k = 0; k < TextLine::kPlaces; ++k)
            if (line.keys[k] == hash && line.rows[k] != kNoRow && is_text(line.rows[k], bytes, length)) return line.rows[k];
        if (!line.passed) return kNoRow;
        at.next();
    } while (at.line != start);
    return kNoRow;
}

uint32_t KeyMap::row_of(const KeyColumn& column, int64_t k) const {
    if (column.is_missing(k)) return missing_ < 0 ? kNoRow : static_cast<uint32_t>(missing_);
    if (column.kind == Kind::integer) return row_of_integer(column.integers[k], column.is_large(k));
    const uint8_t* bytes = column.bytes + column.start(k);
    return row_of_text(bytes, column.length(k), hash_of(bytes, column.length(k)));
}

// Calls use(first, count, rows) with the rows of each block of keys, in order. The memory that a block needs is
// fetched while the blocks before are worked on.
template <typename Use>
void KeyMap::look_up(const KeyColumn& column, int64_t begin, int64_t end, const Use& use) const {
    if (column.kind != kind_ || kind_ == Kind::none) {
        for (int64_t k = begin; k < end; ++k) {
            const uint32_t row = column.is_missing(k) ? row_of(column, k) : kNoRow;
            use(k, 1, &row);
        }
    } else if (kind_ == Kind::integer) {
        look_up_integers(column, begin, end, use);
    } else {
        look_up_texts(column, begin, end, use);
    }
}

template <typename Use>
void KeyMap::look_up_integers(const KeyColumn& column, int64_t begin, int64_t end, const Use& use) const {
    constexpr int kStages = 3;
    const auto table = integers_.view();
    const uint64_t* keys = column.integers;
    const IntegerLine* lines[kSlots<kStages>][kBlock];
    uint32_t found[kSlots<kStages>][kBlock];
    const auto compare = compare_lines();
    in_stages<kStages>(begin, end, [&](int stage, int64_t first, int64_t count, int slot) {
        const IntegerLine** own = lines[slot];
        uint32_t* rows = found[slot];
        if (stage == 0) {
            for (int64_t i = 0; i < count; ++i) {
                own[i] = &*table.place(hash_of(keys[first + i]));
                __builtin_prefetch(own[i]);
            }
            return;
        }
        if (stage == 1) {
            compare(own, keys + first, count, rows);
            for (int64_t i = 0; i < count; ++i)
                if (rows[i] == kElsewhere) __builtin_prefetch(own[i] + 1);
            return;
        }
        if (column.missing || column.large || any_large_) {
            for (int64_t i = 0; i < count; ++i) {
                const bool same = rows[i] < kElsewhere && (rows[i] >= kLargeRow) == column.is_large(first + i);
                if (column.is_missing(first + i) || (!same && rows[i] != kNoRow))
                    rows[i] = row_of(column, first + i);
                else if (same)
                    rows[i] &= ~kLargeRow;
            }
        } else {
            for (int64_t i = 0; i < count; ++i)
                if (rows[i] == kElsewhere) rows[i] = row_of_integer(keys[first + i], false);
        }
        use(first, count, rows);
    });
}

// First the lines of the table are fetched; then the spans of the texts that the lines name, then the bytes.
template <typename Use>
void KeyMap::look_up_texts(const KeyColumn& column, int64_t begin, int64_t end, const Use& use) const {
    constexpr int kStages = 4;
    const auto table = texts_.view();
    const TextLine* lines[kSlots<kStages>][kBlock];
    uint32_t hashes[kSlots<kStages>][kBlock], found[kSlots<kStages>][kBlock];
    in_stages<kStages>(begin, end, [&](int stage, int64_t first, int64_t count, int slot) {
        const TextLine** own = lines[slot];
        uint32_t *hash = hashes[slot], *rows = found[slot];
        for (int64_t i = 0; i < count && stage == 0; ++i) {
            const int64_t k = first + i;
            hash[i] = column.is_missing(k) ? 0 : hash_of(column.bytes + column.start(k), column.length(k));
            own[i] = &*table.place(hash[i]);
            __builtin_prefetch(own[i]);
        }
        for (int64_t i = 0; i < count && stage == 1; ++i) {
            rows[i] = compare_text_line(*own[i], hash[i]);
            if (rows[i] < kElsewhere) __builtin_prefetch(held_.address(rows[i]));
        }
        for (int64_t i = 0; i < count && stage == 2; ++i)
            if (rows[i] < kElsewhere) __builtin_prefetch(bytes_.address(held_[rows[i]]));
        if (stage < 3) return;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t k = first + i;
            if (column.is_missing(k)) {
                rows[i] = row_of(column, k);
            } else if (rows[i] != kNoRow) {
                const uint8_t* bytes = column.bytes + column.start(k);
                const uint64_t length = column.length(k);
                if (rows[i] == kElsewhere || !is_text(rows[i], bytes, length)) rows[i] = row_of_text(bytes, length, hash[i]);
            }
        }
        use(first, count, rows);
    });
}

int64_t KeyMap::find(const KeyColumn& column, const RowNumbers& rows, int64_t* out) const {
    const Reading reading(gate_);
    std::atomic<int64_t> first{column.count};
    parallel(column.count, column.count * static_cast<int64_t>(kLineBytes), [&](int64_t begin, int64_t end) {
        const int64_t found = find_range(column, rows, out, begin, end);
        int64_t least = first.load();
        while (found >= 0 && found < least && !first.compare_exchange_weak(least, found)) {
        }
    });
    return first == column.count ? -1 : first.load();
}

int64_t KeyMap::find_range(const KeyColumn& column, const RowNumbers& rows, int64_t* out, int64_t begin, int64_t end) const {
    int64_t first = -1;
    look_up(column, begin, end, [&](int64_t at, int64_t count, const uint32_t* found) {
        bool all = !column.missing;
        for (int64_t i = 0; i < count; ++i) {
            out[at + i] = rows.first + found[i];
            all &= found[i] != kNoRow;
        }
        for (int64_t i = 0; i < count && !all; ++i) {
            const int64_t k = at + i;
            if (rows.missing != kAsKey && column.is_missing(k)) {
                out[k] = rows.missing;
            } else if (found[i] == kNoRow) {
                if (first < 0) first = k;
                out[k] = rows.unknown + (rows.buckets ? bucket_of(column, k, rows.buckets) : 0);
            }
        }
    });
    return first;
}

// ------------------------------------------------------------------ changes

Outcome KeyMap::add(const KeyColumn& column, const RowNumbers& rows, int64_t* out, bool unique, bool empty) {
    const Writing writing(gate_);
    if (empty && keys_) return {Refusal::filled, 0};
    if (column.kind != Kind::none && kind_ != Kind::none && column.kind != kind_) return {Refusal::kind, 0};
    const Kind kind = kind_;
    const uint64_t size = held_.size();
    if (column.kind != Kind::none) kind_ = column.kind;
    Numbers added;
    Outcome outcome{Refusal::none, -1};
    bool negative = negative_, large = any_large_;
    try {
        uint32_t found[kChunk];
        for (int64_t begin = 0; begin < column.count && outcome.place < 0; begin += kChunk) {
            const int64_t end = std::min(begin + kChunk, column.count);
            // All of them before any is added: what is looked up stays where it is.
            look_up(column, begin, end, [&](int64_t first, int64_t count, const uint32_t* own) {
                std::copy_n(own, count, found + (first - begin));
            });
            for (int64_t k = begin; k < end && outcome.place < 0; ++k) {
                if (out[k] >= 0 || (rows.missing != kAsKey && column.is_missing(k))) continue;
                uint32_t row = found[k - begin];
                if (row == kNoRow && !added.empty()) row = row_of(column, k);  // it may have been added since
                if (row != kNoRow && unique) {
                    outcome = {Refusal::known, k};
                } else if (row == kNoRow) {
                    if (added.size() == added.capacity()) added.reserve(2 * added.size() + kChunk);
                    const Refusal refusal = add_one(column, k, row);
                    if (refusal == Refusal::none)
                        added.push_back(row);
                    else
                        outcome = {refusal, k};
                    const bool integer = kind_ == Kind::integer && !column.is_missing(k);
                    large |= integer && column.is_large(k);
                    negative |= integer && !column.is_large(k) && static_cast<int64_t>(column.integers[k]) < 0;
                }
                if (outcome.place < 0) out[k] = rows.first + row;
            }
        }
    } catch (...) {
        undo(added, size);
        kind_ = kind;
        throw;
    }
    if (outcome.place >= 0) undo(added, size);
    if (outcome.place >= 0 || added.empty()) {
        kind_ = kind;
    } else {
        negative_ = negative;
        any_large_ = large;
    }
    return outcome;
}

// Adds a key that is not there; `row` is its row, unless it is refused. Nothing has changed if it throws.
Refusal KeyMap::add_one(const KeyColumn& column, int64_t k, uint32_t& row) {
    const bool again = !free_.empty();
    if (!again && held_.size() >= static_cast<uint64_t>(kMostRows)) return Refusal::rows;
    const uint32_t number = again ? free_.front() : static_cast<uint32_t>(held_.size());
    if (!again) held_.make_room();
    live_.make_room(number);
    large_.make_room(number);
    uint64_t value = 0;
    bool large = false;
    if (column.is_missing(k)) {
        missing_ = number;
    } else if (kind_ == Kind::integer) {
        value = column.integers[k];
        large = column.is_large(k);
        const uint32_t hash = hash_of(value);
        integers_.make_room(hash);
        integers_.add(hash, value, large ? number | kLargeRow : number);
    } else {
        const uint8_t* bytes = column.bytes + column.start(k);
        const uint64_t length = column.length(k);
        if (length > Texts::kLongest) return Refusal::length;
        if (kind_ == Kind::text && !is_utf8(bytes, length)) return Refusal::utf8;
        const uint32_t hash = hash_of(bytes, length);
        texts_.make_room(hash);
        value = bytes_.add(bytes, length);
        texts_.add(hash, hash, number);
    }
    if (again) {
        std::pop_heap(free_.begin(), free_.end(), std::greater<>());
        free_.pop_back();
        held_[number] = value;
    } else {
        held_.add(value);
    }
    live_.set(number, true);
    large_.set(number, large);
    ++keys_;
    row = number;
    return Refusal::none;
}

// Takes the key of a row out of the tables.
void KeyMap::forget(uint32_t row) noexcept {
    const uint64_t value = held_[row];
    if (static_cast<int64_t>(row) == missing_) {
        missing_ = -1;
    } else if (kind_ == Kind::integer) {
        integers_.remove(hash_of(value), large_[row] ? row | kLargeRow : row);
    } else {
        texts_.remove(hash_of(bytes_.address(value), Texts::length(value)), row);
        bytes_.remove(value);
    }
    live_.set(row, false);
    --keys_;
}

// Takes keys back that were added last; until then there were so many rows. Those that were free before have left room.
void KeyMap::undo(const Numbers& added, uint64_t rows) noexcept {
    for (auto row = added.rbegin(); row != added.rend(); ++row) {
        forget(*row);
        if (*row >= rows) {
            held_.remove_last();
        } else {
            free_.push_back(*row);
            std::push_heap(free_.begin(), free_.end(), std::greater<>());
        }
    }
}

int64_t KeyMap::remove(const KeyColumn& column, const RowNumbers& rows, int64_t* out) {
    const Writing writing(gate_);
    Numbers removed;
    removed.reserve(static_cast<size_t>(column.count));
    int64_t first = -1;
    look_up(column, 0, column.count, [&](int64_t at, int64_t count, const uint32_t* found) {
        for (int64_t k = at; k < at + count; ++k) {
            if (found[k - at] == kNoRow) {
                if (first < 0) first = k;
            } else {
                removed.push_back(found[k - at]);
                out[k] = rows.first + found[k - at];
            }
        }
    });
    if (first >= 0) return first;
    std::sort(removed.begin(), removed.end());
    removed.erase(std::unique(removed.begin(), removed.end()), removed.end());
    free_.reserve(free_.size() + removed.size());
    for (const uint32_t row : removed) {
        forget(row);
        free_.push_back(row);
        std::push_heap(free_.begin(), free_.end(), std::greater<>());
    }
    return -1;
}

Outcome KeyMap::load(const KeyColumn& column, const int64_t* free, int64_t count) {
    const Writing writing(gate_);
    kind_ = column.kind;
    int64_t next = 0;
    Numbers later;  // a row that is free already would be given to the next key
    const auto skip = [&] {
        for (; next < count && free[next] == static_cast<int64_t>(held_.size()); ++next) {
            later.push_back(static_cast<uint32_t>(held_.size()));
            live_.make_room(held_.size());
            large_.make_room(held_.size());
            held_.make_room();
            held_.add(0);
        }
    };
    for (int64_t k = 0; k < column.count; ++k) {
        skip();
        if (row_of(column, k) != kNoRow) return {Refusal::known, k};
        uint32_t row;
        const Refusal refusal = add_one(column, k, row);
        if (refusal != Refusal::none) return {refusal, k};
        const bool integer = kind_ == Kind::integer && !column.is_missing(k);
        any_large_ |= integer && column.is_large(k);
        negative_ |= integer && !column.is_large(k) && static_cast<int64_t>(column.integers[k]) < 0;
    }
    skip();
    free_.swap(later);  // which rises, and is a heap so
    return {Refusal::none, -1};
}

// ------------------------------------------------------------------ keys by their rows

TakenKeys KeyMap::take(const int64_t* rows, int64_t count) const {
    const Reading reading(gate_);
    TakenKeys taken;
    take_rows(rows, count, taken);
    return taken;
}

TakenKeys KeyMap::take_all(std::vector<int64_t>& free) const {
    const Reading reading(gate_);
    std::vector<int64_t> rows;
    rows.reserve(keys_);
    for (uint64_t row = 0; row < held_.size(); ++row) (live_[row] ? rows : free).push_back(static_cast<int64_t>(row));
    TakenKeys taken;
    take_rows(rows.data(), static_cast<int64_t>(rows.size()), taken);
    return taken;
}

void KeyMap::take_rows(const int64_t* rows, int64_t count, TakenKeys& taken) const {
    const auto size = static_cast<size_t>(count);
    taken.kind = kind_;
    const auto mark = [&](std::vector<uint8_t>& mask, size_t k) {
        if (mask.empty()) mask.resize(size);
        mask[k] = 1;
    };
    const auto there = [&](size_t k) {
        const int64_t row = rows[k];
        return row >= 0 && row < static_cast<int64_t>(held_.size()) && live_[static_cast<uint64_t>(row)];
    };
    for (size_t k = 0; k < size; ++k) {
        if (!there(k)) mark(taken.absent, k);
        if (!there(k) || rows[k] == missing_)
            mark(taken.missing, k);
        else if (large_[static_cast<uint64_t>(rows[k])])
            mark(taken.large, k);
    }
    if (kind_ == Kind::integer) {
        taken.integers.resize(size);
        for (size_t k = 0; k < size; ++k) taken.integers[k] = there(k) ? held_[static_cast<uint64_t>(rows[k])] : 0;
        return;
    }
    taken.offsets.resize(size + 1);
    for (size_t k = 0; k < size; ++k) {
        const uint64_t length = there(k) ? Texts::length(held_[static_cast<uint64_t>(rows[k])]) : 0;
        taken.offsets[k + 1] = taken.offsets[k] + static_cast<int64_t>(length);
    }
    taken.bytes.resize(static_cast<size_t>(taken.offsets[size]));
    for (size_t k = 0; k < size; ++k) {
        if (taken.offsets[k] == taken.offsets[k + 1]) continue;
        const uint64_t span = held_[static_cast<uint64_t>(rows[k])];
        std::memcpy(taken.bytes.data() + taken.offsets[k], bytes_.address(span), Texts::length(span));
    }
}

}  // namespace unhot

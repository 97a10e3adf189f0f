// What keys are kept in, by their rows: all of it grows by pieces, so that nothing large is ever copied.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "key_memory.h"

namespace unhot {

// Numbers in pieces of a large page. The first piece grows up to that size.
class Pieces {
   public:
    static constexpr int kBits = 18;
    static constexpr uint64_t kSize = uint64_t{1} << kBits;
    static_assert(kSize * sizeof(uint64_t) == kPageBytes);

    uint64_t size() const { return size_; }
    uint64_t operator[](uint64_t at) const { return pieces_[at >> kBits][at & (kSize - 1)]; }
    uint64_t& operator[](uint64_t at) { return pieces_[at >> kBits][at & (kSize - 1)]; }
    const uint64_t* address(uint64_t at) const { return pieces_[at >> kBits].get() + (at & (kSize - 1)); }

    // Room for one more; nothing has changed if it throws.
    void make_room() {
        if (size_ < capacity_) return;
        if (capacity_ < kSize) {
            const uint64_t larger = std::max<uint64_t>(16, 4 * capacity_);
            Memory<uint64_t> piece = memory_for<uint64_t>(larger, false);
            if (pieces_.empty())
                pieces_.reserve(1);
            else
                std::copy_n(pieces_[0].get(), size_, piece.get());
            pieces_.resize(1);
            pieces_[0] = std::move(piece);
            capacity_ = larger;
        } else {
            pieces_.push_back(memory_for<uint64_t>(kSize, true));
            capacity_ += kSize;
        }
    }

    void add(uint64_t number) noexcept { (*this)[size_++] = number; }
    void remove_last() noexcept { --size_; }

   private:
    std::vector<Memory<uint64_t>> pieces_;
    uint64_t size_ = 0, capacity_ = 0;
};

// One bit for each row.
class Marks {
   public:
    bool operator[](uint64_t at) const { return (words_[at / 64] >> (at % 64)) & 1; }
    void set(uint64_t at, bool on) noexcept {
        const uint64_t bit = uint64_t{1} << (at % 64);
        words_[at / 64] = on ? words_[at / 64] | bit : words_[at / 64] & ~bit;
    }
    void make_room(uint64_t at) {
        if (at / 64 < words_.size()) return;
        words_.make_room();
        words_.add(0);
    }

   private:
    Pieces words_;
};

// The bytes of texts, in pieces of a large page. A text is known by its span: 40 bits of where it begins, 24 bits of how long
// it is.
class Texts {
   public:
    static constexpr uint64_t kLongest = (1 << 24) - 1;

    uint64_t bytes() const { return starts_.size() << kBits; }
    static uint64_t length(uint64_t span) { return span & kLongest; }
    const uint8_t* address(uint64_t span) const {
        const uint64_t at = span >> 24;
        return length(span) ? starts_[at >> kBits] + (at & (kSize - 1)) : nullptr;
    }

    uint64_t add(const uint8_t* bytes, uint64_t size) {
        if (size == 0) return 0;
        uint64_t at;
        const auto found = free_.find(static_cast<uint32_t>(size));
        if (found != free_.end() && !found->second.empty()) {
            at = found->second.back();
            found->second.pop_back();
        } else {
            if (end_ - next_ < size) {
                // A text that is longer than a piece gets several that lie side by side.
                const uint64_t count = (size + kSize - 1) >> kBits;
                const uint64_t first = starts_.size();
                pieces_.push_back(memory_for<uint8_t>(count * kSize, first > 0));
                starts_.resize(first + count);  // if it throws, the piece stays unused
                for (uint64_t k = 0; k < count; ++k) starts_[first + k] = pieces_.back().get() + k * kSize;
                next_ = first << kBits;
                end_ = next_ + count * kSize;
            }
            at = next_;
            next_ += size;
        }
        const uint64_t span = at << 24 | size;
        std::memcpy(const_cast<uint8_t*>(address(span)), bytes, size);
        return span;
    }

    // The bytes of a removed text are those of the next of the same length.
    void remove(uint64_t span) noexcept {
        if (!length(span)) return;
        try {
            free_[static_cast<uint32_t>(length(span))].push_back(span >> 24);
        } catch (...) {
            // There is no memory to note it: the bytes stay unused.
        }
    }

   private:
    static constexpr int kBits = 21;
    static constexpr uint64_t kSize = uint64_t{1} << kBits;

    std::vector<Memory<uint8_t>> pieces_;
    std::vector<uint8_t*> starts_;
    std::map<uint32_t, std::vector<uint64_t>> free_;
    uint64_t next_ = 0, end_ = 0;
};

}  // namespace unhot

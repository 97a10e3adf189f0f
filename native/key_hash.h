// Hashes of keys. Those of the table never leave the process; that of a bucket is the same everywhere and for good.
#pragma once

#include <cstdint>
#include <cstring>

namespace unhot {

// Odd numbers without a pattern: digits of the golden ratio, and of the square roots of 2, 3 and 5.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15, kRoot2 = 0x6A09E667F3BCC909, kRoot3 = 0xBB67AE8584CAA73B,
                   kRoot5 = 0x3C6EF372FE94F82B;

// Each bit of the result depends on each of `x`, and no two numbers give the same one.
inline uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * kGolden;
    x = (x ^ (x >> 29)) * kRoot2;
    return x ^ (x >> 32);
}

// Both halves of the product of 128 bits, in one.
inline uint64_t folded(uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// The table's hash of an integer. A sequence, multiples of a power of two, or addresses collide no more than random numbers do.
// It has no secret: whoever knows it can choose keys that collide. They make the table slow, not wrong (key_table.h), and the
// same program takes the same time in each run.
inline uint32_t hash_of(uint64_t key) { return static_cast<uint32_t>(folded(key, kGolden) >> 32); }

inline uint64_t eight_bytes(const uint8_t* at) {
    uint64_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

inline uint64_t four_bytes(const uint8_t* at) {
    uint32_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// The table's hash of bytes: products of 16 of them at a time; the last 16 overlap those before.
inline uint32_t hash_of(const uint8_t* bytes, uint64_t length) {
    uint64_t state = kGolden, a = 0, b = 0;
    if (length > 16) {
        for (uint64_t done = 0; length - done > 16; done += 16)
            state = folded(eight_bytes(bytes + done) ^ kRoot3, eight_bytes(bytes + done + 8) ^ state);
        a = eight_bytes(bytes + length - 16);
        b = eight_bytes(bytes + length - 8);
    } else if (length >= 8) {
        a = eight_bytes(bytes);
        b = eight_bytes(bytes + length - 8);
    } else if (length >= 4) {
        a = four_bytes(bytes);
        b = four_bytes(bytes + length - 4);
    } else if (length > 0) {
        a = bytes[0] | static_cast<uint64_t>(bytes[length / 2]) << 8 | static_cast<uint64_t>(bytes[length - 1]) << 16;
    }
    return static_cast<uint32_t>(folded(kRoot5 ^ length, folded(a ^ kRoot2, b ^ state)) >> 32);
}

// FNV-1a of 64 bits, which src/unhot/keys/hashing.py describes.
class BucketHash {
   public:
    void add(uint8_t byte) { state_ = (state_ ^ byte) * 0x100000001B3; }
    int64_t bucket(int64_t buckets) const { return static_cast<int64_t>(mixed(state_) % static_cast<uint64_t>(buckets)); }

   private:
    uint64_t state_ = 0xCBF29CE484222325;
};

}  // namespace unhot

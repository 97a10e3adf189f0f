"""The bucket of a key: 64-bit FNV-1a of its bytes, mixed, modulo the number of buckets.

The bytes are a str's UTF-8, bytes themselves, or the eight of an integer's two's complement, the lowest first. A missing key
has none. This never changes: models are trained with these rows. FNV-1a is published with golden values, and takes in every
byte; its low bits depend on low bits alone, so that the mixing is needed. It resists no adversary, who could only choose which
unknown keys share a row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unhot.keys.packing import Ids, Packed

BASIS, PRIME = 0xCBF29CE484222325, 0x100000001B3
FIRST, SECOND = 0x9E3779B97F4A7C15, 0x6A09E667F3BCC909
"""Odd numbers without a pattern: the digits of the golden ratio, and of the square root of 2."""

Hashes = npt.NDArray[np.uint64]


def fnv1a(packed: Packed) -> Hashes:
    """FNV-1a of each key's bytes, all keys at once, byte by byte."""
    count = packed.length
    hashes = np.full(count, BASIS, np.uint64)
    prime = np.uint64(PRIME)
    if packed.offsets is None:
        values = packed.data.view(np.uint64)
        there = np.arange(count) if packed.missing is None else np.flatnonzero(~packed.missing)
        for shift in range(0, 64, 8):
            byte = (values[there] >> np.uint64(shift)) & np.uint64(0xFF)
            hashes[there] = (hashes[there] ^ byte) * prime
        return hashes
    starts = packed.offsets[:-1].astype(np.int64)
    lengths = packed.offsets[1:] - starts
    if packed.missing is not None:
        lengths = np.where(packed.missing, 0, lengths)
    left, place = np.flatnonzero(lengths > 0), 0
    while len(left):
        hashes[left] = (hashes[left] ^ packed.data[starts[left] + place]) * prime
        place += 1
        left = left[lengths[left] > place]
    return hashes


def buckets_of(packed: Packed, buckets: int) -> Ids:
    """The bucket of each key, in [0, buckets)."""
    return (mixed(packed) % np.uint64(buckets)).astype(np.int64)


def shards_of(packed: Packed, shards: int) -> Ids:
    """The shard of each key, in [0, shards), by other bits of its hash."""
    return ((mixed(packed) >> np.uint64(32)) % np.uint64(shards)).astype(np.int64)


def mixed(packed: Packed) -> Hashes:
    """The hash of each key, whose bits all depend on all of the key's."""
    hashes = fnv1a(packed)
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(FIRST)
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(SECOND)
    hashes ^= hashes >> np.uint64(32)
    return hashes

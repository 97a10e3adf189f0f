"""Vocabularies in several threads, after a fork, and with exceptions at any moment."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from interrupts import before_bytecode, everywhere
from test_concurrency import forked
from test_vocabulary import MAPS, maps
from threaded import LIMIT, together

import unhot
from unhot import Vocabulary, kernels
from unhot.keys import reference

__all__ = ["maps"]  # the fixture


pytestmark = pytest.mark.usefixtures("maps")


def words(count: int, first: int = 0) -> list[str]:
    return [f"key {i}" for i in range(first, first + count)]


def test_many_threads_encode_while_one_extends() -> None:
    """Rows never change; a key is unknown until it has its row."""
    count = 4000
    numbers = Vocabulary(words(10), unknown=-1)
    done = threading.Event()

    def write() -> None:
        for first in range(10, count, 50):
            numbers.extend(words(50, first))
        done.set()

    def read() -> None:
        asked, expected = words(count), np.arange(count)
        while not done.is_set():
            found = numbers.encode(asked)
            known = found >= 0
            assert (found[known] == expected[known]).all()
            assert known[:10].all()
            rows = np.flatnonzero(known)[::-7]
            assert numbers.decode(rows).tolist() == [asked[row] for row in rows]

    together(write, read, read)
    assert list(numbers) == words(numbers.rows)


def test_threads_that_grow_give_each_key_one_row() -> None:
    numbers = Vocabulary(unknown="grow")
    found: list[dict[str, int]] = []

    def grow(seed: int) -> None:
        rng, seen = np.random.default_rng(seed), dict[str, int]()
        for _ in range(60):
            keys = [f"key {i}" for i in rng.integers(0, 600, size=20)]
            for key, row in zip(keys, numbers.encode(keys).tolist(), strict=True):
                assert seen.setdefault(key, row) == row
        found.append(seen)

    together(*(lambda seed=seed: grow(seed) for seed in range(4)))
    whole = {key: row for seen in found for key, row in seen.items()}
    assert all(whole[key] == row for seen in found for key, row in seen.items())
    assert sorted(whole.values()) == list(range(len(numbers))) == list(range(numbers.rows))


def test_states_and_copies_while_another_thread_changes() -> None:
    """Each shows one moment: so many keys, in their order."""
    numbers = Vocabulary(words(5))
    done = threading.Event()

    def write() -> None:
        for first in range(5, 1000, 5):
            numbers.extend(words(5, first))
            numbers.remove(words(5, first))
            numbers.extend(words(5, first))
        done.set()

    def read() -> None:
        while not done.is_set():
            taken = pickle.loads(pickle.dumps(numbers))
            assert list(taken) == words(len(taken))
            assert len(taken) % 5 == 0

    together(write, read)


def test_a_load_in_the_midst_of_growing() -> None:
    """Keys grow in what was loaded, and get its rows."""
    state = Vocabulary(words(100, 1000), reserved=7).state_dict()
    numbers = Vocabulary(unknown="grow")
    done = threading.Event()

    def load() -> None:
        for _ in range(50):
            numbers.load_state_dict(state)
        done.set()

    def grow() -> None:
        first = 0
        while not done.is_set():
            first += 10
            rows = numbers.encode(words(10, first), unknown="grow")
            assert (np.diff(rows) == 1).all()

    together(load, grow)
    assert list(numbers)[:100] == words(100, 1000)


def test_what_a_handler_does_at_every_moment(everything: bool) -> None:
    """A vocabulary that is loaded in the midst of another change is the loaded one; that change was made before, or after."""
    state = Vocabulary(words(3, 1000), reserved=7).state_dict()
    other = Vocabulary(words(2), reserved=1).state_dict()
    changes: dict[str, Callable[[Vocabulary], Any]] = {
        "grow": lambda v: v.encode(["a", "b"], unknown="grow"),
        "unknown": lambda v: setattr(v, "unknown", 0),
        "load": lambda v: v.load_state_dict(other),
    }
    for name, change in changes.items():
        at, seen = 0, set()
        while True:
            numbers = Vocabulary(reserved=1)
            load = lambda numbers=numbers: numbers.load_state_dict(state)  # noqa: E731
            if not before_bytecode(lambda change=change, numbers=numbers: change(numbers), at, load):
                break
            keys = list(numbers)
            after = {"grow": [*words(3, 1000), "a", "b"], "unknown": words(3, 1000), "load": words(2)}[name]
            assert keys in (words(3, 1000), after)
            assert numbers.reserved == (1 if keys == words(2) else 7)
            seen.add((tuple(keys), numbers.unknown))
            at += 1 if everything else 2
        assert len(seen) == 2


def test_the_first_keys_come_at_any_moment_of_another_call(everything: bool) -> None:
    """A vocabulary without keys has no kind; it may get one in the midst of a call for keys of the same kind."""
    calls: dict[str, Callable[[Vocabulary], object]] = {
        "grow": lambda v: v.encode(["a", "b"], unknown="grow").tolist() == [v.encode("a"), v.encode("b")],
        "encode": lambda v: v.encode(["b", "c"]).tolist() == [-1, -1],
        "contains": lambda v: "b" not in v,
        "extend": lambda v: (v.extend(["a", "b"]), sorted(v) == ["a", "b"])[1],
        "remove": lambda v: v.remove(["a"]).tolist() == [0],
        "fit": lambda v: "b" in v.fit(["b", "b", "a"], min_count=2),
    }
    for name, call in calls.items():
        at, done, late = 0, set(), False
        while not late:
            numbers = Vocabulary(unknown=-1)

            def run(call: Callable[[Vocabulary], object] = call, numbers: Vocabulary = numbers) -> None:
                try:
                    done.add(bool(call(numbers)))  # noqa: B023
                except KeyError:
                    assert name == "remove"  # noqa: B023
                except RuntimeError:
                    assert name == "fit"  # noqa: B023

            late = not before_bytecode(run, at, lambda numbers=numbers: numbers.extend(["a"]))
            at += 1 if everything else 2
        assert done == {True}


# ------------------------------------------------------------------ exceptions at any moment

CHANGES: dict[str, tuple[Callable[[Vocabulary], Any], list[str]]] = {
    "extend": (lambda v: v.extend(["d", "c", "e", "d", "f"]), ["a", "d", "c", "e", "f"]),
    "grow": (lambda v: v.encode(["d", "c", "e"], unknown="grow"), ["a", "d", "c", "e"]),
    "remove": (lambda v: v.remove(["a", "c"]), []),
    "load": (lambda v: v.load_state_dict(OTHER), ["x", "y"]),
    "unknown": (lambda v: setattr(v, "unknown", 0), ["a", "c"]),
    "encode": (lambda v: v.encode(["a", "zzz", "c"]), ["a", "c"]),
    "decode": (lambda v: v.decode([3, 1]), ["a", "c"]),
    "iterate": (list, ["a", "c"]),
    "contains": (lambda v: "a" in v, ["a", "c"]),
    "state": (lambda v: v.state_dict(), ["a", "c"]),
    "deepcopy": (copy.deepcopy, ["a", "c"]),
    "pickle": (pickle.dumps, ["a", "c"]),
}
"""What is done to a vocabulary of the keys a and c, with a free row between them and a reserved one; its keys afterwards."""

OTHER = Vocabulary(["x", "y"], unknown=-1, reserved=1).state_dict()


def prepared() -> Vocabulary:
    made = Vocabulary(["a", "b", "c"], unknown=-1, reserved=1)
    made.remove(["b"])
    return made


@pytest.fixture(scope="module")
def others() -> Any:
    """Another thread, which a lock left taken would keep waiting."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("name", CHANGES)
def test_an_exception_at_every_bytecode(name: str, maps: ModuleType, others: ThreadPoolExecutor, everything: bool) -> None:
    """The vocabulary is the one before or the one after, and goes on."""
    change, after = CHANGES[name]
    seen = []
    for numbers in everywhere(prepared, change, 1 if everything else 3):
        keys = list(numbers)
        assert keys in (["a", "c"], after)
        seen.append(keys)
        others.submit(numbers.extend, ["later"]).result(LIMIT)
        row = numbers.encode("later")
        assert numbers.decode(row) == "later"
        assert [key for key in numbers if key != "later"] == keys
    assert ["a", "c"] in seen


def test_an_exception_while_fitting(others: ThreadPoolExecutor, everything: bool) -> None:
    values = ["a", "b", "a", "c", "b", "a"]
    seen = set()
    for numbers in everywhere(Vocabulary, lambda v: v.fit(values, min_count=2), 1 if everything else 5):
        assert list(numbers) in ([], ["a", "b"])
        seen.add(len(numbers))
        if not len(numbers):
            others.submit(numbers.fit, values, min_count=2).result(LIMIT)
        assert list(numbers) == ["a", "b"]
    assert 0 in seen


# ------------------------------------------------------------------ forks

if hasattr(os, "fork"):

    def test_a_forked_child_goes_on(maps: ModuleType) -> None:
        """It encodes and extends as its parent, whose vocabulary it does not change; a child's child, too."""
        if maps is reference and len(MAPS) > 1:
            pytest.skip("a process has the maps that it was built with")
        forked(
            """
            words = unhot.Vocabulary(list(range(50_000)), unknown="grow")
            asked = np.arange(49_000, 60_000)

            def grow(words):
                return words.encode(asked).tobytes()

            expected = grow(pickle.loads(pickle.dumps(words)))
            assert in_child(lambda: grow(words)) == expected
            assert in_child(lambda: in_child(lambda: grow(words))) == expected
            assert len(words) == 50_000
            assert grow(words) == expected
            """
        )

    def test_a_child_forked_while_other_threads_are_at_work(maps: ModuleType) -> None:
        """No lock keeps it waiting; what was being changed is an error, or goes on."""
        if maps is reference and len(MAPS) > 1:
            pytest.skip("a process has the maps that it was built with")
        forked(
            """
            words = unhot.Vocabulary(list(range(50_000)), unknown=-1)
            other = unhot.Vocabulary()
            stop = threading.Event()
            asked = np.arange(100_000)

            def read():
                while not stop.is_set():
                    words.encode(asked)

            def write():
                first = 0
                while not stop.is_set():
                    other.extend(np.arange(first, first + 20_000))
                    first += 20_000

            threads = [threading.Thread(target=work, daemon=True) for work in (read, read, write)]
            for thread in threads:
                thread.start()
            expected = words.encode(asked).tobytes()

            def go_on():
                words.extend([-1])
                return words.encode(asked).tobytes()

            def go_on_or_refuse():
                try:
                    other.extend([-5])
                    assert other.decode(other.encode([-5])).tolist() == [-5]
                    return b"went on"
                except RuntimeError as error:
                    assert "was changing the vocabulary when this process was forked" in str(error), error
                    return b"refused"

            for _ in range(8):
                assert in_child(go_on) == expected
                assert in_child(go_on_or_refuse) in (b"went on", b"refused")
            stop.set()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
            """
        )


# ------------------------------------------------------------------ the native map at its sizes


def test_as_many_keys_as_divide_segments(maps: ModuleType, everything: bool) -> None:
    """Integers of several patterns, some removed and added again, as a dict says."""
    count = 3_000 if maps is reference else 300_000 if everything else 30_000
    order = np.random.default_rng(0).permutation(count)
    for keys in (order, order << 40, order * 4096 - 2**40, -order, np.uint64(2**63) + order.astype(np.uint64)):
        numbers = Vocabulary(keys, unknown=-1)
        np.testing.assert_array_equal(numbers.encode(keys[::-1]), np.arange(count)[::-1])
        np.testing.assert_array_equal(numbers.decode(np.arange(count)), keys)
        gone = keys[::3]
        np.testing.assert_array_equal(numbers.remove(gone), np.arange(count)[::3])
        expected = np.arange(count)
        expected[::3] = -1
        np.testing.assert_array_equal(numbers.encode(keys), expected)
        numbers.extend(gone[::-1])
        expected[::3] = np.arange(count)[::3][::-1]
        np.testing.assert_array_equal(numbers.encode(keys), expected)
    texts = [f"key {i}" * (1 + i % 7) for i in order[:20_000].tolist()]
    numbers = Vocabulary(texts, unknown=-1)
    assert numbers.encode(texts).tolist() == list(range(len(texts)))
    assert numbers.encode([text + "!" for text in texts]).tolist() == [-1] * len(texts)
    assert numbers.decode(np.arange(len(texts))).tolist() == texts


def table_hashes(keys: np.ndarray) -> np.ndarray:
    """The hashes of integers in native/key_hash.h: the product of 128 bits with the golden ratio, its halves combined."""
    low, high = keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)
    golden_low, golden_high = np.uint64(0x7F4A7C15), np.uint64(0x9E3779B9)
    half = np.uint64(32)
    middle = high * golden_low + ((low * golden_low) >> half)
    other = low * golden_high + (middle & np.uint64(0xFFFFFFFF))
    upper = high * golden_high + (middle >> half) + (other >> half)
    return ((keys * np.uint64(0x9E3779B97F4A7C15)) ^ upper) >> half


def test_keys_that_were_chosen_to_collide(maps: ModuleType) -> None:
    """They make the map slow, not wrong: neither hashes with the same first bits, nor with the same last ones."""
    if maps is reference:
        pytest.skip("of the native map")
    keys = np.random.default_rng(0).integers(0, 2**63, 4_000_000).astype(np.uint64)
    hashes = table_hashes(keys)
    assert int(hashes[0]) == ((int(keys[0]) * 0x9E3779B97F4A7C15 % 2**64) ^ (int(keys[0]) * 0x9E3779B97F4A7C15 >> 64)) >> 32
    first, last = keys[hashes >> np.uint64(23) == 0], keys[hashes & np.uint64(0xFFF) == 5]
    for chosen in (first, last):
        assert len(chosen) > 900
        numbers = Vocabulary(chosen, unknown=-1)
        np.testing.assert_array_equal(numbers.encode(chosen), np.arange(len(chosen)))
        np.testing.assert_array_equal(numbers.remove(chosen[::2]), np.arange(len(chosen))[::2])
        np.testing.assert_array_equal(numbers.encode(chosen[::2]), -1)
        np.testing.assert_array_equal(numbers.encode(chosen[1::2]), np.arange(len(chosen))[1::2])
    assert numbers._held.keys.nbytes < 2**21


def test_texts_with_the_same_hash(maps: ModuleType) -> None:
    """Of so many, some have the same 32 bits."""
    texts = [b"%07d" % i for i in range(300_000)]
    if maps is reference:
        texts = texts[:100]
    numbers = Vocabulary(texts)
    np.testing.assert_array_equal(numbers.encode(texts[::-1]), np.arange(len(texts))[::-1])
    assert numbers.decode(np.arange(len(texts))).tolist() == texts


def test_keys_of_all_lengths(maps: ModuleType) -> None:
    """Each length is hashed and compared to its end; very long ones span pieces of memory."""
    texts = [bytes([65 + i % 26]) * i for i in range(200)] + [b"x" * (3 << 20), b"y" * (3 << 20), b"x" * (2 << 20)]
    texts += [texts[150][:-1] + b"!", texts[37][:5] + b"!" + texts[37][6:]]
    numbers = Vocabulary(texts)
    assert numbers.encode(texts).tolist() == list(range(len(texts)))
    assert numbers.decode(np.arange(len(texts))).tolist() == texts
    numbers.remove(texts[100:203])
    numbers.extend([text.lower() for text in texts[100:203]])
    assert numbers.encode([text.lower() for text in texts[100:200]]).tolist() == list(range(100, 200))
    assert numbers.encode(texts[:100]).tolist() == list(range(100))
    with pytest.raises(ValueError, match=r"holds a key at position 1 of more than 16,777,215 bytes"):
        numbers.extend([b"new", b"z" * 2**24])
    assert b"new" not in numbers
    longest = b"z" * (2**24 - 1)
    numbers.extend([longest])
    assert numbers.decode(numbers.encode([longest])).tolist() == [longest]


@pytest.mark.skipif(not sys.platform.startswith("linux") or len(MAPS) == 1, reason="of the native map, as Linux counts memory")
def test_bytes_of_removed_keys_are_used_again(maps: ModuleType) -> None:
    """Keys that come and go take no more memory than those that are there."""
    if maps is reference:
        pytest.skip("of the native map")
    numbers = Vocabulary(unknown="grow")
    for turn in range(60):
        keys = [f"{turn:04d}-{i:06d}" * 4 for i in range(3000)]
        assert numbers.encode(keys).tolist() == list(range(3000))
        numbers.remove(keys)
        if turn == 5:
            before = numbers._held.keys.nbytes
    assert numbers._held.keys.nbytes == before
    assert numbers.rows == 3000


def test_one_thread_or_several_find_the_same() -> None:
    threads = unhot.get_num_threads()
    numbers = Vocabulary(np.arange(0, 100_000, 2), unknown="hash", buckets=7)
    asked = np.random.default_rng(0).integers(0, 100_000, 50_000)
    try:
        found = []
        for count in (1, 3):
            unhot.set_num_threads(count)
            found.append(numbers.encode(asked))
            with pytest.raises(KeyError, match=f"{asked[np.flatnonzero(asked % 2)[0]]} at position"):
                numbers.encode(asked, unknown="raise")
    finally:
        unhot.set_num_threads(threads)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("isa", kernels.active._native.isas() if hasattr(kernels.active, "_native") else [])
def test_every_instruction_set_finds_the_same(isa: str) -> None:
    """Known and unknown keys; both signs of the same bits; 0, whose bits an empty place has; a full line."""
    native = kernels.active._native
    before = native.isa()
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, 20_000)
    large = np.array([2**64 - 1, 2**64 - 7, 2**63], np.uint64)
    try:
        native.use(isa)
        for extra in ([], [0]):
            numbers = Vocabulary(np.concatenate([keys, [-1, -7, *extra]]), unknown=-1)
            np.testing.assert_array_equal(numbers.encode(keys), np.arange(len(keys)))
            np.testing.assert_array_equal(numbers.encode(keys ^ 1), -1)
            assert numbers.encode([0, -1, -7]).tolist() == [20_002 if extra else -1, 20_000, 20_001]
            assert numbers.encode(large).tolist() == [-1, -1, -1]
            numbers.extend(large)
            after = len(keys) + 2 + len(extra)
            assert numbers.encode(large).tolist() == [after, after + 1, after + 2]
            np.testing.assert_array_equal(numbers.encode(keys), np.arange(len(keys)))
            assert numbers.encode([-1, -7]).tolist() == [20_000, 20_001]
        assert Vocabulary([2**64 - 1, 0], unknown=-1).encode([-1, 0]).tolist() == [-1, 1]
        assert Vocabulary(unknown=-1).encode([0]).tolist() == [-1]
    finally:
        native.use(before)


def test_two_embeddings_in_two_threads() -> None:
    """Each has the vocabulary's keys come and go while the other trains; what a key has learned is its own."""
    words = Vocabulary(unknown="grow")
    pair = [unhot.Embedding(words, 1, optimizer=unhot.SGD(1.0), init="zeros", max_rows=20) for _ in range(2)]

    def train(which: int) -> None:
        one = pair[which]
        for number in range(150):
            keys = [f"{which} {number // 3 + k}" for k in range(3)]
            one.step(keys, np.ones((3, 1)))
            assert -9 <= one[keys].min() <= one[keys].max() <= 0

    together(lambda: train(0), lambda: train(1))
    for one in pair:
        assert not one[["new", "newer"]].any()
        assert one.table.rows >= words.rows - len(words.free)
        assert (one[list(words)] > -9.5).all()

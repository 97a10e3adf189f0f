"""What a type checker is to see of `unhot`.  This is not run; mypy and Pyright report nothing here."""

import array
from collections.abc import Sequence
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import unhot

table = unhot.Table(10, 4, optimizer=unhot.Adam(1e-3))
assert_type(table, unhot.Table)
assert_type(unhot.Table.from_array(np.zeros((2, 2)), optimizer=unhot.SGD(0.1, momentum=0.9)), unhot.Table)
assert_type(table.lookup(3), NDArray[Any])
assert_type(table.bag([[1, 2]], mode="mean"), NDArray[Any])
assert_type(table.array, NDArray[Any])
assert_type(table.rows, int)
assert_type(table.state_dict(), dict[str, NDArray[Any]])
assert_type(unhot.load("words.safetensors"), unhot.Table | unhot.Embedding)
words = unhot.Vocabulary(["a", "b"], unknown="hash", buckets=3, missing=0)
assert_type(words.encode("a"), int)
assert_type(words.encode(["a", "b"]), NDArray[np.int64])
assert_type(words.encode(np.array(["a"]), unknown="grow"), NDArray[np.int64])
assert_type(words.fit(["a"], min_count=2), unhot.Vocabulary)
assert_type(words.rows, int)
assert_type(table.lookup(words.encode(["a"])), NDArray[Any])
assert_type(unhot.load("words.safetensors", mmap=True, mode="r+"), unhot.MappedTable | unhot.Embedding)
assert_type(unhot.read_vectors("words.vec").vectors, NDArray[Any])
unhot.write_vectors("words.vec", ["king", "queen"], np.zeros((2, 4)))
unhot.write_vectors("words.npz", np.arange(2), np.zeros((2, 4)))
assert_type(unhot.__version__, str)
assert_type(unhot.kernels.name, str)
assert_type(unhot.get_num_threads(), int)
assert_type(unhot.compare([1, 2, 3]).holds, bool)
unhot.AdamW(lambda step: 0.1 / step, weight_decay=0.01, convention="torch")
table.optimizer = unhot.AdamW()
layer = unhot.DenseView(table, bias=[0.0, 1.0, 2.0, 3.0], activation="relu")
assert_type(layer[[1, 2]], NDArray[Any])
assert_type(layer.bias, NDArray[Any] | None)
layer.step([[1, 2]], np.zeros((1, 4)), weights=[[0.5, 1.0]], mode="mean")
unhot.DenseView(table, bias=False, activation=(np.sin, np.cos))


def ids_of_any_kind(
    ints: list[int], nested: list[list[int]], pair: tuple[int, np.int32], deep: Sequence[Sequence[Sequence[int]]], whatever: Any
) -> None:
    """An integer, arrays of integers, sequences of them, however deep."""
    assert_type(table[0], NDArray[Any])
    for ids in (ints, nested, pair, deep, whatever, range(3), np.int64(3), np.arange(3, dtype=np.uint8), array.array("q")):
        assert_type(table[ids], NDArray[Any])
    table.lookup([np.arange(3), np.arange(3)])
    table.bag(ints, offsets=np.array([0, 1]), weights=[0.5, 1])
    table.step(ints, np.zeros((3, 4), np.float32))
    table.step(ints, [[0.5, 1, 2, np.float32(3)]])
    table.accumulate(ints, [np.zeros(4), np.zeros(4)])


# Each checker reports each of these errors: where one does not, it complains of an `ignore` for nothing.
table.step("no ids at all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
table.lookup(["a", "b"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
table.step([1], "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
table.bag([[1]], mode="median")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.Table(10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
unhot.Table(10, 4, out_of_range="nothing")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.Adam(learning_rate="fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.Adam(betas=(0.9, 0.999))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
unhot.SGD(convention="jax")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.Vocabulary(["a"], unknown="zero")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.load("words.safetensors", mode="r+")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
unhot.read_vectors("words.vec", duplicates="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.Adm()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]

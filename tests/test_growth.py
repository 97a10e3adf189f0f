"""Rows that arrive, go and are frozen: the calls of `Table`. conformance/test_growth.py shows that the results are exact."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from interrupts import everywhere
from selection import some
from snapshots import assert_held, held

import unhot
from unhot import membership

OPTIMIZERS: dict[str, Callable[[], unhot.optimizers.Optimizer | None]] = {
    "adam": lambda: unhot.Adam(0.01),
    "adamw": lambda: unhot.AdamW(0.01, weight_decay=0.1),
    "sgd": lambda: unhot.SGD(0.1),
    "adagrad": lambda: unhot.Adagrad(0.1, initial_accumulator_value=0.3),
    "rowwise": lambda: unhot.RowwiseAdagrad(0.1, weight_decay=0.1),
    "none": lambda: None,
}
TRAINED = [name for name in OPTIMIZERS if name != "none"]


def table_of(name: str, rows: int = 6, **options: Any) -> unhot.Table:
    return unhot.Table(rows, 3, optimizer=OPTIMIZERS[name](), seed=7, **options)


def train(table: unhot.Table, steps: int = 20, seed: int = 0, rows: int = 0) -> unhot.Table:
    """Some steps of the first `rows` rows, or of all."""
    rng = np.random.default_rng(seed)
    for _ in range(steps if table.optimizer is not None else 0):
        ids = rng.integers(0, rows or table.rows, 4)
        table.step(ids, rng.normal(size=(4, 3)))
    return table


@pytest.mark.parametrize("init", ["uniform", "normal", "zeros"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_numbers_of_new_rows(name: str, init: Any) -> None:
    """Rows are added at the end, by the table's own generator: two tables of one seed are alike, whenever their rows came."""
    large, small = table_of(name, 12, init=init), table_of(name, 5, init=init)
    assert small.grow(3).tolist() == [5, 6, 7]
    assert small.grow(4).tolist() == [8, 9, 10, 11]
    assert small.shape == (12, 3)
    assert len(small) == 12
    assert small.array.tobytes() == large.array.tobytes()
    for table in (large, small):
        train(table)
    assert small.array.tobytes() == large.array.tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_that_are_given(name: str) -> None:
    """They hold what is given, also where weight decay has acted on the others; the mean is that of the rows that are there."""
    table = train(table_of(name))
    table.remove([1])
    vectors = np.arange(6.0).reshape(2, 3)
    rows = table.grow(2, vectors)
    assert rows.tolist() == [1, 6]
    assert table[rows].tolist() == vectors.tolist()
    expected = table.array.astype(np.float64).mean(axis=0)
    row = table.grow(1, "mean")
    np.testing.assert_allclose(table[row], expected[None], rtol=1e-6)
    assert table[table.grow(1, lambda shape: np.zeros(shape))].tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_room_for_rows(name: str) -> None:
    """Arrays with room stay where they are; without, as many are copied as to make each row's share small."""
    table = table_of(name, capacity=100)
    (store,) = table._engine.stores
    addresses = [array.ctypes.data for array in store.state]
    for rows in range(20):
        train(table, 3, rows)
        table.grow(4)
    (store,) = table._engine.stores
    assert [array.ctypes.data for array in store.state] == addresses
    assert table.rows == 86
    moves, address = 0, 0
    table = table_of(name, 1)
    for _ in range(300):
        table.grow(1)
        (store,) = table._engine.stores
        moves, address = moves + (store.weights.ctypes.data != address), store.weights.ctypes.data
    assert moves <= 10
    with pytest.raises(ValueError, match=r"`capacity` must be at least the number of rows, 6\. Received: 5\."):
        table_of(name, capacity=5)


def test_memory_is_taken_by_rows_that_are_there() -> None:
    """Room for 2**40 bytes costs nothing."""
    for init in ("zeros", "uniform"):
        table = unhot.Table(10, 256, optimizer=unhot.Adagrad(0.1), init=init, capacity=1 << 28)  # type: ignore[arg-type]
        table.step([3], np.ones((1, 256)))
        assert table.grow(5)[0] == 10
        table.step([14], np.ones((1, 256)))
        for copied in (copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))):
            other = copied(table)
            assert other.grow(2)[0] == table.grow(2)[0]
            for each in (table, other):
                each.step([3, each.rows - 1], np.ones((2, 256)))
            assert_held(other, held(table))
        assert len(pickle.dumps(table)) < 10_000_000
    with pytest.raises(MemoryError, match=r"1,099,511,627,776 more rows of 256 needs"):
        table.grow(1 << 40)
    assert table.rows == 19


@pytest.mark.parametrize("policy", ["raise", "zero", 2])
def test_removed_rows_are_out_of_range(policy: Any) -> None:
    """For lookups, bags, steps and `settle`, until their numbers are given again; others stay valid."""
    table = train(table_of("sgd", out_of_range=policy))
    before = table.array
    table.remove([[4], [0]])
    assert table.removed.tolist() == [0, 4]
    ids = np.array([[1, 0], [4, 9]])
    if policy == "raise":
        with pytest.raises(IndexError, match=r"id 9 at position \(1, 1\) is out of range: the table has rows 0 to 5\."):
            table.lookup(ids)
        ids[1, 1] = 3
        message = r"id 0 at position \(0, 1\) is that of a removed row: the table has rows 0 to 5\. `grow` gives"
        for call in (
            lambda: table.lookup(ids), lambda: table.bag(ids), lambda: table.settle(ids),
            lambda: table.step(ids, np.ones((2, 2, 3))), lambda: table.accumulate(ids, np.ones((2, 2, 3))),
        ):  # fmt: skip
            with pytest.raises(IndexError, match=message):
                call()
    else:
        stand = np.zeros(3) if policy == "zero" else before[2]
        expected = np.array([[before[1], stand], [stand, stand]])
        np.testing.assert_array_equal(table.lookup(ids), expected.astype(np.float32))
        np.testing.assert_array_equal(table.bag(ids, mode="max"), expected.max(axis=1).astype(np.float32))
        table.step(ids, np.ones((2, 2, 3)))
        assert (table[[1]] != before[1]).all()
        assert (table[[2]] != before[2]).all() == (policy == 2)
    assert table.grow(1, "zeros").tolist() == [0]
    assert not table[0].any()
    assert table.removed.tolist() == [4]


def test_what_cannot_be_removed() -> None:
    """The table stays as it was."""
    table = train(table_of("adam", out_of_range=2))
    table.remove(5)
    before = held(table)
    for rows, kind, message in (
        (6, IndexError, "id 6 is out of range"),
        ([1, 5], IndexError, "id 5 at position 1 is that of a removed row"),
        ([1, 2], ValueError, "row 2 stands for ids out of range. Assign another `out_of_range` first."),
        ([1.5], TypeError, "`rows` must be integers. Received: dtype float64"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            table.remove(rows)
        assert_held(table, before)
    with pytest.raises(IndexError, match=r"has rows 0 to 5\.$"):  # and no advice on `out_of_range`, which does not matter here
        table.remove(6)
    with pytest.raises(IndexError, match="id 5 at position 0 is that of a removed row"):
        table.out_of_range = 5
    table.accumulate([1], np.ones((1, 3)))
    with pytest.raises(RuntimeError, match=r"call `step\(\)` before `remove`"):
        table.remove(3)


@pytest.mark.parametrize(
    ("rows", "init", "kind", "message"),
    [
        (0, None, ValueError, "`rows` must be a positive integer. Received: 0."),
        (1.5, None, TypeError, "`rows` must be a positive integer. Received: 1.5"),
        (
            2,
            "ones",
            ValueError,
            "`init` must be 'uniform', 'normal', 'zeros', 'mean', an array or a callable. Received: 'ones'.",
        ),
        (2, [[1.0, 2.0, 3.0]], ValueError, "`init` must have shape (rows, dim) = (2, 3). Received: shape (1, 3)."),
        (1, [["a", "b", "c"]], TypeError, "`init` must hold real numbers. Received: dtype <U1."),
        (1, lambda shape: np.ones(3), ValueError, "`init` must return an array of shape (1, 3). Received: shape (3,)."),
    ],
)
def test_rows_that_cannot_be_added(rows: Any, init: Any, kind: type[Exception], message: str) -> None:
    """The table stays as it was, the generator included."""
    table, other = train(table_of("adamw")), train(table_of("adamw"))
    before = held(table)
    with pytest.raises(kind, match=re.escape(message)):
        table.grow(rows, init)
    assert_held(table, before)
    table.grow(2)
    other.grow(2)
    assert table.array.tobytes() == other.array.tobytes()


@pytest.mark.parametrize("name", TRAINED)
def test_frozen_rows(name: str) -> None:
    """Named by numbers, by a mask or from the start; they are in the state, and thaw when they are removed."""
    mask = np.array([True, False, False, True, False, False])
    table = train(table_of(name, frozen=mask))
    assert table.frozen.tolist() == [0, 3]
    assert table[[0, 3]].tobytes() == table_of(name)[[0, 3]].tobytes()
    table.frozen = [5, 5, 1]
    assert table.frozen.tolist() == [1, 5]
    table.remove([5])
    assert table.frozen.tolist() == [1]
    before = table[1]
    table.only_train(table.grow(2))
    assert table.frozen.tolist() == [0, 1, 2, 3, 4]
    rest = table.array
    train(table)
    assert table.array[:5].tobytes() == rest[:5].tobytes()
    assert (table.array[5:] != rest[5:]).all()
    assert table[1].tobytes() == before.tobytes()
    for wrong, kind in (([7], IndexError), ([True, False], ValueError), ("all", TypeError)):
        with pytest.raises(kind):
            table.frozen = wrong
        assert table.frozen.tolist() == [0, 1, 2, 3, 4]
    table.frozen = None
    assert table.frozen.tolist() == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copies_and_states(name: str) -> None:
    """A copy, a pickled table and a loaded state go on bit for bit, and give the same new rows."""
    table = train(table_of(name, capacity=20))
    table.frozen = [3]
    table.remove([1, 4])
    table.grow(5)
    train(table, seed=1)
    loaded = table_of(name, table.rows, init="zeros")
    loaded.load_state_dict(pickle.loads(pickle.dumps(table.state_dict())))
    tables = [table, copy.deepcopy(table), pickle.loads(pickle.dumps(table)), loaded]
    for other in tables:
        assert other.grow(3).tolist() == [9, 10, 11]
        other.remove([2])
        train(other, seed=2, rows=2)
        other.grow(1)
    for other in tables[1:]:
        assert_held(other, held(table))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("removed", np.array([9])), ("removed", np.array([2, 1])), ("removed", np.array([1.0])), ("frozen", np.array([[1]])),
        ("removed", np.array([0])), ("generator", np.zeros(6)), ("generator", np.zeros(5, np.uint64)),
        ("generator", np.full(6, 2, np.uint64)),
    ],
)  # fmt: skip
def test_states_that_do_not_fit(name: str, value: np.ndarray) -> None:
    """The error names what is wrong, and the table is unchanged."""
    table = train(table_of("adam", out_of_range=0))
    before = held(table)
    with pytest.raises(ValueError, match=f"the state.*{name.removesuffix('d')}"):
        table.load_state_dict({**train(table_of("adam"), seed=3).state_dict(), name: value})
    assert_held(table, before)


def test_the_history_is_made_anew_for_many_more_rows() -> None:
    """So that a table which has grown a hundred times does not settle as many rows as its batches have in each step."""
    table, large = table_of("adamw", 2), table_of("adamw", 200)
    for grown in range(2, 200, 11):
        assert table._engine.planned >= grown / membership.MOST_GROWTH
        for other in (table, large):
            train(other, 5, seed=grown, rows=grown)
        table.grow(11)
    np.testing.assert_allclose(table.array[:200], large.array, rtol=1e-5, atol=1e-7)


def test_a_view_of_a_growing_table() -> None:
    """Its bias goes on with the rows, whose numbers change."""
    tables = [table_of("adamw", rows) for rows in (5, 9)]
    views = [unhot.DenseView(table, activation="tanh") for table in tables]
    rng = np.random.default_rng(1)
    for number in range(40):
        ids, gradients = rng.integers(0, 5 + 2 * (number // 20), 3), rng.normal(size=(3, 3))
        if number in (20, 30):
            tables[0].grow(2)
        for view in views:
            view.step(ids, gradients)
    np.testing.assert_array_equal(views[0].bias, views[1].bias)
    np.testing.assert_array_max_ulp(tables[0].array, tables[1].array, maxulp=2)  # the decay so far is rounded once
    tables[0].frozen = [1]
    views[0].accumulate([1], np.ones((1, 3)))
    with pytest.raises(RuntimeError, match=r"call `step\(\)` before `grow`"):
        tables[0].grow(1)
    before, bias = tables[0][1], views[0].bias
    tables[0].step()
    assert (tables[0][1] == before).all()
    assert (views[0].bias != bias).any()


def test_readers_of_a_growing_table() -> None:
    """Lookups in other threads find rows as they were before or after."""
    table = unhot.Table(4, 8, optimizer=unhot.SGD(1.0), init="zeros")
    ids = np.array([0, 1, 2, 3])
    done: list[bool] = []

    def read() -> int:
        count = 0
        while not done or count < 10:
            rows = table[ids]
            assert (rows == rows[0]).all()
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(200):
            table.step(ids, np.ones((4, 8)))
            table.remove(table.grow(3)[:2])
        done.append(True)
        assert all(reader.result() for reader in readers)


CHANGES: dict[str, Callable[[unhot.Table], object]] = {
    "grow": lambda table: table.grow(2),
    "grow again": lambda table: table.grow(1),
    "remove": lambda table: table.remove([1, 3]),
    "freeze": lambda table: setattr(table, "frozen", [0, 1]),
    "only_train": lambda table: table.only_train([4]),
}


@pytest.mark.parametrize("name", some(TRAINED, ["adamw"]))
@pytest.mark.parametrize("change", some(CHANGES, ["grow", "freeze"]))
def test_interrupted_changes(name: str, change: str) -> None:
    """An exception at any bytecode leaves the table before or after the change, and the change can be made then."""
    start = train(table_of(name, 6), rows=5)
    start.remove([5])
    start.frozen = [2]
    after = copy.deepcopy(start)
    CHANGES[change](after)
    expected = [copy.deepcopy(table).array.tobytes() for table in (start, after)]
    states = [(table.rows, table.removed.tolist(), table.frozen.tolist()) for table in (start, after)]
    found = set()
    for table in everywhere(lambda: copy.deepcopy(start), CHANGES[change]):
        state = states.index((table.rows, table.removed.tolist(), table.frozen.tolist()))
        assert copy.deepcopy(table).array.tobytes() == expected[state]
        found.add(state)
        train(table, 2, rows=1)
        table.grow(1)
    assert found == {0, 1}

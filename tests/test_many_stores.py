"""Stores that share an engine, leave it, and go on apart: each is trained as a table of its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest

import unhot
from unhot import atomic
from unhot.engine import Batch, Engine
from unhot.kernels.structs import Segment
from unhot.settling import clock_of
from unhot.store import numbered

Array = np.ndarray

ROWS, DIM = 8, 2

OPTIMIZERS: dict[str, Callable[[], unhot.optimizers.Optimizer]] = {
    "AdamW": lambda: unhot.AdamW(0.01, weight_decay=0.01),
    "SGD": lambda: unhot.SGD(0.01, momentum=0.9, weight_decay=0.01),
    "RowwiseAdagrad": lambda: unhot.RowwiseAdagrad(0.01, weight_decay=0.01),
}


def weights(count: int) -> list[Array]:
    return [np.random.default_rng(seed).normal(size=(ROWS, DIM)) for seed in range(count)]


def step(engine: Engine, optimizer: unhot.optimizers.Optimizer, rows: Sequence[Sequence[int]]) -> None:
    """A step of these rows of each store, with gradients of 1."""
    ids = np.concatenate([np.array(named, np.int64) + store.first for named, store in zip(rows, engine.stores, strict=True)])
    parts = [Segment(place, np.ones((len(named), DIM))) for place, named in enumerate(rows)]
    engine.step(lambda: Batch(ids, parts), lambda: engine.begin_step(optimizer))


def read(engine: Engine, place: int) -> Array:
    out = np.empty((ROWS, DIM))
    engine.read(np.arange(ROWS) + engine.stores[place].first, [Segment(place, out)])
    return out


def table(name: str, array: Array, steps: Sequence[Sequence[int]]) -> unhot.Table:
    made = unhot.Table.from_array(array, optimizer=OPTIMIZERS[name]())
    for rows in steps:
        made.step(rows, np.ones((len(rows), DIM)))
    return made


def apart(engine: Engine, places: Sequence[int]) -> Engine:
    made = engine.apart(places)
    atomic.together(engine.leave(places))
    return made


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_are_settled_in_time_where_a_store_goes_on(name: str) -> None:
    """The history forgets what was before a period. No row rests for longer, though its turn came in another engine."""
    optimizer = OPTIMIZERS[name]()
    given = weights(2)
    engine = Engine.of([array.copy() for array in given], optimizer)
    assert engine.clock is not None
    period = engine.clock.period
    one = table(name, given[0], [])
    for i in range(2 * period):
        if i == period - period // 20:
            engine = apart(engine, [0])
        rows = [0] if i else list(range(ROWS))
        step(engine, optimizer, [rows, [1]][: len(engine.stores)])
        one.step(rows, np.ones((len(rows), DIM)))
        if i % 300 == 299:
            np.testing.assert_allclose(read(engine, 0), one.lookup(np.arange(ROWS)), rtol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_store_that_left_is_as_it_was(name: str) -> None:
    """Neither steps of the others write it, nor a sweep or a settling of all rows."""
    optimizer = OPTIMIZERS[name]()
    given = weights(3)
    engine = Engine.of([array.copy() for array in given], optimizer)
    for i in range(20):
        step(engine, optimizer, [[i % 3], [i % 4], [i % 5]])
    engine.settle_store(1)
    left = engine.stores[1]
    held = [array.copy() for array in left.state]
    atomic.together(engine.leave([1]))
    assert engine.clock is not None
    for i in range(20, engine.clock.period + 20):
        step(engine, optimizer, [[i % 3], [], [i % 5]])
    engine.settle_all()
    for array, was in zip(left.state, held, strict=True):
        np.testing.assert_array_equal(array, was)
    for place, among in ((0, 3), (2, 5)):
        expected = table(name, given[place], [[i % among] for i in range(engine.now)]).array
        np.testing.assert_allclose(engine.stores[place].weights, expected, rtol=1e-9)


def test_a_store_that_left_is_not_kept_in_memory() -> None:
    """Its arrays are those of whoever has them now."""
    states = numbered((array, (np.zeros_like(array), np.zeros_like(array))) for array in weights(2))
    engine = Engine(states, *clock_of(OPTIMIZERS["AdamW"](), states[0].weights.dtype, 2 * len(states[0].weights)))
    del states
    step(engine, OPTIMIZERS["AdamW"](), [[0], [1]])
    held = [weakref.ref(array if array.base is None else array.base) for array in engine.stores[1].state]
    assert all(reference() is not None for reference in held)
    atomic.together(engine.leave([1]))
    gc.collect()
    assert all(reference() is None for reference in held)


def test_a_store_is_settled_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its rows, those of the last piece too; no row of another store."""
    given = weights(3)
    expected = table("AdamW", given[1], [[i % 3] for i in range(10)]).array
    monkeypatch.setattr("unhot.settling.SETTLE_CHUNK", 3)
    optimizer = OPTIMIZERS["AdamW"]()
    engine = Engine.of([array.copy() for array in given], optimizer)
    for i in range(10):
        step(engine, optimizer, [[i % 3]] * 3)
    before = [store.weights.copy() for store in engine.stores]
    assert engine.is_deferred(1)
    engine.settle_store(1)
    assert [engine.is_deferred(place) for place in range(3)] == [True, False, True]
    np.testing.assert_allclose(engine.stores[1].weights, expected, rtol=1e-12)
    for place in (0, 2):
        np.testing.assert_array_equal(engine.stores[place].weights, before[place])
    step(engine, optimizer, [[0]] * 3)
    assert engine.is_deferred(1)


def test_a_table_left_in_the_midst_of_a_step_does_not_go_on_apart() -> None:
    """Its rows and its clock do not belong together, in whatever engine they are."""
    optimizer = OPTIMIZERS["AdamW"]()
    engine = Engine.of(weights(2), optimizer)
    step(engine, optimizer, [[0], [1]])
    engine._version._numbers.clear()
    with pytest.raises(RuntimeError, match="in the midst of a step"):
        engine.apart([0])


def turns_of(engine: Engine, turns: int) -> list[list[int]]:
    """The turn of each row of each store; each has one, and one only."""
    found: list[list[int]] = []
    due = [np.concatenate([np.empty(0, np.int64), *engine._due(turn, turns)]) for turn in range(turns)]
    for store in engine.stores:
        own = [(int(row) - store.first, turn) for turn in range(turns) for row in due[turn] if store.first <= row < store.stop]
        assert sorted(row for row, _ in own) == list(range(store.rows))
        found.append([turn for _, turn in sorted(own)])
    assert sum(map(len, due)) == sum(store.rows for store in engine.stores)
    return found


@pytest.mark.parametrize("turns", [2, 5, 16, 100])
def test_each_row_has_a_turn_that_stays(turns: int) -> None:
    """Where stores go on alone, and where rows are added, also such that all have new numbers."""
    engine = Engine.of([np.zeros((rows, 2), np.float32) for rows in (100, 7, 1, 333)], OPTIMIZERS["AdamW"]())
    before = turns_of(engine, turns)
    assert max(map(max, before)) < turns
    apart = engine.apart([1, 3])
    assert turns_of(apart, turns) == [before[1], before[3]]
    for rows in (40, 400):
        engine.change_rows(
            lambda rows=rows: engine.adding(0, np.empty(0, np.int64), engine.new(np.zeros((rows, 2), np.float32)))
        )
        after = turns_of(engine, turns)
        assert after[1:] == before[1:]
        assert after[0][:100] == before[0]
    counts = np.bincount(turns_of(Engine.of([np.zeros((5000, 1), np.float32)], OPTIMIZERS["AdamW"]()), turns)[0])
    assert counts.max() <= 5000 / turns + 32

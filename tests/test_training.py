"""The training API: step, accumulate, settle, and hyperparameters that change between steps.

The oracle for the mathematics here is a table in which every step gives every row a gradient, of zero where it has none:
nothing is ever deferred in it.  Against real optimizers the rules are tested in tests/conformance.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import DTYPES, ID_DTYPES, LAYOUTS, RULES, assert_bits, assert_held, held, stream, train, trained

import unhot

ALL = np.arange(9)


def dense_step(table: unhot.Table, ids: np.ndarray, grads: np.ndarray) -> None:
    """The same step with a gradient for every row."""
    everywhere = np.zeros((table.rows, table.dim))
    np.add.at(everywhere, ids, grads.astype(np.float64))
    table.step(np.arange(table.rows), everywhere)


def assert_trained_alike(table: unhot.Table, dense: unhot.Table, tolerance: float = 1e-9) -> None:
    """The same weights as the table that defers nothing, in float64."""
    assert table.clock == dense.clock
    np.testing.assert_allclose(table.array, dense.array, rtol=tolerance, atol=1e-14)


# ---------------------------------------------------------------------- step


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_by_hand(dtype: str) -> None:
    """SGD: w - rate times the sum of each id's gradients; rows without an id stay, to the last bit."""
    table = unhot.Table(5, 2, optimizer=unhot.SGD(0.5), dtype=dtype, seed=0)
    before = table.array
    table.step([[1, 3], [1, 1]], [[[1.0, 2.0], [8.0, 16.0]], [[4.0, 8.0], [32.0, 64.0]]])
    expected = before.copy()
    expected[1] -= np.array([18.5, 37.0], dtype)
    expected[3] -= np.array([4.0, 8.0], dtype)
    assert_bits(table.array, expected)
    assert table.clock == 1


@given(
    shape=st.sampled_from([(), (1,), (7,), (2, 3), (2, 0), (0,), (3, 1, 2)]),
    id_dtype=st.sampled_from(ID_DTYPES),
    grad_dtype=st.sampled_from(["float16", "float32", "float64", "longdouble"]),
    id_layout=st.sampled_from(sorted(LAYOUTS)),
    grad_layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(DTYPES),
    rule=st.sampled_from(sorted(RULES)),
)
def test_ids_and_gradients_of_every_kind(
    shape: tuple[int, ...], id_dtype: str, grad_dtype: str, id_layout: str, grad_layout: str, dtype: str, rule: str
) -> None:
    """Any integer dtype, float dtype, shape and memory layout: the bits of plain arrays, and the inputs stay as they are."""
    generator = np.random.default_rng(len(shape))
    ids = generator.integers(0, 9, size=shape).astype(id_dtype)
    grads = generator.normal(size=(*shape, 3)).astype(grad_dtype)
    plain, other = trained(rule, dtype=dtype), trained(rule, dtype=dtype)
    plain.step(ids.astype(np.int64).reshape(-1), grads.astype(dtype).reshape(-1, 3))
    laid_ids, laid_grads = LAYOUTS[id_layout](ids), LAYOUTS[grad_layout](grads)
    before = laid_ids.tobytes(), laid_grads.tobytes()
    other.step(laid_ids, laid_grads)
    assert (laid_ids.tobytes(), laid_grads.tobytes()) == before
    assert_held(other, held(plain))


def test_lists_and_broadcast_gradients() -> None:
    """Nested lists of numbers, and one gradient broadcast to all ids without being copied."""
    tables = [unhot.Table(4, 2, optimizer=unhot.Adam(0.1), seed=0) for _ in range(3)]
    tables[0].step(np.array([1, 2]), np.array([[0.5, 1.5], [0.5, 1.5]], np.float32))
    tables[1].step([1, 2], [[0.5, 1.5], [0.5, 1.5]])
    tables[2].step((1, 2), np.broadcast_to(np.array([0.5, 1.5]), (2, 2)))
    assert_held(tables[1], held(tables[0]))
    assert_held(tables[2], held(tables[0]))


@pytest.mark.parametrize("rule", RULES)
def test_a_lookup_of_other_ids_changes_no_step(rule: str) -> None:
    """A lookup keeps what it finds for the step of the same ids: as many others, and ids written in place, are others."""
    table, plain = (trained(rule) for _ in range(2))
    grads, ids = np.random.default_rng(0).normal(size=(3, 3)), np.array([1, 4, 1])
    table.lookup([0, 8, 7])
    for each in (table, plain):
        each.step(ids, grads)
    table.lookup(ids)
    ids[:] = [5, 4, 3]
    for each in (table, plain):
        each.step(ids, grads)
    assert_held(table, held(plain))


@pytest.mark.parametrize("rule", RULES)
def test_repeated_ids_are_summed_in_float64(rule: str) -> None:
    """Many gradients of one id are one gradient, their sum: small ones beside a large one are not lost."""
    table, once = (unhot.Table(4, 1, optimizer=RULES[rule](), seed=0) for _ in range(2))
    grads = np.full((3001, 1), 2.0**-14, np.float32)
    grads[0], grads[-1] = 2.0**12, -(2.0**12)
    table.step([2] * 3001, grads)
    once.step([2], [[2999 * 2.0**-14]])
    assert_held(table, held(once))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_distinct_ids_does_not_matter(rule: str, dtype: str) -> None:
    """Permuting the ids of a step with their gradients gives the same bits."""
    tables = [trained(rule, dtype=dtype) for _ in range(2)]
    grads = np.random.default_rng(0).normal(size=(9, 3))
    order = np.random.default_rng(1).permutation(9)
    tables[0].step(ALL, grads)
    tables[1].step(ALL[order], grads[order])
    assert_held(tables[1], held(tables[0]))


@pytest.mark.parametrize("rule", RULES)
def test_a_step_without_gradients_is_a_step(rule: str) -> None:
    """`step()` with nothing accumulated moves every row as a dense step with a zero gradient does."""
    table, dense = trained(rule, dtype="float64"), trained(rule, dtype="float64")
    for empty in ((), ([], []), (np.empty((0, 4), np.int8), np.empty((0, 4, 3)))):
        table.step(*empty)
        dense_step(dense, ALL[:0], np.empty((0, 3)))
    assert table.clock == 15
    assert_trained_alike(table, dense)


@pytest.mark.parametrize("rule", RULES)
def test_deferred_steps_are_the_dense_ones(rule: str) -> None:
    """Rows that rest for up to hundreds of steps end where a table ends in which no row ever rests."""
    table, dense = (unhot.Table(9, 3, optimizer=RULES[rule](), dtype="float64", seed=1) for _ in range(2))
    for ids, grads in stream(9, 3, 300, 2, "float64"):
        ids, grads = ids[ids != 4], grads[ids != 4]
        table.step(ids, grads)
        dense_step(dense, ids, grads)
    shown = table.lookup(ALL)
    assert_trained_alike(table, dense)
    assert_bits(table.array, shown)


@pytest.mark.parametrize("rule", ["sgd momentum", "rmsprop", "adam", "adam torch", "adamax torch", "lion", "ftrl shrinkage"])
def test_rows_that_rest_for_longer_than_the_history(rule: str) -> None:
    """More steps than the history of a small table holds: the rows are carried on in turn, and none is lost."""
    table, dense = (unhot.Table(3, 1, optimizer=RULES[rule](), dtype="float64", seed=1) for _ in range(2))
    assert table._engine.clock is not None
    steps = table._engine.clock.period + 600 if rule != "ftrl shrinkage" else 1500
    for t in range(steps):
        ids, grads = ([[0], [1], []][t % 3], np.full((int(t % 3 < 2), 1), np.cos(t))) if t < 6 else ([], np.empty((0, 1)))
        table.step(ids, grads)
        dense_step(dense, np.array(ids, np.int64), grads)
    assert_trained_alike(table, dense, 1e-8)


@pytest.mark.parametrize("policy", ["zero", 2])
@pytest.mark.parametrize("rule", RULES)
def test_out_of_range_ids_in_steps(rule: str, policy: str | int) -> None:
    """Under "zero" an unknown id has no gradient; under a row number its gradient is that row's."""
    table, known = (unhot.Table(9, 3, optimizer=RULES[rule](), seed=0, out_of_range=p) for p in (policy, "raise"))
    ids, grads = np.array([1, 99, 2, -1, 2**40]), np.random.default_rng(0).normal(size=(5, 3))
    kept = ids if policy == 2 else ids[[0, 2]]
    for _ in range(3):
        table.step(ids, grads)
        known.step(np.where(kept == 1, 1, 2), grads if policy == 2 else grads[[0, 2]])
    table.accumulate(ids, grads)
    known.accumulate(np.where(kept == 1, 1, 2), grads if policy == 2 else grads[[0, 2]])
    assert_held(table, held(known))


# ---------------------------------------------------------------------- accumulate


@pytest.mark.parametrize("rule", RULES)
def test_accumulated_lookups_are_one_step(rule: str) -> None:
    """accumulate, accumulate, step() and accumulate, step(ids, grads) have the bits of one step with all of them."""
    one, two, three = (trained(rule) for _ in range(3))
    ids, grads = np.array([[4, 1], [1, 8]]), np.random.default_rng(0).normal(size=(2, 2, 3)).astype(np.float32)
    one.step(ids, grads)
    two.accumulate(ids[0], grads[0])
    two.accumulate(ids[1], grads[1])
    two.step()
    three.accumulate(ids[0], grads[0])
    three.step(ids[1], grads[1])
    assert_held(two, held(one))
    assert_held(three, held(one))
    for table in (one, two, three):
        train(table, 5, seed=1)
    assert_held(two, held(one))
    assert_held(three, held(one))


@pytest.mark.parametrize("rule", RULES)
def test_accumulate_changes_nothing_before_the_step(rule: str) -> None:
    """Weights, slots and clock stay, lookups show what they showed, and the gradients are used once."""
    table, other = trained(rule), trained(rule)
    before, shown = held(table), table.lookup(ALL)
    table.accumulate([1], [[1.0, 2.0, 3.0]])
    assert_bits(table.lookup(ALL), shown)
    assert held(table).keys() - before.keys() == {"pending ids 0", "pending gradients 0"}
    table._pending.clear()
    assert_held(table, before)
    table.accumulate([1], [[1.0, 2.0, 3.0]])
    for t in (table, other):
        t.step(*(() if t is table else ([1], [[1.0, 2.0, 3.0]])))
        t.step()
    assert_held(table, held(other))


def test_accumulate_copies() -> None:
    """Ids and gradients may be reused by the caller at once, as views or as they are."""
    table, other = (unhot.Table(9, 3, optimizer=unhot.Adam(0.1), seed=0) for _ in range(2))
    ids, grads = np.array([1, 2]), np.ones((2, 3), np.float32)
    other.step([1, 2, 3, 4], np.concatenate([grads, grads * 5]))
    table.accumulate(ids, grads)
    ids += 2
    grads *= 5
    table.accumulate(ids, grads)
    ids[:] = 0
    grads[:] = np.nan
    table.step()
    assert_held(table, held(other))


# ---------------------------------------------------------------------- settle and array


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_settle_some_rows(rule: str, dtype: str) -> None:
    """`settle(ids)` writes these rows only, lookups show the same bits, and training goes on to the same weights."""
    table, other = trained(rule, dtype=dtype), trained(rule, dtype=dtype)
    before, shown = held(table), table.lookup(ALL)
    table.settle(np.array([[3, 8], [3, 0]], np.uint16))
    after = held(table)
    for name in before.keys() - {"clock", "optimizer", "rows"}:
        assert_bits(after[name][[1, 2, 4, 5, 6, 7]], before[name][[1, 2, 4, 5, 6, 7]])
    assert_bits(after["weights"][[3, 8, 0]], shown[[3, 8, 0]])
    if "last" in after:
        assert (after["last"][[3, 8, 0]] == table.clock).all()
    assert_bits(table.lookup(ALL), shown)
    table.settle([3, 8, 0])
    assert_held(table, after)
    train(table, 20, seed=1)
    train(other, 20, seed=1)
    np.testing.assert_allclose(table.array, other.array, rtol=1e-9 if dtype == "float64" else 2e-5, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_settle_all_rows(rule: str) -> None:
    """`settle()` leaves nothing deferred: the weights are what lookups showed, and a second one writes nothing."""
    table = trained(rule)
    shown = table.lookup(ALL)
    table.settle()
    settled = held(table)
    assert_bits(settled["weights"], shown)
    assert settled["clock"] == 12
    table.settle()
    table.settle([1])
    assert_held(table, settled)
    assert_bits(table.array, shown)


def test_settle_where_there_is_nothing_to_settle() -> None:
    """Before any step, without an optimizer, without ids, and of ids that stand for no row."""
    fresh, read_only = unhot.Table(4, 2, optimizer=unhot.Adam(0.1), seed=0), unhot.Table(4, 2, seed=0)
    before = held(fresh)
    for table in (fresh, read_only):
        table.settle()
        table.settle([])
        table.settle([[1, 2], [3, 3]])
    assert_held(fresh, before)
    assert_bits(read_only.array, fresh.array)
    table = unhot.Table(4, 2, optimizer=unhot.Adam(0.1), seed=0, out_of_range="zero")
    table.step([0, 1], np.ones((2, 2)))
    before = held(table)
    table.step()
    now = held(table)
    table.settle([99, -1])
    assert_held(table, now)
    table.settle([1, 99])
    assert table._engine.last is not None
    assert (table._engine.last[[0, 1]] == [before["last"][0], 2]).all()


@pytest.mark.parametrize("rule", RULES)
def test_array_is_settled_and_a_copy(rule: str) -> None:
    """`array` is what lookups show; a change to it does not reach the table, and steps do not reach it."""
    table = trained(rule)
    shown = table.lookup(ALL)
    array = table.array
    assert_bits(array, shown)
    array[:] = 0
    assert_bits(table.array, shown)
    array = table.array
    table.step([0], np.ones((1, 3)))
    assert_bits(array, shown)


# ---------------------------------------------------------------------- hyperparameters


def test_a_callable_learning_rate() -> None:
    """It is asked once for each step, with 1 first, and by nothing else; it gives the bits of assigned numbers."""
    asked: list[int] = []
    rates = [0.1, 0.2, 0.0, 0.05, 0.3]

    def rate(step: int) -> float:
        asked.append(step)
        return rates[step - 1]

    table, assigned = (unhot.Table(9, 3, optimizer=unhot.Adam(r), seed=0) for r in (rate, 0.7))
    for step, (ids, grads) in enumerate(stream(9, 3, 5, 0)):
        table.lookup(ids)
        table.bag([ids])
        table.accumulate(ids, grads)
        table.step()
        assert asked == list(range(1, step + 2))
        assigned.optimizer.learning_rate = rates[step]
        assigned.step(ids, grads)
    table.settle([1])
    assigned.settle([1])
    assert_bits(table.lookup(ALL), assigned.lookup(ALL))
    assert_bits(table.array, assigned.array)
    assert asked == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [float, int, np.float32, np.float64, np.int64, np.array], ids=lambda kind: kind.__name__)
def test_learning_rates_of_every_number_type(kind: Callable[[Any], Any]) -> None:
    """Python's and NumPy's numbers, and 0-d arrays, from a callable or not."""
    expected, number, called = (
        unhot.Table(4, 2, optimizer=unhot.SGD(rate), init="zeros") for rate in (2.0, kind(2), lambda step: kind(2))
    )
    for table in (expected, number, called):
        table.step([1], [[1.0, 2.0]])
    assert_bits(number.array, expected.array)
    assert_bits(called.array, expected.array)


CHANGES: dict[str, list[dict[str, Any]]] = {
    "sgd": [{"learning_rate": 0.3}, {"weight_decay": 0.1}, {"weight_decay": 0.0}],
    "sgd momentum": [{"learning_rate": 0.02}, {"momentum": 0.5}, {"momentum": 0.0, "nesterov": False}, {"momentum": 0.95}],
    "sgd torch": [{"weight_decay": 0.0}, {"momentum": 0.3, "dampening": 0.0}, {"learning_rate": 0.0}, {"learning_rate": 0.2}],
    "adagrad": [{"epsilon": 1e-3}, {"weight_decay": 0.0}, {"learning_rate": 1.0, "weight_decay": 0.1}],
    "rowwise adagrad": [{"epsilon": 1e-3}, {"weight_decay": 0.0}, {"learning_rate": 1.0, "weight_decay": 0.1}],
    "rmsprop": [{"rho": 0.5}, {"momentum": 0.2}, {"epsilon": 1e-2}, {"momentum": 0.0}, {"momentum": 0.9}],
    "rmsprop centered": [{"rho": 0.9}, {"learning_rate": 0.5}],
    "adadelta": [{"rho": 0.5}, {"learning_rate": 0.1, "epsilon": 1e-2}],
    "adam": [
        {"beta_1": 0.5},
        {"beta_1": 0.95, "learning_rate": 0.1},
        {"beta_2": 0.98},
        {"epsilon": 1e-3, "weight_decay": 0.1},
    ],
    "adam torch": [{"beta_1": 0.5}, {"learning_rate": 1e-6}, {"learning_rate": 0.1}, {"beta_2": 0.99}, {"epsilon": 1e-2}],
    "adamw amsgrad": [{"weight_decay": 0.5}, {"learning_rate": 0.5}, {"beta_1": 0.1}, {"beta_2": 0.9}],
    "nadam": [{"beta_1": 0.5}, {"learning_rate": 0.1}, {"beta_1": 0.93}, {"epsilon": 1e-2}],
    "radam": [{"beta_1": 0.5}, {"beta_1": 0.95, "weight_decay": 0.0}, {"beta_2": 0.9}, {"epsilon": 1e-2}],
    "adamax": [{"beta_1": 0.5}, {"beta_2": 0.9}, {"weight_decay": 0.0, "learning_rate": 0.2}],
    "adamax torch": [{"beta_1": 0.5}, {"learning_rate": 0.2}, {"beta_1": 0.95}, {"beta_2": 0.99, "epsilon": 1e-2}],
    "lion": [{"beta_1": 0.5}, {"learning_rate": 0.1, "weight_decay": 0.0}, {"beta_2": 0.5}],
    "ftrl": [{"learning_rate": 0.5}, {"l1_regularization_strength": 0.0}, {"beta": 0.1}, {"weight_decay": 0.1}],
    "ftrl shrinkage": [{"learning_rate": 0.5}, {"l2_shrinkage_regularization_strength": 0.1}, {"learning_rate": 0.01}],
}


@pytest.mark.parametrize("rule", RULES)
def test_hyperparameters_assigned_between_steps(rule: str) -> None:
    """Each takes effect from the next step on, for resting rows too, as in the table that defers nothing."""
    table, dense = (unhot.Table(9, 3, optimizer=RULES[rule](), dtype="float64", seed=1) for _ in range(2))
    for number, change in enumerate([{}, *CHANGES[rule]]):
        for t in (table, dense):
            for name, value in change.items():
                setattr(t.optimizer, name, value)
        for ids, grads in stream(9, 3, 15, number, "float64"):
            table.step(ids, grads)
            dense_step(dense, ids, grads)
        np.testing.assert_allclose(table.lookup(ALL), dense.lookup(ALL), rtol=1e-9, atol=1e-14)
    assert_trained_alike(table, dense)


@pytest.mark.parametrize("rule", RULES)
def test_assigning_changes_nothing_before_the_next_step(rule: str) -> None:
    """Lookups and settling show the steps made, whatever was assigned since; assigning the old value back undoes it."""
    table, other = trained(rule), trained(rule)
    shown = table.lookup(ALL)
    old = {name: getattr(table.optimizer, name) for change in CHANGES[rule] for name in change}
    for change in CHANGES[rule]:
        for name, value in change.items():
            setattr(table.optimizer, name, value)
        assert_bits(table.lookup(ALL), shown)
    table.settle([2])
    other.settle([2])
    for name, value in old.items():
        setattr(table.optimizer, name, value)
    train(table, 5, seed=3)
    train(other, 5, seed=3)
    assert_held(table, held(other))


def test_a_scheduled_number_never_settles_the_table() -> None:
    """Rate, momentum and decay may change at every step at the cost of the rows touched: other rows stay deferred."""
    table = unhot.Table(9, 3, optimizer=unhot.AdamW(0.1, beta_1=0.9), seed=0)
    table.step(ALL, np.ones((9, 3)))
    for step in range(2, 30):
        table.optimizer.learning_rate = 0.1 / step
        table.optimizer.weight_decay = 0.01 * step
        table.optimizer.beta_1 = 0.9 - 0.001 * step
        table.step([0], np.ones((1, 3)))
    assert table._engine.last is not None
    assert (table._engine.last[1:] == 1).all()


def test_one_optimizer_for_two_tables() -> None:
    """Tables that share an optimizer share its hyperparameters, and no state."""
    shared = unhot.NAdam(0.1)
    tables = [unhot.Table(9, 3, optimizer=shared, seed=0) for _ in range(2)]
    alone = [unhot.Table(9, 3, optimizer=unhot.NAdam(0.1), seed=0) for _ in range(2)]
    for ids, grads in stream(9, 3, 10, 0):
        for i in range(2):
            tables[i].step(ids[i:], grads[i:])
            alone[i].step(ids[i:], grads[i:])
    for i in range(2):
        assert_held(tables[i], held(alone[i]))


def test_another_rule_with_the_same_slots() -> None:
    """Adam's table goes on with AdamW as with Adam's own decay."""
    tables = [trained("adam") for _ in range(2)]
    tables[0].optimizer = unhot.AdamW(0.03, weight_decay=0.1)
    tables[1].optimizer.learning_rate, tables[1].optimizer.weight_decay = 0.03, 0.1
    for table in tables:
        train(table, 5, seed=1)
    np.testing.assert_allclose(tables[0].array, tables[1].array, rtol=1e-5)


# ---------------------------------------------------------------------- memory


def reachable_bytes(thing: Any, seen: set[int]) -> int:
    """The bytes of the arrays that can be reached from `thing`, each memory counted once."""
    if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType, str, bytes)):
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        if thing.base is None:
            return thing.nbytes
        # A view keeps all of its base; one into memory that is no array counts by itself.
        return reachable_bytes(thing.base, seen) if isinstance(thing.base, np.ndarray) else thing.nbytes
    parts: list[Any] = []
    if isinstance(thing, dict):
        parts += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)) or type(thing).__name__ == "deque":
        parts += thing
    parts += vars(thing).values() if hasattr(thing, "__dict__") else []
    parts += [getattr(thing, name) for name in getattr(type(thing), "__slots__", ()) if hasattr(thing, name)]
    return sum(reachable_bytes(part, seen) for part in parts)


MEMORY = {
    **RULES,
    "adamw torch": lambda: unhot.AdamW(convention="torch"),
    "adam amsgrad": lambda: unhot.Adam(amsgrad=True, convention="torch"),
    "adam (.9, .95)": lambda: unhot.Adam(beta_1=0.9, beta_2=0.95, convention="torch"),
}


@pytest.mark.parametrize(("rows", "dtype"), [(1_000_000, "float32"), (1_190_000, "float64")])
@pytest.mark.parametrize("rule", MEMORY)
def test_memory_per_row(rule: str, dtype: str, rows: int) -> None:
    """A million rows and more take the weights, the slots and at most 8 bytes for each row beside them."""
    dim = 1
    table = unhot.Table(rows, dim, optimizer=MEMORY[rule](), dtype=dtype, init="zeros")
    for _ in range(3):
        table.step([5, 7], np.ones((2, dim)))
    arrays = 1 + len(table._engine.stores[0].slots)
    extra = reachable_bytes(table, set()) - rows * dim * np.dtype(dtype).itemsize * arrays
    assert 0 <= extra <= 8 * rows


@pytest.mark.parametrize("rule", ["sgd", "sgd momentum", "adam", "adam torch", "adamax torch", "ftrl"])
def test_a_step_allocates_nothing_that_grows_with_the_table(rule: str) -> None:
    """Lookup, bag and step of a few rows of half a million allocate a fraction of a byte for each row."""
    table = unhot.Table(500_000, 2, optimizer=RULES[rule](), init="zeros")
    ids, grads = np.arange(100) * 4999, np.ones((100, 2), np.float32)
    table.step(ids, grads)
    tracemalloc.start()
    for _ in range(3):
        table.lookup(ids)
        table.bag(ids[None])
        table.step(ids, grads)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250_000

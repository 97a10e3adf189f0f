"""Slots with one number for each row, and what RowwiseAdagrad makes of them; that it trains is tested in tests/conformance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conformance.dense import Array, FbgemmRowwiseAdagrad

import unhot
from unhot import memory
from unhot.kernels import active
from unhot.laws.arithmetic import mean_square


def sum_in_order(row: Array) -> float:
    total = 0.0
    for element in row:
        total += float(element) * float(element)
    return total


def gradients_of_all_sizes(dim: int, dtype: str) -> Array:
    found: Array = (np.random.default_rng(dim).normal(size=(25, dim)) * 10.0 ** np.arange(25)[:, None]).astype(dtype)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [1, 2, 7, 8, 64, 129])
def test_the_mean_is_formed_in_order(dim: int, dtype: str) -> None:
    """In float64, element by element, and rounded once: the same bits as a loop over the elements gives, in a table too."""
    g = gradients_of_all_sizes(dim, dtype)
    with np.errstate(over="ignore"):
        expected = np.array([sum_in_order(row) / dim for row in g]).astype(dtype)
        found = mean_square(np, g)
    assert (found.shape, found.dtype) == ((25, 1), np.dtype(dtype))
    np.testing.assert_array_equal(found[:, 0], expected)
    table = unhot.Table(25, dim, optimizer=unhot.RowwiseAdagrad(0.1), dtype=dtype)
    table.step(np.arange(25), g)
    np.testing.assert_array_equal(table.state_dict()["slot.sum"][:, 0], expected)


def test_the_mean_over_no_elements() -> None:
    assert mean_square(np, np.zeros((3, 0), np.float32)).tolist() == [[0.0]] * 3


def test_the_dense_step_is_the_same_one() -> None:
    """That of `unhot compare`."""
    weights = np.random.default_rng(0).normal(size=(9, 4))
    optimizer = unhot.RowwiseAdagrad(0.1, weight_decay=0.03)
    reference = FbgemmRowwiseAdagrad(weights, learning_rate=0.1, weight_decay=0.03)
    state: tuple[Array, ...] = (weights.copy(), np.full((len(weights), 1), *optimizer.dense_slots()))
    for step in range(1, 20):
        g = np.random.default_rng(step).normal(size=weights.shape)
        reference.step(g)
        state = optimizer.dense_step(step, optimizer.read(step), g, state)
    np.testing.assert_allclose(state[0], reference.w, rtol=1e-13, atol=1e-15)


def test_a_table_takes_little_more_memory_than_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is asked for no more: weights, a number of state and the step of the last touch for each row."""
    asked: list[int] = []
    monkeypatch.setattr(memory, "require", lambda size, what: asked.append(size))
    table = unhot.Table(1000, 64, optimizer=unhot.RowwiseAdagrad(0.1))
    unhot.TableCollection({"a": (1000, 64), "b": (10, 2)}, optimizer=unhot.RowwiseAdagrad(0.1))
    unhot.Table(1000, 64, optimizer=unhot.Adam(0.1))
    assert asked == [1000 * (4 * 65 + 4), 1000 * (4 * 65 + 4) + 10 * (4 * 3 + 4), 1000 * (4 * 3 * 64 + 4)]
    (slot,) = table._engine.stores[0].slots
    assert slot.shape == (1000, 1)


def test_a_state_of_another_shape_is_refused() -> None:
    table = unhot.Table(4, 3, optimizer=unhot.RowwiseAdagrad(0.1))
    state = table.state_dict()
    for shape in ((4, 3), (4,), (1, 1)):
        with pytest.raises(ValueError, match=r"'slot\.sum' must have shape \(4, 1\) .* Received: shape"):
            table.load_state_dict({**state, "slot.sum": np.ones(shape, np.float32)})
    table.load_state_dict({**state, "slot.sum": np.ones((4, 1), np.float32)})
    assert (table.state_dict()["slot.sum"] == 1).all()


NATIVE = pytest.mark.skipif(active.name == "numpy", reason="NumPy refuses what does not fit by itself")


@NATIVE
@pytest.mark.parametrize(("optimizer", "width"), [(unhot.RowwiseAdagrad(0.1), 3), (unhot.Adagrad(0.1), 1)])
def test_slots_of_another_law_are_refused(optimizer: Any, width: int) -> None:
    """Before the kernels read or write memory that is not the slot's, whichever store has it."""
    table = unhot.Table(4, 3, optimizer=optimizer)
    clock = table._engine.clock
    assert clock is not None
    weights = [np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)]
    slots = [np.ones((4, clock.law.slot_width("sum", 3)), np.float32), np.ones((4, width), np.float32)]
    stores = active.stores([list(state) for state in zip(weights, slots, strict=True)], [0, 4], None)
    scalars = clock.scalars(1, optimizer.read(1))
    call = stores.step(
        clock.formula(),
        active.group(np.array([0])),
        None,
        unhot.kernels.structs.StepNumbers(1, scalars),
        [unhot.kernels.structs.Segment(0, np.ones((1, 3), np.float32))],
    )[0]
    with pytest.raises(ValueError, match="the law's slots have other shapes"):
        call()
    assert all((array == 1).all() for array in (*weights, *slots))
    with pytest.raises(ValueError, match="slots must have the weights' shape, or one number for each row"):
        active.stores([[weights[0], np.ones((4, 2), np.float32)]], [0], None)


def test_a_dim_of_1_is_both() -> None:
    """Then it is Adagrad with epsilon outside of the root."""
    tables = [
        unhot.Table(4, 1, optimizer=optimizer, seed=0)
        for optimizer in (unhot.RowwiseAdagrad(0.1, epsilon=1e-10), unhot.Adagrad(0.1, convention="torch"))
    ]
    for table in tables:
        for number in range(3):
            table.step([number, 2], [[1.0], [number + 0.5]])
    np.testing.assert_array_equal(tables[0].array, tables[1].array)

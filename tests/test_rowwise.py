"""RowwiseAdagrad's law and clock, on plain arrays, against a dense loop: tables have no slots of width 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conformance.dense import Array, Dense
from conformance.streams import make
from conformance.training import DenseCopy, agree, train, versions

from unhot.atomic import together
from unhot.laws import LAWS, Rowwise
from unhot.laws.arithmetic import mean_square
from unhot.optimizers.rowwise_adagrad import RowwiseAdagrad

RATE = 0.1


class DenseRowwise(Dense):
    """fbgemm's rowwise Adagrad with a decoupled decay, on all rows at every step."""

    defaults = {"learning_rate": 0.01, "epsilon": 1e-8, "weight_decay": 0.0, "initial_accumulator_value": 0.0}

    def begin(self) -> None:
        self.sum = np.full_like(self.w[..., :1], self.h.initial_accumulator_value)

    def move(self, g: Array, h: Any) -> None:
        self.decay(h)
        self.sum = self.sum + np.mean(g * g, axis=-1, keepdims=True)
        self.w -= h.learning_rate * g / (np.sqrt(self.sum) + h.epsilon)


class Rows:
    """What an engine does: rows are carried to now by the clock's coefficients, and stepped by its scalars."""

    def __init__(self, weights: Array, optimizer: RowwiseAdagrad) -> None:
        self.optimizer = optimizer
        self.clock = optimizer.clock(weights.dtype, len(weights))
        assert list(self.clock.slots) == ["sum"]
        assert self.clock.law.row_slots == ("sum",)
        self.w, self.sum = weights.copy(), np.full((len(weights), 1), self.clock.slots["sum"], weights.dtype)
        self.last, self.now = np.zeros(len(weights), np.int64), 0

    def settled(self, rows: Array) -> tuple[Any, ...]:
        return self.clock.settle(np, (self.w[rows], self.sum[rows]), self.clock.coefficients(self.last[rows]))

    def lookup(self, ids: Array) -> Array:
        found: Array = self.settled(ids)[0]
        return found

    def step(self, ids: Array, gradients: Array) -> None:
        rows, places = np.unique(ids, return_inverse=True)
        sums = np.zeros((len(rows), self.w.shape[1]))
        np.add.at(sums, places, gradients.astype(self.w.dtype).astype(np.float64))
        hyper = self.optimizer.read(self.now + 1)
        new = self.clock.update(np, self.settled(rows), sums.astype(self.w.dtype), self.clock.scalars(self.now + 1, hyper))
        self.w[rows], self.sum[rows] = new
        self.now += 1
        together(self.clock.advance(self.now, hyper))
        self.last[rows] = self.now

    def assign(self, hyper: dict[str, Any]) -> None:
        for name, value in hyper.items():
            setattr(self.optimizer, name, value)

    def weights(self) -> Array:
        return self.lookup(np.arange(len(self.w)))


@pytest.mark.parametrize("stream", ["closed", "mixed", "tiny", "gaps"])
@pytest.mark.parametrize("hyper", [{}, {"weight_decay": 0.03}, {"initial_accumulator_value": 0.1, "epsilon": 1e-3}], ids=str)
def test_as_dense_training(stream: str, hyper: dict[str, Any]) -> None:
    given = make(stream, "wandering", RATE)
    dense = [
        DenseCopy(DenseRowwise(w.astype(dtype), learning_rate=RATE, **hyper))
        for w, dtype in ((versions(given.weights), "float64"), (given.weights, "float32"))
    ]
    rows = [Rows(given.weights.astype(dtype), RowwiseAdagrad(RATE, **hyper)) for dtype in ("float32", "float64")]
    train(given, dense[0], [dense[1], *rows], agree)


def sum_in_order(row: Array) -> float:
    total = 0.0
    for element in row:
        total += float(element) * float(element)
    return total


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [1, 2, 7, 8, 64, 129])
def test_the_mean_is_formed_in_order(dim: int, dtype: str) -> None:
    """In float64, element by element, and rounded once: the same bits as a loop over the elements gives."""
    g = (np.random.default_rng(dim).normal(size=(25, dim)) * 10.0 ** np.arange(25)[:, None]).astype(dtype)
    with np.errstate(over="ignore"):
        found = mean_square(np, g)
        expected = np.array([sum_in_order(row) / dim for row in g]).astype(dtype)
    assert (found.shape, found.dtype) == ((25, 1), np.dtype(dtype))
    np.testing.assert_array_equal(found[:, 0], expected)


def test_the_dense_step_is_the_same_one() -> None:
    """That of `unhot compare`, once it can be compared."""
    weights = make("closed", "constant", RATE).weights
    optimizer, reference = RowwiseAdagrad(RATE, weight_decay=0.03), DenseRowwise(weights, learning_rate=RATE, weight_decay=0.03)
    state: tuple[Array, ...] = (weights.copy(), np.full((len(weights), 1), *optimizer.dense_slots()))
    for step in range(1, 20):
        g = np.random.default_rng(step).normal(size=weights.shape)
        reference.step(g)
        state = optimizer.dense_step(step, optimizer.read(step), g, state)
    np.testing.assert_allclose(state[0], reference.w, rtol=1e-13, atol=1e-15)


def test_hyperparameters_out_of_their_range() -> None:
    for name, value in (("epsilon", 0.0), ("initial_accumulator_value", -1.0), ("weight_decay", -0.1)):
        with pytest.raises(ValueError, match=f"RowwiseAdagrad: `{name}` must lie in"):
            RowwiseAdagrad(**{name: value})


def test_it_is_no_native_kernel() -> None:
    assert Rowwise not in LAWS

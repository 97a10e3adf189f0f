"""Tables of `unhot.jax` that grow equal those that have had all rows from the start, of which the new ones had no gradient."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import label, some

import unhot
import unhot.jax
from unhot.graph import history

from . import signs
from .dense import Array
from .registry import Rule
from .streams import make
from .test_jax import FAMILIES, LINES, StateCopy
from .training import agree, dense_copy, train, versions

SIZES = 3, 12
"""The rows at the start, and after the first growth; all of them come with the second."""


class GrowingState(StateCopy):
    """A state under test; `start` holds the weights that the rows of the reference start from."""

    def __init__(self, rule: Rule, start: Array, dtype: str) -> None:
        super().__init__(rule, start[: SIZES[0]], dtype)
        self.start = start

    def has(self, rows: int) -> None:
        there = self.state.shape[0]
        if rows > there:
            wanted = next(size for size in (*SIZES, len(self.start)) if size >= rows)
            with jax.enable_x64(self.wide):
                self.state = unhot.jax.grow(self.state, self.start[there:wanted], from_the_start=True)

    def lookup(self, ids: Array) -> Array:
        self.has(int(max(ids, default=0)) + 1)
        return super().lookup(ids)

    def step(self, ids: Array, gradients: Array) -> None:
        self.has(int(max(ids, default=0)) + 1)
        super().step(ids, gradients)

    def weights(self) -> Array:
        kept = self.state
        self.has(len(self.start))
        found = super().weights()
        self.state = kept
        return found


CASES = [*((rule, "float32") for rule in LINES), *((rule, "float64") for rule in FAMILIES)]


@pytest.mark.parametrize(("rule", "dtype"), some(CASES, [(FAMILIES[-1], "float32")]), ids=label)
def test_as_if_all_rows_had_been_there(rule: Rule, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also past a size at which histories become longer."""
    monkeypatch.setattr(history, "LARGE", SIZES[1] + 1)
    given = make("mixed", "wandering", rule.rate)
    for step in given.steps:
        for name in set(step.hyper) - {"learning_rate"}:
            del step.hyper[name]
    reference = dense_copy(rule, versions(given.weights), "float64")
    copies = [dense_copy(rule, given.weights, "float32"), GrowingState(rule, given.weights, dtype)]
    train(given, reference, copies, agree, guard=signs.guard(rule, given))


UPDATED = jax.jit(unhot.jax.update)


def trained(state: Any, ids: Any) -> Any:
    return UPDATED(state, jnp.array(ids, int), jnp.arange(1.0, 1.0 + 2 * len(ids)).reshape(-1, 2))


def weights(state: Any) -> Array:
    return np.asarray(unhot.jax.weights(state))


OPTIMIZERS = [unhot.SGD(0.1, momentum=0.5, weight_decay=0.1), unhot.Adagrad(0.1)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_removed_and_frozen_rows(optimizer: Any) -> None:
    """Numbers are used again, with a new state; no step changes a bit of frozen rows; others train as before."""
    start = jnp.arange(1.0, 9.0).reshape(4, 2)
    plain = state = unhot.jax.from_array(start, optimizer=optimizer)
    state = unhot.jax.remove(trained(state, [1]), [[1]])
    assert unhot.jax.removed(state).tolist() == [1]
    assert not weights(state)[1].any()
    plain = trained(plain, [])
    state = unhot.jax.grow(state, start[1:2], from_the_start=True)
    assert (state.shape, unhot.jax.removed(state).tolist()) == ((4, 2), [])
    state, plain = trained(state, [1, 2]), trained(plain, [1, 2])
    np.testing.assert_allclose(weights(state), weights(plain), rtol=1e-6)
    still = unhot.jax.freeze(state, jnp.array([False, True, False, True]))
    assert unhot.jax.frozen(still).tolist() == [1, 3]
    for _ in range(3):
        still, plain = trained(still, [0, 3, 3]), trained(plain, [0, 3, 3])
    found, expected = weights(still), weights(plain)
    np.testing.assert_array_equal(found[[1, 3]], weights(state)[[1, 3]])
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-6)
    larger = unhot.jax.grow(still, jnp.ones((2, 2)))
    assert unhot.jax.frozen(larger).tolist() == [1, 3]
    assert weights(larger)[4:].tolist() == [[1, 1], [1, 1]]
    thawed = trained(unhot.jax.freeze(unhot.jax.remove(larger, 3), None), [1])
    assert unhot.jax.frozen(thawed).tolist() == []
    assert (weights(thawed)[1] != found[1]).all()
    assert state.shape == (4, 2), "states that others hold stay as they are"


def test_errors() -> None:
    """They name what is wrong."""
    state = unhot.jax.remove(unhot.jax.from_array(jnp.ones((4, 2)), optimizer=unhot.Adam(0.1)), 2)
    for call, kind, message in (
        (lambda: unhot.jax.grow(state, jnp.ones((1, 3))), ValueError, "must have the shape (rows, 2), with at least one row"),
        (lambda: unhot.jax.grow(state, jnp.ones((1, 2), bool)), TypeError, "must be real numbers. Received: dtype bool"),
        (lambda: unhot.jax.remove(state, [1, 2]), IndexError, "id 2 at position 1 is that of a removed row"),
        (lambda: unhot.jax.freeze(state, 4), IndexError, "id 4 is out of range"),
        (lambda: unhot.jax.freeze(state, [True]), ValueError, "must have shape (4,). Received: `rows` of shape (1,)."),
        (lambda: jax.jit(unhot.jax.grow)(state, jnp.ones((1, 2))), TypeError, "call it outside of compiled functions"),
    ):  # fmt: skip
        with pytest.raises(kind, match=re.escape(message)):
            call()
    for change in (unhot.jax.remove, unhot.jax.freeze):  # which no policy for ids concerns
        with pytest.raises(IndexError, match=r"^id 9 at position 0 is out of range: the table has rows 0 to 3\.$"):
            change(state, [9])

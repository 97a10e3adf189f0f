"""A table that grows equals one that has had all its rows from the start, of which the new ones have had no gradient.

The reference is dense training of all rows from the first step on.  The tables under test have few rows at first.  A row is
added when an id asks for it, or when the tables are compared.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from selection import label, product

import unhot

from . import signs
from .dense import Array
from .registry import EVERY, Rule
from .streams import make
from .training import RELATIVE, UnhotCopy, agree, dense_copy, train, versions

FIRST = 3
"""The rows at the start."""


class GrowingCopy(UnhotCopy):
    """A table under test; `start` holds the weights that the rows of the reference start from."""

    def __init__(self, rule: Rule, start: Array, dtype: str, **options: Any) -> None:
        super().__init__(unhot.Table.from_array(start[:FIRST].astype(dtype), optimizer=rule.optimizer(), **options))
        self.start = start

    def has(self, rows: int) -> None:
        missing = rows - self.table.rows
        if missing > 0:
            self.table.grow(missing, lambda shape: self.start[self.table.rows :][: shape[0]])

    def lookup(self, ids: Array) -> Array:
        self.has(int(max(ids, default=0)) + 1)
        return super().lookup(ids)

    def step(self, ids: Array, gradients: Array) -> None:
        self.has(int(max(ids, default=0)) + 1)
        super().step(ids, gradients)

    def weights(self) -> Array:
        whole = copy.copy(self)
        whole.table = copy.deepcopy(self.table)
        whole.has(len(self.start))
        self.looks += 1
        return UnhotCopy.weights(whole)


@pytest.mark.parametrize(("rule", "stream"), product(EVERY, ["closed", "gaps", "mixed"], by=1), ids=label)
def test_as_if_all_rows_had_been_there(rule: Rule, stream: str) -> None:
    """With room for the new rows, and without; the rates change from step to step."""
    given = make(stream, "wandering", rule.rate)
    tables = [
        dense_copy(rule, given.weights, "float32"),
        GrowingCopy(rule, given.weights, "float32"),
        GrowingCopy(rule, given.weights, "float64", capacity=20),
    ]
    train(given, dense_copy(rule, versions(given.weights), "float64"), tables, agree, guard=signs.guard(rule, given))


@pytest.mark.parametrize("rule", EVERY, ids=label)
def test_a_row_that_is_removed_begins_anew(rule: Rule) -> None:
    """A row given anew is one that was there from the start; all others train as if nothing had happened."""
    given = make("closed", "wandering", rule.rate)
    tables = [unhot.Table.from_array(given.weights, optimizer=rule.optimizer()) for _ in range(2)]
    gone = np.array([2, 5, 11])
    for number, step in enumerate(given.steps[:120]):
        for table in tables:
            assert table.optimizer is not None
            table.optimizer.learning_rate = step.hyper["learning_rate"]
            # In the second table, and after they are given anew, these rows have no gradient.
            kept = ~np.isin(step.ids, gone) if table is tables[1] or number > 60 else slice(None)
            table.step(step.ids[kept], step.noise[kept])
        if number == 60:
            tables[0].remove(gone[::-1])
            assert tables[0].removed.tolist() == gone.tolist()
            assert tables[0].grow(3, lambda _: given.weights[gone]).tolist() == gone.tolist()
    for table in tables:
        table.step(gone, np.ones((3, given.dim)))
    size = np.maximum(np.abs(tables[1].array), np.abs(given.weights))
    np.testing.assert_array_less(np.abs(tables[0].array - tables[1].array), 2 * RELATIVE * size + 1e-300)


@pytest.mark.parametrize("rule", EVERY, ids=label)
def test_frozen_rows_do_not_change(rule: Rule) -> None:
    """Not by a bit, whatever their gradients and decay; all others train as in a table without frozen rows."""
    given = make("closed", "wandering", rule.rate)
    frozen, plain = (unhot.Table.from_array(given.weights, optimizer=rule.optimizer()) for _ in range(2))
    rows = np.array([0, 3, 39])
    others = np.setdiff1d(np.arange(len(given.weights)), rows)
    for number, step in enumerate(given.steps[:160]):
        if number == 30:
            frozen.frozen = rows
            kept = frozen.array[rows]
        if number == 130:
            frozen.frozen = None
        for table in (frozen, plain):
            assert table.optimizer is not None
            table.optimizer.learning_rate = step.hyper["learning_rate"]
            table.step(step.ids, step.noise)
        if 30 <= number < 130:
            assert frozen.lookup(rows).tobytes() == kept.tobytes()
            if number % 40 == 0:
                assert frozen.array[rows].tobytes() == kept.tobytes()
    size = np.maximum(np.abs(plain.array), np.abs(given.weights))[others]
    np.testing.assert_array_less(np.abs(frozen.array[others] - plain.array[others]), 2 * RELATIVE * size + 1e-300)
    moved = (frozen.array[rows] != kept).any()
    assert moved == (plain.array[rows] != kept).any()

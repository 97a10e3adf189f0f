"""A table inside a graph: what `unhot.engine` does, on arrays that the graph's framework owns.

Weights and slots are (rows, dim), `last` the steps of the rows' last touches; the history is that of `unhot.traced.families`.
Framework by framework, `Operations` names what the mathematics calls, and `Rows` is where arrays of one line per row are
read and written.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Protocol

from unhot.rules import Hyper, Optimizer
from unhot.traced.families import family_of
from unhot.traced.history import Arrays


class Rows(Protocol):
    """Arrays by name, with one line for each row of the table."""

    def take(self, name: str, ids: Any) -> Any:
        """The lines `ids`; any line for an id that is not one of the table."""

    def put(self, name: str, ids: Any, lines: Any) -> None:
        """Write the lines of the distinct `ids`, leaving out those that are not of the table."""


class Traced:
    """One rule on one table of so many rows; holds no array, so that one of it serves every compilation."""

    def __init__(self, optimizer: Optimizer, dtype: str, rows: int) -> None:
        self.optimizer, self.dtype, self.rows = optimizer, dtype, rows
        self.family = family_of(optimizer, dtype, rows)
        self.slots = dict(self.family.rule.slots)
        self.names = ("weights", *self.slots)
        self.defers = self.family.rule.defers(Hyper(1.0, 0.0, float(optimizer.weight_decay or 0.0)))
        self.turns = self.family.capacity // 2
        self.chunk = ceil(rows / self.turns)

    def _key(self) -> tuple[Any, ...]:
        return type(self.optimizer), tuple(vars(self.optimizer).items()), self.dtype, self.rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _settled(self, ops: Any, history: Arrays, store: Rows, ids: Any, now: Any) -> tuple[tuple[Any, ...], Any]:
        """The states of the rows `ids`, carried to the step `now`; and the steps of their last touches."""
        rows = tuple(store.take(name, ids) for name in self.names)
        if not self.defers:
            return rows, None
        last = store.take("last", ids)
        settled = self.family.settle(ops, history, rows, self.family.coefficients(ops, history, now, last))
        late = (last < now)[:, None]
        return tuple(ops.where(late, new, old) for new, old in zip(settled, rows, strict=True)), last

    def _put(self, ops: Any, store: Rows, ids: Any, rows: tuple[Any, ...], last: Any, now: Any) -> None:
        """Write the states of the distinct rows `ids`, which were last touched at `last`, and now are at `now`."""
        for name, new in zip(self.names, rows, strict=True):
            store.put(name, ids, new)
        if self.defers:
            touched = ops.full_like(last, now)
            store.put("last", ids, ops.after(touched, ops.maximum(touched, last), rows[0]))

    def lookup(self, ops: Any, history: Arrays, store: Rows, ids: Any, now: Any) -> Any:
        """The settled weights of the flat `ids`."""
        return self._settled(ops, history, store, ids, now)[0][0] if self.defers else store.take("weights", ids)

    def step(self, ops: Any, history: Arrays, store: Rows, ids: Any, gradients: Any, now: Any, rate: Any) -> Arrays:
        """Make the step now + 1 with the gradients of the distinct `ids`; the history afterwards."""
        step = now + 1
        rows, last = self._settled(ops, history, store, ids, now)
        scalars = self.family.scalars(ops, history, step, rate)
        self._put(ops, store, ids, self.family.rule.update(ops, rows, gradients, scalars), last, step)
        if not self.defers:
            return history
        history = {**history, **self.family.advance(ops, history, step, rate)}
        turn = (step % self.turns) * self.chunk
        self.settle(ops, history, store, turn + ops.arange(self.chunk), step)
        return history

    def settle(self, ops: Any, history: Arrays, store: Rows, ids: Any, now: Any) -> None:
        """Apply the deferred steps of the distinct rows `ids`."""
        rows, last = self._settled(ops, history, store, ids, now)
        self._put(ops, store, ids, rows, last, now)


def distinct(ops: Any, ids: Any, gradients: Any, rows: int) -> tuple[Any, Any]:
    """The distinct ids in order, and the sum of the gradients of each; filled up with ids beyond the table."""
    order = ops.argsort(ids)
    in_order = ops.take(ids, order)
    first = ops.concat([ops.ones_like(in_order[:1]), ops.integer(in_order[1:] != in_order[:-1])])
    group = ops.cumsum(first) - 1
    unique = ops.put(rows + ops.arange_like(ids), group, in_order)
    return unique, ops.sum_by(ops.take(gradients, order), group)

"""A table inside a graph: what `unhot.engine` does, on arrays that the graph's framework owns.

Weights are (rows, dim), and slots the same, or (rows, 1) where they are among `Law.row_slots`. `last` holds the steps of the
rows' last touches, `place` where in a step's ids a row stands, which counts within the step only; the history is that of
`unhot.graph.families`.
Framework by framework, `Operations` names what the mathematics calls, and `Rows` is where arrays of one line per row are
read and written.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Protocol

from unhot.clock import Hyper
from unhot.graph.families import family_of
from unhot.graph.history import Arrays
from unhot.optimizers import Optimizer

FROZEN = 1 << 29
"""The step of the last touch of frozen rows."""


class Rows(Protocol):
    """Arrays by name, with one line for each row of the table."""

    def take(self, name: str, ids: Any) -> Any:
        """The lines `ids`; any line for an id that is not one of the table."""

    def put(self, name: str, ids: Any, lines: Any) -> None:
        """Write the lines of the `ids`, leaving out those that are not of the table; an id that repeats has equal lines, or any
        one of them may stay."""


class Traced:
    """One optimizer on one table of so many rows; holds no array, so that one of it serves every compilation.

    Of a table that `freezes`, rows whose last touch is at `FROZEN` stay as they are.
    """

    def __init__(self, optimizer: Optimizer, dtype: str, rows: int, *, freezes: bool = False) -> None:
        self.optimizer, self.dtype, self.rows = optimizer, dtype, rows
        self.family = family_of(optimizer, dtype, rows)
        self.slots = dict(self.family.clock.slots)
        self.names = ("weights", *self.slots)
        self.defers = self.family.clock.defers(Hyper(1.0, 0.0, float(optimizer.weight_decay or 0.0)))
        self.freezes = freezes
        self.notes = self.defers or freezes
        """Whether there is a `last`."""
        self.turns = self.family.capacity // 2
        self.chunk = ceil(rows / self.turns)

    def slot_shape(self, name: str, dim: int) -> tuple[int, int]:
        """The shape of a slot of a table of this `dim`."""
        return self.rows, self.family.clock.law.slot_width(name, dim)

    def _kind(self) -> tuple[Any, ...]:
        """What the tables have in common whose rows are settled and stepped by the same formulas and numbers."""
        return type(self.optimizer), tuple(vars(self.optimizer).items()), self.dtype, self.family.capacity, self.freezes

    def _key(self) -> tuple[Any, ...]:
        return *self._kind(), self.rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _fused(self, ops: Any, function: Any) -> Any:
        """The function of this engine's, which takes all arrays as arguments: tables of one kind share what is compiled."""
        return ops.fused((function.__name__, *self._kind()), function)

    def _read(self, store: Rows, ids: Any) -> tuple[tuple[Any, ...], Any]:
        """The states of the rows `ids` as they stand; and the steps of their last touches."""
        return tuple(store.take(name, ids) for name in self.names), store.take("last", ids) if self.notes else None

    def _carry(self, ops: Any, history: Arrays, rows: tuple[Any, ...], last: Any, now: Any) -> tuple[Any, ...]:
        """The states of rows last touched at `last`, carried to the step `now`."""
        if not self.defers:
            return rows
        settled = self.family.settle(ops, history, rows, self.family.coefficients(ops, history, now, last))
        late = (last < now)[:, None]
        return tuple(ops.where(late, new, old) for new, old in zip(settled, rows, strict=True))

    def _put(self, ops: Any, store: Rows, ids: Any, rows: tuple[Any, ...], last: Any, now: Any) -> None:
        """Write the states of the rows `ids`, which were last touched at `last`, and now are at `now`."""
        for name, new in zip(self.names, rows, strict=True):
            store.put(name, ids, new)
        if self.notes:
            touched = ops.full_like(last, now)
            touched = ops.where(last < FROZEN, touched, last) if self.freezes else touched
            store.put("last", ids, ops.after(touched, ops.maximum(touched, last), rows[0]))

    def lookup(self, ops: Any, history: Arrays, store: Rows, ids: Any, now: Any) -> Any:
        """The settled weights of the flat `ids`."""
        if not self.defers:
            return store.take("weights", ids)

        def looked_up(history: Arrays, rows: tuple[Any, ...], last: Any, now: Any) -> Any:
            return self._carry(ops, history, rows, last, now)[0]

        rows, last = self._read(store, ids)
        return self._fused(ops, looked_up)(history, rows, last, now)

    def step(
        self, ops: Any, history: Arrays, store: Rows, ids: Any, gradients: Any, now: Any, rate: Any, written: Any = None
    ) -> Arrays:
        """Make the step now + 1 with the gradients of the `ids`, which are summed where one repeats; the history afterwards.

        Nothing is sorted, and no id left out: a row that repeats is computed in all of its places, each with the whole sum, and
        written as often.  The places of one lookup in the same step are the same, so that its work is not done again.
        `written` are the same ids as `ops.padded` gives them, where rows may only be written once all else has been read.
        """
        sums = self.summed(ops, store, ids, gradients)
        ids = ops.padded(ids)
        sums = ops.take(sums, store.take("place", ids))

        def updated(history: Arrays, rows: tuple[Any, ...], last: Any, sums: Any, now: Any, rate: Any) -> tuple[Any, ...]:
            scalars = self.family.scalars(ops, history, now + 1, rate)
            new = self.family.clock.update(ops, self._carry(ops, history, rows, last, now), sums, scalars)
            if not self.freezes:
                return new
            moving = (last < FROZEN)[:, None]
            return tuple(ops.where(moving, moved, kept) for moved, kept in zip(new, rows, strict=True))

        rows, last = self._read(store, ids)
        new = self._fused(ops, updated)(history, rows, last, sums, now, rate)
        self._put(ops, store, ids if written is None else written, new, last, now + 1)
        return self._record(ops, history, store, now + 1, rate)

    def _record(self, ops: Any, history: Arrays, store: Rows, step: Any, rate: Any) -> Arrays:
        """The history after `step`, and a part of the table settled, lest a row rest for longer than the history reaches."""
        if not self.defers:
            return history
        history = {**history, **self.family.advance(ops, history, step, rate)}
        turn = (step % self.turns) * self.chunk
        self.settle(ops, history, store, turn + ops.arange(ops.length(self.chunk)), step)
        return history

    def summed(self, ops: Any, store: Rows, ids: Any, gradients: Any) -> Any:
        """The sum of an id's gradients in one of its places, and zeros in the others."""
        store.put("place", ids, ops.places(ids))
        return ops.sum_by(gradients, store.take("place", ids))

    def settle(self, ops: Any, history: Arrays, store: Rows, ids: Any, now: Any) -> None:
        """Apply the deferred steps of the rows `ids`."""

        def settled(history: Arrays, rows: tuple[Any, ...], last: Any, now: Any) -> tuple[Any, ...]:
            return self._carry(ops, history, rows, last, now)

        rows, last = self._read(store, ids)
        self._put(ops, store, ids, self._fused(ops, settled)(history, rows, last, now), last, now)

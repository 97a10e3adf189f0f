"""One table's arrays: the weights and the slots of its optimizer. They are its own, or a framework's that were bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from unhot.layouts import Shard


class Store(NamedTuple):
    """Weights, (rows, dim), and slots, each of the same shape or (rows, 1) (`Law.row_slots`), in the order of the law's row
    state; arrays of the kernels' framework.

    Its rows are numbered [first, first + rows) among those of all stores of an engine.
    """

    weights: Any
    slots: tuple[Any, ...] = ()
    first: int = 0
    turn: int = 0
    """The number of the first row among those that are settled in turn. It stays as it is in an engine in which the store goes
    on: a row whose turn came later there might rest for longer than the history reaches."""
    shard: Shard | None = None
    """Of which table the rows are some, so that each is settled when it would be if the table were in one piece."""
    room: tuple[Any, ...] = ()
    """Arrays that begin with weights and slots and have rows to spare, for more rows; nothing where there are none."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.weights.shape[0])

    @property
    def dim(self) -> int:
        """The length of a row's vector."""
        return int(self.weights.shape[1])

    @property
    def state(self) -> tuple[Any, ...]:
        """Weights and slots."""
        return self.weights, *self.slots

    @property
    def whole_rows(self) -> int:
        """The number of rows of the table of which this is a shard, or of the table."""
        return self.rows if self.shard is None else self.shard.layout.rows

    @property
    def stop(self) -> int:
        """The number after that of the last row."""
        return self.first + self.rows

    def within(self, room: Sequence[Any], rows: int) -> Store:
        """The store with the first `rows` rows of these arrays."""
        weights, *slots = (array[:rows] for array in room)
        return self._replace(weights=weights, slots=tuple(slots), room=tuple(room))

    @property
    def capacity(self) -> int:
        """The number of rows that there is room for."""
        return len(self.room[0]) if self.room else self.rows


def numbered(states: Iterable[tuple[Any, Sequence[Any]]], shards: Sequence[Shard | None] = ()) -> tuple[Store, ...]:
    """Stores of these (weights, slots), whose rows are numbered one after the other; some may be shards of tables."""
    stores = [Store(weights, tuple(slots)) for weights, slots in states]
    if shards:
        stores = [store._replace(shard=shard) for store, shard in zip(stores, shards, strict=True)]
    turns = accumulate((store.whole_rows for store in stores), initial=0)
    return tuple(store._replace(turn=turn) for store, turn in zip(renumbered(stores), turns, strict=False))


def renumbered(stores: Sequence[Store]) -> tuple[Store, ...]:
    """The stores with their rows numbered one after the other, and so those that there is room for."""
    firsts = accumulate((store.capacity for store in stores), initial=0)
    return tuple(store._replace(first=first) for store, first in zip(stores, firsts, strict=False))

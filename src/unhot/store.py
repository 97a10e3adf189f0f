"""One table's arrays: the weights and the slots of its optimizer. They are its own, or a framework's that were bound."""

from __future__ import annotations

from typing import Any, NamedTuple


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
    def stop(self) -> int:
        """The number after that of the last row."""
        return self.first + self.rows

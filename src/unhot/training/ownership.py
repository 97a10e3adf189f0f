"""The tie between a table and its owner: four states and the transitions between them, the same in every front end.

A table is trained by rows for one owner at a time, an optimizer. The table knows the tie that holds now; each owner keeps its
ties, also those that it has lost.

    regain: FREE, LOST -> SETTLED           settle: DEFERRED -> SETTLED
    lose: SETTLED, DEFERRED -> LOST         release: SETTLED, DEFERRED -> FREE

A step of the rows, which a backend makes for an owner that holds the table, leads from SETTLED or DEFERRED to DEFERRED. An
owner that is gone has released its tables.

A new owner takes a table over: the old one settles it first, hands its state over to the framework, and is LOST. If it steps
again, it takes the table back in the same way. So nothing is ever refused, and whoever trains the table continues from what the
framework's own optimizer would have left.
"""

from __future__ import annotations

import enum
import weakref
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from unhot.training.backend import Backend

B = TypeVar("B", bound=Backend)


class State(enum.Enum):
    """How a table stands with one owner."""

    FREE = "nobody's"
    SETTLED = "owned, and all rows are up to date"
    DEFERRED = "owned, and rows have steps to come"
    LOST = "another owner has taken the table over"


class Ownable(Protocol[B]):
    """A table, as the framework's parameter or variable: what can be owned."""

    ownership: Ownership[B] | None
    """The tie that holds now."""


class Ownership(Generic[B]):
    """The tie between a table and one owner, which it does not keep alive.

    As long as there is the owner, which has the table in any case, so has the tie; afterwards it only looks at it. (PyTorch
    refuses to swap a tensor that is weakly referenced.)

    Each transition first changes what the arrays hold and then, by one assignment, whose the table is. An exception between the
    two leaves a table that is settled and still the old owner's.
    """

    def __init__(self, table: Ownable[B], owner: object, backend: B) -> None:
        self._kept: Ownable[B] | None = table
        self._reference: weakref.ref[Ownable[B]] | None = None
        self._owner = weakref.ref(owner, partial(_let_go, weakref.ref(self)))
        self.backend = backend

    @property
    def table(self) -> Ownable[B] | None:
        """The table, or None once it is gone."""
        return self._kept if self._reference is None else self._reference()

    @property
    def owner(self) -> object | None:
        """The owner, or None once it is gone."""
        return self._owner()

    @property
    def holds(self) -> bool:
        """Whether the table is the owner's now."""
        table = self.table
        return table is not None and table.ownership is self

    @property
    def state(self) -> State:
        """How the table stands with this owner. It is not kept anywhere, but follows from whose the table is."""
        table = self.table
        if table is None or table.ownership is None:
            return State.FREE
        if table.ownership is not self:
            return State.LOST
        return State.DEFERRED if self.backend.has_deferred_steps() else State.SETTLED

    def settle(self) -> None:
        """DEFERRED -> SETTLED: apply all deferred steps. In any other state there are none."""
        if self.holds:
            self.backend.settle()

    def release(self) -> None:
        """SETTLED or DEFERRED -> FREE: hand everything over to the framework, and let go of the table."""
        table = self.table
        if table is not None and table.ownership is self:
            self.backend.hand_over()
            table.ownership = None

    def lose(self, taker: Ownership[B]) -> None:
        """SETTLED or DEFERRED -> LOST: hand everything over to the framework; the table is the taker's from now on."""
        table = self.table
        if table is not None and table.ownership is self:
            self.backend.hand_over()
            taker.backend.resume()
            table.ownership = taker

    def regain(self) -> None:
        """FREE or LOST -> SETTLED: take the table, from whoever has it. Of an owner that has it, nothing."""
        table = self.table
        if table is not None and table.ownership is not self:
            self._take(table)

    def _take(self, table: Ownable[B]) -> None:
        if table.ownership is not None:
            table.ownership.lose(self)
        else:
            self.backend.resume()
            table.ownership = self


def _let_go(reference: weakref.ref[Ownership[Any]], owner: object) -> None:
    """The owner of a tie is gone."""
    tie = reference()
    if tie is not None and tie._kept is not None:
        tie._reference = weakref.ref(tie._kept)
        tie._kept = None


def ownership_of(table: Ownable[B]) -> Ownership[B] | None:
    """The tie that holds for the table now, or None for a free one. An owner that is gone has released it."""
    tie = table.ownership
    if tie is not None and tie.owner is None:
        tie.release()
        return None
    return tie

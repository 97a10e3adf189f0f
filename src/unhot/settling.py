"""What an engine holds: stores, their clock, and which rows have deferred steps; and how those are applied."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import setitem
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from unhot.atomic import Call, Version, together
from unhot.clock import Clock, Hyper
from unhot.kernels import active
from unhot.kernels.structs import PendingRows, Plan, Stores
from unhot.optimizers import Optimizer
from unhot.store import Store

Array = npt.NDArray[Any]
T = TypeVar("T")

SETTLE_CHUNK = 1 << 14
"""Rows settled at a time where all are: it bounds the coefficients held at once."""

SWEEP_EVERY = 16
"""Steps from one settling of some rows in turn to the next: a call for so few rows costs more than the rows do."""


class KnownRows(NamedTuple):
    """What was found of some ids, at the given version of the engine."""

    version: int
    ids: Array
    pending: PendingRows


class Settling:
    """Stores and their clock.

    While steps are deferred, `last[row]` is the step of the row's last touch; rows for which it is behind `now` have deferred
    steps. Frozen rows have a mark of the kernels' there, so `last` also exists while there are such.
    """

    kernels: Any = active
    """What works on the rows (`unhot.kernels.structs.Kernels`)."""

    def __init__(
        self,
        stores: Sequence[Store],
        optimizer: Optimizer | None = None,
        clock: Clock | None = None,
        now: int = 0,
        kernels: Any = None,
        planned: int = 0,
    ) -> None:
        """For settled stores that have made `now` steps; `optimizer` and `clock` are those that `clock_of` gives.

        `planned` is for how many rows, if they are not those that there is room for.
        """
        if kernels is not None:
            self.kernels = kernels
        self.stores = tuple(stores)
        self.numbers = self.stores[-1].first + self.stores[-1].capacity
        """How many numbers the rows of all stores have, those that there is room for and those that have left included."""
        self.planned = planned or self.numbers
        """How many rows the history was made for."""
        self.optimizer, self.clock, self.now = optimizer, clock, now
        self.last: Array | None = None
        self.defers = False
        """Whether the steps of last touches are noted."""
        self.frozen: Array | None = None
        """The numbers of the rows that nothing changes, in rising order, or None if there are none."""
        self.has_deferred_steps = False
        self._version = Version()
        self._swept = now // SWEEP_EVERY
        self._settled_at: dict[int, int] = {}
        """The step at which all rows of a store were settled, by its place."""
        self._known: KnownRows | None = None
        self._begun: tuple[tuple[type, ...], dict[str, Any], Hyper] | None = None
        self._rows: Stores = self._made()
        if clock is not None:
            together(clock.restart(now))

    def _made(self, stores: Sequence[Store] | None = None, last: Array | None = None) -> Stores:
        """The kernels' view of the stores."""
        stores = self.stores if stores is None else stores
        last = self.last if last is None else last
        made: Stores = self.kernels.stores([store.state for store in stores], [store.first for store in stores], last)
        return made

    def _all_settled(self) -> list[Call]:
        """What begins a new history, of rows that are all settled."""
        swept = partial(setattr, self, "_swept", self.now // SWEEP_EVERY)
        calls: list[Call] = [partial(setattr, self, "has_deferred_steps", False), swept]
        if self.last is not None:
            calls += [*self._touched(self.last), *self._marked(self.last)]
        return calls + ([] if self.clock is None else self.clock.restart(self.now))

    def on(self, kernels: Any) -> None:
        """Go on with other kernels, which work on the same arrays."""
        self.kernels = kernels
        self._rows = self._made()

    def _touched(self, last: Array) -> list[Call]:
        """What notes in `last` that all rows stand at this step."""
        if sum(store.rows for store in self.stores) == self.numbers:
            return [partial(setitem, last, slice(None), self.now)]
        return [partial(setitem, last, slice(store.first, store.stop), self.now) for store in self.stores]

    def _marked(self, last: Array) -> list[Call]:
        """What marks the frozen rows in `last`."""
        return [] if self.frozen is None else [partial(setitem, last, self.frozen, self.kernels.frozen)]

    # ------------------------------------------------------------------ versions

    @property
    def version(self) -> int:
        """The number of the last change; -1 in the midst of one, as another thread may see it."""
        return self._version.number

    def _whole(self) -> int:
        """The version, unless the table was left in the midst of a change."""
        version = self._version.number
        if version < 0:
            raise RuntimeError(
                "the table was left in the midst of a step (by a process that was forked while another thread made it, or by"
                " an error such as too little memory), and its rows and clock do not belong together. Load a saved state with"
                " `load_state_dict`, or make the table anew."
            )
        return version

    def _change(self, prepare: Callable[[], list[Call]]) -> None:
        """Make the changes that `prepare` gives, prepared anew if a signal's handler has changed something meanwhile."""
        while True:
            version = self._whole()
            calls = prepare()
            if not calls or self._version.change(version, calls):
                return

    def _noting(self) -> list[Call]:
        """What begins to note the steps of last touches, of rows that are all settled."""
        last = self.kernels.steps_of(self.numbers)
        calls = [*self._touched(last), *self._marked(last)]
        return [*calls, partial(setattr, self, "last", last), partial(setattr, self, "_rows", self._made(last=last))]

    # ------------------------------------------------------------------ settling

    def settle(self, rows: Array) -> None:
        """Apply the deferred steps of the distinct `rows`."""
        self._change(partial(self._settling, rows))

    @np.errstate(all="ignore")
    def _settling(self, rows: Array) -> list[Call]:
        """What applies the deferred steps of the distinct `rows`, if there are any."""
        if not self.has_deferred_steps:
            return []
        assert self.clock is not None
        line_of_row, steps = self._rows.last_steps(rows, self.now)
        if not len(steps):
            return []
        pending = PendingRows(Plan(rows, None, None), line_of_row, self.clock.coefficients(steps))
        return self._rows.settle(self.clock.formula(), pending, self.now)

    def settle_all(self) -> None:
        """Apply all deferred steps, and begin a new history."""
        self._whole()
        if self.has_deferred_steps:
            self._settle_and(list)

    def _settle_and(self, prepare: Callable[[], list[Call]]) -> None:
        """Apply all deferred steps, begin a new history, and make the changes that `prepare` gives with it."""
        while True:
            now = self.now
            if self.has_deferred_steps:
                for place in range(len(self.stores)):
                    self._settle_rows_of(place)
            version = self._whole()
            if self.now == now and self._version.change(version, [*self._all_settled(), *prepare()]):
                return

    def settled(self, read: Callable[[], T]) -> T:
        """What `read` finds while all rows are settled."""
        while True:
            self.settle_all()
            version = self._whole()
            found = read()
            if self.version == version and not self.has_deferred_steps:
                return found

    # ------------------------------------------------------------------ single stores

    def _settle_rows_of(self, place: int) -> None:
        """Apply the deferred steps of the rows of the store at this place, some at a time."""
        store = self.stores[place]
        for start in range(store.first, store.stop, SETTLE_CHUNK):
            self.settle(self.kernels.span(start, min(start + SETTLE_CHUNK, store.stop)))

    def is_deferred(self, place: int) -> bool:
        """Whether rows of the store at this place may have deferred steps."""
        return self.has_deferred_steps and self._settled_at.get(place) != self.now

    def settle_store(self, place: int) -> None:
        """Apply the deferred steps of one store, if there are any."""
        if len(self.stores) == 1:
            self.settle_all()
            return
        while self.is_deferred(place):
            now = self.now
            self._settle_rows_of(place)
            if self.now == now:
                self._settled_at[place] = now


PLANNED_ROOM = 1 << 20
"""The most rows for which a history is made beforehand: it takes some bytes for each, and may be made anew as they come."""


def planned_for(rows: int, room: int) -> int:
    """For how many rows to make the history of a table with these rows and room for so many."""
    return min(room, max(rows, PLANNED_ROOM))


def clock_of(optimizer: Optimizer, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> tuple[Optimizer, Clock]:
    """A copy of the hyperparameters as they stand, and a new clock for tables of so many rows in all.

    `slots` names those that the tables have so far.
    """
    snapshot = copy.copy(optimizer)
    epsilon = getattr(snapshot, "epsilon", 1.0)
    if epsilon < np.finfo(dtype).tiny:
        raise ValueError(
            f"{type(optimizer).__name__}: `epsilon` must be at least {np.finfo(dtype).tiny:g} in a {dtype} table, where less"
            f" counts as 0. Received: {epsilon!r}."
        )
    return snapshot, snapshot.clock(dtype, rows, slots)

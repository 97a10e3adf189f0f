"""The engine: it looks up, steps and settles the rows of any number of stores that make the same steps.

It checks no arguments and holds no lock. Everything that belongs together is changed together (`unhot.atomic`): an exception of
a signal's handler finds a step made or not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import accumulate
from operator import setitem
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from unhot import arrays
from unhot.atomic import Call, Version, together
from unhot.clock import Clock, Hyper
from unhot.kernels import active
from unhot.kernels.structs import Bags, PendingRows, Plan, Segment, StepNumbers, Stores
from unhot.optimizers import Optimizer
from unhot.store import Store

Array = npt.NDArray[Any]
T = TypeVar("T")

SETTLE_CHUNK = 1 << 14
"""Rows settled at a time where all are: it bounds the coefficients held at once."""

SWEEP_EVERY = 16
"""Steps from one settling of some rows in turn to the next: a call for so few rows costs more than the rows do."""

UNCHANGING = frozenset({int, float, str, bool, type(None)})
"""Types of hyperparameters that are the same in the next step if they compare equal; a callable is not, nor an array."""


class Batch(NamedTuple):
    """What a step is made of."""

    ids: Array
    """Flat row numbers, of one segment after the other."""

    gradients: Sequence[Segment]

    also: Sequence[Call] = ()
    """Calls to be made together with the step."""


class KnownRows(NamedTuple):
    """What was found of some ids, at the given version of the engine."""

    version: int
    ids: Array
    pending: PendingRows


class Engine:
    """Stores that are trained by one clock; reading never writes them.

    `last[row]` is the step of the row's last touch, or None while nothing is deferred; rows for which it is behind `now`
    have deferred steps.
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
    ) -> None:
        """For settled stores that have made `now` steps; `optimizer` and `clock` are those that `clock_of` gives."""
        if kernels is not None:
            self.kernels = kernels
        self.stores = tuple(stores)
        self.rows = self.stores[-1].stop
        """The rows of all stores, and the numbers that those which have left have had."""
        self.turns_of = self.rows
        """The rows of all stores that began together, which are settled in turn."""
        self.optimizer, self.clock, self.now = optimizer, clock, now
        self.last: Array | None = None
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

    @classmethod
    def of(cls, weights: Sequence[Array], optimizer: Optimizer | None) -> Engine:
        """The engine of new tables with these weights, and with slots of their own."""
        if optimizer is None:
            return cls(numbered([(array, ()) for array in weights]))
        snapshot, clock = clock_of(optimizer, weights[0].dtype, sum(map(len, weights)))
        slots = []
        for name, start in clock.slots.items():
            shapes = [(len(array), clock.law.slot_width(name, array.shape[1])) for array in weights]
            slots.append(arrays.side_by_side(shapes, weights[0].dtype, start))
        states = ((array, tuple(slot[k] for slot in slots)) for k, array in enumerate(weights))
        return cls(numbered(states), snapshot, clock)

    def _made(self, stores: Sequence[Store] | None = None, last: Array | None = None) -> Stores:
        """The kernels' view of the stores."""
        stores = self.stores if stores is None else stores
        last = self.last if last is None else last
        made: Stores = self.kernels.stores([store.state for store in stores], [store.first for store in stores], last)
        return made

    def on(self, kernels: Any) -> None:
        """Go on with other kernels, which work on the same arrays."""
        self.kernels = kernels
        self._rows = self._made()

    def _all_settled(self) -> list[Call]:
        """What begins a new history, of rows that are all settled."""
        swept = partial(setattr, self, "_swept", self.now // SWEEP_EVERY)
        calls: list[Call] = [partial(setattr, self, "has_deferred_steps", False), swept]
        if self.last is not None:
            calls.append(partial(setitem, self.last, slice(None), self.now))
        return calls + ([] if self.clock is None else self.clock.restart(self.now))

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

    def during(self, version: int, calls: Sequence[Call]) -> bool:
        """Make calls that change nothing here together, if nothing has changed since this version; whether it was so."""
        return self._version.during(version, calls)

    # ------------------------------------------------------------------ reading

    def read(self, ids: Array, out: Sequence[Segment]) -> None:
        """Write the weights that the rows `ids` hold once their deferred steps are applied into `out`."""
        version = self._whole()
        if not self.has_deferred_steps:
            self._rows.gather(ids, out)
            return
        assert self.clock is not None
        pending = self._pending(ids, version)
        self._rows.gather_settled(self.clock.formula(), pending, out)

    def pool(self, ids: Array, bags: Sequence[Bags]) -> None:
        """Write the pooled settled weights of bags of the rows `ids`."""
        version = self._whole()
        if not self.has_deferred_steps:
            self._rows.pool(ids, bags)
            return
        assert self.clock is not None
        pending = self._pending(ids, version)
        self._rows.pool_settled(self.clock.formula(), ids, pending, bags)

    @np.errstate(all="ignore")
    def _pending(self, ids: Array, version: int) -> PendingRows:
        """What is deferred of the rows `ids`; kept, since a step mostly follows a lookup of the same ids."""
        assert self.clock is not None
        known = self._known
        if known is not None and known.version == version and self.kernels.same(known.ids, ids):
            return known.pending
        own = self.kernels.copied(ids)  # first: whoever holds the ids may change them meanwhile
        plan, line_of_row, steps = self._rows.pending(own, self.now)
        pending = PendingRows(plan, line_of_row, self.clock.coefficients(steps))
        self._known = KnownRows(version, own, pending)
        return pending

    # ------------------------------------------------------------------ writing

    def begin_step(self, optimizer: Optimizer, *, unchanged: bool = False) -> Hyper:
        """Take up the hyperparameters of the next step, which are returned; what the clock does not record settles all rows.

        `unchanged` says that they have the values that the last call saw, so that none is compared.

        Raises: those of a hyperparameter that is not usable, or that these stores cannot go on with.
        """
        self._whole()
        if unchanged and self._begun is not None:
            return self._begun[2]
        values = vars(optimizer)
        types = (type(optimizer), *map(type, values.values()))  # since True == 1, and an array equals in parts
        if self._begun is not None and self._begun[0] == types and self._begun[1] == values:
            return self._begun[2]
        self._begun = None
        for _ in range(8):
            now = self.now
            if now + 1 >= 1 << 32:
                raise OverflowError(f"a table counts its steps up to 2**32 - 1, and has made {now:,}.")
            hyper = optimizer.read(now + 1)
            if self.now == now:
                break
        else:
            raise RuntimeError("the table was stepped by its own learning rate, which may read the table, but not change it.")
        assert self.clock is not None
        optimizer.require_range(hyper, self.clock.dtype)
        self._take_up(optimizer, hyper)
        alike = all(kind in UNCHANGING for kind in types[1:]) and not self.clock.needs_settling_before(hyper)
        self._begun = (types, dict(values), hyper) if alike else None
        return hyper

    def _take_up(self, optimizer: Optimizer, hyper: Hyper) -> None:
        assert self.clock is not None
        assert self.optimizer is not None
        if type(optimizer) is not type(self.optimizer) or optimizer.fixed() != self.optimizer.fixed():
            snapshot, clock = clock_of(optimizer, self.clock.dtype, self.rows, self.clock.slots)
            self.require_follower(optimizer, clock.slots)
            clock.load_state(self.clock.state())
            swap: list[Call] = [partial(setattr, self, "optimizer", snapshot), partial(setattr, self, "clock", clock)]
            self._settle_and(lambda: [*clock.restart(self.now, hyper.momentum), *swap])
        if not self.clock.supports(hyper) or self.clock.needs_settling_before(hyper):
            going_on = self.clock
            self._settle_and(lambda: going_on.restart(self.now, hyper.momentum))

    def require_follower(self, optimizer: Optimizer, slots: Collection[str] | None = None) -> None:
        """Raise ValueError if the stores cannot go on with `optimizer`, whose slots are the given ones."""
        assert self.clock is not None
        assert self.optimizer is not None
        if not optimizer.follows(self.optimizer) or (slots is not None and list(slots) != list(self.clock.slots)):
            raise ValueError(
                f"the table was trained with {self.optimizer!r}, whose slots are {list(self.clock.slots)}, and cannot go on"
                f" with {optimizer!r}. Make a new table with `Table.from_array(table.array, optimizer=...)`."
            )

    @np.errstate(all="ignore")
    def step(self, batch: Callable[[], Batch], begin: Callable[[], Hyper]) -> None:
        """Make a step of what `batch` gives, with the hyperparameters that `begin` gives.

        Both are asked again if a signal's handler steps the stores meanwhile.
        """
        while True:
            now, hyper = self.now, begin()
            clock = self.clock
            assert clock is not None
            if self.last is None and clock.defers(hyper):
                self._change(partial(self._deferring, clock, hyper))
            self._sweep(clock)  # if the last step's was interrupted
            if clock.reopened(now + 1, hyper):
                self._change(partial(clock.reopened, now + 1, hyper))
            version = self._whole()
            if self.now == now and self._version.change(version, self._step(clock, batch(), hyper, version)):
                break
        self._sweep(clock)

    def _change(self, prepare: Callable[[], list[Call]]) -> None:
        """Make the changes that `prepare` gives, prepared anew if a signal's handler has changed something meanwhile."""
        while True:
            version = self._whole()
            calls = prepare()
            if not calls or self._version.change(version, calls):
                return

    def _deferring(self, clock: Clock, hyper: Hyper) -> list[Call]:
        """What begins to note the steps of last touches."""
        last = self.kernels.steps_of(self.rows, self.now)
        return [
            partial(setattr, self, "last", last),
            partial(setattr, self, "_rows", self._made(last=last)),
            partial(setattr, self, "_swept", self.now // SWEEP_EVERY),
            *clock.restart(self.now, hyper.momentum),
        ]

    def _step(self, clock: Clock, batch: Batch, hyper: Hyper, version: int) -> list[Call]:
        """What makes a step: rows, history and number."""
        ids, gradients, also = batch
        now = self.now + 1
        step, formula = StepNumbers(now, clock.scalars(now, hyper)), clock.formula()
        counted = partial(setattr, self, "now", now)
        if self.last is None:
            return [*self._rows.step(formula, self.kernels.group(ids), None, step, gradients), counted, *also]
        pending = self._pending(ids, version)
        rows = self._rows.step(formula, pending.plan, pending, step, gradients)
        return [*rows, *clock.advance(now, hyper), counted, partial(setattr, self, "has_deferred_steps", True), *also]

    def _sweep(self, clock: Clock) -> None:
        """Settle the rows whose turn it is: each once in a period, so that the history may forget older steps.

        The turn of a row follows from the number that it had at the start, and stays the same wherever its store goes on.
        """
        due = self.now // SWEEP_EVERY
        if self.last is None or due == self._swept:
            return
        rows, turns = self.turns_of, clock.period // SWEEP_EVERY
        start, stop = rows * (due % turns) // turns, rows * (due % turns + 1) // turns
        for store in self.stores:
            begin, end = max(start, store.turn), min(stop, store.turn + store.rows)
            if begin < end:
                self.settle(self.kernels.span(begin - store.turn + store.first, end - store.turn + store.first))
        self._swept = due

    def _settle_span(self, start: int, stop: int) -> None:
        """Settle the rows from `start` to `stop` (excluded) that there are."""
        for store in self.stores:
            if max(start, store.first) < min(stop, store.stop):
                self.settle(self.kernels.span(max(start, store.first), min(stop, store.stop)))

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
                for start in range(0, self.rows, SETTLE_CHUNK):
                    self._settle_span(start, min(start + SETTLE_CHUNK, self.rows))
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

    def is_deferred(self, place: int) -> bool:
        """Whether rows of the store at this place may have deferred steps."""
        return self.has_deferred_steps and self._settled_at.get(place) != self.now

    def settle_store(self, place: int) -> None:
        """Apply the deferred steps of one store, if there are any."""
        if len(self.stores) == 1:
            self.settle_all()
            return
        while self.is_deferred(place):
            now, store = self.now, self.stores[place]
            for start in range(store.first, store.stop, SETTLE_CHUNK):
                self._settle_span(start, min(start + SETTLE_CHUNK, store.stop))
            if self.now == now:
                self._settled_at[place] = now

    def leave(self, places: Collection[int]) -> list[Call]:
        """What takes the stores at these places out. The others keep their places and numbers."""
        left = [self._emptied(store) if place in places else store for place, store in enumerate(self.stores)]
        return [partial(setattr, self, "stores", tuple(left)), partial(setattr, self, "_rows", self._made(left))]

    def _emptied(self, store: Store) -> Store:
        """What stands in the place of a store that has left: no rows, and no view that keeps those in memory."""
        weights, *slots = (self.kernels.copied(array[:0]) for array in store.state)
        return store._replace(weights=weights, slots=tuple(slots))

    def apart(self, places: Sequence[int]) -> Engine:
        """An engine for the stores at these places, with a copy of the clock: they go on from where they are on their own.

        This engine is unchanged: make the calls of `leave` together with those that put the other in its place.
        """
        self._whole()
        assert self.optimizer is not None
        states = [(self.stores[place].weights, self.stores[place].slots) for place in places]
        memo: dict[int, Any] = {}
        optimizer, clock = copy.deepcopy((self.optimizer, self.clock), memo)
        made = Engine.__new__(Engine)
        made.__dict__.update(self.__dict__)
        turns = [self.stores[place].turn for place in places]
        made.stores = tuple(store._replace(turn=turn) for store, turn in zip(numbered(states), turns, strict=True))
        made.rows = made.stores[-1].stop
        made.optimizer, made.clock = optimizer, clock
        made._version, made._known, made._begun, made._settled_at = Version(), None, None, {}
        if self.last is not None:
            spans = [self.last[self.stores[place].first : self.stores[place].stop] for place in places]
            made.last = np.concatenate(spans)
        made._rows = made._made()
        return made

    # ------------------------------------------------------------------ copies

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None, "_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # What was unpickled may be read-only, and lies anywhere.
        self.stores = tuple(store._replace(**_own(store)) for store in self.stores)
        self.last = None if self.last is None else self.last.copy()
        self._rows = self._made()


def _own(store: Store) -> dict[str, Any]:
    """The arrays of a store, copied."""
    weights, *slots = (arrays.copied(array, array.dtype) for array in store.state)
    return {"weights": weights, "slots": tuple(slots)}


def numbered(states: Any) -> tuple[Store, ...]:
    """Stores of these (weights, slots), whose rows are numbered one after the other."""
    states = list(states)
    firsts = accumulate((len(weights) for weights, _ in states[:-1]), initial=0)
    return tuple(Store(weights, tuple(slots), first, first) for (weights, slots), first in zip(states, firsts, strict=True))


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

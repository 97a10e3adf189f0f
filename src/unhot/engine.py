"""The engine of a table: weights, slots and clock, and what reads and writes them.  It checks no arguments, holds no lock.

Everything that belongs together is changed together (`atomic`): an exception of a signal's handler finds a step made or not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import setitem
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from unhot import arrays
from unhot.atomic import Call, Version, together
from unhot.clock import Clock, Hyper
from unhot.kernels import active
from unhot.kernels.plan import Plan
from unhot.optimizers import Optimizer

Array = npt.NDArray[Any]
T = TypeVar("T")
Batch = tuple[Array, Array, Sequence[Call]]

SETTLE_CHUNK = 1 << 14
"""Rows settled at a time where all are: it bounds the coefficients held at once."""

SWEEP_EVERY = 16
"""Steps from one settling of some rows in turn to the next: a call for so few rows costs more than the rows do."""

UNCHANGING = frozenset({int, float, str, bool, type(None)})
"""Types of hyperparameters that are the same in the next step if they compare equal; a callable is not, nor an array."""


class Lateness(NamedTuple):
    """What is deferred of the rows that some ids name, as found at the given version of the table."""

    version: int
    ids: Array
    plan: Plan
    which: Array
    coefficients: Array


class Engine:
    """Weights and slots, each (rows, dim), trained by one rule; reading never writes them.

    `last[row]` is the step of the row's last touch, or None while nothing is deferred; rows for which it is behind `clock`
    have deferred steps.
    """

    kernels: Any = active
    """What works on the rows: the kernels for NumPy arrays, or a framework's operations for its own."""

    def __init__(self, weights: Array, optimizer: Optimizer | None, kernels: Any = None) -> None:
        self.weights = weights
        if kernels is not None:
            self.kernels = kernels
        self.clock = 0
        self.rule: Clock | None = None
        self.slots: list[Array] = []
        self.last: Array | None = None
        self.behind = False
        self._version = Version()
        self._swept = 0
        self._looked_up: Lateness | None = None
        self._followed: tuple[tuple[type, ...], dict[str, Any], Hyper] | None = None
        if optimizer is not None:
            self._snapshot, self.rule = clock_of(optimizer, weights.dtype, len(weights))
            self.slots = [arrays.full(weights.shape, weights.dtype, start) for start in self.rule.slots.values()]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        rows, dim = self.weights.shape
        return int(rows), int(dim)

    @property
    def state(self) -> list[Array]:
        """Weights and slots, in the order of the rule's row state."""
        return [self.weights, *self.slots]

    @classmethod
    def resumed(
        cls,
        weights: Array,
        slots: list[Array],
        clock: int,
        optimizer: Optimizer | None = None,
        rule: Clock | None = None,
        kernels: Any = None,
    ) -> Engine:
        """The engine of a settled table with this state, trained by these hyperparameters and their `rule`."""
        engine = cls(weights, None, kernels)
        engine.slots, engine.clock = slots, clock
        if optimizer is not None and rule is not None:
            engine._snapshot, engine.rule = optimizer, rule
        together(engine._all_settled())
        return engine

    def _all_settled(self) -> list[Call]:
        """What begins a new history, of rows that are all settled."""
        calls: list[Call] = [partial(setattr, self, "behind", False), self._sweeps_begin()]
        if self.last is not None:
            calls.append(partial(setitem, self.last, slice(None), self.clock))
        return calls + ([] if self.rule is None else self.rule.restart(self.clock))

    def _sweeps_begin(self) -> Call:
        return partial(setattr, self, "_swept", self.clock // SWEEP_EVERY)

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

    # ------------------------------------------------------------------ reading

    def read(self, ids: Array, out: Array) -> None:
        """out[i] = the weights that row ids[i] holds once its deferred steps are applied."""
        version = self._whole()
        if not self.behind:
            self.kernels.gather(self.weights, ids, out)
            return
        assert self.rule is not None
        late = self._lateness(ids, version)
        self.kernels.gather_settled(self.rule, self.state, late.plan, late.which, late.coefficients, out)

    def pool(self, ids: Array, starts: Array, factors: Array | None, mode: str, out: Array) -> None:
        """out[b] = the pooled settled weights of the bag ids[starts[b]:starts[b + 1]]."""
        version = self._whole()
        values = self.weights
        if self.behind:
            assert self.rule is not None
            late = self._lateness(ids, version)
            count = len(late.plan.rows)
            values = np.empty((count, values.shape[1]), values.dtype)
            once = Plan(late.plan.rows, np.arange(count), np.arange(count + 1))
            self.kernels.gather_settled(self.rule, self.state, once, late.which, late.coefficients, values)
            ids = np.empty(len(ids), np.int64)
            ids[late.plan.order] = np.repeat(np.arange(count), np.diff(late.plan.starts))
        self.kernels.pool(values, ids, starts, factors, mode, out)

    @np.errstate(all="ignore")
    def _lateness(self, ids: Array, version: int) -> Lateness:
        """What is deferred of the rows `ids`; kept, since a step mostly follows a lookup of the same ids."""
        assert self.rule is not None
        assert self.last is not None
        known = self._looked_up
        if known is not None and known.version == version and self.kernels.same(known.ids, ids):
            return known
        own = self.kernels.copied(ids)  # first: whoever holds the ids may change them meanwhile
        plan = self.kernels.group(own, self.last)
        steps, which = self.kernels.last_steps(self.last, plan.rows, self.clock)
        late = Lateness(version, own, plan, which, self.rule.coefficients(steps))
        self._looked_up = late
        return late

    # ------------------------------------------------------------------ writing

    def follow(self, optimizer: Optimizer, *, unchanged: bool = False) -> Hyper:
        """Take up the hyperparameters of the next step, which are returned; what the clock does not record settles all rows.

        `unchanged` says that they have the values that the last call saw, so that none is compared.

        Raises: those of a hyperparameter that is not usable, or that this table cannot go on with.
        """
        self._whole()
        if unchanged and self._followed is not None:
            return self._followed[2]
        values = vars(optimizer)
        types = (type(optimizer), *map(type, values.values()))  # since True == 1, and an array equals in parts
        if self._followed is not None and self._followed[0] == types and self._followed[1] == values:
            return self._followed[2]
        self._followed = None
        for _ in range(8):
            clock = self.clock
            if clock + 1 >= 1 << 32:
                raise OverflowError(f"a table counts its steps up to 2**32 - 1, and has made {clock:,}.")
            hyper = optimizer.read(clock + 1)
            if self.clock == clock:
                break
        else:
            raise RuntimeError("the table was stepped by its own learning rate, which may read the table, but not change it.")
        assert self.rule is not None
        optimizer.require_range(hyper, self.rule.dtype)
        self._take_up(optimizer, hyper)
        alike = all(kind in UNCHANGING for kind in types[1:]) and not self.rule.needs_settling_before(hyper)
        self._followed = (types, dict(values), hyper) if alike else None
        return hyper

    def _take_up(self, optimizer: Optimizer, hyper: Hyper) -> None:
        assert self.rule is not None
        if type(optimizer) is not type(self._snapshot) or optimizer.fixed() != self._snapshot.fixed():
            snapshot, rule = clock_of(optimizer, self.rule.dtype, len(self.weights), self.rule.slots)
            self.require_follower(optimizer, rule.slots)
            rule.load_state(self.rule.state())
            swap: list[Call] = [partial(setattr, self, "_snapshot", snapshot), partial(setattr, self, "rule", rule)]
            self._settle_and(lambda: [*rule.restart(self.clock, hyper.momentum), *swap])
        if not self.rule.supports(hyper) or self.rule.needs_settling_before(hyper):
            going_on = self.rule
            self._settle_and(lambda: going_on.restart(self.clock, hyper.momentum))

    def require_follower(self, optimizer: Optimizer, slots: Collection[str] | None = None) -> None:
        """Raise ValueError if the table cannot go on with `optimizer`, whose slots are the given ones."""
        assert self.rule is not None
        if not optimizer.follows(self._snapshot) or (slots is not None and list(slots) != list(self.rule.slots)):
            raise ValueError(
                f"the table was trained with {self._snapshot!r}, whose slots are {list(self.rule.slots)}, and cannot go on"
                f" with {optimizer!r}. Make a new table with `Table.from_array(table.array, optimizer=...)`."
            )

    @np.errstate(all="ignore")
    def step(self, batch: Callable[[], Batch], follow: Callable[[], Hyper]) -> None:
        """Make a step of what `batch` gives: flat ids, (n, dim) gradients, and the calls to be made together with it.

        `follow` gives the step's hyperparameters.  Both are asked again if a signal's handler steps the table meanwhile.
        """
        while True:
            clock, hyper = self.clock, follow()
            rule = self.rule
            assert rule is not None
            if self.last is None and rule.defers(hyper):
                self._change(partial(self._deferring, rule, hyper))
            self._sweep(rule)  # if the last step's was interrupted
            if rule.reopened(clock + 1, hyper):
                self._change(partial(rule.reopened, clock + 1, hyper))
            version = self._whole()
            if self.clock == clock and self._version.change(version, self._step(rule, batch(), hyper, version)):
                break
        self._sweep(rule)

    def _change(self, prepare: Callable[[], list[Call]]) -> None:
        """Make the changes that `prepare` gives, prepared anew if a signal's handler has changed the table meanwhile."""
        while True:
            version = self._whole()
            calls = prepare()
            if not calls or self._version.change(version, calls):
                return

    def _deferring(self, rule: Clock, hyper: Hyper) -> list[Call]:
        """What begins to note the steps of last touches."""
        last = self.kernels.clocks(len(self.weights), self.clock)
        return [partial(setattr, self, "last", last), self._sweeps_begin(), *rule.restart(self.clock, hyper.momentum)]

    def _step(self, rule: Clock, batch: Batch, hyper: Hyper, version: int) -> list[Call]:
        """What makes a step: rows, history and clock."""
        ids, gradients, also = batch
        now = self.clock + 1
        scalars = rule.scalars(now, hyper)
        clock = partial(setattr, self, "clock", now)
        if self.last is None:
            plan = self.kernels.group(ids)
            rows = self.kernels.step(rule, self.state, None, plan, None, scalars[:0], scalars, gradients, now)
            return [*rows, clock, *also]
        _, _, plan, which, coefficients = self._lateness(ids, version)
        rows = self.kernels.step(rule, self.state, self.last, plan, which, coefficients, scalars, gradients, now)
        return [*rows, *rule.advance(now, hyper), clock, partial(setattr, self, "behind", True), *also]

    def _sweep(self, rule: Clock) -> None:
        """Settle the rows whose turn it is: each once in a period, so that the history may forget older steps."""
        due = self.clock // SWEEP_EVERY
        if self.last is None or due == self._swept:
            return
        rows, turns = len(self.weights), rule.period // SWEEP_EVERY
        start, stop = rows * (due % turns) // turns, rows * (due % turns + 1) // turns
        if start < stop:
            self.settle(self.kernels.span(start, stop))
        self._swept = due

    def settle(self, rows: Array) -> None:
        """Apply the deferred steps of the distinct `rows`."""
        self._change(partial(self._settling, rows))

    @np.errstate(all="ignore")
    def _settling(self, rows: Array) -> list[Call]:
        """What applies the deferred steps of the distinct `rows`, if there are any."""
        if not self.behind:
            return []
        assert self.rule is not None
        assert self.last is not None
        steps, which = self.kernels.last_steps(self.last, rows, self.clock)
        if not len(steps):
            return []
        calls: list[Call] = self.kernels.settle(
            self.rule, self.state, self.last, rows, which, self.rule.coefficients(steps), self.clock
        )
        return calls

    def settle_all(self) -> None:
        """Apply all deferred steps, and begin a new history."""
        self._whole()
        if self.behind:
            self._settle_and(list)

    def _settle_and(self, prepare: Callable[[], list[Call]]) -> None:
        """Apply all deferred steps, begin a new history, and make the changes that `prepare` gives with it."""
        while True:
            clock = self.clock
            if self.behind:
                for start in range(0, len(self.weights), SETTLE_CHUNK):
                    self.settle(self.kernels.span(start, min(start + SETTLE_CHUNK, len(self.weights))))
            version = self._whole()
            if self.clock == clock and self._version.change(version, [*self._all_settled(), *prepare()]):
                return

    def settled(self, read: Callable[[], T]) -> T:
        """What `read` finds while all rows are settled."""
        while True:
            self.settle_all()
            version = self._whole()
            found = read()
            if self.version == version and not self.behind:
                return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_looked_up": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # What was unpickled may be read-only, and lies anywhere.
        self.weights = arrays.copied(self.weights, self.weights.dtype)
        self.slots = [arrays.copied(slot, slot.dtype) for slot in self.slots]
        self.last = None if self.last is None else self.last.copy()


def clock_of(optimizer: Optimizer, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> tuple[Optimizer, Clock]:
    """A copy of the hyperparameters as they stand, and a new clock for tables of so many rows in all.

    `slots` names those that the table has so far.
    """
    snapshot = copy.copy(optimizer)
    epsilon = getattr(snapshot, "epsilon", 1.0)
    if epsilon < np.finfo(dtype).tiny:
        raise ValueError(
            f"{type(optimizer).__name__}: `epsilon` must be at least {np.finfo(dtype).tiny:g} in a {dtype} table, where less"
            f" counts as 0. Received: {epsilon!r}."
        )
    return snapshot, snapshot.clock(dtype, rows, slots)

"""The engine of a table: weights, slots and clock, and what reads and writes them.  It checks no arguments, holds no lock."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot import arrays
from unhot.kernels import active
from unhot.kernels.plan import Plan
from unhot.rules import Hyper, Optimizer, Recurrence

Array = npt.NDArray[Any]

SETTLE_CHUNK = 1 << 14
"""Rows settled at a time where all are: it bounds the coefficients held at once."""

SWEEP_EVERY = 16
"""Steps from one settling of some rows in turn to the next: a call for so few rows costs more than the rows do."""

UNCHANGING = frozenset({int, float, str, bool, type(None)})
"""Types of hyperparameters that are the same in the next step if they compare equal; a callable is not, nor an array."""


class Lateness(NamedTuple):
    """What is deferred of the rows that some ids name, as found after the given number of writes."""

    writes: int
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
        self.rule: Recurrence | None = None
        self.slots: list[Array] = []
        self.last: Array | None = None
        self.behind = False
        self._writes = 0
        self._interrupted = False
        self._looked_up: Lateness | None = None
        self._followed: tuple[tuple[type, ...], dict[str, Any], Hyper] | None = None
        if optimizer is not None:
            self._snapshot, self.rule = recurrence(optimizer, weights.dtype, len(weights))
            self.slots = [arrays.full(weights.shape, weights.dtype, start) for start in self.rule.slots.values()]

    @property
    def state(self) -> list[Array]:
        """Weights and slots, in the order of the rule's row state."""
        return [self.weights, *self.slots]

    def adopt(
        self, weights: Array, slots: list[Array], clock: int, optimizer: Optimizer | None = None, rule: Recurrence | None = None
    ) -> None:
        """Become a settled table with this state, trained by these hyperparameters and their `rule`."""
        self.weights, self.slots, self.clock = weights, slots, clock
        self._followed = None
        self._interrupted = False
        if optimizer is not None:
            self._snapshot, self.rule = optimizer, rule
        self._all_settled()

    def _all_settled(self) -> None:
        self.behind = False
        self._writes += 1
        if self.last is not None:
            self.last[:] = self.clock
        if self.rule is not None:
            self.rule.restart(self.clock)

    # ------------------------------------------------------------------ reading

    def _refuse_interrupted(self) -> None:
        """Rows and clock belong together, but for a table that was left in the midst of changing both."""
        if self._interrupted:
            raise RuntimeError(
                "the table was interrupted (by a signal, say) in the midst of a step, and its rows and clock no longer belong"
                " together. Load a saved state with `load_state_dict`, or make the table anew."
            )

    def read(self, ids: Array, out: Array) -> None:
        """out[i] = the weights that row ids[i] holds once its deferred steps are applied."""
        self._refuse_interrupted()
        if not self.behind:
            self.kernels.gather(self.weights, ids, out)
            return
        assert self.rule is not None
        late = self._lateness(ids)
        self.kernels.gather_settled(self.rule, self.state, late.plan, late.which, late.coefficients, out)

    def pool(self, ids: Array, starts: Array, factors: Array | None, mode: str, out: Array) -> None:
        """out[b] = the pooled settled weights of the bag ids[starts[b]:starts[b + 1]]."""
        self._refuse_interrupted()
        values = self.weights
        if self.behind:
            assert self.rule is not None
            late = self._lateness(ids)
            count = len(late.plan.rows)
            values = np.empty((count, values.shape[1]), values.dtype)
            once = Plan(late.plan.rows, np.arange(count), np.arange(count + 1))
            self.kernels.gather_settled(self.rule, self.state, once, late.which, late.coefficients, values)
            ids = np.empty(len(ids), np.int64)
            ids[late.plan.order] = np.repeat(np.arange(count), np.diff(late.plan.starts))
        self.kernels.pool(values, ids, starts, factors, mode, out)

    def _lateness(self, ids: Array) -> Lateness:
        """What is deferred of the rows `ids`; kept, since a step mostly follows a lookup of the same ids."""
        assert self.rule is not None
        assert self.last is not None
        known = self._looked_up
        if known is not None and known.writes == self._writes and self.kernels.same(known.ids, ids):
            return known
        plan = self.kernels.group(ids, self.last)
        steps, which = self.kernels.last_steps(self.last, plan.rows, self.clock)
        late = Lateness(self._writes, self.kernels.copied(ids), plan, which, self.rule.coefficients(steps))
        self._looked_up = late
        return late

    # ------------------------------------------------------------------ writing

    def follow(self, optimizer: Optimizer, *, unchanged: bool = False) -> Hyper:
        """Take up the hyperparameters of the next step, which are returned; what the clock does not record settles all rows.

        `unchanged` says that they have the values that the last call saw, so that none is compared.

        Errors: those of a hyperparameter that is not usable, or that this table cannot go on with.
        """
        self._refuse_interrupted()
        if unchanged and self._followed is not None:
            return self._followed[2]
        values = vars(optimizer)
        types = (type(optimizer), *map(type, values.values()))  # since True == 1, and an array equals in parts
        if self._followed is not None and self._followed[0] == types and self._followed[1] == values:
            return self._followed[2]
        if self.clock + 1 >= 1 << 32:
            raise OverflowError(f"a table counts its steps up to 2**32 - 1, and has made {self.clock:,}.")
        hyper = optimizer.read(self.clock + 1)
        self._take_up(optimizer, hyper)
        assert self.rule is not None
        alike = all(kind in UNCHANGING for kind in types[1:]) and not self.rule.grows(hyper)
        self._followed = (types, dict(values), hyper) if alike else None
        return hyper

    def _take_up(self, optimizer: Optimizer, hyper: Hyper) -> None:
        assert self.rule is not None
        if type(optimizer) is not type(self._snapshot) or optimizer.fixed() != self._snapshot.fixed():
            snapshot, rule = recurrence(optimizer, self.rule.dtype, len(self.weights), self.rule.slots)
            self.require_follower(optimizer, rule.slots)
            rule.load_state(self.rule.state())
            rule.restart(self.clock, hyper.momentum)
            self.settle_all()
            self._snapshot, self.rule = snapshot, rule
        if not self.rule.accepts(hyper) or self.rule.grows(hyper):
            self.settle_all()
            self.rule.restart(self.clock, hyper.momentum)

    def require_follower(self, optimizer: Optimizer, slots: Collection[str] | None = None) -> None:
        """Raise ValueError if the table cannot go on with `optimizer`, whose slots are the given ones."""
        assert self.rule is not None
        if not optimizer.follows(self._snapshot) or (slots is not None and list(slots) != list(self.rule.slots)):
            raise ValueError(
                f"the table was trained with {self._snapshot!r}, whose slots are {list(self.rule.slots)}, and cannot go on"
                f" with {optimizer!r}. Make a new table with `Table.from_array(table.array, optimizer=...)`."
            )

    def step(self, ids: Array, gradients: Array, hyper: Hyper) -> None:
        """Make the step whose flat ids, (n, dim) gradients and hyperparameters are known to be good."""
        rule, now = self.rule, self.clock + 1
        assert rule is not None
        if self.last is None and rule.defers(hyper):
            self.last = self.kernels.clocks(len(self.weights), self.clock)
            rule.restart(self.clock, hyper.momentum)
        scalars = rule.scalars(now, hyper)
        which: Array | None = None
        if self.last is None:
            plan, coefficients = self.kernels.group(ids), scalars[:0]
        else:
            _, _, plan, which, coefficients = self._lateness(ids)
        # From here to the end of `_record` rows and clock change, one after the other.
        self._writes += 1
        self._interrupted = True
        try:
            self.kernels.step(rule, self.state, self.last, plan, which, coefficients, scalars, gradients, now)
        except BaseException as error:
            # What a signal's handler raises comes right after the kernel, whose work is then done.
            if self._has_made(now, plan.rows, error):
                self._record(now, hyper)
            self._interrupted = False
            raise
        self._record(now, hyper)
        self._interrupted = False
        if self.last is not None:
            self._sweep(rule.period)

    def _has_made(self, now: int, rows: Array, error: BaseException) -> bool:
        """Whether the kernel that ended with `error` has made the step."""
        if self.last is None:
            return not isinstance(error, Exception)
        return bool(len(rows)) and int(self.last[rows[0]]) == now

    def _record(self, now: int, hyper: Hyper) -> None:
        """Write the step that was made into the history and the clock."""
        assert self.rule is not None
        if self.last is not None:
            self.rule.advance(now, hyper)
            self.behind = True
        self.clock = now

    def _sweep(self, period: int) -> None:
        """Settle the rows whose turn it is: each once in `period` steps, so that the history may forget older ones."""
        if self.clock % SWEEP_EVERY:
            return
        rows, turns = len(self.weights), period // SWEEP_EVERY
        turn = self.clock // SWEEP_EVERY % turns
        start, stop = rows * turn // turns, rows * (turn + 1) // turns
        if start < stop:
            self.settle(self.kernels.span(start, stop))

    def settle(self, rows: Array) -> None:
        """Apply the deferred steps of the distinct `rows`."""
        self._refuse_interrupted()
        if not self.behind:
            return
        assert self.rule is not None
        assert self.last is not None
        steps, which = self.kernels.last_steps(self.last, rows, self.clock)
        if len(steps):
            self._writes += 1  # before: what was looked up no longer holds once the kernel has begun
            self.kernels.settle(self.rule, self.state, self.last, rows, which, self.rule.coefficients(steps), self.clock)

    def settle_all(self) -> None:
        """Apply all deferred steps, and begin a new history."""
        self._refuse_interrupted()
        if self.behind:
            for start in range(0, len(self.weights), SETTLE_CHUNK):
                self.settle(self.kernels.span(start, min(start + SETTLE_CHUNK, len(self.weights))))
            self._all_settled()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_looked_up": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # What was unpickled may be read-only, and lies anywhere.
        self.weights = arrays.copied(self.weights, self.weights.dtype)
        self.slots = [arrays.copied(slot, slot.dtype) for slot in self.slots]
        self.last = None if self.last is None else self.last.copy()


def recurrence(
    optimizer: Optimizer, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()
) -> tuple[Optimizer, Recurrence]:
    """A copy of the hyperparameters as they stand, and the recurrence that follows them in a table of so many rows.

    `slots` names those that the table has so far.
    """
    snapshot = copy.copy(optimizer)
    epsilon = getattr(snapshot, "epsilon", 1.0)
    if epsilon < np.finfo(dtype).tiny:
        raise ValueError(
            f"{type(optimizer).__name__}: `epsilon` must be at least {np.finfo(dtype).tiny:g} in a {dtype} table, where less"
            f" counts as 0. Received: {epsilon!r}."
        )
    return snapshot, snapshot.recurrence(dtype, rows, slots)

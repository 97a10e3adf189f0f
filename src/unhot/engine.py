"""The engine: it looks up, steps and settles the rows of any number of stores that make the same steps.

It checks no arguments and holds no lock. Everything that belongs together is changed together (`unhot.atomic`): an exception of
a signal's handler finds a step made or not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from unhot.atomic import Call
from unhot.clock import Clock, Hyper
from unhot.kernels.structs import Bags, PendingRows, Segment, StepNumbers
from unhot.membership import Membership
from unhot.optimizers import Optimizer
from unhot.settling import SWEEP_EVERY, Array, KnownRows, clock_of

MOST_STEPS = (1 << 32) - 1
"""The number of a step is below: this one marks frozen rows."""

SWEPT_TOGETHER = 32
"""Rows that follow each other and are settled at the same turn; what comes after them is settled at the next."""

UNCHANGING = frozenset({int, float, str, bool, type(None)})
"""Types of hyperparameters that are the same in the next step if they compare equal; a callable is not, nor an array."""


class Batch(NamedTuple):
    """What a step is made of."""

    ids: Array
    """Flat row numbers, of one segment after the other."""

    gradients: Sequence[Segment]

    also: Sequence[Call] = ()
    """Calls to be made together with the step."""


class Engine(Membership):
    """Stores that are trained by one clock; reading never writes them."""

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

    def _pending(self, ids: Array, version: int) -> PendingRows:
        """What is deferred of the rows `ids`; kept, since a step mostly follows a lookup of the same ids."""
        known = self._known
        if known is not None and known.version == version and self.kernels.same(known.ids, ids):
            return known.pending
        return self._found(ids, version)

    def _found(self, ids: Array, version: int) -> PendingRows:
        """The same, of ids that the last call did not have."""
        assert self.clock is not None
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
            if now + 1 >= MOST_STEPS:
                raise OverflowError(f"a table counts its steps up to 2**32 - 2, and has made {now:,}.")
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
            snapshot, clock = clock_of(optimizer, self.clock.dtype, self.planned, self.clock.slots)
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
            if not self.defers and clock.defers(hyper):
                self._change(partial(self._deferring, clock, hyper))
            self._sweep(clock)  # if the last step's was interrupted
            if clock.reopened(now + 1, hyper):
                self._change(partial(clock.reopened, now + 1, hyper))
            version = self._whole()
            if self.now == now and self._version.change(version, self._step(clock, batch(), hyper, version)):
                break
        self._sweep(clock)

    def _deferring(self, clock: Clock, hyper: Hyper) -> list[Call]:
        """What begins to note the steps of last touches."""
        return [
            *self._noting(),
            partial(setattr, self, "defers", True),
            partial(setattr, self, "_swept", self.now // SWEEP_EVERY),
            *clock.restart(self.now, hyper.momentum),
        ]

    def _step(self, clock: Clock, batch: Batch, hyper: Hyper, version: int) -> list[Call]:
        """What makes a step: rows, history and number."""
        ids, gradients, also = batch
        now = self.now + 1
        step, formula = StepNumbers(now, clock.scalars(now, hyper)), clock.formula()
        counted = partial(setattr, self, "now", now)
        if not self.defers:
            return [*self._rows.step(formula, self.kernels.group(ids), None, step, gradients), counted, *also]
        pending = self._pending(ids, version)
        rows = self._rows.step(formula, pending.plan, pending, step, gradients)
        return [*rows, *clock.advance(now, hyper), counted, partial(setattr, self, "has_deferred_steps", True), *also]

    def _sweep(self, clock: Clock) -> None:
        """Settle the rows whose turn it is: each once in a period, so that the history may forget older steps.

        The turn of a row follows from the number that it had at the start, and stays the same wherever its store goes on.
        """
        due = self.now // SWEEP_EVERY
        if not self.defers or due == self._swept:
            return
        rows = self._due(due, clock.period // SWEEP_EVERY)
        if rows:
            self.settle(self.kernels.joined(rows))
        self._swept = due

    def _due(self, due: int, turns: int) -> list[Array]:
        """The rows whose turn it is, a few that follow each other of every `turns` times as many, also of a table's shards."""
        found = []
        for store in self.stores:
            block = store.turn // SWEPT_TOGETHER  # the first one, whose rows may be another store's in part
            first = (block + (due - block) % turns) * SWEPT_TOGETHER - store.turn
            if first < store.whole_rows:
                spread = self.kernels.spread(first, store.whole_rows, SWEPT_TOGETHER, turns * SWEPT_TOGETHER)
                found.append((spread if store.shard is None else store.shard.own(spread)) + store.first)
        return found

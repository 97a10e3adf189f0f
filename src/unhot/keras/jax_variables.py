"""The variables of tables on JAX, and of their slots: those of an owned table hold what `jax_value` has, and show arrays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import keras
import numpy as np

from unhot.jax.operations import into_large_pages
from unhot.keras._private import have_trainer_fetch, raw, set_raw, stateless_scope
from unhot.keras.jax_training import TableTraining
from unhot.keras.jax_value import SettledView, SlotValue, TableValue
from unhot.keras.kinds import Tensor
from unhot.training import Ownership, ownership_of

_local = threading.local()


@contextmanager
def _while(name: str) -> Iterator[None]:
    before = _is(name)
    setattr(_local, name, True)
    try:
        yield
    finally:
        setattr(_local, name, before)


def _is(name: str) -> bool:
    return getattr(_local, name, False)


def for_steps() -> AbstractContextManager[None]:
    """While values are fetched for functions that make steps, as Keras's trainer does: those of tables are for them alone."""
    return _while("fetching")


have_trainer_fetch(for_steps)


def a_step() -> AbstractContextManager[None]:
    """While an optimizer of this package makes a step: slots show their arrays, and weights are written by their owner."""
    return _while("stepping")


def _held(variable: Tensor) -> Tensor:
    """What the variable holds: in a stateless scope, what that has for it."""
    scope = stateless_scope()
    value = None if scope is None else scope.get_current_value(variable)
    if value is None:
        return raw(variable)
    if tuple(value.shape) != variable.shape:
        raise ValueError(
            f"{variable.path} has the shape {variable.shape}, and the value that was given for it {tuple(value.shape)}. Take"
            " the values of the variables anew after rows were added."
        )
    return value


class _Variable(keras.Variable):  # type: ignore[misc]
    """What variables of tables and of slots have in common."""

    def __array__(self, dtype: Tensor = None, copy: bool | None = None) -> Tensor:
        return np.array(self.value, dtype=dtype) if copy else np.asarray(self.value, dtype=dtype)

    def hold(self, value: Tensor) -> Tensor:
        """Let the variable hold the value, as `Variable.assign` does."""
        scope = stateless_scope()
        if scope is None:
            self._value = value
        else:
            scope.add_update((self, value))
        return value

    def __getstate__(self) -> dict[str, Tensor]:
        """That of a copy, whose table is nobody's."""
        nobody = dict.fromkeys(("ownership", "training", "before", "late", "abandoned"))
        return {**vars(self), "_value": self.value, **nobody}

    def _as_array(self, value: Tensor) -> Tensor:
        """The value as an array of the variable's shape and dtype, or Keras's error."""
        array = self._convert_to_tensor(value.todense() if isinstance(value, SettledView) else value, dtype=self._dtype)
        if array.shape != self.shape:
            super().assign(array)  # raises
        return array


class TableVariable(_Variable):
    """The variable of a table.

    While an optimizer owns the table, it holds a `TableValue`. Its value is the settled array; only who fetches it for a step
    (`for_steps`) is given the `TableValue`, which then is what a stateless scope holds in the step.
    """

    ownership: Ownership[TableTraining] | None = None
    """Who trains the rows."""

    frozen_rows = np.empty(0, np.int64)

    before: TableValue | None = None
    """The value before the latest, while it is not known whether the latest brings the slots with it; see `_take`."""

    late: TableValue | None = None
    """A value that was assigned, of which the weights were taken: its slots may be assigned later."""

    waiting_since = 0
    """The step at which the table has stood since then."""

    abandoned: TableTraining | None = None
    """What trained the table until its arrays were lost; see `TableTraining.abandon`."""

    @property
    def value(self) -> Tensor:
        self.refresh()
        held = _held(self)
        if held is None:
            held = super().value  # which another thread may have set by now
        if not isinstance(held, TableValue):
            return self._maybe_autocast(held)
        fetched = stateless_scope() is None and _is("fetching")
        return held if fetched else self._maybe_autocast(held.todense())

    def held(self) -> TableValue | None:
        """The value of an owned table, also within a stateless scope, which may be another optimizer's; None otherwise."""
        held = _held(self)
        return held if isinstance(held, TableValue) else None

    def refresh(self) -> None:
        """Before the table is used outside of a step: notice what others have done with it in the meantime."""
        if stateless_scope() is not None:
            return
        if self.abandoned is not None and self.abandoned.regain():
            self.abandoned = None
        value = self._value
        if isinstance(value, TableValue) and value.alive():
            self.resolve()
            tie = ownership_of(self)
            if tie is not None:
                tie.backend.notice_writes()

    def resolve(self) -> None:
        """If weights were assigned and slots were not, as loops of the user's do, go on with those and with these."""
        before, self.before, value = self.before, None, self._value
        if before is None:
            return
        slots = [slot for slot in value.training.slot_variables() if isinstance(raw(slot), SlotValue)]
        come = [slot for slot in slots if raw(slot).is_of(value)]
        if len(come) < len(slots):
            arrays = value.settle().arrays
            slots_of_it = {slot.name_here: arrays[slot.name_here] for slot in come}
            self._value, self.late = before.replaced(weights=arrays["weights"], **slots_of_it), value
            self.waiting_since = value.training.clock(before.arrays)
            for slot in come:
                set_raw(slot, self._value.slot(slot.name_here))

    def assign(self, value: Tensor) -> Tensor:
        owned = isinstance(value, TableValue) and self.ownership is not None and value.training is self.ownership.backend
        if stateless_scope() is None:
            if owned:
                return self._take(value)
            array = self._write(value)
            self.late = value if isinstance(value, TableValue) else None
            return array
        if owned:
            return self.hold(value)
        array, held = self._as_array(value), self.held()
        if held is not None:
            held.training.written |= not _is("stepping")
        self.hold(array if held is None else held.replaced(weights=array))
        return array

    def _take(self, value: TableValue) -> TableValue:
        """The value that a step has made of the last one.

        It brings the slots of the optimizer with it, if those are assigned, too.  If not, they stay as they were.
        """
        last = self._value
        there = isinstance(last, TableValue) and last.training is value.training and last is not value and last.alive()
        if there and self.before is None and last.training.clock(last.arrays) != value.training.clock(value.arrays):
            self.before = last
        if self.late is not None and value.training.clock(value.arrays) != self.waiting_since:
            self.late = None  # steps were made without them
        self._value = value.in_large_pages()
        return value

    def _write(self, value: Tensor) -> Tensor:
        """Write all weights."""
        array = self._as_array(value)
        self.refresh()
        held = self.held()
        if held is not None and not held.alive():
            held.training.abandon()
            held = None
        if held is None:
            self._direct_assign(array)
        else:
            self._value = held.replaced(weights=into_large_pages(array))
        return array


class SlotVariable(_Variable):
    """A slot of a table: while the table is owned, it holds a `SlotValue`, and its array is the table's."""

    training: TableTraining | None = None
    """What trains the table's rows, while that is owned by this slot's optimizer."""

    @property
    def name_here(self) -> str:
        """What the table's value calls the slot, which is that of an owned table."""
        name: str = self._value.name
        return name

    @property
    def value(self) -> Tensor:
        if self.training is not None:
            self.training.variable.refresh()  # which may let go of the slot
        held = _held(self)
        if held is None:
            return super().value
        if not isinstance(held, SlotValue):
            return self._maybe_autocast(held)
        if stateless_scope() is None:
            table = raw(held.training.variable)
            in_table = isinstance(table, TableValue) and held.is_of(table)
            return held if in_table and _is("fetching") else held.todense()  # an error where it has no array
        found = held.training.slot_here(held, _is("stepping"))
        return held if found is None else found  # as other scopes may be given it

    def is_in_table(self, training: TableTraining) -> bool:
        """Whether its array is in the table's value, also within a stateless scope."""
        held = _held(self)
        return isinstance(held, SlotValue) and held.training is training

    def assign(self, value: Tensor) -> Tensor:
        training, scope = self.training, stateless_scope()
        if isinstance(value, SlotValue):
            late = None if scope is not None else value.training.variable.late
            if late is not None and value.is_of(late):
                value = late.all_settled().arrays[value.name]
            elif value.training is training and training is not None:
                return self.hold(value)
        array, held = self._as_array(value), _held(self)
        if not isinstance(held, SlotValue):
            return self.hold(array)
        table = held.training.variable
        if scope is None:
            table.refresh()
            if self.training is not None and not raw(table).alive():
                self.training.abandon()
            if self.training is None:  # nobody's any more
                return self.hold(array)
        table.hold(table.held().replaced(**{held.name: array}))
        return array

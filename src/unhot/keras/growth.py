"""Rows of Keras's variables that are added, given back or frozen, with what the optimizers keep of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from unhot.atomic import Call, together
from unhot.keras._private import trained_by
from unhot.keras.backend import New, Owner, Slot
from unhot.keras.backends import backend
from unhot.keras.callers import call_anew, note_change
from unhot.keras.kinds import Option, Variable
from unhot.keras.untouched import untouched
from unhot.training import ownership_of

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

BUILT: list[weakref.ref[Owner]] = []
"""The optimizers of `unhot.keras` that were built, in this order."""


class Given(NamedTuple):
    """A variable with a row for each id, and the values of new rows, which lie along `axis`."""

    variable: Variable
    values: Values
    from_the_start: bool
    """Whether they are from before the first step, and have had no gradient since, or from now."""
    axis: int = 0


def note_built(optimizer: Owner) -> None:
    """The optimizer has slots for variables from now on."""
    BUILT[:] = [*(reference for reference in BUILT if reference() is not None), weakref.ref(optimizer)]


def trainers_of(variable: Variable) -> list[Owner]:
    """The optimizers that have slots for a variable, the latest last."""
    built = [optimizer for reference in BUILT if (optimizer := reference()) is not None]
    return [optimizer for optimizer in built if any(variable is other for other in trained_by(optimizer))]


def put_rows(again: Rows, given: Sequence[Given], notes: Callable[[], list[Call]]) -> None:
    """Give variables rows: the first of them take the places of the rows `again`, the others come at the end.

    `notes` gives further calls that are made together with the change.
    """
    variables = [part.variable for part in given]

    def change() -> None:
        new = [made for part in given for made in _with_slots(part, again)]
        backend.put(new, notes())

    _between_owners(variables, change)


def freeze(variables: Sequence[Variable], rows: Rows) -> None:
    """Leave these rows of tables as they are from now on, and train all others."""
    _between_owners(variables, lambda: together([partial(one.__dict__.update, frozen_rows=rows) for one in variables]))
    backend.forget_frozen_rows()


def _between_owners(variables: Sequence[Variable], change: Callable[[], None]) -> None:
    """`change()` while the variables are nobody's, with all steps applied; then their optimizers go on."""
    for variable in variables:
        backend.require_between_steps(variable, [slot.slot for slot in _slots_of(variable)])
        call_anew(variable)
        backend.forget_graphs(variable)
    owners = [_let_go(variable) for variable in variables]
    try:
        change()
    finally:
        for variable, owner in zip(variables, owners, strict=True):
            _take_up(variable, owner)
        for variable in variables:
            note_change(variable, backend.stateless_values)


def _let_go(variable: Variable) -> Owner | None:
    """Release a table, and say whose it was."""
    if not backend.is_table(variable):
        return None
    tie = ownership_of(backend.ownable(variable))
    if tie is None:
        return None
    owner: Option = tie.owner
    tie.release()
    return owner if isinstance(owner, keras.optimizers.Optimizer) else None


def _take_up(variable: Variable, owner: Owner | None) -> None:
    """Let the optimizer that had a table go on with it, or the latest if the table has become worth it."""
    trainers = trainers_of(variable)
    if owner is None and (not trainers or not backend.is_table(variable) or not trainers[-1].worth_owning(variable)):
        return
    (trainers[-1] if owner is None else owner).go_on_with(variable)


def _slots_of(variable: Variable) -> Iterator[Slot]:
    for optimizer in trainers_of(variable):
        yield from (slot for slot in optimizer._slots_made if slot.reference is variable)


def _with_slots(part: Given, again: Rows) -> Iterator[New]:
    """The new rows of a variable and of the optimizers' slots."""
    values, trainers = part.values, trainers_of(part.variable)
    moved: dict[int, Values] = {}
    if part.from_the_start and trainers:
        values, slots, averages = untouched(trainers[-1], part.variable, values)
        moved = {id(trainers[-1].slot_of(part.variable, name)): rows for name, rows in slots.items()}
        moved |= {id(average): averages for average in trainers[-1].averages()}  # those of other variables have other slots
    yield New(part.variable, again, values, part.axis)
    averaged = [id(average) for optimizer in trainers for average in optimizer.averages()]
    for _, slot, initializer in _slots_of(part.variable):
        shape = list(slot.shape)
        shape[part.axis] = values.shape[part.axis]
        begun = moved.get(id(slot), values if id(slot) in averaged else None)
        made = initializer(tuple(shape), dtype=slot.dtype) if begun is None else begun
        yield New(slot, again, np.asarray(keras.ops.convert_to_numpy(made), np.float64), part.axis)

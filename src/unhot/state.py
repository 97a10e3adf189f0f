"""The state of a table as a flat dict, and back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unhot import arrays
from unhot.atomic import together
from unhot.engine import Engine, clock_of
from unhot.store import Store

if TYPE_CHECKING:
    from unhot.table import Table

FORMAT = 1


def export_state(table: Table) -> dict[str, Any]:
    """The state of a settled table: copies of its arrays, its clock, its hyperparameters and the clock's own numbers."""
    engine = table._engine
    store = engine.stores[0]
    state: dict[str, Any] = {"format": FORMAT, "clock": engine.now, "weights": store.weights.copy()}
    if table.optimizer is None or engine.clock is None:
        return state
    state["rule"] = type(table.optimizer).__name__
    for field in dataclasses.fields(table.optimizer):
        value = getattr(table.optimizer, field.name)
        if not callable(value):
            state[f"hyper.{field.name}"] = value
    for name, slot in zip(engine.clock.slots, store.slots, strict=True):
        state[f"slot.{name}"] = slot.copy()
    state.update({f"state.{name}": value for name, value in engine.clock.state().items()})
    return state


def import_state(table: Table, state: Mapping[str, Any]) -> None:
    """Put `state` into the table, after all of it has been found to fit."""
    if _whole(state, "format") != FORMAT:
        raise ValueError(f"the state has format {_take(state, 'format')}; this version of unhot reads format {FORMAT}.")
    weights = _array(state, "weights", table.shape, table)
    now = _whole(state, "clock")
    if table.optimizer is None:
        together([partial(setattr, table, "_engine", Engine([Store(weights)], now=now))])
        return
    rule_name = str(_take(state, "rule"))
    if rule_name != type(table.optimizer).__name__:
        raise ValueError(f"the state was trained with {rule_name}, and the table has {type(table.optimizer).__name__}.")
    optimizer = copy.copy(table.optimizer)
    for field in dataclasses.fields(optimizer):
        if f"hyper.{field.name}" in state:
            setattr(optimizer, field.name, _plain(state[f"hyper.{field.name}"]))
    optimizer.check()
    held = {name.removeprefix("slot.") for name in state if name.startswith("slot.")}
    snapshot, clock = clock_of(optimizer, table.dtype, table.rows, held)
    widths = {name: clock.law.slot_width(name, table.dim) for name in clock.slots}
    slots = [_array(state, f"slot.{name}", (table.rows, width), table) for name, width in widths.items()]
    if "largest_velocity" in clock.slots:
        # A state from elsewhere may hold a maximum below the second moment; this is what the next step would make of it.
        _, velocity, largest = slots
        np.maximum(largest, velocity * vars(optimizer)["beta_2"], out=largest)
    clock.load_state({name: _number(state, f"state.{name}") for name in clock.state()})
    engine = Engine([Store(weights, tuple(slots))], snapshot, clock, now)
    together(
        [
            partial(vars(table.optimizer).update, vars(copy.copy(optimizer))),
            table._pending.clear,
            partial(setattr, table, "_engine", engine),
        ]
    )


def _take(state: Mapping[str, Any], name: str) -> Any:
    try:
        return state[name]
    except KeyError:
        raise ValueError(f"the state has no {name!r}; it was not made by this table's `state_dict`.") from None


def _number(state: Mapping[str, Any], name: str) -> float:
    """The real number `name` of a state; an error for anything else, booleans too."""
    value = np.asarray(_take(state, name))
    if value.shape != () or value.dtype.kind not in "iuf":
        raise ValueError(f"the state's {name!r} must be a number. Received: {_take(state, name)!r}.")
    return float(value)


def _whole(state: Mapping[str, Any], name: str) -> int:
    """The number `name` of a state, which counts something."""
    return whole(_number(state, name), f"the state's {name!r}")


def whole(number: float, what: str) -> int:
    """`number` if it counts steps: a whole number in [0, 2**32); else an error that says `what` it is."""
    if not (0 <= number < 2**32 and number == int(number)):
        raise ValueError(f"{what} must be a whole number in [0, 2**32). Received: {number!r}.")
    return int(number)


def _array(state: Mapping[str, Any], name: str, shape: tuple[int, int], table: Table) -> np.ndarray[Any, np.dtype[Any]]:
    array = np.asarray(_take(state, name))
    if array.shape != shape or array.dtype != table.dtype:
        raise ValueError(
            f"the state's {name!r} must have shape {shape} and dtype {table.dtype}. Received: shape {array.shape}, dtype"
            f" {array.dtype}."
        )
    return arrays.copied(array, table.dtype)


def _plain(value: Any) -> Any:
    """A Python number, boolean or string, also from the 0-d array that `numpy.load` gives."""
    return value.item() if isinstance(value, (np.ndarray, np.generic)) else value

"""A table's state as a flat dict, as `state_dict` gives it, and back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot import arrays
from unhot.engine import Engine
from unhot.optimizers import Optimizer
from unhot.settling import clock_of
from unhot.store import Store, numbered

Array = npt.NDArray[Any]

FORMAT = 1


def export_state(engine: Engine, optimizer: Optimizer | None, names: Sequence[str]) -> dict[str, Any]:
    """The state of settled tables: copies of their arrays, the clock, the hyperparameters and the clock's numbers.

    `names` are what the arrays of each table are called by, with a dot at the end; that of a table alone is empty.
    """
    state: dict[str, Any] = {"format": FORMAT, "clock": engine.now}
    for name, store in zip(names, engine.stores, strict=True):
        state[f"{name}weights"] = store.weights.copy()
    if optimizer is None or engine.clock is None:
        return state
    state["rule"] = type(optimizer).__name__
    for field in dataclasses.fields(optimizer):
        value = getattr(optimizer, field.name)
        if not callable(value):
            state[f"hyper.{field.name}"] = value
    for name, store in zip(names, engine.stores, strict=True):
        for slot, array in zip(engine.clock.slots, store.slots, strict=True):
            state[f"{name}slot.{slot}"] = array.copy()
    state.update({f"state.{name}": value for name, value in engine.clock.state().items()})
    return state


def import_state(
    state: Mapping[str, Any], like: Mapping[str, Store], optimizer: Optimizer | None
) -> tuple[Engine, Optimizer | None]:
    """The engine that `state` describes, and the optimizer with its hyperparameters, for tables with arrays such as `like`.

    These are by what the arrays of each table are called by; see `export_state`.
    """
    if _whole(state, "format") != FORMAT:
        raise ValueError(f"the state has format {_take(state, 'format')}; this version of unhot reads format {FORMAT}.")
    dtype = next(iter(like.values())).weights.dtype
    weights = {name: _array(state, f"{name}weights", store.weights.shape, dtype) for name, store in like.items()}
    now = _whole(state, "clock")
    if optimizer is None:
        return Engine(numbered((array, ()) for array in weights.values()), now=now), None
    rule_name = str(_take(state, "rule"))
    if rule_name != type(optimizer).__name__:
        raise ValueError(f"the state was trained with {rule_name}, and the table has {type(optimizer).__name__}.")
    optimizer = copy.copy(optimizer)
    for field in dataclasses.fields(optimizer):
        if f"hyper.{field.name}" in state:
            setattr(optimizer, field.name, _plain(state[f"hyper.{field.name}"]))
    optimizer.check()
    slot = f"{next(iter(like))}slot."
    held = {name.removeprefix(slot) for name in state if name.startswith(slot)}
    snapshot, clock = clock_of(optimizer, dtype, sum(store.rows for store in like.values()), held)
    states = []
    for name, store in like.items():
        shapes = {slot: (store.rows, clock.law.slot_width(slot, store.dim)) for slot in clock.slots}
        slots = {slot: _array(state, f"{name}slot.{slot}", shape, dtype) for slot, shape in shapes.items()}
        if "largest_velocity" in slots:
            # A state from elsewhere may hold a maximum below the second moment; this is what the next step would make of it.
            largest = slots["largest_velocity"]
            np.maximum(largest, slots["velocity"] * vars(optimizer)["beta_2"], out=largest)
        states.append((weights[name], tuple(slots.values())))
    clock.load_state({name.removeprefix("state."): _number(state, name) for name in state if name.startswith("state.")})
    return Engine(numbered(states), snapshot, clock, now), optimizer


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


def _array(state: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A copy of the array `name` of a state, which is to have this shape and dtype."""
    array = np.asarray(_take(state, name))
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"the state's {name!r} must have shape {shape} and dtype {dtype}. Received: shape {array.shape}, dtype"
            f" {array.dtype}."
        )
    return arrays.copied(array, dtype)


def _plain(value: Any) -> Any:
    """A Python number, boolean or string, also from the 0-d array that `numpy.load` gives."""
    return value.item() if isinstance(value, (np.ndarray, np.generic)) else value

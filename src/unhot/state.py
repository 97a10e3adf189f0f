"""A table's state as a flat dict of NumPy arrays, as `state_dict` gives it, and back.

Numbers are arrays without dimensions, and strings are arrays of their UTF-8 bytes, so that formats which hold arrays alone take
a state as it is.
"""

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

FORMAT = 2
"""Of format 1, whose numbers and strings were Python's, states are read as well."""

CHUNK = 1 << 14
"""Rows that are looked at together."""


def export_state(engine: Engine, optimizer: Optimizer | None, names: Sequence[str], *, copies: bool = True) -> dict[str, Array]:
    """The state of settled tables: copies of their arrays, the clock, the hyperparameters and the clock's numbers.

    `names` are what the arrays of each table are called by, with a dot at the end; that of a table alone is empty. Without
    `copies`, weights and slots are the tables' own arrays.
    """
    state: dict[str, Array] = {"format": encoded(FORMAT), "clock": encoded(engine.now)}
    for name, store in zip(names, engine.stores, strict=True):
        state[f"{name}weights"] = store.weights.copy() if copies else store.weights
    if optimizer is None or engine.clock is None:
        return state
    state["rule"] = encoded(type(optimizer).__name__)
    for field in dataclasses.fields(optimizer):
        value = getattr(optimizer, field.name)
        if not callable(value):
            state[f"hyper.{field.name}"] = encoded(value if isinstance(value, (bool, np.bool_, str)) else float(value or 0.0))
    for name, store in zip(names, engine.stores, strict=True):
        for slot, array in zip(engine.clock.slots, store.slots, strict=True):
            state[f"{name}slot.{slot}"] = array.copy() if copies else array
    state.update({f"state.{name}": encoded(float(value)) for name, value in engine.clock.state().items()})
    return state


def encoded(value: bool | np.bool_ | float | str) -> Array:
    """The array that stands for a number or a string in a state: float64, int64 or bool, or uint8 of UTF-8.

    Example:
        >>> from unhot.state import encoded
        >>> encoded("Adam")
        array([ 65, 100,  97, 109], dtype=uint8)
    """
    return np.frombuffer(bytearray(value.encode()), np.uint8) if isinstance(value, str) else np.array(value)


def decoded(state: Mapping[str, Any], name: str) -> Any:
    """The Python number, boolean or string `name` of a state, whichever way it is held.

    Raises: ValueError if there is none, or if it is neither.

    Example:
        >>> from unhot.state import decoded, encoded
        >>> decoded({"rule": encoded("Adam")}, "rule")
        'Adam'
    """
    value = _take(state, name)
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    if value.ndim == 0:
        return value.item()
    if value.ndim == 1 and value.dtype == np.uint8:
        try:
            return value.tobytes().decode()
        except UnicodeDecodeError:
            pass
    raise ValueError(
        f"the state's {name!r} must be a number, or a string as uint8 of UTF-8. Received: shape {value.shape}, dtype"
        f" {value.dtype}."
    )


def import_state(
    state: Mapping[str, Any], like: Mapping[str, Store], optimizer: Optimizer | None, *, copies: bool = True
) -> tuple[Engine, Optimizer | None]:
    """The engine that `state` describes, and the optimizer with its hyperparameters, for tables with arrays such as `like`.

    These are by what the arrays of each table are called by; see `export_state`. Without `copies`, weights and slots are the
    arrays of the state.
    """
    if not 1 <= _whole(state, "format") <= FORMAT:
        raise ValueError(f"the state has format {_take(state, 'format')}; this version of unhot reads formats 1 to {FORMAT}.")
    dtype = next(iter(like.values())).weights.dtype
    weights = {name: _array(state, f"{name}weights", store.weights.shape, dtype, copies) for name, store in like.items()}
    now = _whole(state, "clock")
    if optimizer is None:
        return Engine(numbered((array, ()) for array in weights.values()), now=now), None
    rule_name = str(decoded(state, "rule"))
    if rule_name != type(optimizer).__name__:
        raise ValueError(f"the state was trained with {rule_name}, and the table has {type(optimizer).__name__}.")
    optimizer = copy.copy(optimizer)
    for field in dataclasses.fields(optimizer):
        if f"hyper.{field.name}" in state:
            setattr(optimizer, field.name, decoded(state, f"hyper.{field.name}"))
    optimizer.check()
    slot = f"{next(iter(like))}slot."
    held = {name.removeprefix(slot) for name in state if name.startswith(slot)}
    snapshot, clock = clock_of(optimizer, dtype, sum(store.rows for store in like.values()), held)
    states = []
    for name, store in like.items():
        shapes = {slot: (store.rows, clock.law.slot_width(slot, store.dim)) for slot in clock.slots}
        slots = {slot: _array(state, f"{name}slot.{slot}", shape, dtype, copies) for slot, shape in shapes.items()}
        if "largest_velocity" in slots:
            _raise_to(slots["largest_velocity"], slots["velocity"], vars(optimizer)["beta_2"])
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


def _array(state: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: np.dtype[Any], copies: bool) -> Array:
    """The array `name` of a state, or a copy, which is to have this shape and dtype."""
    array = np.asarray(_take(state, name))
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"the state's {name!r} must have shape {shape} and dtype {dtype}. Received: shape {array.shape}, dtype"
            f" {array.dtype}."
        )
    return arrays.copied(array, dtype) if copies else array


def _raise_to(largest: Array, velocity: Array, beta: float) -> None:
    """Make of the maxima what the next step would: a state from elsewhere may hold ones below the second moment.

    Only what has to change is written, since the arrays may lie in a file.
    """
    for start in range(0, len(largest), CHUNK):
        part = slice(start, start + CHUNK)
        least = velocity[part] * beta
        if not (largest[part] >= least).all():
            np.maximum(largest[part], least, out=largest[part])

"""What a new table is given: checks of its size, dtype and optimizer, and its initial weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unhot import arrays
from unhot.optimizers import Optimizer

Array = npt.NDArray[Any]
Init = Literal["uniform", "normal", "zeros"] | Callable[[tuple[int, int]], Any]


def as_size(name: str, value: Any) -> int:
    """`value` if it is a positive integer, else an error that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` must be a positive integer. Received: {value!r} (of type {type(value).__name__}).")
    if value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}.")
    return int(value)


def as_capacity(capacity: Any, rows: int) -> int:
    """The number of rows to have room for: at least `rows`, which None stands for."""
    size = rows if capacity is None else as_size("capacity", capacity)
    if size < rows:
        raise ValueError(f"`capacity` must be at least the number of rows, {rows}. Received: {capacity!r}.")
    return size


def as_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """float32 or float64 in the machine's byte order, else an error."""
    try:
        kind = np.dtype(np.void if dtype is None else dtype).newbyteorder("=")
    except TypeError:
        kind = np.dtype(np.void)
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"a table's dtype must be float32 or float64. Received: {dtype!r}.")
    return kind


def as_optimizer(optimizer: Any, instead: str = ", or None") -> Optimizer:
    """`optimizer` if it is one of unhot's, else an error; `instead` is what else could have been given."""
    if not isinstance(optimizer, Optimizer):
        expected = f"`optimizer` must be one of unhot's optimizers, e.g. unhot.Adam(1e-3){instead}."
        kind = type(optimizer).__name__
        if isinstance(optimizer, tuple) and getattr(optimizer, "_fields", ())[:2] == ("init", "update"):
            raise TypeError(
                f"{expected} Received: an optimizer of Optax (of type {kind}). It would have to update every row in every step."
                " Use the one of unhot that equals it, e.g. unhot.Adam(1e-3, convention='torch') for optax.adam(1e-3);"
                " docs/jax.md has a table of them."
            )
        raise TypeError(f"{expected} Received: {optimizer!r} (of type {kind}).")
    optimizer.check()
    return optimizer


def check_init(init: Any, *others: str) -> None:
    """Raise an error if `init` is none of those that a table takes; `others` are what else could have been given."""
    if not callable(init) and not (isinstance(init, str) and init in ("uniform", "normal", "zeros")):
        kinds = ", ".join(["'uniform'", "'normal'", "'zeros'", *others])
        instead = "" if others else "; `from_array` takes an array"
        raise ValueError(f"`init` must be {kinds} or a callable{instead}. Received: {init!r}.")


def initial_weights(
    init: Init, shape: tuple[int, int], dtype: np.dtype[Any], generator: np.random.Generator, spare: int = 0
) -> Array:
    """The weights that `init` asks for (see `Table`), and after them `spare` rows that nobody reads yet."""
    rows, dim = shape
    if callable(init):
        given = np.asarray(init(shape))
        if given.shape != shape:
            raise ValueError(f"`init` must return an array of shape {shape}. Received: shape {given.shape}.")
        if given.dtype.kind not in "fiub":
            raise TypeError(f"`init` must return real numbers. Received: dtype {given.dtype}.")
        if not spare:
            return arrays.copied(given, dtype)
        room = arrays.reserved((rows + spare, dim), dtype)
        np.copyto(room[:rows], given, casting="unsafe")
        return room
    room = arrays.reserved((rows + spare, dim), dtype) if spare or init == "zeros" else arrays.empty(shape, dtype)
    weights = room[:rows]
    if init == "normal":
        generator.standard_normal(dtype=dtype.type, out=weights)
        weights *= 0.05
    elif init == "uniform":
        generator.random(dtype=dtype.type, out=weights)
        weights -= 0.5
        weights *= 0.1
    return room

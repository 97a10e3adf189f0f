"""What the tests of the table share: every family of rules, streams of steps, and exact copies of a table's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import unhot

Array = np.ndarray[Any, np.dtype[Any]]

RULES: dict[str, Callable[[], Any]] = {
    "sgd": lambda: unhot.SGD(0.1),
    "sgd momentum": lambda: unhot.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd torch": lambda: unhot.SGD(0.1, momentum=0.9, weight_decay=0.03, dampening=0.3, convention="torch"),
    "adagrad": lambda: unhot.Adagrad(0.1, weight_decay=0.01),
    "rowwise adagrad": lambda: unhot.RowwiseAdagrad(0.1, weight_decay=0.01),
    "rmsprop": lambda: unhot.RMSprop(0.01, momentum=0.8),
    "rmsprop centered": lambda: unhot.RMSprop(0.01, centered=True, convention="torch"),
    "adadelta": lambda: unhot.Adadelta(1.0),
    "adam": lambda: unhot.Adam(0.01),
    "adam torch": lambda: unhot.Adam(0.01, convention="torch"),
    "adamw amsgrad": lambda: unhot.AdamW(0.01, amsgrad=True),
    "nadam": lambda: unhot.NAdam(0.01, weight_decay=0.1),
    "radam": lambda: unhot.RAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "adamax": lambda: unhot.Adamax(0.01, weight_decay=0.1),
    "adamax torch": lambda: unhot.Adamax(0.01, convention="torch"),
    "lion": lambda: unhot.Lion(0.01, weight_decay=0.1),
    "ftrl": lambda: unhot.Ftrl(0.1, l1_regularization_strength=0.01, beta=0.5),
    "ftrl shrinkage": lambda: unhot.Ftrl(0.1, l2_shrinkage_regularization_strength=0.01),
}
"""Each family of rules, with the options that change what it keeps or defers."""

DTYPES = ("float32", "float64")
ID_DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def stream(rows: int, dim: int, steps: int, seed: int, dtype: str = "float32") -> Iterator[tuple[Array, Array]]:
    """Ids (some repeated, some steps without any, the last row never) and gradients of very different sizes."""
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        ids = generator.integers(0, max(1, rows - 1), size=generator.integers(0, 5))
        size = 10.0 ** generator.uniform(-4, 2)
        yield ids, (generator.normal(size=(len(ids), dim)) * size).astype(dtype)


def trained(rule: str, *, rows: int = 9, dim: int = 3, steps: int = 12, seed: int = 0, dtype: str = "float32") -> unhot.Table:
    """A table in the midst of training: rows touched at different steps, some never."""
    table = unhot.Table(rows, dim, optimizer=RULES[rule](), dtype=dtype, seed=seed)
    train(table, steps, seed)
    return table


def train(table: unhot.Table, steps: int, seed: int) -> None:
    """So many steps of the stream with this seed."""
    for ids, grads in stream(table.rows, table.dim, steps, seed, table.dtype.name):
        table.step(ids, grads)


def held(table: unhot.Table) -> dict[str, Any]:
    """Copies of all that a table holds: weights, slots, steps of the last touches, gradients that wait, and the clock."""
    engine = table._engine
    store = engine.stores[0]
    arrays = {"weights": store.weights, **{f"slot {i}": slot for i, slot in enumerate(store.slots)}}
    if engine.last is not None and engine.has_deferred_steps:  # else they are all the present one
        arrays["last"] = engine.last[: store.rows]
    for i, batch in enumerate(table._pending):
        arrays |= {f"pending ids {i}": batch.ids, f"pending gradients {i}": batch.gradients[0].vectors}
    rows = {"removed": table.removed.tolist(), "frozen": table.frozen.tolist()}
    held = {name: array.copy() for name, array in arrays.items()}
    return {"clock": table.clock, "optimizer": repr(table.optimizer), "rows": rows, **held}


def assert_held(table: unhot.Table, before: dict[str, Any]) -> None:
    """The table holds what it held `before`, to the last bit."""
    now = held(table)
    assert now.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, np.ndarray):
            assert now[name].dtype == value.dtype
            assert now[name].tobytes() == value.tobytes(), name
        else:
            assert now[name] == value, name


def assert_bits(got: Array, expected: Array) -> None:
    """Equal dtype, shape and bits."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "as it is": lambda a: a,
    "read-only": lambda a: _read_only(a.copy()),
    "Fortran order": lambda a: np.array(a, order="F"),
    "every other": lambda a: _strided(a, 2),
    "reversed": lambda a: _strided(a, -1),
    "transposed": lambda a: a.T.copy().T,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": lambda a: _unaligned(a),
    "a subclass": lambda a: a.view(_Subclass),
}
"""The same values in memory in every way that an array can lie there."""


class _Subclass(np.ndarray[Any, np.dtype[Any]]):
    """An array of another type."""


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _strided(array: Array, stride: int) -> Array:
    if array.ndim == 0:
        return array
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * abs(stride)), array.dtype)
    view = wide[..., ::stride]
    view[...] = array
    return view


def _unaligned(array: Array) -> Array:
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = memory.view(array.dtype).reshape(array.shape) if array.size else array
    view[...] = array
    return view

"""How the arrays of one table are read and settled on JAX, known ones and those that JAX traces."""

from __future__ import annotations

from abc import abstractmethod

import jax
import jax.numpy as jnp
import numpy as np

from unhot.graph.engine import Traced
from unhot.jax.operations import ArrayRows, Operations
from unhot.keras.backend import KerasBackend
from unhot.keras.jax_lookup import Reader
from unhot.keras.kinds import Tensor

Arrays = dict[str, jax.Array]

MASK = np.int32(0x40000000)
"""Integers are carried as the floats whose bits they are, those of small numbers turned away from denormals.

Trainable variables are differentiated, so they have to be floats.  A gradient of 0 stands for the same integer in all places:
the leaves of a gradient are a table without deferred steps, whose weights are the gradient.
"""

INTEGERS = ("last", "place")


def carried(numbers: Tensor) -> jax.Array:
    """Integers as floats."""
    return jax.lax.bitcast_convert_type(jnp.asarray(numbers, jnp.int32) ^ MASK, jnp.float32)


def integers(floats: Tensor) -> jax.Array:
    """What `carried` carries."""
    return jax.lax.bitcast_convert_type(floats, jnp.int32) ^ MASK


def traced(arrays: Tensor) -> bool:
    """Whether any of the arrays is JAX's stand-in for one."""
    return any(isinstance(array, jax.core.Tracer) for array in jax.tree.leaves(arrays))


class CarriedRows(ArrayRows):
    """Rows whose integers are carried as floats."""

    def take(self, name: str, ids: Tensor) -> Tensor:
        lines = super().take(name, ids)
        return integers(lines) if name in INTEGERS else lines

    def put(self, name: str, ids: Tensor, lines: Tensor) -> None:
        super().put(name, ids, carried(lines) if name in INTEGERS else lines)


class TableTraining(Reader, KerasBackend):
    """What trains a table, as far as its values and variables ask for it. It holds no array: those are in the table's value."""

    written = False
    """Whether another optimizer, or something else within a step, has written the weights."""

    everywhere: jax.sharding.Sharding | None = None
    """Where all arrays of the table are, if `keras.distribution` says that: each device has them all."""

    def __init__(self, traced: Traced, shape: tuple[int, int]) -> None:
        super().__init__()
        self.traced, self.shape = traced, shape
        self.ops = Operations(jnp.dtype(traced.dtype))
        history = traced.family.arrays() if traced.defers else {}
        self.names = (*traced.names, "place", "clock", *(["last"] if traced.notes else []), *history)

    def placed(self, tree: Tensor) -> Tensor:
        """The arrays, on all devices that have the table."""
        if self.everywhere is None:
            return tree
        if traced(tree):
            constrain: Tensor = jax.lax.with_sharding_constraint  # which JAX leaves untyped
            return constrain(tree, self.everywhere)
        return jax.device_put(tree, self.everywhere)

    # ------------------------------------------------------------------ arrays

    def clock(self, arrays: Arrays) -> int:
        """The steps that a table of these arrays, which are known, has made."""
        return int(np.asarray(arrays["clock"]).view(np.int32) ^ MASK)

    def parts(self, arrays: Arrays) -> tuple[CarriedRows, Arrays, jax.Array]:
        """Rows, history and clock."""
        names = (*self.traced.names, "place", *(["last"] if self.traced.notes else []))
        history = {name: array for name, array in arrays.items() if name not in names and name != "clock"}
        return CarriedRows({name: arrays[name] for name in names}), history, integers(arrays["clock"])

    def rows(self, arrays: Arrays, ids: Tensor | None) -> jax.Array:
        """The settled weights of the flat `ids`, or all of them."""
        if ids is None:
            return self.settled(arrays)["weights"]
        store, history, now = self.parts(arrays)
        found: jax.Array = self.traced.lookup(self.ops, history, store, ids, now)
        return found

    def settled(self, arrays: Arrays) -> Arrays:
        """The same arrays with all deferred steps applied."""
        if not self.traced.defers:
            return arrays
        if not traced(arrays):
            return self._settled(arrays)
        late = (integers(arrays["last"]) < integers(arrays["clock"])).any()
        found: Arrays = jax.lax.cond(late, self._settled, lambda arrays: arrays, arrays)
        return found

    def _settled(self, arrays: Arrays) -> Arrays:
        store, history, now = self.parts(arrays)
        self.traced.settle(self.ops, history, store, jnp.arange(self.shape[0], dtype=jnp.int32), now)
        return {**arrays, **store.arrays}

    def late(self, arrays: Arrays) -> bool:
        """Whether any row of these arrays, which are known, has deferred steps."""
        return self.traced.defers and bool((integers(arrays["last"]) < integers(arrays["clock"])).any())

    # ------------------------------------------------------------------ what the variables are asked for

    @property
    @abstractmethod
    def variable(self) -> Tensor:  # type: ignore[override]
        """The table's variable, which knows its value."""

    @abstractmethod
    def slot(self, value: Tensor, stepping: bool = False) -> jax.Array:
        """The settled slot of a `SlotValue`; in an optimizer's step, that of the table's value there."""

    @abstractmethod
    def notice_writes(self) -> None:
        """Before the table is used outside of a step: notice what others have written in the meantime."""

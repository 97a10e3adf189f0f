"""How the arrays of one table are read and settled on JAX, known ones and those that JAX traces."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import NamedSharding

from unhot.graph.engine import Traced
from unhot.jax import spread as spreading
from unhot.jax.operations import ArrayRows, EveryRow, Operations
from unhot.jax.spread import EVERYWHERE, PartOfRows, Spread, spec
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


def moved(array: Tensor, sharding: jax.sharding.Sharding) -> Tensor:
    """The array, with this sharding."""
    if isinstance(array, jax.core.Tracer):
        constrain: Tensor = jax.lax.with_sharding_constraint  # which JAX leaves untyped
        return constrain(array, sharding)
    return jax.device_put(array, sharding)


class CarriedRows(ArrayRows):
    """Rows whose integers are carried as floats."""

    def take(self, name: str, ids: Tensor) -> Tensor:
        lines = super().take(name, ids)
        return integers(lines) if name in INTEGERS else lines

    def put(self, name: str, ids: Tensor, lines: Tensor) -> None:
        super().put(name, ids, carried(lines) if name in INTEGERS else lines)


class CarriedPart(CarriedRows, PartOfRows):
    """The rows of one device whose integers are carried as floats."""


class CarriedEveryRow(CarriedRows, EveryRow):
    """All rows at once whose integers are carried as floats."""


class CarriedSpread(Spread):
    """Rows that are spread over an axis of a mesh, whose integers are carried as floats."""

    def part(self, arrays: Arrays) -> PartOfRows:
        return CarriedPart(arrays, jax.lax.axis_index(self.axis))

    def every(self, arrays: Arrays) -> EveryRow:
        return CarriedEveryRow(arrays)


@dataclass(frozen=True)
class Devices:
    """Where `keras.distribution` has put a table."""

    everywhere: jax.sharding.Sharding
    """Where an array is of which each device has all."""

    spread: CarriedSpread | None = None
    """How the rows are spread over devices; None where each device has all of them."""

    columns: NamedSharding | None = None
    """How the numbers of each row are spread over devices; None where they are together."""

    def of(self, array: Tensor, by_rows: bool) -> jax.sharding.Sharding:
        """Where one of the table's arrays is, which may have one line for each row."""
        if by_rows and self.spread is not None:
            return self.spread.by_rows
        if self.columns is not None and by_rows and array.ndim == 2 and array.shape[1] > 1:
            return self.columns
        return self.everywhere

    def along(self, count: int) -> Any:
        """How so many ids of a batch are spread, of which `keras.distribution` spreads the first dimension."""
        distribution = keras.distribution.distribution()
        name = None if distribution is None else distribution.batch_dim_name
        mesh = None if self.spread is None else self.spread.mesh
        if mesh is None or name not in mesh.shape or count % mesh.shape[name]:
            return EVERYWHERE
        return spec(name)


class TableTraining(Reader, KerasBackend):
    """What trains a table, as far as its values and variables ask for it. It holds no array: those are in the table's value."""

    written = False
    """Whether another optimizer, or something else within a step, has written the weights."""

    devices: Devices | None = None
    """Where the table is, if `keras.distribution` says that."""

    def __init__(self, traced: Traced, shape: tuple[int, int]) -> None:
        super().__init__()
        self.traced, self.shape = traced, shape
        self.ops = Operations(jnp.dtype(traced.dtype))
        history = traced.family.arrays() if traced.defers else {}
        self.names = (*traced.names, "place", "clock", *(["last"] if traced.notes else []), *history)

    def placed(self, arrays: Arrays) -> Arrays:
        """Arrays of the table, on the devices that have them."""
        if self.devices is None:
            return arrays
        rows = (*self.traced.names, *INTEGERS)
        return {name: moved(array, self.devices.of(array, name in rows)) for name, array in arrays.items()}

    def on_all(self, array: Tensor) -> Tensor:
        """An array of a step, on all devices that have a part of the table."""
        return array if self.devices is None else moved(array, self.devices.everywhere)

    @property
    def spread(self) -> CarriedSpread | None:
        """How the rows are spread over devices."""
        return None if self.devices is None else self.devices.spread

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
        found: jax.Array
        devices = self.devices
        if devices is None or devices.spread is None:
            found = self.traced.lookup(self.ops, history, store, ids, now)
        else:
            known = not isinstance(ids, jax.core.Tracer)
            ids, along = (self.on_all(ids), EVERYWHERE) if known else (ids, devices.along(len(ids)))
            found = spreading.look_up(devices.spread, self.traced, store.arrays, history, ids, now, along=along)
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
        if self.spread is not None:
            made: Arrays = spreading.settle(self.spread, self.traced, store.arrays, history, now)
            return {**arrays, **made}
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
    def slot_variables(self) -> list[Tensor]:
        """The variables of the slots that there still are."""

    @abstractmethod
    def slot(self, value: Tensor) -> jax.Array:
        """The settled slot of a `SlotValue`.

        Raises: ValueError where the table's value is not that to which it belongs.
        """

    @abstractmethod
    def slot_here(self, value: Tensor, stepping: bool) -> jax.Array | None:
        """The same within a stateless scope, or None; in an optimizer's step, that of the table's value there."""

    @abstractmethod
    def abandon(self) -> None:
        """Let go of a table whose arrays JAX has given to others: what is assigned now takes their places."""

    @abstractmethod
    def regain(self) -> bool:
        """Own an abandoned table again if all its arrays are there by now; whether nothing is left to do."""

    @abstractmethod
    def notice_writes(self) -> None:
        """Before the table is used outside of a step: notice what others have written in the meantime."""

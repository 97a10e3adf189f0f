"""Where the rows of a table are: all together, or spread over the devices of a mesh.

A spread table is looked up and trained by a function that each device runs on rows of its own (`jax.shard_map`), rather than as
the compiler would partition it: nothing but ids, gradients and looked-up vectors travels then, no array of the table's size is
made, and a mesh with explicit axes, on which JAX refuses to index spread rows, will do, too.  Every device is given all ids. It
reads and writes those of its own rows, in the order of the batch, and does to them what it would if it had all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unhot.graph.engine import Traced
from unhot.jax.operations import ArrayRows, EveryRow, Operations

Arrays = dict[str, Any]

spec: Any = PartitionSpec  # which JAX leaves untyped
_psum: Any = jax.lax.psum
_psum_scatter: Any = jax.lax.psum_scatter
_reshard: Any = jax.sharding.reshard

EVERYWHERE: PartitionSpec = spec()


@dataclass(frozen=True)
class Spread:
    """Rows are spread over an axis of a mesh, in equal parts and in their order."""

    mesh: Mesh
    axis: str

    @property
    def by_rows(self) -> NamedSharding:
        """The sharding of an array with one line for each row."""
        return NamedSharding(self.mesh, spec(self.axis))

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of an array that each device has."""
        return NamedSharding(self.mesh, EVERYWHERE)

    @property
    def partitioned_by_the_compiler(self) -> Mesh:
        """The same mesh without explicit axes: JAX lets any function have arrays that are spread over it."""
        return Mesh(self.mesh.devices, self.mesh.axis_names)

    def require_equal_parts(self, rows: int, dim: int) -> None:
        """Raise ValueError for a number of rows that does not divide."""
        devices, more = self.mesh.shape[self.axis], -rows % self.mesh.shape[self.axis]
        if more:
            raise ValueError(
                f"{rows} rows do not divide into equal parts for {devices} devices. Have {more} more, which you do not look up:"
                f" `unhot.jax.grow(state, jnp.zeros(({more}, {dim})))` adds them to a table that is not spread yet."
            )

    @property
    def within(self) -> bool:
        """Whether this is within a `jax.shard_map` over the axis, so that arrays are one device's part.

        Raises: ValueError within one over other axes only.
        """
        manual = jax.sharding.get_abstract_mesh().manual_axes
        if manual and self.axis not in manual:
            raise ValueError(
                f"the table's rows are spread over the axis {self.axis!r}. Within `jax.shard_map`, use it where this axis is"
                f" mapped over, too. Received: a function mapped over {', '.join(map(repr, manual))}."
            )
        return bool(manual)

    def part(self, arrays: Arrays) -> PartOfRows:
        """The rows of the device at hand."""
        return PartOfRows(arrays, jax.lax.axis_index(self.axis))

    def every(self, arrays: Arrays) -> EveryRow:
        """The same, all at once."""
        return EveryRow(arrays)

    def on_each_device(self, function: Callable[..., Any], rows: Arrays, others: Any, returns: Any, along: Any = None) -> Any:
        """function(rows, *others) on each device's rows; `returns` are the `PartitionSpec`s of what it returns.

        `along` are those of the others, of which each device otherwise gets all.
        """
        if self.within:
            return function(rows, *others)
        specs = (spec(self.axis), *(along or [EVERYWHERE] * len(others)))
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=returns)(rows, *others)

    def to_everywhere(self, array: Any) -> Any:
        """The array, on each device of the mesh; within `jax.shard_map`, as it is."""
        if isinstance(array, jax.core.Tracer):
            if self.within:
                return array
            move = _reshard if AxisType.Explicit in self.mesh.axis_types else jax.lax.with_sharding_constraint
            return move(array, self.everywhere)
        if isinstance(array, jax.Array) and isinstance(array.sharding, NamedSharding):
            return jax.device_put(array, self.everywhere)
        return array

    def as_spread(self, ids: Any, vectors: Any) -> Any:
        """The vectors, spread as the ids are where JAX says so in their types: where the axes of the mesh are explicit."""
        if AxisType.Explicit not in self.mesh.axis_types or self.within or not isinstance(ids, jax.Array):
            return vectors
        sharding = jax.typeof(ids).sharding
        axes = sharding.spec if sharding.mesh.shape_tuple == self.mesh.shape_tuple else ()
        return _reshard(vectors, NamedSharding(self.mesh, spec(*axes)))


class PartOfRows(ArrayRows):
    """The rows of one device: equal parts of a table, of which this is number `part`. Ids are those of the whole table."""

    def __init__(self, arrays: Arrays, part: Any) -> None:
        super().__init__(arrays)
        self.count = len(arrays["weights"])
        self.first = part * self.count

    def has(self, ids: Any) -> Any:
        """Which of the ids are of these rows."""
        return (ids >= self.first) & (ids < self.first + self.count)

    def _own(self, ids: Any) -> Any:
        return jnp.where(self.has(ids), ids - self.first, self.count)

    def take(self, name: str, ids: Any) -> Any:
        return super().take(name, self._own(ids))

    def put(self, name: str, ids: Any, lines: Any) -> None:
        super().put(name, self._own(ids), lines)


def varying(array: Any) -> frozenset[str]:
    """The axes of the `jax.shard_map` at hand over which the array is another on each device."""
    kind = jax.typeof(array)
    axes: frozenset[str] = kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # before JAX 0.10
    return axes


@partial(jax.jit, static_argnums=(0, 1), static_argnames="along")
def look_up(
    spread: Spread, trained: Traced, rows: Arrays, history: Arrays, ids: jax.Array, now: jax.Array, *, along: Any = EVERYWHERE
) -> Any:
    """The settled weights of the flat `ids`, from the devices that have them; any for an id that is not of the table.

    `along` says how the ids are spread, and so the vectors are.
    """

    def of_one(rows: Arrays, history: Arrays, ids: jax.Array, now: jax.Array) -> jax.Array:
        apart = spread.axis in varying(ids)
        if apart:
            ids = jax.lax.all_gather(ids, spread.axis, tiled=True)
        part = spread.part(rows)
        found = trained.lookup(Operations(rows["weights"].dtype), history, part, ids, now)
        # One of the devices has the vector and the others have nothing, so that the sum of the bits is the vector's, also -0.0.
        bits = jax.lax.bitcast_convert_type(found, jnp.int32 if found.dtype.itemsize == 4 else jnp.int64)
        bits = jnp.where(part.has(ids)[:, None], bits, 0)
        bits = _psum_scatter(bits, spread.axis, tiled=True) if apart else _psum(bits, spread.axis)
        return jax.lax.bitcast_convert_type(bits, found.dtype)

    return spread.on_each_device(of_one, rows, (history, ids, now), along, (EVERYWHERE, along, EVERYWHERE))


@partial(jax.jit, static_argnums=(0, 1))
def summed(spread: Spread, trained: Traced, rows: Arrays, ids: jax.Array, gradients: jax.Array) -> Any:
    """The rows, and the sum of an id's gradients in one of its places, as `Traced.summed` makes it."""

    def of_one(rows: Arrays, ids: jax.Array, gradients: jax.Array) -> tuple[Arrays, jax.Array]:
        part = spread.part(rows)
        own = jnp.where(part.has(ids)[:, None], gradients, 0)
        sums = trained.summed(Operations(gradients.dtype), part, ids, own)
        return part.arrays, _psum(sums, spread.axis)

    return spread.on_each_device(of_one, rows, (ids, gradients), (spec(spread.axis), EVERYWHERE))


@partial(jax.jit, static_argnums=(0, 1))
def step(
    spread: Spread, trained: Traced, rows: Arrays, history: Arrays, ids: jax.Array, gradients: jax.Array, now: jax.Array,
    rate: jax.Array, written: jax.Array,
) -> Any:  # fmt: skip
    """The rows and the history after a step, as `Traced.step` makes it."""

    def of_one(
        rows: Arrays, history: Arrays, ids: jax.Array, gradients: jax.Array, now: jax.Array, rate: jax.Array, written: jax.Array
    ) -> tuple[Arrays, Arrays]:
        part = spread.part(rows)
        own = jnp.where(part.has(ids)[:, None], gradients, 0)  # those of others would be added to any row's
        history = trained.step(Operations(gradients.dtype), history, part, ids, own, now, rate, written)
        return part.arrays, history

    others = history, ids, gradients, now, rate, written
    return spread.on_each_device(of_one, rows, others, (spec(spread.axis), EVERYWHERE))


@partial(jax.jit, static_argnums=(0, 1))
def settle(spread: Spread | None, trained: Traced, rows: Arrays, history: Arrays, now: jax.Array) -> Any:
    """The rows with all deferred steps applied: compiled, so that nothing else of the table's size is made on the way."""

    def of_one(rows: Arrays, history: Arrays, now: jax.Array) -> Arrays:
        every = EveryRow(rows) if spread is None else spread.every(rows)
        trained.settle(Operations(rows["weights"].dtype), history, every, None, now)
        return every.arrays

    if spread is None:
        return of_one(rows, history, now)
    return spread.on_each_device(of_one, rows, (history, now), spec(spread.axis))


def gathered(axis: str, *arrays: jax.Array) -> tuple[tuple[jax.Array, ...], Callable[[jax.Array], jax.Array]]:
    """Within a `jax.shard_map`: the arrays of all devices that have others, one after the other; and what gives the own part.

    They are the same along all axes but `axis`, as JAX has to know: what a step makes of them is, too.
    """
    apart = frozenset().union(*map(varying, arrays))
    axes = tuple(name for name in jax.sharding.get_abstract_mesh().axis_names if name in apart)
    if not axes:
        return arrays, lambda lines: lines
    at, length = jax.lax.axis_index(axes), len(arrays[0])

    def of_all(array: jax.Array) -> Any:
        if axes == (axis,):
            return jax.lax.all_gather(array, axis, tiled=True)
        places = jnp.zeros((jax.lax.axis_size(axes), *array.shape), array.dtype).at[at].set(array)
        return _psum(places, axes).reshape(-1, *array.shape[1:])  # which JAX knows to be the same everywhere

    return tuple(map(of_all, arrays)), lambda lines: jax.lax.dynamic_slice_in_dim(lines, at * length, length)


def known(array: jax.Array) -> Any:
    """The array in NumPy, also where other processes have parts of it."""
    if isinstance(array.sharding, NamedSharding):
        array = jax.device_put(array, NamedSharding(array.sharding.mesh, EVERYWHERE))
    return np.asarray(array)

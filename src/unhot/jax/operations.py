"""The operations of `unhot.graph` in JAX, and rows in JAX's immutable arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import take_current_trace

from unhot import arrays


def traced_apart(array: Any) -> bool:
    """Whether JAX is tracing something on its own, inside of what the tracer `array` belongs to."""
    if not isinstance(array, jax.core.Tracer):
        return False
    with take_current_trace() as now:
        return array._trace is not now


def into_large_pages(array: Any) -> Any:
    """The array, in large pages from now on where it is in host memory; a donated one hands its memory on."""
    if not isinstance(array, jax.core.Tracer) and array.nbytes >= arrays.LARGE:
        for shard in array.addressable_shards:
            if shard.device.platform == "cpu":
                data = shard.data.block_until_ready()
                arrays.into_large_pages(data.unsafe_buffer_pointer(), data.nbytes)
    return array


def after(ids: Any, rows: int, reads: Iterable[Any]) -> Any:
    """Ids in [0, rows], but not before all of `reads` are there.

    To be written at: a loss that is linear in what was read, or what no loss is made of, would leave XLA free to write
    before it reads, and it then copies the whole table to read it later.
    """
    for read in reads:
        if read.size and isinstance(read, jax.core.Tracer) and not traced_apart(read):
            ids = jnp.where(read.reshape(-1)[0] == 0, ids, jnp.minimum(ids, rows))
    return ids


class Operations:
    """What the mathematics calls, for arrays of one dtype."""

    sqrt = staticmethod(jnp.sqrt)
    abs = staticmethod(jnp.abs)
    sign = staticmethod(jnp.sign)
    where = staticmethod(jnp.where)
    maximum = staticmethod(jnp.maximum)
    minimum = staticmethod(jnp.minimum)
    exp = staticmethod(jnp.exp)
    expm1 = staticmethod(jnp.expm1)
    log1p = staticmethod(jnp.log1p)
    stack = staticmethod(jnp.stack)
    zeros_like = staticmethod(jnp.zeros_like)
    ones_like = staticmethod(jnp.ones_like)
    full_like = staticmethod(jnp.full_like)
    reshape = staticmethod(jnp.reshape)
    constant = staticmethod(jnp.asarray)

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def fused(self, key: Any, function: Any) -> Any:
        """The function, compiled as one if that is not done by what runs it; functions with the same key do the same."""
        return function

    def length(self, count: int) -> int:
        """So many rows, or more so that fewer numbers of them have to be compiled."""
        return count

    def padded(self, ids: Any) -> Any:
        """The ids, of which some may be repeated at the end so that fewer lengths have to be compiled."""
        return ids

    def concat(self, parts: Any, axis: int = 0) -> Any:
        return jnp.concatenate(parts, axis)

    def sum(self, x: Any, axis: int) -> Any:
        return jnp.sum(x, axis)

    def mean_square(self, x: Any) -> Any:
        return jnp.mean(x * x, 1, keepdims=True)

    def flat(self, x: Any) -> Any:
        """The lines of a three-dimensional array."""
        return jnp.reshape(x, (x.shape[0], -1))

    def real(self, x: Any) -> Any:
        return jnp.asarray(x, self.dtype)

    def zeros(self, shape: Any, like: Any) -> Any:
        return jnp.zeros(shape, like.dtype)

    def arange(self, count: int) -> Any:
        return jnp.arange(count, dtype=jnp.int32)

    def places(self, x: Any) -> Any:
        return jnp.arange(len(x), dtype=jnp.int32)

    def take(self, x: Any, i: Any) -> Any:
        return x.at[i].get(mode="clip")

    def put(self, x: Any, i: Any, lines: Any) -> Any:
        return x.at[i].set(jnp.asarray(lines, x.dtype), mode="drop")

    def after(self, x: Any, alike: Any, lines: Any) -> Any:
        """x, but not before the lines are there; `alike` equals x, which the compiler must not know.

        An array that is written with what does not depend on what is read from it is copied, lest it be read too late.
        """
        return jnp.where(lines[:, 0] == lines[:, 0], x, alike)

    def sum_by(self, lines: Any, group: Any) -> Any:
        """As many lines, each the sum of the lines of the group of that number."""
        return jax.ops.segment_sum(lines, group, len(group))


class ArrayRows:
    """`unhot.graph.engine.Rows` in immutable arrays: writing replaces the array, which a donated buffer makes free."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays = dict(arrays)

    def take(self, name: str, ids: Any) -> Any:
        return self.arrays[name].at[ids].get(mode="clip")

    def put(self, name: str, ids: Any, lines: Any) -> None:
        array = self.arrays[name]
        self.arrays[name] = array.at[ids].set(jnp.asarray(lines, array.dtype), mode="drop")


class EveryRow(ArrayRows):
    """Rows of which all are read and written at once, in their order, whatever the ids."""

    def take(self, name: str, ids: Any) -> Any:
        return self.arrays[name]

    def put(self, name: str, ids: Any, lines: Any) -> None:
        self.arrays[name] = lines

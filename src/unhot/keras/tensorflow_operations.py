"""The operations of `unhot.graph` in TensorFlow; arrays that stay, such as rows and histories, are `tf.Variable`s."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
import tensorflow as tf

from unhot.graph.history import Arrays
from unhot.keras.kinds import Tensor

Function = Callable[..., Tensor]


class Operations:
    """What the mathematics calls, for arrays of one dtype."""

    sqrt = staticmethod(tf.sqrt)
    abs = staticmethod(tf.abs)
    sign = staticmethod(tf.sign)
    exp = staticmethod(tf.exp)
    expm1 = staticmethod(tf.math.expm1)
    log1p = staticmethod(tf.math.log1p)
    zeros_like = staticmethod(tf.zeros_like)
    ones_like = staticmethod(tf.ones_like)
    reshape = staticmethod(tf.reshape)
    constant = staticmethod(tf.constant)

    def __init__(self, dtype: str) -> None:
        self.dtype = tf.as_dtype(dtype)

    def _alike(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Numbers beside tensors take the tensors' dtype."""
        dtype = next(
            (value.dtype for value in values if hasattr(value, "dtype") and not isinstance(value, np.ndarray)), self.dtype
        )
        return tuple(value if tf.is_tensor(value) else _as(dtype, value) for value in values)

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return tf.where(condition, *self._alike(x, y))

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        return tf.maximum(*self._alike(x, y))

    def minimum(self, x: Tensor, y: Tensor) -> Tensor:
        return tf.minimum(*self._alike(x, y))

    def stack(self, parts: Tensor, axis: int = 0) -> Tensor:
        # Not `tf.stack`: Grappler cancels it with the slice `c[:, i, None]` that follows, and forgets the new axis.
        return tf.concat([tf.expand_dims(self.real(part), axis) for part in parts], axis)

    def fused(self, key: Hashable, function: Function) -> Function:
        """The function, compiled as one if that pays; functions with the same key do the same."""
        return function

    def length(self, count: int) -> int:
        """So many rows, or more so that fewer numbers of them have to be compiled."""
        return count

    def padded(self, ids: Tensor) -> Tensor:
        """The ids, of which the last may be repeated so that fewer lengths have to be compiled."""
        return ids

    def concat(self, parts: Tensor, axis: int = 0) -> Tensor:
        return tf.concat(parts, axis)

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return tf.reduce_sum(x, axis)

    def mean_square(self, x: Tensor) -> Tensor:
        return tf.reduce_mean(x * x, 1, keepdims=True)

    def flat(self, x: Tensor) -> Tensor:
        """The lines of a three-dimensional array."""
        return tf.reshape(x, (-1, x.shape[1] * x.shape[2]))

    def real(self, x: Tensor) -> Tensor:
        return _as(self.dtype, x)

    def full_like(self, x: Tensor, value: Tensor) -> Tensor:
        return tf.zeros_like(x) + _as(x.dtype, value)

    def zeros(self, shape: Tensor, like: Tensor) -> Tensor:
        return tf.zeros(shape, like.dtype)

    def arange(self, count: int) -> Tensor:
        return tf.range(count, dtype=tf.int32)

    def places(self, x: Tensor) -> Tensor:
        return tf.range(tf.size(x), dtype=tf.int32)

    def sum_by(self, lines: Tensor, group: Tensor) -> Tensor:
        """As many lines, each the sum of the lines of the group of that number."""
        return tf.math.unsorted_segment_sum(lines, group, tf.size(group))

    def take(self, x: Tensor, i: Tensor) -> Tensor:
        return gathered(x, i) if isinstance(x, tf.Variable | Lines) else tf.gather(x, i)

    def put(self, x: Tensor, i: Tensor, lines: Tensor) -> Tensor:
        """`x` with its lines `i` replaced: a variable itself, or a new tensor."""
        lines = tf.cast(lines, x.dtype)
        single = len(i.shape) == 0
        i, lines = (tf.reshape(i, (1,)), lines[None]) if single else (i, lines)
        if isinstance(x, tf.Variable):
            x.scatter_update(tf.IndexedSlices(lines, i))
            return x
        return tf.tensor_scatter_nd_update(x, i[:, None], lines)

    def after(self, x: Tensor, alike: Tensor, lines: Tensor) -> Tensor:
        """x, but not before the lines are there; `alike` equals x, which XLA must not know, or it copies the variable."""
        return tf.where(lines[:, 0] == lines[:, 0], x, alike)


@dataclass(frozen=True)
class Lines:
    """A variable's lines within a compiled function, which knows it by its handle only."""

    handle: Tensor
    dtype: Tensor


def _compiled(function: Function, dtype: Tensor) -> Function:
    """The function of a history and other arrays, as one of the handles of its variables, and of its tensors."""

    def of_handles(lines: Arrays, tensors: Arrays, *others: Tensor) -> Tensor:
        if not tf.config.functions_run_eagerly():
            graph = tf.compat.v1.get_default_graph()
            for name in graph.collections:  # those of the graph around it, whose tensors would stay as long as this function
                graph.clear_collection(name)
        return function({**{name: Lines(handle, dtype) for name, handle in lines.items()}, **tensors}, *others)

    return tf.function(of_handles, jit_compile=True, autograph=False)  # type: ignore[no-any-return]


COMPILED: WeakValueDictionary[Hashable, Function] = WeakValueDictionary()
"""What is compiled, which many tables share: tracing and compiling it takes seconds."""


class Fused(Operations):
    """The same in a graph that is no export's: what is done to rows is compiled as one, and passes over them once."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self.compiled: dict[Hashable, Function] = {}

    def fused(self, key: Hashable, function: Function) -> Function:
        if key not in self.compiled:
            self.compiled[key] = COMPILED.get(key) or _compiled(function, self.dtype)
            COMPILED[key] = self.compiled[key]
        compiled = self.compiled[key]

        def call(history: Arrays, *others: Tensor) -> Tensor:
            # Of variables their handles: TensorFlow would want those that it traced with to stay.
            lines, tensors = {}, {}
            for name, value in history.items():
                if not isinstance(value, tf.Variable):
                    tensors[name] = value
                elif len(value.shape):
                    lines[name] = value.handle
                else:
                    tensors[name] = as_it_is(value)
            return compiled(lines, tensors, *others)

        return call

    def length(self, count: int) -> int:
        """A multiple of 16, or one of eight from n to 2 n."""
        unit = max(16, 1 << max(count.bit_length() - 4, 0))
        return -(-count // unit) * unit

    def padded(self, ids: Tensor) -> Tensor:
        """Eight lengths from n to 2 n."""
        if ids.shape[0] is not None:
            return ids
        size = tf.size(ids)
        octave = tf.floor(tf.math.log(tf.cast(tf.maximum(size, 1), tf.float64)) / np.log(2.0))
        unit = tf.cast(2.0 ** tf.maximum(octave - 3.0, 0.0), tf.int32)
        return tf.gather(ids, tf.minimum(tf.range((size + unit - 1) // unit * unit), size - 1))


def _as(dtype: Tensor, value: Tensor) -> Tensor:
    """A tensor, or a number as it is: `tf.cast` would make float32 of it first."""
    return tf.cast(value, dtype) if hasattr(value, "dtype") else tf.constant(value, dtype)


def gathered(variable: Tensor, ids: Tensor) -> Tensor:
    """The lines `ids` of a variable, read so that neither tapes nor the graph's list of its variables hear of it.

    Nothing is differentiated here, and a tape that watched the weights would have compiled functions give what it may need.
    `model.export` writes all variables on that list, beside those that the saved function then uses.
    """
    return tf.raw_ops.ResourceGather(resource=variable.handle, indices=ids, dtype=variable.dtype)


def as_it_is(variable: Tensor) -> Tensor:
    """The value of a variable, read in the same way."""
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


class VariableRows:
    """`unhot.graph.engine.Rows` in variables, which are written in place."""

    def __init__(self, variables: dict[str, Tensor], rows: int) -> None:
        self.variables, self.rows = variables, rows

    def take(self, name: str, ids: Tensor) -> Tensor:
        return gathered(self.variables[name], self._within(ids))

    def put(self, name: str, ids: Tensor, lines: Tensor) -> None:
        # Ids beyond the table come from settling in turn only. The last row's line is then written again as it is.
        self.variables[name].scatter_update(tf.IndexedSlices(lines, self._within(ids)))

    def _within(self, ids: Tensor) -> Tensor:
        return tf.minimum(ids, tf.cast(self.rows - 1, ids.dtype))

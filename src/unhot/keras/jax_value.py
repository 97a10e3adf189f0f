"""What stands for the arrays of an owned table in a step on JAX: pytrees that look like settled arrays to all who use them.

Keras hands a compiled step the values of the model's trainable variables, and nothing else is known both in the forward pass
and in the optimizer.  So the value of an owned table holds all that a step needs: weights, slots, history and last touches.
The values of its slots hold nothing but the step at which they were: their arrays travel with the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from unhot.jax.operations import into_large_pages
from unhot.keras._private import anywhere_like, same_trace
from unhot.keras.jax_lookup import read
from unhot.keras.jax_training import TableTraining, traced
from unhot.keras.kinds import Tensor


class SettledView(jax.Array):
    """An array to all who use it, which becomes one when its numbers are asked for."""

    training: TableTraining

    def todense(self) -> jax.Array:
        """The array."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        return self.training.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.training.traced.dtype)

    @property
    def ndim(self) -> int:
        return 2

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __jax_array__(self) -> jax.Array:
        return self.todense()

    def __array__(self, dtype: np.dtype[Any] | None = None, context: None = None, copy: bool | None = None) -> Tensor:
        return np.asarray(self.todense(), dtype=dtype)

    def __repr__(self) -> str:
        return repr(self.todense())

    def __hash__(self) -> int:
        raise TypeError(f"unhashable type: '{type(self).__name__}'")


def _of_the_array(name: str) -> property:
    return property(lambda self: getattr(self.todense(), name))


def _operator(name: str) -> Callable[..., Tensor]:
    return lambda self, *args: getattr(self.todense(), name)(*map(_array, args))


def _array(value: Tensor) -> Tensor:
    return value.todense() if isinstance(value, SettledView) else value


OPERATORS = [
    *("neg", "pos", "abs", "invert", "round", "float", "int", "index", "complex", "bool", "iter", "getitem", "format"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
    *(
        side + name
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "and", "or", "xor")
        for side in ("", "r")
    ),
]
for _name in OPERATORS:
    setattr(SettledView, f"__{_name}__", _operator(f"__{_name}__"))
for _name in dir(jax.Array):
    if not _name.startswith("_") and _name not in vars(SettledView):
        setattr(SettledView, _name, _of_the_array(_name))


class TableValue(SettledView):
    """The value of an owned table: its arrays, some rows of which may have deferred steps.

    As a gradient, which JAX gives the same form, it is one whose weights are the gradient.
    """

    def __init__(self, training: TableTraining, arrays: Mapping[str, Tensor], settled: bool = False) -> None:
        self.training, self.arrays = training, dict(arrays)
        self.settled = settled
        """Whether it is known that no step is deferred."""
        self.passed: jax.Array | None = None
        """The weights as the latest lookup has passed them on; see `jax_lookup`."""

    def todense(self) -> jax.Array:
        """The settled weights; their gradient is that of the weights."""
        weights: jax.Array
        if not traced(self.arrays):
            weights = self.settle().arrays["weights"]
        elif self.settled:
            weights = self.arrays["weights"]
        else:
            weights = self.read(None)
        return weights

    def read(self, ids: Tensor | None) -> jax.Array:
        """The settled vectors of the flat `ids`, or all of them, with their gradient."""
        weights: jax.Array = self.arrays["weights"]
        if ids is None and self.training.gradients.get(weights) is not None:
            return weights
        arrays = {**self.arrays, "weights": weights if self.passed is None else self.passed}
        found: jax.Array
        found, passed = read(self.training, arrays, ids)
        if same_trace(passed, weights):
            self.passed = passed
        return found

    def settle(self) -> Self:
        """This value, once all deferred steps of its arrays, which are known, are applied."""
        if not self.settled:
            with jax.core.eval_context():  # whatever JAX is tracing
                if self.training.late(self.arrays):
                    self.arrays = self.training.settled(self.arrays)
            self.settled = True
        return self

    def all_settled(self) -> TableValue:
        """The same value with all deferred steps applied."""
        if not traced(self.arrays):
            return self.settle()
        return self if self.settled else TableValue(self.training, self.training.settled(self.arrays), settled=True)

    def replaced(self, **arrays: Tensor) -> TableValue:
        """The settled value with other weights or slots."""
        return TableValue(self.training, {**self.all_settled().arrays, **self.training.placed(arrays)}, settled=True)

    def slot(self, name: str) -> SlotValue:
        """What stands for a slot beside this value: with a clock of its own, lest JAX be given one array twice."""
        return SlotValue(self.training, name, jnp.array(self.arrays["clock"], copy=True))

    def in_large_pages(self) -> Self:
        """This value, in large pages."""
        for array in self.arrays.values():
            into_large_pages(array)
        return self

    def alive(self) -> bool:
        """Whether JAX has not given the memory to another array."""
        return not any(getattr(array, "is_deleted", bool)() for array in self.arrays.values())

    @property
    def sharding(self) -> Any:
        """That of the weights. Where `keras.distribution` has put the table, its arrays have several.

        Keras's trainer hands it to `jax.jit` for all of them, which then leaves them where the step has put them.
        """
        sharding = self.arrays["weights"].sharding
        return sharding if self.training.devices is None else anywhere_like(sharding)

    def is_deleted(self) -> bool:
        return not self.alive()

    def block_until_ready(self) -> Self:
        for array in self.arrays.values():
            array.block_until_ready()
        return self

    def copy(self) -> TableValue:
        return TableValue(self.training, {name: jnp.copy(array) for name, array in self.arrays.items()}, self.settled)


class SlotValue(SettledView):
    """The value of a slot of an owned table, whose array travels in the table's value at the step `clock`."""

    def __init__(self, training: TableTraining, name: str, clock: Tensor) -> None:
        self.training, self.name, self.clock = training, name, clock

    @property
    def shape(self) -> tuple[int, ...]:
        return self.training.traced.slot_shape(self.name, self.training.shape[1])

    @property
    def sharding(self) -> jax.sharding.Sharding:
        sharding: jax.sharding.Sharding = self.clock.sharding  # not of the settled slot, which takes a pass over the table
        return sharding

    def is_of(self, value: TableValue) -> bool:
        """Whether it belongs to this value, as far as the clocks tell, which are known."""
        clocks = self.clock, value.arrays["clock"]
        if self.training is not value.training or traced(clocks) or any(clock.is_deleted() for clock in clocks):
            return False
        return bool(np.asarray(clocks[0]) == np.asarray(clocks[1]))

    def todense(self) -> jax.Array:
        """The settled slot."""
        return self.training.slot(self)


def _flatten_table(value: TableValue) -> tuple[tuple[jax.Array, ...], TableTraining]:
    return tuple(value.arrays[name] for name in value.training.names), value.training


def _unflatten_table(training: TableTraining, leaves: Sequence[jax.Array]) -> TableValue:
    return TableValue(training, dict(zip(training.names, leaves, strict=True)))


def _flatten_slot(value: SlotValue) -> tuple[tuple[jax.Array], tuple[TableTraining, str]]:
    return (value.clock,), (value.training, value.name)


def _unflatten_slot(known: tuple[TableTraining, str], leaves: Sequence[jax.Array]) -> SlotValue:
    return SlotValue(*known, *leaves)


jax.tree_util.register_pytree_node(TableValue, _flatten_table, _unflatten_table)
jax.tree_util.register_pytree_node(SlotValue, _flatten_slot, _unflatten_slot)

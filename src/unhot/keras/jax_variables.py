"""What JAX's trainer carries of an owned table: its arrays as float variables, and Keras's own variables in front of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from keras.src.backend import Variable
from keras.src.backend.common.stateless_scope import in_stateless_scope

from unhot.jax.operations import ArrayRows, into_large_pages
from unhot.keras.settled import Owned

MASK = np.int32(0x40000000)
"""Integers are carried as the floats whose bits they are, those of small numbers turned away from denormals."""

INTEGERS = ("last", "place")


class Carrier(Owned, Variable):  # type: ignore[misc]
    """An array of an owned table, as a trainable variable of the table's layer."""

    def __init__(self, training: Any, name: str, array: Any) -> None:
        facing = training.variable
        with jax.ensure_compile_time_eval():
            super().__init__(array, dtype=array.dtype.name, autocast=False, name=f"{facing.name}_{name}")
        self._path = f"{facing.path}_{name}"
        self.training = training

    def _direct_assign(self, value: Any) -> None:
        super()._direct_assign(into_large_pages(value))

    @property
    def trainable(self) -> bool:
        trainable: bool = self.training.variable.trainable
        return trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """That of the layer's variable counts."""


class Facing(Owned):
    """A variable without a value of its own, that shows what its carrier holds."""

    carrier: Any

    @property
    def _value(self) -> Any:
        return self.carrier._value

    @_value.setter
    def _value(self, value: Any) -> None:
        self.carrier._value = value

    @property
    def value(self) -> Any:
        this: Any = self
        return this._maybe_autocast(self.training.shown(self))

    def assign(self, value: Any) -> Any:
        this: Any = self
        value = this._convert_to_tensor(value, dtype=this._dtype)
        if value.shape != this.shape:
            return super().assign(value)  # type: ignore[misc]  # raises
        self.settle()
        return self.carrier.assign(value)

    def __repr__(self) -> str:
        this: Any = self
        return f"<Variable path={this.path}, shape={this.shape}, dtype={this.dtype}, value={this.numpy()}>"


class Counter(Owned):
    """The optimizer's `iterations`, which the clocks of its tables follow if someone else writes it."""

    owner: Any

    def assign(self, value: Any) -> Any:
        result = super().assign(value)  # type: ignore[misc]
        optimizer = self.owner()
        if optimizer is not None and not in_stateless_scope():
            for table in optimizer._tables.values():
                table.follow_iterations(optimizer)
        return result


class CarriedRows(ArrayRows):
    """Rows whose integers are carried as floats."""

    def take(self, name: str, ids: Any) -> Any:
        lines = super().take(name, ids)
        return integers(lines) if name in INTEGERS else lines

    def put(self, name: str, ids: Any, lines: Any) -> None:
        super().put(name, ids, carried(lines) if name in INTEGERS else lines)


def carried(numbers: Any) -> Any:
    return jax.lax.bitcast_convert_type(jnp.asarray(numbers, jnp.int32) ^ MASK, jnp.float32)


def integers(floats: Any) -> Any:
    return jax.lax.bitcast_convert_type(floats, jnp.int32) ^ MASK

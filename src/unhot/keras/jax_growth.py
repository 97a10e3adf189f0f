"""Rows that are added to Keras's variables on JAX: larger arrays take the place of those that are there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from unhot.atomic import Call, together
from unhot.jax.operations import into_large_pages
from unhot.keras._private import layout_of, nnx_enabled, raw, stateless_scope
from unhot.keras.backend import New
from unhot.keras.jax_training import traced
from unhot.keras.jax_value import SlotValue
from unhot.keras.kinds import Variable


def require_between_steps(variable: Variable, slots: Sequence[Variable]) -> None:
    """Raise RuntimeError where a step has the values of the variables, which would be lost."""
    values = [raw(one) for one in (variable, *slots) if not isinstance(raw(one), SlotValue)]  # part of the table's
    if stateless_scope() is not None or any(traced([value]) for value in values):
        raise RuntimeError(f"the rows of {variable.path} change between steps only, and not within a function that JAX traces.")
    if any(value is None or value.is_deleted() for value in values):
        raise RuntimeError(
            f"the rows of {variable.path} cannot change now: Keras's trainer, or a loop of your own, has the values of its"
            " variables. In a callback of `fit`, call `model.jax_state_sync()` before, or change rows in `on_epoch_begin` or"
            " `on_epoch_end`. In a loop of your own, assign the values to the variables before."
        )
    if nnx_enabled():
        raise RuntimeError(f"the rows of {variable.path} cannot change where flax's NNX tracks its values.")


def put(new: Sequence[New], notes: Sequence[Call]) -> None:
    """Write rows into variables that nobody trains, and make the calls `notes` together with that."""
    together([*[_putting(one) for one in new], *notes])


def _putting(new: New) -> Call:
    variable, again, values, axis = new
    given = jnp.asarray(values, raw(variable).dtype)
    places = (*[slice(None)] * axis, again)

    def joined(there: jax.Array, given: jax.Array) -> jax.Array:
        instead, added = jnp.split(given, [len(again)], axis)
        return jnp.concatenate([there.at[places].set(instead), added], axis)

    if layout_of(variable) is None:
        made = joined(raw(variable), given)
    else:  # compiled, so that JAX makes each device's part, and no other
        rows = variable.shape[axis] + values.shape[axis] - len(again)
        made = jax.jit(joined, out_shardings=_sharding(variable, rows, axis))(raw(variable), given)
    return partial(variable.__dict__.update, _value=into_large_pages(made), _shape=tuple(made.shape))


def _sharding(variable: Variable, rows: int, axis: int) -> jax.sharding.Sharding:
    """Where `keras.distribution` has put a variable, which is to have so many rows along the axis.

    Raises: ValueError for a number of rows that does not divide.
    """
    sharding: jax.sharding.Sharding = raw(variable).sharding
    parts = variable.shape[axis] // sharding.shard_shape(variable.shape)[axis]
    if rows % parts:
        raise ValueError(
            f"{rows} rows of {variable.path} do not divide into equal parts for the {parts} devices over which"
            f" keras.distribution spreads them. Add {-rows % parts} more."
        )
    return sharding

"""Rows that are added to Keras's variables on TensorFlow, and the functions that were made for the rows before."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial

import tensorflow as tf

from unhot.atomic import Call, together
from unhot.keras._private import raw
from unhot.keras.backend import New
from unhot.keras.kinds import Variable
from unhot.keras.tensorflow_variables import TableVariable


def require_between_steps(variable: Variable, slots: Sequence[Variable]) -> None:
    """Raise RuntimeError within a function, or where a variable has copies."""
    if not tf.executing_eagerly():
        raise RuntimeError(f"the rows of {variable.path} change between steps only, and not within a tf.function.")
    if tf.distribute.has_strategy() or hasattr(raw(variable), "_distributed_container"):
        raise RuntimeError(f"the rows of {variable.path} cannot change under a tf.distribute strategy.")


def forget_graphs(variable: Variable) -> None:
    """Graphs that read the variable as it was raise an error from now on.

    Raises: RuntimeError if there is one that could not.
    """
    if not isinstance(variable, TableVariable):
        return
    if variable.readers.blind():
        gc.collect()  # graphs are full of cycles, and outlive their functions
    if variable.readers.blind():
        raise RuntimeError(
            f"the rows of {variable.path} cannot change as long as there is a tf.function that reads the table, is not called"
            " with training=True, and would go on with the rows as they are now. Delete it, and make it anew afterwards."
        )
    variable.readers.forget()


def key_of(variable: Variable) -> str | None:
    """What an optimizer knows the variable by: the first that there was in its place."""
    found: str | None = getattr(getattr(variable, "_value", variable), "unhot_key", None)
    return found


def put(new: Sequence[New], notes: Sequence[Call]) -> None:
    """Write rows into variables that nobody trains, and make the calls `notes` together with that."""
    together([*[_putting(one) for one in new], *notes])


def _putting(new: New) -> Call:
    variable, again, values, axis = new
    held = raw(variable)
    instead, added = tf.split(tf.cast(values, held.dtype), [len(again), -1], axis)
    first = [axis, *(other for other in range(len(held.shape)) if other != axis)]  # which swaps both ways
    kept = tf.transpose(
        tf.tensor_scatter_nd_update(tf.transpose(held, first), again[:, None], tf.transpose(instead, first)), first
    )
    made = tf.Variable(
        tf.concat([kept, added], axis),
        trainable=held.trainable,
        name=variable.name,
        aggregation=held.aggregation,
        synchronization=held.synchronization,
    )
    made.unhot_key = getattr(held, "unhot_key", held._unique_id)
    return partial(variable.__dict__.update, _value=made, _shape=tuple(made.shape))

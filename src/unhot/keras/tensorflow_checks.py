"""Ids out of range in a graph of TensorFlow: the run stops before any variable is written."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import cast

import tensorflow as tf

from unhot.keras._private import being_saved, compiled_by_xla, stateless_scope
from unhot.keras.backend import Function, Owner
from unhot.keras.kinds import Gradient, Option, Tensor

REFUSED = "unhot_ids_out_of_range"
"""The collection of a graph that has, for each lookup that cannot stop the run, whether an id was out of range."""


def stop_if_bad(ids: Tensor, bad: Tensor, given: Tensor, name: str, rows: int) -> tuple[Tensor, Tensor | None]:
    """The ids, which stop the run of the graph if one of those `given` is bad; and the mask of bad ones, if they may not.

    In a graph that XLA compiles nothing can stop a run. There the optimizer makes no step instead.
    """
    if tf.executing_eagerly() or stateless_scope() is not None:
        return ids, bad
    graph = tf.compat.v1.get_default_graph()
    if compiled_by_xla(graph):
        graph.add_to_collection(REFUSED, tf.reduce_any(bad))
        return ids, bad
    stop = tf.cond(tf.reduce_any(bad), lambda: _stop(bad, given, name, rows), tf.no_op)
    with tf.control_dependencies([stop]):
        ids = tf.identity(ids)
    return ids, bad if being_saved() else None  # TensorFlow Lite drops asserts, too


def _stop(bad: Tensor, given: Tensor, name: str, rows: int) -> Tensor:
    # Not `unhot.ids.no_row`: the message is made when the graph runs.
    # Within `tf.vectorized_map` this branch also runs for no ids at all, where `tf.where` would have no shape.
    first = tf.argmax(tf.reshape(tf.cast(bad, tf.int32), (-1,)), output_type=tf.int32)
    place = tf.unravel_index(first, tf.shape(bad))
    message = tf.strings.format(
        f"id {{}} at position {{}} of the ids of layer {name} is not the number of a row: the table has rows 0 to"
        f" {rows - 1}. Check the ids, or set out_of_range of the layer.",  # TensorFlow would escape quotation marks
        (tf.gather_nd(given, place), place),
    )
    return tf.debugging.Assert(tf.logical_not(tf.reduce_any(bad)), [message])


def all_or_nothing(apply: Function) -> Function:
    """An optimizer's `apply` that writes nothing in a graph before all gradients are there; and nothing at all if XLA has
    compiled the graph and an id is out of range.
    """

    @functools.wraps(apply)
    def applied(optimizer: Owner, grads: Iterable[Gradient], *args: Option, **kwargs: Option) -> None:
        grads = list(grads)
        begins = not optimizer.built  # TensorFlow discards the trace
        if tf.executing_eagerly() or stateless_scope() is not None or begins:
            apply(optimizer, grads, *args, **kwargs)
            return
        parts = [part for part in tf.nest.flatten(grads, expand_composites=True) if part is not None]
        graph = tf.compat.v1.get_default_graph()
        refused = [bad for bad in graph.get_collection(REFUSED) if bad.graph is graph]
        with tf.control_dependencies(parts):
            if not refused:
                apply(optimizer, grads, *args, **kwargs)
                return

            def step() -> None:  # with gradients of its own graph, as Keras's sum over replicas wants them
                apply(optimizer, tf.nest.map_structure(_own, grads, expand_composites=True), *args, **kwargs)

            tf.cond(tf.reduce_any(tf.stack(refused)), lambda: None, step)

    return cast("Function", applied)


def _own(gradient: Gradient) -> Gradient:
    return None if gradient is None else tf.identity(gradient)

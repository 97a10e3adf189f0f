"""Layers called eagerly and in graphs, and what is found out about them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops
from selection import slow, some

from unhot.keras._private import ON
from unhot.keras.backends import backend

BACKEND = keras.backend.backend()

unpublished = pytest.mark.skipif(not ON and BACKEND == "tensorflow", reason="needs names that TensorFlow does not publish")
"""For tests of what the fallbacks in `unhot.keras._private` do otherwise."""

IDS = np.array([[3, 0, 7, 3], [39, 1, 0, 0]], dtype="int32")
FIT: dict[str, Any] = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}


def few(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """`some`, but on torch all: there no case takes a second, where elsewhere it waits for several to compile a model."""
    values = list(values)
    return some(values, values if BACKEND == "torch" else fast)


def slow_but_on_torch(test: Any) -> Any:
    """For a test without parameters, or a class of tests."""
    return test if BACKEND == "torch" else slow(test)


def numbers(tensor: Any) -> Any:
    return np.array(ops.convert_to_numpy(tensor))


def in_graph(layer: Any, jit_compile: bool = True) -> Callable[[Any], Any]:
    """The layer inside a graph, which knows no ids when it is made; on TensorFlow, with or without XLA.

    `torch.compile` takes seconds for each graph: `test_torch_compile` goes through it, here its ids are hidden.
    """
    if BACKEND == "torch":
        import torch

        def call(ids: Any) -> Any:
            with mock.patch.object(backend, "concrete", return_value=None):
                return layer(torch.as_tensor(ids))

        return call
    if BACKEND == "jax":
        import jax

        return jax.jit(lambda ids: layer(ids))
    import tensorflow as tf

    return tf.function(lambda ids: layer(ids), jit_compile=jit_compile)


def trains_rows(optimizer: Any, variable: Any) -> bool:
    """Whether the optimizer trains the rows of a table; not known on the fallback of `made_by_trainer`."""
    return optimizer.table(variable) is not None or (BACKEND == "tensorflow" and not ON)


def by_rows() -> Any:
    """While this holds, no step may take a table as a whole."""
    return mock.patch.object(backend, "dense_step", side_effect=AssertionError("a step of all rows"))


def gradients(loss: Callable[[], Any], variables: list[Any]) -> list[Any]:
    """The gradients of a loss, in the backend's own way."""
    if BACKEND == "torch":
        for variable in variables:
            variable.value.grad = None
        loss().backward()
        return [numbers(variable.value.grad) for variable in variables]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        return [numbers(tf.convert_to_tensor(g)) for g in tape.gradient(value, [v.value for v in variables])]
    import jax

    def stateless(values: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return loss()

    return [numbers(g) for g in jax.grad(stateless)([v.value for v in variables])]

"""The same training twice: with Keras's layers and optimizers, and with unhot's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

import unhot.keras

ALLOWED = 1e-8
"""Relative to a weight, or to 1 if it is smaller. Rows of float64 agree to 1e-9; the few steps of these small models, at rates
of at most 0.05, do not make ten times as much of it."""

ROWS = 17_000
"""On JAX and TensorFlow, Keras itself trains tables of fewer than 16,384 rows."""

BACKEND = keras.backend.backend()
COMPILED = BACKEND != "torch"
"""Whether a step is compiled, which takes most of a test's time: there, each test has a single case."""

STOCK = SimpleNamespace(
    Embedding=keras.layers.Embedding, ReversibleEmbedding=keras.layers.ReversibleEmbedding, Adam=keras.optimizers.Adam,
    AdamW=keras.optimizers.AdamW, convert=lambda model: (model, None),
)  # fmt: skip


ADAM = {"learning_rate": 2**-7, "beta_1": 0.875, "beta_2": 1 - 2**-10, "epsilon": 2**-23}
"""Fractions of two: on TensorFlow, Keras takes other numbers as float32 even where the weights are float64."""


def ids(*shape: int, seed: int = 0) -> Any:
    """Row numbers, small ones most often, but for TensorFlow: there Keras squares each gradient of a repeated id by itself."""
    rng = np.random.default_rng(seed)
    if BACKEND == "tensorflow":
        return rng.choice(ROWS, size=shape, replace=False).astype("int32")
    return np.minimum(rng.zipf(1.2, size=shape) - 1, ROWS - 1).astype("int32")


def compiled(model: keras.Model, optimizer: Any, **given: Any) -> keras.Model:
    """Without compilation on torch, which would take a quarter of a minute."""
    model.compile(optimizer=optimizer, jit_compile="auto" if COMPILED else False, **{"loss": "mse", **given})
    return model


def assert_same(train: Callable[[Any], keras.Model]) -> None:
    """`train`, given Keras's classes and then unhot's, ends with the same weights from the same seeds."""
    weights = []
    for names in (STOCK, unhot.keras):
        keras.utils.set_random_seed(0)
        model = train(names)
        weights.append([keras.ops.convert_to_numpy(weight) for weight in model.weights])
    paths = [weight.path for weight in model.weights]
    for path, wanted, found in zip(paths, *weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=ALLOWED, atol=ALLOWED, err_msg=path)

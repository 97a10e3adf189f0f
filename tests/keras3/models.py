"""The same model twice: with the table under test, and with one-hot vectors and Keras's own optimizer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

import unhot.keras

ROWS, DIM, LENGTH = 40, 3, 4
EPSILON = float(np.finfo(np.float32).eps)


@keras.saving.register_keras_serializable("tests")
class OneHotDense(keras.layers.Layer):
    """one-hot(ids) x kernel."""

    def __init__(self, rows: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.dim = rows, dim

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(shape=(self.rows, self.dim), initializer="uniform", name="embeddings")

    def call(self, ids: Any) -> Any:
        return ops.matmul(ops.one_hot(ops.cast(ids, "int32"), self.rows, dtype=self.compute_dtype), self.embeddings)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows, "dim": self.dim}


class DenselyTrained(keras.layers.Embedding):
    """Keras's layer with a dense gradient on TensorFlow too, where repeated ids are otherwise squared apart."""

    def call(self, ids: Any) -> Any:
        return ops.take(self.embeddings * 1.0, ids, axis=0)


def table(**options: Any) -> Any:
    return unhot.keras.Embedding(ROWS, DIM, name="table", **options)


def one_hot(**options: Any) -> Any:
    return OneHotDense(ROWS, DIM, name="table", **options)


def model_with(layer: Any) -> keras.Model:
    """ids -> vectors -> a small network with weights of its own."""
    ids = keras.Input((LENGTH,), dtype="int32")
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")(keras.layers.Flatten()(layer(ids)))
    return keras.Model(ids, keras.layers.Dense(1, name="out")(hidden))


def pair(ours: Any, theirs: Any, build: Any = model_with, **compile_options: Any) -> tuple[keras.Model, keras.Model]:
    """The models with the same weights, compiled with an optimizer each."""
    models = build(table()), build(one_hot())
    models[1].set_weights(models[0].get_weights())
    for model, optimizer in zip(models, (ours, theirs), strict=True):
        model.compile(optimizer=optimizer, loss="mse", **compile_options)
    return models


def data(samples: int = 48, seed: int = 0) -> tuple[Any, Any]:
    """Ids with repeats, of which some never occur, and targets."""
    random = np.random.default_rng(seed)
    ids = np.minimum(random.zipf(1.3, (samples, LENGTH)) - 1, ROWS - 5).astype("int32")
    return ids, random.normal(size=(samples, 1)).astype("float32")


def assert_same(ours: keras.Model, theirs: keras.Model, allowed: float = 300 * EPSILON) -> None:
    """Weights and the optimizer's state agree, within what a float32 run of these sizes may lose in some 30 steps."""
    for name, mine, other in zip((v.path for v in theirs.weights), ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=allowed, atol=allowed, err_msg=name)
    state = [[np.asarray(ops.convert_to_numpy(v.value)) for v in m.optimizer._variables] for m in (ours, theirs)]
    for variable, mine, other in zip(theirs.optimizer._variables, *state, strict=True):
        # Averages of gradients cancel: what they are rounded to is the gradients' size, of the order of 1 here.
        scale = max(np.abs(other).max(initial=0.0), 0.1 if "momentum" in variable.path else 1e-3)
        np.testing.assert_allclose(mine, other, rtol=allowed, atol=allowed * scale, err_msg=variable.path)


def compiled_step(model: Any, jit_compile: bool = False) -> Any:
    """A training step of the user's own on TensorFlow: gives the loss of ids and what is wanted."""
    import tensorflow as tf

    @tf.function(jit_compile=jit_compile)
    def step(ids: Any, wanted: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(ids, training=True) - wanted) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return step

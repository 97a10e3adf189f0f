"""Subclasses written for `keras.layers.Embedding` do over `unhot.keras.Embedding` what they did before."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import unhot.keras

from .calls import BACKEND, IDS, numbers
from .models import DIM, ROWS
from .test_fit import both


def reducing(base: Any) -> Any:
    """As `keras_rs.layers.EmbedReduce`: it has a combiner of its own, and reduces what the layer's `call` gives."""

    class EmbedReduce(base):
        def __init__(self, *args: Any, combiner: str = "mean", **options: Any) -> None:
            super().__init__(*args, **options)
            self.combiner = combiner

        def call(self, inputs: Any, weights: Any = None) -> Any:
            vectors = super().call(inputs)
            if weights is None:
                weights = ops.ones_like(inputs, dtype=vectors.dtype)
            weights = ops.expand_dims(ops.convert_to_tensor(weights, sparse=False), -1)
            total = ops.sum(ops.multiply(vectors, weights), axis=-2)
            return total if self.combiner == "sum" else ops.divide_no_nan(total, ops.sum(weights, axis=-2))

        def compute_output_shape(self, input_shape: Any, weights_shape: Any = None) -> Any:
            return (*input_shape[:-1], self.output_dim)

        def compute_output_spec(self, inputs: Any, weights: Any = None) -> Any:
            return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

        def get_config(self) -> Any:
            return {**super().get_config(), "combiner": self.combiner}

    return EmbedReduce


def activating(base: Any) -> Any:
    """With a bias and an activation of its own, under the names that are `unhot.keras.Embedding`'s, too."""

    class Activated(base):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.activation, self.use_bias = ops.tanh, True

        def build(self, input_shape: Any = None) -> None:
            super().build(input_shape)
            self._tracker.unlock()
            self.bias = self.add_weight(shape=(DIM,), initializer="ones", name="own_bias")
            self._tracker.lock()

        def call(self, inputs: Any) -> Any:
            return self.activation(super().call(inputs) + self.bias)

    return Activated


@pytest.mark.parametrize("kind", [reducing, activating])
def test_dense_ids(kind: Any) -> None:
    """Vectors, configuration, and training by rows."""
    made, weights = [], None
    for base, optimizer in zip(
        (unhot.keras.Embedding, keras.layers.Embedding), both("SGD", learning_rate=0.1, momentum=0.9), strict=True
    ):
        keras.utils.set_random_seed(2)
        layer = kind(base)(ROWS, DIM)
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
        ids = keras.Input((4,), dtype="int32")
        model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(layer(ids))))
        weights = model.get_weights() if weights is None else weights
        model.set_weights(weights)
        model.compile(optimizer, "mse")
        found = [numbers(layer(IDS))]
        if kind is reducing:
            found.append(numbers(layer(IDS, weights=np.array(IDS % 3, "float32"))))
        made.append((model, layer, found))
    for mine, other in zip(made[0][2], made[1][2], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)
    ids = np.random.default_rng(0).permutation(ROWS)[:32].reshape(8, 4)  # Keras's optimizers on TensorFlow take repeats apart
    for model, _, _ in made:
        model.fit(ids, np.ones((8, 1)), batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert made[0][0].optimizer.table(made[0][1].embeddings) is not None
    for mine, other in zip(made[0][0].get_weights(), made[1][0].get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras has ragged tensors only there")
@pytest.mark.parametrize("combiner", ["mean", "sum"])
def test_ragged_and_sparse_ids(combiner: str) -> None:
    import tensorflow as tf

    layers = [reducing(base)(ROWS, DIM, combiner=combiner) for base in (unhot.keras.Embedding, keras.layers.Embedding)]
    for layer in layers:
        layer.build()
    layers[1].set_weights(layers[0].get_weights())
    ragged = tf.ragged.constant([[3, 1], [], [39, 0, 5]], dtype="int32")
    weights = tf.ragged.constant([[1.0, 2.0], [], [0.5, 0.0, 3.0]])
    for ids, given in ((ragged, None), (ragged, weights), (ragged.to_sparse(), weights.to_sparse())):
        found = [numbers(layer(ids, weights=given)) for layer in layers]
        np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-7)

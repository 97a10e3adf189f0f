"""The optimizers that Keras has not: saved and loaded with a model, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import unhot
import unhot.keras
from unhot.keras.backends import backend

from .calls import FIT, few
from .models import data, model_with, table

OWN: dict[str, dict[str, Any]] = {
    "RAdam": {"learning_rate": 0.02, "beta_2": 0.99, "weight_decay": 0.1},
    "LazyAdam": {"learning_rate": 0.02, "beta_2": 0.99, "amsgrad": True},
    "RowwiseAdagrad": {"learning_rate": 0.02, "initial_accumulator_value": 0.1, "weight_decay": 0.1},
}


def fitted(name: str, **options: Any) -> Any:
    model = model_with(table())
    model.compile(optimizer=getattr(unhot.keras, name)(**{**OWN[name], **options}), loss="mse")
    model.fit(*data(), **FIT)
    return model


@pytest.mark.parametrize("name", few(OWN, ["RAdam", "RowwiseAdagrad"]))
def test_a_saved_model_goes_on(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is getattr(unhot.keras, name)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for copy in (model, loaded):
        copy.fit(*data(seed=1), **FIT)
    for mine, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_lazy_adam_trains_other_variables_as_adam_does() -> None:
    variables = [keras.Variable(np.ones((3, 2), "float32")) for _ in range(2)]
    optimizers = keras.optimizers.Adam(0.1, weight_decay=0.1), unhot.keras.LazyAdam(0.1, weight_decay=0.1)
    for variable, optimizer in zip(variables, optimizers, strict=True):
        for number in range(3):
            optimizer.apply([keras.ops.convert_to_tensor(np.eye(3, 2, dtype="float32") * number)], [variable])
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(variable) for variable in variables))


def test_a_decay_of_lazy_adam_is_one_of_other_variables() -> None:
    """Of a table it would decay some rows: Keras's Adam trains all of them, unless the table is excluded."""
    layers = table(), table()
    optimizers = [unhot.keras.LazyAdam(0.1, weight_decay=0.1) for _ in layers]
    for layer in layers:
        layer.build()
    with pytest.warns(unhot.DenseFallbackWarning, match="LazyAdam: `weight_decay` must be 0"):
        optimizers[0].build(layers[0].trainable_variables)
    optimizers[1].exclude_from_weight_decay([layers[1]._embeddings])
    optimizers[1].build(layers[1].trainable_variables)
    assert [o.table(layer._embeddings) is not None for o, layer in zip(optimizers, layers, strict=True)] == [False, True]


def test_rowwise_adagrad_trains_other_variables_as_adagrad_does() -> None:
    variables = [keras.Variable(np.ones((3, 2), "float32")) for _ in range(2)]
    stock = keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.0, epsilon=1e-8, weight_decay=0.1)
    optimizers = stock, unhot.keras.RowwiseAdagrad(0.1, weight_decay=0.1)
    for variable, optimizer in zip(variables, optimizers, strict=True):
        for number in range(1, 4):
            optimizer.apply([keras.ops.convert_to_tensor(np.eye(3, 2, dtype="float32") * number)], [variable])
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(variable) for variable in variables))


class Rowwise:
    """What it makes of a table, in NumPy."""

    def __init__(self, weights: Any) -> None:
        self.w, self.sum = weights.astype("float64"), np.zeros((len(weights), 1))

    def step(self, gradient: Any) -> None:
        self.w *= 1 - 0.1 * 0.1
        self.sum += (gradient**2).mean(axis=1, keepdims=True)
        self.w -= 0.1 * gradient / (np.sqrt(self.sum) + 1e-8)


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("way", ["small", "dense gradients", "half precision"])
def test_rowwise_adagrad_of_tables_that_are_trained_densely(way: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have one sum for each row, too: small tables, gradients of all rows, and dtypes that are not trained by rows."""
    rng = np.random.default_rng(0)
    if way == "small":
        monkeypatch.setattr(backend, "FEWEST_ROWS", 100)
    layer = unhot.keras.Embedding(9, dim, dtype="float16" if way == "half precision" else "float32")
    layer.build()
    optimizer = unhot.keras.RowwiseAdagrad(0.1, weight_decay=0.1)
    optimizer.build(layer.trainable_variables)
    (slot,) = optimizer._accumulators
    assert tuple(slot.shape) == (9, 1)
    (table,) = layer.trainable_variables
    expected = Rowwise(layer.get_weights()[0])
    for _ in range(6):
        gradient = (rng.normal(size=(9, dim)) * (np.arange(9)[:, None] % 4 > 0)).astype(layer.dtype)
        expected.step(gradient.astype("float64"))
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [table])
    most = 2e-2 if way == "half precision" else 2e-6
    np.testing.assert_allclose(layer.get_weights()[0], expected.w, atol=most)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(slot), expected.sum, rtol=most)


def test_hyperparameters_out_of_their_range() -> None:
    """Refused when the optimizer is made, since Keras could not go on with them."""
    for name, value in (("beta_1", 1.0), ("beta_2", 0.6), ("epsilon", 0.0)):
        with pytest.raises(ValueError, match=f"RAdam: `{name}` must lie in"):
            unhot.keras.RAdam(**{name: value})

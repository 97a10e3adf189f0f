"""`report` says how each table is trained, and that is how it is."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import unhot.keras
from unhot.keras.backends import backend

ROWS, DIM, N = 30, 3, 4


def model_of(table: Any, optimizer: Any = None, kind: Any = keras.Sequential) -> Any:
    model = kind([keras.Input((N,), dtype="int32"), table, layers.Flatten(), layers.Dense(1)])
    if optimizer is not None:
        model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    return model


def fit(model: Any) -> None:
    model.fit(np.arange(2 * N).reshape(2, N), np.ones((2, 1)), verbose=0)


def said(model: Any, optimizer: Any = None) -> str:
    (table,) = unhot.keras.report(model, optimizer).tables
    assert table.name.endswith("table/embeddings")
    assert (table.rows, table.dim) == (ROWS, DIM)
    assert table.by_rows is (not table.reason)
    return table.reason


def table(**options: Any) -> Any:
    return unhot.keras.Embedding(ROWS, DIM, name="table", **options)


def test_by_rows() -> None:
    """Before the first step and after, with the optimizer given or not, also in one that scales the loss."""
    model = model_of(table(), unhot.keras.Adam())
    assert not said(model)
    fit(model)
    assert not said(model)
    assert not said(model, model.optimizer)
    assert not said(model.layers[0], model.optimizer)
    assert model.optimizer.table(model.layers[0]._embeddings) is not None
    assert not said(model_of(table(), keras.optimizers.LossScaleOptimizer(unhot.keras.Adam())))


@pytest.mark.filterwarnings("ignore:.*trained")
@pytest.mark.parametrize(
    ("options", "optimizer", "why"),
    [
        ({}, lambda: None, "no optimizer trains it"),
        ({}, lambda: keras.optimizers.Adam(), "Adam is no optimizer of unhot.keras: use unhot.keras.Adam"),
        ({}, lambda: keras.optimizers.Lamb(), "Lamb is no optimizer of unhot.keras"),
        ({"embeddings_regularizer": "l2"}, lambda: unhot.keras.Adam(), "its regularizer takes all rows"),
        ({"embeddings_constraint": "non_neg"}, lambda: unhot.keras.Adam(), "its constraint takes all rows"),
        ({}, lambda: unhot.keras.Adam(use_ema=True), "use_ema=True averages all rows"),
        ({"trainable": False}, lambda: unhot.keras.Adam(), "it is frozen"),
        ({"dtype": "bfloat16"}, lambda: unhot.keras.Adam(), "its rows are of dtype bfloat16"),
    ],
)
def test_densely(options: dict[str, Any], optimizer: Any, why: str) -> None:
    """The same reason before the first step and after."""
    model = model_of(table(**options), optimizer())
    assert why in said(model)
    if getattr(model, "optimizer", None) is not None:
        model.optimizer.build(model.trainable_variables)
        assert why in said(model)


class Penalized(keras.Sequential):
    """With a penalty for all weights."""

    on = True

    def compute_loss(self, *args: Any, **options: Any) -> Any:
        loss = super().compute_loss(*args, **options)
        return loss + sum(ops.sum(ops.square(v)) for v in self.trainable_variables) if self.on else loss


class Descends(unhot.keras.Adam):
    """Whose step is its own."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, ops.multiply(gradient, ops.cast(learning_rate, variable.dtype)))


def test_steps_of_the_whole_table() -> None:
    """A dense gradient is warned of once, and `report` says so until a step is by rows again."""
    model = model_of(table(), unhot.keras.Adam(), Penalized)
    with pytest.warns(unhot.DenseFallbackWarning, match="the whole table"):
        fit(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", unhot.DenseFallbackWarning)
        fit(model)
    assert "The loss may read the whole table" in said(model)
    model.on = False
    model.make_train_function(force=True)
    fit(model)
    assert not said(model)


def test_a_step_of_ones_own() -> None:
    model = model_of(table(), Descends())
    with pytest.warns(unhot.DenseFallbackWarning, match="Descends.update_step does more"):
        fit(model)
    assert "Descends.update_step does more with its gradient than to scale it" in said(model)


def test_small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "FEWEST_ROWS", 10_000)
    assert "fewer than 10,000 rows" in said(model_of(table(), unhot.keras.Adam()))


def test_owners() -> None:
    """A table that another optimizer has, that was released, or that the optimizer does not know.

    Where steps are made call by call, an optimizer takes the table back.
    """
    model = model_of(table(), unhot.keras.Adam())
    first = model.optimizer
    first.build(model.trainable_variables)
    other = unhot.keras.SGD()
    other.build(model.trainable_variables)
    assert said(model, first) == ("" if backend.EAGER else "another optimizer has taken it over")
    assert not said(model, other)
    unhot.keras.release(model)
    assert said(model, other) == ("" if backend.EAGER else "it was released from SGD")
    elsewhere = unhot.keras.SGD()
    elsewhere.build(layers.Dense(2).variables)
    assert said(model, elsewhere) == "SGD was built without it"


def test_all_embedding_layers_are_named() -> None:
    """Those inside others, those of Keras, each once, and LoRA's tables."""
    shared = table()
    inner = keras.Sequential([keras.Input((N,), dtype="int32"), shared], name="inner")
    lora = unhot.keras.Embedding(ROWS, DIM, name="lora")
    ids = keras.Input((N,), dtype="int32")
    stock = layers.Embedding(ROWS, DIM, name="stock")
    vectors = inner(ids) + shared(ids) + lora(ids) + stock(ids)
    model = keras.Model(ids, layers.Dense(1)(vectors))
    lora.enable_lora(2)
    model.compile(unhot.keras.Adam(), "mse")
    found = unhot.keras.report(model)
    assert set(found.by_rows) == {"inner/table/embeddings", "lora/lora_embeddings_a"}
    assert found.densely == {
        "lora/embeddings": "it is frozen",
        "stock/embeddings": "it is of keras.layers.Embedding, which unhot.keras.convert replaces",
    }
    assert not unhot.keras.report(layers.Dense(2)).tables
    object.__setattr__(stock, "_embeddings", shared._embeddings)
    assert unhot.keras.report(model).by_rows.count("inner/table/embeddings") == 1, "a variable that two layers hold"


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"`report` takes a Keras model or layer\. Received: Adam"):
        unhot.keras.report(unhot.keras.Adam())
    with pytest.raises(TypeError, match=r"`optimizer` is a Keras optimizer or None\. Received: str"):
        unhot.keras.report(table(), "adam")

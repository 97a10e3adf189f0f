"""`convert` to stock layers: settled weights, nothing of unhot's, and files that are read where unhot is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from selection import slow

import unhot.keras

from .models import DIM, LENGTH, ROWS, assert_same, data, model_with, pair


def trained() -> tuple[Any, Any]:
    """A model with a table that has deferred steps, and its dense twin."""
    ours, theirs = pair(unhot.keras.Adam(0.01), keras.optimizers.Adam(0.01))
    ids, wanted = data()
    for each in (ours, theirs):
        each.fit(ids, wanted, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return ours, theirs


def test_settled_and_without_an_owner() -> None:
    """The copy holds what dense training gives; the given model trains on by rows, as if nothing had happened."""
    ours, theirs = trained()
    conversion = unhot.keras.convert(ours, to="stock")
    assert repr(conversion) == "replaced: table (unhot.keras.Embedding)\ncompile it: the given model was compiled"
    stock = conversion.model
    assert type(stock.get_layer("table")) is layers.Embedding
    assert type(ours.get_layer("table")) is unhot.keras.Embedding
    for mine, other in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert_same(ours, theirs)
    ids, wanted = data(seed=1)
    before = stock.get_weights()
    for each in (ours, theirs):
        each.fit(ids, wanted, batch_size=8, shuffle=False, verbose=0)
    assert_same(ours, theirs)
    for mine, other in zip(stock.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, other)
    stock.compile(keras.optimizers.Adam(0.01), "mse")
    stock.fit(ids, wanted, verbose=0)


BLOCKED = """
import sys
sys.modules["unhot"] = None
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.testing.assert_array_equal(model.predict(np.load(sys.argv[2]), verbose=0), np.load(sys.argv[3]))
"""


@slow  # another process imports Keras
def test_files_are_read_where_unhot_is_not_installed(tmp_path: Path) -> None:
    ours, _ = trained()
    ids, _ = data()
    paths = [str(tmp_path / name) for name in ("model.keras", "ids.npy", "expected.npy")]
    stock = unhot.keras.convert(ours, to="stock").model
    stock.save(paths[0])
    np.save(paths[1], ids)
    np.save(paths[2], stock.predict(ids, verbose=0))
    subprocess.run([sys.executable, "-c", BLOCKED, *paths], check=True, timeout=300)


@slow
def test_the_way_there_and_back_keeps_masks_and_options() -> None:
    options = {"mask_zero": True, "embeddings_regularizer": "l2", "embeddings_constraint": "non_neg", "name": "words"}
    ids = keras.Input((LENGTH,), dtype="int32")
    tied = layers.ReversibleEmbedding(ROWS, DIM, name="tied")
    vectors = layers.LSTM(DIM)(layers.Embedding(ROWS, DIM, **options)(ids))
    model = keras.Model(ids, tied(ops.expand_dims(vectors, 1) + tied(ids), reverse=True))
    back = unhot.keras.convert(unhot.keras.convert(model).model, to="stock").model
    assert [type(layer) for layer in back.layers] == [type(layer) for layer in model.layers]
    assert back.get_layer("words").get_config() == model.get_layer("words").get_config()
    assert back.get_layer("tied").get_config() == model.get_layer("tied").get_config()
    assert len(back.weights) == len(model.weights)
    given, _ = data()
    np.testing.assert_array_equal(back.predict(given, verbose=0), model.predict(given, verbose=0))


class Own(unhot.keras.Embedding):
    """A subclass."""


LEFT = {
    "use_bias": (lambda: unhot.keras.Embedding(ROWS, DIM, use_bias=True, name="table"), "has no use_bias"),
    "activation": (lambda: unhot.keras.Embedding(ROWS, DIM, activation="relu", name="table"), "has no activation"),
    "combiner": (lambda: unhot.keras.Embedding(ROWS, DIM, combiner="sum", name="table"), "has no combiner"),
    "out_of_range": (lambda: unhot.keras.Embedding(ROWS, DIM, out_of_range="zero", name="table"), "has no out_of_range"),
    "row": (lambda: unhot.keras.Embedding(ROWS, DIM, out_of_range=0, name="table"), "has no out_of_range"),
    "subclass": (lambda: Own(ROWS, DIM, name="table"), "Own is a subclass of unhot's layer"),
}


class Holder(layers.Layer):
    """Holds a layer that it makes with the arguments given."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(name="holder")
        self.table = unhot.keras.Embedding(ROWS, DIM, name="table", **kwargs)
        self.other = unhot.keras.Embedding(ROWS, DIM, name="other")
        self.given = kwargs

    def call(self, ids: Any) -> Any:
        return ops.concatenate([ops.reshape(self.table(ids), (-1, DIM)), ops.reshape(self.other(ids), (-1, DIM))], axis=0)

    def get_config(self) -> dict[str, Any]:
        return self.given


@pytest.mark.parametrize("name", LEFT)
def test_what_keras_has_no_equal_of_is_left_alone(name: str) -> None:
    make, why = LEFT[name]
    model = model_with(make())
    conversion = unhot.keras.convert(model, to="stock")
    assert not conversion.replaced
    assert list(conversion.left) == ["table"]
    assert why in conversion.left["table"]
    ids, _ = data()
    np.testing.assert_array_equal(conversion.model.predict(ids, verbose=0), model.predict(ids, verbose=0))


@pytest.mark.parametrize("given", [{}, {"use_bias": True}, {"use_bias": False, "bias_initializer": "zeros"}], ids=str)
def test_inside_other_layers(given: dict[str, Any]) -> None:
    ids = keras.Input((LENGTH,), dtype="int32")
    model = keras.Model(ids, Holder(**given)(ids))
    conversion = unhot.keras.convert(model, to="stock")
    bias = bool(given.get("use_bias"))
    assert list(conversion.replaced) == [name for name in ("holder/table", "holder/other") if not (bias and "table" in name)]
    assert list(conversion.left) == ["holder/table"] * bias
    holder = conversion.model.get_layer("holder")
    assert type(holder.other) is layers.Embedding
    assert type(holder.table) is (unhot.keras.Embedding if bias else layers.Embedding)
    given_ids, _ = data()
    found = [ops.convert_to_numpy(each(ops.convert_to_tensor(given_ids))) for each in (model, conversion.model)]
    np.testing.assert_array_equal(*found)


def test_sets_of_ids_are_named() -> None:
    """A Dense layer on multi-hot vectors, which became a table, has no equal of one layer in Keras."""
    ids = keras.Input((LENGTH,), dtype="int32")
    model = unhot.keras.convert(keras.Model(ids, layers.Dense(DIM, name="dense")(ops.multi_hot(ids, ROWS)))).model
    conversion = unhot.keras.convert(model, to="stock")
    assert conversion.left["dense_ids"] == "Keras has no such layer"
    assert "no use_bias and no combiner and no out_of_range" in conversion.left["dense"]

"""`unhot.keras.ReversibleEmbedding`: lookups of settled rows, logits from the whole table, both exact."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from selection import product, slow

import unhot.keras

from .calls import BACKEND, FIT, IDS, by_rows, few, numbers, slow_but_on_torch
from .models import DIM, EPSILON, LENGTH, ROWS
from .test_fit import both

KINDS = (keras.layers.ReversibleEmbedding, unhot.keras.ReversibleEmbedding)


def stock_and_ours(**options: Any) -> tuple[Any, Any]:
    """Keras's layer and ours with the same weights."""
    layers = tuple(kind(ROWS, DIM, name="words", **options) for kind in KINDS)
    for layer in layers:
        layer.build()
    layers[1].set_weights(layers[0].get_weights())
    return layers


class OneHot(keras.layers.Layer):
    """The same from one-hot vectors."""

    def __init__(self, tied: bool) -> None:
        super().__init__(name="words")
        self.tied = tied

    def build(self, ids_shape: Any) -> None:
        self.table = self.add_weight(shape=(ROWS, DIM), initializer="uniform", name="embeddings")
        self.reverse = (
            None if self.tied else self.add_weight(shape=(DIM, ROWS), initializer="uniform", name="reverse_embeddings")
        )

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.table) if self.tied else self.reverse)
        return ops.matmul(ops.one_hot(inputs, ROWS), self.table)


def language_model(layer: Any) -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32")
    hidden = keras.layers.Dense(DIM, activation="tanh", name="hidden")(layer(ids))
    return keras.Model(ids, layer(hidden, reverse=True))


def data() -> tuple[Any, Any]:
    """Sequences, and each one's next ids."""
    ids = np.minimum(np.random.default_rng(0).zipf(1.3, (24, LENGTH + 1)) - 1, ROWS - 5).astype("int32")
    return ids[:, :-1], ids[:, 1:]


FITS = {"torch": [(True, False), (False, False)], "jax": [(True, True), (False, True)]}.get(
    BACKEND, [pytest.param(True, True, marks=slow), (True, False), (False, False)]
)
"""Whether the table is tied, and how the step is compiled where there is a choice."""


@pytest.mark.parametrize(("tied", "jit_compile"), FITS)
def test_fit(tied: bool, jit_compile: bool) -> None:
    """As one-hot vectors with Keras's optimizer, where all rows move in each step, and where they move by rows."""
    models = language_model(unhot.keras.ReversibleEmbedding(ROWS, DIM, tie_weights=tied)), language_model(OneHot(tied))
    models[1].set_weights(models[0].get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model, optimizer in zip(models, both("Adam", learning_rate=0.03), strict=True):
        model.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)
    with nullcontext() if tied else by_rows():
        losses = [model.fit(*data(), **FIT).history["loss"] for model in models]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    layer = models[0].layers[1]
    assert models[0].optimizer.table(layer._embeddings) is not None
    for mine, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in `models.assert_same`
    np.testing.assert_allclose(numbers(layer(IDS)), numbers(models[1].layers[1](IDS)), rtol=1e-4, atol=1e-5)


@(slow if BACKEND == "tensorflow" else lambda test: test)  # eight seconds
def test_steps_by_rows_and_of_the_whole_table_in_turn() -> None:
    """Two models of one layer and one optimizer: rows are deferred by the first, and read as a whole by the second."""
    finals = []
    layers = unhot.keras.ReversibleEmbedding(ROWS, DIM), OneHot(True)
    for layer, optimizer in zip(layers, both("Nadam", learning_rate=0.03), strict=True):
        ids = keras.Input((LENGTH,), dtype="int32")
        models = keras.Model(ids, layer(ids)), keras.Model(ids, layer(layer(ids), reverse=True))
        layer.set_weights([np.sin(np.arange(ROWS * DIM)).reshape(ROWS, DIM)])
        for model, size in zip(models, (DIM, ROWS), strict=True):
            model.compile(optimizer=optimizer, loss="mse")
            model.size = size
        for step in range(8):
            model = models[step // 2 % 2]
            model.train_on_batch(data()[0][3 * step : 3 * step + 3], np.ones((3, LENGTH, model.size)))
        finals.append(layer.get_weights()[0])
    np.testing.assert_allclose(*finals, rtol=300 * EPSILON, atol=300 * EPSILON)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"tie_weights": False, "mask_zero": True},
    {"logit_soft_cap": 0.01, "reverse_dtype": "float64"},
    {"dtype": "mixed_bfloat16"},
    {"lora_rank": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_as_keras(options: dict[str, Any]) -> None:
    layers = stock_and_ours(**options)
    vectors = np.random.default_rng(0).normal(size=(2, DIM)).astype("float32")
    if "dtype" in options:
        vectors = ops.cast(vectors, "bfloat16")
    for arguments in ((IDS, False), (vectors, True)):
        found = [layer(arguments[0], reverse=arguments[1]) for layer in layers]
        assert found[0].dtype == found[1].dtype
        np.testing.assert_array_equal(*(numbers(ops.cast(f, "float32")) for f in found))
        masks = [keras.src.backend.get_keras_mask(f) for f in found]
        assert masks == [None, None] or (numbers(masks[0]) == numbers(masks[1])).all()
    assert layers[0].get_config() == layers[1].get_config()
    for kind, layer in zip(KINDS, layers[::-1], strict=True):
        assert kind.from_config(layer.get_config()).get_config() == layer.get_config()
    symbolic = [layer(keras.Input((LENGTH, DIM)), reverse=True).shape for layer in layers]
    assert symbolic == [(None, LENGTH, ROWS)] * 2


@pytest.mark.parametrize("tied", few([True, False], [False]), ids=["tied", "untied"])
def test_files_move_both_ways(tied: bool, tmp_path: Path) -> None:
    for source, target in (KINDS, KINDS[::-1]):
        model, other = (language_model(kind(ROWS, DIM, tie_weights=tied)) for kind in (source, target))
        model.save_weights(tmp_path / "a.weights.h5")
        other.load_weights(tmp_path / "a.weights.h5")
        model.save(tmp_path / "a.keras")
        loaded = keras.models.load_model(tmp_path / "a.keras")
        assert type(loaded.layers[1]) is source
        wanted = model.predict(IDS, verbose=0)
        for copy in (other, loaded):
            np.testing.assert_array_equal(copy.predict(IDS, verbose=0), wanted)


@slow_but_on_torch
@pytest.mark.parametrize(("mode", "tied"), product(["int8", "int4"], [True, False], by=1))
def test_quantize(mode: str, tied: bool) -> None:
    layers = stock_and_ours(tie_weights=tied)
    optimizer = unhot.keras.Adam(0.1)
    optimizer.build(layers[1].trainable_variables)
    vectors = np.random.default_rng(0).normal(size=(2, DIM)).astype("float32")
    for layer in layers:
        layer.quantize(mode)
    np.testing.assert_array_equal(*(numbers(layer(IDS)) for layer in layers))
    np.testing.assert_array_equal(*(numbers(layer(vectors, reverse=True)) for layer in layers))
    with pytest.raises(IndexError, match=r"id 40 at position 0 is out of range"):
        layers[1](np.array([ROWS]))


def test_ids_out_of_range() -> None:
    """Of lookups; vectors are no ids."""
    with pytest.raises(IndexError, match="id 40 at position 1 is out of range"):
        unhot.keras.ReversibleEmbedding(ROWS, DIM)(np.array([1, ROWS]))
    layer = unhot.keras.ReversibleEmbedding(ROWS, DIM, out_of_range="zero")
    np.testing.assert_array_equal(numbers(layer(np.array([ROWS]))), np.zeros((1, DIM)))
    assert layer.get_config()["out_of_range"] == "zero"
    assert tuple(layer(np.full((2, DIM), -0.5, "float32"), reverse=True).shape) == (2, ROWS)
    with pytest.raises(TypeError, match="come as float32"):
        unhot.keras.ReversibleEmbedding(2**24 + 1, 1)(keras.Input((LENGTH,)))


PARTS: list[dict[str, Any]] = [
    {"use_bias": True, "activation": "tanh"},
    {"combiner": "sum", "use_bias": True, "bias_initializer": "ones", "activation": "softplus", "out_of_range": "zero"},
    {"combiner": "mean", "mask_zero": True, "tie_weights": False},
    {"combiner": "max", "out_of_range": 3},
]


@pytest.mark.parametrize("options", PARTS, ids=lambda options: "-".join(options))
def test_lookups_are_those_of_embedding(options: dict[str, Any], tmp_path: Path) -> None:
    """Vectors and shapes with all options; logits of the table alone, as Keras's; and files and configurations."""
    layer = unhot.keras.ReversibleEmbedding(ROWS, DIM, name="words", **options)
    tied = options.get("tie_weights", True)
    plain = unhot.keras.Embedding(ROWS, DIM, **{name: value for name, value in options.items() if name != "tie_weights"})
    stock = keras.layers.ReversibleEmbedding(ROWS, DIM, tie_weights=tied)
    for each in (layer, plain, stock):
        each.build()
    weights = layer.get_weights()
    plain.set_weights(weights[: len(plain.weights)])
    stock.set_weights([weights[0]] if tied else [weights[0], weights[-1]])
    ids = np.array([[3, 0, 99, 3], [39, 1, -1, 0]] if "out_of_range" in options else IDS)
    np.testing.assert_array_equal(numbers(layer(ids)), numbers(plain(ids)))
    given = {"weights": np.random.default_rng(1).random(ids.shape).astype("float32")}
    if options.get("combiner") in ("sum", "mean"):
        np.testing.assert_array_equal(numbers(layer(ids, **given)), numbers(plain(ids, **given)))
    else:
        with pytest.raises(ValueError, match="`weights` go with combiner"):
            layer(ids, **given)
    vectors = np.random.default_rng(0).normal(size=(2, DIM)).astype("float32")
    np.testing.assert_array_equal(numbers(layer(vectors, reverse=True)), numbers(stock(vectors, reverse=True)))
    with pytest.raises(ValueError, match="Leave them out with reverse=True"):
        layer(vectors, reverse=True, **given)
    shape = keras.Input((LENGTH,), dtype="int32")
    assert layer(shape).shape == plain(shape).shape
    assert tuple(layer.compute_output_shape((2, LENGTH))) == tuple(plain.compute_output_shape((2, LENGTH)))
    assert tuple(layer.compute_output_shape((2, DIM), reverse=True)) == (2, ROWS)
    model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), layer])
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert loaded.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(numbers(loaded(IDS)), numbers(model(IDS)))
    left = unhot.keras.convert(model, to="stock").left
    assert "words" in left
    assert "keras.layers.ReversibleEmbedding has no" in left["words"]


class OneHotBag(OneHot):
    """Bags of one-hot vectors, with a bias and an activation; the logits are of the table alone."""

    def build(self, ids_shape: Any) -> None:
        super().build(ids_shape)
        self.bias = self.add_weight(shape=(DIM,), initializer="zeros", name="bias")

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        found = super().call(inputs, reverse)
        return found if reverse else ops.tanh(ops.sum(found, axis=-2) + self.bias)


@slow_but_on_torch
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_fit_with_bags(tied: bool) -> None:
    """Next words of several: trained as one-hot vectors are by Keras."""
    options = {"combiner": "sum", "use_bias": True, "activation": "tanh"}
    layers = unhot.keras.ReversibleEmbedding(ROWS, DIM, tie_weights=tied, **options), OneHotBag(tied)
    models = []
    for layer in layers:
        ids = keras.Input((LENGTH,), dtype="int32")
        models.append(keras.Model(ids, layer(keras.layers.Dense(DIM)(layer(ids)), reverse=True)))
    order = sorted(range(len(layers[0].weights)), key=lambda i: layers[0].weights[i].name == "bias")
    values = [np.sin(np.arange(w.size)).reshape(w.shape) / 2 for w in layers[0].get_weights()]
    layers[0].set_weights(values)
    layers[1].set_weights([values[i] for i in order])
    models[1].layers[2].set_weights(models[0].layers[2].get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model, optimizer in zip(models, both("Adam", learning_rate=0.03), strict=True):
        model.compile(optimizer=optimizer, loss=loss)
    ids, following = data()
    with nullcontext() if tied else by_rows():
        for model in models:
            model.fit(ids, following[:, -1], **FIT)
    for i, place in enumerate(order):
        np.testing.assert_allclose(
            layers[0].get_weights()[place], layers[1].get_weights()[i], rtol=300 * EPSILON, atol=300 * EPSILON
        )


@slow_but_on_torch
def test_quantized_bags() -> None:
    options = {"combiner": "sum", "use_bias": True, "activation": "tanh"}
    layer, plain = unhot.keras.ReversibleEmbedding(ROWS, DIM, **options), unhot.keras.Embedding(ROWS, DIM, **options)
    for each in (layer, plain):
        each.build()
    plain.set_weights(layer.get_weights())
    vectors, given = np.random.default_rng(0).normal(size=(2, DIM)).astype("float32"), np.ones(IDS.shape, "float32")
    wanted = numbers(layer(vectors, reverse=True))
    for each in (layer, plain):
        each.quantize("int8")
    np.testing.assert_array_equal(numbers(layer(IDS)), numbers(plain(IDS)))
    np.testing.assert_array_equal(numbers(layer(IDS, weights=2 * given)), numbers(plain(IDS, weights=2 * given)))
    np.testing.assert_allclose(numbers(layer(vectors, reverse=True)), wanted, atol=0.01)


def test_weights_given_at_first() -> None:
    table = np.arange(ROWS * DIM, dtype="float32").reshape(ROWS, DIM)
    layer = unhot.keras.ReversibleEmbedding(ROWS, DIM, weights=table)
    np.testing.assert_array_equal(layer.get_weights()[0], table)
    layer = unhot.keras.ReversibleEmbedding(ROWS, DIM, tie_weights=False)
    for _ in range(2):
        layer.build()
        assert len(layer.weights) == 2
    layer = unhot.keras.ReversibleEmbedding(ROWS, DIM, tie_weights=False, lora_rank=2)
    layer.build()
    assert len(layer.weights) == 4

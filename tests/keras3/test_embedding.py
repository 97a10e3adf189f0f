"""`unhot.keras.Embedding` as a drop-in: what Keras's layer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from selection import product

import unhot.keras

from .calls import BACKEND, FIT, IDS, by_rows, few, numbers, slow_but_on_torch
from .models import DIM, LENGTH, ROWS, assert_same, data
from .test_fit import both

KINDS = (keras.layers.Embedding, unhot.keras.Embedding)


def stock_and_ours(**options: Any) -> tuple[Any, Any]:
    """Keras's layer and ours with the same weights."""
    layers = tuple(kind(ROWS, DIM, **options) for kind in KINDS)
    for layer in layers:
        layer.build()
    layers[1].set_weights(layers[0].get_weights())
    return layers


OPTIONS: list[dict[str, Any]] = [
    {},
    {"mask_zero": True},
    {"embeddings_initializer": "he_normal", "name": "words"},
    {"embeddings_regularizer": "l2", "embeddings_constraint": "max_norm", "activity_regularizer": "l1"},
    {"dtype": "mixed_bfloat16"},
    {"dtype": "bfloat16"},
    {"dtype": "mixed_float16"},
    {"dtype": "float64"},
    {"dtype": "int8_from_mixed_bfloat16"},
    {"dtype": "int4/2_from_float32"},
    {"lora_rank": 2, "lora_alpha": 3},
    {"trainable": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_as_keras(options: dict[str, Any]) -> None:
    stock, ours = stock_and_ours(**options)
    mine, other = ours(IDS), stock(IDS)
    assert keras.backend.standardize_dtype(mine.dtype) == keras.backend.standardize_dtype(other.dtype)
    np.testing.assert_array_equal(numbers(ops.cast(mine, "float32")), numbers(ops.cast(other, "float32")))
    assert [(v.name, v.dtype, v.trainable) for v in ours.variables] == [(v.name, v.dtype, v.trainable) for v in stock.variables]
    np.testing.assert_allclose([numbers(loss) for loss in ours.losses], [numbers(loss) for loss in stock.losses])
    masks = ours.compute_mask(ops.convert_to_tensor(IDS)), stock.compute_mask(ops.convert_to_tensor(IDS))
    assert masks == (None, None) or (numbers(masks[0]) == numbers(masks[1])).all()
    assert ours.supports_masking == stock.supports_masking
    symbolic = [layer(keras.Input((LENGTH,), dtype="int32")) for layer in (ours, stock)]
    assert [(s.shape, s.dtype) for s in symbolic] == [((None, LENGTH, DIM), stock.compute_dtype)] * 2
    config = {name: value for name, value in ours.get_config().items() if name != "name" or "name" in options}
    assert config == {name: value for name, value in stock.get_config().items() if name in config}
    again = type(stock).from_config(ours.get_config()), type(ours).from_config(stock.get_config())
    assert again[0].get_config() == ours.get_config()
    assert again[1].get_config() == stock.get_config()


def test_as_keras_from_the_same_seed() -> None:
    made = []
    for kind in (keras.layers.Embedding, unhot.keras.Embedding):
        keras.utils.set_random_seed(7)
        layer = kind(ROWS, DIM)
        layer.build()
        made.append(layer.get_weights()[0])
    np.testing.assert_array_equal(*made)


def test_weights_and_input_length() -> None:
    weights = np.arange(ROWS * DIM, dtype="float32").reshape(ROWS, DIM)
    for given in (weights, [weights]):
        np.testing.assert_array_equal(unhot.keras.Embedding(ROWS, DIM, weights=given).get_weights()[0], weights)
    with pytest.warns(UserWarning, match="`input_length` is deprecated"):
        unhot.keras.Embedding(ROWS, DIM, input_length=4)


def test_masks_reach_the_next_layer() -> None:
    """Padding takes no part in what is trained."""
    models = []
    for layer in stock_and_ours(mask_zero=True):
        ids = keras.Input((LENGTH,), dtype="int32")
        pooled = keras.layers.GlobalAveragePooling1D()(layer(ids))
        models.append(keras.Model(ids, keras.layers.Dense(1)(pooled)))
    models[1].set_weights(models[0].get_weights())
    ids = np.argsort(np.random.default_rng(0).random((48, ROWS)))[:, :LENGTH].astype("int32")  # no repeats in a sample
    ids[:, 1] = 0
    for model, optimizer in zip(models[::-1], both("SGD", learning_rate=0.1, momentum=0.9), strict=True):
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(ids, data()[1], **FIT)
    assert_same(models[1], models[0])


def sequential(layer: Any) -> keras.Model:
    return keras.Sequential([keras.Input((LENGTH,), dtype="int32"), layer])


def swapped(layer: Any) -> Any:
    """Keras's layer for ours, and the other way round; others as they are."""
    kind = dict(zip(KINDS, KINDS[::-1], strict=True)).get(type(layer), type(layer))
    return kind.from_config(layer.get_config())


@pytest.mark.parametrize(("source", "target"), [KINDS, KINDS[::-1]], ids=["from Keras", "to Keras"])
def test_files_move_both_ways(source: Any, target: Any, tmp_path: Path) -> None:
    model, other = sequential(source(ROWS, DIM, mask_zero=True)), sequential(target(ROWS, DIM))
    wanted = model.predict(IDS, verbose=0)
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(other.predict(IDS, verbose=0), wanted)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert type(loaded.layers[-1]) is source
    np.testing.assert_array_equal(loaded.predict(IDS, verbose=0), wanted)
    other.set_weights([0 * w for w in other.get_weights()])
    other.load_weights(tmp_path / "a.keras")
    np.testing.assert_array_equal(other.predict(IDS, verbose=0), wanted)
    other = keras.models.clone_model(loaded, clone_function=swapped)
    other.set_weights(loaded.get_weights())
    assert type(other.layers[-1]) is target
    assert other.layers[-1].mask_zero
    np.testing.assert_array_equal(other.predict(IDS, verbose=0), wanted)


def test_files_of_the_old_format(tmp_path: Path) -> None:
    model = sequential(unhot.keras.Embedding(ROWS, DIM, use_bias=True, bias_initializer="ones"))
    model.save(tmp_path / "a.h5")
    loaded = keras.models.load_model(tmp_path / "a.h5")
    assert type(loaded.layers[-1]) is unhot.keras.Embedding
    np.testing.assert_array_equal(loaded.predict(IDS, verbose=0), model.predict(IDS, verbose=0))


@slow_but_on_torch
@pytest.mark.parametrize(("mode", "lora"), product(["int8", "int4"], [False, True], by=1))
def test_quantize(mode: str, lora: bool, tmp_path: Path) -> None:
    """As Keras's; what ours adds goes on as before, also on an owned table."""
    stock, ours = stock_and_ours()
    model = sequential(ours)
    model.compile(unhot.keras.SGD(0.1, momentum=0.9), loss="mse")
    if not lora:
        model.fit(IDS, np.ones((2, LENGTH, DIM)), epochs=2, verbose=0)
    stock.set_weights(ours.get_weights())
    for layer in (stock, ours):
        if lora:
            layer.enable_lora(2)
        layer.quantize(mode)
    if lora:
        ours.lora_embeddings_a.assign(stock.lora_embeddings_a)
        for layer in (stock, ours):
            layer.lora_embeddings_b.assign(np.ones((2, DIM)))
    np.testing.assert_array_equal(numbers(ours(IDS)), numbers(stock(IDS)))
    read = []
    for each in (sequential(stock), model):  # Keras merges LoRA into the numbers that it saves
        each.save(tmp_path / "a.keras")
        read.append(keras.models.load_model(tmp_path / "a.keras").predict(IDS, verbose=0))
    np.testing.assert_array_equal(*read)


@slow_but_on_torch
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_with_all_that_is_beyond_keras(mode: str) -> None:
    options = {"use_bias": True, "activation": "tanh", "combiner": "sum", "out_of_range": "zero", "bias_initializer": "ones"}
    stock, ours = stock_and_ours()[0], unhot.keras.Embedding(ROWS, DIM, **options)
    ours.build()
    ours.set_weights([*stock.get_weights(), np.ones(DIM)])
    for layer in (stock, ours):
        layer.quantize(mode)
    assert len(ours.variables) == len(stock.variables) + 1
    expected = np.tanh(numbers(stock(IDS[:, :3])).sum(axis=1) + 1)
    np.testing.assert_allclose(numbers(ours(np.where([True, True, True, False], IDS, ROWS))), expected, rtol=1e-6)


def test_what_keras_refuses_of_subclasses() -> None:
    for kind in (unhot.keras.Embedding, unhot.keras.ReversibleEmbedding):
        layer = type("Other", (kind,), {})(ROWS, DIM)
        layer.build()
        with pytest.raises(NotImplementedError):
            layer.quantize("int8")
        layer.quantize("int8", type_check=False)


@pytest.mark.parametrize("when", few(["from the start", "in the middle"], ["in the middle"]))
def test_lora(when: str) -> None:
    """The base table rests and shows no stale rows; both matrices are trained as Keras trains them, one of them by rows."""
    layers = stock_and_ours()
    optimizers = both("Adam", learning_rate=0.03)[::-1]
    models = [model_without_repeats(layer) for layer in layers]
    models[1].set_weights(models[0].get_weights())
    ids, targets = without_repeats()
    if when == "in the middle":
        for model, optimizer in zip(models, optimizers, strict=True):
            model.compile(optimizer=optimizer, loss="mse")
            model.fit(ids, targets, **FIT)
        optimizers = both("SGD", learning_rate=0.1, momentum=0.9)[::-1]  # the first still hold the base tables
    for layer in layers:
        layer.enable_lora(2, lora_alpha=3)
        layer.lora_embeddings_b.assign(np.linspace(-1, 1, 2 * DIM).reshape(2, DIM))
    layers[1].lora_embeddings_a.assign(numbers(layers[0].lora_embeddings_a))
    base = numbers(layers[1]._embeddings)
    if BACKEND == "torch":
        listed = {id(parameter) for parameter in layers[1].parameters()}
        assert listed == {id(variable.value) for variable in layers[1].variables}
    optimizers[1].build(models[1].trainable_variables)  # or TensorFlow's first trace, which it throws away, is Keras's LoRA
    for model, optimizer in zip(models, optimizers, strict=True):
        model.compile(optimizer=optimizer, loss="mse")
        with by_rows():
            model.fit(ids, targets, **FIT)
    assert optimizers[1].table(layers[1].lora_embeddings_a) is not None
    assert optimizers[1].table(layers[1]._embeddings) is None
    np.testing.assert_array_equal(numbers(layers[1]._embeddings), base)
    assert_same(models[1], models[0])
    np.testing.assert_allclose(numbers(layers[1].embeddings), numbers(layers[0].embeddings), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numbers(layers[1](IDS)), numbers(layers[0](IDS)), rtol=1e-4, atol=1e-5)


def without_repeats() -> tuple[Any, Any]:
    """Data in which no batch has an id twice: there the stock layer is exact on TensorFlow too."""
    ids = np.concatenate([np.random.default_rng(i).permutation(ROWS - 4)[: 8 * LENGTH].reshape(8, LENGTH) for i in range(6)])
    return ids.astype("int32"), data(48)[1]


def model_without_repeats(layer: Any) -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32")
    return keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(layer(ids))))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no sparse tensors there")
def test_sparse_ids() -> None:
    """Absent ids are 0, as in Keras's layer; also where rows are deferred."""
    stock, ours = stock_and_ours()
    if BACKEND == "jax":
        from jax.experimental.sparse import BCOO

        ids = BCOO((np.array([5, 39]), np.array([[0, 0], [1, 2]])), shape=(2, 3))
    else:
        import tensorflow as tf

        ids = tf.SparseTensor([[0, 0], [1, 2]], [5, 39], (2, 3))
    np.testing.assert_array_equal(numbers(ours(ids)), numbers(stock(ids)))
    optimizer = unhot.keras.SGD(0.1, momentum=0.9)
    optimizer.build(ours.trainable_variables)
    np.testing.assert_array_equal(numbers(ours(ids)), numbers(stock(ids)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras has ragged tensors only there")
def test_ragged_ids() -> None:
    import tensorflow as tf

    stock, ours = stock_and_ours()
    ids = tf.ragged.constant([[1, 2, 3], [], [39]])
    optimizer = unhot.keras.SGD(0.1, momentum=0.9)
    for _ in range(2):
        assert ours(ids).to_list() == stock(ids).to_list()
        optimizer.build(ours.trainable_variables)
    with pytest.raises(IndexError, match="id 40 at position 1"):
        ours(tf.ragged.constant([[1], [40]]))

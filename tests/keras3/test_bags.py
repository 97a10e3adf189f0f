"""`unhot.keras.Embedding` beyond Keras's: bias, activation and combiners, equal to a Dense layer on hot vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import unhot.keras

from .calls import BACKEND, FIT, IDS, by_rows, few, gradients, in_graph, numbers, trains_rows
from .models import DIM, EPSILON, LENGTH, ROWS, data
from .test_fit import both


class Bag(keras.layers.Layer):
    """The same with one-hot vectors and Keras's Dense layer; an id outside the table is a zero vector."""

    def __init__(self, combiner: str | None, mask_zero: bool = False, **options: Any) -> None:
        super().__init__()
        self.combiner, self.mask_zero = combiner, mask_zero
        self.dense = keras.layers.Dense(DIM, **options)

    def build(self, ids_shape: Any, weights_shape: Any = None) -> None:
        self.dense.build((None, ROWS))

    def call(self, ids: Any, weights: Any = None) -> Any:
        x = ops.cast(ops.equal(ids[..., None], ops.arange(ROWS, dtype="int32")), "float32")  # no row: no hot element
        if self.combiner == "max":
            return ops.max(ops.matmul(x, self.dense.kernel), axis=-2)
        if self.combiner is not None:
            factors = ops.ones_like(x[..., 0]) if weights is None else weights
            if self.mask_zero:
                factors = factors * ops.cast(ids != 0, "float32")
            x = ops.sum(x * factors[..., None], axis=-2)
            if self.combiner == "mean":
                x = x / ops.sum(factors, axis=-1, keepdims=True)
            elif self.combiner == "sqrtn":
                x = x / ops.sqrt(ops.sum(factors**2, axis=-1, keepdims=True))
        return self.dense(x)


def bag_model(layer: Any, weighted: bool = False) -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32")
    if not weighted:
        hidden = layer(ids)
        return keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(hidden)))
    given = keras.Input((LENGTH,))
    # The weights have a gradient too: they come from a layer that is trained.
    weights = keras.layers.Dense(LENGTH, activation="softplus")(given)
    return keras.Model([ids, given], keras.layers.Dense(1)(layer(ids, weights=weights)))


BAGS: list[tuple[dict[str, Any], bool]] = [
    ({"use_bias": True, "activation": "relu"}, False),
    ({"combiner": "sum"}, False),
    ({"combiner": "sqrtn", "use_bias": True}, True),
    ({"use_bias": True, "activation": "softplus", "combiner": "sum"}, True),
    ({"combiner": "mean", "mask_zero": True}, True),
    ({"combiner": "max"}, False),
    ({"combiner": "mean", "mask_zero": True, "use_bias": True}, False),
]


@pytest.mark.parametrize(
    ("options", "weighted"), few(BAGS, BAGS[3:]), ids=lambda part: "weighted" * part if isinstance(part, bool) else str(part)
)
def test_equals_dense_on_hot_vectors(options: dict[str, Any], weighted: bool) -> None:
    """Outputs, and all that is trained: table, bias, and what the weights of a bag come from."""
    layer = unhot.keras.Embedding(ROWS, DIM, **options)
    dense = {"use_bias": False, **{n: v for n, v in options.items() if n not in ("combiner", "mask_zero")}}
    models = bag_model(layer, weighted), bag_model(Bag(options.get("combiner"), "mask_zero" in options, **dense), weighted)
    models[0].set_weights(_in_order_of(models[0], models[1]))
    ids, targets = data()
    inputs: Any = [ids, np.random.default_rng(1).random((48, LENGTH)).astype("float32")] if weighted else ids
    for model, optimizer in zip(models, both("SGD", learning_rate=0.1, momentum=0.9, weight_decay=0.01), strict=True):
        model.compile(optimizer=optimizer, loss="mse")
    np.testing.assert_allclose(*(m.predict(inputs, verbose=0) for m in models), rtol=1e-5, atol=1e-6)
    with by_rows():
        for model in models:
            model.fit(inputs, targets, **FIT)
    assert trains_rows(models[0].optimizer, layer._embeddings)
    for mine, other in zip(models[0].get_weights(), _in_order_of(models[0], models[1]), strict=True):
        np.testing.assert_allclose(mine, other, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in `assert_same`


CHANGED = [{"clipnorm": 0.05}, {"global_clipnorm": 0.05}, {"clipvalue": 0.01}, {"loss_scale_factor": 8.0}]


@pytest.mark.parametrize("options", few(CHANGED, CHANGED[1:2]))
def test_gradients_of_bags_are_changed(options: dict[str, Any]) -> None:
    """Also those that an optimizer clips or scales, of which each id has one then."""
    models = [bag_model(unhot.keras.Embedding(ROWS, DIM, combiner="mean")), bag_model(Bag("mean", use_bias=False))]
    models[0].set_weights(_in_order_of(*models))
    ids, targets = data()
    for model, optimizer in zip(models, both("Adam", learning_rate=0.05, **options), strict=True):
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(ids, targets, **FIT)
    for mine, other in zip(models[0].get_weights(), _in_order_of(*models), strict=True):
        np.testing.assert_allclose(mine, other, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in `assert_same`


def _in_order_of(ours: keras.Model, theirs: keras.Model) -> list[Any]:
    """Their weights in the order of ours: both have one of each shape, and those of the same shape in the same order."""
    left = theirs.get_weights()
    return [left.pop(next(i for i, w in enumerate(left) if w.shape == mine.shape)) for mine in ours.get_weights()]


def test_gradients_of_the_weights_of_a_bag() -> None:
    """Of each that takes part, and finite where a bag is empty."""
    layer = unhot.keras.Embedding(ROWS, DIM, combiner="sqrtn", mask_zero=True)
    table = np.random.default_rng(2).normal(size=(ROWS, DIM)).astype("float32")
    layer.build()
    layer.set_weights([table])
    ids = np.array([[1, 2, 0], [0, 0, 0], [3, 3, 4]])
    weights = keras.Variable([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    found = gradients(lambda: ops.sum(layer(ids, weights=weights.value)), [weights])[0]
    sums, factors = table.sum(axis=1), np.array([1.0, 2.0])
    size = np.sqrt(5)
    expected = sums[[1, 2]] / size - (factors @ sums[[1, 2]]) * factors / size**3
    np.testing.assert_allclose(found[0], [*expected, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("combiner", ["sum", "mean"])
def test_bags_of_a_table_that_is_trained(combiner: str, mask_zero: bool) -> None:
    """On PyTorch, they are combined where the rows are: of any shape, any dtype, with nothing in them, and beside a NaN."""
    layer = unhot.keras.Embedding(ROWS, DIM, combiner=combiner, mask_zero=mask_zero)
    layer.build()
    table = np.random.default_rng(2).normal(size=(ROWS, DIM)).astype("float32")
    if mask_zero:
        table[0] = np.nan
    layer.set_weights([table])
    owner = unhot.keras.Adam()
    owner.build(layer.trainable_variables)
    rng = np.random.default_rng(3)
    shapes = [(4, 3), (5,), (2, 3, 4), (0, 3), (2, 0), (1, 1)]
    for ids in [*(rng.integers(0, 4, shape) for shape in shapes), np.zeros((2, 3), int), np.array([[0, 5], [0, 0], [7, 7]])]:
        kept = (ids != 0) | (not mask_zero)
        wanted = np.where(kept[..., None], table[ids], 0).sum(axis=-2)
        if combiner == "mean":
            wanted /= np.maximum(kept.sum(axis=-1), 1)[..., None]
        for dtype in ("int64", "int32", "uint8", "float32"):
            np.testing.assert_allclose(numbers(layer(ids.astype(dtype))), wanted, rtol=1e-5, atol=1e-6)
    assert trains_rows(owner, layer._embeddings)


@pytest.mark.parametrize("combiner", ["sum", "mean", "max", "sqrtn"])
def test_empty_bags(combiner: str) -> None:
    """No ids, only padding, or no samples: zeros, eagerly and in a graph."""
    layer = unhot.keras.Embedding(ROWS, DIM, combiner=combiner, mask_zero=True, embeddings_initializer="ones")
    layer.build()
    for call in (layer, in_graph(layer)):
        np.testing.assert_array_equal(numbers(call(np.zeros((2, 3), "int32"))), np.zeros((2, DIM)))
        np.testing.assert_array_equal(numbers(call(np.zeros((2, 0), "int32"))), np.zeros((2, DIM)))
        assert tuple(call(np.zeros((0, 3), "int32")).shape) == (0, DIM)
    unmasked = unhot.keras.Embedding(ROWS, DIM, combiner=combiner)
    np.testing.assert_array_equal(numbers(unmasked(np.zeros((2, 0), "int32"))), np.zeros((2, DIM)))
    assert tuple(unmasked(np.array([1, 2])).shape) == (DIM,)
    assert layer.compute_mask(ops.convert_to_tensor(IDS)) is None


@pytest.mark.parametrize("combiner", ["sum", "mean", "max", "sqrtn"])
def test_padding_is_not_read(combiner: str) -> None:
    layer = unhot.keras.Embedding(ROWS, DIM, combiner=combiner, mask_zero=True)
    layer.build()
    layer.set_weights([np.where(np.arange(ROWS)[:, None] == 0, np.nan, np.ones(DIM))])
    np.testing.assert_array_equal(numbers(layer(np.array([[0, 5, 0]]))), np.ones((1, DIM)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere a graph knows its shapes")
def test_bags_of_unknown_length() -> None:
    import tensorflow as tf

    layer = unhot.keras.Embedding(ROWS, DIM, combiner="max", embeddings_initializer="ones")
    layer.build()
    call = tf.function(lambda ids: layer(ids), input_signature=[tf.TensorSpec((None, None), tf.int32)])
    np.testing.assert_array_equal(numbers(call(np.zeros((2, 0), "int32"))), np.zeros((2, DIM)))
    np.testing.assert_array_equal(numbers(call(IDS)), np.ones((2, DIM)))


def test_weights_that_cancel() -> None:
    """Only an empty bag's mean is 0."""
    layer = unhot.keras.Embedding(ROWS, DIM, combiner="mean", embeddings_initializer="identity")
    assert not np.isfinite(numbers(layer(np.array([[0, 1]]), weights=np.array([[1.0, -1.0]])))).any()


def test_weights_of_other_dtypes() -> None:
    layer = unhot.keras.Embedding(ROWS, DIM, combiner="mean", embeddings_initializer="identity")
    for weights in ([[3, 1]], [[3.0, 1.0]], np.array([[3, 1]]), np.array([[3, 1]], "float64"), np.array([[3, 1]], "float16")):
        np.testing.assert_array_equal(numbers(layer([[0, 1]], weights=weights)), [[0.75, 0.25, 0]])


def test_bias_beside_lora() -> None:
    """Also if LoRA is there from the start; files hold both."""
    options = {"use_bias": True, "bias_initializer": "ones", "combiner": "sum"}
    layer = unhot.keras.Embedding(ROWS, DIM, lora_rank=2, **options)
    layer.build()
    assert len(layer.trainable_variables) == 3
    layer.lora_embeddings_b.assign(np.ones((2, DIM)))
    table = numbers(layer._embeddings) + numbers(layer.lora_embeddings_a) @ np.ones((2, DIM))
    np.testing.assert_allclose(numbers(layer(IDS)), table[IDS].sum(axis=1) + 1, rtol=1e-5)
    merged, store = unhot.keras.Embedding(ROWS, DIM, **options), {}
    merged.build()
    layer.save_own_variables(store)
    merged.load_own_variables(store)
    np.testing.assert_allclose(numbers(merged(IDS)), numbers(layer(IDS)), rtol=1e-5)


def test_a_model_with_weights_and_bias_is_saved(tmp_path: Path) -> None:
    layer = unhot.keras.Embedding(ROWS, DIM, combiner="mean", use_bias=True, activation="relu", bias_initializer="ones")
    model = bag_model(layer, weighted=True)
    inputs = [IDS, np.random.default_rng(1).random((2, LENGTH)).astype("float32")]
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))
    loaded.set_weights([0 * w for w in loaded.get_weights()])
    loaded.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))
    without = bag_model(unhot.keras.Embedding(ROWS, DIM, combiner="mean"), weighted=True)
    with pytest.raises(ValueError, match="expected 1 variables, but received 2"):
        without.load_weights(tmp_path / "a.weights.h5")


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="`combiner` must be one of"):
        unhot.keras.Embedding(ROWS, DIM, combiner="min")
    for wrong in ("nan", ROWS, -1, True, None, 1.0):
        with pytest.raises(ValueError, match="`out_of_range` must be"):
            unhot.keras.Embedding(ROWS, DIM, out_of_range=wrong)
    weights = np.ones((2, LENGTH), "float32")
    for combiner in (None, "max"):
        with pytest.raises(ValueError, match="`weights` go with combiner 'sum', 'mean' or 'sqrtn'"):
            unhot.keras.Embedding(ROWS, DIM, combiner=combiner)(IDS, weights=weights)
    layer = unhot.keras.Embedding(ROWS, DIM, combiner="sum")
    with pytest.raises(ValueError, match=r"`weights` must have the shape of the ids. Received: shapes \(2, 1\) and \(2, 4\)"):
        layer(IDS, weights=weights[:, :1])
    with pytest.raises(ValueError, match="combines along the last axis of the ids"):
        layer(np.int32(3))


@pytest.mark.parametrize("activation", few(["relu", "gelu", "softplus"], ["gelu"]))
def test_the_view_of_a_numpy_table(activation: str) -> None:
    """`unhot.DenseView` is trained as Keras's Dense layer on multi-hot rows, whose bias decays, too."""
    dense = keras.layers.Dense(DIM, activation=activation)
    model = keras.Sequential([keras.Input((ROWS,)), dense])
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), "mse")
    kernel, bias = dense.get_weights()
    table = unhot.Table.from_array(kernel, optimizer=unhot.AdamW(0.05, weight_decay=0.1))
    view = unhot.DenseView(table, bias=bias, activation=activation)
    ids, _ = data()
    targets = np.random.default_rng(0).normal(size=(48, DIM)).astype("float32")
    multi_hot = np.zeros((48, ROWS), "float32")
    np.add.at(multi_hot, (np.arange(48)[:, None], ids), 1)
    model.fit(multi_hot, targets, **FIT)
    for _ in range(FIT["epochs"]):
        for start in range(0, 48, FIT["batch_size"]):
            batch = slice(start, start + FIT["batch_size"])
            found = view.bag(ids[batch])
            view.step(ids[batch], 2 * (found - targets[batch]) / found.size, mode="sum")
    for mine, other in zip((table.array, view.bias), dense.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=300 * EPSILON, atol=300 * EPSILON)

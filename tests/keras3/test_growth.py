"""Rows that are added to Keras's layers in training, given back and frozen, against Keras's with all rows from the start."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from selection import slow, some

import unhot.keras
from unhot.keras.backends import backend

from .calls import ON, unpublished
from .models import EPSILON, DenselyTrained

BACKEND = keras.backend.backend()
ROWS, DIM, FIRST = 12, 3, 6

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"weight_decay": 0.3, "amsgrad": True},
    "Ftrl": {"l2_shrinkage_regularization_strength": 0.1, "l1_regularization_strength": 0.01, "weight_decay": 0.1},
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adagrad": {"weight_decay": 0.1},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adadelta": {"weight_decay": 0.1},
    "Adam": {},
    "Adamax": {"weight_decay": 0.3},
    "Nadam": {"weight_decay": 0.3},
    "Lion": {"weight_decay": 0.3},
}
"""Those that Keras has, too."""

OWN: dict[str, dict[str, Any]] = {"RAdam": {"weight_decay": 0.3}, "RowwiseAdagrad": {"weight_decay": 0.1}, "LazyAdam": {}}
"""Those that it has not."""


def start() -> Any:
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")


def of(vectors: Any) -> Callable[..., Any]:
    """An initializer that gives new rows these."""
    return lambda shape, dtype=None: ops.convert_to_tensor(vectors)


def model_of(layer: Any, optimizer: Any, alone: bool = False) -> keras.Model:
    """ids -> a number, by a layer with weights of its own, or `alone`: then a row's gradient depends on that row only."""
    ids = keras.Input((1 if alone else 2,), dtype="int32")
    flat = keras.layers.Flatten()(layer(ids))
    out = ops.sum(flat, axis=1, keepdims=True) if alone else keras.layers.Dense(1, kernel_initializer="ones", name="out")(flat)
    model = keras.Model(ids, out)
    model.compile(optimizer, loss="mse")
    return model


def pair(name: str, alone: bool = False, **options: Any) -> tuple[Any, Any, keras.Model, keras.Model]:
    """A layer that grows and one with all rows, in models that are alike."""
    theirs = getattr(keras.optimizers, name) if name in OPTIMIZERS else getattr(unhot.keras, name)
    layers = unhot.keras.Embedding(FIRST, DIM, name="table"), DenselyTrained(ROWS, DIM, name="table")
    if name in OWN:
        layers = layers[0], unhot.keras.Embedding(ROWS, DIM, name="table")
    hyper = {"learning_rate": 0.05, **OPTIMIZERS.get(name, {}), **OWN.get(name, {}), **options}
    kinds = getattr(unhot.keras, name), theirs
    models = [model_of(layer, kind(**hyper), alone) for layer, kind in zip(layers, kinds, strict=True)]
    for layer in layers:
        layer._embeddings.assign(start()[: layer.input_dim])
    return *layers, *models


def train(models: Any, rows: Any, seed: int = 0, **options: Any) -> None:
    """Three steps of the rows below a number, or of those given."""
    random = np.random.default_rng(seed)
    ids = random.choice(rows, (12, models[0].input_shape[1])).astype("int32")
    wanted = random.normal(size=(12, 1)).astype("float32")
    for model in models:
        model.fit(ids, wanted, batch_size=4, verbose=0, shuffle=False, **options)
        make_anew(model)


def make_anew(model: Any) -> None:
    """Let go of what was compiled, where nobody says which models call a table, as the error of a change of rows asks for."""
    if not ON and BACKEND == "tensorflow":
        model.train_function = model.test_function = model.predict_function = None


def numbers(variable: Any) -> Any:
    return np.array(ops.convert_to_numpy(variable.value), copy=True)


def assert_same(ours: keras.Model, theirs: keras.Model, rows: int, allowed: float = 300 * EPSILON) -> None:
    """Variables of model and optimizer agree, in the rows that are there."""
    both = [(*model.weights, *model.optimizer.variables) for model in (ours, theirs)]
    names = [[re.sub(r"_\d+$", "", variable.path.split("/")[-1]) for variable in variables] for variables in both]
    assert names[0] == names[1]
    for mine, other in zip(*both, strict=True):
        expected = numbers(other)
        expected = expected[:rows] if expected.shape[:1] == (ROWS,) else expected
        scale = max(np.abs(expected).max(initial=0.0), 0.1)
        np.testing.assert_allclose(numbers(mine), expected, rtol=allowed, atol=allowed * scale, err_msg=mine.path)


def owned(layer: Any) -> bool:
    return backend.ownable(layer._embeddings).ownership is not None


@pytest.mark.parametrize("name", some([*OPTIMIZERS, *OWN], ["Ftrl", "Adagrad"]))
def test_as_if_all_rows_had_been_there(name: str) -> None:
    """Weights and optimizer's state of a table that grows between calls of `fit`, while its learning rate changes."""
    layer, _, *models = pair(name)
    table = layer._embeddings
    for rows in (FIRST, FIRST + 3):
        train(models, rows, rows, epochs=2)
        assert layer.grow(3, of(start()[rows : rows + 3])).tolist() == [rows, rows + 1, rows + 2]
        for model in models:
            model.optimizer.learning_rate = 0.01
    assert layer._embeddings is table
    assert owned(layer)
    train(models, ROWS, 7)
    assert_same(*models, ROWS)


@pytest.mark.parametrize("name", some(["AdamW", "Ftrl", "SGD", "Adagrad"], ["SGD"]))
def test_small_tables_that_are_left_to_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They grow as the others, until they are large enough."""
    monkeypatch.setattr(backend, "FEWEST_ROWS", 10)
    layer, _, *models = pair(name)
    for number in range(3):
        train(models, layer.input_dim, number)
        assert owned(layer) == (layer.input_dim >= 10)
        rows = layer.input_dim
        layer.grow(2, of(start()[rows : rows + 2]))
    train(models, ROWS, 7)
    assert_same(*models, ROWS)


class Grows(keras.callbacks.Callback):  # type: ignore[misc]  # Keras comes without types
    """Adds rows in a callback of `fit`."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def add(self) -> None:
        rows = self.layer.input_dim
        self.layer.grow(2, of(start()[rows : rows + 2]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 0:
            self.add()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1 and self.layer.input_dim == FIRST + 2:
            if BACKEND == "jax":
                with pytest.raises(RuntimeError, match=re.escape("call `model.jax_state_sync()` before")):
                    self.add()
                self.model.jax_state_sync()
            self.add()


@unpublished
def test_within_fit() -> None:
    """A callback adds rows; what was compiled is made anew, also what evaluates and predicts."""
    layer, _, *models = pair("AdamW", amsgrad=False)
    ids = np.array([[0, 1], [2, 3]], np.int32)
    models[0].predict(ids, verbose=0)
    random = np.random.default_rng(3)
    given = random.integers(0, FIRST, (12, 2)).astype("int32"), random.normal(size=(12, 1)).astype("float32")
    for model, callbacks in zip(models, ([Grows(layer)], []), strict=True):
        model.fit(*given, batch_size=4, epochs=3, verbose=0, shuffle=False, callbacks=callbacks, validation_data=given)
    assert layer.input_dim == FIRST + 4
    train(models, FIRST + 4)
    assert_same(*models, FIRST + 4)
    results = [model.predict(ids + FIRST, verbose=0) for model in models]
    np.testing.assert_allclose(*results, rtol=300 * EPSILON, atol=300 * EPSILON)


@pytest.mark.parametrize("excluded", [False, pytest.param(True, marks=slow)])
def test_schedules_and_excluded_tables(excluded: bool) -> None:
    """The decay of new rows is that of the rates of a schedule; a table may be excluded from it."""
    layer, _, *models = pair("SGD", learning_rate=keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5))
    if excluded:
        for model in models:
            model.optimizer.exclude_from_weight_decay(var_names=["embeddings"])
    train(models, FIRST)
    layer.grow(ROWS - FIRST, of(start()[FIRST:]))
    train(models, ROWS, 1)
    assert_same(*models, ROWS)


AVERAGED: dict[str, tuple[str, dict[str, Any]]] = {
    "decay": ("AdamW", {}),
    "replaced": ("AdamW", {"ema_overwrite_frequency": 2, "weight_decay": 0.1}),
    "a schedule": ("SGD", {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5), "momentum": 0.0}),
    "batches together": ("SGD", {"gradient_accumulation_steps": 2, "ema_overwrite_frequency": 2, "nesterov": False}),
    "Ftrl": ("Ftrl", {"ema_overwrite_frequency": 3}),
    "no decay": ("Adam", {}),
}


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("case", some(AVERAGED, ["decay", "batches together", "Ftrl"]))
def test_averages_of_the_steps_before(case: str) -> None:
    """With `use_ema`, averages of new rows are those of the weights that they would have had, which decay has moved.

    They replace the weights at the end of `fit`, and so not after single batches.
    """
    name, options = AVERAGED[case]
    layer, _, *models = pair(name, use_ema=True, ema_momentum=0.9, **options)
    for number in range(5):
        for model in models:
            model.train_on_batch(np.full((4, 2), number % FIRST, "int32"), np.ones((4, 1), "float32"))
    make_anew(models[0])
    layer.grow(2, of(start()[FIRST : FIRST + 2]))
    assert_same(*models, FIRST + 2)
    if BACKEND == "jax":  # where Keras itself fails in a second `fit` with averages
        return
    train(models, FIRST + 2, 1)
    layer.grow(ROWS - FIRST - 2, of(start()[FIRST + 2 :]))
    assert_same(*models, ROWS)
    train(models, ROWS, 2)
    assert_same(*models, ROWS)


@pytest.mark.parametrize("name", some(["SGD", "AdamW"], ["SGD"]))
def test_removed_rows_begin_anew(name: str) -> None:
    """Their numbers are used again, with a new state; others train as before."""
    layer, _, *models = pair(name, alone=True)
    layer.grow(ROWS - FIRST, of(start()[FIRST:]))
    train(models, 5)
    train(models[:1], [7, 9], 1)
    train(models[1:], [10, 11], 1)
    layer.frozen = [2, 9]
    layer.remove([[9], [7]])
    assert not numbers(layer._embeddings)[[7, 9]].any()
    assert layer.input_dim == ROWS
    assert layer.frozen.tolist() == [2]
    layer.frozen = None
    assert layer.grow(2, of(start()[[7, 9]])).tolist() == [7, 9]
    train(models, 10, 2)
    np.testing.assert_allclose(*(numbers(model.weights[0])[:10] for model in models), rtol=1e-4, atol=1e-5)


def test_rows_that_are_given_and_the_mean() -> None:
    """They hold what is given, whatever decay has done to the others; the initializer gives what all rows would have got."""
    layer = unhot.keras.Embedding(4, DIM, embeddings_initializer=keras.initializers.GlorotUniform(seed=3))
    model = model_of(layer, unhot.keras.Adagrad(0.1, weight_decay=0.5))
    train([model], 4)
    given = np.arange(6.0).reshape(2, 3)
    assert layer.grow(2, given).tolist() == [4, 5]
    np.testing.assert_array_equal(numbers(layer._embeddings)[4:], given)
    mean = numbers(layer._embeddings).astype(np.float64).mean(0)
    layer.grow(1, "mean")
    np.testing.assert_allclose(numbers(layer._embeddings)[6], mean, rtol=1e-6)
    layer.grow(3)
    whole = ops.convert_to_numpy(keras.initializers.GlorotUniform(seed=3)((10, DIM)))
    np.testing.assert_allclose(numbers(layer._embeddings)[7:], whole[7:] * (1 - 0.05) ** 3, rtol=1e-5)


def test_checkpoints(tmp_path: Path) -> None:
    """A model is saved with the rows that it has; a layer of the new size takes its weights; Keras's optimizer goes on."""
    layer, _, *models = pair("SGD")
    train(models, FIRST)
    layer.grow(ROWS - FIRST, of(start()[FIRST:]))
    layer.frozen = [3]
    layer.remove([5])
    model = models[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    table = loaded.get_layer("table")
    assert (table.input_dim, table.frozen.tolist()) == (ROWS, [3])
    train([model, loaded], 3)
    assert_same(loaded, model, ROWS, 0.0 if BACKEND == "torch" else 300 * EPSILON)
    assert layer.grow(1, "zeros").tolist() == table.grow(1, "zeros").tolist() == [5]
    model.save_weights(tmp_path / "model.weights.h5")
    stock = keras.layers.Embedding(ROWS, DIM, name="table")
    theirs = model_of(stock, keras.optimizers.SGD(0.05, **OPTIMIZERS["SGD"]))
    theirs.load_weights(tmp_path / "model.weights.h5")
    smaller = unhot.keras.Embedding(FIRST, DIM, name="table")
    other = model_of(smaller, unhot.keras.SGD(0.05))
    with pytest.raises(ValueError, match="could not be loaded"):
        other.load_weights(tmp_path / "model.weights.h5")
    smaller.grow(ROWS - FIRST)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numbers(smaller._embeddings), numbers(layer._embeddings))
    state: dict[str, Any] = {}
    model.optimizer.save_own_variables(state)
    theirs.optimizer.build(theirs.trainable_variables)
    theirs.optimizer.load_own_variables(state)
    layer.frozen = None
    assert "frozen" not in layer.get_config()
    if BACKEND != "tensorflow":  # whose optimizers apply ids that repeat one by one
        train([model, theirs], ROWS)
        assert_same(model, theirs, ROWS)


def test_a_collection_is_copied_with_the_rows_that_its_tables_have() -> None:
    """They grow table by table."""
    collection = unhot.keras.EmbeddingCollection({"user": (4, DIM), "item": (5, DIM)})
    collection({"user": np.array([1]), "item": np.array([4])})
    assert collection.layers["user"].grow(2).tolist() == [4, 5]
    made = type(collection).from_config(collection.get_config())
    assert [made.layers[name].input_dim for name in ("user", "item")] == [6, 5]
    assert tuple(collection({"user": np.array([5]), "item": np.array([4])}).shape) == (1, 2 * DIM)


def test_a_shared_layer_and_two_optimizers() -> None:
    """A layer in two models, each with an optimizer that has trained it; both go on with the rows that are new."""
    layer = unhot.keras.Embedding(FIRST, DIM)
    models = [model_of(layer, unhot.keras.SGD(0.1, momentum=0.9)) for _ in range(2)]
    for model in models:
        train([model], FIRST)
    layer.grow(2)
    assert {tuple(slot.shape) for model in models for slot in model.optimizer.variables if "table" in slot.path} <= {(8, DIM)}
    before = numbers(layer._embeddings)
    for model in models:
        train([model], [6, 7])
    assert (numbers(layer._embeddings)[6:] != before[6:]).all()


def test_errors() -> None:
    """They name what is wrong, and the layer stays as it was."""
    layer = unhot.keras.Embedding(4, DIM, out_of_range=3, frozen=[0], mask_zero=True)
    layer.remove(2)
    before = numbers(layer._embeddings)
    for call, kind, message in (
        (lambda: layer.grow(0), ValueError, "`rows` must be a positive integer. Received: 0."),
        (lambda: layer.grow(2, np.ones((1, 3))), ValueError, "`init` must have shape (rows, output_dim) = (2, 3). Received"),
        (lambda: layer.grow(2, [["a"]]), TypeError, "`init` must hold real numbers"),
        (lambda: layer.grow(2, "onse"), ValueError, "onse"),
        (lambda: layer.remove(4), IndexError, "id 4 is out of range"),
        (lambda: layer.remove([1, 2]), IndexError, "id 2 at position 1 is that of a removed row"),
        (lambda: layer.remove(3), ValueError, "row 3 stands for ids out of range. Assign another `out_of_range` first."),
        (lambda: layer.remove([1, 0]), ValueError, "row 0 stands for ids that are masked (mask_zero=True)."),
        (lambda: layer.remove(np.array([0.5])), TypeError, "`rows` must be integers"),
        (lambda: setattr(layer, "frozen", [True]), ValueError, "a mask of rows must have shape (4,)"),
    ):  # fmt: skip
        with pytest.raises(kind, match=re.escape(message)):
            call()
        np.testing.assert_array_equal(numbers(layer._embeddings), before)
        assert (layer.input_dim, layer.frozen.tolist()) == (4, [0])
    with pytest.raises(IndexError, match="id 4"):
        unhot.keras.Embedding(4, DIM, frozen=[4])
    layer.quantize("int8")
    with pytest.raises(ValueError, match="cannot change, since it is quantized"):
        layer.grow(1)


def test_rows_that_stand_for_other_ids_are_not_new_ones() -> None:
    """Not even if they were removed before they came to do so."""
    layer = unhot.keras.Embedding(5, DIM)
    layer.remove([0, 2, 3])
    layer.mask_zero, layer.out_of_range = True, 2
    assert layer.grow(2, "ones").tolist() == [3, 5]
    assert not numbers(layer._embeddings)[[0, 2]].any()
    layer.mask_zero, layer.out_of_range = False, "raise"
    assert layer.grow(3).tolist() == [0, 2, 6]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's functions, which hold on to variables")
def test_functions_that_were_made_before() -> None:
    """One that trains raises an error when it runs; rows are not added while one is there that could not."""
    import tensorflow as tf

    from .models import compiled_step

    layer = unhot.keras.Embedding(FIRST, DIM)
    model = model_of(layer, unhot.keras.Adam(0.1))
    ids, wanted = np.array([[0, 1]], np.int32), np.ones((1, 1), np.float32)
    step = compiled_step(model)
    step(ids, wanted)
    layer.grow(1)
    before = numbers(layer._embeddings)
    with pytest.raises(RuntimeError, match="were added, removed or frozen after this function was made"):
        step(ids, wanted)
    np.testing.assert_array_equal(numbers(layer._embeddings), before)
    compiled_step(model)(ids, wanted)
    assert (numbers(layer._embeddings)[0] != before[0]).all()

    def refused() -> None:
        look = tf.function(layer)
        look(ids)
        with pytest.raises(RuntimeError, match=re.escape("as long as there is a tf.function that reads the table")):
            layer.grow(1)

    refused()
    assert layer.input_dim == FIRST + 1
    layer.grow(1)  # after the function is gone


def test_reversible_embeddings_and_lora() -> None:
    """What has a row or a column for each id grows with the table; vectors are what was asked for."""
    layer = unhot.keras.ReversibleEmbedding(4, DIM, tie_weights=False, embeddings_initializer=keras.initializers.Ones())
    vectors = layer(np.array([[1, 2]], np.int32))
    assert layer.grow(2, "zeros").tolist() == [4, 5]
    logits = ops.convert_to_numpy(layer(vectors, reverse=True))
    assert logits.shape == (1, 2, 6)
    layer.remove([1])
    logits = ops.convert_to_numpy(layer(vectors, reverse=True))
    assert (logits[..., 1] == 0).all()
    assert (logits[..., 5] == DIM).all()
    tied = unhot.keras.ReversibleEmbedding(4, DIM)
    tied.build()
    tied.grow(1, np.ones((1, DIM)))
    assert tuple(tied(np.ones((2, DIM), np.float32), reverse=True).shape) == (2, 5)
    low_rank = unhot.keras.Embedding(4, DIM, lora_rank=2)
    model = model_of(low_rank, unhot.keras.Adagrad(0.1))
    low_rank.lora_embeddings_b.assign(np.ones((2, DIM)))
    train([model], 4)
    given = np.arange(3.0)[None]
    low_rank.grow(1, given)
    np.testing.assert_array_equal(ops.convert_to_numpy(low_rank(np.array([4], np.int32))), given)
    train([model], [3, 4])
    assert (ops.convert_to_numpy(low_rank(np.array([4], np.int32))) != given).any()

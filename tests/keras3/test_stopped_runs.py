"""TensorFlow: an id out of range stops what runs in a graph, as in `keras.layers.Embedding`, and leaves all as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pytest
from selection import some

import unhot.keras
from unhot.keras.backends import backend

from .calls import BACKEND, unpublished
from .models import EPSILON, compiled_step

if BACKEND != "tensorflow":
    pytest.skip("the graphs of TensorFlow", allow_module_level=True)

import tensorflow as tf

ROWS, IDS = 40, 4
NAMED = r"id 40(\.0)? at position \[1 2\] of the ids of layer table is not the number of a row.*rows 0 to 39"


def batches() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, ROWS, (8, IDS)).astype("int32")
    bad = ids.copy()
    bad[1, 2] = ROWS
    return ids, bad, rng.normal(size=(8, 1)).astype("float32")


def made(dtype: str = "int32", jit_compile: bool = False, optimizer: Any = None, **options: Any) -> Any:
    """A table beside dense layers of its own, and a loss in which the table's vectors also have a part to themselves."""
    keras.utils.set_random_seed(3)
    ids = keras.Input((IDS,), dtype=dtype)
    vectors = unhot.keras.Embedding(ROWS, 3, name="table", **options)(ids)
    pooled = vectors if options.get("combiner") else keras.layers.Flatten()(vectors)
    out = keras.layers.Dense(1)(keras.layers.BatchNormalization()(keras.layers.Dense(4, activation="tanh")(pooled)))
    model = keras.Model(ids, out)
    model.compile(optimizer or unhot.keras.AdamW(0.05, weight_decay=0.1), "mse", jit_compile=jit_compile)
    return model


def state(model: Any) -> list[Any]:
    return [np.array(v.numpy()) for v in (*model.weights, *model.optimizer._variables)]


WAYS: dict[str, Callable[[Any], Callable[[Any, Any], Any]]] = {
    "fit": lambda model: lambda ids, wanted: model.fit(ids, wanted, batch_size=8, shuffle=False, verbose=0),
    "train_on_batch": lambda model: model.train_on_batch,
    "evaluate": lambda model: lambda ids, wanted: model.evaluate(ids, wanted, verbose=0),
    "predict": lambda model: lambda ids, wanted: model.predict(ids, verbose=0),
    "own function": lambda model: tf.function(lambda ids, wanted: model(ids)),
    "own step": compiled_step,
}
TABLES: dict[str, dict[str, Any]] = {
    "rows": {}, "left to Keras": {}, "combiner": {"combiner": "mean", "activation": "relu"}, "floats": {"dtype": "float32"},
    "unowned": {},
}  # fmt: skip


FEW = ("fit", "own function")
CASES = [("rows", tuple(WAYS)), *((table, FEW) for table in TABLES)]


@unpublished
@pytest.mark.parametrize(("table", "ways"), some(CASES, [("rows", FEW)]))
def test_as_it_was(table: str, ways: Iterable[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes nothing before it meets the id, and so training goes on as if it had not been."""
    if table == "left to Keras":
        monkeypatch.setattr(backend, "FEWEST_ROWS", ROWS + 1)
    ids, bad, wanted = batches()
    stock = table == "unowned"
    models = [made(optimizer=keras.optimizers.SGD(0.05, momentum=0.9) if stock else None, **TABLES[table]) for _ in range(2)]
    steps = [compiled_step(model) if "own step" in ways else model.train_on_batch for model in models]
    for step in steps:
        step(ids, wanted)
    for way in ways:
        run = WAYS[way](models[0]) if way != "own step" else steps[0]
        before = state(models[0])
        with pytest.raises(tf.errors.InvalidArgumentError, match=NAMED):
            run(bad, wanted)
        found = state(models[0])
        if stock:  # Keras's own optimizer may have counted the step
            models[0].optimizer.iterations.assign(models[1].optimizer.iterations)
        else:
            for was, now in zip(before, found, strict=True):
                np.testing.assert_array_equal(now, was)
    for step in steps:
        step(ids, wanted)
    for now, expected in zip(*map(state, models), strict=True):
        np.testing.assert_allclose(now, expected, rtol=1e-5, atol=16 * EPSILON)  # TensorFlow's sums are in no fixed order


@unpublished
def test_ids_whose_rank_is_not_known() -> None:
    """One graph takes ids of any shape, and says where a bad one is."""
    layer = unhot.keras.Embedding(ROWS, 3, name="table")
    layer.build()
    look_up = tf.function(layer, input_signature=[tf.TensorSpec(None, tf.int32)])
    ids, bad, _ = batches()
    for given in (ids[0, 0], ids[0], ids):
        np.testing.assert_array_equal(look_up(given), layer(given))
    with pytest.raises(tf.errors.InvalidArgumentError, match=NAMED):
        look_up(bad)


@pytest.mark.parametrize("rows", some([True, False], [True]))
def test_what_xla_compiles(rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stops there: the loss is NaN, and no step is made."""
    if not rows:
        monkeypatch.setattr(backend, "FEWEST_ROWS", ROWS + 1)
    ids, bad, wanted = batches()
    model, twin = made(jit_compile=True), made(jit_compile=True)
    for given in (ids, bad, ids):
        loss = model.train_on_batch(given, wanted)
        assert np.isnan(loss) == (given is bad)
        model.reset_metrics()
    for _ in range(2):
        twin.train_on_batch(ids, wanted)
    moving = [i for i, v in enumerate(model.weights) if "moving" in v.path]  # of what the layer between has seen
    for i, (found, expected) in enumerate(zip(state(model), state(twin), strict=True)):
        if i not in moving:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=16 * EPSILON)

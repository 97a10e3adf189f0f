"""TensorFlow: what is saved for serving has the variables and the size of a model with Keras's layer, and settled vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from selection import some

import unhot.keras

from .calls import BACKEND, unpublished

if BACKEND != "tensorflow":
    pytest.skip("the graphs of TensorFlow", allow_module_level=True)

import tensorflow as tf

ROWS, DIM = 500, 4
ASKED = np.array([[3, 8], [7, 7], [499, 0]], "int32")


def trained(embedding: Any, optimizer: Any) -> Any:
    """A model, some of whose rows have steps to come."""
    ids = keras.Input((2,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(embedding(ROWS, DIM)(ids))))
    model.compile(optimizer, "mse")
    for batch in ([[7, 8]], [[3, 7]], [[3, 5]]):
        model.train_on_batch(np.array(batch), np.ones((1, 1)))
    return model


def archive(model: Any, path: Path) -> None:
    made = keras.export.ExportArchive()
    made.track(model)
    made.add_endpoint("serve", lambda ids: model(ids, training=False), [tf.TensorSpec((None, 2), "int32")])
    made.write_out(path, verbose=False)


def module(model: Any, path: Path) -> None:
    holder = tf.Module()
    holder.model = model
    holder.serve = tf.function(lambda ids: model(ids), input_signature=[tf.TensorSpec((None, 2), "int32")])
    tf.saved_model.save(holder, path)


WAYS: dict[str, Callable[[Any, Path], None]] = {
    "export": lambda model, path: model.export(path, verbose=False), "archive": archive, "module": module,
    "saved_model": tf.saved_model.save,
}  # fmt: skip
RULES: dict[str, Callable[[Any], Any]] = {
    "Adam": lambda library: library.Adam(0.1),
    "SGD": lambda library: library.SGD(0.1, momentum=0.9),
    "AMSGrad": lambda library: library.AdamW(0.1, amsgrad=True),
    "Ftrl": lambda library: library.Ftrl(0.1, l2_shrinkage_regularization_strength=0.1),
    "Lion": lambda library: library.Lion(0.1, weight_decay=0.1),
}


def variables(path: Path) -> list[tuple[int, ...]]:
    return sorted(tuple(shape) for _, shape in tf.train.list_variables(str(path / "variables" / "variables")))


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


CASES = [*(("Adam", way) for way in WAYS), *((rule, "export") for rule in RULES if rule != "Adam")]


@unpublished
@pytest.mark.parametrize(("rule", "way"), some(CASES, [("Adam", "saved_model"), ("Ftrl", "export")]))
def test_size_and_vectors(rule: str, way: str, tmp_path: Path) -> None:
    stock = trained(keras.layers.Embedding, RULES[rule](keras.optimizers))
    ours = trained(unhot.keras.Embedding, RULES[rule](unhot.keras))
    assert ours.optimizer.table(ours.layers[1].embeddings) is not None
    WAYS[way](stock, tmp_path / "stock")
    for moment in ("owned", "released"):
        if moment == "released":
            ours.train_on_batch(np.array([[9, 9]]), np.ones((1, 1)))
            unhot.keras.release(ours)
        path = tmp_path / moment
        WAYS[way](ours, path)
        assert variables(path) == variables(tmp_path / "stock")
        assert size(path) < 1.5 * size(tmp_path / "stock")  # the graph checks ids, too
        weights = ours.get_weights()
        expected = weights[0][ASKED].reshape(len(ASKED), -1) @ weights[1] + weights[2]
        loaded = tf.saved_model.load(str(path))
        served = loaded.signatures["serving_default"](tf.constant(ASKED)) if way == "saved_model" else loaded.serve(ASKED)
        served = next(iter(served.values())) if isinstance(served, dict) else served
        np.testing.assert_allclose(served.numpy(), expected, rtol=1e-5, atol=1e-6)
        if way in ("saved_model", "module"):  # TensorFlow Lite cannot read those of a stock model either
            continue
        np.testing.assert_allclose(lite(tf.lite.TFLiteConverter.from_saved_model(str(path))), expected, rtol=1e-5, atol=1e-6)
        if way == "export" and rule == "Adam":
            converter = tf.lite.TFLiteConverter.from_keras_model(ours)
            np.testing.assert_allclose(lite(converter), expected, rtol=1e-5, atol=1e-6)


def lite(converter: Any, ids: Any = ASKED) -> Any:
    """What TensorFlow Lite makes of the ids, with its own operations only."""
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    given, found = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(given, ids.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given, ids)
    interpreter.invoke()
    return interpreter.get_tensor(found)


@unpublished
def test_a_served_model_refuses_ids_out_of_range(tmp_path: Path) -> None:
    """As a served model of Keras does on a CPU; TensorFlow Lite drops the check, and gives NaN."""
    model = trained(unhot.keras.Embedding, unhot.keras.Adam(0.1))
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"id 500 at position \[0 1\]"):
        served.serve(np.array([[3, ROWS]], "int32"))
    beyond = np.array([[3, ROWS], [7, 7]], "int32")
    found = lite(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "served")), beyond)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()

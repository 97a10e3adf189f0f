"""Functions that were made before an optimizer owned the table, or while another did, show its rows settled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from selection import slow, some

import unhot.keras

from .calls import few, unpublished

BACKEND = keras.backend.backend()
ROWS, DIM, IDS = 1_000, 2, 6


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.integers(0, ROWS, (64, IDS)).astype("int32"), rng.normal(size=(64, 1)).astype("float32")


def model_on(table: Any, optimizer: Any) -> Any:
    ids = keras.Input((IDS,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(table(ids))))
    model.compile(optimizer, "mse")
    return model


def fit(model: Any) -> None:
    """The first rows have deferred steps after that."""
    ids, wanted = data()
    model.fit(ids, wanted, batch_size=8, epochs=2, shuffle=False, verbose=0)


def predicted(model: Any) -> Any:
    return model.predict(data()[0], verbose=0)


def predicted_on_batch(model: Any) -> Any:
    return np.asarray(model.predict_on_batch(data()[0]))


def evaluated(model: Any) -> Any:
    return np.asarray(model.evaluate(*data(), verbose=0))


def loss_on_batch(model: Any) -> Any:
    model.reset_metrics()
    return np.asarray(model.test_on_batch(*data()))


def validated(model: Any) -> Any:
    """After a step that changes nothing but the clock."""
    ids, wanted = data()
    rate = float(model.optimizer.learning_rate)
    model.optimizer.learning_rate = 0.0
    found = model.fit(ids[:8], wanted[:8], batch_size=8, validation_data=(ids, wanted), verbose=0).history["val_loss"]
    model.optimizer.learning_rate = rate
    return np.asarray(found[0])


def settled(model: Any) -> tuple[Any, Any]:
    """The vectors and the loss, from the weights."""
    weights = model.get_weights()
    ids, wanted = data()
    found = weights[0][ids].reshape(len(ids), -1) @ weights[1] + weights[2]
    return found, np.mean((found - wanted) ** 2)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "predict": predicted, "predict_on_batch": predicted_on_batch, "evaluate": evaluated, "test_on_batch": loss_on_batch,
    "validation": validated,
}  # fmt: skip


FAST = {"torch": [*FUNCTIONS], "jax": ["predict", "validation"], "tensorflow": ["predict", "validation"]}[BACKEND]
"""On JAX the functions are given the state, whatever was there when they were made."""


@pytest.mark.parametrize("name", some(FUNCTIONS, FAST))
def test_before_training(name: str) -> None:
    """A baseline, then training, then the same again."""
    model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.Adam(0.05))
    (evaluated if name == "validation" else FUNCTIONS[name])(model)
    fit(model)
    found = FUNCTIONS[name](model)
    vectors, loss = settled(model)
    np.testing.assert_allclose(found, vectors if name.startswith("predict") else loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", few(["predict", "evaluate"], ["predict"]))
def test_under_another_optimizer_and_in_another_model(name: str) -> None:
    table = unhot.keras.Embedding(ROWS, DIM)
    models: list[Any] = []
    for _ in range(2):
        models.append(model_on(table, unhot.keras.Adam(0.05)))
        for seen in models:
            FUNCTIONS[name](seen)
        fit(models[-1])
        for seen in models:
            found = FUNCTIONS[name](seen)
            vectors, loss = settled(seen)
            np.testing.assert_allclose(found, vectors if name == "predict" else loss, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's functions")
def test_a_function_of_the_users() -> None:
    """The table is trained densely, unless the optimizer was there first, or the function is gone."""
    import tensorflow as tf

    for case in ("before", "after build", "gone"):
        model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.Adam(0.05))
        run = tf.function(lambda ids, model=model: model(ids))
        if case == "after build":
            model.optimizer.build(model.trainable_variables)
        run(data()[0])
        if case == "gone":
            del run
        if case == "before":
            with pytest.warns(unhot.DenseFallbackWarning, match=r"tf.function that was made before.*optimizer\.build"):
                fit(model)
        else:
            fit(model)
        assert (model.optimizer.table(model.layers[1]._embeddings) is not None) == (case != "before")
        if case != "gone":
            np.testing.assert_allclose(run(data()[0]), settled(model)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's functions")
def test_a_function_that_becomes_part_of_a_step() -> None:
    """It was made while nobody owned the table, which the step then takes back; and it is asked after the step."""
    import tensorflow as tf

    found = []
    for kind, module in ((keras.layers.Embedding, keras.optimizers), (unhot.keras.Embedding, unhot.keras)):
        keras.utils.set_random_seed(1)
        table, optimizer = kind(ROWS, DIM), module.SGD(0.1, momentum=0.9)
        table.build()
        optimizer.build(table.trainable_variables)

        @tf.function
        def step(ids: Any, table: Any = table, optimizer: Any = optimizer) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(table(ids, training=True) ** 2)
            optimizer.apply_gradients(
                zip(tape.gradient(loss, table.trainable_variables), table.trainable_variables, strict=True)
            )

        ids = np.arange(64, dtype="int32").reshape(4, 16)
        step(ids[0])
        if module is unhot.keras:
            unhot.keras.release(table)
        vectors = tf.function(lambda table=table: table(tf.range(ROWS)))
        step_and_look = tf.function(lambda ids, step=step, vectors=vectors: (step(ids), vectors())[1])
        seen = [vectors().numpy()]
        seen += [step_and_look(line).numpy() for line in ids]
        if module is unhot.keras:
            assert table.embeddings.ownership is not None
        found.append([*seen, table.get_weights()[0]])
    for mine, other in zip(*found, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


@unpublished
@(slow if BACKEND == "jax" else lambda test: test)  # where no graph stays behind
def test_export_between_two_trainings(tmp_path: Path) -> None:
    """What is exported is done with, and in nobody's way."""
    if BACKEND == "torch":
        pytest.skip("torch.export is tested elsewhere")
    model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.Adam(0.05))
    for _ in range(2):
        fit(model)
        model.export(tmp_path / "exported", verbose=False)
        model.compile(unhot.keras.Adam(0.05), "mse")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=unhot.DenseFallbackWarning)
            fit(model)
        assert model.optimizer.table(model.layers[1]._embeddings) is not None


@unpublished
@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's functions")
def test_a_training_loop_of_the_users() -> None:
    """Its own graph is none that would not see deferred steps; neither is that of a loop with another optimizer before."""
    import tensorflow as tf

    table = unhot.keras.Embedding(ROWS, DIM)
    for _ in range(2):
        model = model_on(table, unhot.keras.Adam(0.05))

        @tf.function
        def step(ids: Any, wanted: Any, model: Any = model) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(ids, training=True) - wanted) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        ids, wanted = data()
        for start in range(0, 64, 8):
            step(ids[start : start + 8], wanted[start : start + 8])
        assert model.optimizer.table(table._embeddings) is not None
        np.testing.assert_allclose(predicted(model), settled(model)[0], rtol=1e-4, atol=1e-5)

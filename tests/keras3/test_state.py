"""Whoever reads a model's weights reads them settled; saving, loading and going on; who owns a table."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import unhot.keras
from unhot.keras._private import ON

from .calls import slow_but_on_torch, unpublished
from .models import DIM, EPSILON, LENGTH, ROWS, assert_same, data, model_with, one_hot, pair, table
from .test_fit import both

BACKEND = keras.backend.backend()
FIT: dict[str, Any] = {"batch_size": 12, "shuffle": False, "verbose": 0}
ADAM = {"learning_rate": 0.03}


def fitted(epochs: int = 3, name: str = "Adam", **options: Any) -> tuple[keras.Model, keras.Model]:
    """Models in the middle of their training: most rows have deferred steps."""
    models = pair(*both(name, **(options or ADAM)))
    for model in models:
        model.fit(*data(), epochs=epochs, **FIT)
    return models


def go_on(*models: keras.Model, epochs: int = 2) -> None:
    for model in models:
        model.fit(*data(seed=5), epochs=epochs, **FIT)


def numbers(variable: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(variable))


READS = {
    "get_weights": lambda model: model.get_weights()[0],
    "layer.embeddings": lambda model: numbers(model.get_layer("table").embeddings),
    "layer.weights": lambda model: numbers(model.get_layer("table").weights[0].value),
    "layer.get_weights": lambda model: model.get_layer("table").get_weights()[0],
    "variable.numpy": lambda model: np.array(model.get_layer("table").embeddings.numpy()),
    "np.asarray": lambda model: np.array(np.asarray(model.get_layer("table").embeddings)),
    "a lookup": lambda model: numbers(model.get_layer("table")(np.arange(ROWS))),
    "predict": lambda model: keras.Model(model.inputs, model.get_layer("table").output).predict(
        np.arange(ROWS).reshape(-1, LENGTH), verbose=0
    ).reshape(ROWS, DIM),
    "arithmetic": lambda model: numbers(model.get_layer("table").embeddings + 0.0),
    "get_state_tree": lambda model: np.array(
        model.get_state_tree(value_format="numpy_array")["trainable_variables"]["table"]["embeddings"]
    ),
}  # fmt: skip


def test_reads_are_settled() -> None:
    """Each after a step that has left most rows behind."""
    ours, theirs = fitted(epochs=2)
    ids, targets = data()
    for i, (name, read) in enumerate(READS.items()):
        batch = slice(12 * (i % 4), 12 * (i % 4) + 12)
        for model in (ours, theirs):
            model.train_on_batch(ids[batch], targets[batch])
        np.testing.assert_allclose(read(ours), theirs.get_weights()[0], rtol=1e-4, atol=300 * EPSILON, err_msg=name)
    assert_same(ours, theirs)


def test_slots_are_settled() -> None:
    """Also before anyone has looked at the weights."""
    ours, theirs = fitted()
    for mine, other in zip(ours.optimizer._variables, theirs.optimizer._variables, strict=True):
        np.testing.assert_allclose(numbers(mine), numbers(other), rtol=1e-3, atol=1e-5, err_msg=other.path)
    assert len(repr(ours.optimizer._variables[2])) > 0
    np.testing.assert_allclose(ours.evaluate(*data(), verbose=0), theirs.evaluate(*data(), verbose=0), rtol=1e-4)


def test_save_and_go_on(tmp_path: Path) -> None:
    """A loaded model goes on as the saved one does, and the saved one as if nothing had been."""
    ours, theirs = fitted(name="Nadam")
    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, unhot.keras.Nadam)
    go_on(loaded, ours, theirs)
    assert_same(ours, theirs)
    assert_same(loaded, theirs)


@slow_but_on_torch
def test_save_with_a_loss_scale(tmp_path: Path) -> None:
    scaled = [keras.optimizers.LossScaleOptimizer(o, initial_scale=8.0) for o in both("Adam", **ADAM)]
    ours, theirs = pair(*scaled)
    for model in (ours, theirs):
        model.fit(*data(), epochs=2, **FIT)
    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    go_on(loaded, ours, theirs)
    assert_same(ours, theirs)
    assert_same(loaded, theirs)


def test_checkpoints_move_both_ways(tmp_path: Path) -> None:
    """The files are Keras's: a stock model reads ours, and the other way round, with the optimizer's state."""
    ours, theirs = fitted()
    stock = model_with(keras.layers.Embedding(ROWS, DIM, name="table"))
    stock.compile(optimizer=keras.optimizers.Adam(**ADAM), loss="mse")
    stock.fit(*data(1), epochs=1, verbose=0)
    ours.save_weights(tmp_path / "ours.weights.h5")
    stock.load_weights(tmp_path / "ours.weights.h5")
    stock.optimizer.set_weights([numbers(v) for v in ours.optimizer._variables])
    again = model_with(table())
    again.compile(optimizer=unhot.keras.Adam(**ADAM), loss="mse")
    again.fit(*data(1), epochs=1, verbose=0)
    stock.save_weights(tmp_path / "stock.weights.h5")
    again.load_weights(tmp_path / "stock.weights.h5")
    again.optimizer.set_weights([numbers(v) for v in stock.optimizer._variables])
    go_on(again, theirs)
    assert_same(again, theirs)


@slow_but_on_torch
def test_checkpoints_and_early_stopping(tmp_path: Path) -> None:
    """ModelCheckpoint reads in the middle of training, EarlyStopping restores weights: deferred steps do not come after."""
    ours, theirs = pair(*both("Adam", learning_rate=0.2))
    for name, model in (("ours", ours), ("theirs", theirs)):
        callbacks = [
            keras.callbacks.ModelCheckpoint(tmp_path / (name + "{epoch}.weights.h5"), save_weights_only=True, save_freq=3),
            keras.callbacks.EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True),
        ]
        model.fit(*data(), epochs=6, callbacks=callbacks, **FIT)
        model.fit(*data(), epochs=1, **FIT)
    np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], rtol=1e-4, atol=1e-4)
    for epoch in (1, 2):
        for name, model in (("ours", ours), ("theirs", theirs)):
            model.load_weights(tmp_path / f"{name}{epoch}.weights.h5")
        np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], rtol=1e-4, atol=1e-4)


@slow_but_on_torch
def test_a_checkpoint_of_the_whole_model_in_the_middle(tmp_path: Path) -> None:
    """What it loads goes on as the dense twin does from there."""
    ours, theirs = pair(*both("Adam", learning_rate=0.02))
    loaded = []
    for name, model in (("ours", ours), ("theirs", theirs)):
        file = tmp_path / f"{name}.keras"
        model.fit(*data(), epochs=1, callbacks=[keras.callbacks.ModelCheckpoint(file, save_freq=3)], **FIT)
        loaded.append(keras.models.load_model(file))
    go_on(*loaded)
    assert_same(*loaded)


@slow_but_on_torch
def test_frozen_for_a_while() -> None:
    """Keras asks for `compile` after either.  Under SGD: Adam begins with steps of the gradients' signs, also of rounding's."""
    options = {"learning_rate": 0.05, "momentum": 0.9}
    ours, theirs = fitted(name="SGD", **options)
    for trainable in (False, True):
        for model in (ours, theirs):
            model.get_layer("table").trainable = trainable
        compile_both(ours, theirs, "SGD", **options)
        before = ours.get_weights()[0]
        go_on(ours, theirs)
        assert np.array_equal(ours.get_weights()[0], before) != trainable
        assert_same(ours, theirs)


def test_writes_win_over_deferred_steps() -> None:
    ours, theirs = fitted()
    new = np.linspace(-1, 1, ROWS * DIM, dtype="float32").reshape(ROWS, DIM)
    for model in (ours, theirs):
        model.get_layer("table").embeddings.assign(new)
    np.testing.assert_array_equal(ours.get_weights()[0], new)
    go_on(ours, theirs)
    assert_same(ours, theirs)


def test_an_assigned_step_counter() -> None:
    """Bias corrections and schedules follow `iterations` when someone sets it."""
    ours, theirs = fitted(name="Nadam")
    for step in (2, 500):  # back, and ahead
        for model in (ours, theirs):
            model.optimizer.iterations.assign(step)
        go_on(ours, theirs)
        assert_same(ours, theirs)


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere it is counted inside a graph, which cannot refuse it")
def test_a_negative_step_counter() -> None:
    """Refused before anything is changed; once it is put right, training goes on."""
    ours, theirs = fitted(name="Nadam")
    made = int(ours.optimizer.iterations)
    ours.optimizer.iterations.assign(-3)
    before = ours.get_weights()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the optimizer's `iterations` must be a whole number .* Received: -3"):
            go_on(ours)
    for now, then in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    ours.optimizer.iterations.assign(made)
    go_on(ours, theirs)
    assert_same(ours, theirs)


@slow_but_on_torch
def test_train_on_batch_and_evaluate_in_turn() -> None:
    ours, theirs = pair(*both("SGD", learning_rate=0.1, momentum=0.9))
    ids, targets = data()
    for step in range(10):
        batch = slice(4 * step, 4 * step + 4)
        losses = [
            (model.train_on_batch(ids[batch], targets[batch]), model.evaluate(ids, targets, verbose=0))
            for model in (ours, theirs)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4)
        if step == 4:
            np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], atol=1e-5)
    assert_same(ours, theirs)


@unpublished
def test_export(tmp_path: Path) -> None:
    """The exported graph gives what the model gives, with steps deferred or not."""
    ours, _ = fitted()
    ids, _ = data()
    if BACKEND == "torch":
        import torch

        if not ON:
            pytest.skip("torch.export notes what settles a table")
        wanted = ours.predict(ids, verbose=0)
        ours.eval()
        exported = torch.export.export(ours, (torch.from_numpy(ids),), strict=False).module()
        np.testing.assert_allclose(exported(torch.from_numpy(ids)).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
        return
    import tensorflow as tf

    ours.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(ids).numpy(), ours.predict(ids, verbose=0), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- who owns a table


def owner(model: keras.Model) -> Any:
    return model.optimizer.table(model.get_layer("table")._embeddings)


def compile_both(ours: keras.Model, theirs: keras.Model, name: str, **options: Any) -> None:
    for model, optimizer in zip((ours, theirs), both(name, **options), strict=True):
        model.compile(optimizer=optimizer, loss="mse")


@slow_but_on_torch
def test_another_optimizer_of_unhot_takes_over() -> None:
    ours, theirs = fitted()
    old = ours.optimizer
    compile_both(ours, theirs, "SGD", learning_rate=0.1, momentum=0.9)
    go_on(ours, theirs)
    assert owner(ours) is not None
    assert old.table(ours.get_layer("table")._embeddings) is None
    assert_same(ours, theirs)


def test_release_for_a_stock_optimizer() -> None:
    ours, theirs = fitted()
    old = ours.optimizer
    unhot.keras.release(ours)
    assert old.table(ours.get_layer("table")._embeddings) is None
    for model in (ours, theirs):
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    go_on(ours, theirs)
    assert_same(ours, theirs)
    compile_both(ours, theirs, "Adam", **ADAM)
    go_on(ours, theirs)
    assert owner(ours) is not None
    assert_same(ours, theirs)


def test_release_of_something_else() -> None:
    with pytest.raises(TypeError, match="takes a Keras model or layer"):
        unhot.keras.release(unhot.keras.Adam())


def test_a_stock_optimizer_after_ours() -> None:
    """It goes on from settled weights, though the owner is still there; and that one from what it leaves.

    With SGD: on TensorFlow, Keras's Adam squares each of the gradients of an id that repeats.
    """
    ours, theirs = fitted()
    old = [model.optimizer for model in (ours, theirs)]
    for model in (ours, theirs):
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    go_on(ours, theirs, epochs=1)
    go_on(ours, theirs, epochs=1)
    assert_same(ours, theirs)
    for model, optimizer in zip((ours, theirs), old, strict=True):
        model.compile(optimizer=optimizer, loss="mse")
    go_on(ours, theirs)
    assert_same(ours, theirs)


def test_an_owner_that_is_gone_leaves_a_stock_table() -> None:
    ours, theirs = fitted()
    for model in (ours, theirs):
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    gc.collect()
    go_on(ours, theirs)
    assert_same(ours, theirs)


@slow_but_on_torch
def test_with_a_stock_optimizer_the_layer_is_stock() -> None:
    ours, theirs = model_with(table()), model_with(keras.layers.Embedding(ROWS, DIM, name="table"))
    theirs.set_weights(ours.get_weights())
    for model in (ours, theirs):
        model.compile(optimizer=keras.optimizers.Adam(**ADAM), loss="mse")
        model.fit(*data(), epochs=3, **FIT)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_hyperparameters_that_change() -> None:
    """Eagerly they count from then on; in a graph they are constants, which is said."""
    ours, theirs = fitted()
    for model in (ours, theirs):
        model.optimizer.beta_1 = 0.5
        model.compile(optimizer=model.optimizer, loss="mse", run_eagerly=True)
    go_on(ours, theirs)
    assert_same(ours, theirs)
    if BACKEND == "tensorflow":
        ours.optimizer.beta_1 = 0.9
        ours.compile(optimizer=ours.optimizer, loss="mse")
        with pytest.raises(ValueError, match="hyperparameters of Adam have changed since it was built"):
            go_on(ours)


def test_configuration_round_trips() -> None:
    layer = table(use_bias=True, activation="relu", combiner="mean", out_of_range="zero", mask_zero=True)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is unhot.keras.Embedding
    assert again.get_config() == layer.get_config()
    plain = keras.layers.Embedding.from_config(table().get_config())
    assert type(plain) is keras.layers.Embedding
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(unhot.keras.Adam(0.3, amsgrad=True, clipnorm=1.0)))
    assert type(optimizer) is unhot.keras.Adam
    assert (float(optimizer.learning_rate), optimizer.amsgrad, optimizer.clipnorm) == (pytest.approx(0.3), True, 1.0)


@slow_but_on_torch
def test_clones_and_copies() -> None:
    """A clone has a table of its own, and trains on as its weights say."""
    ours, theirs = fitted()
    clone = keras.models.clone_model(ours)
    clone.set_weights(ours.get_weights())
    other = model_with(one_hot())
    other.set_weights(theirs.get_weights())
    compile_both(clone, other, "Adam", **ADAM)
    go_on(clone, other)
    assert_same(clone, other)
    assert_same(ours, theirs)

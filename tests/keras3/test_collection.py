"""Collections of tables against Keras's own layers, one for each table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import unhot.keras

from .calls import BACKEND, ON
from .models import DenselyTrained

ROWS = 20_000  # more than are left to Keras on JAX and TensorFlow
TABLES = {"user": (ROWS, 3), "item": (ROWS + 100, 4)}
FEATURES = {"user": "user", "friend": "user", "item": "item"}


def batch(step: int, length: int | None) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    shape = (6,) if length is None else (6, length)
    return {name: rng.integers(0, 30, shape).astype("int32") for name in FEATURES}


class Apart(keras.layers.Layer):  # type: ignore[misc]
    """Keras's own layers."""

    def __init__(self, combined: bool) -> None:
        super().__init__()
        self.combined = combined
        self.layers = {name: DenselyTrained(*size, name=name) for name, size in TABLES.items()}

    def call(self, inputs: Any) -> Any:
        found = [self.layers[table](inputs[name]) for name, table in FEATURES.items()]
        return keras.ops.concatenate([keras.ops.sum(x, 1) if self.combined else x for x in found], -1)


def model_of(layer: Any, optimizer: Any, combined: bool) -> Any:
    shape = (2,) if combined else ()
    inputs = {name: keras.Input(shape, dtype="int32", name=name) for name in FEATURES}
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(layer(inputs)))
    model.compile(optimizer=optimizer, loss="mse")
    return model


@pytest.mark.parametrize("combiner", [None, "sum"])
def test_as_layers_apart(combiner: str | None, tmp_path: Path) -> None:
    """Trained by `fit`, saved, loaded and trained on; features share a table."""
    keras.utils.set_random_seed(0)
    ours = unhot.keras.EmbeddingCollection(TABLES, FEATURES, combiner=combiner)
    models = [
        model_of(ours, unhot.keras.Adam(0.05), combiner is not None),
        model_of(Apart(combiner is not None), keras.optimizers.Adam(0.05), combiner is not None),
    ]
    tables = [models[0].layers[len(FEATURES)].layers, models[1].layers[len(FEATURES)].layers]
    for name in TABLES:
        tables[1][name].set_weights(tables[0][name].get_weights())
    wanted = np.linspace(-1, 1, 6, dtype="float32")[:, None]
    length = 2 if combiner else None
    for step in range(12):
        for model in models:
            model.train_on_batch(batch(step, length), wanted)
        if step == 6:
            models[0].save(tmp_path / "model.keras")
            models[0] = keras.saving.load_model(tmp_path / "model.keras")
    tables[0] = models[0].layers[len(FEATURES)].layers
    for name in TABLES:
        np.testing.assert_allclose(*(side[name].get_weights()[0] for side in tables), rtol=1e-4, atol=1e-5)
    reports = unhot.keras.report(models[0])
    twice = ON or BACKEND != "jax"  # on the fallback of `same_trace`, a table that is looked up twice is trained densely
    assert {table.rows: table.by_rows for table in reports.tables} == {TABLES["user"][0]: twice, TABLES["item"][0]: True}


def hooked(layer: Any) -> None:
    layer.register_forward_hook(lambda module, args, result: result * 2)


def regularized(layer: Any) -> None:
    layer.activity_regularizer = keras.regularizers.L2(0.1)


ALONE: list[tuple[dict[str, Any], Any]] = [
    ({"use_bias": True, "bias_initializer": "ones"}, None), ({"activation": "tanh"}, None), ({"combiner": "max"}, None),
    ({"mask_zero": True}, None), ({"combiner": "sqrtn"}, None),
    ({}, hooked), ({}, regularized), ({}, lambda layer: layer.enable_lora(1)),
]  # fmt: skip
"""What a call of a table's layer does besides to look up and combine."""


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere each feature is an operation of a graph")
@pytest.mark.parametrize("combiner", [None, "sum", "mean"])
def test_one_lookup_on_torch(combiner: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of a concatenated output are looked up in one call, with the bits of calls of the layers."""
    from unhot.keras.torch_tables import TorchKerasBackend

    sides = []
    calls: list[Any] = []
    call = unhot.keras.Embedding.call
    monkeypatch.setattr(unhot.keras.Embedding, "call", lambda *args: calls.append(args) or call(*args))
    for together in (True, False):
        if not together:
            monkeypatch.setattr(TorchKerasBackend, "joint_lookup", staticmethod(lambda variables: None))
        keras.utils.set_random_seed(0)
        layer = unhot.keras.EmbeddingCollection(TABLES, FEATURES, combiner=combiner)
        model = model_of(layer, unhot.keras.Adam(0.05), combiner is not None)
        for step in range(5):
            calls.clear()  # the first step calls the model with tensors that hold nothing, too
            model.train_on_batch(batch(step, 2 if combiner else None), np.linspace(-1, 1, 6, dtype="float32")[:, None])
        assert len(calls) == (0 if together else len(FEATURES))
        sides.append([keras.ops.convert_to_numpy(w) for w in (layer(batch(9, 2 if combiner else None)), *layer.weights)])
    for mine, other in zip(*sides, strict=True):
        if combiner is None:
            np.testing.assert_array_equal(mine, other)
        else:
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)  # sums of the kernels are rounded once


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere each feature is an operation of a graph")
@pytest.mark.parametrize(("own", "change"), ALONE)
def test_layers_that_do_more_are_called(own: dict[str, Any], change: Any) -> None:
    """On PyTorch, too: where one of the layers does more than to look up, all are called."""
    keras.utils.set_random_seed(0)
    tables = {"user": {"input_dim": ROWS, "output_dim": 3, **own}, "item": {"input_dim": ROWS, "output_dim": 3}}
    if "combiner" in own:
        tables["item"]["combiner"] = "sum"
    layer = unhot.keras.EmbeddingCollection(tables)
    layer.build()
    if change is not None:
        change(layer.layers["user"])
    owner = unhot.keras.Adam()
    owner.build(layer.trainable_variables)
    ids = {name: np.array([[3, 0], [3, 5]]) for name in tables}
    apart = [keras.ops.convert_to_numpy(layer.layers[name](ids[name])) for name in tables]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(ids)), np.concatenate(apart, -1))
    assert (len(layer.losses) > 0) == (change is regularized)
    assert owner.built


def test_a_dict_of_vectors() -> None:
    layer = unhot.keras.EmbeddingCollection(TABLES, FEATURES, output="dict", embeddings_initializer="ones")
    found = layer(batch(0, 3))
    assert {name: tuple(x.shape) for name, x in found.items()} == {"user": (6, 3, 3), "friend": (6, 3, 3), "item": (6, 3, 4)}
    again = unhot.keras.EmbeddingCollection.from_config(layer.get_config())
    assert float(keras.ops.max(again(batch(0, 3))["item"])) == 1.0


@pytest.mark.parametrize("own", [{}, {"bias_initializer": "ones", "use_bias": True, "activation": "relu"}])
def test_tables_with_arguments_of_their_own(own: dict[str, Any]) -> None:
    """They are those of layers made one by one, also in a copy; weights go to the features that they name."""
    tables: dict[str, Any] = {
        "user": (ROWS, 3),
        "words": {"input_dim": 40, "output_dim": 4, "combiner": "mean", "embeddings_initializer": "ones", **own},
        "tags": {"input_dim": 50, "output_dim": 2, "combiner": "sum", "out_of_range": "zero", "mask_zero": True},
    }
    layer = unhot.keras.EmbeddingCollection(tables, embeddings_initializer=keras.initializers.Constant(2.0))
    ids = {"user": np.array([1, 2]), "words": np.array([[1, 2], [3, 3]]), "tags": np.array([[0, 60, 1], [7, 8, 8]])}
    factors = {"tags": np.array([[1.0, 1.0, 0.5], [2.0, 1.0, 1.0]], "float32")}
    layer.build()
    layer.layers["words"].grow(2)
    copied = type(layer).from_config(layer.get_config())
    assert copied.layers["words"].input_dim == 42
    word = 2.0 if own else 1.0
    for each in (layer, copied):
        found = keras.ops.convert_to_numpy(each(ids, weights=factors))
        assert found.tolist() == [[2.0] * 3 + [word] * 4 + [1.0] * 2, [2.0] * 3 + [word] * 4 + [8.0] * 2]
        assert keras.ops.convert_to_numpy(each(ids))[1, -1] == 6.0
    inputs = {name: keras.Input(array.shape[1:], dtype="int32", name=name) for name, array in ids.items()}
    given = keras.Input((3,), name="factors")
    model = keras.Model([inputs, given], layer(inputs, weights={"tags": given}))
    np.testing.assert_array_equal(model.predict([ids, factors["tags"]], verbose=0), found)


def weighted(weights: Any) -> Any:
    return unhot.keras.EmbeddingCollection({"a": (3, 2)})({"a": np.array([1])}, weights)


def pair_of(user: list[Any], item: list[Any]) -> Any:
    return unhot.keras.EmbeddingCollection(TABLES)({"user": np.array(user), "item": np.array(item)})


def test_it_is_left_alone_where_layers_become_kerass() -> None:
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in TABLES}
    layer = unhot.keras.EmbeddingCollection(TABLES, name="tables")
    model = keras.Model(inputs, layer(inputs))
    done = unhot.keras.convert(model, to="stock")
    assert done.left == {"tables": "Keras has no such layer"}
    ids = {"user": np.array([1, 2]), "item": np.array([3, 4])}
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(done.model(ids)), keras.ops.convert_to_numpy(model(ids)))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: unhot.keras.EmbeddingCollection({}), ValueError, "at least one table"),
    (lambda: unhot.keras.EmbeddingCollection({"a": 3}), TypeError, "must map names"),
    (lambda: unhot.keras.EmbeddingCollection([("a", (3, 2))]), TypeError, "must map names"),
    (lambda: unhot.keras.EmbeddingCollection(TABLES, {"a": "b"}), ValueError, "one of the tables"),
    (lambda: unhot.keras.EmbeddingCollection(TABLES, output="list"), ValueError, "`output` must be"),
    (lambda: unhot.keras.EmbeddingCollection(TABLES)({"user": np.array([1])}), KeyError, "the features"),
    (lambda: unhot.keras.EmbeddingCollection(TABLES)([np.array([1])]), TypeError, "in a dict. Received: list"),
    (lambda: unhot.keras.EmbeddingCollection({"a.b": (3, 2)}), ValueError, "no '.' or '/'"),
    (lambda: unhot.keras.EmbeddingCollection({"a": {"input_dim": 3}}), TypeError, "'input_dim' and 'output_dim' among them"),
    (lambda: weighted({"b": np.ones(1)}), TypeError, r"some of the features \['a'\]\. Received: \['b'\]"),
    (lambda: weighted([np.ones(1)]), TypeError, r"some of the features \['a'\]\. Received: list"),
    (lambda: weighted({"a": np.ones(1)}), ValueError, "(?s)feature 'a': .*`weights` go with combiner"),
    (lambda: pair_of([1], [ROWS + 100]), IndexError, "feature 'item': .*20100"),
    (lambda: pair_of([1], [1.5]), IndexError, "feature 'item'"),
    (lambda: pair_of([1], [1, 2]), ValueError, r"ids of the same shape.*'item': \(2,\)"),
])  # fmt: skip
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()

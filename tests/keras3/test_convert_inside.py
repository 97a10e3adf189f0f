"""`convert` of layers that other layers and models hold: replaced where the holder can be copied, named where not."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from selection import slow, some

import unhot.keras
from unhot.keras import Conversion

from .models import EPSILON

# Keras does this by itself, whatever its backend: the fast set has it where nothing is compiled.
pytestmark = [] if keras.backend.backend() == "torch" else slow

V, D, N = 12, 3, 4
IDS = np.array([[3, 7, 7, 7], [1, 1, 1, 1], [0, 11, 0, 5], [2, 4, 9, 8]], dtype="int32")


class Renamed(layers.ReversibleEmbedding):
    """Keras's layer under another name."""


class Positions(layers.Layer):
    """Tokens and positions: makes its layers at once and builds them itself, as those of keras-hub."""

    def __init__(self, rows: int, length: int, dim: int, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.length, self.dim, self.scale = rows, length, dim, scale
        self.tokens = Renamed(rows, dim, tie_weights=False, name="tokens", dtype=self.dtype_policy)
        self.places = layers.Embedding(length, dim, name="places")

    def build(self, input_shape: Any) -> None:
        self.tokens.build(input_shape)
        self.places.build(input_shape)

    def call(self, ids: Any) -> Any:
        return self.scale * self.tokens(ids) + self.places(ops.arange(self.length))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows, "length": self.length, "dim": self.dim, "scale": self.scale}


class Simple(layers.Layer):
    """The least that works: Keras adds arguments to its configuration that it does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.table = layers.Embedding(V, D, name="words")

    def call(self, ids: Any) -> Any:
        return self.table(ids)


class Late(layers.Layer):
    """Makes several layers, and not before it is built."""

    def build(self, input_shape: Any) -> None:
        self.tables = [layers.Embedding(V, D, name=f"words_{i}") for i in range(2)]
        for table in self.tables:
            table.build(input_shape)

    def call(self, ids: Any) -> Any:
        return self.tables[0](ids) * self.tables[1](ids)


class Head(layers.Layer):
    """Reads the whole table, too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = layers.Embedding(V, D, name="words")

    def call(self, ids: Any) -> Any:
        return ops.matmul(ops.tanh(self.table(ids)), ops.transpose(self.table.embeddings))


class Backbone(keras.Model):
    """A functional model that is made from other arguments than inputs and outputs."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        ids = keras.Input((N,), dtype="int32")
        table = layers.Embedding(V, dim, name="words")
        super().__init__(ids, layers.Dense(dim, name="inner")(table(ids)), **kwargs)
        self.dim = dim
        self.words = table

    def get_config(self) -> dict[str, Any]:
        return {"dim": self.dim, "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Backbone:
        return cls(**config)


class Subclassed(keras.Model):
    """A model that only its own code knows."""

    def __init__(self, dim: int = D, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone = Backbone(dim, name="backbone")
        self.table = layers.Embedding(V, dim, name="more")

    def call(self, ids: Any) -> Any:
        return self.backbone(ids) + self.table(ids)


class Tied(keras.Model):
    """Holds one layer twice, and two layers of one name."""

    def __init__(self, dim: int = D, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = layers.Embedding(V, dim, name="words")
        self.same = self.table
        self.nested = [Head(name="head"), Head(name="head")]

    def call(self, ids: Any) -> Any:
        return self.nested[0](ids) + self.nested[1](ids) + ops.sum(self.table(ids) * self.same(ids), -1, keepdims=True)


class Several(keras.Model):
    """Takes several inputs, of which Keras writes down the first one's shape, and only integers."""

    def __init__(self) -> None:
        super().__init__(name="several")
        self.table = layers.Embedding(V, D, name="words")
        self.wide = layers.Dense(D)

    def call(self, ids: Any, others: Any = None) -> Any:
        others = ids if others is None else others
        return self.table(ids) + self.wide(ops.one_hot(others, V)) + ops.cast(ids & 1, "float32")[..., None]


class Step(layers.Layer):
    """A cell, which is not registered."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state_size = D
        self.table = layers.Embedding(V, D, name="words")

    def build(self, input_shape: Any) -> None:
        self.table.build(input_shape)

    def call(self, ids: Any, states: Any) -> Any:
        following = ops.tanh(self.table(ops.cast(ids[:, 0], "int32")) + states[0])
        return following, [following]


def recurrent() -> Any:
    ids = keras.Input((N,), dtype="int32")
    return keras.Model(ids, layers.RNN(Step(name="step"), name="rnn")(ops.expand_dims(ops.cast(ids, "float32"), -1)))


def called(model: Any) -> Any:
    model(ops.convert_to_tensor(IDS))
    return model


def in_graph(make: Any) -> Any:
    ids = keras.Input((N,), dtype="int32")
    vectors = make()(ids)
    return keras.Model(ids, layers.Dense(1, name="out")(vectors))


def subclassed() -> Any:
    return called(keras.Sequential([Subclassed(name="whole"), layers.Dense(1, name="out")]))


def over_time() -> Any:
    ids = keras.Input((N,), dtype="int32")
    vectors = layers.TimeDistributed(layers.Embedding(V, D, name="words"), name="each")(ops.expand_dims(ids, -1))
    merged = layers.Bidirectional(layers.SimpleRNN(D), name="both")(ops.squeeze(vectors, 2))
    return keras.Model(ids, layers.Dense(1, name="out")(merged))


MODELS: dict[str, tuple[Any, dict[str, str]]] = {
    "positions": (
        lambda: in_graph(lambda: Positions(V, N, D, 2.0, name="both")),
        {"both/tokens": "Renamed", "both/places": "Embedding"},
    ),
    "simple": (lambda: in_graph(Simple), {"simple/words": "Embedding"}),
    "late": (lambda: in_graph(lambda: Late(name="late")), {"late/words_0": "Embedding", "late/words_1": "Embedding"}),
    "head": (lambda: in_graph(lambda: Head(name="head")), {"head/words": "Embedding"}),
    "backbone": (lambda: in_graph(lambda: Backbone(D, name="backbone")), {"backbone/words": "Embedding"}),
    "backbone alone": (lambda: Backbone(D, name="backbone"), {"words": "Embedding"}),
    "subclassed": (subclassed, {"whole/backbone/words": "Embedding", "whole/more": "Embedding"}),
    "tied": (
        lambda: called(Tied()),
        {"words": "Embedding", "head/words": "Embedding", "head_1/words": "Embedding"},
    ),
    "several": (lambda: called(Several()), {"words": "Embedding"}),
    "recurrent": (recurrent, {"rnn/step/words": "Embedding"}),
    "over time": (over_time, {"each/words": "Embedding"}),
    "row": (
        lambda: keras.Sequential([keras.Input((N,), dtype="int32"), Head(name="head"), layers.Dense(1)]),
        {"head/words": "Embedding"},
    ),
}


def predict(model: Any, ids: Any = IDS) -> Any:
    return ops.convert_to_numpy(model(ops.convert_to_tensor(ids)))


def convert(model: Any, **options: Any) -> tuple[Any, Conversion[Any]]:
    report = unhot.keras.convert(model, **options)
    return report.model, report


@pytest.mark.parametrize("name", MODELS)
def test_replaced_inside(name: str) -> None:
    """With weights, and what is frozen; the given model is as it was; and what comes back to stock is stock."""
    make, replaced = MODELS[name]
    model = make()
    predict(model)
    kinds = [type(layer) for layer in model._flatten_layers()]
    frozen = next(layer for layer in model._flatten_layers() if isinstance(layer, layers.Embedding))
    frozen.trainable = False
    converted, report = convert(model)
    assert {key.replace("simple_1", "simple"): value for key, value in report.replaced.items()} == replaced
    assert not report.left
    np.testing.assert_array_equal(predict(converted), predict(model))
    assert [type(layer) for layer in model._flatten_layers()] == kinds
    tables = [layer for layer in converted._flatten_layers() if isinstance(layer, layers.Embedding)]
    assert len(tables) == len(replaced)
    assert all(isinstance(table, unhot.keras.Embedding) for table in tables)
    assert [table.trainable for table in tables] == [False] + [True] * (len(tables) - 1)
    paths = [[weight.path.split("/")[-2:] for weight in each.weights] for each in (converted, model)]
    assert paths[0] == paths[1]
    assert not {id(weight) for weight in converted.weights} & {id(weight) for weight in model.weights}
    back, report = convert(converted, to="stock")
    assert [type(layer) for layer in back._flatten_layers()] == kinds
    assert len(report.replaced) == len(replaced)
    np.testing.assert_array_equal(predict(back), predict(model))


@pytest.mark.parametrize("name", some(["positions", "late", "head", "backbone", "subclassed", "over time"], ["subclassed"]))
def test_they_learn_the_same(name: str) -> None:
    """With ids that do not repeat in a batch, where Keras's own layer is not exact on TensorFlow; rows rest."""
    model = MODELS[name][0]()
    predict(model)
    converted, _ = convert(model)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    converted.compile(unhot.keras.Adam(0.01), "mse")
    random = np.random.default_rng(0)
    ids = np.concatenate([random.permutation(V)[: 2 * N].reshape(2, N) for _ in range(12)]).astype("int32")
    wanted = random.normal(size=(24, *predict(model).shape[1:])).astype("float32")
    for each in (model, converted):
        each.fit(ids, wanted, batch_size=2, epochs=2, shuffle=False, verbose=0)
    for mine, other in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in models.assert_same: 24 steps


class Booleans(layers.Layer):
    """Looks up ids that unhot does not take."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = layers.Embedding(2, D, name="words")

    def call(self, ids: Any) -> Any:
        return self.table(ops.greater(ids, 3))


class Typed(layers.Layer):
    """Requires the layers that it has always had."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = layers.Embedding(V, D, name="words")
        if type(self.table) is not layers.Embedding:
            raise TypeError("another layer")

    def call(self, ids: Any) -> Any:
        return self.table(ids)


class Given(layers.Layer):
    """Is given its layer, which its configuration does not tell."""

    def __init__(self, table: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def get_config(self) -> dict[str, Any]:
        return super(layers.Layer, self).get_config()

    def call(self, ids: Any) -> Any:
        return self.table(ids)


class Own(layers.Embedding):
    """Does something of its own."""

    def call(self, ids: Any) -> Any:
        return super().call(ids) * 2.0


class Owner(layers.Layer):
    """Holds such a layer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = Own(V, D, name="words")

    def call(self, ids: Any) -> Any:
        return self.table(ids)


LEFT = {
    "booleans": (lambda: Booleans(name="odd"), "Booleans, which holds it, fails with another"),
    "typed": (lambda: Typed(name="odd"), "Typed, which holds it, fails with another: TypeError"),
    "given": (lambda: Given(layers.Embedding(V, D, name="words"), name="odd"), "Given, which holds it, cannot be copied"),
    "owner": (lambda: Owner(name="odd"), "Own is a subclass of Keras's layer"),
}


@pytest.mark.parametrize("row", [False, True], ids=["graph", "sequential"])
@pytest.mark.parametrize("name", LEFT)
def test_left_alone_inside(name: str, row: bool) -> None:
    """And all else is replaced."""
    make, why = LEFT[name]
    if row:
        model = keras.Sequential([keras.Input((N,), dtype="int32"), make(), Alike(name="alike")])
    else:
        ids = keras.Input((N,), dtype="int32")
        model = keras.Model(ids, Alike(name="alike")(make()(ids)))
    converted, report = convert(model)
    assert report.replaced == {"alike/words": "Embedding"}
    assert why in report.left["odd/words"]
    np.testing.assert_array_equal(predict(converted), predict(model))


class Alike(layers.Layer):
    """Adds vectors of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = layers.Embedding(N, D, name="words")

    def call(self, vectors: Any) -> Any:
        return vectors + self.table(ops.arange(N))


def test_constructors_are_what_they_were() -> None:
    """Afterwards, also after an error, and in other threads all along."""
    found: list[type] = []

    class Watched(layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            other = threading.Thread(target=lambda: found.append(type(layers.Embedding(V, D))))
            other.start()
            other.join()
            self.table = layers.Embedding(V, D)

        def call(self, ids: Any) -> Any:
            return self.table(ids)

    model = in_graph(Watched)
    _, report = convert(model)
    assert len(report.replaced) == 1
    assert found == [layers.Embedding] * 2
    convert(in_graph(Typed))
    assert "__new__" not in vars(layers.Embedding)
    assert type(layers.Embedding(V, D)) is layers.Embedding
    assert type(layers.ReversibleEmbedding(V, D)) is layers.ReversibleEmbedding


@pytest.mark.parametrize("name", ["positions", "row", "backbone", "several"])
def test_where_graphs_are_not_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a version of Keras that keeps them elsewhere, models are copied as a whole."""
    for module in (unhot.keras.conversion.plan, unhot.keras.conversion.copying):
        monkeypatch.setattr(module, "graph_of", lambda model: None)
    make, replaced = MODELS[name]
    model = called(make())
    classes = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    with keras.saving.custom_object_scope(classes):
        converted, report = convert(model)
    assert report.replaced == replaced
    np.testing.assert_array_equal(predict(converted), predict(model))

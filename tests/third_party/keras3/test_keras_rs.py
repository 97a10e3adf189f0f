"""Recommenders of keras-rs."""

from __future__ import annotations

from typing import Any

import keras
import keras_rs
import numpy as np
import pytest

import unhot.keras

from .twins import ADAM, COMPILED, ROWS, assert_same, compiled, ids

DIM, BATCH, STEPS = 4, 8, 5


def fit(model: keras.Model, inputs: Any, names: Any, **given: Any) -> keras.Model:
    """A few steps with decay, which moves every row."""
    targets = np.random.default_rng(1).normal(size=(BATCH * STEPS, 1))
    compiled(model, names.AdamW(**ADAM, weight_decay=0.125, **given))
    model.fit(inputs, targets, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize(("interaction", "given"), [("cross", {}), ("dot", {"global_clipnorm": 0.125})], ids=["cross", "dot"])
def test_ranking(interaction: str, given: dict[str, Any]) -> None:
    """A deep and cross network (DCN), and one of dot products (DLRM)."""

    def train(names: Any) -> keras.Model:
        inputs = [keras.Input((), dtype="int32", name=name) for name in ("user", "item")]
        vectors = [names.Embedding(ROWS, DIM)(one) for one in inputs]
        if interaction == "cross":
            joined = keras.layers.Concatenate()(vectors)
            crossed = keras_rs.layers.FeatureCross(projection_dim=2)(joined, joined)
        else:
            crossed = keras_rs.layers.DotInteraction()(vectors)
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(5, "tanh")(crossed)))
        return fit(model, [ids(BATCH * STEPS, seed=seed) for seed in (0, 1)], names, **given)

    assert_same(train)


class TwoTowers(keras.Model):
    """As in keras-rs's guide: queries and candidates, each other's negatives in a batch."""

    def __init__(self, names: Any) -> None:
        super().__init__()
        self.query = keras.Sequential([names.Embedding(ROWS, DIM), keras.layers.Dense(DIM)])
        self.candidate = keras.Sequential([names.Embedding(ROWS, DIM), keras.layers.Dense(DIM)])
        self.retrieval = keras_rs.layers.BruteForceRetrieval(keras.ops.zeros((ROWS, DIM)), k=5, return_scores=True)
        self.sure = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum")

    def call(self, inputs: Any, training: bool = False) -> dict[str, Any]:
        result = {"query": self.query(inputs["user"])}
        if training:
            result["candidate"] = self.candidate(inputs["item"])
        else:
            result["scores"], result["found"] = self.retrieval(result["query"])
        return result

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **_: Any) -> Any:
        scores = keras.ops.matmul(y_pred["query"], keras.ops.transpose(y_pred["candidate"]))
        return self.sure(keras.ops.eye(keras.ops.shape(scores)[0]), scores)


def test_retrieval() -> None:
    """Trained, and then asked for the candidates that fit best."""
    found: list[Any] = []

    def train(names: Any) -> keras.Model:
        model = TwoTowers(names)
        data = {"user": ids(BATCH * STEPS, seed=0), "item": ids(BATCH * STEPS, seed=1)}
        model.query.build((None,))
        model.candidate.build((None,))
        compiled(model, names.Adam(**ADAM), loss=None)
        model.fit(data, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        model.retrieval.update_candidates(model.candidate.predict(np.arange(ROWS), batch_size=5000, verbose=0))
        found.append(model.predict({"user": np.arange(20)}, verbose=0)["scores"])
        return model

    assert_same(train)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-8, atol=1e-8)


class EmbedReduce(keras_rs.layers.EmbedReduce, unhot.keras.Embedding):
    """Keras-rs's layer, which subclasses Keras's embedding, on a table of unhot's."""


def bags(layer: Any, names: Any) -> keras.Model:
    several, weights = keras.Input((3,), dtype="int32"), keras.Input((3,))
    model = keras.Model([several, weights], keras.layers.Dense(1)(layer(several, weights)))
    inputs = [ids(BATCH * STEPS, 3), np.random.default_rng(2).uniform(0.5, 1.5, size=(BATCH * STEPS, 3))]
    return fit(model, inputs, names)


@pytest.mark.parametrize("combiner", ["mean"] if COMPILED else ["mean", "sum", "sqrtn"])
def test_reducing_subclass(combiner: str) -> None:
    def train(names: Any) -> keras.Model:
        kind = EmbedReduce if names is unhot.keras else keras_rs.layers.EmbedReduce
        return bags(kind(ROWS, DIM, combiner=combiner), names)

    assert_same(train)


def test_stock_subclass_with_our_optimizer() -> None:
    """A subclass that is not unhot's is trained as ever."""
    assert_same(lambda names: bags(keras_rs.layers.EmbedReduce(ROWS, DIM), names))


def test_distributed_embedding() -> None:
    """On the CPU it is an EmbedReduce for each table, which two features share here."""

    def train(names: Any) -> keras.Model:
        table = keras_rs.layers.TableConfig("items", ROWS, DIM, combiner="mean", optimizer="adam", placement="default_device")
        features = {
            name: keras_rs.layers.FeatureConfig(name, table, (BATCH, length), (BATCH, DIM))
            for name, length in (("now", 1), ("before", 3))
        }
        layer = keras_rs.layers.DistributedEmbedding(features)
        inputs = {name: keras.Input((length,), batch_size=BATCH, dtype="int32") for name, length in (("now", 1), ("before", 3))}
        vectors = layer(inputs)
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()([vectors["now"], vectors["before"]])))
        drawn = ids(BATCH * STEPS, 4)  # of which none repeats on TensorFlow
        return fit(model, {"now": drawn[:, :1], "before": drawn[:, 1:]}, names)

    assert_same(train)

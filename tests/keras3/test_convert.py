"""`convert`: a copy of the model that gives the same and learns the same, and a report of what it replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from selection import product, slow, some

import unhot.keras
from unhot.keras import Conversion
from unhot.keras.distinct import DistinctIds

from .models import EPSILON, OneHotDense

# Keras does this by itself, whatever its backend: the fast set has it where nothing is compiled.
pytestmark = [] if keras.backend.backend() == "torch" else slow

V, D, N = 12, 3, 4
IDS = np.array([[3, 7, 7, 7], [1, 1, 1, 1], [0, 11, 0, 5], [2, 4, 9, 8]], dtype="int32")
BACKEND = keras.backend.backend()


def dense(**options: Any) -> Any:
    """With a bias that shows, and a name."""
    return layers.Dense(D, **{"bias_initializer": "normal", "name": "dense"} | options)


def one_hot_of(mode: str) -> Any:
    return layers.CategoryEncoding(V, output_mode=mode, name="encoder")


CHAINS: dict[str, tuple[tuple[int, ...], Any]] = {
    "ops.one_hot": ((N,), lambda ids: ops.one_hot(ids, V)),
    "ops.one_hot of one": ((1,), lambda ids: ops.one_hot(ids, V, dtype="int8")),
    "ops.multi_hot": ((N,), lambda ids: ops.multi_hot(ids, V)),
    "one_hot": ((N,), one_hot_of("one_hot")),
    "one_hot of one": ((1,), one_hot_of("one_hot")),
    "one_hot of a scalar": ((), one_hot_of("one_hot")),
    "multi_hot": ((N,), one_hot_of("multi_hot")),
    "multi_hot, any length": ((None,), one_hot_of("multi_hot")),
    "count": ((N,), one_hot_of("count")),
}


def convert(model: Any) -> tuple[Any, Conversion[Any]]:
    report = unhot.keras.convert(model)
    return report.model, report


def ids_for(shape: tuple[int | None, ...]) -> Any:
    return IDS if shape in ((N,), (None,)) else IDS[:, :1] if shape else IDS[:, 0]


def chain(name: str, **options: Any) -> keras.Model:
    shape, encode = CHAINS[name]
    ids = keras.Input(shape, dtype="int32")
    return keras.Model(ids, dense(**options)(encode(ids)))


def predict(model: Any, *inputs: Any) -> Any:
    found = model(keras.tree.map_structure(ops.convert_to_tensor, inputs[0] if len(inputs) == 1 else list(inputs)))
    return keras.tree.map_structure(ops.convert_to_numpy, found)


def assert_equal(model: Any, converted: Any, *inputs: Any, exact: bool = True) -> None:
    """The same bits; or, for sums of up to `N` weights below 1 and a bias, two orders of N + 1 roundings."""
    for mine, other in zip(*map(keras.tree.flatten, (predict(converted, *inputs), predict(model, *inputs))), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=0 if exact else 2 * N * (N + 1) * EPSILON)


@pytest.mark.parametrize(("name", "options"), product(CHAINS, [{}, {"use_bias": False, "activation": "tanh"}], by=1), ids=str)
def test_one_hot_and_dense(name: str, options: dict[str, Any]) -> None:
    model = chain(name, **options)
    converted, report = convert(model)
    assert list(report.replaced) == ["dense"]
    assert not report.left
    table = converted.get_layer("dense")
    assert isinstance(table, unhot.keras.Embedding)
    for mine, other in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert not any(isinstance(layer, layers.CategoryEncoding) for layer in converted.layers)
    assert converted.output_shape == model.output_shape
    assert_equal(model, converted, ids_for(CHAINS[name][0]), exact="one_hot" in name and not options)


LEARNING = ["ops.one_hot", "ops.multi_hot", "one_hot of a scalar", "count"]


@pytest.mark.parametrize("name", some(CHAINS, LEARNING if BACKEND == "torch" else LEARNING[-1:]))
def test_one_hot_and_dense_learn_the_same(name: str) -> None:
    """Repeated ids in a sample and in a batch too, and rows that rest."""
    shape, _ = CHAINS[name]
    model = chain(name, activation="tanh")
    converted, _ = convert(model)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    converted.compile(unhot.keras.Adam(0.01), "mse")
    random = np.random.default_rng(0)
    ids = ids_for(shape)[random.integers(0, 4, 24)]
    wanted = random.normal(size=(24, *model.output_shape[1:])).astype("float32") if None not in shape else None
    wanted = random.normal(size=(24, D)).astype("float32") if wanted is None else wanted
    for each in (model, converted):
        each.fit(ids, wanted, batch_size=6, epochs=5, shuffle=False, verbose=0)
    assert converted.optimizer.table(converted.get_layer("dense")._embeddings) is not None
    for mine, other in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in models.assert_same: 20 steps


def test_count_weights() -> None:
    ids, weights = keras.Input((N,), dtype="int32"), keras.Input((N,))
    model = keras.Model([ids, weights], dense()(one_hot_of("count")(ids, count_weights=weights)))
    converted, report = convert(model)
    assert report.replaced == {"dense": "Dense on count vectors"}
    assert_equal(model, converted, IDS, np.random.default_rng(0).random(IDS.shape, dtype="float32"), exact=False)


@pytest.mark.parametrize(("mode", "bad"), product(["one_hot", "multi_hot", "count"], [-1, V, 2**31 - 1], by=1))
def test_ids_out_of_range(mode: str, bad: int) -> None:
    """Where Keras gives vectors for them, the same ones; where it raises, a zero vector."""
    model = keras.Sequential([keras.Input((N,), dtype="int32"), one_hot_of(mode), dense(activation="relu")])
    converted, _ = convert(model)
    ids = np.array([[1, bad, 1, 2]], dtype="int32")
    kernel, bias = model.get_layer("dense").get_weights()
    if mode == "one_hot":
        np.testing.assert_array_equal(predict(converted, ids)[0, 1], np.maximum(bias, 0))
    try:
        predict(model, ids)
    except Exception:  # each backend has its own
        assert BACKEND != "jax"
        hot = ids[0, :, None] == np.arange(V)  # no row: no hot element
        hot = {"one_hot": hot, "multi_hot": hot.any(axis=0), "count": hot.sum(axis=0)}[mode]
        expected = np.maximum(hot @ kernel + bias, 0)
        np.testing.assert_allclose(predict(converted, ids)[0], expected, rtol=0, atol=2 * N * (N + 1) * EPSILON)
    else:
        assert_equal(model, converted, ids, exact=False)


def test_sequential() -> None:
    """Without an Input, too: what `build` made of it, which is float32 here."""
    model = keras.Sequential([one_hot_of("multi_hot"), dense(activation="relu"), layers.Dense(2, name="out")], name="sets")
    model.build((None, N))
    converted, report = convert(model)
    assert type(converted) is keras.Sequential
    assert converted.name == "sets"
    assert [layer.name for layer in converted.layers] == ["dense_ids", "dense", "out"]
    assert repr(report) == "replaced: dense (Dense on multi_hot vectors)"
    assert_equal(model, converted, IDS, exact=False)


def test_embeddings_keep_masks_and_sharing() -> None:
    left, right = keras.Input((N,), dtype="int32", name="left"), keras.Input((N,), dtype="int32", name="right")
    words, lstm = layers.Embedding(V, D, mask_zero=True, name="words"), layers.LSTM(2, name="lstm")
    outputs = {"a": lstm(words(left)), "b": layers.GlobalAveragePooling1D()(words(right)) * 2.0}
    model = keras.Model({"left": left, "right": right}, outputs)
    converted, report = convert(model)
    assert report.replaced == {"words": "Embedding"}
    inputs = {"left": IDS, "right": IDS[::-1].copy()}
    mine, other = predict(converted, inputs), predict(model, inputs)
    assert list(mine) == ["a", "b"]
    for name in "ab":
        np.testing.assert_array_equal(mine[name], other[name])
    assert len(converted.weights) == len(model.weights)
    assert len([layer for layer in converted.layers if isinstance(layer, unhot.keras.Embedding)]) == 1
    unmasked = predict(keras.Model(left, lstm(layers.Masking(-9.0)(words(left)))), IDS)
    assert not np.array_equal(mine["a"][2], unmasked[2]), "the mask matters to this test"


@pytest.mark.parametrize(
    "change", [lambda layer: layer.enable_lora(2), lambda layer: layer.quantize("int8")], ids=("lora", "int8")
)
def test_embeddings_in_other_forms(change: Any) -> None:
    ids = keras.Input((N,), dtype="int32")
    model = keras.Model(ids, layers.Embedding(V, D, name="words")(ids))
    change(model.get_layer("words"))
    model.set_weights([np.random.default_rng(0).integers(1, 9, w.shape).astype(w.dtype) for w in model.get_weights()])
    converted, _ = convert(model)
    assert_equal(model, converted, IDS)


def test_a_tied_output_head() -> None:
    ids = keras.Input((N,), dtype="int32")
    table = layers.ReversibleEmbedding(V, D, name="words")
    model = keras.Model(ids, table(layers.Dense(D)(table(ids)), reverse=True))
    converted, report = convert(model)
    assert report.replaced == {"words": "ReversibleEmbedding"}
    assert len(converted.weights) == len(model.weights)
    assert_equal(model, converted, IDS)


def test_models_in_models() -> None:
    """A model used twice stays one model; a Dense layer used in two graphs is replaced as one layer."""
    shared = dense(name="shared")
    ids = keras.Input((N,), dtype="int32")
    inner = keras.Model(ids, shared(ops.one_hot(layers.Identity()(ids), V)), name="inner")
    row = keras.Sequential(
        [keras.Input((N,), dtype="int32"), layers.Embedding(V, D, name="words"), layers.Flatten()], name="row"
    )
    left, right = keras.Input((N,), dtype="int32"), keras.Input((N,), dtype="int32")
    flat = layers.Flatten()
    parts = [flat(inner(left)), flat(inner(right)), flat(shared(ops.one_hot(right, V))), row(left)]
    model = keras.Model([left, right], [layers.Concatenate()(parts), inner(right)])
    converted, report = convert(model)
    assert report.replaced == {"shared": "Dense on one_hot vectors", "row/words": "Embedding"}
    assert not report.left
    assert [w.shape for w in converted.weights] == [w.shape for w in model.weights]
    assert len([layer for layer in converted.layers if layer.name == "inner"]) == 1
    assert_equal(model, converted, IDS, IDS[::-1].copy())


def test_a_dense_layer_given_two_kinds_of_sums() -> None:
    """One table may count in one place and take sets in another; the vectors of single ids are of another shape."""
    ids = keras.Input((N,), dtype="int32")
    layer = dense()
    model = keras.Model(
        ids, [layer(one_hot_of("count")(ids)), layer(ops.multi_hot(ids, V)), layer(ops.multi_hot(ids[:, 1:], V))]
    )
    converted, report = convert(model)
    assert report.replaced == {"dense": "Dense on count and multi_hot vectors"}
    assert_equal(model, converted, IDS, exact=False)
    layer = dense()
    model = keras.Model(ids, [layer(ops.one_hot(ids, V)), layer(ops.multi_hot(ids, V))])
    converted, report = convert(model)
    assert "single ids in one place" in report.left["dense"]
    assert_equal(model, converted, IDS)


def test_regularizers_and_constraints_are_carried_over() -> None:
    options = {"kernel_regularizer": "l2", "kernel_constraint": "non_neg", "activity_regularizer": "l1", "trainable": False}
    model = chain("count", **options)
    converted, _ = convert(model)
    losses = [
        [float(ops.convert_to_numpy(loss)) for loss in (m(ops.convert_to_tensor(IDS)), m.losses)[1]] for m in (model, converted)
    ]
    assert len(losses[0]) == 1, "a frozen layer has no regularizer's loss, but that of its activity"
    np.testing.assert_allclose(*losses, rtol=20 * EPSILON)
    table = converted.get_layer("dense")
    assert not table.trainable
    assert isinstance(table.embeddings_constraint, keras.constraints.NonNeg)
    table.trainable = model.get_layer("dense").trainable = True
    assert len(converted.losses) == len(model.losses) == 2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy: str) -> None:
    ids = keras.Input((N,), dtype="int32")
    model = keras.Model(ids, dense(dtype=policy)(ops.one_hot(ids, V)))
    converted, _ = convert(model)
    assert converted.get_layer("dense").dtype_policy.name == policy
    assert converted.output.dtype == model.output.dtype
    if policy == "float64":  # which Keras's Dense does not always keep to on torch
        kernel, bias = model.get_weights()
        np.testing.assert_array_equal(predict(converted, IDS), kernel[IDS] + bias)
    assert_equal(model, converted, IDS, exact=policy != "float64")


def test_what_stays_is_copied_with_its_state() -> None:
    """Statistics, adapted state, seeds and what is frozen; and the two models are apart."""
    ids, numbers = keras.Input((N,), dtype="int32"), keras.Input((2,))
    scale = layers.Normalization()
    scale.adapt(np.array([[1.0, 9.0], [4.0, 2.0]]))
    parts = [layers.Flatten()(layers.Embedding(V, D, name="words")(ids)), scale(numbers)]
    hidden = layers.BatchNormalization(name="norm", trainable=False)(layers.Concatenate()(parts))
    model = keras.Model([ids, numbers], layers.Dense(1, name="out")(layers.Dropout(0.5, seed=7)(hidden)))
    data, wanted = [IDS, np.arange(8.0).reshape(4, 2)], np.ones((4, 1))
    model.compile("adam", "mse")
    model.get_layer("norm").set_weights([np.full(w.shape, 0.5) for w in model.get_layer("norm").get_weights()])
    model.fit(data, wanted, verbose=0)
    converted, report = convert(model)
    assert report.compiled
    assert repr(report).endswith("compile it: the given model was compiled")
    assert not converted.compiled
    assert_equal(model, converted, *data)
    assert not converted.get_layer("norm").trainable
    inputs = [ops.convert_to_tensor(part) for part in data]
    both = [ops.convert_to_numpy(m(inputs, training=True)) for m in (model, converted)]
    np.testing.assert_array_equal(*both)  # the same units dropped
    before = model.get_weights()
    converted.compile(unhot.keras.Adam(0.1), "mse")
    converted.fit(data, wanted, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(before[0], converted.get_weights()[0])
    model.fit(data, wanted, verbose=0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras calls lookups inside a model with TensorFlow only")
def test_vocabularies_are_copied() -> None:
    words, lookup = keras.Input((1,), dtype="int64"), layers.IntegerLookup(name="lookup")
    lookup.adapt(np.array([[90], [90], [70]]))
    model = keras.Model(words, layers.Embedding(4, D, name="words")(lookup(words)))
    converted, _ = convert(model)
    assert_equal(model, converted, np.array([[90], [70], [5], [90]]))


def test_a_converted_model_is_saved_and_loaded(tmp_path: Path) -> None:
    converted, _ = convert(chain("multi_hot"))
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert any(isinstance(layer, DistinctIds) for layer in loaded.layers)
    assert_equal(converted, loaded, IDS)
    again, report = convert(loaded)
    assert not report.replaced
    assert_equal(converted, again, IDS)


def test_settled_weights_are_copied() -> None:
    """Those of a table that an optimizer of ours is training, whose rows are behind."""
    converted, _ = convert(chain("count"))
    converted.compile(unhot.keras.Adam(0.1), "mse")
    for row in IDS:
        converted.train_on_batch(row[None], np.ones((1, D)))
    again, _ = convert(converted)
    for mine, other in zip(again.get_weights(), converted.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def twice(layer: Any, *inputs: Any) -> Any:
    return layers.Add()([layer(each) for each in inputs])


class Words(layers.Embedding):
    """A subclass that does something of its own."""

    def call(self, ids: Any) -> Any:
        return super().call(ids)


class Head(layers.Dense):
    """A subclass."""


class Holder(layers.Layer):
    """Calls an embedding layer that it holds, and cannot be made from a configuration."""

    def __init__(self, table: Any) -> None:
        super().__init__(name="holder")
        self.table = table

    def get_config(self) -> Any:
        raise NotImplementedError

    def call(self, ids: Any) -> Any:
        return ops.sum(self.table(ids), axis=-1)


@pytest.mark.parametrize(
    ("name", "build", "why"),
    [
        ("words", lambda ids: Words(V, D, name="words")(ids), "Words is a subclass of Keras's layer"),
        ("dense", lambda ids: Head(D, name="dense")(ops.one_hot(ids, V)), "Head is a subclass of Dense"),
        ("dense", lambda ids: dense(bias_regularizer="l2")(ops.one_hot(ids, V)), "its bias has a regularizer"),
        ("dense", lambda ids: dense(lora_rank=2)(ops.one_hot(ids, V)), "LoRA"),
        ("dense", lambda ids: dense()(one_hot_of("one_hot")(ops.reshape(ids, (-1, 2, 2)))[:, 0]), None),
        ("dense", lambda ids: dense()(ops.one_hot(ops.cast(ids, "bfloat16"), 300)), "does not hold all numbers below 300"),
        ("words", lambda ids: layers.Embedding(3000, D, name="words")(ops.cast(ids, "float16")), "all numbers below 3,000"),
        ("dense", lambda ids: dense()(layers.IntegerLookup(vocabulary=[1, 2], output_mode="count")(ids)), "output_mode='int'"),
        ("one_hot", lambda ids: layers.Flatten(name="flat")(ops.one_hot(ids, V)), "go to 'flat'"),
        ("encoder", lambda ids: one_hot_of("count")(ids), "the outputs of model 'model'"),
        ("dense", lambda ids: twice(dense(), ops.multi_hot(ids, V), ops.tile(ids, (1, 3))), "something else than one-hot"),
        ("holder/words", lambda ids: Holder(layers.Embedding(V, D, name="words"))(ids), "Holder, which holds it, cannot be"),
    ],
)  # fmt: skip
def test_left_alone(name: str, build: Any, why: str | None) -> None:
    """With the reason; and the copy gives the same."""
    ids = keras.Input((N,), dtype="int32")
    model = keras.Model(ids, build(ids), name="model")
    converted, report = convert(model)
    assert not report.replaced
    if why is not None:
        (reason,) = (found for key, found in report.left.items() if key == name or (name == "one_hot" and "one_hot" in key))
        assert why in reason
    assert_equal(model, converted, IDS)


def test_booleans_are_no_ids() -> None:
    ids = keras.Input((N,), dtype="bool")
    _, report = convert(keras.Model(ids, dense()(ops.one_hot(ids, V))))
    assert report.left == {"dense": "its ids are of dtype bool"}


def test_an_encoder_with_other_uses_stays_for_them() -> None:
    ids = keras.Input((N,), dtype="int32")
    counts = one_hot_of("count")(ids)
    model = keras.Model(ids, [dense()(counts), layers.Rescaling(2.0, name="twice")(counts)])
    converted, report = convert(model)
    assert list(report.replaced) == ["dense"]
    assert report.left == {"encoder": "its vectors go to 'twice', where all of their elements may be used"}
    assert_equal(model, converted, IDS, exact=False)


def test_a_layer_that_cannot_be_copied_is_in_both_models() -> None:
    ids = keras.Input((N,), dtype="int32")
    model = keras.Model(ids, [Holder(layers.Embedding(V, D))(ids), layers.Embedding(V, D, name="words")(ids)])
    converted, report = convert(model)
    assert converted.get_layer("holder") is model.get_layer("holder")
    assert "the same in both models" in report.left["holder"]
    assert list(report.replaced) == ["words"]
    assert_equal(model, converted, IDS)


class Tied(layers.Layer):
    """Has another layer's weight as its own."""

    def __init__(self, table: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def call(self, vectors: Any) -> Any:
        return ops.matmul(vectors, ops.transpose(self.table.embeddings))


class Whole(keras.Model):
    """A subclassed model."""

    def __init__(self) -> None:
        super().__init__(name="whole")
        self.table = layers.Embedding(V, D, name="words")

    def call(self, ids: Any) -> Any:
        return self.table(ids)


class Unlike(keras.Model):
    """A subclassed model that its configuration does not describe."""

    def __init__(self, dim: int = D) -> None:
        super().__init__(name="unlike")
        self.table = layers.Embedding(V, dim)

    def get_config(self) -> dict[str, Any]:
        return {}

    def call(self, ids: Any) -> Any:
        return self.table(ids)


class Row(keras.Sequential):
    """A subclassed Sequential."""


class Stepper(keras.Model):
    """A functional model with a train step of its own."""


def called(model: Any) -> Any:
    model(ops.convert_to_tensor(IDS))
    return model


def test_subclassed_models_are_copied_as_their_configuration_says() -> None:
    for model, name in ((Whole(), "words"), (Row([layers.Embedding(V, D, name="words")]), "words")):
        converted, report = convert(called(model))
        assert converted is not model
        assert type(converted) is type(model)
        assert report.replaced == {name: "Embedding"}
        assert not report.left
        assert_equal(model, converted, IDS)
    ids = keras.Input((N,), dtype="int32")
    outer = keras.Model(ids, called(Whole())(ids))
    converted, report = convert(outer)
    assert report.replaced == {"whole/words": "Embedding"}
    assert_equal(outer, converted, IDS)
    stepper = Stepper(ids, layers.Embedding(V, D, name="words")(ids))
    converted, report = convert(stepper)
    assert type(converted).__name__ == "Stepper"
    assert isinstance(converted, Stepper)
    assert list(report.replaced) == ["words"]


def test_models_that_cannot_be_copied_are_left_alone() -> None:
    other = called(Unlike(D + 1))
    converted, report = convert(other)
    assert converted is other
    assert "Unlike is no functional or Sequential model" in report.left["unlike"]
    ids = keras.Input((N,), dtype="int32")
    table = layers.Embedding(V, D, name="words")
    tied = keras.Model(ids, Tied(table, name="head")(table(ids)), name="tied")
    converted, report = convert(tied)
    assert converted is tied
    assert "'words' and 'head' hold the same weight" in report.left["tied"]


def test_models_without_weights_and_layers() -> None:
    for model in (keras.Sequential([layers.Embedding(V, D, name="words"), layers.Flatten()]), Whole()):
        converted, report = convert(model)
        assert report.replaced == {"words": "Embedding"}
        assert not converted.weights
        called(converted)
        assert isinstance(converted.layers[0], unhot.keras.Embedding)
    for layer in (layers.Embedding(V, D, name="words"), layers.TimeDistributed(layers.Embedding(V, D, name="words"))):
        layer.build((None, N, 1))
        converted, report = convert(layer)
        assert report.replaced == {"words": "Embedding"}
        ids = IDS[..., None]
        np.testing.assert_array_equal(*(ops.convert_to_numpy(each(ops.convert_to_tensor(ids))) for each in (layer, converted)))


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"takes a Keras model or layer\. Received: list"):
        unhot.keras.convert([layers.Embedding(3, 2)])
    with pytest.raises(ValueError, match=r"`to` is 'unhot' or 'stock'\. Received: 'keras'"):
        unhot.keras.convert(layers.Embedding(3, 2), to="keras")  # type: ignore[arg-type]


def test_dense_layers_elsewhere_are_not_mentioned() -> None:
    """And a custom layer on one-hot vectors inside is none of the report's business."""
    ids = keras.Input((N,), dtype="int32")
    model = keras.Model(ids, layers.Dense(2)(layers.Flatten()(OneHotDense(V, D)(ids))))
    converted, report = convert(model)
    assert repr(report) == "replaced: nothing"
    assert_equal(model, converted, IDS)


def test_a_lambda_of_python_code_is_shared() -> None:
    ids = keras.Input((3,), dtype="int32")
    vectors = keras.layers.Embedding(7, 2)(ids)
    model = keras.Model(ids, keras.layers.Lambda(lambda x: x * 2.0, output_shape=(3, 2), name="doubled")(vectors))
    converted, report = convert(model)
    assert "cannot be copied" in report.left["doubled"]
    given = np.array([[1, 2, 6]])
    np.testing.assert_array_equal(converted.predict(given, verbose=0), model.predict(given, verbose=0))

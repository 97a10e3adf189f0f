"""What `unhot.keras.Embedding` takes for an id, and what becomes of one outside the table: the same on all backends."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from selection import product, some

import unhot.keras

from .calls import BACKEND, FIT, IDS, few, gradients, in_graph, numbers, unpublished
from .models import DIM, LENGTH, ROWS, assert_same, data
from .test_bags import Bag, bag_model
from .test_fit import both

# ---------------------------------------------------------------- what is an id

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_of_ids(dtype: str) -> None:
    """Also such as cannot hold the number of rows, and those that lie outside."""
    rows = 1000
    layer = unhot.keras.Embedding(rows, DIM, out_of_range="zero")
    layer.build()
    weights = layer.get_weights()[0]
    largest = min(rows - 1, int(np.iinfo(dtype).max)) if "int" in dtype else rows - 1
    np.testing.assert_array_equal(numbers(layer(np.array([5, largest], dtype))), weights[[5, largest]])
    if dtype not in ("int8", "uint8"):
        np.testing.assert_array_equal(numbers(layer(np.array([5, 1000], dtype))), [weights[5], np.zeros(DIM)])
    if dtype[0] != "u":
        np.testing.assert_array_equal(numbers(layer(np.array([5, -1], dtype))), [weights[5], np.zeros(DIM)])
    tensor = native(np.array([5, largest], dtype))
    for call in (layer, in_graph(layer)):
        np.testing.assert_array_equal(numbers(call(tensor)), weights[[5, largest]])


def native(ids: Any) -> Any:
    """The backend's own tensor, of the same dtype; Keras's would have a larger one on PyTorch."""
    if BACKEND == "torch":
        import torch

        return torch.from_numpy(ids)
    return ops.convert_to_tensor(ids)


EMPTY = [[], [[], []], np.zeros((0, 3), "int64"), np.zeros((2, 0), "uint64"), np.zeros(0, "float32"), np.zeros(0, "uint8")]


@pytest.mark.parametrize(("policy", "ids"), product(["raise", "zero", 7], EMPTY, by=1), ids=repr)
def test_no_ids(policy: Any, ids: Any) -> None:
    layer = unhot.keras.Embedding(ROWS, DIM, out_of_range=policy)
    assert tuple(layer(ids).shape) == (*np.shape(ids), DIM)
    assert tuple(in_graph(layer)(np.asarray(ids)).shape) == (*np.shape(ids), DIM)


def test_an_empty_list_is_not_taken_for_floats() -> None:
    assert tuple(unhot.keras.Embedding(2**24 + 1, 1, embeddings_initializer="zeros")([]).shape) == (0, 1)


@pytest.mark.parametrize("ids", [[[1, 2]], ((3, 4),), 5, np.int64(6), [np.int64(7), 8]], ids=repr)
def test_numbers_of_python(ids: Any) -> None:
    layer = unhot.keras.Embedding(ROWS, DIM)
    found = numbers(layer(ids))
    np.testing.assert_array_equal(found, layer.get_weights()[0][np.asarray(ids)])


BEYOND = [
    np.array([1, 2**32]), np.array([1, 2**40 + 3]), np.array([1, 2**31]), np.array([1, -(2**32) + 3]),
    np.array([1, 2**63], "uint64"), np.array([1, 2**32 - 1], "uint32"), np.array([1.0, 2.0**40]), np.array([1.0, np.inf]),
    np.array([1.0, np.nan]), np.array([1.0, 2.5]), np.array([1.0, 3 + 1e-9]), np.array([1, 2**70], object),
    [1, 2**70], [1, 2**63], [1, -1],
]  # fmt: skip


@pytest.mark.parametrize("ids", BEYOND, ids=repr)
def test_no_id_is_made_another(ids: Any) -> None:
    """Eagerly, whatever the backend would make of the dtype."""
    for policy, expected in (("zero", 0), (7, 7)):
        layer = unhot.keras.Embedding(ROWS, 1, out_of_range=policy)
        layer.build()
        layer.set_weights([np.arange(ROWS, dtype="float32")[:, None]])
        np.testing.assert_array_equal(numbers(layer(ids))[:, 0], [1, expected])
    with pytest.raises(IndexError, match=r"id .* at position 1 is (out of range|not an integer)"):
        unhot.keras.Embedding(ROWS, DIM)(ids)


def test_what_is_no_id() -> None:
    layer = unhot.keras.Embedding(ROWS, DIM)
    for wrong in (np.array([True]), [True, False], np.array(["a"]), np.array([1j]), [None], ops.convert_to_tensor([True])):
        with pytest.raises(TypeError, match=r"must be integers. Received: dtype"):
            layer(wrong)
    for wrong in ([1, True], [[1, 2], [3, np.True_]], (0.0, False)):
        with pytest.raises(TypeError, match=r"must be integers. Received: a boolean among them"):
            layer(wrong)
    with pytest.raises(TypeError, match=r"must be one array or tensor. Received: list"):
        layer([ops.convert_to_tensor([1]), ops.convert_to_tensor([2])])
    with pytest.raises(TypeError, match=r"must be integers. Received: dtype bool"):
        layer(keras.Input((LENGTH,), dtype="bool"))
    with pytest.raises(TypeError, match="masked entries"):
        layer(np.ma.array([1, 2], mask=[False, True]))
    with pytest.raises(ValueError, match="nested lists have unequal lengths"):
        layer([[1, 2], [3]])


class Column:
    """A foreign array."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([2**32 + 1], dtype)


def test_foreign_arrays() -> None:
    with pytest.raises(IndexError, match=f"id {2**32 + 1} at position 0 is out of range"):
        unhot.keras.Embedding(ROWS, DIM)(Column())


def test_float_inputs_that_keras_makes_by_default() -> None:
    """keras.Input() and a Sequential without one hand over floats; they are exact up to 2**24 rows."""
    for ids in (keras.Input((LENGTH,)), keras.Input((LENGTH,), dtype="float32")):
        assert ids.dtype == "float32"
        assert unhot.keras.Embedding(2**24, 1)(ids).shape == (None, LENGTH, 1)
    layer = unhot.keras.Embedding(ROWS, DIM)
    model = keras.Sequential([layer])
    np.testing.assert_array_equal(model.predict(IDS, verbose=0), layer.get_weights()[0][IDS])


@pytest.mark.parametrize(("dtype", "rows"), [("float32", 2**24 + 1), ("float16", 2**11 + 1), ("bfloat16", 2**8 + 1)])
def test_float_inputs_that_are_not_exact(dtype: str, rows: int) -> None:
    message = f"come as {dtype}, which holds every integer up to {rows - 1:,} only.*Input.*dtype='int32'"
    with pytest.raises(TypeError, match=message):
        unhot.keras.Embedding(rows, 1)(keras.Input((LENGTH,), dtype=dtype))
    assert unhot.keras.Embedding(rows, 1)(keras.Input((LENGTH,), dtype="int32")).shape == (None, LENGTH, 1)
    exact = unhot.keras.Embedding(rows - 1, 1, out_of_range="zero", embeddings_initializer="ones")
    if rows < 10_000:
        ids = ops.convert_to_tensor(np.array([0, rows - 2, rows - 1], "int32"))
        np.testing.assert_array_equal(numbers(exact(ops.cast(ids, dtype)))[:, 0], [1, 1, 0])


def test_a_sequential_in_half_precision_is_refused() -> None:
    """It makes an input of the dtype that its first layer computes in, and Keras's layer then takes other rows."""
    model = keras.Sequential([unhot.keras.Embedding(3000, 2, dtype="mixed_float16")])
    with pytest.raises(TypeError, match="come as float16"):
        model.build((None, LENGTH))


# ---------------------------------------------------------------- out of range

BAD = np.array([[1, 2, ROWS, 3], [4, -1, 5, 6]], dtype="int32")
BY = 2 if BACKEND == "torch" else 1


@pytest.mark.parametrize(
    ("policy", "dtype", "owned"), product(["raise", "zero", 7], ["int32", "float32"], [False, True], by=BY)
)
def test_out_of_range(policy: Any, dtype: str, owned: bool) -> None:
    """The same eagerly and in a graph, but that a compiled graph cannot raise: there the vector is NaN."""
    layer = unhot.keras.Embedding(ROWS, DIM, out_of_range=policy)
    layer.build()
    optimizer = unhot.keras.Adam(0.1)
    if owned:
        optimizer.build(layer.trainable_variables)
    weights = layer.get_weights()[0]
    good = (BAD >= 0) & (BAD < ROWS)
    instead = {"raise": np.full(DIM, np.nan), "zero": np.zeros(DIM)}.get(policy, weights[7])
    expected = np.where(good[..., None], weights[np.where(good, BAD, 0)], instead)
    for jit_compile in [True, False][: 1 + (BACKEND == "tensorflow" and policy != "raise")]:  # else see test_stopped_runs.py
        np.testing.assert_array_equal(numbers(in_graph(layer, jit_compile)(BAD.astype(dtype))), expected)
    if policy == "raise":
        with pytest.raises(
            IndexError, match=rf"id {ROWS}(.0)? at position \(0, 2\) is out of range: the table has rows 0 to 39"
        ):
            layer(BAD.astype(dtype))
    else:
        np.testing.assert_array_equal(numbers(layer(BAD.astype(dtype))), expected)


def test_fractions_are_out_of_range() -> None:
    layer = unhot.keras.Embedding(ROWS, DIM, out_of_range="zero", embeddings_initializer="ones")
    layer.build()
    for call in (layer, in_graph(layer)):
        found = numbers(call(np.array([1, 1.5, np.nan, np.inf, -0.0, -0.5], "float32")))[:, 0]
        np.testing.assert_array_equal(found, [1, 0, 0, 0, 1, 0])
    with pytest.raises(IndexError, match=r"id 1.5 at position 1 is not an integer, and no row's number"):
        unhot.keras.Embedding(ROWS, DIM)(np.array([1.0, 1.5]))


@pytest.mark.parametrize("policy", ["raise", "zero", 7])
def test_gradients_of_ids_out_of_range(policy: Any) -> None:
    """They go to the row that stands for them, if there is one."""
    layer = unhot.keras.Embedding(ROWS, DIM, out_of_range=policy)
    layer.build()
    call = in_graph(layer) if policy == "raise" else layer
    found = gradients(lambda: ops.sum(call(BAD) ** 2), [layer._embeddings])[0]
    weights, expected = layer.get_weights()[0], np.zeros((ROWS, DIM))
    expected[1:7] = 2 * weights[1:7]
    if policy == 7:
        expected[7] = 2 * 2 * weights[7]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


INSTEAD = [("zero", None), ("zero", "mean"), ("zero", "max"), (7, "sqrtn")]


@pytest.mark.parametrize(("policy", "combiner"), few(INSTEAD, INSTEAD[2:]))
def test_training_with_ids_out_of_range(policy: Any, combiner: str | None) -> None:
    """As with one-hot vectors, where such an id has none, or another's; a zero vector counts in a mean or a maximum."""
    layer = unhot.keras.Embedding(ROWS, DIM, out_of_range=policy, combiner=combiner)
    models = bag_model(layer), bag_model(Bag(combiner, use_bias=False))
    models[0].set_weights(models[1].get_weights())
    ids, targets = data()
    ids[::3, 1], ids[1::3, 2] = ROWS + 5, -1
    for model, optimizer in zip(models, both("SGD", learning_rate=0.1, momentum=0.9, weight_decay=0.01), strict=True):
        model.compile(optimizer=optimizer, loss="mse")
    theirs = ids if policy == "zero" else np.where((ids >= 0) & (ids < ROWS), ids, policy)
    models[0].fit(ids, targets, **FIT)
    models[1].fit(theirs, targets, **FIT)
    assert_same(*models)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="its runs stop: see test_stopped_runs.py")
@pytest.mark.parametrize("combiner", few([None, "mean"], ["mean"]))
def test_fit_with_ids_that_should_raise(combiner: str | None) -> None:
    """Where the step is a graph: a loss of NaN, and samples and rows that have nothing to do with it are trained as ever."""
    good = np.array([[1, 2], [3, 4], [5, 6]], "int32")
    bad = np.array([[1, 2], [ROWS, -3], [5, 6]], "int32")
    finals, losses = [], []
    for ids, sample_weight in ((bad, None), (good, np.array([1.0, 0.0, 1.0]))):
        keras.utils.set_random_seed(3)
        layer = unhot.keras.Embedding(ROWS, DIM, combiner=combiner)
        given = keras.Input((2,), dtype="int32")
        model = keras.Model(given, layer(given) if combiner else ops.sum(layer(given), axis=1))
        model.compile(optimizer=unhot.keras.SGD(0.1, momentum=0.9), loss="mse")
        options: dict[str, Any] = {"epochs": 2, "verbose": 0, "shuffle": False}
        if ids is bad and BACKEND == "torch":
            with pytest.raises(IndexError, match=r"id 40 at position \(1, 0\)"):
                model.fit(ids, np.ones((3, DIM)), **options)
            return
        losses += model.fit(ids, np.ones((3, DIM)), sample_weight=sample_weight, **options).history["loss"]
        finals.append(layer.get_weights()[0])
        if ids is bad:
            model.compile(optimizer=model.optimizer, loss="mse", run_eagerly=True)
            with pytest.raises(IndexError, match=r"id 40 at position \(1, 0\)"):
                model.fit(ids, np.ones((3, DIM)), **options)
    assert np.isnan(losses[:2]).all()
    assert np.isfinite(losses[2:]).all()
    np.testing.assert_allclose(*finals, rtol=1e-6)


@pytest.mark.parametrize("combiner", few(["sum", "mean", "max", "sqrtn"], ["mean", "max"]))
def test_a_bag_with_an_id_that_should_raise(combiner: str) -> None:
    """In a graph the whole bag is NaN, whatever combiner and activation make of one; no other is, and no row gains from it."""
    layer = unhot.keras.Embedding(
        ROWS, DIM, combiner=combiner, mask_zero=True, activation="relu", embeddings_initializer="ones"
    )
    layer.build()
    ids = np.array([[1, ROWS, 0], [1, 2, 0], [0, 0, 0]], "int32")
    found = numbers(in_graph(layer)(ids))
    assert np.isnan(found[0]).all()
    assert (found[1] > 0).all()
    np.testing.assert_array_equal(found[2], 0)
    gradient = gradients(lambda: ops.sum(in_graph(layer)(ids) ** 2), [layer._embeddings])[0]
    expected = gradients(lambda: ops.sum(layer(ids[1:]) ** 2), [layer._embeddings])[0]
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.skipif(BACKEND != "torch", reason="the graphs of the other backends are tested throughout")
@pytest.mark.parametrize(
    ("policy", "combiner"), some([("raise", None), ("raise", "max"), ("zero", None), (7, "sum")], [("raise", "max")])
)
def test_torch_compile(policy: Any, combiner: str | None) -> None:
    import torch

    layer = unhot.keras.Embedding(ROWS, 1, out_of_range=policy, combiner=combiner)
    layer.build()
    layer.set_weights([np.arange(ROWS, dtype="float32")[:, None]])
    torch._dynamo.reset()
    compiled = torch.compile(lambda ids: layer(ids), backend="eager")
    found = numbers(compiled(torch.tensor([[3], [ROWS], [-1], [5]]))).ravel()
    instead = {"raise": np.nan, "zero": 0, 7: 7}[policy]
    np.testing.assert_array_equal(found, [3, instead, instead, 5])


@unpublished
def test_what_predict_converts() -> None:
    """On JAX, Keras keeps the last 32 bits of what it is given; elsewhere the layer sees the id and refuses it."""
    ids = keras.Input((1,), dtype="int64")
    layer = unhot.keras.Embedding(ROWS, DIM)
    model = keras.Model(ids, layer(ids))
    given = np.array([[2**32 + 5]])
    if BACKEND == "jax":
        np.testing.assert_array_equal(model.predict(given, verbose=0)[0, 0], layer.get_weights()[0][5])
    else:
        with pytest.raises(Exception, match=f"id {2**32 + 5} at position"):
            model.predict(given, verbose=0)

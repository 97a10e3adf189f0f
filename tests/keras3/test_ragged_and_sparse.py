"""Bags of unequal length: ragged and sparse ids, equal to dense ids that are filled up with weights of 0."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import unhot.keras

from .calls import BACKEND, gradients, numbers, unpublished
from .models import DIM, ROWS

if BACKEND == "torch":
    pytest.skip("Keras has no ragged or sparse tensors there", allow_module_level=True)

BAGS = [[3, 1, 3], [], [0], [7, 39, 2, 3, 0]]
WEIGHTS = [[1.0, 0.5, 2.0], [], [3.0], [1.0, 2.0, -0.5, 1.5, 0.25]]
COMBINERS = ["sum", "mean", "sqrtn", "max"]
KINDS = ["sparse", "ragged"] if BACKEND == "tensorflow" else ["sparse", "filled up"]


def padded(bags: list[list[Any]], dtype: str) -> Any:
    length = max(map(len, bags))
    return np.array([bag + [0] * (length - len(bag)) for bag in bags], dtype)


def made(kind: str, bags: list[list[Any]], dtype: str) -> Any:
    """The bags as an array of this kind."""
    if kind == "ragged":
        import tensorflow as tf

        return tf.ragged.constant(bags, dtype)
    places = [(i, j) for i, bag in enumerate(bags) for j in range(len(bag))]
    return sparse(kind, places, [x for bag in bags for x in bag], (len(bags), max(map(len, bags))), dtype)


def sparse(kind: str, places: Any, values: Any, shape: tuple[int, ...], dtype: str) -> Any:
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.SparseTensor(np.array(places, "int64"), np.array(values, dtype), shape)
    from jax.experimental.sparse import BCOO

    if kind == "filled up":  # as JAX does where the number of values has to be fixed: with places beyond the array
        places, values = [*places, shape, shape], [*values, 5, 5]
    return BCOO((np.array(values, dtype), np.array(places, "int32")), shape=shape)


def with_values(like: Any, values: Any) -> Any:
    """An array like this one with other values."""
    if hasattr(like, "with_flat_values"):
        return like.with_flat_values(values)
    if BACKEND == "tensorflow":
        return type(like)(like.indices, values, like.dense_shape)
    return type(like)((values, like.indices), shape=like.shape)


def values_of(array: Any) -> Any:
    return next(getattr(array, name) for name in ("flat_values", "values", "data") if hasattr(array, name))


def layer(**options: Any) -> Any:
    found = unhot.keras.Embedding(ROWS, DIM, **options)
    found.build()
    found.set_weights([np.random.default_rng(2).normal(size=v.shape).astype("float32") for v in found.variables])
    return found


def expected(table: Any, combiner: str, weighted: bool = False, skipped: Any = ()) -> Any:
    """In NumPy, bag by bag."""
    found = np.zeros((len(BAGS), DIM))
    for line, ids, weights in zip(found, BAGS, WEIGHTS, strict=True):
        kept = [i for i, x in enumerate(ids) if x not in skipped]
        if not kept:
            continue
        rows, factors = table[np.array(ids)[kept]].astype("float64"), np.array(weights if weighted else [1.0] * len(ids))[kept]
        total = factors @ rows
        size = {"mean": factors.sum(), "sqrtn": np.sqrt((factors**2).sum())}.get(combiner, 1.0)
        line[:] = rows.max(0) if combiner == "max" else total / size
    return found


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind: str, combiner: str) -> None:
    """With and without weights; the padded dense array has the same values, and the same gradients."""
    ids, dense = made(kind, BAGS, "int32"), padded(BAGS, "int32")
    for options in ({}, {"mask_zero": True}, {"use_bias": True, "activation": "tanh"}):
        bags = layer(combiner=combiner, **options)
        table = bags.get_weights()[0]
        wanted = expected(table, combiner, skipped=(0,) if "mask_zero" in options else ())
        if "use_bias" in options:
            wanted = np.tanh(wanted + bags.get_weights()[1])
        np.testing.assert_allclose(numbers(bags(ids)), wanted, rtol=1e-5, atol=1e-6)
    bags, factors = layer(combiner=combiner), np.cos(np.arange(len(BAGS) * DIM)).reshape(-1, DIM).astype("float32")
    if combiner == "max":
        rows = layer(combiner="max")  # row by row, as there are no weights to leave out padding with
        found = gradients(lambda: ops.sum(bags(ids) * factors), [bags._embeddings])[0]
        parts = [ops.convert_to_tensor([bag]) for bag in BAGS if bag]
        lines = [factors[i] for i, bag in enumerate(BAGS) if bag]
        theirs = gradients(lambda: sum(ops.sum(rows(p) * f) for p, f in zip(parts, lines, strict=True)), [rows._embeddings])[0]
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-6)
        return
    weights = made(kind, WEIGHTS, "float32")
    given = keras.Variable(values_of(weights)), keras.Variable(padded(WEIGHTS, "float32"))
    wanted = expected(bags.get_weights()[0], combiner, weighted=True)
    np.testing.assert_allclose(numbers(bags(ids, weights=weights)), wanted, rtol=1e-5, atol=1e-6)

    def ours() -> Any:
        return ops.sum(bags(ids, weights=with_values(weights, given[0].value)) * factors)

    def theirs() -> Any:
        return ops.sum(bags(dense, weights=given[1].value) * factors)

    mine = gradients(ours, [bags._embeddings, given[0]])
    others = gradients(theirs, [bags._embeddings, given[1]])
    np.testing.assert_allclose(mine[0], others[0], rtol=1e-5, atol=1e-6)
    there = np.array([[j < len(bag) for j in range(5)] for bag in BAGS])
    np.testing.assert_allclose(mine[1][: there.sum()], others[1][there], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("combiner", COMBINERS[:3])
def test_as_tensorflow_combines(combiner: str) -> None:
    if BACKEND != "tensorflow":
        pytest.skip("TensorFlow's own")
    import tensorflow as tf

    bags = layer(combiner=combiner)
    for kind in KINDS:
        ids, weights = made(kind, BAGS, "int64"), made(kind, WEIGHTS, "float32")
        as_sparse = [x.to_sparse() if kind == "ragged" else x for x in (ids, weights)]
        table = tf.constant(bags.get_weights()[0])
        for theirs, given in ((None, None), (as_sparse[1], weights)):
            wanted = tf.nn.embedding_lookup_sparse(table, as_sparse[0], theirs, combiner=combiner)
            np.testing.assert_allclose(numbers(bags(ids, weights=given)), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("combiner", ["mean", "max"])
def test_shapes(combiner: str) -> None:
    """Ragged in several axes, or only before the last; sparse of one or three axes; none at all."""
    bags = layer(combiner=combiner)
    table = bags.get_weights()[0]
    combine = {"mean": np.mean, "max": np.max}[combiner]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        found = bags(tf.ragged.constant([[[1, 2], [3]], [], [[], [4, 5, 6]]], dtype="int32"))
        assert [len(x) for x in found.to_list()] == [2, 0, 2]
        lines = [combine(table[ids], 0) if ids else np.zeros(DIM) for ids in ([1, 2], [3], [], [4, 5, 6])]
        np.testing.assert_allclose(numbers(found.flat_values), lines, rtol=1e-5, atol=1e-6)
        uniform = tf.RaggedTensor.from_row_lengths(np.array([[1, 2], [3, 4], [5, 6]], "int32"), [2, 0, 1])
        found = bags(uniform)
        np.testing.assert_allclose(numbers(found.flat_values), combine(table[uniform.flat_values], 1), rtol=1e-5, atol=1e-6)
        assert tuple(bags(tf.ragged.constant([[], []], dtype="int32", ragged_rank=1)).shape) == (2, DIM)
        assert bags(keras.Input((None,), dtype="int32", ragged=True)).shape == (None, DIM)
    one = sparse("sparse", [[1], [4]], [3, 8], (6,), "int32")
    np.testing.assert_allclose(numbers(bags(one)), combine(table[[3, 8]], 0), rtol=1e-5, atol=1e-6)
    three = sparse("sparse", [[0, 1, 2], [1, 0, 0], [1, 0, 3]], [3, 8, 9], (2, 2, 4), "int32")
    found = numbers(bags(three))
    np.testing.assert_allclose(found[0], [np.zeros(DIM), table[3]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], [combine(table[[8, 9]], 0), np.zeros(DIM)], rtol=1e-5, atol=1e-6)
    if combiner == "mean":
        dense = np.arange(1.0, 17.0, dtype="float32").reshape(2, 2, 4)
        lines = (13 - 4) * table[8] / (9 + 12) + 12 * table[9] / (9 + 12)
        np.testing.assert_allclose(numbers(bags(three, weights=dense))[1, 0], lines, rtol=1e-5, atol=1e-6)
    none = sparse("sparse", np.zeros((0, 2)), [], (3, 4), "int32")
    np.testing.assert_array_equal(numbers(bags(none)), np.zeros((3, DIM)))
    assert bags(keras.Input((4,), dtype="int32", sparse=True)).shape == (None, DIM)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit(kind: str) -> None:
    ids, dense = made(kind, BAGS, "int32"), padded(BAGS, "int32")
    bags = layer(combiner="sum")
    with pytest.raises(ValueError, match="`weights` must have the shape of the ids"):
        bags(ids, weights=padded(WEIGHTS, "float32")[0])
    with pytest.raises(ValueError, match="must be ragged if the ids are, and may be sparse only if the ids are"):
        bags(dense, weights=made(kind, WEIGHTS, "float32"))
    if kind == "ragged":
        with pytest.raises(ValueError, match="must be ragged if the ids are"):
            bags(ids, weights=padded(WEIGHTS, "float32"))
    elsewhere = [[1.0, 2.0], [1.0], [3.0], [1.0] * 5]
    with pytest.raises(ValueError, match="must have values in the places of the ids"):
        bags(ids, weights=made(kind, elsewhere, "float32"))
    wrong = made(kind, [[3, 1, ROWS], [], [-1], [2] * 5], "int32")
    with pytest.raises(IndexError, match=f"id {ROWS} at position 2 is out of range"):
        bags(wrong)
    zero, other = layer(combiner="mean", out_of_range="zero"), layer(combiner="mean", out_of_range=7)
    table = zero.get_weights()[0]
    np.testing.assert_allclose(numbers(zero(wrong))[:3], [table[[3, 1]].sum(0) / 3, [0] * DIM, [0] * DIM], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numbers(other(wrong))[:3], [table[[3, 1, 7]].mean(0), [0] * DIM, table[7]], rtol=1e-5, atol=1e-6)


@unpublished
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_graph(kind: str) -> None:
    """Where sizes are not known when it is made."""
    ids, weights = made(kind, BAGS, "int32"), made(kind, WEIGHTS, "float32")
    bags = layer(combiner="sqrtn")
    wanted = numbers(bags(ids, weights=weights))
    if BACKEND == "jax":
        import jax

        call = jax.jit(lambda ids, weights: bags(ids, weights=weights))
    else:
        import tensorflow as tf

        Spec = tf.RaggedTensorSpec if kind == "ragged" else tf.SparseTensorSpec
        signature = [Spec((None, None), dtype) for dtype in ("int32", "float32")]
        call = tf.function(lambda ids, weights: bags(ids, weights=weights), input_signature=signature)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"id 40 at position \[0\]"):
            call(made(kind, [[40, 1, 3], *BAGS[1:]], "int32"), weights)
    np.testing.assert_allclose(numbers(call(ids, weights)), wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_training(kind: str) -> None:
    """A step by rows, as on padded dense ids."""
    found = []
    ragged = made(kind, BAGS, "int32"), made(kind, WEIGHTS, "float32")
    for ids, weights in (ragged, (padded(BAGS, "int32"), padded(WEIGHTS, "float32"))):
        bags, optimizer = layer(combiner="mean"), unhot.keras.SGD(0.1, momentum=0.9)
        optimizer.build(bags.trainable_variables)
        assert optimizer.table(bags.embeddings) is not None
        step(bags, optimizer, ids, weights)
        found.append(bags.get_weights()[0])
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def step(bags: Any, optimizer: Any, ids: Any, weights: Any) -> None:
    if BACKEND == "tensorflow":
        import tensorflow as tf

        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(bags(ids, weights=weights) ** 2)
            variables = bags.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, [v.value for v in variables]), variables, strict=True))
        return
    import jax

    def loss(trained: Any, frozen: Any) -> Any:
        return ops.sum(bags.stateless_call(trained, frozen, ids, weights=weights)[0] ** 2)

    trained, frozen = ([v.value for v in some] for some in (bags.trainable_variables, bags.non_trainable_variables))
    state = [v.value for v in optimizer.variables]

    @jax.jit
    def jitted(trained: Any, frozen: Any, state: Any) -> Any:
        return optimizer.stateless_apply(state, jax.grad(loss)(trained, frozen), trained)

    for _ in range(3):
        trained, state = jitted(trained, frozen, state)
    for variables, values in ((bags.trainable_variables, trained), (optimizer.variables, state)):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

"""Several ids per sample, a bias, an activation and ids out of range in plain JAX: a Dense layer on multi-hot vectors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import product, some

import unhot
import unhot.jax

from .compiled import assert_no_copies
from .dense import RULES, Array

ROWS, DIM = 12, 3
RATE = 0.05


def cases(fast: list[tuple[Any, ...]]) -> list[Any]:
    """Policies, whether the ids are flat, and optimizers: XLA compiles for seconds in each case."""
    return some(list(itertools.product(["zero", 2], [False, True], ["SGD", "AdamW"])), fast)


def multi_hot(ids: Array, factors: Array, policy: Any = "zero") -> Array:
    """A row for each of the samples, (n, length); ids out of range have no place in it, or that of a row."""
    rows = np.zeros((len(ids), ROWS))
    for row, sample, given in zip(rows, ids, factors, strict=True):
        for i, factor in zip(sample, given, strict=True):
            place = i if 0 <= i < ROWS else policy
            if place != "zero":
                row[place] += factor
    return rows


OPTIMIZERS = {
    "SGD": unhot.SGD(RATE, momentum=0.9, convention="torch"),
    "AdamW": unhot.AdamW(RATE, weight_decay=0.1, convention="torch"),
}


@pytest.mark.parametrize(("policy", "flat", "name"), cases([("zero", False, "SGD"), (2, True, "SGD")]))
def test_trained_as_a_dense_layer(policy: Any, flat: bool, name: str) -> None:
    """Table and bias, by one rule; the gradients of the dense twin are JAX's own, and its steps NumPy's."""
    rng = np.random.default_rng(0)
    start, bias = rng.normal(size=(ROWS, DIM)), rng.normal(size=DIM)
    hyper = {"learning_rate": RATE, **({"momentum": 0.9} if name == "SGD" else {"weight_decay": 0.1})}
    twin, *biases = (RULES[name, "torch"](array, **hyper) for array in (start, bias, bias))
    optimizer = OPTIMIZERS[name]

    def layer(pooled: Any, bias: Any) -> Any:
        return jax.nn.softplus(pooled + bias)

    def loss(vectors: Any, bias: Any, factors: Any, targets: Any) -> Any:
        segments: dict[str, Any] = {}
        if flat:
            vectors, factors = vectors.reshape(-1, DIM), factors.reshape(-1)
            segments = {"segment_ids": jnp.repeat(jnp.arange(4), 3), "num_segments": 4}
        pooled = unhot.jax.pool(vectors, factors, mode="mean", **segments)
        return ((layer(pooled, bias) - targets) ** 2).sum()

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def dense_gradients(weights: Any, bias: Any, x: Any, targets: Any) -> Any:
        return ((layer(x @ weights, bias) - targets) ** 2).sum()

    @jax.jit
    def step(state: Any, bias: Any, ids: Any, factors: Any, targets: Any) -> Any:
        vectors = unhot.jax.lookup(state, ids)
        g_vectors, g_bias = jax.grad(loss, argnums=(0, 1))(vectors, bias, factors, targets)
        return unhot.jax.update(state, ids, g_vectors), g_bias

    with jax.enable_x64(True):
        state = unhot.jax.from_array(jnp.asarray(start), optimizer=optimizer, out_of_range=policy)
        for _ in range(40):
            ids = rng.integers(-2, ROWS + 2 if rng.random() < 0.1 else 4, (4, 3))
            factors, targets = rng.uniform(0.5, 2, (4, 3)), rng.normal(size=(4, DIM))
            state, gradient = step(state, jnp.asarray(biases[0].w), ids, factors, targets)
            x = multi_hot(ids, factors, policy) / factors.sum(1, keepdims=True)
            g_weights, g_bias = dense_gradients(twin.w, jnp.asarray(biases[1].w), x, targets)
            twin.step(np.asarray(g_weights))
            for each, given in zip(biases, (gradient, g_bias), strict=True):
                each.step(np.asarray(given))
        np.testing.assert_allclose(unhot.jax.weights(state), twin.w, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(biases[0].w, biases[1].w, rtol=1e-9, atol=1e-12)


def pooled_by_hand(vectors: Array, factors: Array, where: Array, mode: str, upstream: Array) -> tuple[Array, ...]:
    """The vectors of samples, (n, length), and the gradients of their vectors and factors, in NumPy."""
    out, of_vectors, of_factors = np.zeros(upstream.shape), np.zeros(vectors.shape), np.zeros(factors.shape)
    for sample, kept in enumerate(where):
        v, f, g = vectors[sample, kept], factors[sample, kept], upstream[sample]
        if not kept.any():
            continue
        if mode == "max":
            out[sample] = v.max(0)
            of_vectors[sample, kept] = g * (v == v.max(0))
            continue
        size = f.sum() if mode == "mean" else 1.0
        out[sample] = f @ v / size
        of_vectors[sample, kept] = f[:, None] * g / size
        of_factors[sample, kept] = (v - (out[sample] if mode == "mean" else 0)) @ g / size
    return out, of_vectors, of_factors


@pytest.mark.parametrize(("mode", "weighted"), [("sum", False), ("sum", True), ("mean", False), ("mean", True), ("max", False)])
def test_pool(mode: Any, weighted: bool) -> None:
    """Values and gradients, in rows and flat in any order, with places that are left out, and empty samples."""
    rng = np.random.default_rng(1)
    vectors, upstream = rng.normal(size=(6, 4, DIM)), rng.normal(size=(6, DIM))
    factors = rng.uniform(0.5, 2, (6, 4)) if weighted else np.ones((6, 4))
    where = rng.random((6, 4)) < 0.6
    where[1] = False
    numbers = np.where(where, np.arange(6)[:, None], [-1, 6, 7, -(2**31)]).reshape(-1)
    order = rng.permutation(24)

    def in_rows(vectors: Any, factors: Any) -> Any:
        given = factors[0].reshape(2, 3, 4) if weighted else None
        return unhot.jax.pool(vectors.reshape(2, 3, 4, DIM), given, mode, where=where.reshape(2, 3, 4))

    def flat(vectors: Any, factors: Any) -> Any:
        given = factors[0].reshape(-1)[order] if weighted else None
        return unhot.jax.pool(vectors.reshape(-1, DIM)[order], given, mode, segment_ids=numbers[order], num_segments=6)

    expected = pooled_by_hand(vectors, factors, where, mode, upstream)
    for pooled in (in_rows, flat):

        def value(vectors: Any, factors: Any, pooled: Any = pooled) -> Any:
            found = pooled(vectors, factors).reshape(6, DIM)
            return (found * upstream).sum(), found

        gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))
        with jax.enable_x64(True):
            (_, found), (of_vectors, of_factors) = gradients(jnp.asarray(vectors), [jnp.asarray(factors)] if weighted else [])
        np.testing.assert_allclose(found, expected[0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(of_vectors, expected[1], rtol=1e-12, atol=1e-14)
        if weighted:
            np.testing.assert_allclose(of_factors[0], expected[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_pool_nothing(mode: Any) -> None:
    assert not unhot.jax.pool(jnp.zeros((2, 0, DIM)), mode=mode).any()
    none = unhot.jax.pool(jnp.zeros((0, DIM)), mode=mode, segment_ids=jnp.zeros(0, jnp.int32), num_segments=2)
    assert none.tolist() == [[0.0] * DIM] * 2


def test_pool_is_what_a_table_gives() -> None:
    table = unhot.Table(ROWS, DIM, seed=0)
    state = unhot.jax.from_array(table.array, optimizer=unhot.SGD(1.0))
    ids, numbers = np.array([3, 1, 1, 7]), jnp.array([0, 0, 2, 2], jnp.uint8)
    for mode in ("sum", "mean", "max"):
        found = unhot.jax.pool(unhot.jax.lookup(state, ids), mode=mode, segment_ids=numbers, num_segments=3)
        np.testing.assert_allclose(found, table.bag(ids, [0, 2, 2], mode=mode), rtol=1e-6, atol=1e-8)


def test_zero_factors_and_a_vector_that_is_left_out() -> None:
    vectors = jnp.array([[[1.0], [jnp.nan]], [[5.0], [7.0]]])
    where = jnp.array([[True, False], [True, True]])
    assert unhot.jax.pool(vectors, jnp.array([[2.0, 1], [0, 0]]), "mean", where=where).tolist() == [[1.0], [0.0]]
    gradient = jax.grad(lambda v: unhot.jax.pool(v, mode="sum", where=where).sum())(vectors)
    assert gradient.tolist() == [[[1.0], [0.0]], [[1.0], [1.0]]]


@pytest.mark.parametrize(("dtype", "policy", "compiled"), product(["int32", "uint8", "int64"], ["zero", 3], [False, True]))
def test_ids_out_of_range(dtype: str, policy: Any, compiled: bool) -> None:
    """Of the table, or of a call: in what is compiled, and where the ids are known, of which JAX keeps 32 bits."""
    rows = 7
    state = unhot.jax.from_array(jnp.ones((rows, 2)), optimizer=unhot.SGD(1.0), out_of_range=policy)
    other = unhot.jax.from_array(jnp.ones((rows, 2)), optimizer=unhot.SGD(1.0))
    bad = {"int32": -1, "uint8": 200, "int64": 2**32 + 5}[dtype]
    ids: Any = np.array([1, bad, 7, 1], dtype)
    if compiled:
        ids = jnp.asarray(np.where(ids > 2**31, -5, ids).astype("int32") if dtype == "int64" else ids)
    gradients = jnp.array([[1.0, 1], [2, 2], [4, 4], [8, 8]])
    run: Callable[..., Any] = jax.jit if compiled else lambda function, **_: function
    named = {"out_of_range": policy}
    for each, options in ((state, {}), (other, named)):
        look = run(lambda each, ids, options=options: unhot.jax.lookup(each, ids, **options))
        assert look(each, ids).tolist() == [[1, 1], *([[float(policy != "zero")] * 2] * 2), [1, 1]]
        make = run(lambda each, ids, given, options=options: unhot.jax.update(each, ids, given, **options))
        moved = np.asarray(1 - unhot.jax.weights(make(each, ids, gradients)))[:, 0]
        assert moved.tolist() == [0, 9, 0, 6 * (policy == 3), 0, 0, 0]
        total = run(lambda each, ids, given, options=options: unhot.jax.sum_by_id(each, ids, given, **options))
        assert total(each, ids, gradients)[:, 0].tolist() == [9, 6 * (policy == 3), 0, 0]
    ours = unhot.jax.lookup(make(state, ids, gradients), jnp.array([3]), out_of_range="raise")
    assert ours[0, 0] == (-5.0 if policy == 3 else 1.0)


def test_a_policy_that_is_none() -> None:
    for wrong in (5, -1, "nan", True, None):
        with pytest.raises(ValueError, match=r"`out_of_range` must be 'raise', 'zero' or a row number in \[0, 5\)"):
            unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.SGD(1.0), out_of_range=wrong)  # type: ignore[arg-type]
    state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.SGD(1.0))
    with pytest.raises(ValueError, match="`out_of_range` must be"):
        unhot.jax.lookup(state, jnp.array([1]), out_of_range=5)
    with pytest.raises(IndexError, match=r"id 9 at position 0 is out of range.*another `out_of_range`"):
        unhot.jax.lookup(state, jnp.array([9]))


VECTORS = jnp.ones((2, 3, 4))
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a mode": ({"mode": "median"}, ValueError, "`mode` must be 'sum', 'mean' or 'max'"),
    "one vector": ({"vectors": jnp.ones(3)}, ValueError, r"the shape \(..., n, dim\). Received: shape \(3,\)"),
    "weights": ({"weights": jnp.ones(3)}, ValueError, r"`weights` must be numbers, one for each vector, of shape \(2, 3\)"),
    "weights of a maximum": ({"weights": jnp.ones((2, 3)), "mode": "max"}, ValueError, "do not go with mode='max'"),
    "where": ({"where": jnp.ones((2, 3))}, ValueError, "`where` must be booleans"),
    "one of two": ({"segment_ids": jnp.zeros(3, jnp.int32)}, ValueError, "`segment_ids` and `num_segments` go together"),
    "bags of bags": (
        {"segment_ids": jnp.zeros(3, jnp.int32), "num_segments": 1}, ValueError, r"go with flat vectors, \(n, dim\)",
    ),
    "numbers": ({"vectors": jnp.ones((3, 4)), "segment_ids": jnp.ones(3), "num_segments": 1}, TypeError, "must be integers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_so(name: str) -> None:
    given, error, message = BAD[name]
    with pytest.raises(error, match=message):
        unhot.jax.pool(**{"vectors": VECTORS, **given})


def test_a_step_of_bags_copies_no_table() -> None:
    rows = 50_000
    start = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    state = unhot.jax.from_array(start, optimizer=unhot.Adam(0.1), out_of_range="zero")

    def step(state: unhot.jax.TableState, ids: Any) -> Any:
        vectors = unhot.jax.lookup(state, ids)
        return unhot.jax.update(state, ids, jax.grad(lambda v: unhot.jax.pool(v, mode="mean").sum())(vectors))

    compiled = jax.jit(step, donate_argnums=0).lower(state, jnp.arange(16).reshape(8, 2)).compile()
    assert_no_copies(compiled.as_text(), rows, 8)

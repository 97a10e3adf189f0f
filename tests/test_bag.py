"""Pooled lookups: sums, means and maxima of bags of ids, against plain NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import DTYPES, ID_DTYPES, LAYOUTS, RULES, assert_bits, trained

import unhot

W = np.array([[1.0, -2.0], [3.0, 4.0], [-5.0, 0.5]])


def pooled(rows: np.ndarray, bags: list[list[int]], weights: list[list[float]] | None, mode: str) -> np.ndarray:
    """The definition, bag by bag, in float64 and rounded once."""
    out = np.zeros((len(bags), rows.shape[1]), rows.dtype)
    for i, bag in enumerate(bags):
        if not bag:
            continue
        vectors = rows[bag].astype(np.float64)
        factors = np.ones(len(bag)) if weights is None else np.array(weights[i], np.float64)
        if mode == "max":
            out[i] = vectors.max(axis=0)
        else:
            total = (vectors * factors[:, None]).sum(axis=0)
            with np.errstate(all="ignore"):
                out[i] = total / factors.sum() if mode == "mean" else total
    return out


@st.composite
def bags(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]], list[list[float]] | None, str]:
    """Rows of a table, bags of any length (0 too), factors for the ids or none, and a mode."""
    rows, dim = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(rows, dim)).astype(draw(st.sampled_from(DTYPES)))
    made = draw(st.lists(st.lists(st.integers(0, rows - 1), max_size=9), max_size=9))
    mode = draw(st.sampled_from(("sum", "mean", "max")))
    factor = st.floats(0.125, 8.0) if mode == "mean" else st.floats(-8.0, 8.0)
    weighted = mode != "max" and draw(st.booleans())
    return values, made, [[draw(factor) for _ in bag] for bag in made] if weighted else None, mode


def flat(made: list[list[int]], dtype: str = "int64") -> tuple[np.ndarray, np.ndarray]:
    """The bags as flat ids and offsets."""
    ends = np.cumsum([0, *map(len, made)])
    return np.array([i for bag in made for i in bag], dtype), ends[:-1].astype(np.uint64)


@given(bags(), st.sampled_from(ID_DTYPES), st.sampled_from(sorted(LAYOUTS)), st.booleans())
def test_bags_of_flat_ids(case: tuple[Any, ...], dtype: str, layout: str, deferred: bool) -> None:
    """Flat ids with offsets, with and without weights, of settled and of deferred rows; the inputs stay as they are."""
    rows, made, weights, mode = case
    table = unhot.Table.from_array(rows, optimizer=unhot.Adam(0.1))
    if deferred:
        table.step([0], np.ones((1, table.dim), table.dtype))
        table.step()
        rows = table.lookup(np.arange(table.rows))
    ids, offsets = flat(made, dtype)
    factors = None if weights is None else np.array([w for bag in weights for w in bag])
    inputs = [None if a is None else LAYOUTS[layout](a) for a in (ids, offsets, factors)]
    before = [None if a is None else a.tobytes() for a in inputs]
    found = table.bag(inputs[0], offsets=inputs[1], weights=inputs[2], mode=mode)
    assert found.dtype == rows.dtype
    precision = 1e-6 if rows.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(found, pooled(rows, made, weights, mode), rtol=precision, atol=precision)
    assert before == [None if a is None else a.tobytes() for a in inputs]


@given(st.data(), st.sampled_from(("sum", "mean", "max")), st.sampled_from(sorted(LAYOUTS)))
def test_bags_in_two_dimensions(data: st.DataObject, mode: str, layout: str) -> None:
    """(bags, length) ids are bags of one length each, which may be 0."""
    count, length = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
    ids = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count * length, max_size=count * length)), np.int16)
    ids = ids.reshape(count, length)
    found = unhot.Table.from_array(W).bag(LAYOUTS[layout](ids), mode=mode)
    np.testing.assert_allclose(found, pooled(W, ids.tolist(), None, mode), rtol=1e-15)
    assert found.shape == (count, 2)


def test_sums_are_rounded_once() -> None:
    """A float32 sum that loses its small terms in float32 arithmetic is right to the last bit."""
    rows = np.array([[1e8], [1.0], [-1e8], [0.125]], np.float32)
    table = unhot.Table.from_array(rows)
    assert table.bag([[0, 1, 2, 3]])[0, 0] == np.float32(1.125)
    assert table.bag([[0, 1, 2, 3]], mode="mean")[0, 0] == np.float32(0.28125)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_empty_bags_are_zero(mode: str) -> None:
    """A bag without ids is 0, wherever it stands, also where the maximum of others is negative; so are bags of length 0."""
    table = unhot.Table.from_array(W)
    found = table.bag([2, 0], offsets=[0, 0, 1, 1, 2, 2], mode=mode)
    np.testing.assert_array_equal(found, [[0, 0], W[2], [0, 0], W[0], [0, 0], [0, 0]])
    assert_bits(table.bag(np.zeros((3, 0), int), mode=mode), np.zeros((3, 2)))
    assert_bits(table.bag([], offsets=[0, 0], mode=mode), np.zeros((2, 2)))
    assert_bits(table.bag([], offsets=[], mode=mode), np.zeros((0, 2)))
    assert_bits(table.bag(np.zeros((0, 4), int), mode=mode), np.zeros((0, 2)))


def test_weights() -> None:
    """Integers and float32 are weights too; a mean divides by the bag's sum of them."""
    table = unhot.Table.from_array(W)
    np.testing.assert_array_equal(table.bag([[0, 1]], weights=[[2, 3]]), [2 * W[0] + 3 * W[1]])
    weights = np.array([[1, 3]], np.float32)
    np.testing.assert_array_equal(table.bag([[0, 1]], weights=weights, mode="mean"), [(W[0] + 3 * W[1]) / 4])


def test_a_spoiled_row_spoils_its_bags_only() -> None:
    """NaN in a row is NaN in the sum, mean and maximum of the bags that hold it."""
    rows = W.copy()
    rows[1, 0] = np.nan
    table = unhot.Table.from_array(rows)
    for mode in ("sum", "mean", "max"):
        found = table.bag([[0, 1], [1, 0], [0, 2]], mode=mode)
        np.testing.assert_array_equal(np.isnan(found), [[True, False], [True, False], [False, False]])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_bags_of_deferred_rows(rule: str, dtype: str, mode: str) -> None:
    """Bags of rows with deferred steps have the bits of bags of the settled rows."""
    table = trained(rule, dtype=dtype)
    settled = unhot.Table.from_array(table.lookup(np.arange(table.rows)))
    ids, offsets = [3, 3, 8, 0, 1, 2, 8], [0, 0, 3, 4]
    assert_bits(table.bag(ids, offsets=offsets, mode=mode), settled.bag(ids, offsets=offsets, mode=mode))
    assert_bits(table.bag([[1, 1], [8, 0]], mode=mode), settled.bag([[1, 1], [8, 0]], mode=mode))


def test_out_of_range_in_bags() -> None:
    """Under "zero" an unknown id is a zero vector, which counts; under a row number it is that row; else an error."""
    bags = [[0, 7], [-1, 2], [9, 9]]
    zero, row = (unhot.Table.from_array(W, out_of_range=policy, optimizer=unhot.Adam(0.1)) for policy in ("zero", 1))
    for _ in range(2):
        rows = np.concatenate([zero.lookup([0, 1, 2]), [[0.0, 0.0]]])
        for mode in ("sum", "mean", "max"):
            expected = pooled(rows, [[0, 3], [3, 2], [3, 3]], None, mode)
            np.testing.assert_allclose(zero.bag(bags, mode=mode), expected, rtol=1e-15)
            assert_bits(row.bag(bags, mode=mode), row.bag([[0, 1], [1, 2], [1, 1]], mode=mode))
        zero.step([0], [[1.0, 1.0]])
        row.step([0], [[1.0, 1.0]])
    with pytest.raises(IndexError, match=r"id 7 at position \(0, 1\) is out of range: the table has rows 0 to 2"):
        unhot.Table.from_array(W).bag(bags)


@pytest.mark.parametrize("layout", ["as it is", "Fortran order", "every other", "reversed", "unaligned"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bags_into_out(dtype: str, layout: str) -> None:
    """`out` in any layout gets what a call without it returns, empty bags too, and is itself returned."""
    table = unhot.Table.from_array(W.astype(dtype), out_of_range="zero")
    for ids in ([0, 1, 2, 2], [0, 1, 2, 99]):
        expected = table.bag(ids, offsets=[0, 2, 2])
        out = LAYOUTS[layout](np.full((3, 2), np.nan, dtype))
        assert table.bag(ids, offsets=[0, 2, 2], out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_out_may_share_memory_with_the_weights() -> None:
    """The weights and ids are read before they are overwritten."""
    table = unhot.Table.from_array(np.random.default_rng(0).normal(size=(50, 1)))
    ids = np.random.default_rng(1).integers(0, 50, size=400)
    weights = np.random.default_rng(2).normal(size=401)
    expected = table.bag(ids, offsets=np.arange(400), weights=weights[:-1].copy())
    assert_bits(table.bag(ids, offsets=np.arange(400), weights=weights[:-1], out=weights[1:, None]), expected)
    expected = table.bag(ids.copy(), offsets=np.arange(399))
    assert_bits(table.bag(ids, offsets=np.arange(399), out=ids.view(np.float64)[1:, None]), expected)


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one dimension, no offsets": (
        {"ids": [0, 1]},
        ValueError,
        r"\(bags, length\), or flat with .* shape \(2,\)",
    ),
    "three dimensions": ({"ids": [[[0]]]}, ValueError, r"Received: shape \(1, 1, 1\)"),
    "two dimensions and offsets": (
        {"ids": [[0]], "offsets": [0]},
        ValueError,
        r"flat ids.*\(1,\) and \(1, 1\)",
    ),
    "offsets in two dimensions": ({"ids": [0], "offsets": [[0]]}, ValueError, "`offsets` go with flat ids and are flat"),
    "first offset": ({"ids": [0, 1], "offsets": [1]}, ValueError, r"begin with 0, never fall, .* ids, 2\. Received: \[1\]"),
    "negative offset": ({"ids": [0, 1], "offsets": [-1, 0]}, ValueError, "begin with 0"),
    "falling offsets": ({"ids": [0, 1], "offsets": [0, 2, 1]}, ValueError, "never fall"),
    "offset beyond the ids": ({"ids": [0, 1], "offsets": [0, 3]}, ValueError, "at or before the number of ids, 2"),
    "huge offset": ({"ids": [0], "offsets": np.array([0, 2**63], np.uint64)}, ValueError, "at or before the number of ids"),
    "offset beyond 64 bits": ({"ids": [0], "offsets": [0, 2**70]}, ValueError, "at or before the number of ids"),
    "no offsets for some ids": ({"ids": [0, 1], "offsets": []}, ValueError, "`offsets` is empty, so no bag holds the 2 ids"),
    "offsets of floats": ({"ids": [0], "offsets": [0.0]}, TypeError, "`offsets` must be integers. Received: dtype float64"),
    "weights' shape": (
        {"ids": [[0, 1]], "weights": [1.0, 2.0]},
        ValueError,
        r"the ids, \(1, 2\)\. Received: shape \(2,\)",
    ),
    "weights of booleans": ({"ids": [[0, 1]], "weights": [[True, False]]}, ValueError, "`weights` must be real.* dtype bool"),
    "complex weights": ({"ids": [[0]], "weights": [[1j]]}, ValueError, "dtype complex128"),
    "masked weights": (
        {"ids": [[0]], "weights": np.ma.array([[1.0]], mask=[[True]])},
        TypeError,
        "has masked entries",
    ),
    "weights with max": ({"ids": [[0]], "weights": [[1.0]], "mode": "max"}, ValueError, "`weights` do not go with mode='max'"),
    "mode": ({"ids": [[0]], "mode": "median"}, ValueError, "`mode` must be 'sum', 'mean' or 'max'. Received: 'median'"),
    "ids of floats": ({"ids": [[0.0]]}, TypeError, "`ids` must be integers. Received: dtype float64"),
    "out": ({"ids": [[0]], "out": np.empty(2)}, ValueError, r"`out` must be a writeable array of shape \(1, 2\)"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    """Each argument that does not fit is refused by an error that says what, what was received, and what fits."""
    arguments, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        unhot.Table.from_array(W).bag(**arguments)

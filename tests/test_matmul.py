"""x @ weights, for one-hot, soft and sparse x, against the product in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from snapshots import DTYPES, LAYOUTS, RULES, assert_bits, trained

import unhot

W = np.array([[1.0, -2.0], [3.0, 4.0], [-5.0, 0.5]])


@st.composite
def products(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and rows of which many entries are 0."""
    n, rows, dim = draw(st.integers(0, 7)), draw(st.integers(1, 30)), draw(st.integers(1, 20))
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    x = generator.normal(size=(n, rows)) * (generator.random((n, rows)) < draw(st.sampled_from((0.0, 0.1, 0.5, 1.0))))
    weights = generator.normal(size=(rows, dim))
    dtype = draw(st.sampled_from(DTYPES))
    return weights.astype(dtype), x.astype(draw(st.sampled_from((*DTYPES, "float16"))))


def close(found: np.ndarray, x: np.ndarray, weights: np.ndarray) -> None:
    """`found` has the weights' dtype and is x @ weights within the rounding of that dtype."""
    assert found.dtype == weights.dtype
    precision = 1e-6 if weights.dtype == np.float32 else 1e-13
    exact = x.astype(np.float64) @ weights.astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=precision, atol=precision)


@given(products(), st.sampled_from(sorted(LAYOUTS)))
def test_soft_rows(case: tuple[np.ndarray, np.ndarray], layout: str) -> None:
    """Dense x of any float dtype and layout."""
    weights, x = case
    laid = LAYOUTS[layout](x)
    before = laid.tobytes()
    close(unhot.Table.from_array(weights).matmul(laid), x, weights)
    assert laid.tobytes() == before


@pytest.mark.parametrize("kind", ["csr_array", "csr_matrix", "csc_array", "coo_array", "lil_array", "dok_array", "bsr_array"])
@given(case=products())
def test_sparse(kind: str, case: tuple[np.ndarray, np.ndarray]) -> None:
    """SciPy's formats, arrays and matrices."""
    weights, x = case
    x = x.astype(np.float32)
    close(unhot.Table.from_array(weights).matmul(getattr(scipy.sparse, kind)(x)), x, weights)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_hot_rows_are_lookups(dtype: str) -> None:
    """One-hot rows of floats, integers and booleans, dense or sparse, give the bits of a lookup."""
    weights = np.random.default_rng(0).normal(size=(20, 7)).astype(dtype)
    table = unhot.Table.from_array(weights)
    ids = np.random.default_rng(1).integers(0, 20, size=50)
    for kind in (np.float32, np.float64, np.int8, np.uint64, bool):
        one_hot = np.eye(20, dtype=kind)[ids]
        assert_bits(table.matmul(one_hot), table[ids])
        assert_bits(table.matmul(scipy.sparse.csr_array(one_hot)), table[ids])
    assert_bits(table.matmul(np.eye(20)[ids].tolist()), table[ids])


def test_multi_hot_rows_are_bags() -> None:
    """Rows of several ones are sums of bags."""
    x = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]])
    table = unhot.Table.from_array(W)
    assert_bits(table.matmul(x), table.bag([1, 2, 0, 2], offsets=[0, 2, 4]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_deferred_rows(rule: str, dtype: str) -> None:
    """Products with rows that have deferred steps have the bits of products with the settled rows."""
    table = trained(rule, dtype=dtype)
    settled = unhot.Table.from_array(table.lookup(np.arange(table.rows)))
    x = np.random.default_rng(0).normal(size=(4, table.rows))
    x[1] = 0
    assert_bits(table.matmul(x), settled.matmul(x))
    assert_bits(table.matmul(scipy.sparse.csr_array(x)), settled.matmul(x))


def test_weights_multiplied_by_zero_are_not_read() -> None:
    """NaN and infinity in a row do not matter where its factor is 0, stored or not."""
    weights = W.copy()
    weights[1] = np.nan, np.inf
    table = unhot.Table.from_array(weights)
    x = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    stored = scipy.sparse.csr_array((x.reshape(-1), np.tile(np.arange(3), 3), np.arange(0, 10, 3)), shape=(3, 3))
    assert stored.nnz == 9
    expected = [W[0] + 2 * W[2], [0, 0], W[2]]
    np.testing.assert_array_equal(table.matmul(x), expected)
    np.testing.assert_array_equal(table.matmul(stored), expected)


def test_sparse_as_scipy_allows_it() -> None:
    """Unsorted and repeated entries, 64-bit indices, and arrays longer than the entries they hold."""
    data, columns, starts = np.array([1.0, 2.0, 4.0, 99.0]), np.array([2, 0, 2, 77]), np.array([0, 3, 3])
    x = scipy.sparse.csr_array((data[:3], columns[:3], starts), shape=(2, 3))
    x.data, x.indices = data, columns
    np.testing.assert_array_equal(unhot.Table.from_array(W).matmul(x), [5 * W[2] + 2 * W[0], [0, 0]])
    x.indices, x.indptr = columns.astype(np.int64), starts.astype(np.int64)
    np.testing.assert_array_equal(unhot.Table.from_array(W).matmul(x), [5 * W[2] + 2 * W[0], [0, 0]])


def test_spoiled_factors_spoil_their_rows_only() -> None:
    """NaN and infinity in x count as in a product."""
    found = unhot.Table.from_array(W).matmul([[np.nan, 0, 0], [0, np.inf, 0], [1, 0, 0]])
    np.testing.assert_array_equal(found, [[np.nan, np.nan], [np.inf, np.inf], W[0]])


def broken(**parts: Any) -> scipy.sparse.csr_array:
    """A CSR array whose arrays were replaced after SciPy had checked them."""
    x = scipy.sparse.csr_array(np.eye(3))
    for name, value in parts.items():
        setattr(x, name, np.array(value))
    return x


ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "one dimension": (np.ones(3), ValueError, r"`x` must have shape \(n, 3\), .* Received: shape \(3,\)"),
    "three dimensions": (np.ones((1, 1, 3)), ValueError, r"Received: shape \(1, 1, 3\)"),
    "columns": (np.ones((2, 4)), ValueError, r"one column for each row of the table. Received: shape \(2, 4\)"),
    "sparse columns": (scipy.sparse.csr_array(np.ones((2, 2))), ValueError, r"Received: shape \(2, 2\)"),
    "ragged": ([[1, 0, 0], [1]], ValueError, "`x` must be one rectangular array"),
    "complex": (np.ones((2, 3), complex), TypeError, "`x` must be real numbers. Received: dtype complex128"),
    "sparse complex": (scipy.sparse.csr_array(np.ones((2, 3), complex)), TypeError, "dtype complex128"),
    "strings": ([["a", "b", "c"]], TypeError, "`x` must be real numbers. Received: dtype <U1"),
    "objects": (np.ones((2, 3), object), TypeError, "dtype object"),
    "masked": (np.ma.array(np.ones((1, 3)), mask=[[1, 0, 0]]), TypeError, "`x` has masked entries"),
    "column too large": (broken(indices=[0, 3, 2]), ValueError, "not a CSR matrix: its entry 1 is in column 3 of 3"),
    "column negative": (broken(indices=[0, 1, -1]), ValueError, "its entry 2 is in column -1 of 3"),
    "falling starts": (broken(indptr=[0, 2, 1, 3]), ValueError, "its indptr must rise from 0 to at most 3"),
    "first start": (broken(indptr=[1, 1, 2, 3]), ValueError, "its indptr must rise from 0"),
    "starts beyond the entries": (broken(indptr=[0, 1, 2, 4]), ValueError, "to at most 3"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    """What is no matrix for this table is refused; indices that nobody checked are never followed out of the table."""
    x, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        unhot.Table.from_array(W).matmul(x)

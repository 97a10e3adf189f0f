"""Lookups: the vectors that one-hot x Dense gives, for any ids, into any `out`, without ever writing the table."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from snapshots import DTYPES, ID_DTYPES, LAYOUTS, RULES, assert_bits, assert_held, held, stream, trained

import unhot

W = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 0.0, 0.1, 0.2]]


def one_hot_product(weights: np.ndarray, ids: Any) -> np.ndarray:
    """One-hot rows times the weights, in float64: exact, since each sum has one term that is not 0."""
    flat = np.asarray(ids).astype(object).reshape(-1).astype(np.int64)
    rows = np.zeros((len(flat), len(weights)))
    rows[np.arange(len(flat)), flat] = 1.0
    return (rows @ weights.astype(np.float64)).reshape(*np.shape(ids), weights.shape[1])


def test_worked_example() -> None:
    """The example that the README begins with."""
    table = unhot.Table.from_array(W)
    expected = [W[0], W[2], W[1], W[2]]
    np.testing.assert_array_equal(table.lookup([0, 2, 1, 2]), expected)
    np.testing.assert_array_equal(table[[0, 2, 1, 2]], expected)
    np.testing.assert_array_equal(table.matmul(np.eye(3)[[0, 2, 1, 2]]), expected)


@st.composite
def lookups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, str]:
    """Weights, ids of any integer dtype and shape, and how the ids lie in memory."""
    rows, dim = draw(st.integers(1, 200)), draw(st.integers(1, 20))
    weights = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(rows, dim)).astype(draw(st.sampled_from(DTYPES)))
    dtype = np.dtype(draw(st.sampled_from(ID_DTYPES)))
    top = min(rows - 1, np.iinfo(dtype).max)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    ids = draw(hnp.arrays(dtype, shape, elements=st.integers(0, top)))
    return weights, ids, draw(st.sampled_from(sorted(LAYOUTS)))


@given(lookups())
def test_lookup_is_take_and_one_hot_product(case: tuple[np.ndarray, np.ndarray, str]) -> None:
    """Any integer dtype, shape (empty and 0-d too) and memory layout: the bits of numpy.take, and the one-hot product."""
    weights, ids, layout = case
    given_ids = LAYOUTS[layout](ids)
    before = given_ids.tobytes()
    found = unhot.Table.from_array(weights).lookup(given_ids)
    assert type(found) is np.ndarray
    assert_bits(found, np.take(weights, ids.astype(np.int64), axis=0))
    np.testing.assert_array_equal(found, one_hot_product(weights, ids))
    assert given_ids.tobytes() == before


@given(lookups())
def test_lookup_into_out(case: tuple[np.ndarray, np.ndarray, str]) -> None:
    """`out` in any writeable layout gets what a lookup without it returns, and is itself returned."""
    weights, ids, layout = case
    table = unhot.Table.from_array(weights)
    expected = table.lookup(ids)
    if layout in ("read-only", "byte-swapped"):
        layout = "as it is"
    out = LAYOUTS[layout](np.full(expected.shape, np.nan, expected.dtype))
    assert table.lookup(ids, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), expected)


@pytest.mark.parametrize(
    "ids", [2, np.int8(2), np.uint64(2), np.array(2), [[2], [0]], ((2, 0), (1, 1)), [], [[], []], range(3)]
)
def test_ids_of_every_kind(ids: Any) -> None:
    """Numbers, nested lists and tuples, empty lists, ranges: what NumPy makes an integer array of, and the empty ones."""
    weights = np.array(W)
    expected = weights[np.asarray(ids, dtype=np.int64)]
    assert_bits(unhot.Table.from_array(W).lookup(ids), expected)
    assert_bits(unhot.Table.from_array(W)[ids], expected)


def test_ids_of_object_arrays_and_matrices() -> None:
    """Python integers in an object array are ids; np.matrix and a masked array without masked entries are their values."""
    table = unhot.Table.from_array(W)
    assert_bits(table[np.array([2, 0], dtype=object)], table[[2, 0]])
    assert_bits(table[np.array([[2, 0]]).view(np.matrix)], table[[[2, 0]]])
    assert_bits(table[np.ma.array([2, 0], mask=[False, False])], table[[2, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_lookups_on_several_threads(dtype: str) -> None:
    """Outputs of more than 8 MB, also into memory that is aligned to its elements only: the same bits."""
    weights = np.random.default_rng(0).normal(size=(5000, 33)).astype(dtype)
    ids = np.random.default_rng(1).integers(0, 5000, size=100_000)
    table = unhot.Table.from_array(weights)
    expected = weights[ids]
    assert_bits(table[ids], expected)
    for start in (1, 3):
        out = np.empty(expected.size + 3, dtype)[start : start + expected.size].reshape(expected.shape)
        assert_bits(table.lookup(ids, out=out), expected)


def test_out_may_share_memory_with_the_ids() -> None:
    """The ids are read before they are overwritten, whatever `out` covers."""
    weights = np.random.default_rng(0).normal(size=(50, 1))
    table = unhot.Table.from_array(weights, optimizer=unhot.Adam(0.1))
    for _ in range(2):
        memory = np.random.default_rng(1).integers(0, 50, size=5000)
        expected = table[memory.copy()]
        shifted = memory.view(np.float64)[1:, None]
        assert_bits(table.lookup(memory[:-1], out=shifted), expected[:-1])
        table.step([3], [[1.0]])


@pytest.mark.parametrize(
    "out",
    [np.empty((2, 4), np.float32), np.empty((4, 2)), np.empty((2, 4), ">f8"), [[0.0] * 4] * 2, np.broadcast_to(0.0, (2, 4))],
    ids=["dtype", "shape", "byte order", "a list", "read-only"],
)
def test_unusable_out(out: Any) -> None:
    """The error says what `out` must be and what was received; nothing is written."""
    table = unhot.Table.from_array(W)
    before = pickle.dumps(out)
    with pytest.raises(ValueError, match=r"`out` must be a writeable array of shape \(2, 4\) and dtype float64\. Received: "):
        table.lookup([0, 1], out=out)
    assert pickle.dumps(out) == before


def test_bad_ids_leave_out_alone() -> None:
    """Ids are checked before anything is written."""
    out = np.full((2, 4), 7.0)
    with pytest.raises(IndexError):
        unhot.Table.from_array(W).lookup([0, 3], out=out)
    assert (out == 7.0).all()


@pytest.mark.parametrize("dtype", ID_DTYPES)
def test_out_of_range_policies(dtype: str) -> None:
    """Under "zero" they are zero vectors, under a row number that row: too large ids of every dtype, and negative ones."""
    top = np.iinfo(dtype).max
    ids = np.array([[0, 2, 3], [top, np.iinfo(dtype).min, 1]], dtype)
    known = (ids >= 0) & (ids.astype(object) < 3)
    rows = np.where(known, ids, 0).astype(np.int64)
    zero = unhot.Table.from_array(W, out_of_range="zero")
    np.testing.assert_array_equal(zero[ids], np.array(W)[rows] * known[..., None])
    row = unhot.Table.from_array(W, out_of_range=1)
    np.testing.assert_array_equal(row[ids], np.array(W)[np.where(known, rows, 1)])


def test_out_of_range_beyond_64_bits() -> None:
    """Python integers of any size are out of range like any other."""
    ids = [1, 2**63, -(2**63) - 1, 2**64, 10**30, -1]
    np.testing.assert_array_equal(unhot.Table.from_array(W, out_of_range="zero")[ids], [W[1], *[[0.0] * 4] * 5])
    np.testing.assert_array_equal(unhot.Table.from_array(W, out_of_range=2)[ids], [W[1], *[W[2]] * 5])


@pytest.mark.parametrize("rule", RULES)
def test_out_of_range_in_deferred_rows(rule: str) -> None:
    """The policies hold where rows have deferred steps, with and without `out`."""
    table = trained(rule)
    rows = table.lookup(np.arange(table.rows))
    table.out_of_range = "zero"
    expected = np.stack([rows[4], np.zeros_like(rows[4]), np.zeros_like(rows[4])])
    assert_bits(table.lookup([4, 99, -1], out=np.empty((3, table.dim), table.dtype)), expected)
    table.out_of_range = 8
    assert_bits(table.lookup([4, 99, -1]), rows[[4, 8, 8]])


def test_policy_is_checked_when_assigned() -> None:
    """An unusable policy is refused at once, and the one before it stays."""
    table = unhot.Table.from_array(W, out_of_range="zero")
    for bad in ("ignore", 3, -1, True, None, 1.0):
        with pytest.raises(ValueError, match=r"must be 'raise', 'zero' or a row number in \[0, 3\)\. Received: "):
            table.out_of_range = bad
        assert table.out_of_range == "zero"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_lookups_never_write(rule: str, dtype: str) -> None:
    """Weights, slots, last touches and clock are byte-identical after any number of reads of deferred rows."""
    table = trained(rule, dtype=dtype)
    before = held(table)
    first = table.lookup(np.arange(table.rows))
    for _ in range(3):
        for ids in ([0], [[1, 1], [8, 0]], np.arange(table.rows), []):
            table.lookup(ids)
            table.lookup(ids, out=np.empty((*np.shape(ids), table.dim), dtype))
        for mode in ("sum", "mean", "max"):
            table.bag([[1, 1], [8, 0]], mode=mode)
            table.bag([3, 8, 8], offsets=[0, 0, 1], mode=mode)
        table.matmul(np.eye(table.rows))
    assert_held(table, before)
    assert_bits(table.lookup(np.arange(table.rows)), first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_training_does_not_depend_on_reads(rule: str, dtype: str) -> None:
    """Training with extra lookups between the steps gives identical bits."""
    quiet, busy = (unhot.Table(9, 3, optimizer=RULES[rule](), dtype=dtype, seed=1) for _ in range(2))
    generator = np.random.default_rng(3)
    for ids, grads in stream(9, 3, 40, 2, dtype):
        quiet.step(ids, grads)
        busy.lookup(ids)
        busy.step(ids, grads)
        for _ in range(generator.integers(0, 3)):
            busy.lookup(generator.integers(0, 9, size=5))
            busy.bag(generator.integers(0, 9, size=(2, 2)))
            busy.matmul(np.eye(9))
    assert_held(busy, held(quiet))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_a_lookup_shows_what_settling_writes(rule: str, dtype: str) -> None:
    """The bits that a lookup shows of deferred rows are those that `settle` writes, and the ones in `array`."""
    table = trained(rule, dtype=dtype, steps=20)
    shown = table.lookup(np.arange(table.rows))
    for row in range(table.rows):
        assert_bits(table[row], shown[row])
    table.settle([3, 8, 3])
    assert_bits(table.lookup(np.arange(table.rows)), shown)
    assert_bits(table.array, shown)
    assert_bits(table.lookup(np.arange(table.rows)), shown)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_an_array_of_ids_may_be_used_again(rule: str) -> None:
    """Ids that the caller changes in place between calls are read anew by each, in lookups, bags and steps."""
    table, other = trained(rule), trained(rule)
    ids = np.array([1, 2, 3])
    for _ in range(3):
        assert_bits(table.lookup(ids), table.lookup(ids.tolist()))
        assert_bits(table.bag(ids[None]), table.bag([ids.tolist()]))
        ids += 1
        assert_bits(table.lookup(ids), other.lookup(ids.tolist()))
        ids -= 2
        table.step(ids, np.ones((3, 3)))
        other.step(ids.tolist(), np.ones((3, 3)))
        ids += 2
    assert_held(table, held(other))


def test_results_are_not_windows_into_the_table() -> None:
    """What was looked up, the array and what the table was made from can be changed without changing the table."""
    source = np.array(W)
    table = unhot.Table.from_array(source)
    before = held(table)
    source += 1.0
    table.array[:] = 5.0
    table[[0, 1, 2]][:] = 5.0
    table[1][:] = 5.0
    table.bag([[1]])[:] = 5.0
    for row in table:
        row[:] = 5.0
    assert_held(table, before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_from_array_takes_any_layout(layout: str, dtype: str) -> None:
    """The weights are copied in native byte order, C order and the given precision."""
    source = np.arange(12, dtype=dtype).reshape(4, 3)
    table = unhot.Table.from_array(LAYOUTS[layout](source))
    assert_bits(table.array, source)
    assert table.dtype == np.dtype(dtype)


def test_as_a_sequence() -> None:
    """len, iteration (which ends also where no id raises) and repr."""
    table = unhot.Table.from_array(W, out_of_range="zero")
    assert len(table) == 3
    np.testing.assert_array_equal(list(table), W)
    assert repr(table) == "Table(3, 4, optimizer=None, dtype='float64')"


def test_initial_weights() -> None:
    """Each `init` by its definition; one seed gives one table."""
    shape = (400, 50)
    uniform, normal, zeros = (unhot.Table(*shape, init=init, seed=3).array for init in ("uniform", "normal", "zeros"))
    assert uniform.min() >= np.float32(-0.05)
    assert uniform.max() < np.float32(0.05)
    assert abs(uniform.mean()) < 0.001
    assert abs(normal.std() - 0.05) < 0.001
    assert not zeros.any()
    assert_bits(unhot.Table(*shape, seed=3).array, uniform)
    assert (unhot.Table(*shape, seed=4).array != uniform).any()
    given_weights = np.arange(20_000, dtype=">f8").reshape(shape, order="F")
    made = unhot.Table(*shape, init=lambda got: given_weights if got == shape else None)
    assert_bits(made.array, given_weights.astype(np.float32))


def test_a_table_as_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """`np.asarray` gives the settled weights at once, not row by row; what a table is cannot be assigned."""
    table = unhot.Table(30, 4, optimizer=unhot.Adam(0.1), seed=0)
    for i in range(5):
        table.step([i, 7], np.ones((2, 4)))
    assert (table.shape, table.rows, table.dim, table.dtype) == ((30, 4), 30, 4, np.float32)
    monkeypatch.setattr(unhot.Table, "__getitem__", None)
    for found in (np.asarray(table), np.array(table), np.asarray(table, "float64")):
        np.testing.assert_array_equal(found, table.array)
    assert np.asarray(table, "float64").dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        table.__array__(copy=False)
    for name in ("rows", "dim", "dtype", "shape", "array", "clock"):
        with pytest.raises(AttributeError):
            setattr(table, name, 100)

"""Numbers in lines of text: what the native parser makes of them, and the one in Python, and that both follow `float`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import assert_bits

import unhot
from unhot import kernels
from unhot.formats import text
from unhot.kernels import reference

NATIVE = importlib.import_module("unhot.kernels.native") if kernels.name.startswith("native") else None

DECIMALS = st.one_of(
    st.floats(width=32).map(repr),
    st.floats().map(repr),
    st.floats(-10, 10).map(lambda x: f"{x:.5f}"),
    st.floats(-10, 10).map(lambda x: f"{x:.3e}"),
    st.integers(-(10**20), 10**20).map(str),
    st.from_regex(r"[+-]?[0-9]{0,22}\.?[0-9]{0,22}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(
        [
            "nan",
            "-inf",
            "Infinity",
            "1_0",
            "0x1p3",
            "",
            "-",
            ".",
            "1e",
            "1e+",
            "٣",
            "1e400",
            "-0",
            "9007199254740993",
            "1e22",
            "1e23",
        ]
    ),
)


@pytest.mark.skipif(NATIVE is None, reason="there are no native kernels")
@settings(max_examples=300)
@given(st.data())
def test_native_lines_are_those_of_python(data: st.DataObject) -> None:
    """Rows, places of keys, numbers to the last bit and where it stops: the native parser and the one in Python agree."""
    dim = data.draw(st.integers(1, 4))
    spaced, keyless = data.draw(st.booleans()), data.draw(st.booleans())
    mark = data.draw(st.sampled_from([" ", "\t"]))
    key = st.text(alphabet="ab \t.1-é", max_size=4)
    fields = st.lists(DECIMALS, min_size=dim, max_size=dim)
    odd_fields = st.lists(DECIMALS, max_size=dim + 2)
    line = st.tuples(key, st.one_of(fields, fields, odd_fields), st.sampled_from(["", mark, "\r", mark + "\r", mark * 2]))
    lines = data.draw(st.lists(line, max_size=6))
    content = "".join((("" if keyless else k + mark) + mark.join(f) + end + "\n") for k, f, end in lines)
    content += data.draw(st.sampled_from(["", "the", "the 1"]))
    array = np.frombuffer(content.encode(), np.uint8)
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    results = []
    room, odds = data.draw(st.integers(0, 7)), data.draw(st.integers(dim, 20))
    for parse in (NATIVE.parse_lines, reference.parse_lines):  # type: ignore[union-attr]
        numbers, keys, odd = np.zeros((room, dim), dtype), np.zeros((room, 2), np.int64), np.zeros((odds, 4), np.int64)
        with np.errstate(over="ignore"):
            rows, consumed, found, ragged = parse(array, ord(mark), keyless, spaced, numbers, keys, odd)
            bad = set()
            for at, column, start, stop in odd[:found].tolist():
                value = text.number(array[start:stop].tobytes())
                bad.add((at, column)) if value is None else numbers.__setitem__((at, column), value)
        full = found + dim > odds  # of numbers that only one of them leaves to the caller
        results.append((full, (rows, consumed, ragged, bad, keys[:rows].tolist(), numbers[:rows])))
    if not any(full for full, _ in results):
        for first, second in zip(results[0][1], results[1][1], strict=True):
            assert np.array_equal(first, second, equal_nan=True) if isinstance(first, np.ndarray) else first == second
        native, python = (np.signbit(found[-1]).tolist() for _, found in results)
        assert native == python


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=200)
@given(
    st.lists(st.one_of(st.floats().map(repr), st.floats(-9, 9).map(lambda x: f"{x:.6f}"), DECIMALS), min_size=1, max_size=30)
)
def test_numbers_are_pythons(dtype: str, numbers: list[str]) -> None:
    """Each is what `float` makes of it, rounded to the dtype; what is none is refused, also if `float` would take it."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"unhot-{os.getpid()}.glove"
    plain = [number for number in numbers if text.number(number.encode()) is not None]
    try:
        if plain:
            path.write_text("".join(f"key{i} {number}\n" for i, number in enumerate(plain)))
            with np.errstate(over="ignore"):
                expected = np.array([float(number) for number in plain]).astype(dtype)
            assert_bits(unhot.read_vectors(path, dtype=dtype).vectors[:, 0], expected)
        for number in set(numbers) - set(plain):
            path.write_text(f"key 1\nkey2 {number}\n")
            with pytest.raises(ValueError, match="line 2"):
                unhot.read_vectors(path)
    finally:
        path.unlink(missing_ok=True)

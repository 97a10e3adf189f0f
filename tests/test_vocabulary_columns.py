"""Vocabularies of columns of Arrow, pandas and Polars: the rows are those of the same keys in a list."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_package import run_without

from unhot import Vocabulary

pa = pytest.importorskip("pyarrow")
pytest.importorskip("narwhals")

TEXTS = ["b", None, "é", "", "b", "long enough to lie elsewhere", "a"]
NUMBERS = [3, None, 2**40, -7, 3, 0]
BYTES = [b"\xff", b"", None, b"ab"]


def rows_of(values: list[Any]) -> list[int]:
    """Rows in the order of appearance, as Python counts."""
    seen: dict[Any, int] = {}
    return [seen.setdefault(value, len(seen)) for value in values]


def check(column: Any, values: list[Any]) -> None:
    """Fitted and encoded as the list of the same values."""
    words = Vocabulary(missing="key").fit(column)
    assert list(words) == list(dict.fromkeys(values))
    assert words.encode(column).tolist() == rows_of(values)
    assert words.encode(values).tolist() == rows_of(values)
    grown = Vocabulary(missing="key", unknown="grow")
    assert grown.encode(column).tolist() == rows_of(values)
    reserved = Vocabulary([value for value in dict.fromkeys(values) if value is not None][:1], unknown=0, missing=1)
    known = next(value for value in values if value is not None)
    assert reserved.encode(column).tolist() == [1 if value is None else 2 if value == known else 0 for value in values]


ARROW: dict[str, Callable[[], tuple[Any, list[Any]]]] = {
    "string": lambda: (pa.array(TEXTS), TEXTS),
    "large_string": lambda: (pa.array(TEXTS, pa.large_string()), TEXTS),
    "string_view": lambda: (pa.array(TEXTS).cast(pa.string_view()), TEXTS),
    "sliced": lambda: (pa.array(["x", None, *TEXTS, "y"])[2:-1], TEXTS),
    "chunked": lambda: (pa.chunked_array([TEXTS[:3], [], TEXTS[3:]]), TEXTS),
    "chunked, one": lambda: (pa.chunked_array([["x", *TEXTS]])[1:], TEXTS),
    "binary": lambda: (pa.array(BYTES), BYTES),
    "large_binary": lambda: (pa.array(BYTES, pa.large_binary()), BYTES),
    "binary_view": lambda: (pa.array(BYTES).cast(pa.binary_view()), BYTES),
    "fixed_size_binary": lambda: (pa.array([b"ab", None, b"cd"], pa.binary(2)), [b"ab", None, b"cd"]),
    "int64": lambda: (pa.array(NUMBERS), NUMBERS),
    "int64 sliced": lambda: (pa.array([9, *NUMBERS, 9])[1:-1], NUMBERS),
    "int64 chunked": lambda: (pa.chunked_array([NUMBERS[:2], NUMBERS[2:]]), NUMBERS),
    "uint64": lambda: (pa.array([2**64 - 1, None, 5], pa.uint64()), [2**64 - 1, None, 5]),
    "int8": lambda: (pa.array([-1, None, 5], pa.int8()), [-1, None, 5]),
    "dictionary": lambda: (pa.array(TEXTS).dictionary_encode(), TEXTS),
    "dictionary sliced": lambda: (pa.array(["x", *TEXTS]).dictionary_encode()[1:], TEXTS),
    "dictionary of integers": lambda: (pa.array(NUMBERS).dictionary_encode(), NUMBERS),
    "dictionaries that differ": lambda: (
        pa.chunked_array([pa.array(TEXTS[:3]).dictionary_encode(), pa.array(TEXTS[3:]).dictionary_encode()]), TEXTS),
    "nulls in the dictionary": lambda: (
        pa.DictionaryArray.from_arrays(pa.array([2, 1, 0, 1], pa.int8()), pa.array(["a", None, "b"])), ["b", None, "a", None]),
    "a dictionary with repeats": lambda: (
        pa.DictionaryArray.from_arrays(pa.array([2, 1, 0], pa.int8()), pa.array(["a", "b", "a"])), ["a", "b", "a"]),
    "run ends": lambda: (
        pa.RunEndEncodedArray.from_arrays([2, 3, 5], ["a", "b", "a"]), ["a", "a", "b", "a", "a"]),
    "run ends sliced": lambda: (
        pa.RunEndEncodedArray.from_arrays([2, 3, 5], ["a", None, "b"])[1:4], ["a", None, "b"]),
    "run ends chunked": lambda: (
        pa.chunked_array([pa.RunEndEncodedArray.from_arrays([2, 3], [7, None]) for _ in range(2)]), [7, 7, None, 7, 7, None]),
    "run ends of a dictionary": lambda: (
        pa.RunEndEncodedArray.from_arrays([2, 3, 4], pa.array(["a", "b", None]).dictionary_encode()), ["a", "a", "b", None]),
    "run ends of views": lambda: (
        pa.RunEndEncodedArray.from_arrays([2, 3, 4], pa.array(["a", "b", None]).cast(pa.string_view())), ["a", "a", "b", None]),
    "run ends of uuids": lambda: (
        pa.RunEndEncodedArray.from_arrays([2, 3], pa.array([b"a" * 16, None], pa.uuid())), [b"a" * 16, b"a" * 16, None]),
    "dictionary of views": lambda: (
        pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array(["a", "b"]).cast(pa.string_view())), ["b", None, "a"]),
    "dictionary of uuids": lambda: (
        pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array([b"a" * 16], pa.uuid())), [b"a" * 16, None]),
    "pandas object": lambda: (pd().Series(TEXTS, dtype=object), TEXTS),
    "pandas object, NaN": lambda: (pd().Series([np.nan if x is None else x for x in TEXTS], dtype=object), TEXTS),
    "pandas object, NA": lambda: (pd().Series([pd().NA if x is None else x for x in TEXTS], dtype=object), TEXTS),
    "pandas str": lambda: (pd().Series(TEXTS, dtype="str"), TEXTS),
    "pandas string": lambda: (pd().Series(TEXTS, dtype="string"), TEXTS),
    "pandas string[python]": lambda: (pd().Series(TEXTS, dtype="string[python]"), TEXTS),
    "pandas string[pyarrow]": lambda: (pd().Series(TEXTS, dtype="string[pyarrow]"), TEXTS),
    "pandas Int64": lambda: (pd().Series(NUMBERS, dtype="Int64"), NUMBERS),
    "pandas UInt64": lambda: (pd().Series([2**63, None], dtype="UInt64"), [2**63, None]),
    "pandas int64": lambda: (pd().Series([3, 1, 3]), [3, 1, 3]),
    "pandas int64[pyarrow]": lambda: (pd().Series(NUMBERS, dtype="int64[pyarrow]"), NUMBERS),
    "pandas category": lambda: (pd().Series(TEXTS, dtype="category"), TEXTS),
    "pandas category of integers": lambda: (pd().Series([5, 3, 5], dtype="category"), [5, 3, 5]),
    "pandas Categorical": lambda: (pd().Categorical(TEXTS), TEXTS),
    "pandas array": lambda: (pd().array(TEXTS, dtype="string"), TEXTS),
    "pandas Index": lambda: (pd().Index(TEXTS), TEXTS),
    "pandas CategoricalIndex": lambda: (pd().CategoricalIndex(TEXTS), TEXTS),
    "pandas RangeIndex": lambda: (pd().RangeIndex(3), [0, 1, 2]),
    "pandas Sparse": lambda: (pd().Series([0, 5, 0, 7], dtype="Sparse[int64]"), [0, 5, 0, 7]),
    "pandas Sparse of objects": lambda: (pd().Series(["a", None], dtype="Sparse[object]"), ["a", None]),
    "pandas SparseArray": lambda: (pd().arrays.SparseArray([0, 5, 0]), [0, 5, 0]),
    "polars Int128": lambda: (pl().Series([2**63, -1, None], dtype=pl().Int128), [2**63, -1, None]),
    "polars Object": lambda: (pl().Series(["a", b"b".decode(), None], dtype=pl().Object), ["a", "b", None]),
    "polars String": lambda: (pl().Series(TEXTS), TEXTS),
    "polars Binary": lambda: (pl().Series(BYTES), BYTES),
    "polars Int64": lambda: (pl().Series(NUMBERS), NUMBERS),
    "polars UInt64": lambda: (pl().Series([2**63, None], dtype=pl().UInt64), [2**63, None]),
    "polars Categorical": lambda: (pl().Series(TEXTS, dtype=pl().Categorical), TEXTS),
    "polars Enum": lambda: (pl().Series(["b", None, "a"], dtype=pl().Enum(["a", "b", "c"])), ["b", None, "a"]),
    "polars chunks": lambda: (pl().concat([pl().Series(TEXTS[:3]), pl().Series(TEXTS[3:])], rechunk=False), TEXTS),
    "narwhals": lambda: (importlib.import_module("narwhals").from_native(pa.chunked_array([TEXTS]), series_only=True), TEXTS),
}  # fmt: skip


def pd() -> Any:
    return pytest.importorskip("pandas")


def pl() -> Any:
    return pytest.importorskip("polars")


@pytest.mark.parametrize("kind", ARROW)
def test_columns(kind: str) -> None:
    check(*ARROW[kind]())


@pytest.mark.parametrize("kind", ["dictionary", "pandas category", "polars Categorical"])
def test_only_entries_in_use_count(kind: str) -> None:
    """Entries of a dictionary that no value names are neither looked up nor counted."""
    column, values = ARROW[kind]()
    part = column[3:5]
    words = Vocabulary()
    words.extend(part)
    assert list(words) == values[3:5]
    with pytest.raises(KeyError, match="'long enough to lie elsewhere' at position 2"):
        words.encode(column[3:])


def test_counts_of_a_dictionary() -> None:
    column = pa.array(["a", "b", "b", None, "c", "c", "c", None]).dictionary_encode()
    assert list(Vocabulary(missing=0).fit(column, min_count=2)) == ["b", "c"]
    assert list(Vocabulary(missing="key").fit(column, max_size=2)) == ["b", "c"]
    assert list(Vocabulary(missing="key").fit(column, min_count=2)) == ["b", None, "c"]


def test_many_values_of_a_dictionary() -> None:
    """Against the same values in a list."""
    rng = np.random.default_rng(0)
    entries = [f"key {i}" for i in range(1000)]
    indices = rng.integers(0, 1000, 5000)
    column = pa.DictionaryArray.from_arrays(pa.array(indices, mask=rng.random(5000) < 0.1), pa.array(entries))
    check(column, column.to_pylist())


def test_missing_values_are_named() -> None:
    for column in (pa.array(["a", None]), pa.array(["a", None]).dictionary_encode(), pa.chunked_array([["a"], [None]])):
        with pytest.raises(ValueError, match="missing value at position 1"):
            Vocabulary().fit(column)


def test_columns_without_a_value() -> None:
    """They have no kind, and fit every vocabulary."""
    for words in (Vocabulary([1], missing=0), Vocabulary(["a"], missing=0)):
        nothing = pa.array([None, None], pa.string())
        for column in (nothing, pa.array([None, None]), nothing.dictionary_encode(), pa.array([None, None], pa.int64())):
            assert words.encode(column).tolist() == [0, 0]
        for empty in (pa.array([], pa.string()), pa.array([], pa.int64()), pa.chunked_array([], pa.string()), pa.array([])):
            assert words.encode(empty).shape == (0,)
    words = Vocabulary(missing="key").fit(pa.array([None], pa.string()))
    words.extend([5])
    assert list(words) == [None, 5]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (lambda: pa.array([1.5]), "a column of double.*astype"),
        (lambda: pa.array([True]), "a column of bool"),
        (lambda: pa.array([[1]]), "a column of list"),
        (lambda: pa.array([1.5]).dictionary_encode(), "a column of double"),
        (lambda: pa.array([1], pa.timestamp("s")), "a column of timestamp"),
        (lambda: pa.table({"a": [1], "b": [2]}), "a table of columns: a, b. Give one of them"),
        (lambda: pd().DataFrame({"a": [1], "b": [2]}), "a table of columns: a, b. Give one of them"),
        (lambda: pl().DataFrame({"a": [1], "b": [2]}), "a table of columns: a, b. Give one of them"),
        (lambda: pd().Series([1.5, 2]), "dtype float64"),
        (lambda: pd().Series([1.5, 0], dtype="Sparse[float64]"), "dtype float64"),
        (lambda: pl().Series([object()], dtype=pl().Object), "at position 0, which is no key"),
        (lambda: pa.RunEndEncodedArray.from_arrays([2], [1.5]), "a column of double"),
        (lambda: pd().Series([1, "a"], dtype=object), "1 of type int at position 0, and 'a' of type str at position 1"),
        (lambda: pd().Series(pd().to_datetime(["2020-01-01"])), "dtype datetime64|a column of timestamp"),
    ],
)  # fmt: skip
def test_columns_of_no_keys(column: Callable[[], Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Vocabulary().fit(column())


def test_integers_beyond_64_bits() -> None:
    pl()
    with pytest.raises(ValueError, match=r"the integer 18446744073709551616 at position 1, which 64 bits cannot hold"):
        Vocabulary().fit(pl().Series([1, 2**64], dtype=pl().Int128))


class Refused:
    """A column that Arrow does not take."""

    dtype = "complex256"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __arrow_array__(self, type: object = None) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError])
def test_what_arrow_refuses_is_named(error: type[Exception]) -> None:
    """What, where, and what to do."""
    text = (
        r"`values` is a column of complex256 \(a Refused\), which Arrow cannot read: no\. Cast it to strings, .* or give a list"
    )
    with pytest.raises(TypeError, match=text) as found:
        Vocabulary().fit(Refused(error("no")))
    assert type(found.value) is TypeError


def test_arrow_text_that_is_no_utf8() -> None:
    """An unknown key where it is looked up; an error where it would become a key."""
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff"))
    words = Vocabulary(["a"], unknown=0)
    assert words.encode(broken).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"a string at position 1 that is no UTF-8"):
        words.extend(broken)
    assert list(words) == ["a"]
    with pytest.raises(KeyError, match="at position 1"):
        words.encode(broken, unknown="raise")


def test_scalars_of_arrow() -> None:
    words = Vocabulary(["a", "b"], missing=0)
    assert words.encode(pa.scalar("b")) == 2
    assert pa.scalar("b") in words
    assert words.encode(pa.scalar(None, pa.string())) == 0


class OfArrow:
    """A column that has nothing but Arrow's interface."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        return pa.chunked_array([TEXTS]).__arrow_c_stream__()


def test_whatever_has_the_interface_of_arrow() -> None:
    check(OfArrow(), TEXTS)


@pytest.mark.parametrize("absent", ["pyarrow", "narwhals"])
def test_the_error_names_the_extra(absent: str) -> None:
    code = "import unhot; unhot.Vocabulary(type('Column', (), {'__arrow_c_stream__': None})())"
    done = run_without(code, absent)
    assert done.returncode == 1
    assert f'needs {absent}, which is not installed: pip install "unhot[tables]"' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("absent", ["pyarrow", "narwhals"])
def test_what_numpy_can_read_needs_no_arrow(absent: str) -> None:
    pl()
    code = "import unhot, polars; print(unhot.Vocabulary(polars.Series(['a', 'b'])).encode(polars.Series(['b'])))"
    assert run_without(code, absent).stdout == "[1]\n"


def test_numpy_and_lists_need_no_arrow() -> None:
    code = "import numpy as np, unhot; print(unhot.Vocabulary(np.array(['a', 'b'])).encode(['b', 'a']).tolist())"
    assert run_without(code).stdout == "[1, 0]\n"


def test_integers_that_stand_for_something_else_are_no_keys() -> None:
    """Periods of two frequencies would have the same row."""
    pd = pytest.importorskip("pandas")
    columns = {
        "months": pd.Series(pd.period_range("2020-01", periods=2, freq="M")),
        "years": pd.PeriodIndex(["2570", "2571"], freq="Y"),
        "times": pd.Series(pd.to_datetime(["2020-01-01"])),
        "truths": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
    }
    for column in columns.values():
        with pytest.raises(TypeError, match="must be"):
            Vocabulary(unknown="grow").encode(column)


def test_forms_of_pandas_with_missing_values() -> None:
    """An Index and a Categorical are read as the Series of the same values is."""
    pd = pytest.importorskip("pandas")
    for values in ([3, None, 2**53 + 1], ["b", None, "a"]):
        dtypes = ["Int64", pd.ArrowDtype(pa.int64())] if values[0] == 3 else ["str", "string", pd.ArrowDtype(pa.string())]
        columns = [kind(values, dtype=dtype) for kind in (pd.Series, pd.Index) for dtype in dtypes]
        categories = pd.Categorical(pd.array(values, dtype=dtypes[-1]))
        for column in (*columns, categories, pd.Series(categories), pd.CategoricalIndex(categories)):
            check(column, values)


def test_nothing_but_missing_values() -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    columns = [
        np.array([np.nan]), pa.array([None], pa.float64()), pa.array([None]), pd.Series([None], dtype="Float64"),
        pd.Series([np.nan]), pd.Series(pd.Categorical([None])), pd.Categorical([np.nan]), pl.Series([None], dtype=pl.Float64),
        [pd.NA], [pd.NaT],
    ]  # fmt: skip
    for column in columns:
        assert Vocabulary(missing=0).encode(column).tolist() == [0]
    words = Vocabulary(["a", None], missing="key")
    for alone in (None, float("nan"), pd.NA, pd.NaT):
        assert words.encode(alone) == 1
        assert alone in words
    words.remove(pd.NA)
    assert None not in words
    with pytest.raises(TypeError, match="must be a column of strings"):
        Vocabulary(missing=0).encode(pa.array([None, 1.5]))


def test_bytes_that_could_change_are_no_keys() -> None:
    with pytest.raises(TypeError, match="its type is bytearray"):
        Vocabulary(unknown="grow").encode(bytearray(b"ab"))

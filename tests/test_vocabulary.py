"""Vocabularies: keys of every kind to rows and back, by every policy, as a dict of Python says."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import unhot
from unhot import Vocabulary, keys
from unhot.keys import freed, reference
from unhot.keys.following import Stamp, changes, stamp

MAPS = [reference] if keys.active is reference else [keys.active, reference]


@pytest.fixture(params=MAPS, ids=lambda module: module.__name__.rpartition(".")[2])
def maps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Vocabularies on each of the maps that there are."""
    for module in ("vocabulary", "keys.state", "keys.counting"):
        monkeypatch.setattr(f"unhot.{module}.active", request.param)
    module: ModuleType = request.param
    return module


pytestmark = pytest.mark.usefixtures("maps")

SAMPLES: dict[str, list[Any]] = {
    "str": ["the", "", "cat", "a\0", "é", "日本", "🐈", "e\u0301", "x" * 300, "1", "A", "a"],
    "bytes": [b"the", b"", b"cat", b"a\0", b"\xff\xfe", b"x" * 300, b"1"],
    "int": [0, 1, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 10**18, 255, -5],
}

# ------------------------------------------------------------------ rows and keys


@pytest.mark.parametrize("kind", SAMPLES)
def test_keys_to_rows_and_back(kind: str) -> None:
    """Rows are those of the keys' order, and decode gives the keys."""
    sample = SAMPLES[kind]
    words = Vocabulary(sample)
    assert (words.kind, len(words), words.rows) == (kind, len(sample), len(sample))
    rows = words.encode(sample[::-1])
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, np.arange(len(sample))[::-1])
    assert words.decode(rows).tolist() == sample[::-1]
    assert list(words) == sample
    for row, key in enumerate(sample):
        assert words.encode(key) == row
        assert type(words.encode(key)) is int
        assert words.decode(row) == key
        assert type(words.decode(row)) is type(key)
        assert key in words


def test_shapes_are_kept() -> None:
    words = Vocabulary(["a", "b", "c"])
    np.testing.assert_array_equal(words.encode([["a", "b"], ["c", "a"]]), [[0, 1], [2, 0]])
    np.testing.assert_array_equal(words.encode(np.array([[["c"]], [["a"]]])), [[[2]], [[0]]])
    assert words.encode([]).shape == (0,)
    assert words.encode(np.empty((3, 0), "U1")).shape == (3, 0)
    assert words.encode([[], []]).shape == (2, 0)
    assert words.decode([[0, 1]]).tolist() == [["a", "b"]]
    assert words.decode(np.empty((0, 2), int)).shape == (0, 2)
    np.testing.assert_array_equal(Vocabulary(["a", "b"]).encode([np.array(["a", "b"]), np.array(["b", "b"])]), [[0, 1], [1, 1]])


def test_rows_before_those_of_keys() -> None:
    """Reserved rows, then buckets, then keys; growing moves none."""
    words = Vocabulary(["a", "b"], unknown="hash", buckets=3, missing=1)
    assert (words.reserved, words.buckets, words.rows, len(words)) == (2, 3, 7, 2)
    np.testing.assert_array_equal(words.encode(["a", None, "b"]), [5, 1, 6])
    assert words.encode("c") in (2, 3, 4)
    words.extend(["c"])
    np.testing.assert_array_equal(words.encode(["a", "b", "c"]), [5, 6, 7])
    assert Vocabulary(["a"], reserved=4).encode("a") == 4
    assert Vocabulary(["a"], unknown=0, missing=0).rows == 2
    assert Vocabulary(["a"], unknown=1, reserved=2).encode(["b", "a"]).tolist() == [1, 2]


def test_the_table_takes_the_rows() -> None:
    words = Vocabulary(["a", "b"], unknown=-1)
    table = unhot.Table.from_array([[1.0], [2.0]], out_of_range="zero")
    np.testing.assert_array_equal(table[words.encode(["b", "c", "a"])], [[2.0], [0.0], [1.0]])


# ------------------------------------------------------------------ unknown and missing


def test_unknown_keys_are_named_with_their_position() -> None:
    words = Vocabulary(["a"])
    with pytest.raises(KeyError, match=r"the key 'b' at position 1 is unknown"):
        words.encode(["a", "b", "c"])
    with pytest.raises(KeyError, match=r"the key 'b' at position \(1, 0\) is unknown"):
        words.encode([["a", "a"], ["b", "c"]])
    with pytest.raises(KeyError, match=r"the key 'b' is unknown"):
        words.encode("b")
    with pytest.raises(KeyError, match=r"the key 5 at position 0 is unknown"):
        Vocabulary().encode([5])
    with pytest.raises(KeyError, match=r"80 characters\)|characters\) at position 0"):
        words.encode(["b" * 1000])
    assert list(words) == ["a"]


def test_grow_gives_rows_in_the_order_of_appearance() -> None:
    words = Vocabulary(unknown="grow")
    np.testing.assert_array_equal(words.encode(["b", "a", "b", "c"]), [0, 1, 0, 2])
    assert words.encode("d") == 3
    assert words.encode("a") == 1
    assert list(words) == ["b", "a", "c", "d"]
    with pytest.raises(KeyError):
        words.encode("e", unknown="raise")
    assert words.encode("e", unknown=-1) == -1
    words.unknown = "raise"
    with pytest.raises(KeyError):
        words.encode("e")


MISSING: list[Any] = [None, float("nan"), np.float32("nan"), np.datetime64("NaT"), np.ma.masked]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_missing_values(value: Any) -> None:
    """Refused, a reserved row, a key of their own, or no row."""
    column = ["a", value, "b", value]
    with pytest.raises(ValueError, match=r"`values` has a missing value at position 1"):
        Vocabulary().fit(column)
    with pytest.raises(ValueError, match=r"`keys` has a missing value at position 0"):
        Vocabulary(["a"]).encode([value])
    of_key = Vocabulary(missing="key").fit(column)
    assert list(of_key) == ["a", None, "b"]
    np.testing.assert_array_equal(of_key.encode(column), [0, 1, 2, 1])
    assert of_key.decode([1, 0]).tolist() == [None, "a"]
    assert of_key.decode(1) is None
    assert value in of_key
    of_row = Vocabulary(missing=0, unknown="grow")
    np.testing.assert_array_equal(of_row.encode(column), [1, 0, 2, 0])
    assert list(of_row) == ["a", "b"]
    assert value not in of_row
    np.testing.assert_array_equal(Vocabulary(["a", "b"], missing=-1).encode(column), [0, -1, 1, -1])
    np.testing.assert_array_equal(Vocabulary(["a", "b"], missing="key", unknown=0).encode(column), [1, 0, 2, 0])
    with pytest.raises(KeyError, match="None at position 1"):
        Vocabulary(["a", "b"], missing="key").encode(column)


MASKED: dict[str, Any] = {
    "arrays": [np.ma.array([1, 2], mask=[False, True]), np.ma.array([3, 4])],
    "arrays of texts": [np.ma.array(["1", "2"], mask=[False, True]), np.ma.array(["3", "4"])],
    "arrays after plain ones": [[1, None], np.ma.array([3, 4])],
    "lists": [[1, np.ma.masked], (3, 4)],
    "arrays in lists in lists": [[np.ma.array([1, 2], mask=[False, True]), np.ma.array([3, 4])]],
    "objects": np.array([[1, np.ma.masked], [3, 4]], object),
    "one of objects": np.ma.array([[1, 2], [3, 4]], object, mask=[[0, 1], [0, 0]]),
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_entries_within_lists(name: str) -> None:
    """What is masked is missing, however deep; what lies below the mask is no key."""
    words = Vocabulary(missing="key").fit(MASKED[name])
    expected = ["1", None, "3", "4"] if "texts" in name else [1, None, 3, 4]
    assert list(words) == expected
    assert words.encode(MASKED[name]).reshape(-1).tolist() == [0, 1, 2, 3]


def test_missing_values_alone() -> None:
    assert Vocabulary(missing=0).encode([None, None]).tolist() == [0, 0]
    assert Vocabulary(missing=0).encode(np.array([np.nan, np.nan])).tolist() == [0, 0]
    words = Vocabulary(missing="key", unknown="grow")
    assert words.encode(None) == 0
    assert (words.kind, len(words), list(words)) == (None, 1, [None])
    assert words.encode([7, None]).tolist() == [1, 0]
    assert words.decode([1, 0]).tolist() == [7, None]
    ids = np.ma.array([3, 4, 3], mask=[0, 1, 0])
    assert Vocabulary([3], missing=0).encode(ids).tolist() == [1, 0, 1]
    texts = np.ma.array(["a", "b"], mask=[0, 1])
    assert Vocabulary(["a"], missing=0).encode(texts).tolist() == [1, 0]


# ------------------------------------------------------------------ fit, extend, remove

VALUES = ["the", "cat", "and", "the", "dog", "and", "the", "owl", "or", "the", "dog"]


def test_fit() -> None:
    words = Vocabulary(unknown=0)
    assert words.fit(VALUES) is words
    assert list(words) == ["the", "cat", "and", "dog", "owl", "or"]
    assert list(Vocabulary().fit(VALUES, min_count=2)) == ["the", "and", "dog"]
    assert list(Vocabulary().fit(VALUES, max_size=2)) == ["the", "and"]
    assert list(Vocabulary().fit(VALUES, max_size=4)) == ["the", "cat", "and", "dog"]
    assert list(Vocabulary().fit(VALUES, max_size=0)) == []
    assert list(Vocabulary().fit(VALUES, min_count=3, max_size=5)) == ["the"]
    assert list(Vocabulary(missing="key").fit([None, "a", None, "b", "b"], min_count=2)) == [None, "b"]
    assert list(Vocabulary(missing=0).fit([None, "a", None, "b", "b"], min_count=2)) == ["b"]
    with pytest.raises(RuntimeError, match=r"`fit` would change"):
        words.fit(["x"])
    assert len(words) == 6
    for name in ("min_count", "max_size"):
        with pytest.raises(TypeError, match=f"`{name}` must be an integer"):
            Vocabulary().fit(VALUES, **{name: 2.5})
    with pytest.raises(ValueError, match=r"`min_count` must lie in \[1, "):
        Vocabulary().fit(VALUES, min_count=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the map is the same for all examples
@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 5), st.none() | st.integers(0, 6))
def test_fit_keeps_the_most_frequent(values: list[str], least: int, most: int | None) -> None:
    counts = Counter(values)  # whose most_common keeps the order of first occurrence among equals
    kept = [key for key, count in counts.most_common() if count >= least][:most]
    found = Vocabulary().fit(values, min_count=least, max_size=most)
    assert list(found) == [key for key in counts if key in kept]


def test_extend_and_remove() -> None:
    words = Vocabulary(["a", "b", "c", "d"], unknown=0)
    words.extend(["b", "e", "e"])
    assert words.encode("e") == 5
    removed = words.remove(["d", "b", "d"])
    assert removed.tolist() == [4, 2, 4]
    assert (len(words), words.rows) == (3, 6)
    assert "b" not in words
    assert words.encode(["b", "c", "e"]).tolist() == [0, 3, 5]
    with pytest.raises(IndexError, match=r"row 2 at position 1 has no key: its key was removed"):
        words.decode([3, 2])
    assert words.decode([3, 2], default="-").tolist() == ["c", "-"]
    assert list(words) == ["a", "c", "e"]
    words.extend(["x", "y", "z"])
    assert words.encode(["x", "y", "z", "c"]).tolist() == [2, 4, 6, 3]
    with pytest.raises(KeyError, match="'nobody' at position 1"):
        words.remove(["a", "nobody"])
    with pytest.raises(KeyError, match="5 at position 0"):
        words.remove([5])
    assert list(words) == ["a", "x", "c", "y", "e", "z"]
    assert words.remove("a") == 1


def test_keys_that_come_twice() -> None:
    """An error where keys are listed; where they are data, the first place counts."""
    with pytest.raises(ValueError, match=r"`keys` holds the key 'a' at position 2 a second time"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(ValueError, match=r"key 3 at position \(1, 0\) a second time"):
        Vocabulary([[3, 4], [3, 5]])
    assert list(Vocabulary().fit(["a", "b", "a"])) == ["a", "b"]


# ------------------------------------------------------------------ what is no key


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        (["a", 1], TypeError, "'a' of type str at position 0, and 1 of type int at position 1"),
        ([None, b"a", "a"], TypeError, "b'a' of type bytes at position 1, and 'a' of type str at position 2"),
        ([1, True], TypeError, "True at position 1, which is no key"),
        (np.array([True]), TypeError, "dtype bool"),
        ([1, 2.5], TypeError, "2.5 at position 1, which is no key"),
        (2.0, TypeError, "holds 2.0, which is no key"),
        (np.array([1.0]), TypeError, r"dtype float64.*astype\(np.int64\)"),
        ([1, np.bool_(True)], TypeError, "at position 1, which is no key"),
        ([2**64], ValueError, "18446744073709551616 at position 0, which 64 bits cannot hold"),
        ([0, -(2**63) - 1], ValueError, "at position 1, which 64 bits cannot hold"),
        ([10**10000], ValueError, "at position 0, which 64 bits cannot hold"),
        (["a", "b\ud800"], ValueError, r"the string 'b\\ud800' at position 1, which has a surrogate"),
        (np.array(["\udc80"]), ValueError, "at position 0, which has a surrogate"),
        ([["a"], ["b", "c"]], ValueError, "unequal lengths"),
        ([["a"], []], ValueError, "unequal lengths"),
        (["a", ["b"]], TypeError, r"holds \['b'\] at position 1, which is no key"),
        (["a", object], TypeError, "at position 1, which is no key"),
        ([("a", 1)], TypeError, "'a' of type str"),
        ({"a", "b"}, TypeError, "is a set, whose order differs"),
        (np.array(["2020"], "M8[D]"), TypeError, "dtype datetime64"),
        (object(), TypeError, "Received: object"),
        (1 + 2j, TypeError, "Received: complex"),
    ],
)  # fmt: skip
def test_what_is_no_key(values: Any, error: type[Exception], text: str) -> None:
    """It is named, and nothing has changed."""
    for words in (Vocabulary(unknown="grow"), Vocabulary([7], unknown="grow")):
        before = list(words)
        for change in (words.encode, words.extend):
            with pytest.raises(error, match=text):
                change(values)
        assert list(words) == before


@pytest.mark.parametrize("key", ["a", b"a", 2**64, True, "\ud800", 1.0, None, float("nan"), ("a",), [1], object()])
def test_what_is_not_in_a_vocabulary_of_integers(key: Any) -> None:
    assert key not in Vocabulary([1, 2])


def test_keys_of_another_kind_are_refused() -> None:
    words = Vocabulary(["a", "1"], unknown=0, missing=0)
    with pytest.raises(TypeError, match=r"keys are str, and `keys` must be so, too. Received: 1 of type int at position 1"):
        words.encode([None, 1])
    with pytest.raises(
        TypeError, match=r"keys are str, and `values` must be so, too. Received: b'a' of type bytes at position 0"
    ):
        words.extend([b"a"])
    words.remove(["a", "1"])
    with pytest.raises(TypeError, match="keys are str"):
        words.extend([1])


def test_subclasses_of_keys() -> None:
    """Counted as what they are: a key is exactly a str, bytes or int."""

    class Name(str):
        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

        def __str__(self) -> str:
            return "another"

    words = Vocabulary([Name("a"), np.str_("b")])
    assert words.encode(["a", "b", Name("b")]).tolist() == [0, 1, 1]
    assert {type(key) for key in words} == {str}
    assert Vocabulary([np.int8(3), np.uint64(2**63)]).encode([2**63, 3]).tolist() == [1, 0]
    assert Vocabulary([np.bytes_(b"x")]).decode(0) == b"x"


def test_fixed_width_arrays() -> None:
    """As NumPy reads them: without zeros at the end."""
    words = Vocabulary(["a", "a\0b"])
    assert words.encode(np.array(["a\0", "a\0b"])).tolist() == [0, 1]
    assert Vocabulary([b"a", b""]).encode(np.array([b"a\0\0", b"\0"], "S5")).tolist() == [0, 1]
    assert Vocabulary(["é"]).encode(np.array(["é"], ">U3")).tolist() == [0]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", ">i4", "u4", "i8", "u8", ">u8"])
def test_integer_dtypes(dtype: str) -> None:
    words = Vocabulary(np.array([3, 100, 0], dtype))
    assert words.encode([0, 3, 100]).tolist() == [2, 0, 1]
    assert words.encode(np.array([[100, 3]], dtype)[:, ::-1]).tolist() == [[0, 1]]


def test_integers_decode_to_the_dtype_that_holds_them() -> None:
    assert Vocabulary([1, -2]).decode([0]).dtype == np.int64
    large = Vocabulary([2**63, 5])
    assert large.decode([0, 1]).dtype == large.decode([1]).dtype == np.uint64
    both = Vocabulary([2**64 - 1, -1])
    assert both.decode([0, 1]).tolist() == [2**64 - 1, -1]
    assert both.encode(np.array([2**64 - 1], np.uint64)).tolist() == [0]
    assert both.encode(np.array([-1])).tolist() == [1]
    assert Vocabulary([4], unknown=0).decode([1, 0], default=None).tolist() == [4, None]


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2 has StringDType")
@pytest.mark.parametrize("arguments", [{}, {"na_object": None}, {"na_object": np.nan}])
def test_string_dtype(arguments: dict[str, Any]) -> None:
    values: list[Any] = ["a", "long enough to lie elsewhere", "é"]
    if arguments:
        values.append(arguments["na_object"])
    array = np.array(values, dtype=np.dtypes.StringDType(**arguments))
    assert Vocabulary(["é", "a"], unknown=0, missing=1).encode(array).tolist() == [3, 0, 2, 1][: len(array)]


def test_iterables() -> None:
    assert list(Vocabulary(key for key in "ab")) == ["a", "b"]
    assert list(Vocabulary({"b": 0, "a": 1})) == ["b", "a"]
    assert list(Vocabulary({"b": 0, "a": 1}.keys())) == ["b", "a"]
    assert list(Vocabulary(range(3, 6))) == [3, 4, 5]
    assert list(Vocabulary(Vocabulary(("x", "y")))) == ["x", "y"]


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"unknown": "zero"}, ValueError, "of which there are none here: make the vocabulary with reserved=1"),
        ({"unknown": "hash"}, ValueError, "needs rows for unknown keys"),
        ({"unknown": 3, "reserved": 2}, ValueError, r"a row number in \[0, 2\).*Received: 3"),
        ({"unknown": True}, ValueError, "Received: True"),
        ({"unknown": -2}, ValueError, "Received: -2"),
        ({"missing": "drop"}, ValueError, "`missing` must be 'raise', 'key', -1 or"),
        ({"missing": None}, ValueError, "Received: None"),
        ({"buckets": 2.0}, TypeError, "`buckets` must be an integer"),
        ({"buckets": -1}, ValueError, "`buckets` must lie in"),
        ({"reserved": 2**31}, ValueError, "`reserved` must lie in"),
        ({"reserved": 2**31 - 1, "buckets": 1}, ValueError, "together"),
    ],
)  # fmt: skip
def test_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Vocabulary(**arguments)


def test_policies_of_a_call() -> None:
    words = Vocabulary(["a"], reserved=1)
    with pytest.raises(ValueError, match="'hash'"):
        words.encode("a", unknown="hash")
    with pytest.raises(ValueError, match="`unknown`"):
        words.encode("a", unknown=1)
    with pytest.raises(ValueError, match="`unknown`"):
        words.unknown = 1
    assert words.unknown == "raise"


def test_decode_of_rows_without_a_key() -> None:
    words = Vocabulary(["a"], unknown="hash", buckets=1, missing=0)
    for row, text in [(0, "reserved"), (1, "bucket"), (3, "there are 3 rows"), (-1, "there are 3 rows"), (2**64 - 1, "")]:
        with pytest.raises(IndexError, match=f"row {row} has no key.*{text}"):
            words.decode(row)
        assert words.decode([row, 2], default=b"?").tolist() == [b"?", "a"]
    with pytest.raises(TypeError, match="`rows` must be integers"):
        words.decode([0.5])
    assert Vocabulary().decode([], default=None).tolist() == []


def test_a_change_while_iterating() -> None:
    words = Vocabulary(range(5000))
    walk = iter(words)
    next(walk)
    words.extend([9999])
    with pytest.raises(RuntimeError, match="changed while it was iterated over"):
        list(walk)


def test_repr() -> None:
    assert repr(Vocabulary(["a"], unknown=0)) == "Vocabulary(1 str keys, rows=2, unknown=0, missing='raise')"


# ------------------------------------------------------------------ buckets

FNV = {b"": 0xCBF29CE484222325, b"a": 0xAF63DC4C8601EC8C, b"foobar": 0x85944171F73967E8}
"""Golden values that FNV's authors have published."""

BUCKETS = {"a": 17, "foobar": 242, "": 720, "日本": 213, 0: 879, 1: 143, -1: 664, 2**64 - 1: 664, b"a": 17, None: 720}
"""Of 1,000. These must never change: models are trained with such rows."""


def mixed(number: int) -> int:
    """What makes a bucket of an FNV hash, written once more."""
    most = 2**64 - 1
    number ^= number >> 32
    number = number * 0x9E3779B97F4A7C15 & most
    number ^= number >> 29
    number = number * 0x6A09E667F3BCC909 & most
    return number ^ number >> 32


def fnv(text: bytes) -> int:
    number = 0xCBF29CE484222325
    for byte in text:
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return number


def test_fnv_is_the_published_one() -> None:
    for text, expected in FNV.items():
        assert fnv(text) == expected


@pytest.mark.parametrize("buckets", [1, 2, 3, 1000, 2**31 - 1])
def test_buckets(buckets: int) -> None:
    for sample in SAMPLES.values():
        words = Vocabulary(unknown="hash", buckets=buckets, missing="key")
        expected = []
        for key in [*sample, None]:
            if isinstance(key, int):
                text = (key % 2**64).to_bytes(8, "little")
            else:
                text = b"" if key is None else key.encode() if isinstance(key, str) else key
            expected.append(mixed(fnv(text)) % buckets)
        assert words.encode([*sample, None]).tolist() == expected
        assert words.encode(sample[0]) == expected[0]


def test_buckets_never_change() -> None:
    for key, bucket in BUCKETS.items():
        assert Vocabulary(unknown="hash", buckets=1000, missing="key").encode(key) == bucket, key


# ------------------------------------------------------------------ states and copies


def filled(kind: str) -> Vocabulary:
    words = Vocabulary(SAMPLES[kind], unknown="hash", buckets=3, missing="key", reserved=2)
    words.extend([None])
    words.remove(SAMPLES[kind][1:3])
    return words


def roundtrips(words: Vocabulary, tmp_path: Any) -> Iterator[Vocabulary]:
    yield copy.copy(words)
    yield copy.deepcopy(words)
    yield pickle.loads(pickle.dumps(words))
    np.savez(tmp_path / "words.npz", **words.state_dict())
    loaded = Vocabulary(["other"])
    with np.load(tmp_path / "words.npz", allow_pickle=False) as state:
        loaded.load_state_dict(state)
    yield loaded


@pytest.mark.parametrize("kind", SAMPLES)
def test_copies_and_states(kind: str, tmp_path: Any) -> None:
    """They hold the same rows, policies and free rows, and go their own way."""
    words = filled(kind)
    asked = [*SAMPLES[kind], None]
    for other in roundtrips(words, tmp_path):
        assert repr(other) == repr(words)
        assert (other.reserved, other.buckets, other.kind) == (2, 3, kind)
        assert list(other) == list(words)
        np.testing.assert_array_equal(other.encode(asked), words.encode(asked))
        other.extend(SAMPLES[kind])
        assert other.encode(SAMPLES[kind]).tolist() == [*range(5, 5 + len(SAMPLES[kind]))]
        assert len(words) == len(SAMPLES[kind]) - 1
    for other in roundtrips(Vocabulary(missing=0), tmp_path):
        assert (len(other), other.kind, other.missing) == (0, None, 0)
        other.extend(SAMPLES[kind])
    pair = [words, words]
    first, second = copy.deepcopy(pair)
    assert first is second


HOSTILE: dict[str, dict[str, Any]] = {
    "format": {"format": 2},
    "no format": {"format": None},
    "kind": {"kind": "float"},
    "kind of integers": {"kind": "int"},
    "no kind": {"kind": ""},
    "offsets that decrease": {"offsets": np.array([0, 2, 1, 3])},
    "offsets past the end": {"offsets": np.array([0, 1, 2, 4])},
    "offsets that end before": {"offsets": np.array([0, 1, 2, 2])},
    "offsets from 1": {"offsets": np.array([1, 1, 2, 3])},
    "offsets that wrap around": {"offsets": np.array([0, 2**63 - 1, -2, 3])},
    "no offsets": {"offsets": np.array([], np.int64)},
    "offsets of another dtype": {"offsets": np.array([0.0, 1, 2, 3])},
    "offsets of another shape": {"offsets": np.array([[0, 1, 2, 3]])},
    "keys of another dtype": {"keys": np.array([1, 2, 3])},
    "a key twice": {"keys": np.frombuffer(b"aba", np.uint8)},
    "no UTF-8": {"keys": np.frombuffer(b"a\xffc", np.uint8)},
    "a surrogate": {"keys": np.frombuffer(b"\xed\xa0\x80", np.uint8), "offsets": np.array([0, 3])},
    "overlong": {"keys": np.frombuffer(b"\xc0\x80", np.uint8), "offsets": np.array([0, 2])},
    "overlong, of 3": {"keys": np.frombuffer(b"\xe0\x9f\xbf", np.uint8), "offsets": np.array([0, 3])},
    "overlong, of 4": {"keys": np.frombuffer(b"\xf0\x8f\xbf\xbf", np.uint8), "offsets": np.array([0, 4])},
    "past the last character": {"keys": np.frombuffer(b"\xf4\x90\x80\x80", np.uint8), "offsets": np.array([0, 4])},
    "no character begins so": {"keys": np.frombuffer(b"\xf5\x80\x80\x80", np.uint8), "offsets": np.array([0, 4])},
    "a continuation that is none": {"keys": np.frombuffer(b"\xe1\x80A", np.uint8), "offsets": np.array([0, 3])},
    "half a character": {"keys": np.frombuffer("é".encode(), np.uint8), "offsets": np.array([0, 1, 2])},
    "free that falls": {"free": np.array([2, 1])},
    "free twice": {"free": np.array([1, 1])},
    "free past the end": {"free": np.array([4])},
    "free below 0": {"free": np.array([-1])},
    "free of another dtype": {"free": np.array([1.0])},
    "policy": {"unknown": "zero"},
    "reserved": {"reserved": -1},
    "reserved that is none": {"reserved": "two"},
    "hash without buckets": {"unknown": "hash"},
    "missing key": {"missing_key": 3},
    "missing key below": {"missing_key": -2},
    "missing key that is none": {"missing_key": 0.5},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_states_that_no_vocabulary_has(what: str) -> None:
    """A ValueError, and the vocabulary is as it was."""
    words = Vocabulary(["x", "y"])
    state = Vocabulary(["a", "b", "c"]).state_dict() | HOSTILE[what]
    with pytest.raises(ValueError, match=r"state|policies"):
        words.load_state_dict(state)
    assert list(words) == ["x", "y"]


def test_the_first_and_the_last_character_of_each_length() -> None:
    characters = [chr(code) for code in (0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF)]
    words = Vocabulary([*characters, "".join(characters)])
    other = Vocabulary()
    other.load_state_dict(words.state_dict())
    assert list(other) == [*characters, "".join(characters)]


@pytest.mark.parametrize("name", Vocabulary(["a"]).state_dict())
def test_states_that_lack_something(name: str) -> None:
    state = Vocabulary(["a"]).state_dict()
    del state[name]
    with pytest.raises(ValueError, match=f"the state has no '{name}'"):
        Vocabulary().load_state_dict(state)


def test_states_of_integers_that_no_vocabulary_has() -> None:
    state = Vocabulary([1, 2**63]).state_dict()
    for change in (
        {"large": np.array([True])}, {"large": np.array([1, 1])}, {"large": np.array([True, True])},
        {"keys": np.array([1, 2], np.uint64)}, {"keys": np.array([1, 1]), "large": np.array([False, False])},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="state"):
            Vocabulary().load_state_dict(state | change)


# ------------------------------------------------------------------ against a dict

ANY_KEYS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-3, 40) | st.integers(-(2**63), 2**64 - 1) | st.integers(0, 60).map(lambda i: i << 40),
    "str": st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.integers(0, 60).map(lambda i: f"key/{i}" * 9),
    "bytes": st.binary(max_size=3),
}


class AgainstDict(RuleBasedStateMachine):
    """A vocabulary and a model of it, by any sequence of changes."""

    @initialize(kind=st.sampled_from(sorted(ANY_KEYS)), first=st.integers(0, 2), data=st.data())
    def start(self, kind: str, first: int, data: st.DataObject) -> None:
        self.keys = st.lists(ANY_KEYS[kind] | st.none(), max_size=30)
        self.words = Vocabulary(missing="key", reserved=first)
        self.first, self.rows, self.model, self.free = first, 0, dict[Any, int](), list[int]()

    def added(self, values: list[Any]) -> None:
        for key in values:
            if key not in self.model:
                if self.free:
                    row = min(self.free)
                    self.free.remove(row)
                else:
                    row, self.rows = self.rows, self.rows + 1
                self.model[key] = row

    @rule(data=st.data(), grow=st.booleans())
    def extend(self, data: st.DataObject, grow: bool) -> None:
        values = data.draw(self.keys)
        self.added(values)
        if grow:
            expected = [self.first + self.model[key] for key in values]
            assert self.words.encode(values, unknown="grow").tolist() == expected
        else:
            self.words.extend(values)

    @rule(data=st.data())
    def encode(self, data: st.DataObject) -> None:
        values = data.draw(self.keys)
        expected = [self.first + self.model[key] if key in self.model else -1 for key in values]
        assert self.words.encode(values, unknown=-1).tolist() == expected

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.model:
            values = data.draw(st.lists(st.sampled_from(list(self.model)), max_size=20))
            rows = [self.model[key] for key in values]
            assert self.words.remove(values).tolist() == [self.first + row for row in rows]
            for key in set(values):
                self.free.append(self.model.pop(key))

    @rule()
    def copied(self) -> None:
        self.words = pickle.loads(pickle.dumps(self.words))

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert (len(self.words), self.words.rows) == (len(self.model), self.first + self.rows)
        by_row = {row: key for key, row in self.model.items()}
        assert list(self.words) == [by_row[row] for row in sorted(by_row)]


def test_against_a_dict() -> None:
    run_state_machine_as_test(AgainstDict, settings=settings(max_examples=60, stateful_step_count=15, deadline=None))


@pytest.mark.parametrize("kind", [int, str])
def test_freed_rows(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has noted a moment is told of each row that was freed since, given anew or not, and of each that has another key."""
    monkeypatch.setattr(freed, "LEAST", 5)
    rng, words = np.random.default_rng(0), Vocabulary(reserved=2, unknown="grow")
    taken: dict[int, int] = {}  # by rows: how often they were freed
    noted: list[tuple[Stamp, dict[int, int]]] = []
    for number in range(60):
        noted.append((stamp(words._held.keys), dict(taken)))
        words.extend([kind(k) for k in rng.integers(0, 60, 4)])
        if number % 3:
            gone = [kind(k) for k in rng.choice(list(words), 3, replace=False)]
            rows = words.remove([*gone, gone[0]])
            for row in rows[:3].tolist():
                taken[row] = taken.get(row, 0) + 1
            rows[:] = 7  # which is the user's
        with pytest.raises(KeyError):
            words.remove([next(iter(words)), kind(1000)])
        for since, before in noted[:: max(1, len(noted) // 5)]:
            now, numbers = changes(since, words._held.keys)
            assert now == stamp(words._held.keys)
            assert (numbers + 2).tolist() == sorted(row for row in taken if taken[row] != before.get(row, 0))
    held = words._held.keys.freed
    assert sum(len(one.rows) for one in held._recent) <= max(5, words.rows)
    assert len(held._older[0]) <= words.rows
    since, keys = stamp(words._held.keys), list(words)
    words.load_state_dict(words.state_dict())
    assert not len(changes(since, words._held.keys)[1])
    words.load_state_dict(Vocabulary([keys[1], keys[0], *keys[2:]]).state_dict())
    moved = changes(since, words._held.keys)[1].tolist()
    assert set(words.encode(keys[:2]) - words.reserved) <= set(moved)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("most", [8, 30])
@pytest.mark.parametrize("kind", [int, str])
def test_a_small_vocabulary_whose_keys_come_and_go(kind: type[Any], most: int) -> None:
    """A search ends, too, where each line of a segment was passed by a key."""
    rng, words, known = np.random.default_rng(0), Vocabulary(unknown=-1), dict[Any, None]()
    for number in range(1500):
        new = [kind(k) for k in dict.fromkeys(rng.integers(0, 10**6, 6).tolist())]
        words.extend(new)
        known |= dict.fromkeys(new)
        listed = list(known)
        gone = [listed[i] for i in rng.permutation(len(listed))[: max(0, len(listed) - most)]]
        words.remove(gone)
        known = {key: None for key in listed if key not in set(gone)}
        assert (words.encode([kind(k) for k in rng.integers(0, 10**6, 50).tolist()]) >= 0).sum() < 10
        if number % 50 == 0:
            assert (words.encode(list(known)) >= 0).all()

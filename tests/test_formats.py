"""Vectors in the files of others: what is written is read back or refused, others read it, and bad files get clear errors."""

from __future__ import annotations

import gzip
import inspect
import io
import itertools
import os
import re
import string
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection import product, some
from snapshots import assert_bits

import unhot
from unhot.formats import binary, text
from unhot.formats.registry import FORMATS
from unhot.formats.vectors import convert

Array = np.ndarray[Any, np.dtype[Any]]

ENDINGS = {
    "word2vec": ".vec", "word2vec-binary": ".bin", "glove": ".glove", "npz": ".npz", "parquet": ".parquet", "arrow": ".arrow",
    "projector": ".tsv", "safetensors": ".safetensors",
}  # fmt: skip
"""Formats with keys, and the ending that says which it is."""

OF_TEXT = ("word2vec", "word2vec-binary", "glove")
"""Formats whose keys end at a space."""

PLAIN = ["king", "queen", "naïve", "日本", "no\u00a0break", "a\u2028b", "-0.5", "#"]


def vectors(rows: int, dim: int, dtype: str = "float32", seed: int = 0) -> Array:
    """Numbers of every size, which no short decimal says."""
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(rows, dim)) * 10.0 ** generator.integers(-12, 12, size=(rows, dim))).astype(dtype)


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize(("format_", "dtype", "kind"), product(ENDINGS, ["float32", "float64"], ["text", "numbers"]))
def test_there_and_back(format_: str, dtype: str, kind: str, tmp_path: Path) -> None:
    """Keys, and vectors to the last bit."""
    path = tmp_path / f"x{ENDINGS[format_]}"
    given_ = vectors(len(PLAIN), 5, "float32").astype(dtype)
    given_[0] = [np.nan, np.inf, -np.inf, -0.0, 0.0]
    if format_ != "word2vec-binary" and dtype == "float64":
        given_ = vectors(len(PLAIN), 5, "float64")
    keys: Any = PLAIN if kind == "text" else np.arange(len(PLAIN)) * 7 - 3
    unhot.write_vectors(path, keys, given_)
    found = unhot.read_vectors(path, dtype=dtype)
    expected = given_.astype(np.float32) if format_ == "word2vec-binary" else given_
    assert_bits(found.vectors, expected)
    of_text = format_ in (*OF_TEXT, "projector")
    assert list(found.keys) == (list(map(str, keys)) if of_text else list(keys))
    assert isinstance(found.keys, list) == (of_text or kind == "text")


KEYS = st.lists(
    st.one_of(
        st.text(max_size=6), st.text(alphabet=string.whitespace + "ab\0\x1c\x85\u2028\u00a0\ufeff\"'#", max_size=4),
        st.sampled_from(["1", "1 2", "0.5", "nan", "\ud800", "é", "", " ", ". . ."]),
    ),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip


@pytest.mark.parametrize("format_", ENDINGS)
@given(keys=KEYS, dim=st.integers(1, 3))
def test_any_key_survives_or_is_refused(format_: str, keys: list[str], dim: int) -> None:
    """Spaces, ends of lines, zeros, marks of every kind: read back as they were, or an error that names one of them."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"unhot-{os.getpid()}{ENDINGS[format_]}"
    given_ = vectors(len(keys), dim)
    try:
        try:
            unhot.write_vectors(path, keys, given_)
        except ValueError as error:
            named = re.search(r"the key (.*?) (of row|ends with)", str(error))
            assert named is not None
            assert named[1] in list(map(repr, keys))
            assert not path.exists()
            refusable = "\ud800" in keys or format_ not in ("parquet", "arrow", "safetensors")
            assert refusable, "these formats hold any key"
            return
        found = unhot.read_vectors(path, format_)
        assert found.keys == keys
        assert_bits(found.vectors, given_)
    finally:
        path.unlink(missing_ok=True)
        Path(text.labels_path(path)).unlink(missing_ok=True)


@pytest.mark.parametrize("block", [1, 2, 7, 64])
@pytest.mark.parametrize("format_", [*OF_TEXT, "projector"])
def test_wherever_a_block_ends(format_: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is read in small pieces holds the same."""
    path = tmp_path / f"x{ENDINGS[format_]}"
    given_ = vectors(len(PLAIN), 3)
    unhot.write_vectors(path, PLAIN, given_)
    for module in (text, binary):
        monkeypatch.setattr(module, "BLOCK", block)
    found = unhot.read_vectors(path)
    assert found.keys == PLAIN
    assert_bits(found.vectors, given_)


@pytest.mark.parametrize("format_", [*OF_TEXT, "projector"])
def test_compressed(format_: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{ENDINGS[format_]}.gz"
    given_ = vectors(len(PLAIN), 3)
    unhot.write_vectors(path, PLAIN, given_)
    if format_ != "projector":
        plain = tmp_path / f"x{ENDINGS[format_]}"
        unhot.write_vectors(plain, PLAIN, given_)
        assert gzip.decompress(path.read_bytes()) == plain.read_bytes()
    assert unhot.read_vectors(path).keys == PLAIN
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=str(path)):
        unhot.read_vectors(path)
    with pytest.raises(ValueError, match=r"not compressed with gzip here"):
        unhot.write_vectors(tmp_path / "x.npz.gz", PLAIN, given_)


# ------------------------------------------------------------------ what others read and write


def test_arrow_and_parquet_as_pyarrow_has_them(tmp_path: Path) -> None:
    given_ = vectors(len(PLAIN), 3)
    for name, read in (("x.parquet", pa.parquet.read_table), ("x.feather", pa.feather.read_table)):
        unhot.write_vectors(tmp_path / name, PLAIN, given_)
        table = read(tmp_path / name)
        assert table.schema.field("vector").type == pa.list_(pa.float32(), 3)
        assert table["key"].to_pylist() == PLAIN
        assert np.array_equal(table["vector"].to_pylist(), given_)
    columns = {
        "lists": pa.array(given_.tolist(), pa.list_(pa.float32())),
        "large": pa.array(given_.tolist(), pa.large_list(pa.float64())),
        "half": pa.array(given_.tolist(), pa.list_(pa.float32(), 3)),
    }
    words = {
        "strings": pa.array(PLAIN),
        "large": pa.array(PLAIN, pa.large_string()),
        "few": pa.array(PLAIN).dictionary_encode(),
    }
    for (_, vector), (_, word) in itertools.product(columns.items(), words.items()):
        table = pa.table({"n": pa.array(np.zeros(len(PLAIN))), "word": word, "embedding": vector})
        pa.parquet.write_table(table, tmp_path / "y.parquet", row_group_size=3)
        pa.feather.write_feather(table, tmp_path / "y.feather", chunksize=3, compression="lz4")
        for name in ("y.parquet", "y.feather"):
            found = unhot.read_vectors(tmp_path / name)
            assert found.keys == PLAIN
            assert np.array_equal(found.vectors, given_)
            assert found.vectors.dtype == (np.float64 if vector.type.value_type == pa.float64() else np.float32)


BAD_TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "no keys": ({"vector": [[0.5]]}, "one column of keys"),
    "no vectors": ({"key": ["a"]}, "one column of vectors"),
    "two columns of keys": ({"a": ["a"], "b": ["b"], "vector": [[0.5]]}, "one column of keys, or one that is called 'key'"),
    "no rows": ({"key": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))}, "has no rows"),
    "no key": ({"key": ["a", None], "vector": [[0.5], [1.0]]}, "row 1 has no 'key'"),
    "no vector": ({"key": ["a", "b"], "vector": [[0.5], None]}, "row 1 has no 'vector'"),
    "no number": ({"key": ["a", "b"], "vector": [[0.5], [None]]}, "a missing number"),
    "of other lengths": ({"key": ["a", "b"], "vector": [[0.5], [0.5, 1.0]]}, "row 1 has 2 numbers, and the rows before 1"),
    "empty vectors": ({"key": ["a"], "vector": pa.array([[]], pa.list_(pa.float32()))}, "at least one number"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_tables_without_vectors(name: str, tmp_path: Path) -> None:
    columns, message = BAD_TABLES[name]
    table = pa.table(columns)
    pa.parquet.write_table(table, tmp_path / "x.parquet")
    pa.feather.write_feather(table, tmp_path / "x.feather")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=message):
            unhot.read_vectors(path)


def test_numpy_files(tmp_path: Path) -> None:
    given_ = vectors(6, 3, "float64")
    np.savez(tmp_path / "x.npz", keys=np.array(list("abcdef")), vectors=given_)
    assert unhot.read_vectors(tmp_path / "x.npz").keys == list("abcdef")
    np.savez_compressed(tmp_path / "x.npz", keys=np.arange(6, dtype=np.uint8), weights=np.float16(given_ / 1e12))
    assert_bits(unhot.read_vectors(tmp_path / "x.npz").vectors, np.float16(given_ / 1e12).astype(np.float32))
    np.savez(tmp_path / "x.npz", **unhot.Table.from_array(given_, optimizer=unhot.Adam()).state_dict())
    assert_bits(unhot.read_vectors(tmp_path / "x.npz").vectors, given_)
    np.save(tmp_path / "x.npy", given_.astype(">f8"))
    assert_bits(unhot.read_vectors(tmp_path / "x.npy").vectors, given_)
    unhot.write_vectors(tmp_path / "y.npz", PLAIN[:6], given_)
    with np.load(tmp_path / "y.npz") as found:
        assert found["keys"].tolist() == PLAIN[:6]
        assert_bits(found["vectors"], given_)
    unhot.write_vectors(tmp_path / "y.npy", range(6), given_)
    assert_bits(np.load(tmp_path / "y.npy"), given_)
    with pytest.raises(ValueError, match=r"'npy' holds no keys.* Use 'npz'"):
        unhot.write_vectors(tmp_path / "y.npy", PLAIN[:6], given_)
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="could run any code"):
        unhot.read_vectors(tmp_path / "x.npy")
    for array in (np.zeros(3), np.zeros((3, 2), int), np.zeros((3, 0)), np.zeros((2, 2, 2))):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(ValueError, match=r"vectors must be floats of shape \(rows, dim\)"):
            unhot.read_vectors(tmp_path / "x.npy")


def test_labels_of_tensorboard(tmp_path: Path) -> None:
    """Beside vectors.tsv in metadata.tsv; a file with several columns begins with their names."""
    path, labels = tmp_path / "vectors.tsv", tmp_path / "metadata.tsv"
    given_ = vectors(3, 2)
    unhot.write_vectors(path, ["New York", "Rome", "nan"], given_)
    assert labels.read_text() == "New York\nRome\nnan\n"
    assert unhot.read_vectors(path).keys == ["New York", "Rome", "nan"]
    labels.write_text("city\tcountry\nNew York\tUS\nRome\tIT\nnan\t\n")
    assert unhot.read_vectors(path).keys == ["New York", "Rome", "nan"]
    labels.write_text("New York\nRome\n")
    with pytest.raises(ValueError, match="there are 2 labels, and more vectors"):
        unhot.read_vectors(path)
    labels.write_text("New York\nRome\nOslo\nBern\n")
    with pytest.raises(ValueError, match="there are 3 vectors, and more labels"):
        unhot.read_vectors(path)
    labels.unlink()
    assert list(unhot.read_vectors(path).keys) == [0, 1, 2]
    unhot.write_vectors(tmp_path / "words.tsv", ["a"], np.ones((1, 2)))
    assert (tmp_path / "words_metadata.tsv").read_text() == "a\n"
    assert text.labels_path("a/words_tensor.tsv") == "a/words_metadata.tsv"
    assert text.labels_path("vectors/x.tsv") == "vectors/x_metadata.tsv"


# ------------------------------------------------------------------ text as it is found


def read(content: bytes, tmp_path: Path, name: str = "x.glove", **options: Any) -> tuple[Any, Any]:
    (tmp_path / name).write_bytes(content)
    keys, found = unhot.read_vectors(tmp_path / name, **options)
    return keys, found.tolist()


GOOD: dict[str, tuple[bytes, dict[str, Any], list[str]]] = {
    "plain": (b"the 1 2\nof 3 4\n", {}, ["the", "of"]),
    "without an end": (b"the 1 2\nof 3 4", {}, ["the", "of"]),
    "spaces at the ends": (b"the 1 2 \nof 3 4  \n", {}, ["the", "of"]),
    "lines of Windows": (b"the 1 2\r\nof 3 4 \r\n", {}, ["the", "of"]),
    "empty lines at the end": (b"the 1 2\nof 3 4\n\n \r\n\n", {}, ["the", "of"]),
    "keys with spaces": (b"the 1 2\n. . . 3 4\n", {}, ["the", ". . ."]),
    "numbers in keys": (b"the 1 2\n1 2 1 3 4\n", {}, ["the", "1 2 1"]),
    "the first key has spaces": (b"at x.com 1 2\nof 3 4\n", {"dim": 2}, ["at x.com", "of"]),
    "other spaces": ("a\u00a0b 1 2\nc\x85d\u2028 3 4\n".encode(), {}, ["a\u00a0b", "c\x85d\u2028"]),
    "signs and exponents": (b"the +1 .2e1\nof 3. 4E-0\n", {}, ["the", "of"]),
    "no UTF-8, replaced": (b"the 1 2\n\xff 3 4\n", {"errors": "replace"}, ["the", "\ufffd"]),
    "word2vec": (b"2 2\nthe 1 2\nof 3 4\n", {"format": "word2vec"}, ["the", "of"]),
    "fastText": (b"2 2\nthe 1 2 \nof 3 4 \n", {"format": "fasttext"}, ["the", "of"]),
    "a padded first line": (b"2                  2\nthe 1 2\nof 3 4\n", {"format": "word2vec"}, ["the", "of"]),
    "duplicates": (b"the 1 2\nof 3 4\nthe 5 6\n", {"duplicates": "first"}, ["the", "of"]),
}


@pytest.mark.parametrize("name", GOOD)
def test_text_as_it_is_found(name: str, tmp_path: Path) -> None:
    content, options, keys = GOOD[name]
    assert read(content, tmp_path, **options) == (keys, [[1, 2], [3, 4]])


SPACED = (
    b"New York 1 2\nRome 3 4\n",  # a word among the numbers of the first line
    b"route 66 1 2\nRome 3 4\n",  # fewer fields in a later one
    b"route 66 1 2\nNew York 3 4\n",  # a word among the numbers of a later one
)


@pytest.mark.parametrize("content", SPACED)
def test_a_first_key_with_spaces(content: bytes, tmp_path: Path) -> None:
    """The error says that `dim` is what resolves it, and it does."""
    with pytest.raises(ValueError, match=r"line [12]: number 1 is 'York'|line 2 has 3 fields") as error:
        read(content, tmp_path)
    assert str(error.value).endswith("If that key has spaces, pass dim=, the length of a vector.")
    assert read(content, tmp_path, dim=2)[1] == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="line 1") as error:
        read(b"the 1\n", tmp_path, dim=2)
    assert "dim=" not in str(error.value), "it was passed"


def test_which_text_a_txt_is(tmp_path: Path) -> None:
    """word2vec's, if its first line has two integers."""
    assert read(b"1 2\nthe 1 2\n", tmp_path, "x.txt")[0] == ["the"]
    assert read(b"1 2.0\nthe 1\n", tmp_path, "x.txt")[0] == ["1", "the"]
    assert read(b"the 1 2\n", tmp_path, "x.txt")[0] == ["the"]


def test_duplicates_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that occurs again in a later piece of the file."""
    monkeypatch.setattr(text, "BLOCK", 16)
    content = "".join(f"key{i % 50} {i}\n" for i in range(60)).encode()
    with pytest.raises(ValueError, match="the key 'key0' occurs again, in row 50"):
        read(content, tmp_path)
    keys, found = read(content, tmp_path, duplicates="first")
    assert keys == [f"key{i}" for i in range(50)]
    assert found == [[i] for i in range(50)]


def test_duplicates_that_are_kept(tmp_path: Path) -> None:
    assert read(b"a 1\nb 2\na 3\n", tmp_path, duplicates="keep") == (["a", "b", "a"], [[1], [2], [3]])


BAD: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "fewer numbers": (b"the 1 2\nof 3\nto 1 2\n", {}, r"line 2 has 2 fields, and should have a key and 2 numbers: 'of 3'"),
    "more numbers": (b"1 2\nthe 1 2 3\n", {"format": "word2vec"}, r"line 2 has 4 fields, and should have a key and 2 numbers"),
    "no number": (b"the 1 2\nof 3 x\n", {}, r"line 2: number 2 is 'x'"),
    "two spaces": (b"the 1  2\n", {"dim": 2}, r"line 1: number 1 is ''"),
    "an empty line between": (b"the 1 2\n\nof 3 4\n", {}, r"line 2 has 0 fields"),
    "no key": (b"the 1 2\n 3 4\n", {}, r"line 2: there is no key"),
    "no UTF-8": (b"the 1 2\n\xff 3 4\n", {}, r"line 2: the key '\\xff' is not UTF-8\. Pass errors='replace'"),
    "a duplicate": (b"the 1 2\nof 3 4\nthe 5 6\n", {}, r"the key 'the' occurs again, in row 2\. Pass duplicates='first'"),
    "nothing": (b"", {}, r"line 1 has no numbers"),
    "a word": (b"the\n", {}, r"line 1 has no numbers"),
    "no first line": (b"the 1 2\n", {"format": "word2vec"}, r"begins with its rows and its dim\. Received: 'the 1 2'"),
    "dim 0": (b"1 0\nthe\n", {"format": "word2vec"}, r"begins with its rows and its dim"),
    "fewer rows": (b"3 2\nthe 1 2\nof 3 4\n", {"format": "word2vec"}, r"announces 3 vectors, and there are 2: .*truncated"),
    "more rows": (b"1 2\nthe 1 2\nof 3 4\n", {"format": "word2vec"}, r"announces 1 vectors, and there are more"),
    "huge claims": (b"999999999999 999999999999\nthe 1 2\n", {"format": "word2vec"}, r"line 2 has 3 fields"),
    "a huge dim": (b"the 1 2\n", {"dim": 10**15}, r"line 1 has 3 fields"),
    "numbers beyond any": (b"9" * 400 + b" 2\nthe 1 2\n", {"format": "word2vec"}, r"begins with its rows and its dim"),
}


@pytest.mark.parametrize("name", BAD)
def test_text_that_is_wrong(name: str, tmp_path: Path) -> None:
    """A ValueError that begins with the file's name and says in which line."""
    content, options, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        read(content, tmp_path, **options)
    assert str(error.value).startswith(f"'{tmp_path / 'x.glove'}': ")


W2V = b"2 2\nthe " + np.array([1, 2], "<f4").tobytes() + b"of " + np.array([3, 4], "<f4").tobytes()


def test_binary_as_it_is_found(tmp_path: Path) -> None:
    """As gensim writes it, and as the C program does, with the end of a line after each vector."""
    lines = W2V[:16] + b"\n" + W2V[16:] + b"\n"
    for content in (W2V, lines):
        assert read(content, tmp_path, "x.bin") == (["the", "of"], [[1, 2], [3, 4]])
    for cut in (1, 5, 12):
        with pytest.raises(ValueError, match="truncated"):
            read(W2V[:-cut], tmp_path, "x.bin")
    with pytest.raises(ValueError, match="announces 1 vectors, and there are more"):
        read(b"1" + W2V[1:], tmp_path, "x.bin")
    with pytest.raises(ValueError, match="truncated"):
        read(b"2 99999999999999\nthe " + bytes(16), tmp_path, "x.bin")
    with pytest.raises(ValueError, match="a model of fastText"):
        read(binary.FASTTEXT + bytes(40), tmp_path, "x.bin")
    with pytest.raises(ValueError, match="row 1, b'\\\\xff', is not UTF-8"):
        read(W2V.replace(b"of ", b"\xff "), tmp_path, "x.bin")
    given_ = vectors(2, 2, "float64")
    with pytest.raises(ValueError, match="holds float32, and these are float64 numbers that would be rounded"):
        unhot.write_vectors(tmp_path / "y.bin", ["a", "b"], given_)
    assert not (tmp_path / "y.bin").exists()


@pytest.mark.parametrize("format_", ENDINGS)
def test_fuzzed(format_: str, tmp_path: Path, everything: bool) -> None:
    """Files with bytes changed, removed, added or repeated are read or refused with a ValueError that names them."""
    path = tmp_path / f"x{ENDINGS[format_]}"
    unhot.write_vectors(path, [f"key{i}" for i in range(6)], vectors(6, 3))
    fuzz(path, format_, everything)


def fuzz(path: Path, format_: str, everything: bool) -> None:
    """Change a file in many ways, and read each of them."""
    whole = path.read_bytes()

    @settings(max_examples=1000 if everything else 40)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        changed = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(changed)))
            stop = start + data.draw(st.sampled_from([0, 1, 4, 40]))
            changed[start:stop] = data.draw(st.one_of(st.binary(max_size=5), st.sampled_from([b"", b"\n", b"9" * 9, bytes(8)])))
        path.write_bytes(bytes(changed))
        try:
            found = unhot.read_vectors(path, format_, duplicates="keep")
        except ValueError as error:
            message = str(error)
        else:
            message = f"{path}"
            assert found.vectors.ndim == 2
            assert len(found.keys) == len(found.vectors)
        assert str(path) in message

    check()


@pytest.mark.parametrize("format_", ["npy", "npz"])
def test_damaged_headers(format_: str, tmp_path: Path) -> None:
    """Each byte of an array's header is changed, or left out with the rest of the dict: the file is read, or named."""
    held = io.BytesIO()
    np.save(held, vectors(6, 3))
    whole = held.getvalue()
    end = whole.index(b"}") + 1
    keys = io.BytesIO()
    np.save(keys, np.arange(6))
    changed = [whole[:at] + with_ + whole[at + 1 :] for at in range(10, end) for with_ in (b"(", b"'", b"0", b"\x00", b"\n")]
    changed += [whole[:at] + b" " * (end - at) + whole[end:] for at in range(10, end)]
    changed += [whole.replace(b"'<f4'", b"()   "), whole.replace(b"'<f4'", b"[[]] "), whole.replace(b"(6, 3)", b"({},3)")]
    path = tmp_path / f"x.{format_}"
    refused = 0
    for data in changed:
        if format_ == "npy":
            path.write_bytes(data)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("vectors.npy", data)
                archive.writestr("keys.npy", keys.getvalue())
        message = f"{path}"
        try:
            unhot.read_vectors(path)
        except ValueError as error:
            message = str(error)
            refused += 1
        assert str(path) in message
    assert refused > len(changed) // 2


# ------------------------------------------------------------------ arguments

WRONG: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "a format": (lambda p: unhot.read_vectors(p / "x.vec", "w2v"), ValueError, "there is no format 'w2v'. There are: word2vec"),
    "an ending": (lambda p: unhot.read_vectors(p / "x.xyz"), ValueError, "does not say its format"),
    "no ending": (lambda p: unhot.write_vectors(p / "x", ["a"], np.ones((1, 1))), ValueError, "does not say its format"),
    "errors": (lambda p: unhot.read_vectors(p / "x.vec", errors="no"), ValueError, "`errors` must be one of 'strict'"),  # type: ignore[arg-type]
    "duplicates": (lambda p: unhot.read_vectors(p / "x.vec", duplicates="no"), ValueError, "`duplicates` must be one of"),  # type: ignore[arg-type]
    "dim": (lambda p: unhot.read_vectors(p / "x.vec", dim=0), ValueError, "`dim` must be a positive integer or None"),
    "dtype": (lambda p: unhot.read_vectors(p / "x.vec", dtype="int32"), ValueError, "must be float32 or float64"),
    "no file": (lambda p: unhot.read_vectors(p / "x.vec"), FileNotFoundError, "x.vec"),
    "a key twice": (
        lambda p: unhot.write_vectors(p / "x.vec", ["a", "a"], np.ones((2, 1))), ValueError,
        r"the key 'a' occurs again, in row 1\. Give one vector for each key\.$",
    ),
    "fewer keys": (lambda p: unhot.write_vectors(p / "x.vec", ["a"], np.ones((2, 1))), ValueError, "1 keys and 2 vectors"),
    "integers": (lambda p: unhot.write_vectors(p / "x.vec", ["a"], np.ones((1, 1), int)), TypeError, "must be floats"),
    "one dimension": (lambda p: unhot.write_vectors(p / "x.vec", ["a"], np.ones(1)), ValueError, r"of shape \(rows, dim\)"),
    "no rows": (lambda p: unhot.write_vectors(p / "x.vec", [], np.ones((0, 1))), ValueError, "neither of them 0"),
    "floats for keys": (lambda p: unhot.write_vectors(p / "x.vec", [0.5], np.ones((1, 1))), TypeError, "no key"),
    "a string for keys": (lambda p: unhot.write_vectors(p / "x.vec", "a", np.ones((1, 1))), TypeError, "one for each row"),
    "keys of two dimensions": (
        lambda p: unhot.write_vectors(p / "x.vec", np.ones((2, 1), int), np.ones((2, 1))), TypeError, r"of shape \(2, 1\)"),
    "mixed keys": (lambda p: unhot.write_vectors(p / "x.vec", ["a", 1], np.ones((2, 1))), TypeError, "of one kind"),
    "a missing key": (
        lambda p: unhot.write_vectors(p / "x.vec", ["a", None], np.ones((2, 1))), ValueError, "a missing value at position 1"),
    "a set": (lambda p: unhot.write_vectors(p / "x.vec", {"a"}, np.ones((1, 1))), TypeError, "order differs"),
    "integers of no dtype": (
        lambda p: unhot.write_vectors(p / "x.arrow", [2**63, -1], np.ones((2, 1))), ValueError,
        "below 0, such as -1, and of .* such as 9223372036854775808"),
    "bytes that are no text": (
        lambda p: unhot.write_vectors(p / "x.vec", [b"\xff"], np.ones((1, 1))), ValueError,
        r"the key b'\\xff' of row 0 is not UTF-8.* Use 'parquet'"),
    "a vocabulary's keys alone": (
        lambda p: unhot.write_vectors(p / "x.vec", unhot.Vocabulary(["a"], unknown=0), np.ones((1, 1))), ValueError,
        r"each of its 2 rows.* Received: 1 vectors.* pass list\(vocabulary\)"),
    "a vocabulary without keys": (
        lambda p: unhot.write_vectors(p / "x.vec", unhot.Vocabulary(unknown=0), np.ones((1, 1))), ValueError, "has no keys"),
    "a huge key": (lambda p: unhot.write_vectors(p / "x.vec", [2**64], np.ones((1, 1))), ValueError, "64 bits cannot hold"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str, tmp_path: Path) -> None:
    call, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ from one to another


@pytest.mark.parametrize(("source", "target"), product(ENDINGS, ENDINGS))
def test_every_format_becomes_every_other(source: str, target: str, tmp_path: Path) -> None:
    keys = ["a", "b", "ü"]
    given_ = vectors(3, 4)
    first, second = tmp_path / f"a{ENDINGS[source]}", tmp_path / f"b{ENDINGS[target]}"
    unhot.write_vectors(first, keys, given_)
    told: list[tuple[float, int]] = []
    assert convert(first, second, progress=lambda *what: told.append(what)) == 3
    found = unhot.read_vectors(second)
    assert found.keys == keys
    assert_bits(found.vectors, given_)
    assert told == sorted(told)
    assert told[-1][1] == 3


def test_duplicates_are_left_out_on_the_way(tmp_path: Path) -> None:
    """Also where the number of rows stands first."""
    (tmp_path / "a.vec").write_text("11 1\n" + "".join(f"key{i % 8} {i}\n" for i in range(11)))
    for name in ("b.vec", "b.vec.gz", "b.bin", "b.npz", "b.safetensors", "b.parquet"):
        with pytest.raises(ValueError, match="occurs again"):
            convert(tmp_path / "a.vec", tmp_path / name)
        assert not (tmp_path / name).exists()
        assert convert(tmp_path / "a.vec", tmp_path / name, duplicates="first") == 8
        found = unhot.read_vectors(tmp_path / name)
        assert found.keys == [f"key{i}" for i in range(8)]
        assert found.vectors[:, 0].tolist() == list(range(8))


def options_named(message: str) -> set[str]:
    """The options that a message tells to pass."""
    return set(re.findall(r"(\w+)=", message))


@pytest.mark.parametrize("call", [unhot.read_vectors, unhot.write_vectors, convert], ids=lambda call: call.__name__)
def test_errors_name_options_that_there_are(call: Callable[..., Any], tmp_path: Path) -> None:
    """What an error tells to pass, the function that was called takes."""
    contents = {
        "twice.vec": b"2 1\nkey 1\nkey 2\n", "latin.vec": b"1 1\n\xff 1\n", "latin.bin": b"1 1\n\xff " + bytes(4),
        "latin.tsv": b"1\n", "latin_metadata.tsv": b"\xff\n", "spaced.glove": b"New York 1 2\n", "good.vec": b"1 1\nkey 1\n",
        "no.format": b"",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    new = tmp_path / "new"
    arguments: list[tuple[Any, ...]] = [(tmp_path / name,) for name in contents if not name.startswith(("latin_", "good"))]
    if call is unhot.write_vectors:
        arguments = [(new, ["a"], np.ones((1, 1))), (tmp_path / "new.vec", ["a", "a"], np.ones((2, 1)))]
    if call is convert:
        arguments = [(*source, tmp_path / "new.npz") for source in arguments] + [(tmp_path / "good.vec", new)]
    named = set()
    for given_ in arguments:
        with pytest.raises(ValueError, match=r"\.$") as error:
            call(*given_)
        named |= options_named(str(error.value))
    assert named <= inspect.signature(call).parameters.keys()
    reads = {"errors", "duplicates", "dim"}
    formats = {"source_format", "target_format"} if call is convert else {"format"}
    assert named == (formats if call is unhot.write_vectors else formats | reads)


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.glove").write_text("the 1\n. . 2\n")
    (tmp_path / "b.vec").write_text("1 1\nold 3\n")
    with pytest.raises(ValueError, match=r"the key '\. \.' of row 1 contains a space.* Use 'parquet'"):
        convert(tmp_path / "a.glove", tmp_path / "b.vec")
    assert (tmp_path / "b.vec").read_text() == "1 1\nold 3\n"
    assert len(list(tmp_path.iterdir())) == 2


GROWTH = """
import sys
from pathlib import Path
import numpy as np
import unhot
from unhot.formats.vectors import convert

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

source, target = sys.argv[1:]
unhot.write_vectors(target, ["a"], np.ones((1, 2), np.float32))  # what has to be imported is
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
convert(source, target)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be measured")
@pytest.mark.parametrize("target", some([name for name in ENDINGS if name not in ("glove", "projector")], ["npz", "parquet"]))
def test_memory_does_not_grow_with_the_file(target: str, tmp_path: Path) -> None:
    """From 100 MB of vectors, a few pieces are in memory at a time."""
    rows, dim = 12500, 2000
    source, small = tmp_path / "a.bin", tmp_path / f"b{ENDINGS[target]}"
    unhot.write_vectors(source, [f"key{i}" for i in range(rows)], np.ones((rows, dim), np.float32))
    done = subprocess.run([sys.executable, "-c", GROWTH, source, small], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60e6
    assert len(unhot.read_vectors(small).keys) == rows


def test_every_format_is_tested() -> None:
    assert FORMATS.keys() == {*ENDINGS, "fasttext", "npy"}


@pytest.mark.parametrize("packed", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("name", ["x.vec", "x.txt", "x.glove", "vectors.tsv"])
def test_a_mark_of_the_byte_order_is_no_part_of_a_file(name: str, packed: str, tmp_path: Path) -> None:
    """Some programs begin a file in UTF-8 with one."""
    path, given_ = tmp_path / f"{name}{packed}", vectors(2, 3)
    unhot.write_vectors(path, ["the", "cat"], given_, format=None if name != "x.txt" else "glove")
    with pytest.raises(ValueError, match="mark of the byte order"):
        unhot.write_vectors(path, ["\ufeffthe"], given_[:1], format=None if name != "x.txt" else "glove")
    for file in (path, Path(text.labels_path(str(path)))):
        if file.exists():
            content = file.read_bytes()
            assert content.startswith(b"\x1f\x8b") == bool(packed)
            plain = gzip.decompress(content) if packed else content
            file.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain) if packed else b"\xef\xbb\xbf" + plain)
    found = unhot.read_vectors(path)
    assert found.keys == ["the", "cat"]
    assert_bits(found.vectors, given_)

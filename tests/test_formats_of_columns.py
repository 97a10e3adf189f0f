"""Columns of keys and vectors: files of Arrow and Parquet of every type, and keys to write that come as columns."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from snapshots import assert_bits
from test_formats import ENDINGS, PLAIN, fuzz, vectors

import unhot
from unhot.formats.vectors import convert


def arrow_file(table: Any, path: Path, **options: Any) -> None:
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=3)


def arrow_stream(table: Any, path: Path, **options: Any) -> None:
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=3)


CONTAINERS: dict[str, Callable[[Any, Path], object]] = {
    "file": arrow_file,
    "stream": arrow_stream,
    "compressed file": lambda table, path: arrow_file(table, path, compression="zstd"),
    "compressed stream": lambda table, path: arrow_stream(table, path, compression="lz4"),
    "parquet": lambda table, path: pa.parquet.write_table(table, path, row_group_size=3),
}

BYTES = [*[word.encode() for word in PLAIN[:6]], b"", b"\xff\0"]
LARGE = [2**63, 0, 2**64 - 1, 2**63 - 1, 5, 2**40, 7, 8]
KEY_COLUMNS: dict[str, Callable[[], tuple[Any, list[Any]]]] = {
    "string_view": lambda: (pa.array(PLAIN).cast(pa.string_view()), PLAIN),
    "large_string": lambda: (pa.array(PLAIN, pa.large_string()), PLAIN),
    "binary": lambda: (pa.array(BYTES), BYTES),
    "large_binary": lambda: (pa.array(BYTES, pa.large_binary()), BYTES),
    "binary_view": lambda: (pa.array(BYTES).cast(pa.binary_view()), BYTES),
    "fixed_size_binary": lambda: (pa.array([b"%d" % i for i in range(8)], pa.binary(1)), [b"%d" % i for i in range(8)]),
    "uuid": lambda: (pa.array([b"%016d" % i for i in range(8)], pa.uuid()), [b"%016d" % i for i in range(8)]),
    "uint64": lambda: (pa.array(LARGE, pa.uint64()), LARGE),
    "uint64, small": lambda: (pa.array(range(8), pa.uint64()), list(range(8))),
    "uint32": lambda: (pa.array(range(8), pa.uint32()), list(range(8))),
    "run ends": lambda: (pa.RunEndEncodedArray.from_arrays(range(1, 9), pa.array(PLAIN)), PLAIN),
}
ENCODED = ("string_view", "large_string", "binary", "large_binary", "binary_view", "uint64")


def dictionary(values: Any) -> Any:
    """With an entry that is not used, in another order."""
    count = len(values)
    return pa.DictionaryArray.from_arrays(pa.array(range(count - 1, -1, -1), pa.int16()), values.take(list(range(count))[::-1]))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", [*KEY_COLUMNS, *(f"dictionary of {kind}" for kind in ENCODED)])
def test_columns_of_keys_of_every_type(kind: str, container: str, tmp_path: Path) -> None:
    """Texts, bytes and integers come as what they are, also in pieces; integers as int64 if they can."""
    column, values = KEY_COLUMNS[kind.removeprefix("dictionary of ")]()
    if "view" in kind and kind.startswith("dictionary"):
        column = pa.DictionaryArray.from_arrays(pa.array(range(8)), column)
    elif kind.startswith("dictionary"):
        column = dictionary(column)
    given_ = vectors(len(values), 2)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(given_.reshape(-1)), 2)
    path = tmp_path / ("x.parquet" if container == "parquet" else "x.arrow")
    try:
        CONTAINERS[container](pa.table({"n": pa.array(np.zeros(8)), "id": column, "vector": lists}), path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"pyarrow does not write it: {error}")
    found = unhot.read_vectors(path)
    assert list(found.keys) == values
    assert_bits(found.vectors, given_)
    if isinstance(found.keys, np.ndarray):
        assert found.keys.dtype == (np.uint64 if max(values) >= 2**63 else np.int64)
    else:
        assert {type(key) for key in found.keys} == {type(values[0])}
    convert(path, tmp_path / "y.arrow")
    assert list(unhot.read_vectors(tmp_path / "y.arrow").keys) == values


@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors(container: str, tmp_path: Path) -> None:
    """Arrow's own type for vectors; where there are lists, too, they are the vectors."""
    given_ = vectors(8, 3)
    path = tmp_path / ("x.parquet" if container == "parquet" else "x.arrow")
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(given_)
    CONTAINERS[container](pa.table({"key": PLAIN, "other": tensors}), path)
    assert_bits(unhot.read_vectors(path).vectors, given_)
    CONTAINERS[container](pa.table({"key": PLAIN, "other": tensors, "lists": (-given_).tolist()}), path)
    assert np.array_equal(unhot.read_vectors(path).vectors, -given_)
    CONTAINERS[container](pa.table({"key": PLAIN, "vector": tensors, "lists": (-given_).tolist()}), path)
    assert_bits(unhot.read_vectors(path).vectors, given_)
    matrices = pa.FixedShapeTensorArray.from_numpy_ndarray(given_.reshape(8, 1, 3))
    CONTAINERS[container](pa.table({"key": PLAIN, "vector": matrices}), path)
    with pytest.raises(ValueError, match="one column of vectors"):
        unhot.read_vectors(path)


def test_texts_before_bytes(tmp_path: Path) -> None:
    """A column of bytes beside one of texts has no keys, unless it is called so."""
    columns = {"word": ["a", "b"], "image": [b"x", b"y"], "vector": [[0.5], [1.0]]}
    pa.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert unhot.read_vectors(tmp_path / "x.parquet").keys == ["a", "b"]
    pa.parquet.write_table(pa.table({**columns, "key": columns["image"]}), tmp_path / "x.parquet")
    assert unhot.read_vectors(tmp_path / "x.parquet").keys == [b"x", b"y"]


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("way", ["write_ipc", "write_ipc_stream"])
def test_files_of_polars(way: str, compression: str, tmp_path: Path) -> None:
    pl: Any = pytest.importorskip("polars")
    given_ = vectors(len(PLAIN), 3)
    keys = (pl.Series(PLAIN), pl.Series(PLAIN).cast(pl.Categorical), pl.Series(PLAIN).cast(pl.Enum(PLAIN[::-1])))
    for key, kind in itertools.product(keys, (pl.List(pl.Float32), pl.Array(pl.Float32, 3))):
        frame = pl.DataFrame({"key": key, "vector": pl.Series(given_.tolist(), dtype=kind)})
        getattr(frame, way)(tmp_path / "x.arrow", compression=compression)
        found = unhot.read_vectors(tmp_path / "x.arrow")
        assert found.keys == PLAIN
        assert_bits(found.vectors, given_)


@pytest.mark.parametrize("container", ["stream", "compressed stream"])
def test_truncated_streams(container: str, tmp_path: Path) -> None:
    """Wherever they end too early, also between two batches; and what follows their end is not lost in silence."""
    given_ = vectors(len(PLAIN), 2)
    columns = {"key": pa.array(PLAIN).dictionary_encode(), "vector": given_.tolist(), "n": range(len(PLAIN))}
    CONTAINERS[container](pa.table(columns), tmp_path / "x.arrow")
    whole = (tmp_path / "x.arrow").read_bytes()
    assert unhot.read_vectors(tmp_path / "x.arrow").keys == PLAIN
    for stop in range(len(whole)):
        (tmp_path / "y.arrow").write_bytes(whole[:stop])
        with pytest.raises(ValueError, match=r"y\.arrow.*truncated"):
            unhot.read_vectors(tmp_path / "y.arrow")
    (tmp_path / "y.arrow").write_bytes(2 * whole)
    with pytest.raises(ValueError, match=f"{len(whole):,} bytes follow the end of the stream"):
        unhot.read_vectors(tmp_path / "y.arrow")
    empty = pa.table({"key": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))})
    CONTAINERS[container](empty, tmp_path / "y.arrow")
    with pytest.raises(ValueError, match="has no rows"):
        unhot.read_vectors(tmp_path / "y.arrow")


@pytest.mark.parametrize("format_", ENDINGS)
@pytest.mark.parametrize("keys", [LARGE, BYTES[:6]], ids=["large integers", "bytes"])
def test_large_integers_and_bytes_there_and_back(keys: list[Any], format_: str, tmp_path: Path) -> None:
    """Formats of text hold their digits, or the text that they are."""
    path = tmp_path / f"x{ENDINGS[format_]}"
    given_ = vectors(len(keys), 3)
    unhot.write_vectors(path, keys, given_)
    found = unhot.read_vectors(path)
    assert_bits(found.vectors, given_)
    if format_ in ("parquet", "arrow", "npz"):
        assert list(found.keys) == keys
    else:
        assert list(map(str, found.keys)) == [key.decode() if isinstance(key, bytes) else str(key) for key in keys]
    if format_ == "safetensors":
        loaded: Any = unhot.load(path)
        assert_bits(loaded.lookup(keys), given_)


def test_small_integers_of_any_dtype_are_int64(tmp_path: Path) -> None:
    for format_, dtype in itertools.product(("parquet", "arrow", "npz", "safetensors"), (np.uint64, np.uint8, np.int32)):
        path = tmp_path / f"x{ENDINGS[format_]}"
        unhot.write_vectors(path, np.arange(3, 6).astype(dtype), np.ones((3, 2)))
        keys = unhot.read_vectors(path).keys
        assert isinstance(keys, np.ndarray)
        assert (keys.tolist(), keys.dtype) == ([3, 4, 5], np.int64)


def of_pandas(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(pytest.importorskip("pandas"), name)(*arguments, **options)


def of_polars(values: Any, dtype: str | None = None) -> Any:
    pl: Any = pytest.importorskip("polars")
    return pl.Series(values, dtype=None if dtype is None else getattr(pl, dtype))


COLUMNS: dict[str, tuple[Callable[[], Any], list[Any]]] = {
    "tuple": (lambda: tuple(PLAIN), PLAIN),
    "generator": (lambda: (key for key in PLAIN), PLAIN),
    "dict.keys": (lambda: dict.fromkeys(PLAIN).keys(), PLAIN),
    "array of objects": (lambda: np.array(PLAIN, object), PLAIN),
    "array of texts": (lambda: np.array(PLAIN), PLAIN),
    "array of bytes": (lambda: np.array([b"a", b"bc"]), [b"a", b"bc"]),
    "pandas Series": (lambda: of_pandas("Series", PLAIN), PLAIN),
    "pandas Series of integers": (lambda: of_pandas("Series", [7, 3]), [7, 3]),
    "pandas Int64": (lambda: of_pandas("Series", [7, 3], dtype="Int64"), [7, 3]),
    "pandas UInt64": (lambda: of_pandas("Series", LARGE, dtype="UInt64"), LARGE),
    "pandas category": (lambda: of_pandas("Series", PLAIN, dtype="category"), PLAIN),
    "pandas Index": (lambda: of_pandas("Index", PLAIN), PLAIN),
    "pandas RangeIndex": (lambda: of_pandas("RangeIndex", 3), [0, 1, 2]),
    "polars Series": (lambda: of_polars(PLAIN), PLAIN),
    "polars Categorical": (lambda: of_polars(PLAIN, "Categorical"), PLAIN),
    "polars UInt64": (lambda: of_polars(LARGE, "UInt64"), LARGE),
    "arrow array": (lambda: pa.array(PLAIN), PLAIN),
    "arrow chunks": (lambda: pa.chunked_array([PLAIN[:3], PLAIN[3:]]), PLAIN),
    "arrow dictionary": (lambda: dictionary(pa.array(PLAIN)), PLAIN),
    "arrow dictionary of integers": (lambda: dictionary(pa.array(LARGE, pa.uint64())), LARGE),
    "a vocabulary": (lambda: unhot.Vocabulary(PLAIN), PLAIN),
    "a vocabulary of integers": (lambda: unhot.Vocabulary([7, -3]), [7, -3]),
    "a vocabulary of large integers": (lambda: unhot.Vocabulary(LARGE), LARGE),
    "a vocabulary of bytes": (lambda: unhot.Vocabulary(BYTES), BYTES),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_as_keys(name: str, tmp_path: Path) -> None:
    """What a vocabulary is made of, keys to be written may be, too."""
    column, keys = COLUMNS[name]
    given_ = vectors(len(keys), 2)
    unhot.write_vectors(tmp_path / "x.parquet", column(), given_)
    found = unhot.read_vectors(tmp_path / "x.parquet")
    assert list(found.keys) == keys
    assert_bits(found.vectors, given_)


@pytest.mark.parametrize("keys", [["a", "b", "c", "d"], [b"a", b"b", b"c", b"d"], [5, -1, 9, 7], [2**63, 1, 2, 3]], ids=str)
def test_rows_of_a_vocabulary_without_a_key(keys: list[Any], tmp_path: Path) -> None:
    """Reserved ones, buckets, free ones, and that of the missing key: their vectors are left out."""
    words = unhot.Vocabulary([keys[0], None, *keys[1:]], missing="key", unknown="hash", buckets=2, reserved=1)
    words.remove(keys[2:3])
    given_ = vectors(words.rows, 3)
    unhot.write_vectors(tmp_path / "x.arrow", words, given_)
    found = unhot.read_vectors(tmp_path / "x.arrow")
    left = [keys[0], keys[1], keys[3]]
    assert list(found.keys) == left
    assert_bits(found.vectors, given_[words.encode(left)])


@pytest.mark.parametrize("container", CONTAINERS)
def test_fuzzed(container: str, tmp_path: Path, everything: bool) -> None:
    """Views, a dictionary and a tensor, which damage must not make read elsewhere in memory."""
    format_ = "parquet" if container == "parquet" else "arrow"
    path = tmp_path / f"x{ENDINGS[format_]}"
    views = pa.array([f"a key that is longer {i}" for i in range(6)]).cast(pa.string_view())
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(vectors(6, 3))
    CONTAINERS[container](pa.table({"words": views, "key": dictionary(pa.array(PLAIN[:6])), "vector": tensors}), path)
    fuzz(path, format_, everything)
    CONTAINERS[container](pa.table({"key": views, "vector": tensors}), path)
    fuzz(path, format_, everything)


@pytest.mark.parametrize("claim", [1 << 40, (1 << 62) + 1])
@pytest.mark.parametrize("container", ["compressed file", "compressed stream"])
def test_claims_of_compressed_columns(container: str, claim: int, tmp_path: Path) -> None:
    """Each piece says how many bytes it becomes. Too many for any file of this size are no lack of memory."""
    path = tmp_path / "x.arrow"
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((50, 64), np.float32))
    CONTAINERS[container](pa.table({"key": [f"a key {'x' * 100} {i}" for i in range(50)], "vector": tensors}), path)
    whole = path.read_bytes()
    frames = [at for at in range(8, len(whole), 8) if whole[at : at + 4] in (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")]
    assert len(frames) >= 3
    for at in frames:
        path.write_bytes(whole[: at - 8] + claim.to_bytes(8, "little") + whole[at:])
        with pytest.raises(ValueError, match=r"x\.arrow': the file is damaged"):
            unhot.read_vectors(path)

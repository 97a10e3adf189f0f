"""Vectors as arrays: NumPy's .npy and .npz, and safetensors, such as the files of tables."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from unhot.formats.base import (
    Array,
    Chunk,
    Head,
    Keys,
    Options,
    Source,
    Stream,
    encoded,
    kind_of,
    numbers_from,
    rows_in_chunk,
)
from unhot.state import FORMAT
from unhot.state import encoded as of_state
from unhot.storage import safetensors
from unhot.storage.tables import like_of, one_table, opened

TEXT, ENDS, NUMBERS = "keys.text", "keys.ends", "keys.numbers"
"""The arrays that hold the keys of a table's rows: all texts in UTF-8, one after the other, and where each ends; or int64."""

NPY_HEADER = 128
RESERVED = 4096
"""Bytes of headers that are written once all is known."""


# ------------------------------------------------------------------ NumPy


@contextmanager
def read_npy(path: str, options: Options) -> Iterator[Source]:
    """An array (rows, dim); the keys are the rows' numbers."""
    with open(path, "rb") as file:
        shape, dtype = _npy_header(file)
        size, start = os.fstat(file.fileno()).st_size, file.tell()
        rows, dim, dtype = _checked(shape, dtype)
        if rows * dim * dtype.itemsize > size - start:
            raise ValueError(
                f"the array of shape {shape} takes more than the {size - start:,} bytes that the file has: truncated."
            )
        head = Head(rows, dim, np.dtype(np.float64 if dtype.itemsize == 8 else np.float32), "numbers")
        yield Source(head, _pieces(file, head, dtype))


def _npy_header(file: Stream) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array in NumPy's format."""
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"a file of NumPy's format {version} is not read here.")
    try:
        shape, fortran, dtype = readers[version](file)
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"the header of the array is damaged: {str(error)[:200]}.") from None
    if fortran and len(shape) > 1:
        raise ValueError("the array is in Fortran order. Save it with np.ascontiguousarray.")
    if dtype.hasobject:
        raise ValueError("the array holds Python objects, which are not read, since they could run any code.")
    return shape, dtype


def _checked(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int, np.dtype[Any]]:
    if len(shape) != 2 or shape[1] < 1 or shape[0] < 0 or dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"vectors must be floats of shape (rows, dim). Received: shape {shape}, dtype {dtype}.")
    return shape[0], shape[1], dtype


def _pieces(file: Stream, head: Head, dtype: np.dtype[Any], keys: Keys | None = None) -> Iterator[Chunk]:
    """The rows from here on, as they lie in the file."""
    assert head.rows is not None
    step, row_bytes = rows_in_chunk(head), head.dim * dtype.itemsize
    for start in range(0, head.rows, step):
        count = min(step, head.rows - start)
        data = _exactly(file, count * row_bytes)
        vectors = np.frombuffer(data, dtype).reshape(count, head.dim).astype(head.dtype, copy=False)
        named = numbers_from(start, count) if keys is None else keys[start : start + count]
        yield Chunk(named, vectors, (start + count) / head.rows)


def _exactly(file: Stream, size: int) -> bytearray:
    """So many bytes of a file; memory is taken as they come."""
    found = bytearray()
    while len(found) < size and (piece := file.read(min(size - len(found), 1 << 24))):
        found += piece
    if len(found) < size:
        raise ValueError("the file is truncated.")
    return found


@contextmanager
def read_npz(path: str, options: Options) -> Iterator[Source]:
    """Arrays named "keys" (texts or integers) and "vectors" or "weights"; without keys, they are the rows' numbers."""
    with _errors_of_archives(), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        wanted = next((name for name in ("vectors", "weights") if name in names), None)
        if wanted is None:
            raise ValueError(f"there is no array 'vectors' (or 'weights') in the file. It holds: {sorted(names)[:8]}.")
        keys: Keys | None = None
        if "keys" in names:
            with archive.open("keys.npy") as member:
                keys = _npz_keys(member)
        with archive.open(f"{wanted}.npy") as member:
            rows, dim, dtype = _checked(*_npy_header(member))
            if keys is not None and len(keys) != rows:
                raise ValueError(f"there are {len(keys):,} keys and {rows:,} vectors.")
            head = Head(rows, dim, np.dtype(np.float64 if dtype.itemsize == 8 else np.float32), kind_of(keys))
            yield Source(head, _pieces(member, head, dtype, keys))


@contextmanager
def _errors_of_archives() -> Iterator[None]:
    """What `zipfile` raises for an archive that is damaged, as ValueErrors."""
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"the archive is damaged, or packed in a way that is not read: {error}.") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning of the file
            raise
        raise ValueError("the archive is damaged: it names a place outside of the file.") from error


def _npz_keys(member: Stream) -> Keys:
    shape, dtype = _npy_header(member)
    if len(shape) != 1 or dtype.kind not in "Uiu":
        raise ValueError(f"'keys' must be texts or integers of shape (rows,). Received: shape {shape}, dtype {dtype}.")
    array = np.frombuffer(_exactly(member, shape[0] * dtype.itemsize), dtype) if dtype.itemsize else np.full(shape, "")
    if dtype.kind == "U":
        texts: list[str] = array.tolist()
        return texts
    if dtype == np.uint64 and array.size and array.max() >= 1 << 63:
        raise ValueError("a key is 2**63 or more, and keys are int64.")
    return array.astype(np.int64, copy=False)


def write_npy(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    rows = 0
    file.write(bytes(NPY_HEADER))
    for chunk in chunks:
        if isinstance(chunk.keys, list) or not np.array_equal(chunk.keys, numbers_from(rows, len(chunk.keys))):
            raise ValueError("the format 'npy' holds no keys but the rows' numbers, from 0 on. Use 'npz', which does.")
        _write_array(file, chunk.vectors, head.dtype)
        rows += len(chunk.keys)
    _write_npy_header(file, (rows, head.dim), head.dtype)


def _write_array(file: BinaryIO, array: Array, dtype: np.dtype[Any]) -> None:
    file.write(np.ascontiguousarray(array, dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)


def _write_npy_header(file: BinaryIO, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Write the header of an array at the beginning of its file."""
    text = repr({"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}).encode()
    file.seek(0)
    file.write(npy.magic(1, 0) + struct.pack("<H", NPY_HEADER - 10) + text.ljust(NPY_HEADER - 11) + b"\n")


def write_npz(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    """`numpy.load` reads it: "keys" and "vectors"."""
    names: list[str] = []
    numbers: list[Array] = []
    with tempfile.TemporaryFile() as vectors:
        vectors.write(bytes(NPY_HEADER))
        rows = 0
        for chunk in chunks:
            if isinstance(chunk.keys, list):
                encoded(chunk.keys, rows, "npz")
                ending = next((key for key in chunk.keys if key.endswith("\0")), None)
                if ending is not None:
                    raise ValueError(
                        f"the key {ending!r} ends with a zero, which NumPy's texts lose. Use 'parquet' or 'arrow'."
                    )
                names += chunk.keys
            else:
                numbers.append(chunk.keys)
            _write_array(vectors, chunk.vectors, head.dtype)
            rows += len(chunk.keys)
        _write_npy_header(vectors, (rows, head.dim), head.dtype)
        vectors.seek(0)
        keys = np.array(names, "U") if head.kind == "text" else np.concatenate([numbers_from(0, 0), *numbers])
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("keys.npy", "w", force_zip64=True) as member:
                npy.write_array(member, keys, allow_pickle=False)
            with archive.open("vectors.npy", "w", force_zip64=True) as member:
                while piece := vectors.read(1 << 20):
                    member.write(piece)


# ------------------------------------------------------------------ safetensors


@contextmanager
def read_safetensors(path: str, options: Options) -> Iterator[Source]:
    """The weights of a table's file, with the keys of its rows if it has them; else they are the rows' numbers."""
    with opened(path) as (state, header):
        one_table(header)
        store = like_of(header)
        keys: Keys | None = None
        if TEXT in state and ENDS in state:
            keys = _named(state[TEXT], state[ENDS])
        elif NUMBERS in state:
            keys = state[NUMBERS]
            if keys.dtype != np.int64 or keys.ndim != 1:
                raise ValueError(f"{NUMBERS!r} must be int64 of shape (rows,).")
        if keys is not None and len(keys) != store.rows:
            raise ValueError(f"there are {len(keys):,} keys and {store.rows:,} vectors.")
        head = Head(store.rows, store.dim, store.weights.dtype, kind_of(keys))
        with open(path, "rb") as file:
            file.seek(header.entries["weights"].start)
            yield Source(head, _pieces(file, head, store.weights.dtype.newbyteorder("<"), keys))


def _named(text: Array, ends: Array) -> list[str]:
    """The keys that these arrays hold."""
    if text.dtype != np.uint8 or text.ndim != 1 or ends.dtype != np.int64 or ends.ndim != 1:
        raise ValueError(f"{TEXT!r} must be uint8 and {ENDS!r} int64, each of one dimension.")
    starts = np.concatenate([[0], ends[:-1]])
    if len(ends) and (ends[-1] != len(text) or (ends < starts).any() or starts[0] != 0):
        raise ValueError(f"{ENDS!r} must rise from 0 to the length of {TEXT!r}.")
    data = text.tobytes()
    try:
        return [data[start:stop].decode() for start, stop in zip(starts.tolist(), ends.tolist(), strict=True)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{TEXT!r} is not UTF-8: {error}.") from None


def write_safetensors(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    """A table without an optimizer, for `unhot.load`, with the keys of its rows."""
    file.write(bytes(RESERVED))
    rows, checksum = 0, 0
    texts, ends, numbers = bytearray(), [numbers_from(0, 0)], [numbers_from(0, 0)]
    for chunk in chunks:
        data = np.ascontiguousarray(chunk.vectors, head.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        checksum = zlib.crc32(data, checksum)
        file.write(data)
        if isinstance(chunk.keys, list):
            names = encoded(chunk.keys, rows, "safetensors")
            ends.append(len(texts) + np.cumsum([len(name) for name in names], dtype=np.int64))
            texts += b"".join(names)
        else:
            numbers.append(chunk.keys)
        rows += len(chunk.keys)
    if not rows:
        raise ValueError("a table has at least one row, and there are no vectors.")
    weights = np.broadcast_to(head.dtype.type(0), (rows, head.dim))
    others: dict[str, Array] = {TEXT: np.frombuffer(texts, np.uint8), ENDS: np.concatenate(ends)}
    if head.kind == "numbers":
        others = {NUMBERS: np.concatenate(numbers)}
        if np.array_equal(others[NUMBERS], numbers_from(0, rows)):
            others = {}
    others |= {name: of_state(value).astype(np.uint8) for name, value in (("format", FORMAT), ("clock", 0))}
    sums = f"{checksum:08x}"
    for array in others.values():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        file.write(data)
        sums += f"{zlib.crc32(data):08x}"
    metadata = {"unhot.whole": "yes", "unhot.kind": "table", safetensors.CHECKSUMS: sums}
    file.seek(0)
    file.write(safetensors.header_of({"weights": weights, **others}, metadata, RESERVED))

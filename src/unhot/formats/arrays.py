"""Vectors as NumPy's arrays: .npy and .npz."""

from __future__ import annotations

import errno
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy

from unhot.embedding import VOCABULARY
from unhot.formats.base import (
    Array,
    Chunk,
    Head,
    Keys,
    Options,
    Source,
    Stream,
    encoded,
    fewest_bits,
    kind_of,
    numbers_from,
    rows_in_chunk,
)
from unhot.formats.rows import REMOVED, rows_read

NPY_HEADER = 128
"""Bytes of a header that is written once all is known."""

KeysOf = Callable[[int, Array], tuple[Keys, Array]]
"""The keys of rows from a number on, and the vectors of those that have one."""


def all_numbered(start: int, vectors: Array) -> tuple[Keys, Array]:
    """The rows' numbers as keys."""
    return numbers_from(start, len(vectors)), vectors


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
        yield Source(head, pieces(file, rows, head, dtype))


def _npy_header(file: Stream) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array in NumPy's format."""
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"a file of NumPy's format {version} is not read here.")
    try:
        shape, fortran, dtype = readers[version](file)
    except Exception as error:  # of any class: those of the parsers that NumPy uses
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


def pieces(file: Stream, rows: int, head: Head, dtype: np.dtype[Any], keys_of: KeysOf = all_numbered) -> Iterator[Chunk]:
    """So many rows from here on, as they lie in the file; those that have keys."""
    step, row_bytes = rows_in_chunk(head), head.dim * dtype.itemsize
    for start in range(0, rows, step):
        count = min(step, rows - start)
        data = _exactly(file, count * row_bytes)
        vectors = np.frombuffer(data, dtype).reshape(count, head.dim).astype(head.dtype, copy=False)
        yield Chunk(*keys_of(start, vectors), (start + count) / rows)


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
    """Arrays named "keys" (texts, bytes or integers) and "vectors" or "weights"; or the state of a table or an embedding."""
    with _errors_of_archives(), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        wanted = next((name for name in ("vectors", "weights") if name in names), None)
        if wanted is None:
            raise ValueError(f"there is no array 'vectors' (or 'weights') in the file. It holds: {sorted(names)[:8]}.")
        if "keys" in names:
            with archive.open("keys.npy") as member:
                keys = _npz_keys(member)
            count, kind, keys_of = len(keys), kind_of(keys), _listed(keys)
        else:
            state = {name: _npz_array(archive, name) for name in names if name == REMOVED or name.startswith(f"{VOCABULARY}.")}
        with archive.open(f"{wanted}.npy") as member:
            rows, dim, dtype = _checked(*_npy_header(member))
            if "keys" not in names:
                read = rows_read(state, rows, options)
                count, kind, keys_of = read.count, read.kind, read.of
            elif count != rows:
                raise ValueError(f"there are {count:,} keys and {rows:,} vectors.")
            head = Head(count, dim, np.dtype(np.float64 if dtype.itemsize == 8 else np.float32), kind)
            yield Source(head, pieces(member, rows, head, dtype, keys_of))


def _listed(keys: Keys) -> KeysOf:
    return lambda start, vectors: (keys[start : start + len(vectors)], vectors)


def _npz_array(archive: zipfile.ZipFile, name: str) -> Array:
    with archive.open(f"{name}.npy") as member:
        shape, dtype = _npy_header(member)
        return np.frombuffer(_exactly(member, math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


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
    if len(shape) != 1 or dtype.kind not in "USiu":
        raise ValueError(f"'keys' must be texts, bytes or integers of shape (rows,). Received: shape {shape}, dtype {dtype}.")
    if not dtype.itemsize:  # all of them are empty
        return cast("Keys", ["" if dtype.kind == "U" else b""] * shape[0])
    array = np.frombuffer(_exactly(member, shape[0] * dtype.itemsize), dtype)
    return cast("Keys", array.tolist()) if dtype.kind in "US" else fewest_bits(array)


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
    names: list[Any] = []
    numbers: list[Array] = []
    with tempfile.TemporaryFile() as vectors:
        vectors.write(bytes(NPY_HEADER))
        rows = 0
        for chunk in chunks:
            if isinstance(chunk.keys, list):
                encoded(chunk.keys, rows, "npz")
                zero: Any = b"\0" if head.kind == "bytes" else "\0"
                ending = next((key for key in chunk.keys if key.endswith(zero)), None)
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
        if head.kind in ("text", "bytes"):
            keys = np.array(names, "U" if head.kind == "text" else "S")
        else:
            keys = np.concatenate([np.empty(0, np.uint64 if head.kind == "unsigned" else np.int64), *numbers])
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("keys.npy", "w", force_zip64=True) as member:
                npy.write_array(member, keys, allow_pickle=False)
            with archive.open("vectors.npy", "w", force_zip64=True) as member:
                while piece := vectors.read(1 << 20):
                    member.write(piece)

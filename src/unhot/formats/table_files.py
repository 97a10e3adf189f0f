"""Vectors in the safetensors files of tables and embeddings, which `unhot.load` reads."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from unhot.embedding import VOCABULARY
from unhot.formats.arrays import pieces
from unhot.formats.base import Array, Chunk, Head, Keys, Options, Source, encoded, numbers_from
from unhot.formats.rows import rows_read
from unhot.state import FORMAT
from unhot.state import encoded as of_state
from unhot.storage import safetensors
from unhot.storage.mapped import recover
from unhot.storage.tables import KIND, MARK, POLICY, WHOLE, like_of, one_table, opened
from unhot.vocabulary import Vocabulary

RESERVED = 4096
"""Bytes of a header that is written once all is known."""


@contextmanager
def read_safetensors(path: str, options: Options) -> Iterator[Source]:
    """The settled rows of a table, by their numbers, or those of an embedding's keys."""
    recover(path)  # as `unhot.load` does
    with opened(path) as (state, header):
        one_table(header)
        store = like_of(header)
        read = rows_read(state, store.rows, options)
        head = Head(read.count, store.dim, store.weights.dtype, read.kind)
        with open(path, "rb") as file:
            file.seek(header.entries["weights"].start)
            yield Source(head, pieces(file, store.rows, head, store.weights.dtype.newbyteorder("<"), read.of))


def write_safetensors(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    """An embedding without an optimizer; or a table, if the keys are the rows' numbers."""
    file.write(bytes(RESERVED))
    rows, checksum = 0, 0
    vocabulary: Vocabulary | None = None
    for chunk in chunks:
        data = np.ascontiguousarray(chunk.vectors, head.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        checksum = zlib.crc32(data, checksum)
        file.write(data)
        vocabulary = _with_keys(vocabulary, chunk.keys, rows)
        rows += len(chunk.keys)
    if not rows:
        raise ValueError("a table has at least one row, and there are no vectors.")
    weights = np.broadcast_to(head.dtype.type(0), (rows, head.dim))
    others = _others(vocabulary, weights.nbytes)
    sums = f"{checksum:08x}"
    for array in others.values():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        file.write(data)
        sums += f"{zlib.crc32(data):08x}"
    policy = "raise" if vocabulary is None else "zero"  # that of an embedding's table
    metadata = {MARK: WHOLE.decode(), KIND: "table", POLICY: policy, safetensors.CHECKSUMS: sums}
    file.seek(0)
    file.write(safetensors.header_of({"weights": weights, **others}, metadata, RESERVED))


def _with_keys(vocabulary: Vocabulary | None, keys: Keys, row: int) -> Vocabulary | None:
    """The vocabulary with the keys of the rows from `row` on; None as long as all keys are the rows' numbers."""
    if isinstance(keys, list):
        encoded(keys, row, "safetensors")
    elif vocabulary is None and np.array_equal(keys, numbers_from(row, len(keys))):
        return None
    if vocabulary is None:
        vocabulary = Vocabulary(numbers_from(0, row) if row else None)
    vocabulary.extend(keys)
    if len(vocabulary) != row + len(keys):
        places = vocabulary.encode(keys)
        at = int((places != numbers_from(row, len(keys))).argmax())
        key = keys[at] if isinstance(keys, list) else int(keys[at])
        raise ValueError(
            f"the key {key!r} of row {row + at} occurs again, and an embedding has one vector for each key. Use 'npz',"
            " 'parquet' or 'arrow', which hold all of them."
        )
    return vocabulary


def _others(vocabulary: Vocabulary | None, before: int) -> dict[str, Array]:
    """What lies behind weights of so many bytes: each array at a multiple of its items' size, so that it can be mapped."""
    words = {} if vocabulary is None else vocabulary.state_dict()
    arrays = {"clock": of_state(0), **{f"{VOCABULARY}.{name}": array for name, array in words.items()}}
    begin = of_state(FORMAT).astype(np.int32 if before % 8 else np.int64)  # after which eight bytes end
    return {"format": begin, **dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))}

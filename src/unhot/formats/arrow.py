"""Parquet and Arrow files (Feather, too): a column of keys, and one of lists that hold the vectors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np

from unhot.extras import missing
from unhot.formats.base import Array, Chunk, Head, Keys, Options, Source, encoded, kind_of, rows_in_chunk
from unhot.keys.arrow import BYTES, TEXTS, of_arrow

KEYS, VECTORS = "key", "vector"
"""The columns' names where they are written here. Where they are read, any names will do."""

MESSAGE = b"\xff\xff\xff\xff"
END = MESSAGE + bytes(4)
"""What each message of a stream begins with, and what follows the last one. A file begins with other bytes."""

MOST_PACKED = 1 << 20
"""No compression makes a file so many times smaller: one that claims to become more is damaged, and memory is not short."""


def pyarrow() -> Any:
    """The package, which has no types; or an error that says how to get it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise missing("a file of Parquet or Arrow", "tables", error) from error
    return pyarrow


@contextmanager
def read_parquet(path: str, options: Options) -> Iterator[Source]:
    pa = pyarrow()
    with _errors(pa, path), pa.parquet.ParquetFile(path) as file:
        columns = _columns(pa, file.schema_arrow)
        total = max(1, file.metadata.num_rows)
        yield _source(pa, file.iter_batches(batch_size=4096, columns=list(columns)), columns, file.metadata.num_rows, total)


@contextmanager
def read_arrow(path: str, options: Options) -> Iterator[Source]:
    pa = pyarrow()
    with open(path, "rb") as plain:
        of_stream = plain.read(len(MESSAGE)) == MESSAGE
    with _errors(pa, path), pa.memory_map(path) as mapped:
        if of_stream:
            yield _of_stream(pa, mapped)
            return
        file = pa.ipc.open_file(mapped)
        columns = _columns(pa, file.schema)
        batches = (file.get_batch(number).select(list(columns)) for number in range(file.num_record_batches))
        rows = sum(file.get_batch(number).num_rows for number in range(file.num_record_batches))
        yield _source(pa, batches, columns, rows, max(1, rows))


def _of_stream(pa: Any, mapped: Any) -> Source:
    """The source of a stream's batches; it says nowhere how many there are, so that the keys are read twice."""
    messages = pa.ipc.MessageReader.open_stream(mapped)
    stop = 0
    with suppress(StopIteration):
        while True:
            messages.read_next_message()
            stop = mapped.tell()
    mapped.seek(stop)  # the reader takes a stream without an end for a whole one
    if mapped.read(len(END)) != END:
        raise ValueError("the stream has no end: the file is truncated.")
    if stop + len(END) != mapped.size():
        raise ValueError(f"{mapped.size() - stop - len(END):,} bytes follow the end of the stream, and would be lost.")
    mapped.seek(0)
    schema = pa.ipc.open_stream(mapped).schema
    columns = _columns(pa, schema)

    def batches(*names: str) -> Iterator[Any]:
        mapped.seek(0)
        fields = [schema.get_field_index(name) for name in names]
        return iter(pa.ipc.open_stream(mapped, options=pa.ipc.IpcReadOptions(included_fields=fields)))

    rows = sum(batch.num_rows for batch in batches(columns[0]))
    return _source(pa, batches(*columns), columns, rows, max(1, rows))


@contextmanager
def _errors(pa: Any, path: str) -> Iterator[None]:
    """Errors of the package about what a file holds, as ValueErrors; those of a full disk or a lack of memory stay."""
    try:
        yield
    except pa.ArrowMemoryError as error:
        claimed = max(map(int, re.findall(r"\d+", str(error))), default=0)
        if claimed > MOST_PACKED * os.path.getsize(path):
            raise ValueError(f"the file is damaged: it claims to hold {claimed:,} bytes in one piece.") from error
        raise
    except pa.ArrowInvalid as error:  # a ValueError already
        raise ValueError(f"the file is damaged, truncated, or of another format: {str(error)[:300]}") from error
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError, pa.ArrowSerializationError) as error:
        raise ValueError(f"the file cannot be read: {str(error)[:300]}") from error
    except OSError as error:
        if error.errno is None:
            raise ValueError(f"the file is damaged, truncated, or of another format: {str(error)[:300]}") from error
        raise


def _columns(pa: Any, schema: Any) -> tuple[str, str]:
    """The names of the columns of keys and of vectors: of bytes and of tensors only where there are no plainer ones."""
    types = pa.types

    def as_key(kind: Any) -> int:
        kind = _plain_type(pa, kind)
        if types.is_integer(kind) or str(kind) in TEXTS:
            return 1
        return 2 if types.is_fixed_size_binary(kind) or str(kind) in BYTES else 0

    def as_vector(kind: Any) -> int:
        rank, one = 1, isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 1
        if one:
            rank, kind = 2, kind.storage_type
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return rank if lists and types.is_floating(kind.value_type) else 0

    found = []
    for what, wanted, rank in (("keys", KEYS, as_key), ("vectors", VECTORS, as_vector)):
        ranks = [(rank(one.type), one.name) for one in schema]
        best = min((number for number, _ in ranks if number), default=0)
        names = [name for number, name in ranks if number and (number == best or name == wanted)]
        if wanted in names:
            names = [wanted]
        if len(names) != 1 or schema.names.count(names[0]) != 1:
            columns = ", ".join(f"{one.name}: {one.type}" for one in list(schema)[:8])
            raise ValueError(
                f"there must be one column of {what}, or one that is called {wanted!r}: keys are texts, bytes or integers, and"
                f" vectors are lists of floats. Received: {columns or 'no columns'}."
            )
        found.append(names[0])
    return found[0], found[1]


def _plain_type(pa: Any, kind: Any) -> Any:
    """The type of keys as they are read, without a dictionary, run ends, or a type around texts or bytes."""
    while True:
        if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType) and not pa.types.is_integer(kind.storage_type):
            kind = kind.storage_type
        else:
            return kind


def _source(pa: Any, batches: Iterator[Any], columns: tuple[str, str], rows: int, total: int) -> Source:
    """The source of these batches; the first says what the vectors are."""
    first = next((batch for batch in batches if batch.num_rows), None)
    if first is None:
        raise ValueError("the file has no rows.")
    keys, vectors = _converted(pa, first, columns, 0)
    head = Head(rows, vectors.shape[1], vectors.dtype, kind_of(keys))

    def chunks() -> Iterator[Chunk]:
        done = len(keys)
        yield Chunk(keys, vectors, done / total)
        for batch in batches:
            if not batch.num_rows:
                continue
            more, others = _converted(pa, batch, columns, done, head.dim)
            done += len(more)
            yield Chunk(more, others.astype(head.dtype, copy=False), done / total)

    return Source(head, chunks())


def _converted(pa: Any, batch: Any, columns: tuple[str, str], row: int, dim: int | None = None) -> tuple[Keys, Array]:
    """Keys and vectors of a batch whose first row has this number."""
    batch.validate(full=True)  # or places that a damaged file names would be read wherever they are
    keys, lists = of_arrow(batch.column(columns[0]), (batch.num_rows,), columns[0]), batch.column(columns[1])
    absent = [keys.keys.missing, None]
    if absent[0] is not None:
        absent[0] = keys.spread(absent[0])
    if lists.null_count:
        absent[1] = np.array(lists.is_null())
    for mask, name in zip(absent, columns, strict=True):
        if mask is not None:
            where = row + int(mask.argmax())
            raise ValueError(f"row {where} has no {name!r}. Every row must have a key and a vector.")
    if isinstance(lists, pa.ExtensionArray):
        lists = lists.storage
    values = lists.flatten()
    if values.null_count:
        raise ValueError(f"a vector among the rows from {row} on has a missing number.")
    if dim is None:
        dim = len(values) // max(1, len(lists)) if pa.types.is_fixed_size_list(lists.type) else len(lists[0])
    if not pa.types.is_fixed_size_list(lists.type):
        lengths = np.diff(lists.offsets.to_numpy())
        if (lengths != dim).any():
            where = int((lengths != dim).argmax())
            raise ValueError(f"row {row + where} has {lengths[where]} numbers, and the rows before {dim}.")
    if not dim or len(values) != dim * len(lists):
        raise ValueError(f"vectors must have at least one number, and all as many. Received: {len(values)} in {len(lists)}.")
    array = values.to_numpy(zero_copy_only=False)
    wide = np.dtype(np.float64 if array.dtype == np.float64 else np.float32)
    vectors = array.astype(wide, copy=False).reshape(len(lists), dim)
    if keys.keys.kind != "int":
        listed: list[Any] = list(keys.keys.objects)
        return (listed if keys.take is None else [listed[place] for place in keys.take.tolist()]), vectors
    integers = keys.spread(keys.keys.packed.data)
    unsigned = _plain_type(pa, batch.schema.field(columns[0]).type) == pa.uint64()  # all batches of a file are of one kind
    return (integers.view(np.uint64) if unsigned else integers), vectors


def write_parquet(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    pa = pyarrow()
    schema = _schema(pa, head)
    # Numbers of vectors hardly repeat: a dictionary of them would only cost time.
    with pa.parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for batch in _batches(pa, schema, head, chunks):
            writer.write_table(pa.Table.from_batches([batch]))  # a group of its own: `write_batch` gathers them in memory


def write_arrow(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    pa = pyarrow()
    schema = _schema(pa, head)
    with pa.ipc.new_file(file, schema) as writer:
        for batch in _batches(pa, schema, head, chunks):
            writer.write_batch(batch)


def _schema(pa: Any, head: Head) -> Any:
    keys = {"text": pa.string(), "bytes": pa.binary(), "numbers": pa.int64(), "unsigned": pa.uint64()}[head.kind]
    numbers = pa.float64() if head.dtype == np.float64 else pa.float32()
    return pa.schema([pa.field(KEYS, keys, nullable=False), pa.field(VECTORS, pa.list_(numbers, head.dim), nullable=False)])


def _batches(pa: Any, schema: Any, head: Head, chunks: Iterable[Chunk]) -> Iterator[Any]:
    row, step = 0, rows_in_chunk(head)
    for chunk in chunks:
        if isinstance(chunk.keys, list):
            encoded(chunk.keys, row, "parquet")
        for start in range(0, len(chunk.keys), step):
            keys, vectors = chunk.keys[start : start + step], chunk.vectors[start : start + step]
            flat = pa.array(np.ascontiguousarray(vectors, head.dtype).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, head.dim)
            yield pa.record_batch([pa.array(keys, schema.field(0).type), lists.cast(schema.field(1).type)], schema=schema)
        row += len(chunk.keys)

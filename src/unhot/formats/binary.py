"""word2vec's binary format: a line with rows and dim, then for each key its text, a space, and float32 numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from unhot.formats.base import ANY_KEY, Array, Chunk, Head, Options, Source, Stream, encoded, rows_in_chunk, texts
from unhot.formats.text import LONGEST_LINE, NO_KEY, as_many, first_line, opened, said

FASTTEXT = (793712314).to_bytes(4, "little")
"""What a model of fastText begins with, whose files end in ".bin" as well."""

BLOCK = 1 << 20
FLOAT32 = np.dtype("<f4")


@contextmanager
def read_binary(path: str, options: Options) -> Iterator[Source]:
    with opened(path) as (stream, read):
        line = first_line(stream)
        if line.startswith(FASTTEXT):
            raise ValueError(
                "this is a model of fastText, not a file of vectors. Its vectors are in the file that ends in '.vec'."
            )
        rows, dim = said(line, "word2vec-binary")
        head = Head(rows, dim, np.dtype(np.float32), "text")
        yield Source(head, as_many(_chunks(stream, head, options, read), rows))


def _chunks(stream: Stream, head: Head, options: Options, read: Callable[[], float]) -> Iterator[Chunk]:
    """The chunks to the end of the stream."""
    size, most = head.dim * FLOAT32.itemsize, rows_in_chunk(head)
    row, rest, start, ended = 0, b"", 0, False
    keys: list[str] = []
    vectors: list[Array] = []
    while True:
        while rest.startswith(b"\n", start):  # the C program writes one after each vector, and gensim does not
            start += 1
        stop = rest.find(b" ", start)
        if stop < 0 or len(rest) < stop + 1 + size:
            if ended:
                break
            rest, start = rest[start:], 0
            if stop < 0 and len(rest) > LONGEST_LINE:
                raise ValueError(f"the key of row {row} has more than {LONGEST_LINE:,} characters: this is no file of vectors.")
            pieces = [rest, stream.read(BLOCK)]
            missing = max(0, (stop + 1 + size if stop >= 0 else 0) - len(rest) - len(pieces[1]))
            while missing > 0 and (piece := stream.read(min(missing, BLOCK))):
                pieces.append(piece)
                missing -= len(piece)
            ended = not pieces[-1]
            rest = b"".join(pieces)
            continue
        try:
            keys.append(rest[start:stop].decode("utf-8", options.errors))
        except UnicodeDecodeError:
            raise ValueError(
                f"the key of row {row}, {rest[start:stop][:60]!r}, is not UTF-8. {options.read_all_the_same()}"
            ) from None
        if not keys[-1]:
            raise ValueError(f"row {row} has no key.")
        vectors.append(np.frombuffer(rest, FLOAT32, head.dim, stop + 1))
        start, row = stop + 1 + size, row + 1
        if len(keys) == most:
            yield Chunk(keys, np.stack(vectors).astype(np.float32, copy=False), read())
            keys, vectors = [], []
    if keys:
        yield Chunk(keys, np.stack(vectors).astype(np.float32, copy=False), read())
    if rest[start:].strip(b"\n"):
        raise ValueError(f"the file ends in the midst of row {row}: it is truncated.")


def write_binary(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    width, rows = 20 if head.rows is None else len(str(head.rows)), 0
    file.write(f"{0:<{width}} {head.dim}\n".encode())
    for chunk in chunks:
        keys = encoded(texts(chunk.keys, rows, "word2vec-binary"), rows, "word2vec-binary", NO_KEY)
        narrow = chunk.vectors.astype(FLOAT32)
        if not np.array_equal(narrow, chunk.vectors, equal_nan=True):
            raise ValueError(
                "the format 'word2vec-binary' holds float32, and these are float64 numbers that would be rounded. Convert them"
                f" to float32 first, or use {ANY_KEY}."
            )
        file.writelines(b"%b %b" % (key, vector.tobytes()) for key, vector in zip(keys, narrow, strict=True))
        rows += len(keys)
    file.seek(0)
    file.write(f"{rows:<{width}} {head.dim}\n".encode())

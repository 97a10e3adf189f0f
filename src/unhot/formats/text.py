"""Vectors as text: word2vec's and fastText's format, whose first line says how many there are, GloVe's, and TensorBoard's."""

from __future__ import annotations

import gzip
import os
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import BinaryIO

import numpy as np

from unhot.formats.base import Chunk, Head, Keys, Options, Source, Stream, encoded, numbers_from, texts
from unhot.kernels import active as kernels
from unhot.kernels.reference_text import number

BLOCK = 1 << 22
LONGEST_LINE = 1 << 26
NUMBERS = 1 << 14
"""That are written at a time."""

SPACE, TAB = 0x20, 0x09

NO_KEY = re.compile(r"^\ufeff|[ \t\n\v\f\r]")
NO_LABEL = re.compile(r"^\ufeff|[\t\n\r]")


@contextmanager
def opened(path: str) -> Iterator[tuple[Stream, Callable[[], float]]]:
    """A file, unpacked if its name ends with ".gz", and what tells which part of it has been read.

    A mark of the byte order, with which some programs begin a file in UTF-8, is no part of it.
    """
    with open(path, "rb") as file, gzip.open(file) if is_packed(path) else nullcontext(file) as stream:
        size = max(1, os.fstat(file.fileno()).st_size)
        if stream.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
            stream.read(len(BOM_UTF8))
        yield stream, lambda: min(1.0, file.tell() / size)


def is_packed(path: str) -> bool:
    """Whether a file is compressed with gzip, by its name."""
    return path.lower().endswith(".gz")


class Lines:
    """Reads whole lines of a key and numbers from a stream.

    Args:
        stream: where it is read from.
        dim: the numbers in a line.
        separator: between them: `SPACE` or `TAB`.
        keyless: whether the lines have no keys.
        spaced: whether keys may contain separators.
        line: the number of the first line, for errors.
        advice: what errors about the number of fields, or about words among them, end with.
    """

    def __init__(
        self,
        stream: Stream,
        dim: int,
        separator: int,
        *,
        keyless: bool,
        spaced: bool,
        options: Options,
        line: int = 1,
        advice: str = "",
    ) -> None:
        self._stream, self._dim, self._separator, self._keyless, self._spaced = stream, dim, separator, keyless, spaced
        self._options, self._line, self._advice = options, line, advice

    def chunks(self, read: Callable[[], float]) -> Iterator[Chunk]:
        """The chunks to the end of the stream; without keys, they are the rows' numbers."""
        rest, ended, row = b"", False, 0
        while not ended:
            block = self._stream.read(BLOCK)
            ended = not block
            text = rest + block
            if ended and text and not text.endswith(b"\n"):
                text += b"\n"
            start = 0
            while (stop := text.rfind(b"\n") + 1) > start:
                chunk, consumed = self._parse(text, start, stop, row)
                if not consumed:
                    break
                start += consumed
                row += len(chunk.keys)
                yield chunk._replace(read=read())
            rest = text[start:]
            if (newline := rest.find(b"\n")) >= 0:  # a line that is not as it should be
                self._blank_to_the_end(rest, newline)
                return
            if len(rest) > LONGEST_LINE:
                raise ValueError(f"line {self._line} has more than {LONGEST_LINE:,} characters: this is no file of vectors.")

    def _parse(self, text: bytes, start: int, stop: int, row: int) -> tuple[Chunk, int]:
        """The lines from `start` on, as many as there is room for; the characters that they take."""
        most = min(text.count(b"\n", start, stop), (stop - start) // (2 * self._dim))  # a number has a character or more
        vectors = np.empty((most, self._dim), self._options.dtype)
        spans, odd = np.empty((most, 2), np.int64), np.empty((max(self._dim, 1024) if most else 0, 4), np.int64)
        if not most:
            return Chunk([], vectors, 0.0), 0
        part = np.frombuffer(text, np.uint8, stop - start, start)
        with np.errstate(over="ignore"):
            rows, consumed, odds, _ = kernels.parse_lines(
                part, self._separator, self._keyless, self._spaced, vectors, spans, odd
            )
            for at, column, begin, end in odd[:odds].tolist():
                field = text[start + begin : start + end]
                value = number(field)
                if value is None:
                    raise ValueError(f"line {self._line + at}: number {column + 1} is {_shown(field)}.{self._advice}")
                vectors[at, column] = value
        keys: Keys = numbers_from(row, rows)
        if not self._keyless:
            keys = _keys(text, (spans[:rows] + start).tolist(), self._options, self._line)
        self._line += rows
        return Chunk(keys, vectors[:rows], 0.0), consumed

    def _blank_to_the_end(self, rest: bytes, newline: int) -> None:
        """Raise ValueError for a line that has not the fields that it should; empty lines at the end do no harm."""
        line = rest[:newline]
        if not line.strip():
            while not rest.strip() and rest:
                rest = self._stream.read(BLOCK)
            if not rest:
                return
        fields = len(line.rstrip(b" \t\r").split(bytes([self._separator]))) if line.strip() else 0
        wanted = f"{self._dim} numbers" if self._keyless else f"a key and {self._dim} numbers"
        raise ValueError(f"line {self._line} has {fields} fields, and should have {wanted}: {_shown(line)}.{self._advice}")


def _shown(text: bytes) -> str:
    return repr(text if len(text) <= 60 else text[:57] + b"...").removeprefix("b")


def _keys(text: bytes, spans: list[list[int]], options: Options, line: int) -> list[str]:
    try:
        keys = [text[start:stop].decode("utf-8", options.errors) for start, stop in spans]
    except UnicodeDecodeError as error:
        at = next(at for at, (start, stop) in enumerate(spans) if text[start:stop] == error.object)
        raise ValueError(
            f"line {line + at}: the key {_shown(error.object)} is not UTF-8. {options.read_all_the_same()}"
        ) from None
    if "" in keys:
        raise ValueError(f"line {line + keys.index('')}: there is no key.")
    return keys


def first_line(stream: Stream) -> bytes:
    """The first line, without its end."""
    line = stream.readline(LONGEST_LINE)
    if not line.endswith(b"\n") and len(line) == LONGEST_LINE:
        raise ValueError(f"line 1 has {LONGEST_LINE:,} characters or more: this is no file of vectors.")
    return line.rstrip(b"\r\n")


def counts(line: bytes) -> tuple[int, int] | None:
    """The rows and the dim that a first line says, or None if it is another line."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() and len(field) < 16 for field in fields):
        return None
    return int(fields[0]), int(fields[1])


def said(line: bytes, format_: str) -> tuple[int, int]:
    """The rows and the dim that a first line says, or an error."""
    found = counts(line)
    if found is None or found[1] == 0:
        raise ValueError(f"a file in the format {format_!r} begins with its rows and its dim. Received: {_shown(line)}.")
    return found


# ------------------------------------------------------------------ word2vec and fastText


@contextmanager
def read_word2vec(path: str, options: Options) -> Iterator[Source]:
    """word2vec's text, and fastText's `.vec`: a line with rows and dim, then a line for each key."""
    with opened(path) as (stream, read):
        rows, dim = said(first_line(stream), "word2vec")
        lines = Lines(stream, dim, SPACE, keyless=False, spaced=False, options=options, line=2)
        yield Source(Head(rows, dim, options.dtype, "text"), as_many(lines.chunks(read), rows))


def as_many(chunks: Iterable[Chunk], rows: int) -> Iterator[Chunk]:
    """The chunks, with an error unless they have so many rows in all."""
    found = 0
    for chunk in chunks:
        found += len(chunk.keys)
        if found > rows:
            break
        yield chunk
    if found != rows:
        many = "more" if found > rows else f"{found:,}"
        raise ValueError(f"the first line announces {rows:,} vectors, and there are {many}: the file is damaged or truncated.")


def write_word2vec(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    width = 20 if head.rows is None else len(str(head.rows))

    def first(rows: int) -> bytes:
        return f"{rows:<{width}} {head.dim}\n".encode()

    file.write(first(head.rows or 0))
    rows = _write_lines(file, chunks, "word2vec")
    if rows != head.rows:
        file.seek(0)
        file.write(first(rows))


def _write_lines(file: BinaryIO, chunks: Iterable[Chunk], format_: str) -> int:
    """Write a line for each key; how many there were."""
    rows = 0
    for chunk in chunks:
        keys = encoded(texts(chunk.keys, rows, format_), rows, format_, NO_KEY)
        file.writelines(b"%b %b\n" % (key, b" ".join(line)) for key, line in zip(keys, _shortest(chunk), strict=True))
        rows += len(keys)
    return rows


def _shortest(chunk: Chunk) -> Iterator[list[bytes]]:
    """The numbers of each row, in as few digits as say which they are; a few rows at a time, since texts take much memory."""
    step = max(1, NUMBERS // chunk.vectors.shape[1])
    for start in range(0, len(chunk.vectors), step):
        yield from chunk.vectors[start : start + step].astype("S32").tolist()


# ------------------------------------------------------------------ GloVe


@contextmanager
def read_glove(path: str, options: Options) -> Iterator[Source]:
    """GloVe's text: a line for each key, which may contain spaces; the numbers are the last fields of the line."""
    dim, advice = options.dim, ""
    if dim is None:
        with opened(path) as (stream, _):
            line = first_line(stream)
        dim = line.rstrip(b" ").count(b" ")
        if dim == 0:
            raise ValueError(f"line 1 has no numbers: {_shown(line)}. A file of GloVe's has a key and its vector in each line.")
        advice = (
            f" The first line was read as a key without spaces and {dim} numbers. If that key has spaces, pass"
            f" {options.wording.given('dim')}, the length of a vector."
        )
        for place, field in enumerate(line.rstrip(b" ").split(b" ")[1:]):
            if number(field) is None:  # also for those who ask for nothing but the dim
                raise ValueError(f"line 1: number {place + 1} is {_shown(field)}.{advice}")
    with opened(path) as (stream, read):
        lines = Lines(stream, dim, SPACE, keyless=False, spaced=True, options=options, advice=advice)
        yield Source(Head(None, dim, options.dtype, "text"), lines.chunks(read))


def write_glove(file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None:
    _write_lines(file, chunks, "glove")


# ------------------------------------------------------------------ TensorBoard's projector


def labels_path(path: str) -> str:
    """Where the labels of a file of vectors are: "vectors.tsv" has its in "metadata.tsv", "x.tsv" in "x_metadata.tsv"."""
    folder, name = os.path.split(path)
    packed = name[-len(".gz") :] if is_packed(name) else ""
    stem = name.removesuffix(packed).removesuffix(".tsv")
    labels = re.sub(r"(vectors|tensors?)$", "metadata", stem)
    return os.path.join(folder, (labels if labels != stem else f"{stem}_metadata") + ".tsv" + packed)


@contextmanager
def read_projector(path: str, options: Options) -> Iterator[Source]:
    """The vectors of TensorBoard's projector, a line of numbers for each, with the labels of the file beside it as keys.

    A file of labels with several columns begins with their names, and the first column has the keys. Without such a file, the
    keys are the rows' numbers.
    """
    with opened(path) as (stream, read):
        dim = first_line(stream).rstrip(b"\t").count(b"\t") + 1
    with opened(path) as (stream, read):
        lines = Lines(stream, dim, TAB, keyless=True, spaced=False, options=options).chunks(read)
        labels = labels_path(path)
        if os.path.exists(labels):
            with opened(labels) as (names, _):
                yield Source(Head(None, dim, options.dtype, "text"), _labelled(lines, _labels(names, options)))
        else:
            yield Source(Head(None, dim, options.dtype, "numbers"), lines)


def _labels(stream: Stream, options: Options) -> Iterator[str]:
    several = False
    for number_, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE), b"")):
        fields = line.rstrip(b"\r\n").split(b"\t")
        if number_ == 0:
            several = len(fields) > 1
        if number_ or not several:
            yield _keys(fields[0], [[0, len(fields[0])]], options, number_ + 1)[0]


def _labelled(chunks: Iterable[Chunk], labels: Iterator[str]) -> Iterator[Chunk]:
    rows = 0
    for chunk in chunks:
        keys = list(islice(labels, len(chunk.vectors)))
        rows += len(keys)
        if len(keys) < len(chunk.vectors):
            raise ValueError(f"there are {rows:,} labels, and more vectors.")
        yield chunk._replace(keys=keys)
    if next(labels, None) is not None:
        raise ValueError(f"there are {rows:,} vectors, and more labels.")


def write_projector(file: BinaryIO, labels: BinaryIO, chunks: Iterable[Chunk]) -> None:
    """Write vectors and labels into two files."""
    rows = 0
    for chunk in chunks:
        keys = encoded(texts(chunk.keys, rows, "projector"), rows, "projector", NO_LABEL)
        file.writelines(b"\t".join(line) + b"\n" for line in _shortest(chunk))
        labels.writelines(key + b"\n" for key in keys)
        rows += len(keys)

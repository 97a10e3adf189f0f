"""The formats by name, and which of them a file has, by its name and its first line."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, NamedTuple

from unhot.formats import arrays, arrow, binary, table_files, text
from unhot.formats.base import Chunk, Head, Options, Source, Wording, Writer
from unhot.storage import files


class Format(NamedTuple):
    """How a format is read and written."""

    read: Callable[[str, Options], AbstractContextManager[Source]]
    write: Writer | None
    """None for the one that writes two files."""

    endings: tuple[str, ...]
    """Of the names of such files."""


FORMATS = {
    "word2vec": Format(text.read_word2vec, text.write_word2vec, (".vec", ".w2v")),
    "word2vec-binary": Format(binary.read_binary, binary.write_binary, (".bin",)),
    "glove": Format(text.read_glove, text.write_glove, (".txt", ".glove")),
    "fasttext": Format(text.read_word2vec, text.write_word2vec, ()),
    "npy": Format(arrays.read_npy, arrays.write_npy, (".npy",)),
    "npz": Format(arrays.read_npz, arrays.write_npz, (".npz",)),
    "parquet": Format(arrow.read_parquet, arrow.write_parquet, (".parquet",)),
    "arrow": Format(arrow.read_arrow, arrow.write_arrow, (".arrow", ".feather", ".ipc")),
    "projector": Format(text.read_projector, None, (".tsv",)),
    "safetensors": Format(table_files.read_safetensors, table_files.write_safetensors, (".safetensors",)),
}

PACKED = ("word2vec", "word2vec-binary", "glove", "fasttext", "projector")
"""The formats that may be compressed, in files that end with ".gz"."""


def format_of(path: str, format_: str | None, wording: Wording, *, reading: bool) -> str:
    """The format that was asked for, or that the file's name says; a ".txt" that is there may be word2vec's.

    Raises: ValueError if there is no such format, or if the name does not say which.
    """
    if format_ is not None:
        if format_ not in FORMATS:
            raise ValueError(f"there is no format {format_!r}. There are: {', '.join(FORMATS)}.")
        name = format_
    else:
        plain = path.lower().removesuffix(".gz")
        ending = os.path.splitext(plain)[1]
        found = next((name for name, one in FORMATS.items() if ending in one.endings), None)
        if found is None:
            option = wording.given(wording.source if reading else wording.target)
            known = ", ".join(ending for one in FORMATS.values() for ending in one.endings)
            raise ValueError(
                f"the name of {path!r} does not say its format. Pass {option}, one of {', '.join(FORMATS)}, or use one of the"
                f" endings {known}."
            )
        name = found
        if reading and ending == ".txt":
            with text.opened(path) as (stream, _):
                name = "word2vec" if text.counts(text.first_line(stream)) else "glove"
    if text.is_packed(path) and name not in PACKED:
        raise ValueError(f"files of the format {name!r} are not compressed with gzip here. Leave out '.gz'.")
    return name


@contextmanager
def opened(path: str, format_: str | None, options: Options) -> Iterator[Source]:
    """The vectors of a file.  Errors about what it holds begin with its path."""
    try:
        name = format_of(path, format_, options.wording, reading=True)
        with FORMATS[name].read(path, options) as source:
            yield source
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(str(error) if str(error).startswith(repr(path)) else f"{path!r}: {error}") from error


def write(path: str, format_: str | None, head: Head, chunks: Iterable[Chunk], wording: Wording) -> None:
    """Write vectors into a file, which is there as a whole once all is written, and not before."""
    name = format_of(path, format_, wording, reading=False)
    writer, packed = FORMATS[name].write, text.is_packed(path)
    if writer is not None:
        files.replace(path, _packing(lambda file: writer(file, head, chunks), packed))
        return

    def both(vectors: BinaryIO) -> None:
        labels = text.labels_path(path)
        files.replace(labels, _packing(lambda keys: text.write_projector(vectors, keys, chunks), packed))

    files.replace(path, _packing(both, packed))


def _packing(write_plain: Callable[[BinaryIO], None], packed: bool) -> Callable[[BinaryIO], None]:
    """What writes the same, compressed if it is to be `packed`: by way of a file that can be sought in."""
    if not packed:
        return write_plain

    def write_packed(file: BinaryIO) -> None:
        with tempfile.TemporaryFile() as plain, gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as to:
            write_plain(plain)
            plain.seek(0)
            shutil.copyfileobj(plain, to, 1 << 20)

    return write_packed

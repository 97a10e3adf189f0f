"""`unhot.read_vectors` and `unhot.write_vectors`, and what turns a file of one format into another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot.arraylike import RealsLike
from unhot.formats import registry
from unhot.formats.base import (
    Array,
    Chunk,
    Duplicates,
    Errors,
    Head,
    Keys,
    Numbers,
    Options,
    Wording,
    distinct,
    fewest_bits,
    kind_of,
    rows_in_chunk,
)
from unhot.ids import as_plain
from unhot.keys.reading import KeysLike, read
from unhot.storage.files import Path, as_path
from unhot.vocabulary import Vocabulary

ONE_VECTOR = "Give one vector for each key."
"""What to do about keys that are to be written twice."""


class Vectors(NamedTuple):
    """Keys and their vectors.

    Args:
        keys: a list of texts, a list of bytes, or an array of integers: int64, or uint64 if one of them is 2**63 or more.
        vectors: (rows, dim), float32 or float64.

    Raises: TypeError for another number of arguments.

    Example:
        >>> import numpy as np
        >>> from unhot.formats.vectors import Vectors
        >>> Vectors(["a", "b"], np.zeros((2, 3), np.float32)).vectors.shape
        (2, 3)
    """

    keys: list[str] | list[bytes] | Numbers
    vectors: Array


def read_vectors(
    path: Path,
    format: str | None = None,
    *,
    errors: Errors = "strict",
    duplicates: Duplicates = "raise",
    dim: int | None = None,
    dtype: npt.DTypeLike = "float32",
) -> Vectors:
    """Keys and vectors from a file of word2vec, GloVe, fastText, NumPy, Parquet, Arrow, TensorBoard's projector or unhot.

    Args:
        path: the file. Files of text and of word2vec may be compressed with gzip, with the ending ".gz".
        format: "word2vec" (text), "word2vec-binary", "glove", "fasttext" (.vec), "npy" (vectors alone), "npz" ("keys" and
            "vectors", or a `state_dict`), "parquet", "arrow" (Feather and streams, too), "projector" (two files: x.tsv has its
            keys in x_metadata.tsv beside it, and vectors.tsv in metadata.tsv) or "safetensors" (a table's or an embedding's).
            None goes by the name's ending: .vec, .bin, .txt or .glove, .npy, .npz, .parquet, .arrow or .feather, .tsv,
            .safetensors. A .txt is word2vec's if its first line is two integers, else GloVe's.
        errors: what happens to a key that is not UTF-8: "strict" (an error), "replace" or "ignore".
        duplicates: what happens to a key that has been there before: "raise" (an error), "first" (later ones are left out, as
            gensim does) or "keep".
        dim: the length of a vector, for GloVe's format if the first key contains spaces. In that format, keys may contain
            spaces (". . ." does in GloVe's own files): the vector is the last `dim` fields of a line.
        dtype: what the numbers of a text become, "float32" or "float64". Other formats say it themselves.

    Returns: keys (a list of texts; a list of bytes, of binary columns; or integers, which are the rows' numbers if the file has
        no keys: int64, or uint64 if one of them is 2**63 or more), and vectors of shape (rows, dim). Of an embedding, its keys
        in the order of their rows, without reserved rows, buckets and the missing key; keys that are bytes become texts. Of a
        table, the rows that are not removed.

    Raises: ValueError if the file is truncated, damaged or of another format, with the number of the line or row; OSError if it
        cannot be read; ModuleNotFoundError if Parquet or Arrow needs pyarrow.

    Example:
        >>> import os, tempfile, numpy as np, unhot
        >>> path = os.path.join(tempfile.mkdtemp(), "words.vec")
        >>> unhot.write_vectors(path, ["king", "queen"], np.array([[0.5, 1.0], [0.25, -1.0]], np.float32))
        >>> keys, vectors = unhot.read_vectors(path)
        >>> keys, vectors.tolist()
        (['king', 'queen'], [[0.5, 1.0], [0.25, -1.0]])
        >>> table = unhot.Table.from_array(vectors, optimizer=unhot.Adam())
    """
    name = as_path(path)
    options = Options.checked(errors, duplicates, dim, dtype, wording=Wording())
    with registry.opened(name, format, options) as (head, chunks):
        return _collected(head, distinct(chunks, duplicates, options.leave_out_later()))


def _collected(head: Head, chunks: Iterable[Chunk]) -> Vectors:
    """All in one. Memory is taken for what has been read, and not for what the file claims."""
    texts: list[Any] = []
    numbers: list[Array] = []
    vectors, rows = np.empty((0, head.dim), head.dtype), 0
    for chunk in chunks:
        stop = rows + len(chunk.keys)
        if stop > len(vectors):
            guess = int(1.02 * stop / max(chunk.read, 1e-3)) + 64
            room = max(stop, guess if head.rows is None else min(guess, head.rows))
            vectors.resize((room, head.dim), refcheck=False)  # no view of it is left
        vectors[rows:stop] = chunk.vectors
        if isinstance(chunk.keys, list):
            texts += chunk.keys
        else:
            numbers.append(chunk.keys)
        rows = stop
    vectors.resize((rows, head.dim), refcheck=False)
    integers = fewest_bits(np.concatenate(numbers)) if numbers else np.empty(0, np.int64)
    return Vectors(texts if head.kind in ("text", "bytes") else integers, vectors)


def write_vectors(path: Path, keys: KeysLike | Vocabulary, vectors: RealsLike, format: str | None = None) -> None:
    """Write keys and vectors into a file of any format that `read_vectors` reads.

    The file is there as a whole once all is written, and not before, as with `Table.save`. Numbers in text have as many digits
    as it takes to read the same back. `unhot.load` reads a safetensors file as an embedding without an optimizer, whose
    vocabulary has the keys; or as a table, if the keys are the rows' numbers from 0 on.

    Args:
        path: the file. With the ending ".gz", text and word2vec's binary format are compressed. With ".tsv", the keys go into
            a second file beside it: those of x.tsv into x_metadata.tsv, and of vectors.tsv into metadata.tsv.
        keys: texts, bytes or integers, one for each row, all different: a list, an array, or a column of pandas, Polars or
            Arrow. Formats of text hold integers as their digits, and bytes as the text that they are in UTF-8. Or a
            `Vocabulary`: its keys in the order of their rows.
        vectors: floats of shape (rows, dim). With a vocabulary, they are a table of all its rows (`vocabulary.rows`), and those
            without a key are left out: reserved rows, buckets, the rows of removed keys, and that of the missing key.
        format: as for `read_vectors`. None goes by the name's ending, and a .txt is GloVe's.

    Raises: ValueError for keys that the format cannot hold, such as one with a space in a file of text, which names the key and
        the formats to use instead; for keys that are missing or not distinct, for integers below 0 and of 2**63 or more in one
        file, and for shapes that do not fit. TypeError for keys or vectors of another type; OSError if the file cannot be
        written. A file that is there stays as it is after an error.

    Example:
        >>> import os, tempfile, numpy as np, unhot
        >>> path = os.path.join(tempfile.mkdtemp(), "words.npz")
        >>> unhot.write_vectors(path, ["New York", "Rome"], np.eye(2))
        >>> unhot.read_vectors(path).keys
        ['New York', 'Rome']
        >>> words = unhot.Vocabulary(["king", "queen"], unknown=0)
        >>> unhot.write_vectors(path, words, np.array([[0.0], [0.5], [0.25]]))  # row 0 stands for unknown words
        >>> unhot.read_vectors(path).keys
        ['king', 'queen']
    """
    name = as_path(path)
    array = as_plain(vectors, "vectors")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"`vectors` must be floats. Received: dtype {array.dtype}.")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"`vectors` must be of shape (rows, dim), neither of them 0. Received: shape {array.shape}.")
    array = array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32, copy=False)
    if isinstance(keys, Vocabulary):
        named, array = _with_keys(keys, array)
    else:
        named = as_keys(keys)
    if len(named) != len(array):
        raise ValueError(f"there must be a key for each vector. Received: {len(named)} keys and {len(array)} vectors.")
    head = Head(len(array), array.shape[1], array.dtype, kind_of(named))
    step = rows_in_chunk(head)
    parts = (Chunk(named[at : at + step], array[at : at + step], 0.0) for at in range(0, len(array), step))
    registry.write(name, format, head, distinct(parts, "raise", ONE_VECTOR), Wording())


def as_keys(keys: Any) -> Keys:
    """Keys as a list of texts or bytes, or an array of integers; an error for anything else.

    Example:
        >>> from unhot.formats.vectors import as_keys
        >>> as_keys([3, 7])
        array([3, 7])
    """
    if isinstance(keys, list) and all(type(key) is str for key in keys):
        return keys  # also such as UTF-8 cannot hold: only a format knows the row of one
    column = read(keys, "keys")
    if len(column.shape) != 1:
        raise TypeError(
            "`keys` must be texts, bytes or integers, one for each row, in a list, an array or a column of one dimension."
            f" Received: {type(keys).__name__} of shape {column.shape}."
        )
    found = column.keys
    if found.missing is not None:
        where = column.where(int(np.flatnonzero(found.missing)[0]))
        raise ValueError(f"`keys` has a missing value{where}. Every row must have a key: leave out the others.")
    if found.kind == "int":
        packed = found.packed
        if packed.large is not None and (low := packed.data[~packed.large]).size and low.min() < 0:
            raise ValueError(
                f"`keys` holds integers below 0, such as {low.min()}, and of 2**63 or more, such as"
                f" {packed.data[packed.large].view(np.uint64).max()}, and no array of integers holds both. Make them texts."
            )
        integers: Array = packed.data.view(np.int64 if packed.large is None else np.uint64)
        return integers if column.take is None else integers[column.take]
    listed: list[Any] = list(found.objects)
    return listed if column.take is None else [listed[place] for place in column.take.tolist()]


def _with_keys(vocabulary: Vocabulary, array: Array) -> tuple[Keys, Array]:
    """The keys of a vocabulary, and the vectors of their rows."""
    rows = vocabulary.rows
    if len(array) != rows:
        raise ValueError(
            f"with a vocabulary, `vectors` must have one for each of its {rows} rows, also for those without a key, which are"
            f" left out. Received: {len(array)} vectors. For one vector for each key, pass list(vocabulary)."
        )
    keys = vocabulary.decode(np.arange(rows), default=None)
    assert isinstance(keys, np.ndarray)
    if keys.dtype != object:
        return as_keys(keys), array
    there = np.array([key is not None for key in keys.tolist()])
    if not there.any():
        raise ValueError("the vocabulary has no keys.")
    return as_keys(keys[there].tolist()), array if there.all() else array[there]


IN_PYTHON = Wording("source_format", "target_format")


def convert(
    source: Path,
    target: Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    errors: Errors = "strict",
    duplicates: Duplicates = "raise",
    dim: int | None = None,
    dtype: npt.DTypeLike = "float32",
    progress: Callable[[float, int], object] = lambda part, rows: None,
    wording: Wording = IN_PYTHON,
) -> int:
    """Turn a file of one format into one of another, piece by piece: the vectors are never in memory all at once.

    Args:
        source, source_format, errors, duplicates, dim, dtype: as for `read_vectors`. To find duplicates, all keys are kept.
        target, target_format: as for `write_vectors`.
        progress: called after each piece, with the part of the source that has been read, and the rows written.
        wording: what errors call the options.

    Returns: the number of rows.

    Raises: as for `read_vectors` and `write_vectors`.

    Example:
        >>> import os, tempfile, numpy as np, unhot
        >>> from unhot.formats.vectors import convert
        >>> folder = tempfile.mkdtemp()
        >>> words = os.path.join(folder, "words.vec")
        >>> unhot.write_vectors(words, ["king", "queen"], np.eye(2))
        >>> convert(words, os.path.join(folder, "words.safetensors"))
        2
        >>> unhot.load(os.path.join(folder, "words.safetensors"))["queen"]
        array([0., 1.], dtype=float32)
    """
    from_, to = as_path(source, "source"), as_path(target, "target")
    options = Options.checked(errors, duplicates, dim, dtype, wording=wording)
    rows = 0

    def told(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        nonlocal rows
        for chunk in chunks:
            yield chunk
            rows += len(chunk.keys)
            progress(chunk.read, rows)

    with registry.opened(from_, source_format, options) as (head, chunks):
        registry.write(to, target_format, head, told(distinct(chunks, duplicates, options.leave_out_later())), wording)
    return rows

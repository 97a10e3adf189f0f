"""What every format reads and writes: chunks of keys with their vectors, and what is known of them before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import IO, Any, BinaryIO, Literal, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from unhot.creation import as_dtype

Array = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.uint64]
Keys = list[str] | list[bytes] | Numbers
"""Texts, bytes, or integers: uint64 where some of them are 2**63 or more."""

Errors = Literal["strict", "replace", "ignore"]
Duplicates = Literal["raise", "first", "keep"]

CHUNK_BYTES = 1 << 22
"""About what a chunk's vectors take."""

ANY_KEY = "'parquet', 'arrow' or 'safetensors'"
"""The formats that hold any key."""

Stream = BufferedIOBase | IO[bytes]
"""What is read from: a file, one that is being unpacked, or a member of an archive."""

Kind = Literal["text", "bytes", "numbers", "unsigned"]
"""Of keys: the last are uint64, and "numbers" int64."""


class Head(NamedTuple):
    """What is known of vectors before they are read."""

    rows: int | None
    """None if only reading all of them can tell."""

    dim: int
    dtype: np.dtype[Any]
    """float32 or float64."""

    kind: Kind
    """Of the keys."""


class Chunk(NamedTuple):
    """Some keys with their vectors."""

    keys: Keys
    vectors: Array
    """(keys, dim)."""

    read: float
    """The part of the file that has been read so far, from 0 to 1."""


class Source(NamedTuple):
    """Vectors that are being read."""

    head: Head
    chunks: Iterator[Chunk]


@dataclass(frozen=True)
class Wording:
    """What errors call the options: what whoever asked calls them, in Python or on the command line.

    Args:
        source, target: the options that name the format of the file to read, and of that to write.
        command_line: whether they were given there.

    Example:
        >>> Wording().given("duplicates", "first"), Wording(command_line=True).given("duplicates", "first")
        ("duplicates='first'", '--duplicates first')
    """

    source: str = "format"
    target: str = "format"
    command_line: bool = False

    def given(self, option: str, value: str = "") -> str:
        """How an option is given, with this value or with any."""
        if self.command_line:
            return f"--{option} {value}".rstrip()
        return f"{option}={value!r}" if value else f"{option}="

    def named(self, option: str) -> str:
        """What an option is called."""
        return f"--{option}" if self.command_line else f"`{option}`"


@dataclass(frozen=True)
class Options:
    """How a file is read.

    Args:
        errors: what happens to keys that are not UTF-8: "strict" (an error), "replace" or "ignore", as in `bytes.decode`.
        dim: the length of a vector, where a file of text does not say and its first key contains spaces.
        dtype: what the numbers of a text become.
        duplicates: what happens to keys that have been there before.
        wording: what errors call these options.
    """

    errors: Errors = "strict"
    dim: int | None = None
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    duplicates: Duplicates = "raise"
    wording: Wording = field(default_factory=Wording)

    @classmethod
    def checked(
        cls, errors: Any = "strict", duplicates: Any = "raise", dim: Any = None, dtype: Any = "float32", *, wording: Wording
    ) -> Options:
        """The options that a user gives; ValueError or TypeError for those that there are not."""
        for name, value, all_ in (
            ("errors", errors, ("strict", "replace", "ignore")),
            ("duplicates", duplicates, ("raise", "first", "keep")),
        ):
            if value not in all_:
                raise ValueError(f"{wording.named(name)} must be one of {', '.join(map(repr, all_))}. Received: {value!r}.")
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1):
            raise ValueError(f"{wording.named('dim')} must be a positive integer or None. Received: {dim!r}.")
        if wording.command_line and dtype not in ("float32", "float64"):
            raise ValueError(f"--dtype must be float32 or float64. Received: {dtype!r}.")
        return cls(errors, None if dim is None else int(dim), as_dtype(dtype), duplicates, wording)

    def read_all_the_same(self) -> str:
        """What to do about keys that are not UTF-8."""
        replace, ignore = self.wording.given("errors", "replace"), self.wording.given("errors", "ignore")
        return f"Pass {replace} or {ignore} to read it all the same."

    def leave_out_later(self) -> str:
        """What to do about keys that occur again."""
        first, keep = self.wording.given("duplicates", "first"), self.wording.given("duplicates", "keep")
        return f"Pass {first} to leave out later vectors of the same key, or {keep} to have all."


class Writer(Protocol):
    """What writes vectors to a file that can be sought in, from its beginning."""

    def __call__(self, file: BinaryIO, head: Head, chunks: Iterable[Chunk]) -> None: ...


def kind_of(keys: Keys) -> Kind:
    """What keys are."""
    if isinstance(keys, np.ndarray):
        return "unsigned" if keys.dtype == np.uint64 else "numbers"
    return "bytes" if keys and isinstance(keys[0], bytes) else "text"


def fewest_bits(keys: npt.NDArray[Any]) -> Numbers:
    """Integers as int64, unless one of them is 2**63 or more: then as uint64."""
    if keys.dtype == np.uint64 and keys.size and keys.max() >= 1 << 63:
        return keys
    return keys.astype(np.int64, copy=False)


def rows_in_chunk(head: Head) -> int:
    """How many rows a chunk has where the format leaves it open."""
    return max(1, CHUNK_BYTES // (head.dim * head.dtype.itemsize))


def texts(keys: Keys, first: int, format_: str) -> list[str]:
    """The keys as formats of text hold them, the first of them that of row `first`: numbers in decimal digits.

    Raises: ValueError for bytes that are not UTF-8.
    """
    if isinstance(keys, np.ndarray):
        return list(map(str, keys.tolist()))
    found: list[str] = []
    for row, key in enumerate(keys, start=first):
        try:
            found.append(key.decode() if isinstance(key, bytes) else str(key))
        except UnicodeDecodeError:
            raise ValueError(
                f"the key {key!r} of row {row} is not UTF-8, and the format {format_!r} holds texts. Use {ANY_KEY}, which hold"
                " any key."
            ) from None
    return found


def numbers_from(start: int, count: int) -> npt.NDArray[np.int64]:
    """The keys of rows that have none: their numbers."""
    return np.arange(start, start + count, dtype=np.int64)


def encoded(
    keys: Sequence[str] | Sequence[bytes], first: int, format_: str, forbidden: re.Pattern[str] | None = None
) -> list[bytes]:
    """The keys in UTF-8, the first of them that of row `first`; keys that are bytes are as they are.

    Raises: ValueError for one that the format cannot hold: with a character that is `forbidden`, an empty one if there are
        such, or one that is no Unicode text.
    """
    for row, key in enumerate(keys, start=first):
        if forbidden is not None and (not key or (isinstance(key, str) and forbidden.search(key))):
            problem = (
                "contains a space, a tab or an end of line, or begins with a mark of the byte order" if key else "is empty"
            )
            raise ValueError(
                f"the key {key!r} of row {row} {problem}, and would not survive in the format {format_!r}. Use {ANY_KEY}, which"
                " hold any key."
            )
    try:
        return [key if isinstance(key, bytes) else key.encode() for key in keys]
    except UnicodeEncodeError:
        row = next(
            row
            for row, key in enumerate(keys)
            if isinstance(key, str) and any("\ud800" <= letter <= "\udfff" for letter in key)
        )
        raise ValueError(f"the key {keys[row]!r} of row {first + row} is no Unicode text, and cannot be written.") from None


def distinct(chunks: Iterable[Chunk], duplicates: Duplicates, advice: str) -> Iterator[Chunk]:
    """The chunks without, or with an error for, keys that have been there before; all keys are kept in memory meanwhile.

    The error ends with `advice`: what to do.
    """
    if duplicates == "keep":
        yield from chunks
        return
    seen: set[Any] = set()
    row = 0
    for chunk in chunks:
        keys = chunk.keys if isinstance(chunk.keys, list) else chunk.keys.tolist()
        own = set(keys)
        if len(own) == len(keys) and seen.isdisjoint(own):  # mostly so, and without a loop in Python
            seen |= own
            yield chunk
        else:
            kept = []
            for place, key in enumerate(keys):
                if key not in seen:
                    seen.add(key)
                    kept.append(place)
                elif duplicates == "raise":
                    raise ValueError(f"the key {key!r} occurs again, in row {row + place}. {advice}")
            some = chunk.keys[kept] if isinstance(chunk.keys, np.ndarray) else cast("Keys", [keys[place] for place in kept])
            yield Chunk(some, chunk.vectors[kept], chunk.read)
        row += len(keys)

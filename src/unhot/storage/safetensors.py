"""Files of named arrays in the format of the package `safetensors`: a header in JSON, then the arrays' bytes one by one.

It is read and written here, and not by that package, because tables are written without a second copy of them, are mapped to be
trained in place, and are checked for damage: the metadata hold a checksum (CRC-32) of each array.

References: https://huggingface.co/docs/safetensors (the format).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from unhot import arrays

Array = npt.NDArray[Any]

DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
"""The format's names of dtypes, and NumPy's."""

OTHER_SIZES = {"BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "C64": 8}
"""Bytes of a number of the dtypes that are not read here."""

NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}

CHECKSUMS = "unhot.crc32"
"""The metadata's key of the arrays' checksums: eight hexadecimal digits for each, in the order in which the arrays lie."""

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the package `safetensors`."""

LINE = 64
PIECE = 1 << 24
"""Bytes that are written or read at a time."""


class Entry(NamedTuple):
    """One array of a file."""

    dtype: str
    """By the format's name."""

    shape: tuple[int, ...]
    start: int
    stop: int
    """Where it lies among the bytes of the file."""


class Header(NamedTuple):
    """What a file says of itself."""

    entries: dict[str, Entry]
    """By name, in the order in which the arrays lie."""

    metadata: dict[str, str]

    stop: int
    """Where the header ends."""


def write(file: BinaryIO, contents: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays, which are not copied, at the beginning of an empty file.

    Each begins at a multiple of the largest power of two, up to 64, that divides its size: so its rows lie as they would in
    memory that begins at a cache line.
    """
    placed = {name: _plain(contents[name]) for name in _order(contents)}
    file.write(header_of(placed, {**metadata, CHECKSUMS: "0" * (8 * len(placed))}))
    sums = ""
    for array in placed.values():
        checksum = 0
        for piece in _pieces(array):
            file.write(piece)
            checksum = zlib.crc32(piece, checksum)
        sums += f"{checksum:08x}"
    file.seek(0)
    file.write(header_of(placed, {**metadata, CHECKSUMS: sums}))
    file.seek(0, 2)


def _order(contents: Mapping[str, Array]) -> list[str]:
    """The names, those first whose arrays' sizes are divisible by the larger powers of two."""
    return sorted(contents, key=lambda name: -math.gcd(contents[name].nbytes, LINE))


def _plain(array: Array) -> Array:
    """The array in the format's order of elements and bytes, itself if it has it."""
    dtype = array.dtype.newbyteorder("<")
    if dtype not in NAMES:
        raise ValueError(f"a file holds arrays of {', '.join(map(str, NAMES))}. Received: dtype {array.dtype}.")
    return array.astype(dtype, order="C", copy=False)


def _pieces(array: Array) -> Iterator[memoryview]:
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE].data


def header_of(placed: Mapping[str, Array], metadata: Mapping[str, str], least: int = 0) -> bytes:
    """The header of arrays in the order in which they lie, as long as it takes for them to begin at a cache line.

    Args:
        placed: the arrays, of which only shapes and dtypes matter.
        metadata: names and strings.
        least: the bytes that the header takes at least.
    """
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in placed.items():
        offsets = [start, start := start + array.nbytes]
        described[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(least - 8)
    text += b" " * (-(len(text) + 8) % LINE)
    return len(text).to_bytes(8, "little") + text


# ------------------------------------------------------------------ reading


def read_header(file: BufferedIOBase, size: int) -> Header:
    """The header of a file of `size` bytes. All that it claims is checked against that.

    Raises: ValueError if the file does not follow the format.
    """
    if size < 8:
        raise ValueError(f"the file has {size} bytes; a safetensors file begins with 8 that say how long its header is.")
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise ValueError(
            f"a header of {length:,} bytes is announced, and the file has {size:,} bytes (a header has at most"
            f" {LONGEST_HEADER:,}): it is truncated, damaged, or no safetensors file."
        )
    text = file.read(length)
    if len(text) != length or not text.startswith(b"{"):
        raise ValueError("the header is no JSON object: the file is truncated, damaged, or no safetensors file.")
    try:
        described = json.loads(text.decode(), object_pairs_hook=_distinct, parse_constant=_refused)
    except RecursionError:
        raise ValueError("the header is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the header is not UTF-8: {error}.") from None
    except ValueError as error:
        raise ValueError(f"the header is no JSON that the format allows: {error}.") from None
    metadata = described.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the header's __metadata__ must map names to strings.")
    entries = {name: _entry(name, given, 8 + length) for name, given in described.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    place = 8 + length
    for name, entry in entries.items():
        if entry.start != place:
            kind = "a hole" if entry.start > place else "an overlap"
            raise ValueError(f"the array {name!r} begins at byte {entry.start}, and the one before ends at {place}: {kind}.")
        place = entry.stop
    if place != size:
        problem = "truncated" if place > size else "too long"
        raise ValueError(f"the arrays end at byte {place:,}, and the file has {size:,} bytes: it is {problem}.")
    return Header(entries, metadata, 8 + length)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {_short(name)} occurs twice")
        found[name] = value
    return found


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _entry(name: str, given: Any, begin: int) -> Entry:
    """An array as the header describes it; offsets count from `begin`."""
    if not isinstance(given, dict) or given.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the array {name!r} must be described by dtype, shape and data_offsets. Received: {_short(given)}.")
    dtype, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(dtype, str) or dtype not in {*DTYPES, *OTHER_SIZES}:
        raise ValueError(f"the array {name!r} has an unknown dtype. Received: {_short(dtype)}.")
    if not _counts(shape) or len(shape) > 32:
        raise ValueError(f"the array {name!r} must have a shape of at most 32 whole numbers. Received: {_short(shape)}.")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the array {name!r} must have two offsets, the second not the less. Received: {_short(offsets)}.")
    size = math.prod(shape) * _itemsize(dtype)
    if size != offsets[1] - offsets[0]:
        raise ValueError(
            f"the array {name!r} of shape {_short(shape)} and dtype {dtype} takes {size:,} bytes, and its offsets are"
            f" {_short(offsets)}."
        )
    return Entry(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _itemsize(dtype: str) -> int:
    return np.dtype(DTYPES[dtype]).itemsize if dtype in DTYPES else OTHER_SIZES[dtype]


def _counts(given: Any) -> bool:
    """Whether these are whole numbers that NumPy can hold, and not negative."""
    return isinstance(given, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in given)


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else text[:77] + "..."


def dtype_of(name: str, entry: Entry) -> np.dtype[Any]:
    """NumPy's dtype of an array; a ValueError if NumPy has none."""
    if entry.dtype not in DTYPES:
        raise ValueError(f"the array {name!r} is of dtype {entry.dtype}, which NumPy does not have.")
    return np.dtype(DTYPES[entry.dtype])


class Arrays(Mapping[str, Array]):
    """The arrays of a file, each read when it is asked for, into memory of its own.

    Args:
        file: the file, which must stay open.
        header: its header.
    """

    def __init__(self, file: BufferedIOBase, header: Header) -> None:
        self._file, self.header = file, header
        sums = header.metadata.get(CHECKSUMS, "")
        if sums.strip("-") == "":  # none, or those of a table that was trained in its file
            sums = ""
        elif len(sums) != 8 * len(header.entries) or not set(sums) <= set("0123456789abcdef"):
            raise ValueError(f"the metadata's {CHECKSUMS!r} must hold eight hexadecimal digits for each array.")
        digits = (int(sums[start : start + 8], 16) for start in range(0, len(sums), 8))
        self._sums = dict(zip(header.entries, digits, strict=False))

    def __getitem__(self, name: str) -> Array:
        entry = self.header.entries[name]
        dtype = dtype_of(name, entry)
        array = arrays.empty(entry.shape, dtype)
        self._file.seek(entry.start)
        checksum = 0
        for piece in _pieces(array):
            if self._read_into(piece) != len(piece):
                raise ValueError(f"the array {name!r} could not be read: the file became shorter.")
            checksum = zlib.crc32(piece, checksum)
        if name in self._sums and checksum != self._sums[name]:
            raise ValueError(f"the array {name!r} is damaged: its checksum is not the one that the file holds.")
        return array.astype(dtype.newbyteorder("="), copy=False)

    def _read_into(self, piece: memoryview) -> int:
        read = 0
        while read < len(piece) and (count := self._file.readinto(piece[read:])):
            read += count
        return read

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.entries)

    def __len__(self) -> int:
        return len(self.header.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.header.entries  # without reading it

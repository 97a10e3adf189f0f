"""What brings a table that is trained in its file back to its last flush, if its process is killed: rows as they were before.

Pages of a mapped file outlive a process that is killed, and so does what it has written to another file. Before a row is
changed for the first time after a flush, the row is noted in a file beside the table's. Neither file need be on the disk for
that, so no step waits for the disk. But nothing is promised if the machine goes down, and the notes name the start of the
machine that they belong to.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import setitem
from pathlib import Path as FilePath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unhot.atomic import Call
from unhot.engine import Engine
from unhot.kernels import active
from unhot.kernels.structs import Formula, PendingRows, Plan, Segment, StepNumbers, Stores
from unhot.storage import files

Array = npt.NDArray[Any]

HEAD = struct.Struct("<QII")
"""What stands before each record: its length, its checksum, and zeros.

It is written last, and makes the record valid. Where it begins is a multiple of its size, so that it lies in one page and is
written as a whole.
"""

NO_MORE = bytes(HEAD.size)
"""What stands after the last record."""

ENDING = ".unhot-undo"


def boot() -> str | None:
    """Which start of the machine this is; None where the system does not say."""
    with suppress(OSError):
        return FilePath("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def notes_path(path: str) -> str:
    """Where the notes of a table's file are."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}{ENDING}")


def _identity(of: os.stat_result) -> list[int]:
    return [of.st_dev, of.st_ino, of.st_size]


class Notes:
    """The rows of a table as they were at its last flush, as far as they have been changed since.

    Args:
        path: the table's file.
        of: what the system says of that file.
        rows: arrays of the same number of rows, which lie in the file.
        numbers: all its other arrays that are changed.
    """

    def __init__(self, path: str, of: os.stat_result, rows: Mapping[str, Array], numbers: Mapping[str, Array]) -> None:
        self._path, self._of, self._rows, self._numbers = path, of, rows, numbers
        self._noted = np.zeros(len(next(iter(rows.values()))), bool)
        self._descriptor, self._end = -1, 0

    def begin(self, make: Callable[[Sequence[Call]], bool]) -> None:
        """Begin anew, since the file is whole and about to be changed.

        Args:
            make: makes calls together with what marks the file, unless something else has changed the table meanwhile.

        Raises: OSError if the notes cannot be written.
        """
        said = {"boot": boot(), "file": _identity(self._of), "rows": list(self._rows), "numbers": list(self._numbers)}
        content = [json.dumps(said).encode(), b"\n", *(array.tobytes() for array in self._numbers.values())]
        folder, name = os.path.split(self._path)
        fresh = os.path.join(folder, f".{name}.{secrets.token_hex(4)}{files.ENDING}")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        begun = False
        try:
            files.locked(descriptor)  # says that its process is alive
            head, record = _framed(content)
            _write_at(descriptor, head + record, 0)
            calls: list[Call] = [
                partial(os.replace, fresh, notes_path(self._path)),
                partial(setattr, self, "_descriptor", descriptor),
                partial(setattr, self, "_end", len(record)),  # `NO_MORE` is as long as the head, whose place it has
                partial(setitem, self._noted, slice(None), False),
            ]
            if self._descriptor >= 0:
                calls.append(partial(os.close, self._descriptor))
            begun = make(calls)
        finally:
            if not begun and self._descriptor != descriptor:
                os.close(descriptor)
                with suppress(OSError):
                    os.unlink(fresh)

    def note(self, rows: Array, engine: Engine) -> None:
        """Note these rows, which are about to be changed, unless they are noted already."""
        step = max(1, PIECE // sum(array[:1].nbytes for array in self._rows.values()))
        for start in range(0, len(rows), step):
            while not self._note(rows[start : start + step], engine):
                pass  # a signal's handler has changed the table meanwhile

    def _note(self, rows: Array, engine: Engine) -> bool:
        version = engine.version
        new = rows[~self._noted[rows]]
        if not len(new):
            return True
        head, record = _framed([new.astype("<i8").tobytes(), *(array[new].tobytes() for array in self._rows.values())])
        descriptor, end = self._descriptor, self._end
        _write_at(descriptor, record, end + HEAD.size)
        valid: Call = partial(os.pwrite, descriptor, head, end)
        counted: Call = partial(setattr, self, "_end", end + len(record))
        return engine.during(version, [valid, counted, partial(setitem, self._noted, new, True)])

    def close(self) -> None:
        """Leave the notes as they are."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


PIECE = 1 << 24
"""Bytes of rows in one record: the system writes as many at once."""


def _framed(parts: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The head of a record, and its content with what stands after it."""
    length = sum(map(len, parts))
    content = b"".join([*parts, bytes(-length % HEAD.size), NO_MORE])
    return HEAD.pack(length, zlib.crc32(memoryview(content)[:length]), 0), content


def _write_at(descriptor: int, content: bytes, at: int) -> None:
    """Write all of this, or raise the system's error."""
    left = memoryview(content)
    while left:
        count = os.pwrite(descriptor, left, at)
        at, left = at + count, left[count:]


Before = Callable[[Array], None]


class TellingKernels:
    """The kernels in use, which tell `before` which rows they are about to change."""

    def __init__(self, before: Before) -> None:
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(active, name)

    def stores(self, states: Sequence[Sequence[Array]], firsts: Sequence[int], last: Array | None) -> Any:
        return _TellingStores(active.stores(states, firsts, last), self._before)


class _TellingStores:
    """The arrays of a table, as the kernels have them.

    What changes rows is only prepared here. If something else changes the table before that is made, it is prepared anew, and
    told again.
    """

    def __init__(self, stores: Stores, before: Before) -> None:
        self._stores, self._before = stores, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stores, name)

    def settle(self, formula: Formula, rows: PendingRows, now: int) -> Any:
        changed = rows.plan.rows[rows.line_of_row >= 0]
        if len(changed):
            self._before(changed)
        return self._stores.settle(formula, rows, now)

    def step(
        self, formula: Formula, plan: Plan, pending: PendingRows | None, step: StepNumbers, gradients: Sequence[Segment]
    ) -> Any:
        self._before(plan.rows)
        return self._stores.step(formula, plan, pending, step, gradients)


def restore(path: str, of: os.stat_result, arrays: Mapping[str, Array]) -> bool:
    """Bring the arrays of a file, which can be written, back to the last flush; whether there were notes of that.

    If notes are of another file or of another start of the machine, or damaged, nothing is changed.
    """
    try:
        with open(notes_path(path), "rb") as file:
            return _restore(file, of, arrays)
    except FileNotFoundError:
        return False
    except (ValueError, LookupError, TypeError, RecursionError):  # whatever is in it, it is no notes
        return False


def _restore(file: BinaryIO, of: os.stat_result, arrays: Mapping[str, Array]) -> bool:
    places = _places(file)
    text, _, numbers = _record(file, *places.pop(0)).partition(b"\n")
    said = json.loads(text)
    if said["boot"] is None or said["boot"] != boot() or said["file"] != _identity(of):
        return False
    rows = {name: arrays[name] for name in said["rows"]}
    others = {name: arrays[name] for name in said["numbers"]}
    width = 8 + sum(array[:1].nbytes for array in rows.values())
    most = min(len(array) for array in rows.values())
    if len(numbers) != sum(array.nbytes for array in others.values()) or any(length % width for _, length in places):
        return False
    for again in (False, True):  # all are looked at before any is used
        for place in reversed(places):  # a row that is noted twice was first noted as it is to be
            record = _record(file, *place)
            named = np.frombuffer(record, "<i8", len(record) // width)
            if again:
                _write(rows, named, record[8 * len(named) :])
            elif len(named) and not 0 <= named.min() <= named.max() < most:
                return False
    _write(others, ..., numbers)
    return True


def _write(arrays: Mapping[str, Array], where: Any, content: bytes) -> None:
    """Write what stands one after the other in `content` into this part of the arrays."""
    start = 0
    for array in arrays.values():
        part = array[where]
        array[where] = np.frombuffer(content, array.dtype, part.size, start).reshape(part.shape)
        start += part.nbytes


def _places(file: BinaryIO) -> list[tuple[int, int]]:
    """Where the contents of the records begin, and their lengths; a ValueError if one of them is damaged."""
    size, start = os.fstat(file.fileno()).st_size, 0
    found = []
    while start + HEAD.size <= size:
        file.seek(start)
        head = file.read(HEAD.size)
        if head == NO_MORE:
            break
        length, checksum, _ = HEAD.unpack(head)
        start += HEAD.size
        if length > size - start or zlib.crc32(_record(file, start, length)) != checksum:
            raise ValueError("the notes are damaged.")
        found.append((start, length))
        start += length + -length % HEAD.size
    if not found:
        raise ValueError("there are no notes.")
    return found


def _record(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)

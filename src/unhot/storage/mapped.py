"""Tables whose weights, and slots, stay in their file: mapped into memory, for reading or to be trained in place."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedIOBase
from operator import setitem
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from unhot.atomic import Call
from unhot.engine import Batch, Engine
from unhot.optimizers import Optimizer
from unhot.state import export_state
from unhot.storage import files, undo
from unhot.storage.safetensors import CHECKSUMS, Header, dtype_of, read_header
from unhot.storage.tables import (
    MARK,
    NOT_WHOLE,
    WHOLE,
    Mode,
    errors_name,
    like_of,
    lock,
    one_table,
    optimizer_of,
    policy_of,
)
from unhot.table import Table

Array = npt.NDArray[Any]

NO_ROWS = np.empty(0, np.int64)


class Views(Mapping[str, Array]):
    """The arrays of a file as views of it, mapped into memory.

    Args:
        file: the file; it may be closed afterwards.
        header: its header, which has been checked against the file's size.
        mode: "r" to read. All processes share the pages, and the file cannot be changed through the views. "r+" to write, too.
    """

    def __init__(self, file: BufferedIOBase, header: Header, mode: Mode) -> None:
        self.header = header
        self.memory = _mapped(file, mode)

    def __getitem__(self, name: str) -> Array:
        entry = self.header.entries[name]
        dtype = dtype_of(name, entry)
        if not dtype.isnative:
            raise ValueError("files are mapped on little-endian machines only: read it with unhot.load(path).")
        count = (entry.stop - entry.start) // dtype.itemsize
        view: Array = np.frombuffer(self.memory, dtype, count, entry.start).reshape(entry.shape)
        if not view.flags.aligned:  # a file that another package wrote
            raise ValueError(f"the array {name!r} is not aligned: read the file with unhot.load(path), and save it once.")
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.entries)

    def __len__(self) -> int:
        return len(self.header.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.header.entries


def _mapped(file: BufferedIOBase, mode: Mode) -> mmap.mmap:
    if mode == "r+":
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE)
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    # The kernels take arrays that could be written, and never write these. Without MAP_NORESERVE, Linux would count the whole
    # file as memory that may be asked for, and refuse what is larger than the machine's.
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", NORESERVE if os.uname().sysname == "Linux" else 0)
    return mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ | mmap.PROT_WRITE)


NORESERVE = 0x4000
"""MAP_NORESERVE on x86 and ARM; Python names it from 3.13 on."""


class MappedTable(Table):
    """A table in a file that is mapped into memory: `unhot.load(path, mmap=True)` opens it in milliseconds, whatever its size.

    With mode "r" it is for reading: lookups, bags and products read the file's pages, which all processes share. It has no
    optimizer, and a step is an error. With mode "r+" it is also trained in the file: steps write weights and slots into the
    file's pages, with the same bits as in memory. No other process can open the file meanwhile, and one that is forked can look
    rows up, and nothing more.

    **What a crash can lose.** `flush`, and `close` or the end of a `with` block, bring all to the disk. The first step after it
    marks the file as unfinished. If the process ends before the next `flush`, even by SIGKILL, the steps since the last one are
    lost: on Linux, the next `load` brings the file back to that flush. For this, each row is noted in a file beside the table's
    (".NAME.unhot-undo") before it is first changed after a flush. If the machine goes down before the next `flush`, or on other
    systems, the file is refused, because its rows and its clock do not belong together. So keep a copy, or `save` the table
    under another name from time to time. A file that is read without an error is whole.

    Copies and pickles of the table are tables in memory. Do not shorten the file while it is mapped: the system ends a process
    that reads what is no longer there.

    Args:
        path: a file that `Table.save` wrote.
        mode: "r" or "r+".
        optimizer: as for `unhot.load`; with mode "r+" only.

    Raises: as for `unhot.load`; BlockingIOError if the file is open for training elsewhere, or with "r+" if it is open at all.

    Example:
        >>> import os, tempfile, unhot
        >>> path = os.path.join(tempfile.mkdtemp(), "words.safetensors")
        >>> unhot.Table(1000, 4, optimizer=unhot.SGD(1.0), init="zeros").save(path)
        >>> with unhot.load(path, mmap=True, mode="r+") as table:
        ...     table.step([3], [[1.0, 2.0, 3.0, 4.0]])
        >>> unhot.load(path, mmap=True).lookup(3)
        array([-1., -2., -3., -4.], dtype=float32)
    """

    _fixed_rows = True
    _file: BufferedIOBase | None
    _views: Views | None
    _notes: undo.Notes | None
    _place: slice
    """Where the file says whether it is whole."""
    _sums: slice
    """Where the checksums stand."""

    def __init__(self, path: files.Path, mode: Mode = "r", optimizer: Optimizer | None = None) -> None:
        if mode not in ("r", "r+"):
            raise ValueError(f"`mode` must be 'r' or 'r+'. Received: {mode!r}.")
        if mode == "r" and optimizer is not None:
            raise ValueError("a table that is mapped for reading has no optimizer: leave it out, or use mode='r+'.")
        name = files.as_path(path)
        recover(name)
        file = open(name, "rb") if mode == "r" else open(name, "r+b")  # noqa: SIM115  (it stays open)
        try:
            self._open(file, name, mode, optimizer)
        except BaseException:
            file.close()
            raise

    def _open(self, file: BufferedIOBase, path: str, mode: Mode, optimizer: Optimizer | None) -> None:
        lock(file.fileno(), path, mode)
        with errors_name(path):
            header = read_header(file, os.fstat(file.fileno()).st_size)
            one_table(header)
            views = Views(file, header, mode)
            self._place, self._sums = (slice(0), slice(0)) if mode == "r" else _places(views)
            trained = None if mode == "r" else optimizer_of(views, optimizer)
            made = Table._of_state(views, like_of(header), trained, policy_of(header))
        self.__dict__.update(made.__dict__)
        self._file, self._views, self._notes = file, views, None
        self.path, self.mode, self._process = os.path.realpath(path), mode, os.getpid()
        self._only_read = mode == "r"
        self._mark_is_safe = True
        if mode == "r+":
            files.remove_left_behind(*os.path.split(self.path))  # of notes that were not begun
            self._follow(views, os.fstat(file.fileno()))

    def _follow(self, views: Views, of: os.stat_result) -> None:
        """Be told of rows before they are changed, and note them where that is of use."""
        engine, clock = self._engine, self._engine.clock
        slots = () if clock is None else tuple(f"slot.{slot}" for slot in clock.slots)
        rows = dict(zip(("weights", *slots), engine.stores[0].state, strict=True))
        state = export_state(engine, self._optimizer, [""], copies=False)
        numbers = {name: views[name] for name in state if name not in rows and name in views}
        if undo.boot() is not None:
            self._notes = undo.Notes(self.path, of, rows, numbers)
        engine.on(undo.TellingKernels(self._before))

    @property
    def contents(self) -> Mapping[str, Array]:
        """The arrays of the file by name, of which those beside the table's are not read before they are asked for."""
        assert self._views is not None
        return self._views

    # ------------------------------------------------------------------ training

    def _trained(self) -> Optimizer:
        if self.mode == "r":
            raise RuntimeError(
                "this table is mapped for reading. To train it, load it into memory with unhot.load(path), or train it in its"
                " file with unhot.load(path, mmap=True, mode='r+')."
            )
        return super()._trained()

    def _require_own_rows(self) -> None:
        raise RuntimeError(
            "the rows of a table that is mapped from a file are those of the file. To add, remove, assign or freeze some, load"
            " the table into memory with unhot.load(path)."
        )

    def _require_own_process(self) -> None:
        """Raise RuntimeError in a forked process, whose changes of the file the other one would not know of."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "this process was forked from the one that trains the table in its file. Here rows can be looked up; steps,"
                " `array`, `save` and `close` are for that process."
            )

    def _make_step(self, optimizer: Optimizer, batch: Callable[[], Batch]) -> None:
        self._require_own_process()
        super()._make_step(optimizer, batch)

    def _before(self, rows: Array) -> None:
        """Mark the file as unfinished, which is on the disk then, and note the rows: they are about to be changed."""
        self._require_own_process()
        views, notes = self._views, self._notes
        assert views is not None
        place = self._place
        mark: list[Call] = [
            partial(setitem, views.memory, self._sums, b"-" * (self._sums.stop - self._sums.start)),
            partial(setitem, views.memory, place, NOT_WHOLE),
            partial(setattr, self, "_mark_is_safe", False),
        ]
        while (version := self._engine.version) >= 0 and views.memory[place] == WHOLE:
            if notes is None:
                self._engine.during(version, mark)
            else:
                notes.begin(partial(self._begin, version, mark))
        if not self._mark_is_safe:
            views.memory.flush(0, max(place.stop, self._sums.stop))
            self._mark_is_safe = True
        if notes is not None:
            notes.note(rows, self._engine)

    def _begin(self, version: int, mark: list[Call], calls: Sequence[Call]) -> bool:
        """Make the calls, and mark the file, if nothing has changed since this version."""
        return self._engine.during(version, [*calls, *mark])

    def flush(self) -> None:
        """Apply all deferred steps, and bring weights, slots, clock and hyperparameters to the disk: the file is whole.

        Raises: RuntimeError if gradients given to `accumulate` are waiting for a step, if the table is mapped for reading, or
            if the file was replaced by another; ValueError if the file has no room for the optimizer's hyperparameters.

        Example:
            >>> import os, tempfile, unhot
            >>> path = os.path.join(tempfile.mkdtemp(), "words.safetensors")
            >>> unhot.Table(1000, 4, optimizer=unhot.SGD(1.0)).save(path)
            >>> table = unhot.load(path, mmap=True, mode="r+")
            >>> table.step([3], [[1.0, 2.0, 3.0, 4.0]])
            >>> table.flush()
            >>> table.close()
        """
        self._trained()
        self._lock.holding(self._flush)

    def _flush(self) -> None:
        self._require_own_process()
        self._require_nothing_waits("flush()")
        assert self._file is not None
        try:
            same = os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            same = False
        if not same:
            raise RuntimeError(
                f"{self.path!r} was replaced or removed, and what is trained here is no longer there. Save the table under"
                " another name."
            )
        assert self._views is not None
        mark: Call = partial(setitem, self._views.memory, self._place, WHOLE)
        while not self._engine.during(self._engine.settled(self._write_numbers), [mark]):
            pass  # a signal's handler has made a step meanwhile
        self._views.memory.flush(0, self._place.stop)

    def _write_numbers(self) -> int:
        """Write clock and hyperparameters beside the rows, which are settled, and bring all to the disk.

        Returns: the engine's version that this is true of.
        """
        assert self._views is not None
        version = self._engine.version
        state = export_state(self._engine, self._optimizer, [""], copies=False)
        numbers = {name: array for name, array in state.items() if name in self._views or name != "hyper.learning_rate"}
        for name, array in numbers.items():
            entry = self._views.header.entries.get(name)
            if entry is None or entry.shape != array.shape or dtype_of(name, entry) != array.dtype:
                raise ValueError(
                    f"the file has no room for {name!r} of {self._optimizer!r}. Save the table under another name."
                )
        if "hyper.learning_rate" in self._views and "hyper.learning_rate" not in numbers:
            raise ValueError("the learning rate is a callable, which the file cannot hold. Assign a number before `flush()`.")
        for name, array in numbers.items():
            view = self._views[name]
            if not np.may_share_memory(view, array) and view.tobytes() != array.tobytes():
                self._before(NO_ROWS)
                if not self._engine.during(version, [partial(setitem, view, ..., array)]):
                    return version  # which is not the present one, so that all of this is done again
        self._views.memory.flush()
        return version

    def _loading(self, state: Mapping[str, Any], rows: int) -> NoReturn:
        raise RuntimeError("a state is not loaded into a file that is mapped: make a table of it in memory, and save that.")

    def _save(self, path: files.Path, words: Mapping[str, Any], least: int = 0) -> None:
        """To another file. Of a table mapped for reading, the weights and the clock are saved."""
        if os.path.realpath(files.as_path(path)) == self.path:
            raise ValueError("this is the file that is mapped. `flush()` brings what was trained in it to the disk.")
        super()._save(path, words, least)

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """`flush`, if the table is trained in its file, and give the file back. Every later use is an error.

        Raises: as for `flush`; the table then stays open.
        """
        if self._file is None:
            return
        if self.mode == "r+":
            self.flush()
        self._lock.holding(self._close)

    def _close(self) -> None:
        file, views, notes = self._file, self._views, self._notes
        if file is None or views is None:
            return
        self.__dict__.update(_engine=_Closed(self.path), _views=None, _file=None, _notes=None)
        if notes is not None:
            notes.close()
            if views.memory[self._place] == WHOLE:  # or a signal's handler has made a step since the flush
                with suppress(FileNotFoundError):
                    os.unlink(undo.notes_path(self.path))
        if os.getpid() == self._process:  # a lock is that of all forked processes, too
            files.unlock(file.fileno())
        file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------ copies, which are in memory

    def _copy_class(self) -> type[Any]:
        return Table

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _blank, (), self.__getstate__()

    def _held(self) -> dict[str, Any]:
        own = ("_file", "_views", "_place", "_sums", "_mark_is_safe", "_notes", "path", "mode", "_process")
        engine = object.__new__(Engine)  # the same, but for the kernels, which would note rows of the copy
        engine.__dict__.update((name, value) for name, value in vars(self._engine).items() if name != "kernels")
        return {name: value for name, value in super()._held().items() if name not in own} | {"_engine": engine}


def _blank() -> Table:
    """What a pickle begins with."""
    return Table.__new__(Table)


class _Closed:
    """What stands in the place of a closed table's engine."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(f"the table was closed. Open it again with unhot.load({self._path!r}, mmap=True).")


def _places(views: Views) -> tuple[slice, slice]:
    """Where the mark stands, and the checksums, which are no longer true once rows are written.

    Raises: ValueError if there are none: the file was not written by `Table.save`.
    """
    text = views.memory[: views.header.stop]
    found = []
    for name in (MARK, CHECKSUMS):
        key = f'"{name}":"'.encode()
        start = text.find(key) + len(key)
        if start < len(key):
            raise ValueError("only files that `Table.save` wrote can be trained in place: load this one and save it first.")
        found.append(slice(start, text.index(b'"', start)))
    return found[0], found[1]


def recover(path: str) -> None:
    """Bring a file back to its last flush, if the process that trained the table in it was killed, and notes tell how.

    Nothing happens if the file is whole, if a process has it open, or if there are no notes, or none that are of use.
    """
    target = os.path.realpath(path)
    if not os.path.exists(undo.notes_path(target)):
        return
    try:
        file = open(target, "r+b")  # noqa: SIM115  (closed below)
    except OSError:
        return
    with file:
        if not files.locked(file.fileno()):
            return
        of = os.fstat(file.fileno())
        try:
            views = Views(file, read_header(file, of.st_size), "r+")
            place, _ = _places(views)
            if views.memory[place] != WHOLE:
                if not undo.restore(target, of, views):
                    return
                views.memory.flush()
                views.memory[place] = WHOLE
                views.memory.flush(0, place.stop)
        except ValueError:  # no table's file: whoever opens it says so
            return
        os.unlink(undo.notes_path(target))

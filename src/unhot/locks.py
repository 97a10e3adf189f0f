"""A lock for one writer or many readers, which a forked child finds open."""

from __future__ import annotations

import os
import threading
import weakref


class ReadWriteLock:
    """Readers hold it together; a writer holds it alone.  A waiting writer holds back new readers.

    A writer that asks for it again, as a learning rate that looks into its own table would, gets a RuntimeError.
    """

    _all: weakref.WeakSet[ReadWriteLock] = weakref.WeakSet()

    def __init__(self) -> None:
        self._reset()
        ReadWriteLock._all.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._readers = 0
        self._writing = False
        self._writer: int | None = None
        self._writers_waiting = 0

    def _refuse_again(self) -> None:
        if self._writer == threading.get_ident():
            raise RuntimeError(
                "the table is in the midst of a step or settling, and was asked for from within it (by its learning rate?)."
                " Ask it before or after."
            )

    def reading(self) -> _Reading:
        """Hold the lock together with other readers: `with lock.reading():`."""
        return _Reading(self)

    def writing(self) -> _Writing:
        """Hold the lock alone: `with lock.writing():`."""
        return _Writing(self)


class _Reading:
    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        lock._refuse_again()
        with lock._changed:
            while lock._writing or lock._writers_waiting:
                lock._changed.wait()
            lock._readers += 1

    def __exit__(self, *error: object) -> None:
        lock = self._lock
        with lock._changed:
            lock._readers -= 1
            if not lock._readers:
                lock._changed.notify_all()


class _Writing:
    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        lock._refuse_again()
        with lock._changed:
            lock._writers_waiting += 1
            try:
                while lock._writing or lock._readers:
                    lock._changed.wait()
            finally:
                lock._writers_waiting -= 1
            lock._writing = True
            lock._writer = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        lock = self._lock
        with lock._changed:
            lock._writing = False
            lock._writer = None
            lock._changed.notify_all()


def _open_all() -> None:
    # The threads that held them do not exist in the child; what they were writing is as unfinished as it was.
    for lock in ReadWriteLock._all:
        lock._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)

"""A lock for one writer or many readers, which a forked child finds open."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from types import FrameType

Holder = tuple[int, FrameType]
"""A thread, and the call in it that took the lock."""


class ReadWriteLock:
    """Readers hold it together; a writer holds it alone.  A waiting writer holds back new readers.

    A thread that holds it may read while it reads.  One that asks for more than that, as a learning rate that looks into its
    own table would, or a signal's handler that saves a table in the midst of a lookup, gets a RuntimeError.
    """

    _all: weakref.WeakSet[ReadWriteLock] = weakref.WeakSet()

    def __init__(self) -> None:
        self._reset()
        ReadWriteLock._all.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()  # on a lock that its own thread may take again, as a signal's handler would
        self._readers: list[Holder] = []
        self._writing = False
        self._writer: Holder | None = None
        self._writers_waiting = 0

    def _refuse_again(self, thread: int) -> None:
        """Raise RuntimeError if this thread is writing."""
        writer = self._writer
        if writer is None or writer[0] != thread:
            return
        if running(writer):
            raise RuntimeError(
                "the table is in the midst of a step or settling, and was asked for from within it (by its learning rate?)."
                " Ask it before or after."
            )
        self._open()

    def _refuse_while_reading(self, thread: int) -> None:
        """Raise RuntimeError if this thread is reading, and so would wait for itself."""
        self._readers = [reader for reader in self._readers if reader[0] != thread or running(reader)]
        if any(reader[0] == thread for reader in self._readers):
            raise RuntimeError(
                "the table is in the midst of a lookup, and was asked from within it (by a signal's handler?) for something"
                " that settles or steps its rows. Ask it afterwards."
            )

    def _open(self) -> None:
        """Let the writer go."""
        with self._changed:
            self._writing = False
            self._writer = None
            self._changed.notify_all()

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
        lock, thread = self._lock, threading.get_ident()
        lock._refuse_again(thread)
        with lock._changed:
            while lock._writing or (lock._writers_waiting and not any(reader[0] == thread for reader in lock._readers)):
                lock._changed.wait()
            lock._readers.append((thread, sys._getframe(1)))

    def __exit__(self, *error: object) -> None:
        lock, holder = self._lock, (threading.get_ident(), sys._getframe(1))
        with lock._changed:
            lock._readers.remove(holder)
            if not lock._readers:
                lock._changed.notify_all()


class _Writing:
    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock, holder = self._lock, (threading.get_ident(), sys._getframe(1))
        lock._refuse_again(holder[0])
        with lock._changed:
            lock._refuse_while_reading(holder[0])
            lock._writers_waiting += 1
            try:
                while lock._writing or lock._readers:
                    lock._changed.wait()
            finally:
                lock._writers_waiting -= 1
            lock._writer = holder
            lock._writing = True

    def __exit__(self, *error: object) -> None:
        self._lock._open()


def running(holder: Holder) -> bool:
    """Whether what took the lock in this thread is still at work.

    An exception from a signal's handler may come in the midst of letting go, and so leave the lock taken by nobody.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not holder[1]:
        frame = frame.f_back
    return frame is not None


def _open_all() -> None:
    # The threads that held them do not exist in the child; what they were writing is as unfinished as it was.
    for lock in ReadWriteLock._all:
        lock._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)

"""A lock for one writer or many readers, which a forked child finds open."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager


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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        self._refuse_again()
        with self._changed:
            while self._writing or self._writers_waiting:
                self._changed.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if not self._readers:
                    self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone."""
        self._refuse_again()
        with self._changed:
            self._writers_waiting += 1
            try:
                while self._writing or self._readers:
                    self._changed.wait()
            finally:
                self._writers_waiting -= 1
            self._writing = True
            self._writer = threading.get_ident()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._writer = None
                self._changed.notify_all()


def _open_all() -> None:
    # The threads that held them do not exist in the child; what they were writing is as unfinished as it was.
    for lock in ReadWriteLock._all:
        lock._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)

"""Changes that an exception from a signal's handler (Ctrl-C) finds made together or not at all, and a lock that it never leaves
taken.

Python runs a signal's handler between two bytecodes.  A chain of C functions that one C function calls has none in between:
the handler runs before all of them or after.  So whatever has to change together is first prepared, as a list of calls of C
functions (NumPy's, the native kernels', `setattr`, methods of lists and dicts), and then made by `together`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import call
from typing import ClassVar, TypeVar, cast

T = TypeVar("T")

Call = Callable[[], object]
"""A C function with its arguments, as `functools.partial` makes one.

A function in Python would have bytecodes of its own, and so have NumPy's with a dispatcher (`np.copyto`); where NumPy makes an
array of a list, it looks for signals; and its arithmetic may be told to raise errors (`np.seterr`).  What assigns is
`operator.setitem`, and what is assigned an array that is ready, or a number.
"""


def together(calls: Iterable[Call]) -> None:
    """Make the calls, one after the other, with nothing in between."""
    deque(map(call, calls), maxlen=0)


def within(enter: Call, work: Callable[[], T], leave: Call) -> T:
    """`work()`, between two calls of C functions, of which the second is made however it ends.

    Not a `with` statement: an exception that comes at one of its bytecodes after the block would pass over the end.
    """
    entered: list[None] = []
    calls: tuple[Call, ...] = (enter, partial(entered.append, None), work, leave, entered.clear)
    try:
        results: list[object] = list(map(call, calls))
        return cast(T, results[2])
    except BaseException:
        if entered:
            leave()
        raise


class Version:
    """Counts the changes made to something, each of which is made as a whole.

    `number` is that of the last change, or -1 while one is being made: seen by another thread, or by whoever comes after a
    change that could not be completed.
    """

    def __init__(self) -> None:
        self._numbers = [0]  # empty while a change is being made

    @property
    def number(self) -> int:
        return (*self._numbers, -1)[0]  # a copy: another thread may empty the list between a look and the next

    def change(self, since: int, calls: Iterable[Call]) -> bool:
        """Make the calls together if nothing has changed since the version `since`, when they were prepared; whether it was so.

        The first call may refuse, by an error, as long as it has then changed nothing.
        """
        # Lists, whose truth is told by a bytecode at which no handler runs; after a call one may, and the number be lost.
        taken: list[None] = []
        begun: list[None] = []
        first, *others = calls
        changes: list[Call] = [partial(taken.append, None), first, partial(begun.append, None), *others]
        try:
            together([partial(self._numbers.remove, since), *changes, partial(self._numbers.append, since + 1)])
        except BaseException as error:
            if taken:
                if not begun:
                    self._numbers.append(since)
                raise
            if isinstance(error, ValueError) and self.number != since:  # an error of `remove`
                return False
            raise
        return True

    def during(self, since: int, calls: Iterable[Call]) -> bool:
        """Make the calls together if nothing has changed since the version `since`, which stays; whether it was so.

        They are for what goes with a version, and is no change of its own.
        """
        checked: list[None] = []
        try:
            together([partial(self._numbers.index, since), partial(checked.append, None), *calls])
        except ValueError:
            if checked:
                raise
            return False
        return True


class Lock:
    """A lock that its own thread may take again, and that a forked child finds open."""

    _all: ClassVar[set[weakref.ref[Lock]]] = set()
    """Not a WeakSet, which is left by code in Python, in which a handler's exception would be lost."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        Lock._all.add(weakref.ref(self, Lock._all.discard))

    def holding(self, work: Callable[[], T]) -> T:
        """`work()`, with the lock held."""
        lock = self._lock
        return within(lock.acquire, work, lock.release)


def _open_all() -> None:
    for reference in tuple(Lock._all):
        lock = reference()
        if lock is not None:
            lock._lock = threading.RLock()  # the thread that held the other is not there in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)

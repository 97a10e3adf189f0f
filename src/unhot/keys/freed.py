"""Which numbers of a map were freed, and when: a table that follows it has to know, since another key may have them now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import call
from typing import NamedTuple

import numpy as np

from unhot.atomic import Call, Lock, Version
from unhot.keys.packing import Ids

LEAST = 1024
"""Numbers that may have been freed lately before they are put to the others, each of them once."""

FORKED = "another thread was changing the vocabulary when this process was forked: load or make it again."
"""The error of a child for which nobody ends a removal."""


class Removal(NamedTuple):
    """One removal of keys."""

    version: int
    first: int
    rows: Ids
    """What were the rows of the keys, after `first` others."""
    outcome: list[int]
    """Holds what the removal returned: at least 0 if it was refused, and nothing was freed."""

    def freed(self) -> Ids:
        """The numbers that were freed."""
        return np.unique(self.rows) - self.first if self.outcome[0] < 0 else np.empty(0, np.int64)


class Freed:
    """The last removal that freed each number, by the map's version. Memory is bounded by the numbers that were ever freed."""

    def __init__(self, version: Version) -> None:
        self._version = version
        """It changes with each removal; it may change with other changes, too."""
        self._lock = Lock()
        self._recent: list[Removal] = []
        self._older = (np.empty(0, np.int64), np.empty(0, np.int64))
        """Numbers, each once, and the version of the last removal that freed it."""

    @property
    def version(self) -> int:
        """That of the map now; -1 while keys are being removed."""
        return self._version.number

    def removing(self, remove: Callable[[Ids], int], first: int, out: Ids) -> int:
        """What `remove` returns, a C function that frees the numbers of keys, and writes what were their rows into `out`."""
        return self._lock.holding(partial(self._removing, remove, first, out))

    def _removing(self, remove: Callable[[Ids], int], first: int, out: Ids) -> int:
        while True:
            since = self._version.number
            if since < 0:
                raise RuntimeError(FORKED)
            rows, outcome = np.full(len(out), -1), list[int]()  # of their own: what is returned is the user's to change
            made: Call = partial(outcome.extend, map(call, [partial(remove, rows)]))
            if self._version.change(since, [made, self.noting(first, rows, outcome)]):
                break
        out[:] = rows
        self.noted()
        return outcome[0]

    def noting(self, first: int, rows: Ids, outcome: list[int]) -> Call:
        """What notes a removal, together with which the version is to rise by 1."""
        return partial(self._recent.append, Removal(self._version.number + 1, first, rows, outcome))

    def noted(self) -> None:
        """A removal was noted: put the recent ones to the older ones, if they are many."""
        since, recent = self._version.number, self._recent.copy()
        if sum(len(one.rows) for one in recent) <= max(LEAST, len(self._older[0])):
            return
        numbers, versions = self._all(recent)
        found, last = np.unique(numbers[::-1], return_index=True)
        older = (found, versions[::-1][last])
        self._version.during(
            since, [partial(setattr, self, "_older", older), partial(self._recent.__delitem__, slice(len(recent)))]
        )

    def _all(self, recent: list[Removal]) -> tuple[Ids, Ids]:
        """All numbers and the versions that freed them, in the order of these."""
        older = self._older
        freed = [one.freed() for one in recent]
        versions = [np.full(len(numbers), one.version) for one, numbers in zip(recent, freed, strict=True)]
        return np.concatenate([older[0], *freed]), np.concatenate([older[1], *versions])

    def since(self, version: int) -> tuple[int, Ids]:
        """The version now, and the numbers that were freed since another, in rising order."""
        return self._lock.holding(partial(self._since, version))

    def _since(self, version: int) -> tuple[int, Ids]:
        now = self._version.number
        if now < 0:
            raise RuntimeError(FORKED)
        if now == version:
            return now, np.empty(0, np.int64)
        numbers, versions = self._all(self._recent.copy())
        return now, np.unique(numbers[(versions > version) & (versions <= now)])

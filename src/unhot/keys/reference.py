"""The map from keys to rows by Python's dict: where there is no compiler, and what the native one is to do."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import numpy as np

from unhot.atomic import Call, Lock, Version
from unhot.keys.column import Keys
from unhot.keys.freed import Freed
from unhot.keys.hashing import buckets_of
from unhot.keys.maps import AS_KEY, LONGEST, MOST_ROWS, Export, RefusedError, Rows
from unhot.keys.packing import LARGE, Ids, Key, Kind, Mask, is_text, marked

__all__ = ["KeyMap"]

T = TypeVar("T")


class _Free:
    """Stands where a row is free."""


FREE = _Free()


class KeyMap:
    """See `unhot.keys.maps.KeyMap`."""

    def __init__(self) -> None:
        self._numbers: dict[Key | None, int] = {}
        self._keys: list[Key | _Free | None] = []
        self._free: list[int] = []  # a heap
        self.kind: Kind | None = None
        self.signs = (False, False)
        self._version, self._lock = Version(), Lock()
        self.freed = Freed(self._version)

    @property
    def rows(self) -> int:
        return len(self._keys)

    def __len__(self) -> int:
        return len(self._numbers)

    def find(self, keys: Keys, rows: Rows, out: Ids) -> int:
        known, first = self._numbers.get, -1
        unknown: list[int] = []
        numbers: list[int] = []
        for place, key in enumerate(keys.objects):
            if key is None and rows.missing != AS_KEY:
                numbers.append(rows.missing)
                continue
            number = known(key, -1)
            if number < 0:
                unknown.append(place)
            numbers.append(rows.unknown if number < 0 else rows.first + number)
        out[:] = numbers
        if unknown:
            first = unknown[0]
            if rows.buckets:
                places = np.array(unknown)
                out[places] += buckets_of(keys.take(places).packed, rows.buckets)
        return first

    def add(self, keys: Keys, rows: Rows, out: Ids, *, unique: bool = False, empty: bool = False) -> None:
        out[:] = self._lock.holding(partial(self._changing, partial(self._added, keys, rows, out, unique, empty)))

    def _changing(self, prepared: Callable[[], tuple[list[Call], T]]) -> T:
        """What a change returns, once its calls are made; they are prepared again if a signal's handler has changed the map.

        None of them lets another thread run, which could fork in the midst of them.
        """
        while True:
            since = self._version.number
            calls, result = prepared()
            if not calls or self._version.change(since, calls):
                return result

    def _added(self, keys: Keys, rows: Rows, out: Ids, unique: bool, empty: bool) -> tuple[list[Call], Ids]:
        if empty and self._numbers:
            raise RefusedError("filled", 0)
        kind = keys.kind
        if kind is not None and self.kind not in (kind, None):
            raise RefusedError("kind", 0)
        new: dict[Key | None, int] = {}
        free, numbers = self._free.copy(), out.tolist()
        for place, key in enumerate(keys.objects):
            if numbers[place] >= 0 or (key is None and rows.missing != AS_KEY):
                continue
            number = self._numbers.get(key, new.get(key, -1))
            if number >= 0 and unique:
                raise RefusedError("known", place)
            if number < 0:
                _require_storable(key, place)
                number = heapq.heappop(free) if free else len(self._keys) + len(new) - (len(self._free) - len(free))
                if number >= MOST_ROWS:
                    raise RefusedError("rows", place)
                new[key] = number
            numbers[place] = rows.first + number
        found = np.array(numbers, np.int64)
        calls: list[Call] = []
        if new:
            reused = [(key, number) for key, number in new.items() if number < len(self._keys)]
            calls += [partial(self._keys.__setitem__, number, key) for key, number in reused]
            calls += [
                partial(self._keys.extend, [key for key, number in new.items() if number >= len(self._keys)]),
                partial(self._numbers.update, new),
                partial(setattr, self, "_free", free),
            ]
            if kind is not None:
                calls += [partial(setattr, self, "kind", kind), partial(setattr, self, "signs", self._signs_with(new))]
        return calls, found

    def _signs_with(self, keys: Iterable[Key | None]) -> tuple[bool, bool]:
        integers = [key for key in keys if isinstance(key, int)]
        negative, large = self.signs
        return negative or min(integers, default=0) < 0, large or max(integers, default=0) >= LARGE

    def remove(self, keys: Keys, rows: Rows, out: Ids) -> int:
        removed = self._lock.holding(partial(self._changing, partial(self._removed, keys, rows)))
        if isinstance(removed, int):
            return removed
        out[:] = removed
        self._lock.holding(self.freed.noted)
        return -1

    def _removed(self, keys: Keys, rows: Rows) -> tuple[list[Call], Ids | int]:
        found: dict[Key | None, int] = {}
        for place, key in enumerate(keys.objects):
            if key not in self._numbers:
                return [], place
            found[key] = self._numbers[key]
        free = [*self._free, *found.values()]
        heapq.heapify(free)
        written = np.array([rows.first + found[key] for key in keys.objects], np.int64)
        calls: list[Call] = [partial(setattr, self, "_free", free), self.freed.noting(rows.first, written.copy(), [-1])]
        for key, number in found.items():
            calls += [partial(self._numbers.__delitem__, key), partial(self._keys.__setitem__, number, FREE)]
        return calls, written

    def take(self, numbers: Ids) -> tuple[Keys, Mask | None]:
        return self._lock.holding(partial(self._taken, numbers.tolist()))

    def _taken(self, numbers: list[int]) -> tuple[Keys, Mask | None]:
        held = self._keys
        absent = [not 0 <= number < len(held) or held[number] is FREE for number in numbers]
        keys = [None if gone else _key(held[number]) for number, gone in zip(numbers, absent, strict=True)]
        return Keys(objects=keys, kind=self.kind), marked(absent)

    def export(self) -> Export:
        return self._lock.holding(self._exported)

    def _exported(self) -> Export:
        held = self._keys.copy()
        keys = [_key(key) for key in held if key is not FREE]
        free = [number for number, key in enumerate(held) if key is FREE]
        return Export(Keys(objects=keys, kind=self.kind).packed, np.array(free, np.int64))

    def load(self, export: Export) -> None:
        keys = Keys(export.packed)
        self._keys = [FREE] * (len(keys) + len(export.free))
        self._free = export.free.tolist()
        numbers = np.setdiff1d(np.arange(len(self._keys)), export.free).tolist()
        for place, (key, number) in enumerate(zip(keys.objects, numbers, strict=True)):
            if key in self._numbers:
                raise RefusedError("known", place)
            _require_storable(key, place)
            self._numbers[key], self._keys[number] = number, key
        self.kind, self.signs = keys.kind, self._signs_with(self._numbers)


def _require_storable(key: Key | None, place: int) -> None:
    """Raise RefusedError for what the native map could not hold either."""
    if isinstance(key, str) and not is_text(key):
        raise RefusedError("text", place)
    if isinstance(key, (str, bytes)) and len(key.encode() if isinstance(key, str) else key) > LONGEST:
        raise RefusedError("long", place)


def _key(held: Key | _Free | None) -> Key | None:
    assert not isinstance(held, _Free)
    return held

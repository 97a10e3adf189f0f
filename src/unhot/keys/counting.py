"""Counts how often keys occur."""

from __future__ import annotations

import numpy as np

from unhot.keys import active
from unhot.keys.column import Column, Keys
from unhot.keys.maps import KeyMap, Rows


def frequent(column: Column, missing: int, min_count: int, max_size: int | None) -> Keys:
    """The distinct keys that occur `min_count` times or more, and of these the `max_size` most frequent.

    They come in the order of their first occurrence, which also decides among equally frequent ones. Missing values count if
    their row is AS_KEY.

    Raises: RefusedError, for keys that no map can take.
    """
    keys, counts = column.keys, active.KeyMap()
    assert_map: KeyMap = counts
    numbers = np.full(len(keys), -1, np.int64)
    assert_map.add(keys, Rows(0, -1, missing), numbers)
    found = len(counts)
    first = np.empty(found, np.int64)
    places = np.flatnonzero(numbers >= 0)
    first[numbers[places[::-1]]] = places[::-1]  # the last written of several stays
    if column.take is not None:
        numbers = numbers[column.take]
    times = np.bincount(numbers[numbers >= 0], minlength=found)
    kept = np.flatnonzero(times >= min_count)
    if max_size is not None and len(kept) > max_size:
        order = np.argsort(-times[kept], kind="stable")
        kept = np.sort(kept[order[:max_size]])
    return keys.take(first[kept])

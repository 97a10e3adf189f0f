"""What has changed in a vocabulary's map since somebody last looked, for tables that have a row for each of its keys."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unhot.keys.column import Keys
from unhot.keys.maps import AS_KEY, KeyMap, Rows
from unhot.keys.packing import Ids


class Stamp(NamedTuple):
    """A moment of a map: as long as it is the same, the same keys have the same numbers."""

    keys: KeyMap
    version: int
    """It rises with each removal."""
    size: int
    """The number of keys, which tells of those that were added since the last removal."""


def stamp(keys: KeyMap) -> Stamp:
    """The present moment of a map. While keys are being removed, it is no other moment's."""
    return Stamp(keys, keys.freed.version, len(keys))


def changes(since: Stamp, keys: KeyMap) -> tuple[Stamp, Ids]:
    """The present moment of a map, and the numbers that were freed since another or have another key now, in rising order.

    The map may be another one, which was loaded in the place of the first.
    """
    if keys is since.keys:
        version, freed = keys.freed.since(since.version)
        return Stamp(keys, version, len(keys)), freed
    version, freed = keys.freed.since(-1)
    now = Stamp(keys, version, len(keys))
    before = since.keys.freed.since(since.version)[1]
    return now, np.unique(np.concatenate([freed, before, _of_other_keys(since.keys, keys)]))


def _of_other_keys(before: KeyMap, now: KeyMap) -> Ids:
    """The numbers whose keys have no number or another one now."""
    packed, free = before.export()
    numbers = np.setdiff1d(np.arange(packed.length + len(free)), free)
    if before.kind not in (None, now.kind):
        return numbers
    found = np.empty(packed.length, np.int64)
    now.find(Keys(packed), Rows(0, -1, AS_KEY), found)
    moved: Ids = numbers[found != numbers]
    return moved


def keys_at(keys: KeyMap, numbers: Ids) -> tuple[Keys, Ids]:
    """The keys of those numbers that have one, and these numbers."""
    found, absent = keys.take(numbers)
    if absent is None:
        return found, numbers
    places = np.flatnonzero(~np.asarray(absent))
    return found.take(places), numbers[places]

"""Which keys have rows: a vocabulary that admits keys and evicts them while a table trains, and the table that follows it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from unhot.atomic import Lock
from unhot.creation import as_size
from unhot.keys.column import Column, as_column
from unhot.keys.following import Stamp, changes, keys_at, stamp
from unhot.keys.maps import KeyMap
from unhot.keys.reading import KeysLike, read
from unhot.usage import Candidates, Usage
from unhot.vocabulary import Vocabulary

if TYPE_CHECKING:
    from unhot.table import Table

Ids = npt.NDArray[np.int64]

SPARE = 32
"""Beyond `max_rows`, one in so many rows is evicted at once, lest each new key ask for a look at all rows."""


class RowTable(Protocol):
    """What is asked of a table."""

    fixed: bool
    """Whether rows cannot come and go."""

    @property
    def rows(self) -> int:
        """The number of rows, those that are removed included."""

    @property
    def removed(self) -> Ids:
        """The numbers of removed rows, in rising order."""

    @property
    def marks(self) -> object:
        """What is another object once other rows are removed; UNKNOWN where that cannot be told."""

    def require_removable(self) -> None:
        """Raise what a user's removal of rows would raise."""

    def grow(self, rows: int) -> object:
        """Add rows, in the places of the first removed ones and then at the end."""

    def remove(self, rows: Ids) -> None:
        """Give rows back, and forget those of their gradients that wait for a step."""


UNKNOWN = object()


class TableRows:
    """The rows of a `Table`."""

    def __init__(self, table: Table) -> None:
        self.table, self.fixed = table, table._fixed_rows

    @property
    def rows(self) -> int:
        return self.table.rows

    @property
    def removed(self) -> Ids:
        return self.table.removed

    @property
    def marks(self) -> object:
        return self.table._removed

    def require_removable(self) -> None:
        self.table._require_own_rows()
        self.table._require_nothing_waits("remove")

    def grow(self, rows: int) -> object:
        return self.table.grow(rows)

    def remove(self, rows: Ids) -> None:
        self.table._lock.holding(partial(self.table._remove, rows, True))


Sides = tuple[int, object]
"""What a table says of its rows: how many there are, and its marks of those that are removed."""


def sides(table: RowTable) -> Sides | None:
    """What a table says of its rows now; None where it cannot."""
    marks = table.marks
    return None if marks is UNKNOWN else (table.rows, marks)


def same_sides(before: Sides | None, now: Sides | None) -> bool:
    """Whether nobody has changed the rows of a table, as far as it can say."""
    return now is None or (before is not None and before[0] == now[0] and before[1] is now[1])


NOTHING = np.empty(0, np.int64)


class Followed(NamedTuple):
    """How far a table has followed a vocabulary."""

    stamp: Stamp
    """The moment of the vocabulary."""
    anew: Ids
    """Rows that have to begin anew before a key has them."""
    sides: Sides | None
    """The table's rows since; None if it is not known whether they are those of the keys."""
    level: bool = False
    """Whether the row of the next key is that of the next row of the table."""


class KeyedRows:
    """A vocabulary whose keys come and go, for a table that has a row for each."""

    def __init__(self, vocabulary: Vocabulary, min_count: int = 1, max_rows: int | None = None, max_idle: int | None = None):
        if not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"`vocabulary` must be an unhot.Vocabulary. Received: {vocabulary!r}.")
        self.vocabulary = vocabulary
        self.min_count = as_size("min_count", min_count)
        self.max_rows = None if max_rows is None else as_size("max_rows", max_rows)
        self.max_idle = None if max_idle is None else as_size("max_idle", max_idle)
        if (self.min_count, max_rows, max_idle) != (1, None, None) and vocabulary.unknown != "grow":
            raise ValueError(
                "`min_count`, `max_rows` and `max_idle` are for keys that get rows while the table trains. Make the vocabulary"
                f" with unknown='grow'. Received: unknown={vocabulary.unknown!r}."
            )
        self.count_anew()
        self.has_all_keys()
        self.lock = Lock()
        """Held by whoever changes the vocabulary and the table together."""

    def has_all_keys(self, table: RowTable | None = None) -> None:
        """Each key has its own row in the table, if that has so many: they were made together, or loaded."""
        self._followed = Followed(stamp(self.vocabulary._held.keys), NOTHING, None if table is None else sides(table))

    def count_anew(self) -> None:
        """Forget how often keys were seen and rows used: the vocabulary has other keys now."""
        self._candidates = Candidates(self.vocabulary.missing == "key") if self.min_count > 1 else None
        self._usage = None if self.max_rows is None and self.max_idle is None else Usage()

    def counts(self, table: RowTable) -> dict[str, npt.NDArray[Any]]:
        """How often keys were seen and rows used, as a part of a state."""
        seen = {} if self._candidates is None else self._candidates.state()
        return seen if self._usage is None else seen | self._usage.state(table.rows)

    def take_counts(self, state: Mapping[str, Any]) -> None:
        """Go on with what `counts` gave, as far as it is in the state; ValueError for what it cannot have given."""
        self.count_anew()
        if self._candidates is not None:
            self._candidates.load(state)
        if self._usage is not None:
            self._usage.load(state)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("lock", "_followed")}
        state["anew"] = self._begun_anew(self.vocabulary._held.keys)[1]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = dict(state)
        anew = held.pop("anew")
        self.__dict__.update(held, lock=Lock())
        self._followed = Followed(stamp(self.vocabulary._held.keys), anew, None)

    @property
    def limits(self) -> tuple[int, int | None, int | None]:
        """`min_count`, `max_rows` and `max_idle`."""
        return self.min_count, self.max_rows, self.max_idle

    @property
    def first(self) -> int:
        """The row of the first key, after reserved rows and buckets."""
        return self.vocabulary.reserved + self.vocabulary.buckets

    @property
    def fallback(self) -> int:
        """The row of keys that have none: the first reserved one, or -1 for none."""
        return 0 if self.vocabulary.reserved else -1

    def known(self, keys: KeysLike) -> Ids:
        """The rows of keys, of which none is admitted."""
        grows = self.vocabulary.unknown == "grow"
        return np.asarray(self.vocabulary.encode(keys, unknown=self.fallback) if grows else self.vocabulary.encode(keys))

    def existing(self, keys: KeysLike, name: str) -> Ids:
        """The rows of keys that must be there; `name` is what an error calls them."""
        return np.asarray(self.vocabulary.encode(read(keys, name), unknown="raise"))

    def admitted(self, keys: Column, table: RowTable) -> Ids:
        """The rows of keys that are looked up in training. New keys get one, if they may, and so does the table."""
        if self.vocabulary.unknown != "grow":
            ids = self.known(keys)
            self.follow(table)
            return ids
        self.follow(table)  # so that rows which the table has not are those of new keys
        seen = self._candidates
        ids = np.asarray(self.vocabulary.encode(keys)) if seen is None else self._with_frequent(keys, seen)
        try:
            self.follow(table)
        except Exception:  # there is no memory, say, or the table lies in a file
            self._refuse(ids, table)
            raise
        if self._usage is not None:
            self.note(ids, table)
            self._keep_within(table)
        return ids

    def among_fixed(self, ids: Ids, table: RowTable) -> Ids:
        """The rows of keys in a table whose rows stay as they are; a key that somebody has added has none there."""
        if self.is_followed(table):
            return ids
        anew = self._begun_anew(self.vocabulary._held.keys)[1]
        without = (ids >= table.rows) | np.isin(ids, table.removed) | np.isin(ids, anew)
        return np.where(without, self.fallback, ids)

    @property
    def counts_uses(self) -> bool:
        """Whether it is noted when rows are used."""
        return self._usage is not None

    def note(self, ids: Ids, table: RowTable) -> None:
        """These rows are used, or have a gradient."""
        if self._usage is not None:
            self._usage.reach(table.rows)
            self._usage.note(ids[(ids >= 0) & (ids < table.rows)])

    def _refuse(self, ids: Ids, table: RowTable) -> None:
        """Forget the keys of these rows that the table has not."""
        rows = np.unique(ids)
        without = rows[(rows >= table.rows) | np.isin(rows, table.removed) | np.isin(rows, self._followed.anew)]
        if len(without):
            self.vocabulary.remove(self.vocabulary.decode(without))
            self.vocabulary._cut(table.rows)

    def _with_frequent(self, keys: Column, candidates: Candidates) -> Ids:
        """The rows of keys; those that have now been seen often enough get one."""
        ids = np.asarray(self.vocabulary.encode(keys, unknown=-1))
        new = np.flatnonzero(ids.reshape(-1) == -1)
        if not len(new):
            return ids
        seen = as_column(keys.keys.take(new if keys.take is None else keys.take[new]))
        often = candidates.seen_often(seen, self.min_count)
        if len(often):
            self.vocabulary.extend(candidates.keys.decode(often))
            candidates.forget(often)
        return self.known(keys)

    def is_followed(self, table: RowTable) -> bool:
        """Whether the table has the rows of the keys that there are now."""
        seen = self._followed
        return seen.stamp == stamp(self.vocabulary._held.keys) and same_sides(seen.sides, sides(table))

    def follow(self, table: RowTable) -> None:
        """Give the table the rows that the vocabulary has, and take those that it has not.

        A row that has another key now than when the table was here last begins anew, whoever has changed the vocabulary.
        """
        before = self._followed
        if self.is_followed(table):
            return
        keys = self.vocabulary._held.keys
        known = same_sides(before.sides, sides(table))
        now, anew = self._begun_anew(keys)
        if known and before.level and not len(anew) and now.keys is before.stamp.keys:
            if (new := now.size - before.stamp.size) > 0:  # keys were added, whose rows are the first that are free
                self._add(table, new)
        else:
            anew = self._in_place(table, keys, anew, known, now)
        total = self.first + keys.rows
        level = not len(anew) and (total >= table.rows or bool(np.isin(np.arange(total, table.rows), table.removed).all()))
        self._followed = Followed(now, anew, sides(table), level)

    def _begun_anew(self, keys: KeyMap) -> tuple[Stamp, Ids]:
        """The present moment, and the rows that were given up or have other keys since the table was here last."""
        seen = self._followed
        now, numbers = changes(seen.stamp, keys)
        return now, np.union1d(seen.anew, numbers + self.first) if len(numbers) else seen.anew

    def _in_place(self, table: RowTable, keys: KeyMap, anew: Ids, known: bool, now: Stamp) -> Ids:
        """Begin rows anew, and add those of keys that have none; returns the rows that should have been, but are fixed."""
        rows, removed, first = table.rows, table.removed, self.first
        if not known and keys.rows > now.size:  # somebody else has changed the table's rows, or they were loaded
            anew = np.union1d(anew, first + keys.export().free)
        self._followed = self._followed._replace(stamp=now, anew=anew, sides=None)  # should an error come
        stale = np.setdiff1d(anew[anew < rows], removed)
        without = np.unique(np.concatenate([stale, removed, np.arange(rows, first + keys.rows)]))
        wanted = first + keys_at(keys, without[without >= first] - first)[1]
        if table.fixed:
            if len(wanted):
                table.grow(len(wanted))  # which says why it cannot
            return stale
        if len(stale):
            table.remove(stale)
        if len(wanted):
            vacant = np.concatenate([table.removed, np.arange(rows, max(rows, wanted[-1] + 1))])
            count = int(np.searchsorted(vacant, wanted[-1])) + 1
            self._add(table, count)
            if len(wanted) < count:  # keys came and went in turn, and left lower rows free
                table.remove(np.setdiff1d(vacant[:count], wanted))
        return NOTHING

    def _add(self, table: RowTable, count: int) -> None:
        again, rows = table.removed[:count], table.rows
        table.grow(count)
        if self._usage is not None:
            self._usage.reach(table.rows)
            self._usage.begin(np.concatenate([again, np.arange(rows, table.rows)]))

    def stepped(self, table: RowTable) -> None:
        """A step was made: evict rows that were not used for long."""
        usage = self._usage
        if usage is None:
            return
        usage.now += 1
        if self.max_idle is not None and usage.now > self.max_idle and not table.fixed:
            self.follow(table)
            usage.reach(table.rows)
            rows = usage.idle(table.rows, self.max_idle)
            self._evict(table, rows[(rows >= self.first) & ~np.isin(rows, table.removed)])

    def _keep_within(self, table: RowTable) -> None:
        """Evict the rows that were used least, if there are more than `max_rows`; those used since the last step stay."""
        usage, most = self._usage, self.max_rows
        if usage is None or most is None or len(self.vocabulary) <= most or table.fixed:
            return
        count = len(self.vocabulary) - most + most // SPARE
        kept = usage.last[: table.rows] == usage.now
        kept[: self.first] = kept[table.removed] = True
        self._evict(table, usage.least_used(np.flatnonzero(~kept), count))

    def _evict(self, table: RowTable, rows: Ids) -> None:
        if len(rows):
            keys, _ = keys_at(self.vocabulary._held.keys, rows - self.first)
            with suppress(KeyError):  # another embedding forgets one of them at this moment: these here go the next time
                self.vocabulary.remove(as_column(keys))
            self.follow(table)

    def remove(self, keys: KeysLike, table: RowTable) -> None:
        """Forget keys, and give their rows back."""
        table.require_removable()  # before a key is gone whose row would stay
        self.vocabulary.remove(keys)
        self.follow(table)

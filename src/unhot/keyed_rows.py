"""Which keys have rows: a vocabulary that admits keys and evicts them while a table trains, and the table that follows it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unhot.atomic import Lock
from unhot.creation import as_size
from unhot.keys.reading import KeysLike
from unhot.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]

SWEEPS = 8
"""Into how many parts `max_idle` steps are divided, in each of which an equal part of the rows is looked at."""

SPARE = 32
"""Beyond `max_rows`, one in so many rows is evicted at once, lest each new key ask for a look at all rows."""


class RowTable(Protocol):
    """What is asked of a table."""

    @property
    def rows(self) -> int:
        """The number of rows, those that are removed included."""

    @property
    def removed(self) -> Ids:
        """The numbers of removed rows."""

    def grow(self, rows: int) -> object:
        """Add rows, in the places of the first removed ones and then at the end."""

    def remove(self, rows: Ids) -> None:
        """Give rows back."""


class Usage:
    """When each row was last used, and how often; counted in the steps of training."""

    def __init__(self) -> None:
        self.now = 0
        self.last = np.zeros(0, np.int64)
        self.uses = np.zeros(0, np.int64)
        self.looked_at = 0
        """The row after the last one that was asked for being idle."""

    def reach(self, rows: int) -> None:
        """Have room for so many rows."""
        if rows > len(self.last):
            more = max(rows, 2 * len(self.last)) - len(self.last)
            self.last = np.concatenate([self.last, np.full(more, self.now)])
            self.uses = np.concatenate([self.uses, np.zeros(more, np.int64)])

    def begin(self, rows: Ids) -> None:
        """These rows are new."""
        self.last[rows], self.uses[rows] = self.now, 0

    def note(self, ids: Ids) -> None:
        """These rows are used; they may be repeated."""
        np.add.at(self.uses, ids, 1)
        self.last[ids] = self.now

    def idle(self, rows: int, most: int) -> Ids:
        """Some of the rows that were not used in the last `most` steps: each is found within an eighth of them."""
        part = -(-rows * SWEEPS // most)
        start = 0 if self.looked_at >= rows else self.looked_at
        self.looked_at = min(start + part, rows)
        return start + np.flatnonzero(self.last[start : self.looked_at] < self.now - most)


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
        self.lock = Lock()
        """Held by whoever changes the vocabulary and the table together."""

    def count_anew(self) -> None:
        """Forget how often keys were seen and rows used: the vocabulary has other keys now."""
        counts_missing = self.vocabulary.missing == "key"
        self._candidates = Vocabulary(unknown="grow", missing="key" if counts_missing else -1)
        """Keys that have not been seen often enough."""
        self._counts = np.zeros(0, np.int64)
        """How often each of them has been."""
        self._usage = None if self.max_rows is None and self.max_idle is None else Usage()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=Lock())

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

    def admitted(self, keys: KeysLike, table: RowTable) -> Ids:
        """The rows of keys that are looked up in training. New keys get one, if they may, and so does the table."""
        if self.vocabulary.unknown != "grow":
            return self.known(keys)
        ids = self._with_frequent(keys) if self.min_count > 1 else np.asarray(self.vocabulary.encode(keys))
        try:
            self.follow(table)
        except Exception:  # there is no memory, say, or the table lies in a file
            self._refuse(ids, table)
            raise
        if self._usage is not None:
            self._usage.reach(table.rows)
            self._usage.note(ids[ids >= 0])
            self._keep_within(table)
        return ids

    def _refuse(self, ids: Ids, table: RowTable) -> None:
        """Forget the keys of these rows that the table has not."""
        rows = np.unique(ids)
        without = rows[(rows >= table.rows) | np.isin(rows, table.removed)]
        if len(without):
            self.vocabulary.remove(self.vocabulary.decode(without))
            self.vocabulary._cut(table.rows)

    def _with_frequent(self, keys: KeysLike) -> Ids:
        """The rows of keys; those that have now been seen often enough get one."""
        vocabulary = self.vocabulary
        ids = np.asarray(vocabulary.encode(keys, unknown=-1))
        new = np.asanyarray(keys, dtype=None if isinstance(keys, np.ndarray) else object)[ids == -1]  # masked arrays as such
        if not new.size:
            return ids
        numbers = np.asarray(self._candidates.encode(new))
        numbers = numbers[numbers >= 0]  # without missing values
        if self._candidates.rows > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros(2 * self._candidates.rows - len(self._counts), np.int64)])
        np.add.at(self._counts, numbers, 1)
        places, at = np.unique(numbers, return_index=True)
        often = places[self._counts[places] >= self.min_count]
        if len(often):
            often = often[np.argsort(at[np.isin(places, often)], kind="stable")]
            keys_of = self._candidates.decode(often)
            vocabulary.extend(keys_of)
            self._counts[often] = 0
            self._candidates.remove(keys_of)
        return self.known(keys)

    def follow(self, table: RowTable) -> None:
        """Give the table the rows that the vocabulary has, and take those that it has not."""
        vocabulary, first = self.vocabulary, self.first
        free = vocabulary.rows - first - len(vocabulary)
        removed = table.removed
        if len(removed) < free:  # the vocabulary has removed keys by itself
            gone = np.setdiff1d(vocabulary.free, removed)
            table.remove(gone[gone < table.rows])
        new = vocabulary.rows - table.rows + len(table.removed) - free
        if new > 0:
            again = table.removed[:new]
            rows = table.rows
            table.grow(new)
            if self._usage is not None:
                self._usage.reach(table.rows)
                self._usage.begin(np.concatenate([again, np.arange(rows, table.rows)]))

    def stepped(self, table: RowTable) -> None:
        """A step was made: evict rows that were not used for long."""
        usage = self._usage
        if usage is None:
            return
        usage.now += 1
        if self.max_idle is not None and usage.now > self.max_idle:
            usage.reach(table.rows)
            rows = usage.idle(table.rows, self.max_idle)
            self._evict(table, rows[(rows >= self.first) & ~np.isin(rows, table.removed)])

    def _keep_within(self, table: RowTable) -> None:
        """Evict the rows that were used least, if there are more than `max_rows`; those used since the last step stay."""
        usage, most = self._usage, self.max_rows
        if usage is None or most is None or len(self.vocabulary) <= most:
            return
        count = len(self.vocabulary) - most + most // SPARE
        kept = usage.last[: table.rows] == usage.now
        kept[: self.first] = kept[table.removed] = True
        rows = np.flatnonzero(~kept)
        fewest, ties = split(usage.uses[rows], count)
        oldest, last_ties = split(usage.last[rows[ties]], count - len(fewest))
        chosen = [fewest, ties[oldest], ties[last_ties][: count - len(fewest) - len(oldest)]]
        self._evict(table, rows[np.sort(np.concatenate(chosen))])

    def _evict(self, table: RowTable, rows: Ids) -> None:
        if len(rows):
            self.remove(self.vocabulary.decode(rows), table)

    def remove(self, keys: Any, table: RowTable) -> None:
        """Forget keys, and give their rows back."""
        table.remove(np.unique(np.asarray(self.vocabulary.remove(keys)).reshape(-1)))


def split(values: Ids, count: int) -> tuple[Ids, Ids]:
    """The places of values that are among the `count` lowest, and of those that equal the highest of these; in linear time."""
    if count >= len(values):
        return np.arange(len(values)), np.empty(0, np.int64)
    if count <= 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    highest = np.partition(values, count - 1)[count - 1]
    return np.flatnonzero(values < highest), np.flatnonzero(values == highest)

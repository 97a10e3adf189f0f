"""What keys come and go by: how often keys without a row were seen, and when rows were used; also as a part of a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.keys.column import Column
from unhot.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]

SWEEPS = 8
"""Into how many parts `max_idle` steps are divided, in each of which an equal part of the rows is looked at."""

SEEN = "seen."
"""What the names of a state begin with that say which keys were seen."""


class Candidates:
    """Keys that have not been seen often enough to get a row, and how often each of them has been."""

    def __init__(self, counts_missing: bool) -> None:
        self.keys = Vocabulary(unknown="grow", missing="key" if counts_missing else -1)
        self.counts = np.zeros(0, np.int64)

    def seen_often(self, keys: Column, least: int) -> Ids:
        """The numbers of those of the keys, all seen once more, that have now been seen often enough, in their order."""
        numbers = np.asarray(self.keys.encode(keys))
        numbers = numbers[numbers >= 0]  # without missing values
        if self.keys.rows > len(self.counts):
            self.counts = np.concatenate([self.counts, np.zeros(2 * self.keys.rows - len(self.counts), np.int64)])
        np.add.at(self.counts, numbers, 1)
        places, at = np.unique(numbers, return_index=True)
        often = places[self.counts[places] >= least]
        return often[np.argsort(at[np.isin(places, often)], kind="stable")]

    def forget(self, numbers: Ids) -> None:
        """These keys are no candidates any more."""
        self.counts[numbers] = 0
        self.keys.remove(self.keys.decode(numbers))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All of it as arrays."""
        counts = self.counts[: self.keys.rows].copy()
        return {f"{SEEN}{name}": value for name, value in self.keys.state_dict().items()} | {f"{SEEN}counts": counts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave, if it is there; ValueError for what it cannot have given."""
        words = {name.removeprefix(SEEN): state[name] for name in state if name.startswith(SEEN)}
        if not words:
            return
        keys = Vocabulary()
        keys.load_state_dict(words)
        counts = integers(words, "counts", (keys.rows,))
        if keys.unknown != "grow" or keys.reserved or keys.missing != self.keys.missing:
            raise ValueError(f"the state's keys that were seen belong to another vocabulary. Received: {keys!r}.")
        self.keys, self.counts = keys, counts


class Usage:
    """When each row was last used, and how often; counted in the steps of training."""

    def __init__(self) -> None:
        self.now = 0
        self.last = np.zeros(0, np.int64)
        self.uses = np.zeros(0, np.int64)
        self.looked_at = 0
        """The row after the last one that was asked for being idle."""
        self.until = 0
        """How many rows there were when the first of them was last looked at."""

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
        """Some of the rows that were not used in the last `most` steps: each is found within an eighth of them.

        They are looked at in turn. Rows that come meanwhile wait for the next turn, which would never begin otherwise.
        """
        if self.looked_at >= self.until:
            self.looked_at, self.until = 0, rows
        start = self.looked_at
        self.looked_at = min(start + -(-self.until * SWEEPS // most), self.until)
        return start + np.flatnonzero(self.last[start : self.looked_at] < self.now - most)

    def least_used(self, rows: Ids, count: int) -> Ids:
        """So many of these rows, in rising order: those used least often, of equal ones those last used longest ago."""
        fewest, ties = split(self.uses[rows], count)
        oldest, last_ties = split(self.last[rows[ties]], count - len(fewest))
        chosen = [fewest, ties[oldest], ties[last_ties][: count - len(fewest) - len(oldest)]]
        return np.asarray(rows[np.sort(np.concatenate(chosen))])

    def state(self, rows: int) -> dict[str, npt.NDArray[Any]]:
        """All of it, for so many rows, as arrays."""
        self.reach(rows)
        return {
            "used_last": self.last[:rows].copy(),
            "used_often": self.uses[:rows].copy(),
            "used_until": np.array([self.now, self.looked_at, self.until]),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave, if it is there; ValueError for what it cannot have given."""
        if "used_last" not in state:
            return
        last = integers(state, "used_last", None)
        uses = integers(state, "used_often", last.shape)
        now, looked_at, until = integers(state, "used_until", (3,)).tolist()
        if not looked_at <= until <= len(last):
            raise ValueError(f"the state's 'used_until' must name rows of {len(last)}. Received: {looked_at}, {until}.")
        self.last, self.uses, self.now, self.looked_at, self.until = last, uses, now, looked_at, until


def integers(state: Mapping[str, Any], name: str, shape: tuple[int, ...] | None) -> Ids:
    """A copy of the array of numbers of at least 0 that a state has by this name; by default of any length."""
    array: Ids = np.asarray(state.get(name, ()))
    if array.dtype != np.int64 or array.ndim != 1 or shape not in (None, array.shape) or (array < 0).any():
        raise ValueError(
            f"the state's {name!r} must be int64 numbers of at least 0, {'one for each row' if shape is None else shape}."
            f" Received: shape {array.shape}, dtype {array.dtype}."
        )
    return array.copy()


def split(values: Ids, count: int) -> tuple[Ids, Ids]:
    """The places of values that are among the `count` lowest, and of those that equal the highest of these; in linear time."""
    if count >= len(values):
        return np.arange(len(values)), np.empty(0, np.int64)
    if count <= 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    highest = np.partition(values, count - 1)[count - 1]
    return np.flatnonzero(values < highest), np.flatnonzero(values == highest)

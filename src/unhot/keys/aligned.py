"""The rows of keys whose vectors are given: those of a vocabulary, each once."""

from __future__ import annotations

import numpy as np

from unhot.keys.column import Column, as_column, position
from unhot.keys.packing import Ids
from unhot.keys.reading import shown
from unhot.vocabulary import Vocabulary


def admit_each(vocabulary: Vocabulary, column: Column) -> tuple[Ids, Column]:
    """The rows of keys, -1 for those without one, and the new keys among them, which a vocabulary that grows has taken.

    Raises: ValueError for the first key that comes twice; the vocabulary is then as it was.
    """
    rows = np.asarray(vocabulary.encode(column, unknown=-1)).reshape(-1)
    places = np.flatnonzero(rows == -1) if vocabulary.unknown == "grow" else np.empty(0, np.int64)
    new = as_column(column.keys.take(places if column.take is None else column.take[places]))
    distinct = Vocabulary(unknown="grow", missing="key" if vocabulary.missing == "key" else -1)
    numbers = np.asarray(distinct.encode(new))
    rows[places] = np.where(numbers >= 0, -2 - numbers, -1)  # other numbers than those of rows
    used = np.flatnonzero(rows != -1)
    firsts = np.unique(rows[used], return_index=True)[1]
    if len(firsts) < len(used):
        place = int(used[np.setdiff1d(np.arange(len(used)), firsts)[0]])
        key = column.keys[place if column.take is None else int(column.take[place])]
        raise ValueError(f"`keys` holds the key {shown(key)}{position(place, column.shape)} a second time.")
    if len(places):
        rows[places] = vocabulary.encode(new)
    return rows, new


def give_up(vocabulary: Vocabulary, new: Column, rows: int) -> None:
    """Forget the keys that `admit_each` has added to a vocabulary that had so many rows before."""
    there = np.flatnonzero(np.asarray(vocabulary.encode(new, unknown=-1)) >= vocabulary.reserved + vocabulary.buckets)
    vocabulary.remove(as_column(new.keys.take(there)))
    vocabulary._cut(rows)

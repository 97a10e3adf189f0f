"""Rows that a user names, by their numbers or by a mask: what `remove`, `frozen` and `only_train` take in every front end."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.ids import as_ids, as_plain, in_range, not_removed

Rows = npt.NDArray[np.int64]


def existing(rows: Any, count: int, removed: Rows, name: str = "rows") -> Rows:
    """Flat numbers of rows of a table of so many that are there, all but the `removed` ones; else an IndexError.

    It does not advise an `out_of_range`: that is a policy for ids that are looked up.
    """
    ids = as_ids(rows, name)
    marks = np.zeros(count, bool)
    marks[removed] = True
    found, _ = in_range(ids, count, "raise", remedy="")
    return not_removed(found, None, marks if len(removed) else None, ids.shape, "raise")[0]


def named(rows: Any, count: int, removed: Rows, name: str = "rows") -> Rows:
    """The numbers of rows that are given as such, or by a boolean mask of all rows, in rising order; none for None."""
    given = as_plain(np.empty(0, np.int64) if rows is None else rows, name)
    if given.dtype != np.bool_:
        return np.unique(existing(rows if given.size else np.empty(0, np.int64), count, removed, name))
    if given.shape != (count,):
        raise ValueError(f"a mask of rows must have shape ({count},). Received: `{name}` of shape {given.shape}.")
    return np.flatnonzero(given)

"""The worked example: one_hot(ids) @ w picks rows of w."""

from __future__ import annotations

import numpy as np

from unhot.comparison.dense import one_hot
from unhot.comparison.results import Example
from unhot.table import Table


def worked_example() -> Example:
    """Both routes on a table of three rows.

    Example:
        >>> from unhot.comparison.example import worked_example
        >>> worked_example().same
        True
    """
    weights = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 0.0, 0.1, 0.2]], np.float32)
    ids = np.array([0, 2, 1, 2])
    x = one_hot(ids, len(weights), weights.dtype)
    return Example(weights, ids, x, x @ weights, Table.from_array(weights)[ids])

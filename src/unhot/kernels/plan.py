"""A plan: the distinct rows among some ids, and where each of them occurs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Plan(NamedTuple):
    """`order[starts[k]:starts[k + 1]]` are the positions, in order, at which `rows[k]` stands among the ids."""

    rows: np.ndarray[Any, np.dtype[np.int64]]
    order: np.ndarray[Any, np.dtype[np.int64]]
    starts: np.ndarray[Any, np.dtype[np.int64]]

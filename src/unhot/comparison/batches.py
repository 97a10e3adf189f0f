"""The batches that all routes are trained on: rows rest in between, and come again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

GROUPS = 3
"""The rows are dealt into so many groups, and each step leaves one of them out, in turn."""


class Batches:
    """Batches of a column for a comparison of training steps.

    Drawn at random alone, a frequent id might never rest, and a rare one never come twice: then an optimizer that forgets
    resting rows could not be told from one that moves them. So each step leaves a third of the rows out, and three quarters
    of a batch are rows that have rested and not come again, as long as there are such. The rest is drawn from the column.
    A batch is empty where all values of the column are left out.

    Args:
        ids: the column, each in [0, rows).
        rows: the number of rows.
        size: the ids in a batch.
        seed: of what is drawn.

    Raises: nothing.

    Example:
        >>> import numpy as np
        >>> from unhot.comparison.batches import Batches
        >>> batches = Batches(np.array([0, 0, 1]), 2, 4, seed=0)
        >>> [sorted(set(batches.next().tolist())) for _ in range(4)]
        [[1], [0], [0, 1], [1]]
    """

    def __init__(self, ids: Ids, rows: int, size: int, seed: int) -> None:
        self.size = size
        self.step = 0
        self.last: npt.NDArray[np.int64] = np.full(rows, -1)
        """The step at which each row was in a batch last."""
        self.returned: npt.NDArray[np.bool_] = np.zeros(rows, bool)
        """Whether a row was in a batch, rested for a step and was in another."""
        self._rng = np.random.default_rng([seed, 2])
        self._columns = [ids[ids % GROUPS != group] for group in range(GROUPS)]

    @property
    def reached(self) -> int:
        """The rows that were in a batch."""
        return int(np.count_nonzero(self.last >= 0))

    def next(self) -> Ids:
        """The ids of the next step."""
        left_out = self.step % GROUPS
        waiting = np.flatnonzero((self.last >= 0) & (self.last < self.step - 1) & ~self.returned)
        waiting = waiting[waiting % GROUPS != left_out][: (3 * self.size + 3) // 4]
        column = self._columns[left_out]
        drawn = column[self._rng.integers(len(column), size=self.size - len(waiting))] if len(column) else column
        chosen = np.concatenate([waiting, drawn])
        self.returned[chosen[(self.last[chosen] >= 0) & (self.last[chosen] < self.step - 1)]] = True
        self.last[chosen] = self.step
        self.step += 1
        return chosen

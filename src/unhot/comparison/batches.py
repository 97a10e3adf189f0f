"""The batches that all routes train on. Rows rest in between and come again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

GROUPS = 3
"""The number of groups of rows. Each step leaves out one group, in turn."""


class Batches:
    """Batches of a column for a comparison of training steps.

    In random batches, a frequent id might never rest, and a rare one might never come twice. The comparison could then not
    tell an optimizer that forgets resting rows from one that moves them. Each step therefore leaves out a third of the rows.
    Three quarters of a batch are rows that have rested and not come again, as long as there are any. The rest is drawn from
    the column. A batch is empty if all values of the column are left out.

    Args:
        ids: the column, with ids in [0, rows).
        rows: the number of rows.
        size: the number of ids in a batch.
        seed: the seed of the random draws.

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
        """The last step at which each row was in a batch."""
        self.returned: npt.NDArray[np.bool_] = np.zeros(rows, bool)
        """Whether a row was in a batch, rested for a step and was in another batch."""
        self._rng = np.random.default_rng([seed, 2])
        self._columns = [ids[ids % GROUPS != group] for group in range(GROUPS)]

    @property
    def reached(self) -> int:
        """The number of rows that were in a batch."""
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

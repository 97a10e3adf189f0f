"""The ids and gradients of a case: the same for every rival, drawn anew at each step.

Batches are never repeated: cycling through a few would touch each row again after a few steps, and no row would have a long
gap of deferred steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cases import Case

EXPONENT = 1.05
GRADIENTS = 4
"""Arrays of gradients, used in turn; a backward pass leaves its gradient in the cache, and so do these where they fit."""

SAMPLE = 64
"""Rows whose training is replayed."""

Ids = npt.NDArray[np.int64]


class Workload:
    """Draws the ids of one case and round."""

    def __init__(self, case: Case, round_: int) -> None:
        self.case = case
        seed = [round_, case.rows, case.dim, case.ids, case.distribution == "zipf"]
        self._layout, self._timed, self._warm, self._values = (np.random.default_rng([stream, *seed]) for stream in range(4))
        # Frequent ids lie anywhere in the table, as in a vocabulary numbered by hash or by arrival.
        self._row_of_rank = self._layout.permutation(case.rows).astype(np.int32) if case.distribution == "zipf" else None

    def timed(self) -> Ids:
        """The ids of the next timed step."""
        return self._draw(self._timed)

    def warm(self) -> Ids:
        """The ids of the next step before the timed ones."""
        return self._draw(self._warm)

    def _draw(self, generator: np.random.Generator) -> Ids:
        count = self.case.ids
        if self._row_of_rank is None:
            return generator.integers(0, self.case.rows, count)
        ranks = np.empty(0, np.int64)
        while len(ranks) < count:
            # A Zipf law cut off at the vocabulary: about half of its draws lie beyond.
            drawn = generator.zipf(EXPONENT, 2 * count)
            ranks = np.concatenate([ranks, drawn[drawn <= self.case.rows]])
        return self._row_of_rank[ranks[:count] - 1].astype(np.int64)

    def gradients(self) -> list[npt.NDArray[np.float32]]:
        """The gradients, of shape (ids, dim), that steps use in turn."""
        shape = (self.case.ids, self.case.dim)
        return [self._values.standard_normal(shape, dtype=np.float32) * np.float32(0.01) for _ in range(GRADIENTS)]

    def sample(self, batches: list[Ids]) -> Ids:
        """Distinct rows to replay: frequent ones, some of the timed steps, and some of the whole table."""
        several = [batch[:: max(1, len(batch) // (SAMPLE // 8))] for batch in batches[:4] + batches[-1:]]
        if self._row_of_rank is not None:
            several.append(self._row_of_rank[:4].astype(np.int64))
        several.append(self._layout.integers(0, self.case.rows, SAMPLE))
        rows = np.concatenate(several)
        return rows[np.sort(np.unique(rows, return_index=True)[1])][:SAMPLE]

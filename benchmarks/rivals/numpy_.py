"""numpy.take: the lookup alone."""

from __future__ import annotations

from typing import Any

import measure
import numpy as np
from cases import Case


class Settled:
    def __init__(self, case: Case) -> None:
        self.table = np.random.default_rng(0).random((case.rows, case.dim), dtype=np.float32)
        self._out = np.zeros((case.ids, case.dim), np.float32) if case.variant == "out" else None

    def tensor(self, array: Any) -> Any:
        return array

    def lookup(self, ids: Any) -> Any:
        if self._out is None:
            return np.take(self.table, ids, axis=0)
        # mode="raise" would write into a copy of `out` first.
        return np.take(self.table, ids, axis=0, out=self._out, mode="clip")

    def weights(self, rows: Any) -> Any:
        return self.table[rows]


if __name__ == "__main__":
    measure.main(Settled, dict)

"""NumPy: `numpy.take`, and dense Adam as one writes it."""

from __future__ import annotations

from typing import Any

import measure
import numpy as np
import replay
from cases import Case


class Trained:
    """Dense Adam in place, by Keras's definition; two arrays of the table's size are kept for what is computed."""

    def __init__(self, case: Case) -> None:
        self.table = np.random.default_rng(0).uniform(-0.05, 0.05, (case.rows, case.dim)).astype(np.float32)
        self.m, self.v, self.g, self.spare = (np.zeros_like(self.table) for _ in range(4))
        self.steps = 0

    def preload(self) -> None:
        pass

    def tensor(self, array: Any) -> Any:
        return array

    def step(self, ids: Any, gradients: Any) -> None:
        self.table[ids]
        b1, b2, m, v, g, spare = replay.BETA_1, replay.BETA_2, self.m, self.v, self.g, self.spare
        self.steps += 1
        g.fill(0)
        np.add.at(g, ids, gradients)
        m *= b1
        m += np.multiply(g, 1 - b1, out=spare)
        v *= b2
        np.multiply(g, 1 - b2, out=spare)
        v += np.multiply(spare, g, out=spare)
        np.sqrt(v, out=spare)
        spare += replay.EPSILON["adam_keras"]
        np.divide(m, spare, out=spare)
        spare *= replay.ADAM_RATE * np.sqrt(1 - b2**self.steps) / (1 - b1**self.steps)
        self.table -= spare

    def weights(self, rows: Any) -> Any:
        return self.table[rows]


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


def make(case: Case) -> Any:
    return Settled(case) if case.task == "lookup" else Trained(case)


if __name__ == "__main__":
    measure.main(make, dict)

"""A masked ("lazy", "sparse") Adam in unhot's own kernels: what the exactness of deferred steps costs.

It is made by telling the table that a step changes no row but those it touches: nothing is then deferred or settled, and a
step is PyTorch's SparseAdam.
"""

from __future__ import annotations

from typing import Any

import measure
import replay
from cases import Case

from rivals import unhot_


class Masked(unhot_.Trained):
    def optimizer(self, case: Case) -> Any:
        import unhot

        return unhot.Adam(replay.ADAM_RATE, epsilon=replay.EPSILON["adam_masked"])

    def step(self, ids: Any, gradients: Any) -> None:
        engine = self.table._engine
        engine.clock.defers = _never
        super().step(ids, gradients)
        assert engine.last is None


def _never(hyper: Any) -> bool:
    return False


if __name__ == "__main__":
    measure.main(Masked, unhot_.versions)

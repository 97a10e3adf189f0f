"""`unhot.jax`: lookup and update in one compiled function, whose state is donated."""

from __future__ import annotations

from typing import Any

import measure
import numpy as np
import replay
from cases import Case


class Trained:
    def __init__(self, case: Case) -> None:
        import jax

        import unhot
        import unhot.jax

        self.jax, self.unhot = jax, unhot
        start = np.random.default_rng(0).uniform(-0.05, 0.05, (case.rows, case.dim)).astype(np.float32)
        self.table = unhot.jax.from_array(start, optimizer=unhot.Adam(replay.ADAM_RATE))

        def step(table: Any, ids: Any, gradients: Any) -> Any:
            return unhot.jax.lookup(table, ids), unhot.jax.update(table, ids, gradients)

        self._step = jax.jit(step, donate_argnums=0)

    def preload(self) -> None:
        pass

    def tensor(self, array: Any) -> Any:
        return self.jax.numpy.asarray(array.astype(np.int32) if array.dtype.kind == "i" else array)

    def step(self, ids: Any, gradients: Any) -> None:
        out, self.table = self._step(self.table, ids, gradients)
        self.jax.block_until_ready((out, self.table))

    def weights(self, rows: Any) -> Any:
        return np.asarray(self.unhot.jax.lookup(self.table, np.asarray(rows, np.int32)))


def versions() -> dict[str, str]:
    from importlib.metadata import version

    import unhot

    return {"unhot": unhot.__version__, "jax": version("jax")}


if __name__ == "__main__":
    measure.main(Trained, versions)

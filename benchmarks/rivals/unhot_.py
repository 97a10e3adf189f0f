"""unhot itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import replay
from cases import Case


class Trained:
    """A table that trains; each lookup allocates its output, as the other frameworks' do."""

    def __init__(self, case: Case) -> None:
        import unhot

        _set_threads(case.threads)
        self.table = unhot.Table(case.rows, case.dim, optimizer=self.optimizer(case), seed=0)

    def optimizer(self, case: Case) -> Any:
        import unhot

        if case.variant == "sgd":
            return unhot.SGD(replay.RATES["sgd"])
        if case.variant == "adagrad":
            return unhot.Adagrad(replay.RATES["adagrad"], convention="torch")
        return unhot.Adam(replay.ADAM_RATE, convention="torch" if case.variant == "adam_torch" else "keras")

    def preload(self) -> None:
        for slot in self.table._engine.stores[0].slots:
            slot += 0

    def tensor(self, array: Any) -> Any:
        return array

    def step(self, ids: Any, gradients: Any) -> None:
        self.table.lookup(ids)
        self.table.step(ids, gradients)

    def weights(self, rows: Any) -> Any:
        return self.table.lookup(rows)


class Settled:
    """A table that is only read."""

    def __init__(self, case: Case) -> None:
        import unhot

        _set_threads(case.threads)
        self.table = unhot.Table(case.rows, case.dim, seed=0)
        self._out = np.zeros((case.ids, case.dim), np.float32) if case.variant == "out" else None

    def tensor(self, array: Any) -> Any:
        return array

    def lookup(self, ids: Any) -> Any:
        return self.table.lookup(ids, out=self._out)

    def weights(self, rows: Any) -> Any:
        return self.table._engine.stores[0].weights[rows]


def _set_threads(threads: int) -> None:
    import unhot

    unhot.set_num_threads(threads)


def make(case: Case) -> Any:
    return Trained(case) if case.task != "lookup" else Settled(case)


def versions() -> dict[str, str]:
    import unhot

    return {"unhot": unhot.__version__, "kernels": unhot.kernels.name}


class Stopwatch:
    """Adds up the time of the functions it wraps, and of the calls that they give to be made later."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, owner: Any, name: str) -> None:
        setattr(owner, name, self.timed(getattr(owner, name)))

    def timed(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = time.perf_counter()
            try:
                found = inner(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - before
            return [self.timed(call) for call in found] if isinstance(found, list) else found

        return wrapped


def coefficients(case: Case, round_: int, seconds: float, make: Callable[[Case], Trained]) -> dict[str, Any]:
    """The share of lookup and step that goes into coefficients, the same for all rows: history, scalars, deferred steps."""
    watch = Stopwatch()
    shares: list[float] = []

    class Watched(Trained):
        def __init__(self, case: Case) -> None:
            super().__init__(case)
            for name in ("coefficients", "scalars", "advance"):
                watch.wrap(self.table._engine.clock, name)

        def step(self, ids: Any, gradients: Any) -> None:
            watch.seconds = 0.0
            before = time.perf_counter()
            super().step(ids, gradients)
            shares.append(watch.seconds / (time.perf_counter() - before))

    result = measure.step_times(case, round_, seconds, Watched)
    return {**result, "share": float(np.median(shares[-result["timed"] :]))}


if __name__ == "__main__":
    measure.main(make, versions, {"coefficients": coefficients})

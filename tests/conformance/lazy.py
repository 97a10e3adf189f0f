"""What LazyAdam is, in dense NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dense import Array, KerasAdam
from .training import DenseCopy

RATE = 0.01


class Lazy(DenseCopy):
    """Dense Adam, whose weights and slots are put back in all rows but those that have an id in the step."""

    def step(self, ids: Array, gradients: Array) -> None:
        kept = {name: value.copy() for name, value in vars(self.dense).items() if isinstance(value, np.ndarray)}
        super().step(ids, gradients)
        for name, before in kept.items():
            after = vars(self.dense)[name].copy()
            rows = np.setdiff1d(np.arange(after.shape[-2]), ids)
            after[..., rows, :] = before[..., rows, :]
            setattr(self.dense, name, after)


def lazy(start: Array, dtype: str, **hyper: Any) -> Lazy:
    return Lazy(KerasAdam(start.astype(dtype), **{"learning_rate": RATE, **hyper}))

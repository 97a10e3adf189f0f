"""Lion, which steps by the sign of a momentum: a row without a gradient keeps moving in the direction of that sign.

The sign must survive for as long as the row rests. A decaying momentum therefore stops at a floor far below any gradient
instead of becoming 0 (dense float32 training stops there when its momentum underflows; dense float64 goes on).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.atomic import Call
from unhot.deferral import MatrixHistory
from unhot.laws import Sign
from unhot.rules.base import Array, Hyper, Optimizer, Recurrence, real, scalar_pair

FLOOR = {"float32": 1e-30, "float64": 1e-290}


@dataclass
class Lion(Optimizer):
    """Lion: steps by the sign of the momentum.

    w = (1 - rate weight_decay) w - rate sign(beta_1 m + (1 - beta_1) g); m = beta_2 m + (1 - beta_2) g.

    A momentum that decays without gradients keeps its sign: it stops at 1e-30 (float64: 1e-290) instead of underflowing.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001.
        beta_1: in (0, 1). It may change from step to step.
        beta_2: in (0, 1).
        weight_decay: decoupled. It may change from step to step.

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Lion(1e-4, weight_decay=0.1).beta_2
        0.99

    References: keras/src/optimizers/lion.py; Chen et al. 2023, arXiv:2302.06675.
    """

    _: KW_ONLY
    beta_1: float = 0.9
    beta_2: float = 0.99

    DEFAULTS = {"keras": {"learning_rate": 0.001}}
    momentum_name = "beta_1"

    def check(self) -> None:
        super().check()
        real(self, "beta_1", self.beta_1, below=1.0, open_=True)
        real(self, "beta_2", self.beta_2, below=1.0, open_=True)

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return SignRecurrence(self, dtype, rows)


class SignRecurrence(Recurrence):
    """The family of signs; the row state is (w, momentum)."""

    law = Sign()

    def __init__(self, optimizer: Lion, dtype: np.dtype[Any], rows: int) -> None:
        self.optimizer = optimizer
        self.dtype = dtype
        self.slots = {"momentum": 0.0}
        self.history = MatrixHistory(rows)

    @property
    def period(self) -> int:
        return self.history.period

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        return self.history.restart(step)

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        return self.history.advance((1.0 - hyper.rate * hyper.decay, -hyper.rate, 0.0, 1.0), self.optimizer.beta_2)

    def coefficients(self, steps: Array) -> Array:
        return self.history.coefficients(steps, self.dtype)

    def scalars(self, step: int, hyper: Hyper) -> Array:
        beta_2 = self.optimizer.beta_2
        return np.array(
            [
                *scalar_pair(1.0 - hyper.rate * hyper.decay, self.dtype), -hyper.rate,
                hyper.momentum, 1.0 - hyper.momentum, *scalar_pair(beta_2, self.dtype), 1.0 - beta_2,
            ],
            dtype=self.dtype,
        )  # fmt: skip

    def shared(self) -> Any:
        return self.law.Shared(float(self.dtype.type(FLOOR[self.dtype.name])))

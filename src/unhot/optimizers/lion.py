"""Lion."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.sign import SignClock
from unhot.laws import Sign
from unhot.optimizers.base import Array, Optimizer, State, decayed, real
from unhot.optimizers.names import Names, same


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
    KERAS = Names(stock="Lion", hyperparameters=same("beta_1", "beta_2"), slots={"momentum": "_momentums"})
    momentum_name = "beta_1"

    def check(self) -> None:
        super().check()
        real(self, "beta_1", self.beta_1, below=1.0, open_=True)
        real(self, "beta_2", self.beta_2, below=1.0, open_=True)

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return SignClock(self, Sign(), dtype, rows)

    def dense_slots(self) -> tuple[float, ...]:
        return (0.0,)

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, m = state
        step = h.rate * np.sign(h.momentum * m + (1 - h.momentum) * g)
        return decayed(h, w) - step, self.beta_2 * m + (1 - self.beta_2) * g

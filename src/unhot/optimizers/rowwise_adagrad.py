"""RowwiseAdagrad."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.linear import LinearClock, Matrix
from unhot.laws import Rowwise
from unhot.optimizers.base import Array, Optimizer, State, decayed, real
from unhot.optimizers.names import Names, same


@dataclass
class RowwiseAdagrad(Optimizer):
    """Adagrad with one sum for each row, as FBGEMM's EXACT_ROWWISE_ADAGRAD: state that takes next to no memory.

    sum = sum + mean(g^2), over the row's elements; w = (1 - rate weight_decay) w - rate g / (sqrt(sum) + epsilon). Rows without
    a gradient decay, too, as in dense training; FBGEMM's do not.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.01.
        initial_accumulator_value: the initial value of the sums.
        epsilon: a number above 0.
        weight_decay: decoupled. It may change from step to step.

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> table = unhot.Table(1000, 64, optimizer=unhot.RowwiseAdagrad(0.1))
        >>> table.state_dict()["slot.sum"].shape
        (1000, 1)

    References: fbgemm_gpu/split_table_batched_embeddings_ops_training.py; Duchi, Hazan, Singer 2011.
    """

    _: KW_ONLY
    initial_accumulator_value: float = 0.0
    epsilon: float = 1e-8

    DEFAULTS = {"keras": {"learning_rate": 0.01}}
    TORCH = Names(
        stock="",
        hyperparameters={
            "learning_rate": "lr", "epsilon": "eps", **same("initial_accumulator_value", "weight_decay")
        },
        slots={"sum": "sum"},
        numbers={"step": "step"},
    )  # fmt: skip
    KERAS = Names(stock="", hyperparameters=same("initial_accumulator_value", "epsilon"), slots={"sum": "_accumulators"})

    def check(self) -> None:
        super().check()
        real(self, "epsilon", self.epsilon, open_=True)
        real(self, "initial_accumulator_value", self.initial_accumulator_value)

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return LinearClock(self, Rowwise(), dtype, rows, {"sum": self.initial_accumulator_value})

    @property
    def average_decay(self) -> float:
        return 1.0

    @property
    def epsilons(self) -> tuple[float, float]:
        return 0.0, self.epsilon

    def matrix(self, step: Any, hyper: Hyper, begun: bool) -> tuple[Matrix, tuple[Any, Any]]:
        return (1.0 - hyper.rate * hyper.decay, 0.0, 0.0, 1.0), (-hyper.rate, 0.0)

    def dense_slots(self) -> tuple[float, ...]:
        return (self.initial_accumulator_value,)

    def dense_slot_width(self, dim: int) -> int:
        return 1

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, total = state
        total = total + np.mean(g * g, axis=1, keepdims=True)
        return decayed(h, w) - h.rate * g / (np.sqrt(total) + self.epsilon), total

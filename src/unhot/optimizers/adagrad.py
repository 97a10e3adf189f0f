"""Adagrad."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.linear import LinearClock, Matrix
from unhot.laws import Divisor, Linear
from unhot.optimizers.base import BY_CONVENTION, Array, Convention, Optimizer, State, decayed, real
from unhot.optimizers.names import Names, same


@dataclass
class Adagrad(Optimizer):
    """Adagrad: the gradient divided by the root of the sum of all its squares.

    sum = sum + g^2. With convention="keras": w = (1 - rate weight_decay) w - rate g / sqrt(sum + epsilon).
    With convention="torch": w = w - rate / (1 + (step - 1) lr_decay) g / (sqrt(sum) + epsilon).

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001, torch 0.01.
        initial_accumulator_value: the initial value of the sums. Default: 0.1, torch 0.
        epsilon: a number above 0. Default: 1e-7, torch 1e-10.
        weight_decay: decoupled, in Keras's convention only. PyTorch's coupled decay is refused.
        lr_decay: in PyTorch's convention only.
        convention: "keras" or "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adagrad(convention="torch").epsilon
        1e-10

    References: keras/src/optimizers/adagrad.py; torch/optim/adagrad.py; Duchi, Hazan, Singer 2011.
    """

    _: KW_ONLY
    initial_accumulator_value: float = BY_CONVENTION
    epsilon: float = BY_CONVENTION
    lr_decay: float = 0.0
    convention: Convention = "keras"

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
        "torch": {"learning_rate": 0.01, "initial_accumulator_value": 0.0, "epsilon": 1e-10},
    }
    TORCH = Names(
        stock="Adagrad",
        hyperparameters={
            "learning_rate": "lr",
            "epsilon": "eps",
            **same("lr_decay", "initial_accumulator_value", "weight_decay"),
        },
        slots={"sum": "sum"},
        numbers={"step": "step"},
        implied={"convention": "torch"},
    )
    KERAS = Names(stock="Adagrad", hyperparameters=same("initial_accumulator_value", "epsilon"), slots={"sum": "_accumulators"})

    def check(self) -> None:
        super().check()
        real(self, "epsilon", self.epsilon, open_=True)
        real(self, "initial_accumulator_value", self.initial_accumulator_value)
        real(self, "lr_decay", self.lr_decay)
        if self.convention == "torch":
            self.refuse_coupled()
        elif self.lr_decay:
            raise ValueError(f"Adagrad: `lr_decay` needs convention='torch'. Received: lr_decay={self.lr_decay!r}.")

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return LinearClock(self, Linear(False, Divisor.SUM), dtype, rows, {"sum": self.initial_accumulator_value})

    @property
    def average_decay(self) -> float:
        return 1.0

    @property
    def epsilons(self) -> tuple[float, float]:
        return (self.epsilon, 0.0) if self.convention == "keras" else (0.0, self.epsilon)

    def matrix(self, step: Any, hyper: Hyper, begun: bool) -> tuple[Matrix, tuple[Any, Any]]:
        rate = hyper.rate / (1.0 + (step - 1) * self.lr_decay) if self.convention == "torch" else hyper.rate
        return (1.0 - hyper.rate * hyper.decay, 0.0, 0.0, 1.0), (-rate, 0.0)

    def dense_slots(self) -> tuple[float, ...]:
        return (self.initial_accumulator_value,)

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, total = state
        total = total + g * g
        if self.convention == "torch":
            return w - h.rate / (1 + (n - 1) * self.lr_decay) * g / (np.sqrt(total) + self.epsilon), total
        return decayed(h, w) - h.rate * g / np.sqrt(total + self.epsilon), total

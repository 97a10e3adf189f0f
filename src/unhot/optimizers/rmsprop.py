"""RMSprop."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.linear import LinearClock, Matrix, momentum_asked
from unhot.laws import Divisor, Linear
from unhot.optimizers.base import BY_CONVENTION, Array, Convention, Optimizer, State, decayed, real
from unhot.optimizers.names import Names, same


@dataclass
class RMSprop(Optimizer):
    """RMSprop: the gradient divided by the root of a running average of its squares.

    v = rho v + (1 - rho) g^2; q = g / sqrt(v + epsilon) (torch: g / (sqrt(v) + epsilon)). `centered` replaces v with v less
    the square of the running average of g. w = (1 - rate weight_decay) w - rate q. With momentum, b = momentum b + rate q;
    w = w - b (torch: b = momentum b + q; w = w - rate b).

    If the gradients are steady, a centered average can round to a negative variance. The row then becomes NaN, as it does in
    dense training.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001, torch 0.01.
        rho: the decay of the averages, in [0, 1). Default: 0.9, torch 0.99 (where it is called alpha).
        momentum: in [0, 1). It may change from step to step.
        epsilon: a number above 0. Default: 1e-7, torch 1e-8.
        centered: whether to divide by the root of the variance instead of the mean square.
        weight_decay: decoupled, in Keras's convention only. PyTorch's coupled decay is refused.
        convention: "keras" or "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.RMSprop(1e-3, centered=True).rho
        0.9

    References: keras/src/optimizers/rmsprop.py; torch/optim/rmsprop.py; Hinton's lecture 6e.
    """

    _: KW_ONLY
    rho: float = BY_CONVENTION
    momentum: float = 0.0
    epsilon: float = BY_CONVENTION
    centered: bool = False
    convention: Convention = "keras"

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "rho": 0.9, "epsilon": 1e-7},
        "torch": {"learning_rate": 0.01, "rho": 0.99, "epsilon": 1e-8},
    }
    TORCH = Names(
        stock="RMSprop",
        hyperparameters={
            "learning_rate": "lr", "rho": "alpha", "epsilon": "eps", **same("momentum", "centered", "weight_decay"),
        },
        slots={"velocity": "square_avg", "momentum": "momentum_buffer", "average_gradient": "grad_avg"},
        numbers={"step": "step"},
        implied={"convention": "torch"},
    )  # fmt: skip
    KERAS = Names(
        stock="RMSprop",
        hyperparameters=same("rho", "momentum", "epsilon", "centered"),
        slots={"velocity": "_velocities", "momentum": "_momentums", "average_gradient": "_average_gradients"},
    )
    momentum_name = "momentum"

    def check(self) -> None:
        super().check()
        real(self, "epsilon", self.epsilon, open_=True)
        real(self, "rho", self.rho, below=1.0)
        real(self, "momentum", self.momentum, below=1.0)
        if self.convention == "torch":
            self.refuse_coupled()

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        divisor = Divisor.CENTERED if self.centered else Divisor.MEAN
        return LinearClock(self, Linear(momentum_asked(self, slots), divisor), dtype, rows)

    @property
    def average_decay(self) -> float:
        return self.rho

    @property
    def epsilons(self) -> tuple[float, float]:
        return (self.epsilon, 0.0) if self.convention == "keras" else (0.0, self.epsilon)

    def matrix(self, step: Any, hyper: Hyper, begun: bool) -> tuple[Matrix, tuple[Any, Any]]:
        rate, momentum, decay = hyper
        if not momentum:  # the frameworks leave the buffer as it is
            return (1.0 - rate * decay, 0.0, 0.0, 1.0), (-rate, 0.0)
        if self.convention == "torch":
            return (1.0, -rate * momentum, 0.0, momentum), (-rate, 1.0)
        return (1.0 - rate * decay, -momentum, 0.0, momentum), (-rate, rate)

    def dense_slots(self) -> tuple[float, ...]:
        return (0.0,) * (1 + bool(self.centered) + bool(self.momentum))

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, v, *rest = state
        v = self.rho * v + (1 - self.rho) * g * g
        mean = tuple(self.rho * mean + (1 - self.rho) * g for mean in rest[: self.centered])
        variance = v - mean[0] * mean[0] if mean else v
        if self.convention == "torch":
            step = g / (np.sqrt(variance) + self.epsilon)
            b = tuple(h.momentum * b + step for b in rest[self.centered :])
            return w - h.rate * (b[0] if b else step), v, *mean, *b
        step = h.rate * g / np.sqrt(variance + self.epsilon)
        b = tuple(h.momentum * b + step for b in rest[self.centered :])
        return decayed(h, w) - (b[0] if b else step), v, *mean, *b

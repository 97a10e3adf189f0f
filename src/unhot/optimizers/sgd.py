"""SGD."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.linear import LinearClock, Matrix, momentum_asked
from unhot.laws import Divisor, Linear
from unhot.optimizers.base import Array, Convention, Optimizer, State, decayed, real
from unhot.optimizers.names import Names, same


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum or Nesterov's momentum.

    With convention="keras": b = momentum b - rate g; w = (1 - rate weight_decay) w + b (Nesterov: + momentum b - rate g).
    With convention="torch": g' = g + weight_decay w; b = momentum b + (1 - dampening) g' (b = g' in the first step);
    w = w - rate b (Nesterov: - rate (g' + momentum b)).

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.01, torch 0.001.
        momentum: in [0, 1). It may change from step to step.
        nesterov: whether to use Nesterov's momentum.
        weight_decay: decoupled in Keras's convention, coupled (L2) in PyTorch's. It may change from step to step.
        dampening: in PyTorch's convention only.
        convention: "keras" or "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.SGD(0.1, momentum=0.9).nesterov
        False

    References: keras/src/optimizers/sgd.py; torch/optim/sgd.py.
    """

    _: KW_ONLY
    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    convention: Convention = "keras"

    DEFAULTS = {"keras": {"learning_rate": 0.01}, "torch": {"learning_rate": 0.001}}
    TORCH = Names(
        stock="SGD",
        hyperparameters={"learning_rate": "lr", **same("momentum", "nesterov", "dampening", "weight_decay")},
        slots={"momentum": "momentum_buffer"},
        implied={"convention": "torch"},
    )
    KERAS = Names(stock="SGD", hyperparameters=same("momentum", "nesterov"), slots={"momentum": "momentums"})
    momentum_name = "momentum"

    def check(self) -> None:
        super().check()
        real(self, "momentum", self.momentum, below=1.0)
        real(self, "dampening", self.dampening, below=np.inf)
        if self.dampening and (self.convention == "keras" or self.nesterov):
            raise ValueError(
                "SGD: `dampening` needs convention='torch' and nesterov=False. Received: "
                f"dampening={self.dampening!r}, convention={self.convention!r}, nesterov={self.nesterov!r}."
            )
        if self.nesterov and self.convention == "torch" and not self.momentum:
            raise ValueError("SGD: with convention='torch', nesterov=True needs a momentum above 0. Received: momentum=0.")

    def check_in_graph(self) -> None:
        if self.convention == "torch" and (self.weight_decay or self.dampening):
            raise ValueError(
                "SGD: with convention='torch', `weight_decay` (which is coupled) and `dampening` are not supported inside a"
                f" graph. Received: {self!r}. Use convention='keras', whose decay is decoupled, or `unhot.Table`."
            )

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return LinearClock(self, Linear(momentum_asked(self, slots), Divisor.NONE), dtype, rows)

    @property
    def average_decay(self) -> float:
        return 1.0

    @property
    def epsilons(self) -> tuple[float, float]:
        return 0.0, 0.0

    def matrix(self, step: Any, hyper: Hyper, begun: bool) -> tuple[Matrix, tuple[Any, Any]]:
        rate, momentum, decay = hyper
        if not momentum:  # the frameworks leave the buffer as it is
            return (1.0 - rate * decay, 0.0, 0.0, 1.0), (-rate, 0.0)
        if self.convention == "keras":
            if self.nesterov:
                return (1.0 - rate * decay, momentum**2, 0.0, momentum), (-rate * (1.0 + momentum), -rate)
            return (1.0 - rate * decay, momentum, 0.0, momentum), (-rate, -rate)
        if self.nesterov:
            forward = 1.0 + momentum
            return (1.0 - rate * decay * forward, -rate * momentum**2, decay, momentum), (-rate * forward, 1.0)
        # PyTorch's buffer starts as a copy of the gradient, undampened, in the first step that has a momentum: the table's,
        # since a dense parameter has gradients (zeros) in all rows.
        share = 1.0 - self.dampening if begun else 1.0
        return (1.0 - rate * share * decay, -rate * momentum, share * decay, momentum), (-rate * share, share)

    def dense_slots(self) -> tuple[float, ...]:
        return (0.0,) * bool(self.momentum)

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, *momentum = state
        if self.convention == "torch":
            g = g + h.decay * w
            b = tuple(h.momentum * b + (g if n == 1 else (1 - self.dampening) * g) for b in momentum)
            step = b[0] if b else g
            return w - h.rate * (g + h.momentum * step if self.nesterov else step), *b
        b = tuple(h.momentum * b - h.rate * g for b in momentum)
        step = b[0] if b else -h.rate * g
        return decayed(h, w) + (h.momentum * step - h.rate * g if self.nesterov else step), *b

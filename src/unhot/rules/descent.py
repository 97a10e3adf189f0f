"""Gradient descent, also with one rate per element: SGD, Adagrad, RMSprop, Adadelta. linear.py carries them out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.laws import Divisor
from unhot.rules.base import BY_CONVENTION, Convention, Optimizer, Recurrence, real
from unhot.rules.linear import Descent, LinearRecurrence


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

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return Descent(self, dtype, rows, slots)


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

    def check(self) -> None:
        super().check()
        real(self, "epsilon", self.epsilon, open_=True)
        real(self, "initial_accumulator_value", self.initial_accumulator_value)
        real(self, "lr_decay", self.lr_decay)
        if self.convention == "torch":
            self.refuse_coupled()
        elif self.lr_decay:
            raise ValueError(f"Adagrad: `lr_decay` needs convention='torch'. Received: lr_decay={self.lr_decay!r}.")

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return LinearRecurrence(self, dtype, rows, Divisor.SUM, {"sum": self.initial_accumulator_value})


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
    momentum_name = "momentum"

    def check(self) -> None:
        super().check()
        real(self, "epsilon", self.epsilon, open_=True)
        real(self, "rho", self.rho, below=1.0)
        real(self, "momentum", self.momentum, below=1.0)
        if self.convention == "torch":
            self.refuse_coupled()

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        divisor = Divisor.CENTERED if self.centered else Divisor.MEAN
        averages = {"velocity": 0.0, **({"average_gradient": 0.0} if self.centered else {})}
        return LinearRecurrence(self, dtype, rows, divisor, averages, slots)


@dataclass
class Adadelta(Optimizer):
    """Adadelta: the gradient times the ratio of two running roots.

    v = rho v + (1 - rho) g^2; q = g sqrt(d + epsilon) / sqrt(v + epsilon); d = rho d + (1 - rho) q^2;
    w = (1 - rate weight_decay) w - rate q.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001, torch 1.0.
        rho: the decay of the averages, in [0, 1). Default: 0.95, torch 0.9.
        epsilon: a number above 0. Default: 1e-7, torch 1e-6.
        weight_decay: decoupled, in Keras's convention only. PyTorch's coupled decay is refused.
        convention: "keras" or "torch". It determines only the defaults.

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adadelta(convention="torch").learning_rate
        1.0

    References: keras/src/optimizers/adadelta.py; torch/optim/adadelta.py; Zeiler 2012.
    """

    _: KW_ONLY
    rho: float = BY_CONVENTION
    epsilon: float = BY_CONVENTION
    convention: Convention = "keras"

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7},
        "torch": {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6},
    }

    def check(self) -> None:
        super().check()
        real(self, "epsilon", self.epsilon, open_=True)
        real(self, "rho", self.rho, below=1.0)
        if self.convention == "torch":
            self.refuse_coupled()

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return LinearRecurrence(self, dtype, rows, Divisor.DELTA, {"velocity": 0.0, "delta": 0.0})

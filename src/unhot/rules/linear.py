"""Rules whose step is linear in weight and momentum: SGD, Adagrad, RMSprop, Adadelta.

With q the gradient, or the gradient over the root of a running average, every one of them is

    (w, b) = M_s (w, b) + (gw, gb) q,

M_s one 2x2 matrix per step, the same for all elements: a row without a gradient is carried over any number of steps by
the product of their matrices, and its averages by the product of their decays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from unhot.deferral import MatrixHistory
from unhot.rules.base import (
    BY_CONVENTION,
    Array,
    Convention,
    Hyper,
    Optimizer,
    Recurrence,
    real,
    scalar_pair,
    slot_by,
    weight_by,
)

Matrix = tuple[float, float, float, float]


class Divisor(IntEnum):
    """What the gradient is divided by."""

    NONE = 0
    SUM = 1
    MEAN = 2
    CENTERED = 3
    DELTA = 4


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum or Nesterov's momentum.

    With convention="keras": b = momentum b - rate g; w = (1 - rate weight_decay) w + b
    (Nesterov: + momentum b - rate g).  With convention="torch": g' = g + weight_decay w; b = momentum b +
    (1 - dampening) g' (b = g' in the first step); w = w - rate b (Nesterov: - rate (g' + momentum b)).

    Args:
        learning_rate: a number, or a callable from the step (the first is 1) to a number; 0.01, torch 0.001.
        momentum: in [0, 1); may change from step to step.
        nesterov: Nesterov's momentum.
        weight_decay: decoupled in Keras's convention, coupled (L2) in PyTorch's; may change from step to step.
        dampening: PyTorch's convention only.
        convention: "keras" or "torch".

    Errors: TypeError or ValueError that names the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.SGD(0.1, momentum=0.9).nesterov
        False

    Sources: keras/src/optimizers/sgd.py; torch/optim/sgd.py.
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
    """Adagrad: the gradient over the root of the sum of all its squares.

    sum = sum + g^2; w = (1 - rate weight_decay) w - rate g / sqrt(sum + epsilon), in PyTorch's convention
    w = w - rate / (1 + (step - 1) lr_decay) g / (sqrt(sum) + epsilon).

    Args:
        learning_rate: a number, or a callable from the step (the first is 1) to a number; 0.001, torch 0.01.
        initial_accumulator_value: what the sums start from; 0.1, torch 0.
        epsilon: above 0; 1e-7, torch 1e-10.
        weight_decay: decoupled, Keras's convention only (PyTorch's coupled decay is refused).
        lr_decay: PyTorch's convention only.
        convention: "keras" or "torch".

    Errors: TypeError or ValueError that names the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adagrad(convention="torch").epsilon
        1e-10

    Sources: keras/src/optimizers/adagrad.py; torch/optim/adagrad.py; Duchi, Hazan, Singer 2011.
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
            self.refuse_coupled("Use weight_decay=0, or convention='keras', whose decay is decoupled.")
        elif self.lr_decay:
            raise ValueError(f"Adagrad: `lr_decay` needs convention='torch'. Received: lr_decay={self.lr_decay!r}.")

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return Linear(self, dtype, rows, Divisor.SUM, {"sum": self.initial_accumulator_value})


@dataclass
class RMSprop(Optimizer):
    """RMSprop: the gradient over the root of a running average of its squares.

    v = rho v + (1 - rho) g^2; q = g / sqrt(v + epsilon) (torch: g / (sqrt(v) + epsilon)); `centered` takes v less the
    square of the running average of g.  w = (1 - rate weight_decay) w - rate q, or with momentum b = momentum b + rate q;
    w = w - b (torch: b = momentum b + q; w = w - rate b).

    A centered average can round to a negative variance where the gradients are steady; the row then becomes NaN, as it
    does in dense training.

    Args:
        learning_rate: a number, or a callable from the step (the first is 1) to a number; 0.001, torch 0.01.
        rho: decay of the averages, in [0, 1); 0.9, torch 0.99 (there called alpha).
        momentum: in [0, 1); may change from step to step.
        epsilon: above 0; 1e-7, torch 1e-8.
        centered: divide by the root of the variance instead of the mean square.
        weight_decay: decoupled, Keras's convention only (PyTorch's coupled decay is refused).
        convention: "keras" or "torch".

    Errors: TypeError or ValueError that names the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.RMSprop(1e-3, centered=True).rho
        0.9

    Sources: keras/src/optimizers/rmsprop.py; torch/optim/rmsprop.py; Hinton's lecture 6e.
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
            self.refuse_coupled("Use weight_decay=0, or convention='keras', whose decay is decoupled.")

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        divisor = Divisor.CENTERED if self.centered else Divisor.MEAN
        averages = {"velocity": 0.0, **({"average_gradient": 0.0} if self.centered else {})}
        return Linear(self, dtype, rows, divisor, averages, slots)


@dataclass
class Adadelta(Optimizer):
    """Adadelta: the gradient times the ratio of two running roots.

    v = rho v + (1 - rho) g^2; q = g sqrt(d + epsilon) / sqrt(v + epsilon); d = rho d + (1 - rho) q^2;
    w = (1 - rate weight_decay) w - rate q.

    Args:
        learning_rate: a number, or a callable from the step (the first is 1) to a number; 0.001, torch 1.0.
        rho: decay of the averages, in [0, 1); 0.95, torch 0.9.
        epsilon: above 0; 1e-7, torch 1e-6.
        weight_decay: decoupled, Keras's convention only (PyTorch's coupled decay is refused).
        convention: "keras" or "torch": the defaults.

    Errors: TypeError or ValueError that names the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adadelta(convention="torch").learning_rate
        1.0

    Sources: keras/src/optimizers/adadelta.py; torch/optim/adadelta.py; Zeiler 2012.
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
            self.refuse_coupled("Use weight_decay=0, or convention='keras', whose decay is decoupled.")

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return Linear(self, dtype, rows, Divisor.DELTA, {"velocity": 0.0, "delta": 0.0})


class Linear(Recurrence):
    """The linear family; the row state is (w, [momentum], [velocity or sum], [average gradient or delta])."""

    family = "linear"

    def __init__(
        self,
        optimizer: Any,
        dtype: np.dtype[Any],
        rows: int,
        divisor: Divisor,
        averages: dict[str, float],
        slots: Collection[str] = (),
    ) -> None:
        self.optimizer = optimizer
        self.dtype = dtype
        self.divisor = divisor
        self.with_momentum = bool(getattr(optimizer, "momentum", 0.0)) or "momentum" in slots
        self.slots = {**({"momentum": 0.0} if self.with_momentum else {}), **averages}
        self.variant = int(self.with_momentum) + 2 * int(divisor)
        self.history = MatrixHistory(rows)
        self._decays = divisor not in (Divisor.NONE, Divisor.SUM)

    def defers(self, hyper: Hyper) -> bool:
        return self.with_momentum or self._decays or hyper.decay > 0

    @property
    def period(self) -> int:
        return self.history.period

    def restart(self, step: int, momentum: float = 0.0) -> None:
        self.history.restart(step)

    def advance(self, step: int, hyper: Hyper) -> None:
        self.history.advance(self.matrix(step, hyper)[0], self.optimizer.rho if self._decays else 1.0)

    def accepts(self, hyper: Hyper) -> bool:
        if hyper.momentum and not self.with_momentum:
            raise ValueError(
                f"{type(self.optimizer).__name__}: `momentum` was 0 when the table was made, so it has no momentum slot."
                f" Received: momentum={hyper.momentum!r}. Start with the momentum that the schedule reaches, or any above 0."
            )
        return True

    def matrix(self, step: int, hyper: Hyper) -> tuple[Matrix, tuple[float, float]]:
        """M of `step` (row by row) and what multiplies q: ((m00, m01, m10, m11), (gw, gb)).

        In a step without momentum the frameworks leave the buffer as it is.
        """
        rate, momentum, decay = hyper
        if not momentum:
            return (1.0 - rate * decay, 0.0, 0.0, 1.0), (-rate, 0.0)
        if self.optimizer.convention == "torch":
            return (1.0, -rate * momentum, 0.0, momentum), (-rate, 1.0)
        return (1.0 - rate * decay, -momentum, 0.0, momentum), (-rate, rate)

    def coefficients(self, steps: Array) -> Array:
        return self.history.coefficients(steps, self.dtype)

    def numbers(self, step: Any, hyper: Hyper) -> tuple[Matrix, tuple[Any, Any], float, float, float]:
        """M of `step`, what multiplies q, rho, and epsilon inside and outside of the root; as `matrix`, also for arrays."""
        matrix, (gw, gb) = self.matrix(step, hyper)
        optimizer = self.optimizer
        if self.divisor is Divisor.SUM and optimizer.convention == "torch":
            gw = gw / (1.0 + (step - 1) * optimizer.lr_decay)
        epsilon = getattr(optimizer, "epsilon", 0.0)
        inside = optimizer.convention == "keras" or self.divisor is Divisor.DELTA
        return matrix, (gw, gb), getattr(optimizer, "rho", 0.0), epsilon if inside else 0.0, 0.0 if inside else epsilon

    def scalars(self, step: int, hyper: Hyper) -> Array:
        (m00, m01, m10, m11), (gw, gb), rho, inside, outside = self.numbers(step, hyper)
        return np.array(
            [
                *scalar_pair(m00, self.dtype), m01, m10, *scalar_pair(m11, self.dtype), gw, gb,
                *scalar_pair(rho, self.dtype), 1.0 - rho, inside, outside,
            ],
            dtype=self.dtype,
        )  # fmt: skip

    def settle(self, xp: Any, rows: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
        w_hi, w_lo, w_b, b_w, b_hi, b_lo, v_hi, v_lo = (c[:, i, None] for i in range(8))
        w, rest = rows[0], list(rows[1:])
        new_w = weight_by(xp, w, w_hi, w_lo)
        new = []
        if self.with_momentum:
            b = rest.pop(0)
            new_w = new_w + b * w_b
            new_b = slot_by(xp, b, b_hi, b_lo)
            new.append(xp.where(b_w != 0, new_b + w * b_w, new_b))
        new += [slot_by(xp, v, v_hi, v_lo) if self._decays else v for v in rest]
        return (new_w, *new)

    def update(self, xp: Any, rows: tuple[Any, ...], g: Any, s: Any) -> tuple[Any, ...]:
        w_hi, w_lo, w_b, b_w, b_hi, b_lo, g_w, g_b = s[:8]
        w, rest = rows[0], list(rows[1:])
        b = rest.pop(0) if self.with_momentum else None
        q, averages = self._divided(xp, rest, g, s)
        new_w = weight_by(xp, w, w_hi, w_lo)
        if b is None:
            return (new_w + q * g_w, *averages)
        new_w = (new_w + b * w_b) + q * g_w
        more = xp.where(b_w != 0, w * b_w + q * g_b, q * g_b)
        new_b = slot_by(xp, b, b_hi, b_lo, more)
        return (new_w, new_b, *averages)

    def _divided(self, xp: Any, averages: list[Any], g: Any, s: Any) -> tuple[Any, list[Any]]:
        v_hi, v_lo, share, inside, outside = s[8:13]
        if self.divisor is Divisor.NONE:
            return g, []
        if self.divisor is Divisor.SUM:
            v = averages[0] + g * g
            return g / (xp.sqrt(v + inside) + outside), [v]
        v = slot_by(xp, averages[0], v_hi, v_lo, (g * share) * g)
        if self.divisor is Divisor.MEAN:
            return g / (xp.sqrt(v + inside) + outside), [v]
        other = averages[1]
        if self.divisor is Divisor.CENTERED:
            other = slot_by(xp, other, v_hi, v_lo, g * share)
            return g / (xp.sqrt((v - other * other) + inside) + outside), [v, other]
        q = (g * xp.sqrt(other + inside)) / xp.sqrt(v + inside)
        return q, [v, slot_by(xp, other, v_hi, v_lo, (q * share) * q)]


class Descent(Linear):
    """SGD, whose decay may be coupled and whose momentum has Nesterov's form and dampening.

    PyTorch's buffer starts as a copy of the gradient, undampened, in the first step that has a momentum: the table's, since
    a dense parameter has gradients (zeros) in all rows.
    """

    optimizer: SGD
    begun = False

    def __init__(self, optimizer: SGD, dtype: np.dtype[Any], rows: int, slots: Collection[str]) -> None:
        super().__init__(optimizer, dtype, rows, Divisor.NONE, {}, slots)

    def matrix(self, step: int, hyper: Hyper) -> tuple[Matrix, tuple[float, float]]:
        rate, momentum, decay = hyper
        if not momentum:
            return (1.0 - rate * decay, 0.0, 0.0, 1.0), (-rate, 0.0)
        if self.optimizer.convention == "keras":
            if self.optimizer.nesterov:
                return (1.0 - rate * decay, momentum**2, 0.0, momentum), (-rate * (1.0 + momentum), -rate)
            return (1.0 - rate * decay, momentum, 0.0, momentum), (-rate, -rate)
        if self.optimizer.nesterov:
            forward = 1.0 + momentum
            return (1.0 - rate * decay * forward, -rate * momentum**2, decay, momentum), (-rate * forward, 1.0)
        share = 1.0 - self.optimizer.dampening if self.begun else 1.0
        return (1.0 - rate * share * decay, -rate * momentum, share * decay, momentum), (-rate * share, share)

    def advance(self, step: int, hyper: Hyper) -> None:
        super().advance(step, hyper)
        self.begun |= hyper.momentum > 0

    def state(self) -> dict[str, float]:
        return {"momentum_begun": float(self.begun)} if self.with_momentum else {}

    def load_state(self, state: Mapping[str, float]) -> None:
        self.begun = bool(state.get("momentum_begun", False))

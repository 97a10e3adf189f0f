"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.measure import MeasureClock
from unhot.clock.panels import Shape
from unhot.laws import Measure, Root
from unhot.optimizers.base import Array, State, decayed
from unhot.optimizers.moments import DECOUPLED, IN_TORCH, Moments, rest
from unhot.optimizers.names import Names, same


@dataclass
class Adam(Moments):
    """Adam, with decoupled weight decay.

    m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2. In step n, B1 = 1 - beta_1^n and B2 = 1 - beta_2^n.
    With convention="keras": w = (1 - rate weight_decay) w - rate sqrt(B2) / B1 m / (sqrt(v) + epsilon).
    With convention="torch": w = (1 - rate weight_decay) w - rate / B1 m / (sqrt(v / B2) + epsilon).

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001.
        beta_1: in [0, 1). It may change from step to step. At the default epsilon, values up to 0.997 work with any beta_2.
            Values nearer to 1 work if a row moves for at most 2^17 steps after its last gradient, for example 0.999
            with beta_2 = 0.999.
        beta_2: in (0, 1).
        epsilon: a number above 0. Default: 1e-7, torch 1e-8.
        amsgrad: whether to divide by the root of the largest v so far.
        weight_decay: decoupled. It may change from step to step. With convention="torch" it needs decoupled_weight_decay=True.
            Coupled decay, PyTorch's default, is refused, because it is not a recurrence of one row.
        decoupled_weight_decay: in PyTorch's convention only.
        convention: "keras" or "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adam(convention="torch").epsilon
        1e-08

    References: keras/src/optimizers/adam.py; torch/optim/adam.py; Kingma and Ba 2015.
    """

    _: KW_ONLY
    amsgrad: bool = False
    decoupled_weight_decay: bool = False

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "epsilon": 1e-7},
        "torch": {"learning_rate": 0.001, "epsilon": 1e-8},
    }
    TORCH = Names(
        stock="Adam",
        hyperparameters={**IN_TORCH, **same("amsgrad", "decoupled_weight_decay")},
        slots={"momentum": "exp_avg", "velocity": "exp_avg_sq", "largest_velocity": "max_exp_avg_sq"},
        numbers={"step": "step"},
        implied={"convention": "torch"},
    )
    KERAS = Names(
        stock="Adam",
        hyperparameters=same("beta_1", "beta_2", "epsilon", "amsgrad"),
        slots={"momentum": "_momentums", "velocity": "_velocities", "largest_velocity": "_velocity_hats"},
    )

    def check(self) -> None:
        super().check()
        if self.convention == "torch" and not self.decoupled_weight_decay:
            self.refuse_coupled(DECOUPLED)

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        root = Root.LARGEST_SECOND_MOMENT if self.amsgrad else Root.SECOND_MOMENT
        return MeasureClock(self, Measure(root), dtype, rows)

    def shape(self, beta: float) -> Shape:
        """The form of the points c_s, for momenta up to `beta` (`unhot.clock.panels`)."""
        corrected = self.beta_2 if self.convention == "torch" else 0.0
        return Shape(beta, 1.0 if self.amsgrad else sqrt(self.beta_2), corrected)

    def corrections(self, step: Any, hyper: Hyper, product: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c) of `step`: what multiplies momentum, gradient and root."""
        root = xp.sqrt(rest(self.beta_2, step, xp))
        alpha = hyper.rate / rest(hyper.momentum, step, xp)
        return (alpha, 0.0, 1.0 / root) if self.convention == "torch" else (alpha * root, 0.0, 1.0)

    def dense_slots(self) -> tuple[float, ...]:
        return (0.0,) * (3 if self.amsgrad else 2)

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, m, v, *largest = state
        m = h.momentum * m + (1 - h.momentum) * g
        v = self.beta_2 * v + (1 - self.beta_2) * g * g
        largest = [np.maximum(past, v) for past in largest]
        root = np.sqrt(largest[0] if largest else v)
        correction_1, correction_2 = 1 - h.momentum**n, sqrt(1 - self.beta_2**n)
        if self.convention == "torch":
            step = h.rate / correction_1 * m / (root / correction_2 + self.epsilon)
        else:
            step = h.rate * correction_2 / correction_1 * m / (root + self.epsilon)
        return decayed(h, w) - step, m, v, *largest


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay by default: 0.004, torch 0.01. Everything else is as in `Adam`.

    Args: those of `Adam`, except decoupled_weight_decay, which is always on.

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.AdamW(convention="torch").weight_decay
        0.01

    References: keras/src/optimizers/adamw.py; torch/optim/adamw.py; Loshchilov and Hutter 2019.
    """

    _: KW_ONLY
    decoupled_weight_decay: bool = True

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "epsilon": 1e-7, "weight_decay": 0.004},
        "torch": {"learning_rate": 0.001, "epsilon": 1e-8, "weight_decay": 0.01},
    }
    TORCH = replace(Adam.TORCH, stock="AdamW")
    KERAS = replace(Adam.KERAS, stock="AdamW")

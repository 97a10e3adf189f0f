"""NAdam."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from math import prod, sqrt
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.measure import MeasureClock
from unhot.clock.panels import Shape
from unhot.laws import Measure, Root
from unhot.optimizers.base import BY_CONVENTION, Array, State, decayed, real
from unhot.optimizers.moments import IN_TORCH, Moments, rest
from unhot.optimizers.names import Names, same


@dataclass
class NAdam(Moments):
    """Adam with Nesterov's momentum.

    m and v are as in Adam. With psi = momentum_decay (Keras: 1), mu_n = beta_1 (1 - 0.96^(n psi) / 2), P_n = mu_1 ... mu_n:
    w = (1 - rate weight_decay) w - rate (mu_(n+1) m / (1 - P_(n+1)) + (1 - mu_n) g / (1 - P_n)) / (sqrt(v / B2) + epsilon).

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001, torch 0.002.
        beta_1: in [0, 1). It may change from step to step. At the default epsilon, values up to 0.997 work with any beta_2.
            Values nearer to 1 work if a row moves for at most 2^17 steps after its last gradient, for example 0.999
            with beta_2 = 0.999.
        beta_2: in (0, 1).
        epsilon: a number above 0. Default: 1e-7, torch 1e-8.
        momentum_decay: in PyTorch's convention only. Default: 0.004.
        weight_decay: decoupled. It may change from step to step. With convention="torch" it needs decoupled_weight_decay=True.
        decoupled_weight_decay: in PyTorch's convention only.
        convention: "keras" or "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.NAdam(convention="torch").momentum_decay
        0.004

    References: keras/src/optimizers/nadam.py; torch/optim/nadam.py; Dozat 2016.
    """

    _: KW_ONLY
    momentum_decay: float = BY_CONVENTION
    decoupled_weight_decay: bool = False

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "epsilon": 1e-7, "momentum_decay": 1.0},
        "torch": {"learning_rate": 0.002, "epsilon": 1e-8, "momentum_decay": 0.004},
    }
    TORCH = Names(
        stock="NAdam",
        hyperparameters={**IN_TORCH, **same("momentum_decay", "decoupled_weight_decay")},
        slots={"momentum": "exp_avg", "velocity": "exp_avg_sq"},
        numbers={"step": "step", "momentum_product": "mu_product"},
        implied={"convention": "torch"},
    )
    KERAS = Names(
        stock="Nadam",
        hyperparameters=same("beta_1", "beta_2", "epsilon"),
        slots={"momentum": "_momentums", "velocity": "_velocities"},
        numbers={"momentum_product": "_u_product"},
    )

    def check(self) -> None:
        super().check()
        real(self, "momentum_decay", self.momentum_decay)
        if self.convention == "torch":
            if not self.decoupled_weight_decay:
                self.refuse_coupled("Use decoupled_weight_decay=True, or convention='keras', whose decay is decoupled.")
        elif self.momentum_decay != 1.0:
            raise ValueError(
                f"NAdam: `momentum_decay` needs convention='torch'. Received: momentum_decay={self.momentum_decay!r}."
            )

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return MeasureClock(self, Measure(Root.SECOND_MOMENT, nesterov=True), dtype, rows)

    def shape(self, beta: float) -> Shape:
        """The form of the points c_s, for momenta up to `beta` (`unhot.clock.panels`)."""
        return Shape(beta, sqrt(self.beta_2), self.beta_2)

    def momentum_at(self, step: Any, hyper: Hyper, xp: Any = math) -> Any:
        """mu of `step`."""
        return hyper.momentum * (1.0 - 0.5 * xp.exp(step * self.momentum_decay * math.log(0.96)))

    def corrections(self, step: Any, hyper: Hyper, product: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c) of `step`: what multiplies momentum, gradient and root."""
        now, after = self.momentum_at(step, hyper, xp), self.momentum_at(step + 1, hyper, xp)
        product = product * now
        root = xp.sqrt(rest(self.beta_2, step, xp))
        return hyper.rate * after / (1.0 - product * after), hyper.rate * (1.0 - now) / (1.0 - product), 1.0 / root

    def dense_slots(self) -> tuple[float, ...]:
        return 0.0, 0.0

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, m, v = state
        m = h.momentum * m + (1 - h.momentum) * g
        v = self.beta_2 * v + (1 - self.beta_2) * g * g
        mu = [h.momentum * (1 - 0.5 * 0.96 ** (i * self.momentum_decay)) for i in range(1, n + 2)]
        mean = h.rate * mu[n] / (1 - prod(mu)) * m + h.rate * (1 - mu[n - 1]) / (1 - prod(mu[:n])) * g
        return decayed(h, w) - mean / (np.sqrt(v / (1 - self.beta_2**n)) + self.epsilon), m, v

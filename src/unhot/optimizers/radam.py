"""RAdam."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from itertools import count
from math import sqrt, tanh
from typing import Any, Literal

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.measure import MeasureClock
from unhot.clock.panels import Shape
from unhot.laws import Measure, Root
from unhot.optimizers.base import Array, State, decayed
from unhot.optimizers.moments import IN_TORCH, Moments, rest
from unhot.optimizers.names import Names, same

FRACTION = (17, 15, 13, 11, 9, 7, 5, 3)
"""The denominators of coth z - 1/z = z / (3 + z^2 / (5 + z^2 / ...)): to the last digit of float64 for z below 1."""


@dataclass
class RAdam(Moments):
    """Adam with a rectified denominator: where the second moment is not yet to be trusted, a step goes without it.

    m and v are as in Adam. With r0 = 2 / (1 - beta_2) - 1 and r = r0 - 2 n beta_2^n / B2, in step n:
    w = (1 - rate weight_decay) w - rate / B1 m while r is at most 5 (five steps by default), and from then on
    w = (1 - rate weight_decay) w - rate sqrt(B2) / B1 sqrt((r - 4) (r - 2) r0 / ((r0 - 4) (r0 - 2) r)) m / (sqrt(v) + epsilon).

    Keras has no RAdam, and Optax's adds epsilon after the bias correction. This is PyTorch's.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001.
        beta_1: in [0, 1). It may change from step to step. At the default epsilon, values up to 0.997 work with any beta_2.
            Values nearer to 1 work if a row moves for at most 2^17 steps after its last gradient, for example 0.999
            with beta_2 = 0.999.
        beta_2: in (2/3, 1). Below, r never exceeds 5, and the second moment would never be used.
        epsilon: a number of at least 3e-20 (in float64 tables 6e-279). Default: 1e-8.
        weight_decay: decoupled. It may change from step to step. It needs decoupled_weight_decay=True. Coupled decay, PyTorch's
            default, is refused, because it is not a recurrence of one row.
        decoupled_weight_decay: whether the decay is decoupled.
        convention: "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.RAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True).epsilon
        1e-08

    References: torch/optim/radam.py; Liu et al. 2020, arXiv:1908.03265.
    """

    _: KW_ONLY
    decoupled_weight_decay: bool = False
    convention: Literal["torch"] = "torch"

    DEFAULTS = {"torch": {"learning_rate": 0.001, "epsilon": 1e-8}}
    TORCH = Names(
        stock="RAdam",
        hyperparameters={**IN_TORCH, **same("decoupled_weight_decay")},
        slots={"momentum": "exp_avg", "velocity": "exp_avg_sq"},
        numbers={"step": "step"},
        implied={"convention": "torch"},
    )
    KERAS = Names(
        stock="",
        hyperparameters=same("beta_1", "beta_2", "epsilon"),
        slots={"momentum": "_momentums", "velocity": "_velocities"},
        implied={"decoupled_weight_decay": True},
    )

    def check(self) -> None:
        super().check()
        if 2.0 / (1.0 - self.beta_2) - 1.0 <= 5.0:
            raise ValueError(
                "RAdam: `beta_2` must lie in (2/3, 1): otherwise, no step would divide by the root of the second moment."
                f" Received: {self.beta_2!r}. For that, use SGD with a momentum."
            )
        if not self.decoupled_weight_decay:
            self.refuse_coupled("Use decoupled_weight_decay=True.")

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return MeasureClock(self, Measure(Root.SECOND_MOMENT), dtype, rows)

    def shape(self, beta: float) -> Shape:
        """The form of the points c_s, for momenta up to `beta` (`unhot.clock.panels`)."""
        return Shape(beta, sqrt(self.beta_2), 0.0)

    @property
    def undivided(self) -> int:
        """How many steps, the first ones, do not divide by the root: those that are not rectified."""
        return unrectified(self.beta_2)

    def corrections(self, step: Any, hyper: Hyper, product: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c) of `step`: what multiplies momentum, gradient and root."""
        alpha = hyper.rate / rest(hyper.momentum, step, xp)
        late = chosen(xp, step > self.undivided, step, self.undivided + 1.0)
        factor = rectification(self.beta_2, late, xp) * xp.sqrt(rest(self.beta_2, late, xp))
        return alpha * chosen(xp, step > self.undivided, factor, 1.0), 0.0, 1.0

    def dense_slots(self) -> tuple[float, ...]:
        return 0.0, 0.0

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, m, v = state
        m = h.momentum * m + (1 - h.momentum) * g
        v = self.beta_2 * v + (1 - self.beta_2) * g * g
        correction = 1 - self.beta_2**n
        most = 2 / (1 - self.beta_2) - 1
        length = most - 2 * n * self.beta_2**n / correction
        step = h.rate / (1 - h.momentum**n) * m
        if length > 5:
            rect = sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length))
            step = step * rect * sqrt(correction) / (np.sqrt(v) + self.epsilon)
        return decayed(h, w) - step, m, v


@lru_cache(maxsize=64)
def unrectified(beta_2: float) -> int:
    """How many steps are not rectified, as PyTorch computes it."""
    most = 2 / (1 - beta_2) - 1
    return next(n for n in count(1) if most - 2 * n * (beta_2**n) / (1 - beta_2**n) > 5.0) - 1


def rectification(beta_2: float, step: Any, xp: Any = math) -> Any:
    """sqrt((r - 4) (r - 2) r0 / ((r0 - 4) (r0 - 2) r)) of a step that is rectified."""
    half = -0.5 * math.log(beta_2)
    most = 1.0 / tanh(half)  # 2 / (1 - beta_2) - 1
    # r is a small difference of large numbers, unless in these forms: with z = half step, r0 = coth(half), and
    # 2 n beta_2^n / (1 - beta_2^n) = step (coth(z) - 1).
    z = half * step
    near = step * (1.0 - langevin(z)) + langevin(half)
    far = most - 2.0 * step * xp.exp(-2.0 * z) / -xp.expm1(-2.0 * z)
    r = chosen(xp, z < 1.0, near, far)
    return xp.sqrt((r - 4.0) * (r - 2.0) * (most / ((most - 4.0) * (most - 2.0))) / r)


def langevin(z: Any) -> Any:
    """coth z - 1/z, for z below 1."""
    tail: Any = FRACTION[0]
    for denominator in FRACTION[1:]:
        tail = denominator + z * z / tail
    return z / tail


def chosen(xp: Any, condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    if xp is math:
        return x if condition else y
    return xp.where(condition, x, y)

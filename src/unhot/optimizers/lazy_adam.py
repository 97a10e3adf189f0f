"""LazyAdam."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.root import LazyClock
from unhot.laws import Measure, Root
from unhot.optimizers.moments import IN_TORCH, Moments, rest
from unhot.optimizers.names import Names, same


@dataclass
class LazyAdam(Moments):
    """Not dense training: Adam that leaves rows without a gradient as they are, as torch.optim.SparseAdam does.

    A row without a gradient keeps its weights, m and v. A row with one is stepped as by Adam: m = beta_1 m + (1 - beta_1) g;
    v = beta_2 v + (1 - beta_2) g^2; w = w - rate sqrt(B2) / B1 m / (sqrt(v) + epsilon), where B1 = 1 - beta_1^n and
    B2 = 1 - beta_2^n in step n of the table. The gradients of a repeated id are summed first.

    Use it to compare with, or to go on with, what was trained so. `unhot.Adam` trains as one-hot x Dense does, also at a cost
    proportional to the rows touched.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001.
        beta_1: in [0, 1). It may change from step to step.
        beta_2: in (0, 1).
        epsilon: a number above 0. Default: 1e-7, torch 1e-8.
        amsgrad: whether to divide by the root of the largest v so far.
        weight_decay: 0.
        convention: "keras", as TensorFlow Addons' LazyAdam, or "torch", as SparseAdam. It determines only the defaults.

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> table = unhot.Table(3, 1, optimizer=unhot.LazyAdam(0.1), init="zeros")
        >>> for ids in ([0, 1], [1], [1]):
        ...     table.step(ids, [[1.0]] * len(ids))
        >>> table.array.round(3)  # Adam would go on moving the first row
        array([[-0.1],
               [-0.3],
               [ 0. ]], dtype=float32)

    References: torch/optim/sparse_adam.py; tensorflow_addons/optimizers/lazy_adam.py.
    """

    _: KW_ONLY
    amsgrad: bool = False

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "epsilon": 1e-7},
        "torch": {"learning_rate": 0.001, "epsilon": 1e-8},
    }
    NO_DENSE = "it leaves rows without a gradient as they are, which dense training does not"
    TORCH = Names(
        stock="",
        hyperparameters={**IN_TORCH, **same("amsgrad")},
        slots={"momentum": "exp_avg", "velocity": "exp_avg_sq", "largest_velocity": "max_exp_avg_sq"},
        numbers={"step": "step"},
        implied={"convention": "torch"},
    )
    KERAS = Names(
        stock="",
        hyperparameters=same("beta_1", "beta_2", "epsilon", "amsgrad"),
        slots={"momentum": "_momentums", "velocity": "_velocities", "largest_velocity": "_velocity_hats"},
    )

    def check(self) -> None:
        super().check()
        if self.weight_decay:
            raise ValueError(
                "LazyAdam: `weight_decay` must be 0, since rows without a gradient would not decay. Received:"
                f" {self.weight_decay!r}. Use AdamW, which decays all rows."
            )

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return LazyClock(self, Measure(Root.LARGEST_SECOND_MOMENT if self.amsgrad else Root.SECOND_MOMENT), dtype)

    def corrections(self, step: Any, hyper: Hyper, product: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c) of `step`: what multiplies momentum, gradient and root."""
        root = xp.sqrt(rest(self.beta_2, step, xp))
        return hyper.rate * root / rest(hyper.momentum, step, xp), 0.0, 1.0

"""Rules that divide a momentum by a root: Adam, AdamW, NAdam, Adamax. measure.py and crossing.py carry them out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.rules.base import BY_CONVENTION, Convention, Optimizer, Recurrence, real
from unhot.rules.crossing import CrossingMaximum
from unhot.rules.measure import NesterovMeasure, NormMeasure, StepMeasure

DECOUPLED = "Use unhot.AdamW, or decoupled_weight_decay=True, or convention='keras': their decay is decoupled."


@dataclass
class _Moments(Optimizer):
    """The hyperparameters that Adam, NAdam and Adamax share."""

    _: KW_ONLY
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = BY_CONVENTION
    convention: Convention = "keras"

    momentum_name = "beta_1"

    def check(self) -> None:
        super().check()
        real(self, "beta_1", self.beta_1, below=1.0)
        real(self, "beta_2", self.beta_2, below=1.0, open_=True)
        real(self, "epsilon", self.epsilon, open_=True)


@dataclass
class Adam(_Moments):
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

    def check(self) -> None:
        super().check()
        if self.convention == "torch" and not self.decoupled_weight_decay:
            self.refuse_coupled(DECOUPLED)

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return StepMeasure(self, dtype, rows)


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


@dataclass
class NAdam(_Moments):
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

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return NesterovMeasure(self, dtype, rows)


@dataclass
class Adamax(_Moments):
    """Adam with the largest gradient in place of the root of the second moment.

    m = beta_1 m + (1 - beta_1) g. In step n, B1 = 1 - beta_1^n.
    With convention="keras": u = max(beta_2 u, |g|); w = (1 - rate weight_decay) w - rate / B1 m / (u + epsilon).
    With convention="torch": u = max(beta_2 u, |g| + epsilon); w = w - rate / B1 m / u.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001, torch 0.002.
        beta_1: in [0, 1). It may change from step to step. At the default epsilon, values up to 0.997 work with any beta_2.
            Values nearer to 1 work if a row moves for at most 2^17 steps after its last gradient. With convention="torch",
            beta_1 is at most 0.99 beta_2.
        beta_2: in (0, 1).
        epsilon: a number above 0. Default: 1e-7, torch 1e-8.
        weight_decay: decoupled, in Keras's convention only. PyTorch's coupled decay is refused.
        convention: "keras" or "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adamax(convention="torch").learning_rate
        0.002

    References: keras/src/optimizers/adamax.py; torch/optim/adamax.py; Kingma and Ba 2015.
    """

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "epsilon": 1e-7},
        "torch": {"learning_rate": 0.002, "epsilon": 1e-8},
    }

    def check(self) -> None:
        super().check()
        if self.convention == "torch":
            self.refuse_coupled()
            if self.beta_1 > 0.99 * self.beta_2:
                raise ValueError(
                    "Adamax: with convention='torch', beta_1 must be at most 0.99 beta_2, or the deferred steps of a row have"
                    f" no bounded window. Received: beta_1={self.beta_1!r}, beta_2={self.beta_2!r}. Use convention='keras',"
                    " which has no such bound."
                )

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        if self.convention == "torch":
            return CrossingMaximum(self, dtype, rows)
        return NormMeasure(self, dtype, rows)

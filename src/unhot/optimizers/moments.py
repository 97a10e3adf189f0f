"""What Adam, NAdam and Adamax share."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from unhot.clock import Hyper
from unhot.optimizers.base import BY_CONVENTION, Convention, Optimizer, real
from unhot.optimizers.names import Place, same

DECOUPLED = "Use unhot.AdamW, or decoupled_weight_decay=True, or convention='keras': their decay is decoupled."

IN_TORCH: dict[str, Place] = {
    "learning_rate": "lr", "beta_1": ("betas", 0), "beta_2": ("betas", 1), "epsilon": "eps", **same("weight_decay"),
}  # fmt: skip
"""The keys in PyTorch's parameter groups of the hyperparameters that they share."""


@dataclass
class Moments(Optimizer):
    """The hyperparameters that Adam, NAdam and Adamax share."""

    _: KW_ONLY
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = BY_CONVENTION
    convention: Convention = "keras"

    momentum_name = "beta_1"

    @property
    def undivided(self) -> int:
        """How many steps, the first ones, do not divide by the root, but move a row by alpha m."""
        return 0

    def check(self) -> None:
        super().check()
        real(self, "beta_1", self.beta_1, below=1.0)
        real(self, "beta_2", self.beta_2, below=1.0, open_=True)
        real(self, "epsilon", self.epsilon, open_=True)

    def momentum_at(self, step: Any, hyper: Hyper, xp: Any = math) -> Any:
        """beta_1 of `step`."""
        return hyper.momentum


def rest(beta: float, step: Any, xp: Any = math) -> Any:
    """1 - beta**step, to the last digits also where beta is near 1."""
    return -xp.expm1(step * math.log(beta)) if beta else 1.0

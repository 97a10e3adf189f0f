"""Ftrl."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.closed_form import ClosedFormClock
from unhot.laws import ClosedForm
from unhot.optimizers.base import MOST, Array, Optimizer, State, decayed, real
from unhot.optimizers.names import Names, same


@dataclass
class Ftrl(Optimizer):
    """Ftrl: follow the regularised leader, proximal.

    With p = learning_rate_power, n' = n + g^2 and w after decay, z = z + g + 2 l2_shrinkage w - (n'^-p - n^-p) / rate w; then
    w = (clip(z, -l1, l1) - z) / ((n'^-p + beta) / rate + 2 l2). Without shrinkage, a row that is never touched becomes 0 in
    the first step, whatever its initial value, as in dense training.

    Args:
        learning_rate: a number above 0, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001.
        learning_rate_power: a number of at most 0. Default: -0.5.
        initial_accumulator_value: the initial value of n, called n0 below. Default: 0.1.
        l1_regularization_strength, l2_regularization_strength: numbers of at least 0.
        l2_shrinkage_regularization_strength: a number of at least 0. Above 0, 4 l2_shrinkage rate and 2 l2 rate may be at most
            n0^-p + beta.
        beta: a number of at least 0.
        weight_decay: decoupled. It may change from step to step.

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Ftrl(0.1, l1_regularization_strength=0.01).beta
        0.0

    References: keras/src/optimizers/ftrl.py; McMahan et al. 2013.
    """

    _: KW_ONLY
    learning_rate_power: float = -0.5
    initial_accumulator_value: float = 0.1
    l1_regularization_strength: float = 0.0
    l2_regularization_strength: float = 0.0
    l2_shrinkage_regularization_strength: float = 0.0
    beta: float = 0.0

    DEFAULTS = {"keras": {"learning_rate": 0.001}}
    KERAS = Names(
        stock="Ftrl",
        hyperparameters=same(
            "learning_rate_power", "initial_accumulator_value", "l1_regularization_strength", "l2_regularization_strength",
            "l2_shrinkage_regularization_strength", "beta",
        ),
        slots={"accumulator": "_accumulators", "linear": "_linears"},
    )  # fmt: skip

    @property
    def least(self) -> float:
        """X0, the least accumulator^-p + beta."""
        return float(self.initial_accumulator_value**-self.learning_rate_power + self.beta)

    def check(self) -> None:
        names = ("initial_accumulator_value", "l1_regularization_strength", "l2_regularization_strength")
        for name in (*names, "l2_shrinkage_regularization_strength", "beta"):
            real(self, name, getattr(self, name))
        if real(self, "learning_rate_power", self.learning_rate_power, least=-np.inf, open_=True) > 0:
            raise ValueError(f"Ftrl: `learning_rate_power` must be at most 0. Received: {self.learning_rate_power!r}.")
        if self.least + self.l2_regularization_strength == 0:
            raise ValueError(
                "Ftrl: initial_accumulator_value, beta and l2_regularization_strength are all 0: the weight of a row that is"
                " never touched would be 0/0. Give one of them a value above 0."
            )
        super().check()

    def _rate(self, value: Any) -> float:
        rate = real(self, "learning_rate", value, open_=True)
        shrinkage = 4.0 * self.l2_shrinkage_regularization_strength * rate
        if shrinkage and (shrinkage > self.least or 2.0 * self.l2_regularization_strength * rate > self.least):
            raise ValueError(
                "Ftrl: with l2 shrinkage, 4 l2_shrinkage rate and 2 l2 rate may be at most initial_accumulator_value**-power"
                f" + beta = {self.least:g}. Received: rate={rate:g}. Lower the rate or the strengths, or raise beta."
            )
        return rate

    def require_range(self, hyper: Hyper, dtype: np.dtype[Any]) -> None:
        super().require_range(hyper, dtype)
        least = 1.0 / MOST[dtype.name]
        if hyper.rate < least:
            raise ValueError(
                f"Ftrl: `learning_rate` divides the sums, and must be at least {least:g} in a {dtype} table."
                f" Received: {hyper.rate!r}."
            )

    def follows(self, other: Optimizer) -> bool:
        # With shrinkage the series hold for accumulators of the initial value and above, which those of the table are of.
        shrinks = self.l2_shrinkage_regularization_strength > 0
        least = getattr(other, "initial_accumulator_value", np.inf)
        return super().follows(other) and not (shrinks and self.initial_accumulator_value > least)

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        shrinks = self.l2_shrinkage_regularization_strength > 0
        return ClosedFormClock(self, ClosedForm(shrinks, root=self.learning_rate_power == -0.5), dtype, rows)

    def dense_slots(self) -> tuple[float, ...]:
        return self.initial_accumulator_value, 0.0

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, total, z = state
        w = decayed(h, w)
        power, l1 = -self.learning_rate_power, self.l1_regularization_strength
        new = total + g * g
        z = z + g + 2 * self.l2_shrinkage_regularization_strength * w - (new**power - total**power) / h.rate * w
        quadratic = (new**power + self.beta) / h.rate + 2 * self.l2_regularization_strength
        return (np.clip(z, -l1, l1) - z) / quadratic, new, z

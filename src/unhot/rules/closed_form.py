"""Ftrl, whose weight is a closed form of its slots at the current rate.

Without shrinkage a row without a gradient keeps its slots, and its weight follows from them and the current rate alone.
With l2 shrinkage s2 the linear slot z moves too: y = z - clip(z, -l1, l1) shrinks in step s by the factor
1 - 2 s2 d_s e / (X + 2 l2 e), e the rate of the step before, X = accumulator^-p + beta. Its logarithm is a smooth
function of X0/X in (0, 1], X0 the least X there is, and 0 at 0: a few Chebyshev coefficients of it divided by X0/X, summed
over the steps, give the product for every element, also where it is near 1. The first step after a touch is taken
literally, since an initial weight need not agree with its z.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from unhot.atomic import Call, together
from unhot.deferral import Array, History
from unhot.laws import ClosedForm
from unhot.laws.closed_form import TERMS
from unhot.rules.base import MOST, Hyper, Optimizer, Recurrence, real, scalar_pair, stored

NODES = 0.5 + 0.5 * np.cos((np.arange(TERMS) + 0.5) * np.pi / TERMS)
TO_CHEBYSHEV = np.linalg.inv(np.polynomial.chebyshev.chebvander(2.0 * NODES - 1.0, TERMS - 1)).T


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

    def recurrence(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Recurrence:
        return ClosedFormRecurrence(self, dtype, rows)


class ShrinkageHistory(History):
    """For every t in the ring: the sums of the logarithm's coefficients up to t (as two floats), and 2 s2 d of step t + 1."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows, 2 * TERMS + 1)
        self.sums = np.zeros((2, self.capacity, TERMS))
        self.first = np.zeros(self.capacity)
        together(self.restart(0))

    def _begin(self, step: int, *, new_block: bool) -> list[Call]:
        return [partial(setitem, self.sums, (slice(None), step & self.mask), 0.0)]

    def advance(self, first: float, logarithm: Array) -> list[Call]:
        """What records the step now + 1: 2 s2 d, and the coefficients of the logarithm of its factor."""
        high, low = self.sums[:, self.now & self.mask]
        after = self.now + 1
        total = high + logarithm
        part = total - high
        error = (high - (total - part)) + (logarithm - part)
        return [
            partial(setitem, self.first, self.now & self.mask, first),
            partial(setitem, self.sums, (slice(None), after & self.mask), np.stack([total, low + error])),
            partial(setattr, self, "now", after),
        ]

    def compose(self, steps: Array) -> Array:
        """(2 s2 d of the first step, coefficients over the other steps) of `steps`: (len(steps), 1 + TERMS)."""
        high, low = self.sums
        start, now = np.minimum(steps + 1, self.now) & self.mask, self.now & self.mask
        return np.concatenate(
            [self.first[steps & self.mask, None], (high[now] - high[start]) + (low[now] - low[start])], axis=1
        )


class ClosedFormRecurrence(Recurrence):
    """The family of closed forms; the row state is (w, accumulator, linear)."""

    def __init__(self, optimizer: Ftrl, dtype: np.dtype[Any], rows: int) -> None:
        self.optimizer = optimizer
        self.dtype = dtype
        self.slots = {"accumulator": optimizer.initial_accumulator_value, "linear": 0.0}
        self.history = ShrinkageHistory(rows if self._shrinks else 0)
        self.rate = 1.0
        self.law = ClosedForm(self._shrinks, root=optimizer.learning_rate_power == -0.5)

    @property
    def _shrinks(self) -> bool:
        return self.optimizer.l2_shrinkage_regularization_strength > 0

    @property
    def period(self) -> int:
        return self.history.period if self._shrinks else 1 << 40

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        return self.history.restart(step) if self._shrinks else []

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        rate: Call = partial(setattr, self, "rate", hyper.rate)
        if self._shrinks:
            decay = 1.0 - hyper.rate * hyper.decay
            twice = 2.0 * self.optimizer.l2_shrinkage_regularization_strength * decay
            before = self.rate if step > 1 else hyper.rate
            least, l2 = self.optimizer.least, self.optimizer.l2_regularization_strength
            shrunk = np.log1p(-twice * before * NODES / (least + 2.0 * l2 * before * NODES))
            return [*self.history.advance(twice, (shrunk / NODES) @ TO_CHEBYSHEV), rate]
        return [rate]

    def coefficients(self, steps: Array) -> Array:
        if not self._shrinks:
            return np.zeros((len(steps), 1), dtype=self.dtype)
        return self.history.compose(steps).astype(self.dtype)

    def shared(self) -> Any:
        o = self.optimizer
        return self.law.Shared(
            1.0 / self.rate,
            2.0 * o.l2_shrinkage_regularization_strength,
            2.0 * o.l2_regularization_strength,
            o.l1_regularization_strength,
            o.beta,
            -o.learning_rate_power,
            o.least,
        )

    def scalars(self, step: int, hyper: Hyper) -> Array:
        pair = scalar_pair(1.0 - hyper.rate * hyper.decay, self.dtype)
        return np.array([*pair, 1.0 / hyper.rate], dtype=self.dtype)

    def state(self) -> dict[str, float]:
        return {"rate": self.rate}

    def load_state(self, state: Any) -> None:
        self.rate = stored(state, "rate", least=np.nextafter(0.0, 1.0))

"""The clock of optimizers that divide a momentum by a root (`unhot.laws.measure`), such as Adam.

The first steps of an optimizer may go without the root: each moves a row by alpha m. Such a step is a term of one more panel,
at a centre c0 so low that c0 x is nothing beside epsilon: (m / epsilon) times epsilon alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from operator import setitem
from typing import Any, Protocol

import numpy as np

from unhot.atomic import Call, together
from unhot.clock.base import Array, Hyper, stored
from unhot.clock.history import BLOCK
from unhot.clock.panels import MOST_BYTES, Shape, design, require_epsilon, to_powers_of, too_wide
from unhot.clock.root import RootClock, RootSteps
from unhot.clock.windows import WindowedHistory
from unhot.kernels import active as kernels
from unhot.kernels.structs import Formula
from unhot.laws import Measure


class MeasureHistory(WindowedHistory):
    """The step measure of every t in the ring, with the decays of weight, momentum and second moment.

    scale[t] = (D, M, V): the products of 1 - rate decay, beta_1 and the moment's decay over t+1..now.
    polynomial[t, p] = (c0, K_0, K_1, ...): panel p's centre and its polynomial in u.
    """

    def __init__(self, rows: int, shape: Shape, epsilon: float, dtype: str, undivided: int = 0) -> None:
        """For so many `undivided` steps, which go without the root, before the others."""
        self.shape, self.undivided = shape, undivided
        self.panels = panels = design(shape, epsilon, dtype, undivided)
        if undivided:
            require_epsilon(epsilon, dtype, "the first steps do not divide by a root, which leaves no room")
        count = len(panels.centres) + bool(undivided)
        numbers = 4 + count * (1 + panels.terms)
        least = 2 * panels.largest
        size = 8 * numbers * least
        if size > MOST_BYTES:
            raise too_wide(shape, f"a history of {size / 2**30:.1f} GiB, where {MOST_BYTES / 2**30:.0f} GiB is the most")
        super().__init__(rows, numbers, panels.window, panels.largest, panels.slope)
        self.terms = panels.terms
        self.scale = np.zeros((self.capacity, 3))
        self.suffix = np.ones((self.blocks, 3))
        self.polynomial = np.zeros((self.capacity, count, 1 + panels.terms))
        self._lowest = [panels.floor] * bool(undivided)
        self._undivided = np.full(undivided + 1, panels.floor), np.full(undivided + 1, count - 1)
        self._epsilon = float(np.dtype(dtype).type(epsilon))
        self._settled = shape.settled
        self._terms_from: dict[int, int] = {}
        self.used = np.zeros(self.capacity, dtype=np.int64)
        together(self.restart(0))

    def _begin(self, step: int, *, new_block: bool) -> list[Call]:
        position = step & self.mask
        calls: list[Call] = [
            partial(setitem, self.scale, position, 1.0),
            partial(setitem, self.used, position, 1),
            partial(setitem, self.polynomial, position, 0.0),
            partial(setitem, self.polynomial, (position, slice(None), 0), np.array(self._centres_at(step))),
        ]
        return [*calls, partial(setitem, self.suffix, step // BLOCK % self.blocks, 1.0)] if new_block else calls

    def _centres_at(self, step: int) -> list[float]:
        """The centres c0 of the panels of the rows last touched at `step`."""
        if not self.shape.corrected or step >= self._settled:
            return self.panels.still_centres + self._lowest
        at, both = self.shape.height, zip(self.panels.still_centres, self.panels.centres, strict=True)
        return [still * at(step + centre) for still, centre in both] + self._lowest

    def advance(self, decay: float, beta: float, moment: float, rate: float) -> list[Call]:
        """What extends every entry by the step now + 1, and begins that step's.

        `decay` is the factor on the weight, `beta` on the momentum, `moment` on the second moment, and `rate` the step's
        a_s without the powers of beta.  The blocks that `rate` reaches are open: see `reopened`.
        """
        step = self.now + 1
        if step <= self.undivided:
            window, notes = step - self.origin, list[Call]()
            (powers, panel_of), height, terms, rate = self._undivided, 1.0, 1, rate * self._epsilon
        else:
            window, notes = self.reach(rate)
            powers, panel_of, height = self.panels.powers, self.panels.panel_of, self.shape.height(step)
            terms = self._terms_at(max(self.origin, step - window))
        first = max(self.origin, step - window) // BLOCK
        extend = kernels.measure_extend(
            self.scale, self.suffix, self.polynomial, self.used, max(self.origin, first * BLOCK), step, window,
            self.oldest_block(), first, powers, panel_of, height, to_powers_of(terms), (decay, beta, moment), rate,
            self._centres_at(step),
        )  # fmt: skip
        return [*extend, *notes, partial(setattr, self, "first_open", first), partial(setattr, self, "now", step)]

    def reopened(self, rate: float) -> list[Call]:
        return super().reopened(rate) if self.now >= self.undivided else []

    def _fold(self, a: int) -> list[Call]:
        factors, entries = self.suffix[a].copy(), slice(a * BLOCK, (a + 1) * BLOCK)
        panels = self.polynomial[entries, :, 1:]
        return [
            partial(setitem, self.scale, entries, self.scale[entries] * factors),
            partial(setitem, panels, ..., panels * factors[0]),
            partial(setitem, self.suffix, a, 1.0),
        ]

    def _terms_at(self, t: int) -> int:
        """The coefficients that rows last touched at step t or later need, found anew at each power of two."""
        power = max(t, 1).bit_length() - 1 if t < self._settled else -1
        if not self.panels.largest:
            return 1
        if power not in self._terms_from:
            first = float(1 << power) if power >= 0 else self._settled
            edges, points = self.panels.edges, self.panels.points
            spans = zip(edges[:-1], edges[1:], self.panels.centres, strict=True)
            found = min(self.terms, max(points.terms(first, *span) for span in spans))
            self._terms_from = {**self._terms_from, power: found}  # a new one: another thread may be copying the old one
        return self._terms_from[power]

    def coefficients(self, steps: Array, dtype: np.dtype[Any]) -> Array:
        """What carries the rows last touched at `steps` to now: pairs of decays, terms used, and the polynomials."""
        return np.asarray(kernels.measure_coefficients(self.scale, self.suffix, self.polynomial, self.used, steps, dtype))


class MeasureSteps(RootSteps, Protocol):
    """What the clock asks its optimizer, beside the steps."""

    beta_1: float

    def shape(self, beta: float) -> Shape:
        """The form of the points c_s, for momenta up to `beta`."""

    def momentum_at(self, step: Any, hyper: Hyper, xp: Any = math) -> Any:
        """The momentum by which `product` grows in `step`."""


class MeasureClock(RootClock):
    """Carries rows by the step measure."""

    optimizer: MeasureSteps

    def __init__(self, optimizer: MeasureSteps, law: Measure, dtype: np.dtype[Any], rows: int) -> None:
        super().__init__(optimizer, law, dtype)
        self.rows = rows
        self._formula: tuple[MeasureHistory | None, Formula | None] = (None, None)
        self.history = self._new_history(optimizer.beta_1, 0)

    def _new_history(self, beta: float, step: int) -> MeasureHistory:
        """A history for momenta up to `beta` that begins at `step`."""
        undivided = self.optimizer.undivided if step < self.optimizer.undivided else 0
        return MeasureHistory(self.rows, self.optimizer.shape(beta), self.optimizer.epsilon, self.dtype.name, undivided)

    @property
    def period(self) -> int:
        return self.history.period

    def supports(self, hyper: Hyper) -> bool:
        return hyper.momentum <= self.history.shape.beta

    def needs_settling_before(self, hyper: Hyper) -> bool:
        step = self.history.now + 1
        outruns = step > self.optimizer.undivided and self.history.outruns(self._corrections(step, hyper)[0])
        return super().needs_settling_before(hyper) or outruns

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        beta = self.history.shape.beta
        if momentum <= beta and (step < self.optimizer.undivided) == (self.history.undivided > 0):
            return self.history.restart(step)
        try:  # halfway to 1, so that a rising schedule asks for few new histories
            history = self._new_history(beta if momentum <= beta else 0.5 + 0.5 * momentum, step)
        except ValueError:
            history = self._new_history(momentum, step)
        together(history.restart(step))
        return [partial(setattr, self, "history", history)]

    def reopened(self, step: int, hyper: Hyper) -> list[Call]:
        return self.history.reopened(self._corrections(step, hyper)[0])

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        alpha, _, _ = self._corrections(step, hyper)
        calls = self.history.advance(1.0 - hyper.rate * hyper.decay, hyper.momentum, self.optimizer.beta_2, alpha)
        if self.law.nesterov:
            calls.append(partial(setattr, self, "product", self.product * self.optimizer.momentum_at(step, hyper)))
        return [*calls, *self.decayed(hyper)]

    def coefficients(self, steps: Array) -> Array:
        return self.history.coefficients(steps, self.dtype)

    def formula(self) -> Formula:
        of, known = self._formula
        if of is not self.history:  # the numbers that all rows share are the history's
            known = super().formula()
            self._formula = (self.history, known)
        assert known is not None
        return known

    def shared(self) -> Any:
        epsilon = float(self.dtype.type(self.optimizer.epsilon))
        return self.law.Shared(epsilon, self.history.polynomial.shape[1], self.history.terms)

    def state(self) -> dict[str, float]:
        product = {"momentum_product": self.product} if self.law.nesterov else {}
        return {**super().state(), "largest_beta": self.history.shape.beta, **product}

    def load_state(self, state: Mapping[str, float]) -> None:
        super().load_state(state)
        largest = stored(state, "largest_beta", below=1.0)
        if self.law.nesterov:
            product = stored(state, "momentum_product", below=float(np.nextafter(1.0, 2.0)))
            self._corrected = (0, *self._corrected[1:])
            self.product = product
        if largest > self.history.shape.beta:
            self.history = self._new_history(largest, 0)

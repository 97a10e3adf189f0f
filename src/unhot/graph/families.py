"""The clocks inside a graph: their histories as arrays; `settle` and `update` are those of their laws.

A family gives the coefficients of the rows last touched at each of `last` in the layout that its law takes, and the
scalars of a step, from a rate that the graph computes.  Momenta, decays and all else are numbers known when it is compiled.
"""

from __future__ import annotations

import copy
from math import log
from typing import Any, ClassVar, Protocol

import numpy as np

from unhot.clock import Hyper
from unhot.clock.base import Clock
from unhot.clock.closed_form import NODES, TO_CHEBYSHEV, ClosedFormClock
from unhot.clock.linear import LinearClock
from unhot.clock.measure import MeasureClock
from unhot.clock.panels import to_powers_of
from unhot.clock.root import LazyClock
from unhot.clock.sign import SignClock
from unhot.clock.sums import added, difference
from unhot.graph.history import Arrays, Decays, Window, pair_of_log, power, ring_of
from unhot.kernels.reference_history import series
from unhot.laws.closed_form import TERMS
from unhot.optimizers import Optimizer

REACH = 42.0
"""A momentum's terms are summed until they have fallen to exp(-42), about what the step measure's widest windows leave out."""


class Family(Protocol):
    """One optimizer at work on a table inside a graph."""

    clock: Clock
    capacity: int

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The history of a table that has made no step."""

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> Arrays:
        """The arrays that `step` changes."""

    def coefficients(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> Any:
        """What carries the rows last touched at `last` to `now`: (len(last), width)."""

    def scalars(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> tuple[Any, ...]:
        """The scalars of `step`, as `Clock.update` takes them."""

    def settle(self, ops: Any, arrays: Arrays, rows: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
        """The row states carried over their deferred steps."""

    def untouched(self, ops: Any, arrays: Arrays, rows: tuple[Any, ...], now: Any) -> tuple[Any, ...]:
        """The states at `now` of rows that were in these states when the history was begun, at step 0."""

    def enlarged(self, ops: Any, arrays: Arrays, now: Any, before: Family) -> Arrays:
        """The history of rows that are all settled at `now`, from that of a family for another number of rows."""


class _Base:
    def __init__(self, clock: Any, dtype: str, rows: int, window: int, width: int) -> None:
        self.clock = clock
        self.dtype = np.dtype(dtype)
        optimizer = clock.optimizer
        self.decay = float(optimizer.weight_decay or 0.0)
        self.momentum = float(getattr(optimizer, optimizer.momentum_name)) if optimizer.momentum_name else 0.0
        self.capacity = ring_of(rows, window)
        self.decays = Decays(self.decay, self.capacity)
        self.window = Window(window, width, self.decays)

    def hyper(self, rate: Any) -> Hyper:
        return Hyper(rate, self.momentum, self.decay)

    def weight_pair(self, rate: Any) -> tuple[Any, Any]:
        """1 - rate weight_decay: not by `pair`, since a graph may have no float64 for the difference."""
        return 1.0, -rate * self.decay if self.decay else 0.0

    def decayed(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> tuple[Any, Any]:
        """The weights' decay from `last` to `now`."""
        if not self.decay:
            return ops.ones_like(last), ops.zeros_like(last)
        return pair_of_log(ops, self.decays.between(ops, arrays, last, now))

    def settle(self, ops: Any, arrays: Arrays, rows: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
        settled: tuple[Any, ...] = self.clock.settle(ops, rows, c)
        return settled

    def untouched(self, ops: Any, arrays: Arrays, rows: tuple[Any, ...], now: Any) -> tuple[Any, ...]:
        return (rows[0] * ops.exp(self.decays.total(ops, arrays, now)), *rows[1:])

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The history of a table that has made no step."""
        return {}

    def enlarged(self, ops: Any, arrays: Arrays, now: Any, before: Any) -> Arrays:  # a family, which has a capacity
        if self.capacity == before.capacity:
            return arrays
        made: Arrays = {}
        for name, new in self.arrays().items():
            old = arrays[name]
            if new.shape[:1] != (self.capacity,):
                made[name] = old
            elif name in self.RUNNING:
                made[name] = ops.put(ops.constant(new), now & (self.capacity - 1), ops.take(old, now & (before.capacity - 1)))
            else:
                made[name] = ops.constant(new)
        return made

    RUNNING: ClassVar[tuple[str, ...]] = ("decays", "sums")
    """The arrays with running sums."""


class RootFamily(_Base):
    """What a step is, for optimizers such as Adam."""

    def corrections(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c): see `RootSteps.corrections`."""
        product = arrays.get("momentum_product", 1.0)
        corrections: tuple[Any, Any, Any] = self.clock.optimizer.corrections(ops.real(step), self.hyper(rate), product, ops)
        return corrections

    def scalars(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> tuple[Any, ...]:
        epsilon, undivided = self.clock.optimizer.epsilon, self.clock.optimizer.undivided
        alpha, gamma, c = self.corrections(ops, arrays, step, rate)
        if undivided:
            c, epsilon = (ops.where(step > undivided, usual, first) for usual, first in ((c, 0.0), (epsilon, 1.0)))
        scalars: tuple[Any, ...] = self.clock.scalars_with(self.weight_pair(rate), self.hyper(rate), (alpha, gamma, c), epsilon)
        return scalars


class LazyFamily(RootFamily):
    """LazyAdam: rows without a gradient stand still, and there is no history."""

    def __init__(self, clock: LazyClock, dtype: str, rows: int) -> None:
        super().__init__(clock, dtype, rows, 0, 0)

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> Arrays:
        return {}

    def coefficients(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> Any:
        raise AssertionError("no row has deferred steps")


class MeasureFamily(RootFamily):
    """Optimizers such as Adam: lines of polynomials, a panel after the other."""

    def __init__(self, clock: MeasureClock, dtype: str, rows: int) -> None:
        self.panels = clock.history.panels
        self.shape = clock.history.shape
        self.terms = clock.history.terms
        super().__init__(clock, dtype, rows, self.panels.largest, len(self.panels.centres) * self.terms)
        distance = np.arange(1.0, self.panels.largest + 1)
        self.powers, self.still = self.panels.powers[1:], self.panels.still_centres
        self.beta_powers = self.shape.beta**distance
        self.to_powers = to_powers_of(self.terms)
        self.undivided = clock.history.undivided
        steps = np.arange(self.undivided + 1)
        gap = np.maximum(steps[:, None] - steps, 0)
        self.undivided_powers = np.where(gap > 0, float(self.shape.beta) ** gap, 0.0)[:, :, None].astype(self.dtype)
        self.in_panel = np.zeros((len(distance), len(self.still), 1))
        panel_of = self.panels.panel_of[1:]
        self.in_panel[np.arange(len(distance)), panel_of] = 1.0
        if not self.shape.corrected and len(distance):
            still = series(np.sqrt(self.powers / np.array(self.still)[panel_of]), self.to_powers)
            self.lines = self._in_panels(still * self.beta_powers[:, None]).astype(self.dtype)

    def _in_panels(self, lines: Any) -> Any:
        return (lines[:, None, :] * self.in_panel.astype(self.dtype)).reshape((-1, self.window.width))

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        product = {"momentum_product": np.ones((), self.dtype)} if self.clock.law.nesterov else {}
        undivided = {"undivided": np.zeros((self.undivided + 1, 1), self.dtype)} if self.undivided else {}
        return {**self.decays.arrays(self.dtype), **self.window.arrays(self.dtype), **product, **undivided}

    def _height(self, ops: Any, step: Any) -> Any:
        return self.shape.height(ops.real(step), ops)

    def _centres(self, ops: Any, last: Any) -> list[Any]:
        """Each panel's c0 for the rows last touched at `last`."""
        if not self.shape.corrected:
            return [ops.full_like(last, still) for still in self.still]
        both = zip(self.still, self.panels.centres, strict=True)
        return [still * self._height(ops, ops.real(ops.maximum(last, 0)) + centre) for still, centre in both]

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> Arrays:
        alpha, _, _ = self.corrections(ops, arrays, step, rate)
        changed = self.decays.advance(ops, arrays, step, rate)
        if self.undivided:
            divided = step > self.undivided
            changed["undivided"] = self._undivided(ops, arrays, step, rate, ops.where(divided, 0.0, alpha))
            alpha = ops.where(divided, alpha, 0.0)
        if self.window.window:
            lines = ops.constant(self.lines) * alpha if not self.shape.corrected else self._lines(ops, step, alpha)
        else:
            lines = ops.zeros((0, self.window.width), arrays["lines"])
        changed.update(self.window.advance(ops, arrays, step, rate, lines))
        if "momentum_product" in arrays:
            momentum = self.clock.optimizer.momentum_at(ops.real(step), self.hyper(rate), ops)
            changed["momentum_product"] = arrays["momentum_product"] * momentum
        return changed

    def _undivided(self, ops: Any, arrays: Arrays, step: Any, rate: Any, alpha: Any) -> Any:
        """For each t that steps without a root have followed: their sum of alpha momenta from t to `step`, times epsilon."""
        before = arrays["undivided"]
        if self.decay:
            before = before - before * (rate * self.decay)
        powers = ops.take(ops.constant(self.undivided_powers), ops.minimum(step, self.undivided))
        return before + powers * (alpha * self.clock.shared().epsilon)

    def _lines(self, ops: Any, step: Any, alpha: Any) -> Any:
        """The lines that `step` adds to the steps 1, 2, ... before it, where the heights of the points differ."""
        touched = step - np.arange(1, self.window.window + 1)
        centre = ops.stack(self._centres(ops, touched))
        own = ops.sum(centre * ops.constant(self.in_panel[:, :, 0].T.astype(self.dtype)), 0)
        root = ops.sqrt(ops.constant(self.powers.astype(self.dtype)) * self._height(ops, step) / own)
        lines = series(root, self.to_powers.astype(self.dtype))
        return (
            ops.flat(lines[:, None, :] * ops.constant((self.in_panel * self.beta_powers[:, None, None]).astype(self.dtype)))
            * alpha
        )

    def coefficients(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> Any:
        gap = ops.real(now - last)
        pairs = (
            *self.decayed(ops, arrays, now, gap if not self.decay else last),
            *power(ops, self.momentum, gap), *power(ops, self.clock.optimizer.beta_2, gap),
        )  # fmt: skip
        lines = self.window.lines(ops, arrays, now, last)
        columns = [ops.stack([*pairs, ops.zeros_like(gap)], axis=1)]
        for panel, centre in enumerate(self._centres(ops, last if self.shape.corrected else gap)):
            columns += [centre[:, None], lines[:, panel * self.terms : (panel + 1) * self.terms]]
        if self.undivided:
            moved = ops.take(arrays["undivided"], ops.minimum(last, self.undivided))
            columns += [ops.full_like(gap, self.panels.floor)[:, None], moved, ops.zeros_like(lines[:, 1 : self.terms])]
        return ops.concat(columns, axis=1)


class LinearFamily(_Base):
    """SGD, Adagrad, RMSprop, Adadelta: what the weight takes of the momentum is summed over the window."""

    def __init__(self, clock: LinearClock, dtype: str, rows: int) -> None:
        optimizer = clock.optimizer
        momentum = float(getattr(optimizer, "momentum", 0.0))
        window = int(REACH / -log(momentum)) + 1 if momentum else 0
        super().__init__(clock, dtype, rows, window, 1)
        self.powers = (momentum ** np.arange(float(window)))[:, None].astype(self.dtype)
        self.averages = optimizer.average_decay

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        return {**self.decays.arrays(self.dtype), **(self.window.arrays(self.dtype) if self.momentum else {})}

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> Arrays:
        changed = self.decays.advance(ops, arrays, step, rate)
        if self.momentum:
            (_, taken, _, _), _ = self.clock.optimizer.matrix(step, self.hyper(rate), True)
            changed.update(self.window.advance(ops, arrays, step, rate, ops.constant(self.powers) * taken))
        return changed

    def coefficients(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> Any:
        gap = ops.real(now - last)
        none = ops.zeros_like(gap)
        taken = self.window.lines(ops, arrays, now, last)[:, 0] if self.momentum else none
        return ops.stack(
            [
                *self.decayed(ops, arrays, now, last), taken, none, *power(ops, self.momentum, gap),
                *power(ops, self.averages, gap),
            ],
            axis=1,
        )  # fmt: skip

    def scalars(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> tuple[Any, ...]:
        matrix, taken = self.clock.optimizer.matrix(ops.real(step), self.hyper(rate), True)
        scalars: tuple[Any, ...] = self.clock.scalars_with(self.weight_pair(rate), matrix, taken)
        return scalars


class SignFamily(_Base):
    """Lion, whose rows move at every step: the rates since each step of the ring are summed, with what rounding leaves."""

    def __init__(self, clock: SignClock, dtype: str, rows: int) -> None:
        super().__init__(clock, dtype, rows, 0, 0)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        return {**self.decays.arrays(self.dtype), "rates": np.zeros((self.capacity, 2), self.dtype)}

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> Arrays:
        changed = self.decays.advance(ops, arrays, step, rate)
        high, low = arrays["rates"][:, 0], arrays["rates"][:, 1]
        if self.decay:
            low = low * (1.0 - rate * self.decay) - high * (rate * self.decay)
        more = low - rate  # not `added`: what rounding left decays, too, and so goes into the next sum
        total = high + more
        new = ops.stack([total, more - (total - high)], axis=1)
        changed["rates"] = ops.put(new, step & (self.capacity - 1), ops.zeros((2,), new))
        return changed

    def coefficients(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> Any:
        rates = ops.take(arrays["rates"], last & (self.capacity - 1))
        beta = power(ops, self.clock.optimizer.beta_2, ops.real(now - last))
        return ops.stack([*self.decayed(ops, arrays, now, last), rates[:, 0] + rates[:, 1], *beta], axis=1)

    def scalars(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> tuple[Any, ...]:
        scalars: tuple[Any, ...] = self.clock.scalars_with(self.weight_pair(rate), self.hyper(rate))
        return scalars


class ClosedFormFamily(_Base):
    """Ftrl: the weights follow from the slots at the current rate."""

    def __init__(self, clock: ClosedFormClock, dtype: str, rows: int) -> None:
        self.shrinks = clock.optimizer.l2_shrinkage_regularization_strength > 0
        super().__init__(clock, dtype, rows, 0, 0)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        rate = {"rate": np.ones((), self.dtype)}
        if not self.shrinks:
            return rate
        sums = np.zeros((self.capacity, 2 * TERMS), self.dtype)
        begun = np.zeros((1, 1 + TERMS), self.dtype)
        return {**rate, "sums": sums, "first": np.zeros((self.capacity, 1), self.dtype), "begun": begun}

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> Arrays:
        changed = {"rate": rate + 0.0 * arrays["rate"]}
        if not self.shrinks:
            return changed
        mask = self.capacity - 1
        before = ops.where(step > 1, arrays["rate"], rate)
        twice, shrunk = self.clock.shrinkage(ops, self.hyper(rate), before, ops.constant(NODES.astype(self.dtype)))
        more = ops.sum(shrunk[:, None] * ops.constant(TO_CHEBYSHEV.astype(self.dtype)), 0)
        sums = ops.take(arrays["sums"], (step - 1) & mask)
        changed["sums"] = ops.put(arrays["sums"], step & mask, ops.concat([*added(sums[:TERMS], sums[TERMS:], more)]))
        first = ops.concat([ops.reshape(twice, (1,)), more])[None]
        changed["begun"] = ops.where(step == 1, first, arrays["begun"])
        changed["first"] = ops.put(arrays["first"], (step - 1) & mask, ops.reshape(twice, (1,)))
        return changed

    def coefficients(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> Any:
        if not self.shrinks:
            return ops.zeros_like(ops.real(last))[:, None]
        mask = self.capacity - 1
        a = ops.take(arrays["sums"], ops.minimum(last + 1, now) & mask)
        b = ops.take(arrays["sums"], now & mask)
        sums = difference(b[:TERMS], b[TERMS:], a[:, :TERMS], a[:, TERMS:])
        return ops.concat([ops.take(arrays["first"], last & mask), sums], axis=1)

    def scalars(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> tuple[Any, ...]:
        scalars: tuple[Any, ...] = self.clock.scalars_with(self.weight_pair(rate), self.hyper(rate))
        return scalars

    def untouched(self, ops: Any, arrays: Arrays, rows: tuple[Any, ...], now: Any) -> tuple[Any, ...]:
        if self.shrinks:
            sums, begun = ops.take(arrays["sums"], now & (self.capacity - 1)), arrays["begun"]
            line = ops.concat([begun[0, :1], sums[:TERMS] - begun[0, 1:] + sums[TERMS:]])[None]
        else:
            line = ops.zeros((1, 1), rows[0])
        settled = self.settle(ops, arrays, rows, line)
        return tuple(ops.where(now > 0, new, old) for new, old in zip(settled, rows, strict=True))

    def settle(self, ops: Any, arrays: Arrays, rows: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
        clock = copy.copy(self.clock)
        clock.rate = arrays["rate"]
        settled: tuple[Any, ...] = clock.settle(ops, rows, c)
        return settled


def family_of(optimizer: Optimizer, dtype: str, rows: int) -> Family:
    """The family of an optimizer, for a table of so many rows.

    Raises: ValueError for what has no form inside a graph.
    """
    if callable(optimizer.learning_rate):
        optimizer = copy.copy(optimizer)
        optimizer.learning_rate = 0.001  # the graph is given each step's
    optimizer.check_in_graph()
    clock = optimizer.clock(np.dtype(dtype), 1)
    kinds: tuple[tuple[type, Any], ...] = (
        (MeasureClock, MeasureFamily),
        (LazyClock, LazyFamily),
        (LinearClock, LinearFamily),
        (SignClock, SignFamily),
        (ClosedFormClock, ClosedFormFamily),
    )
    for kind, family in kinds:
        if isinstance(clock, kind):
            made: Family = family(clock, dtype, rows)
            return made
    raise ValueError(
        f"{type(optimizer).__name__} with convention='torch' has no form inside a graph. Use convention='keras', or"
        " `unhot.Table`."
    )

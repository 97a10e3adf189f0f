"""What the steps of an optimizer have done to a row that had no gradient in any of them: its decay, mostly.

Nobody counts that at each step, since a step may be a compiled function that only Keras's own variables pass through. But the
learning rate is one of these, and changes between steps only, so that it is enough to note each change and when it was made.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

import unhot
from unhot.clock import Hyper
from unhot.clock.closed_form import NODES, TO_CHEBYSHEV, ClosedFormClock
from unhot.keras._private import batches_of, rate_of, stateless_scope
from unhot.keras.backend import Owner
from unhot.keras.backends import backend
from unhot.keras.kinds import Tensor, Variable

Rows = npt.NDArray[np.float64]


class RateVariable(keras.Variable):  # type: ignore[misc]  # Keras comes without types
    """The variable of an optimizer's learning rate, which tells of its changes."""

    optimizer: weakref.ref[Owner] | None = None

    def assign(self, value: Tensor) -> Tensor:
        optimizer = None if self.optimizer is None else self.optimizer()
        if optimizer is not None and rate_of(optimizer) is self:
            optimizer._rates.change(value)
        return super().assign(value)


class Rates:
    """The learning rates of the steps of an optimizer since it was built, or since its state was written."""

    def __init__(self, optimizer: Owner) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.restart()
        rate = rate_of(optimizer)
        if type(rate) is keras.Variable:  # which the optimizer has handed to those that show it, so another would not do
            rate.__class__ = RateVariable
            rate.optimizer = weakref.ref(optimizer)

    def restart(self) -> None:
        """Begin with the next step."""
        self.changes: list[tuple[int, float]] = []
        """From how many steps on there was which rate."""
        optimizer = self._optimizer()
        assert optimizer is not None
        now = steps_of(optimizer)
        self.begun = 0 if now is None else now
        self.replaced: set[int] = set()
        """After how many batches the averages have replaced the variables, beside those of `ema_overwrite_frequency`."""
        self.note(rate_of(optimizer))

    def change(self, rate: Tensor) -> None:
        """The rate is about to become this one."""
        optimizer = self._optimizer()
        before = None if optimizer is None else known_number(rate_of(optimizer))
        if not self.changes and before is not None:  # where the optimizer was built within a graph
            self.changes = [(self.begun, before)]
        self.note(rate)

    def note(self, rate: Tensor) -> None:
        """The rate is this one from now on."""
        optimizer = self._optimizer()
        known = None if optimizer is None else (steps_of(optimizer), known_number(rate))
        if known is None or None in known:  # within a step, or where Keras's trainer has the values: this one is lost there
            return
        now, number = cast("tuple[int, float]", known)
        changes = [change for change in self.changes if change[0] < now]
        if not changes or changes[-1][1] != number:
            changes.append((now, number))
        self.changes = changes

    def note_replaced(self) -> None:
        """The averages of the optimizer are replacing the variables, as at the end of `fit`."""
        optimizer = self._optimizer()
        batches = None if optimizer is None else known_number(batches_of(optimizer))
        if batches is not None:
            self.replaced.add(int(batches))

    def made(self) -> tuple[Rows, Rows]:
        """The rates of the steps made so far, and for how many steps in a row there was each."""
        optimizer = self._optimizer()
        assert optimizer is not None
        now = steps_of(optimizer) or 0
        rate = rate_of(optimizer)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            steps = np.arange(self.begun, now)
            every = int(optimizer.gradient_accumulation_steps or 1)  # of so many batches, the last
            return scheduled(rate, steps * every + every - 1), np.ones(len(steps))
        known = self.changes or [(self.begun, float(optimizer.learning_rate))]  # of a function without arguments: this one
        starts = np.array([max(start, self.begun) for start, _ in known] + [now], np.float64)
        counts = np.diff(starts)
        return np.array([number for _, number in known])[counts > 0], counts[counts > 0]


def steps_of(optimizer: Owner) -> int | None:
    """How many steps an optimizer has made, or None where that is not known now."""
    number = known_number(batches_of(optimizer))
    return None if number is None else int(number) // int(optimizer.gradient_accumulation_steps or 1)


def known_number(value: Tensor) -> float | None:
    """A number, or None of one that is not known now: of a step being made, or of one whose memory JAX was given."""
    held = getattr(value, "_value", value)
    if stateless_scope() is not None or held is None or (callable(held) and not ops.is_tensor(held)):
        return None
    try:
        if getattr(held, "is_deleted", bool)():
            return None
    except TypeError:  # JAX's, of an array that is being traced
        return None
    found = (
        held if isinstance(held, (int, float, np.generic)) else backend.concrete(ops.reshape(held, ()))
    )  # which is a tensor also of a variable
    return None if found is None else float(found)


def scheduled(schedule: Any, steps: npt.NDArray[np.int64]) -> Rows:
    """The rates of a schedule of Keras at these steps."""
    if not len(steps):
        return np.empty(0)
    try:
        found = np.asarray(ops.convert_to_numpy(schedule(ops.convert_to_tensor(steps, "float32"))), np.float64)
    except Exception:  # a schedule of the user's own, for one step at a time, may raise any error here
        found = np.empty(0)
    if found.shape == steps.shape:
        return found
    return np.array([float(schedule(ops.convert_to_tensor(step, "float32"))) for step in steps])


class Untouched(NamedTuple):
    """Rows without a gradient, as the steps of an optimizer have left them."""

    weights: Rows
    slots: Mapping[str, Rows]
    """Those that have changed, by the names of the core."""
    averages: Rows
    """Of the weights, if the optimizer keeps such."""


def untouched(optimizer: Owner, variable: Variable, weights: Rows) -> Untouched:
    """Rows that began with these weights and have had no gradient in the steps of an optimizer."""
    if optimizer.averages():
        return _averaged(optimizer, variable, weights)
    weights, slots = _moved(optimizer, variable, weights)
    return Untouched(weights, slots, weights)


def _averaged(optimizer: Owner, variable: Variable, weights: Rows) -> Untouched:
    """The same where Keras averages the weights after every batch, and may replace them by the averages."""
    every, frequency = int(optimizer.gradient_accumulation_steps or 1), int(optimizer.ema_overwrite_frequency or 0)
    rates, counts = optimizer._rates.made()
    rates, batches = np.repeat(rates, counts.astype(np.int64)), int(known_number(batches_of(optimizer)) or 0)
    decay = float(optimizer.weight_decay or 0.0) if optimizer.decays(variable) else 0.0
    core, slots, averages = None, {}, weights
    if issubclass(optimizer.core, unhot.Ftrl) and len(rates):
        core = optimizer.row_optimizer(variable, float(rates[0]))
        names = core.clock(np.dtype(np.float64), 1).slots
        slots = {name: np.full_like(weights, start) for name, start in zip(names, core.dense_slots(), strict=True)}
    for batch in range(optimizer._rates.begun * every, batches):
        step = batch // every + 1
        if (batch + 1) % every == 0 and len(rates):
            rate = float(rates[max(step - 1 - batches // every, -len(rates))])  # the last one is that of the last step
            if core is None:
                weights = weights * (1.0 - rate * decay)
            else:
                state = weights, *slots.values()
                weights, *moved = core.dense_step(step, Hyper(rate, 0.0, decay), np.zeros_like(weights), state)
                slots = dict(zip(slots, moved, strict=True))
        momentum = float(optimizer.ema_momentum) if step > 1 else 0.0  # the first average is the weight
        averages = momentum * averages + (1.0 - momentum) * weights
        if (frequency and step % frequency == 0) or batch + 1 in optimizer._rates.replaced:
            weights = averages
    return Untouched(weights, slots, averages)


def _moved(optimizer: Owner, variable: Variable, weights: Rows) -> tuple[Rows, Mapping[str, Rows]]:
    """Weights, and those slots that have changed, by the names of the core, where there are no averages."""
    rates, counts = optimizer._rates.made()
    decay = float(optimizer.weight_decay or 0.0) if optimizer.decays(variable) else 0.0
    if issubclass(optimizer.core, unhot.Ftrl) and len(rates):
        clock = optimizer.row_optimizer(variable, float(rates[-1])).clock(np.dtype(np.float64), 1)
        assert isinstance(clock, ClosedFormClock)
        clock.load_state({"rate": float(rates[-1]), "begun": 1.0, **_shrunk(clock, rates, counts, decay)})
        moved = dict(zip(("weights", *clock.slots), clock.untouched(weights), strict=True))
        return moved.pop("weights"), moved
    return weights * np.prod((1.0 - rates * decay) ** counts) if decay else weights, {}


def _shrunk(clock: ClosedFormClock, rates: Rows, counts: Rows, decay: float) -> dict[str, float]:
    """What `ClosedFormClock.state` says of the shrinkage in these steps."""
    twice, _ = clock.shrinkage(np, Hyper(float(rates[0]), 0.0, decay), float(rates[0]), NODES)
    series = np.zeros(len(NODES))
    for number, (rate, count) in enumerate(zip(rates.tolist(), counts.tolist(), strict=True)):
        hyper = Hyper(rate, 0.0, decay)
        if number:
            series += clock.shrinkage(np, hyper, float(rates[number - 1]), NODES)[1]
        series += (count - 1.0) * clock.shrinkage(np, hyper, rate, NODES)[1]
    return {"first_shrinkage": float(twice), **{f"shrunk_{k}": float(x) for k, x in enumerate(series @ TO_CHEBYSHEV)}}

"""Whether a rival's result is right: dense training of a few sampled rows in NumPy, in float64 and in float32.

A dense optimizer treats rows independently, so that a few rows can be replayed alone, at every step that was made.  Nothing
here is shared with unhot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RATES = {"sgd": 0.05, "adagrad": 0.01, "rowwise_adagrad": 0.01}
ADAM_RATE, BETA_1, BETA_2 = 1e-3, 0.9, 0.999
EPSILON = {
    "adam_keras": 1e-7,
    "adam_keras_tensorflow": 1e-7,
    "adam_torch": 1e-8,
    "adam_masked": 1e-8,
    "adagrad": 1e-10,
    "rowwise_adagrad": 1e-10,
}

OF_MOVEMENT = 1e-4
"""Rivals must be as near to the replay as this part of the way that the row has moved, and a few units in the last place:
they sum repeated gradients in float32 and in an order of their own."""


@dataclass
class Log:
    """The steps made, as far as the sampled rows go."""

    rows: int
    sample: npt.NDArray[np.int64]
    dim: int
    steps: int = 0
    events: dict[int, tuple[Array, int]] = field(default_factory=dict)
    """By step: the sampled rows touched, and where their sums begin."""

    def __post_init__(self) -> None:
        self._place = np.full(self.rows, -1, np.int32)
        self._place[self.sample] = np.arange(len(self.sample), dtype=np.int32)
        # The sums of the gradients, and of their squares, in one large array: small ones kept from each step would lie
        # between the rival's own, and make its heap grow.
        self._sums = np.empty((2, 4096, self.dim))
        self._used = 0

    def add(self, ids: npt.NDArray[np.int64], gradients: Array) -> None:
        """One more step."""
        self.steps += 1
        place = self._place[ids]
        hits = np.flatnonzero(place >= 0)
        if len(hits):
            given = gradients[hits].astype(np.float64)
            sums, squares = np.zeros((2, len(self.sample), self.dim))
            np.add.at(sums, place[hits], given)
            np.add.at(squares, place[hits], given * given)
            touched = np.unique(place[hits])
            self.events[self.steps] = touched, self._used
            stop = self._used + len(touched)
            if stop > self._sums.shape[1]:
                self._sums = np.concatenate([self._sums, np.empty_like(self._sums)], axis=1)
            self._sums[:, self._used : stop] = sums[touched], squares[touched]
            self._used = stop

    def touches(self) -> npt.NDArray[np.int64]:
        """How many steps touched each of the sampled rows."""
        counts = np.zeros(len(self.sample), np.int64)
        for rows, _ in self.events.values():
            counts[rows] += 1
        return counts

    def replay(self, rule: str, start: Array, dtype: Any) -> Array:
        """The sampled rows after all steps."""
        weights = start.astype(dtype)
        slots = [np.zeros_like(weights), np.zeros_like(weights)]
        for step in range(1, self.steps + 1):
            touched, begin = self.events.get(step, (np.zeros(0, np.int64), 0))
            sums, squares = self._sums[:, begin : begin + len(touched)]
            g = sums.astype(dtype)
            square = squares.astype(dtype) if rule == "adam_keras_tensorflow" else g * g
            if rule.startswith("adam"):
                _adam(rule, step, weights, slots, touched, g, square)
            else:
                _sum_of_squares(rule, weights, slots[0], touched, g, square)
        return weights


def _sum_of_squares(rule: str, w: Array, total: Array, touched: Array, g: Array, square: Array) -> None:
    """SGD, and the two forms of Adagrad."""
    real = w.dtype.type
    if rule == "sgd":
        w[touched] -= real(RATES[rule]) * g
        return
    total[touched] += square if rule == "adagrad" else np.mean(square, axis=1, keepdims=True)
    w[touched] -= real(RATES[rule]) * g / (np.sqrt(total[touched]) + real(EPSILON[rule]))


def _adam(rule: str, step: int, w: Array, slots: list[Array], touched: Array, g: Array, square: Array) -> None:
    real = w.dtype.type
    m, v = slots
    first, second = 1.0 - BETA_1**step, 1.0 - BETA_2**step
    rows: Any = touched if rule == "adam_masked" else slice(None)
    m[rows] *= real(BETA_1)
    v[rows] *= real(BETA_2)
    m[touched] += real(1.0 - BETA_1) * g
    v[touched] += real(1.0 - BETA_2) * square
    if rule == "adam_torch":
        w[rows] -= real(ADAM_RATE / first) * m[rows] / (np.sqrt(v[rows]) / real(np.sqrt(second)) + real(EPSILON[rule]))
    else:
        w[rows] -= real(ADAM_RATE * np.sqrt(second) / first) * m[rows] / (np.sqrt(v[rows]) + real(EPSILON[rule]))


def check(log: Log, rule: str, start: Array, got: Array, *, exact: bool, dense: bool = False) -> dict[str, float]:
    """How far `got` is from dense float64 training; AssertionError if it is too far.

    Each rounding of a weight may be half a unit in the last place: as many as there are steps under `dense`, and steps that
    touch the row otherwise.  Under `exact`, unhot's own promise holds too: no farther than twice the distance of dense
    float32 training, and 4 units.
    """
    want = log.replay(rule, start, np.float64)
    distance = np.abs(got.astype(np.float64) - want)
    unit = np.spacing(np.abs(want).max(axis=1).astype(np.float32)).astype(np.float64)
    moved = np.abs(want - start.astype(np.float64)).max(axis=1)
    roundings = log.steps if dense else log.touches()
    allowed = OF_MOVEMENT * moved + (8 + roundings / 2) * unit
    worst = int(np.argmax(distance.max(axis=1) / allowed))
    if not distance.max(axis=1)[worst] <= allowed[worst]:
        raise AssertionError(
            f"row {log.sample[worst]} is {distance.max(axis=1)[worst]:.3g} away from the float64 replay of {rule} after"
            f" {log.steps} steps; it moved by {moved[worst]:.3g}, so {allowed[worst]:.3g} is allowed."
        )
    single = float(np.abs(log.replay(rule, start, np.float32).astype(np.float64) - want).max())
    if exact and not distance.max() <= 2.0 * single + 4.0 * unit.max():
        raise AssertionError(
            f"{distance.max():.3g} away from the float64 replay of {rule} after {log.steps} steps; dense float32 training is"
            f" {single:.3g} away."
        )
    return {
        "distance": float(distance.max()),
        "distance_of_float32": single,
        "moved": float(moved.max()),
        "rows_replayed": float(len(log.sample)),
        "rows_touched": float(np.count_nonzero(log.touches())),
        "steps_replayed": float(log.steps),
    }

"""Streams: which ids are looked up in each step, the gradients they get, and the hyperparameters of the step.

A gradient is  pull (row - target) + noise:  with pull = 0 it is given (an *open* stream); with pull > 0 it is a function of
the row just looked up, so that every stale or wrong read enters the training (a *closed loop*).  Targets, noise, initial
weights and rates are float32 numbers, the same in every trained copy; a copy's gradient is formed in float64 from its own
rows and cast to its dtype.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .dense import Array

ROWS, DIM = 40, 4
UNTOUCHED = 4
"""The last rows of a table, never looked up."""

GAPS = (1, 2, 3, 5, 9, 17, 40, 99, 240, 700)
"""The rests of the stream "gaps"; longer ones are in test_long_runs.py."""


def rounded(x: Any) -> Any:
    """`x` as a float32 number."""
    return float(np.float32(x)) if np.isscalar(x) else np.asarray(x, dtype=np.float32).astype(np.float64)


@dataclass
class Step:
    """One step: flat ids (with repetitions), one noise row for each, and what the hyperparameters become, if they change."""

    ids: Array
    noise: Array
    pull: float = 0.0
    hyper: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stream:
    """Initial weights, targets and steps."""

    weights: Array
    targets: Array
    steps: list[Step]

    @property
    def dim(self) -> int:
        return int(self.weights.shape[1])


def generator(*key: Any) -> np.random.Generator:
    """A generator that depends on the key alone, in every process."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


# ---------------------------------------------------------------- ids and gradients


def some_ids(rng: np.random.Generator, rows: int) -> Array:
    """0 to 7 ids, few of them often and many rarely, often repeated within the step."""
    return np.minimum(rng.geometric(0.09, size=rng.integers(0, 8)) - 1, rows - UNTOUCHED - 1)


def plain(rng: np.random.Generator, low: float, high: float, count: int) -> Iterator[Step]:
    """Open; each id's gradient has a size between 10**low and 10**high."""
    for _ in range(count):
        ids = some_ids(rng, ROWS)
        sizes = 10.0 ** rng.uniform(low, high, size=(len(ids), 1))
        yield Step(ids, rounded(sizes * rng.normal(size=(len(ids), DIM))))


def closed(rng: np.random.Generator, count: int) -> Iterator[Step]:
    """A closed loop with noise about as large as the pull."""
    for _ in range(count):
        ids = some_ids(rng, ROWS)
        yield Step(ids, rounded(0.5 * rng.normal(size=(len(ids), DIM))), pull=1.0)


def gaps(rng: np.random.Generator) -> Iterator[Step]:
    """A closed loop of rows that rest for `GAPS` steps between touches, each from another step on."""
    rests = [tuple(rng.permutation(GAPS)) for _ in range(12)]
    due: dict[int, list[int]] = {}
    for row, rest in enumerate(rests):
        for at in np.cumsum([1 + rng.integers(0, 30), *rest]):
            due.setdefault(int(at), []).append(row)
    for step in range(1, max(due) + 31):
        ids = np.array(due.get(step, []), dtype=np.int64)
        yield Step(ids, rounded(0.5 * rng.normal(size=(len(ids), DIM))), pull=1.0)


STREAMS: dict[str, Callable[[np.random.Generator], Iterator[Step]]] = {
    "open": lambda rng: plain(rng, -3, 1, 160),
    "closed": lambda rng: closed(rng, 160),
    "tiny": lambda rng: plain(rng, -10.5, -9.5, 160),
    "huge": lambda rng: plain(rng, 12, 15, 160),
    "mixed": lambda rng: plain(rng, -10, 6, 160),
    "gaps": gaps,
}


# ---------------------------------------------------------------- rates


def wander(step: int) -> float:
    """Anything in four decades, from step to step."""
    return float(10.0 ** -(4 * generator("wander", step).random()))


SCHEDULES: dict[str, Callable[[int], float]] = {
    "constant": lambda step: 1.0,
    "cosine": lambda step: 0.02 + 0.98 * 0.5 * (1 + math.cos(2 * math.pi * step / 70)),
    "warm-up": lambda step: min(step / 30, max(1e-4, (160 - step) / 130)),
    "staircase": lambda step: 10.0 ** -(step // 40),
    "wandering": wander,
}
"""The factor on a rule's largest rate in each step (the first is 1); all are above 0, as Ftrl asks."""


def make(name: str, schedule: str, rate: float) -> Stream:
    """The stream `name` under the rates `schedule`; the same in every process."""
    rng = generator(name)
    steps = list(STREAMS[name](rng))
    for number, step in enumerate(steps, start=1):
        step.hyper["learning_rate"] = rounded(rate * SCHEDULES[schedule](number))
    return start(rng, steps)


def start(rng: np.random.Generator, steps: list[Step], rows: int = ROWS, dim: int = DIM) -> Stream:
    """The stream of `steps` with random targets and initial weights, some of which are 0."""
    weights = rounded(rng.normal(size=(rows, dim)))
    weights[::3] = 0.0
    return Stream(weights, rounded(rng.normal(size=(rows, dim))), steps)

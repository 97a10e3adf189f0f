"""The design of the step measure, by which an Adam-like optimizer's steps without a gradient become a few coefficients.

Over the skipped steps s = t+1..n an element with momentum m and root x (the square root of its second moment, or its
maximum) moves by

    -m sum_s a_s / (c_s x + eps),        a_s, c_s the same for all elements last touched at step t.

With a centre c0 and u = (c0 x - eps) / (c0 x + eps), a number in [-1, 1], each term is a Chebyshev series in u,

    1 / (c x + eps) = 1/(c0 x + eps) 1/sqrt(r) (1 + 2 sum_i (-q)^i T_i(u)),    r = c/c0,  q = (sqrt(r) - 1)/(sqrt(r) + 1),

for **every** x and eps.  So the sum is 1/(c0 x + eps) times one polynomial in u whose coefficients are sums over the
steps: a new step adds a few numbers to each t, whatever the rates, their signs and their order.  Cutting after T terms
leaves, relative to each positive term, at most 2 |q|^T / (1 - |q|) max(sqrt(r), 1/sqrt(r))  (docs/mathematics.md).
Where the c_s span too wide a range for one centre, the steps are split into *panels* by their distance s - t from the
touch, each with a centre of its own.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, exp, log
from typing import Any

import numpy as np

from unhot.clock.history import Array
from unhot.clock.windows import MOST_RISE

MOST_TERMS = 20
"""Coefficients of a panel at most; a wider range of c_s is split into more panels."""

MOST_STEPS = 1 << 17
"""The widest window: a step extends the coefficients of every step in it."""

MOST_BYTES = 1 << 30
"""The largest history."""


@dataclass(frozen=True)
class Shape:
    """The form of c_s = ratio**(s - t) * height(s), with the decay `beta` of the momentum per step.

    `corrected` is beta_2 where height(s) = 1/sqrt(1 - beta_2**s), and 0 where height is 1.
    """

    beta: float
    ratio: float
    corrected: float

    def height(self, step: Any, xp: Any = math) -> Any:
        """The height at a step, or at each of an array of them of the namespace `xp`."""
        return 1.0 / xp.sqrt(-xp.expm1(step * log(self.corrected))) if self.corrected else 1.0

    @property
    def settled(self) -> float:
        """The step from which on height is 1 to the last bit."""
        return 40.0 / -log(self.corrected) if self.corrected else 0.0


@dataclass(frozen=True)
class Precision:
    """What the coefficients must reach: relative errors, and the largest root x that can occur."""

    series: float
    window: float
    reach: float


PRECISION = {
    "float32": Precision(series=2.0**-27, window=2.0**-30, reach=1e19),
    "float64": Precision(series=1e-12, window=1e-13, reach=1e30),
}


def least_terms(log_ratio: Array, log_weight: Array, tolerance: float) -> int:
    """The coefficients with which the series' relative error, times the weight, is within `tolerance` for each c/c0."""
    far = np.abs(log_ratio)
    # The logarithm of 2 |q|^T / (1 - |q|) max(sqrt(r), 1/sqrt(r)), with |q| = tanh(|log r| / 4), solved for T.
    with np.errstate(divide="ignore"):
        terms = (np.logaddexp(0.0, 0.5 * far) + 0.5 * far + log_weight - log(tolerance)) / -np.log(np.tanh(0.25 * far))
    return max(1, ceil(np.max(terms)))


@dataclass(frozen=True)
class Points:
    """The points c_s of a window at the distances j = s - t = 0, 1, ...: their logarithms and their weights'.

    A term at distance j weighs r**j of the first, r = beta/ratio, at x >> eps, and beta**j at x << eps.  The bound is
    asked of each j with the square root of that weight, so that it still holds for rates that rise by the other half.
    The first `undivided` steps are no terms: rows that rest over them begin with a later one, and the weights begin there.
    Where c_s x is nothing beside eps for every x in reach, c_s is held at that floor, and the term is 1/eps.
    """

    shape: Shape
    fall: float
    floor: float
    need: float
    undivided: int = 0

    def log_weight(self, distance: Array) -> Array:
        """The logarithm of the weight with which the bound is asked."""
        return np.asarray(-0.5 * self.fall * np.maximum(distance - self.undivided, 0.0))

    def log_height(self, first: float, distance: Array) -> Array:
        """log c_s for the rows last touched at step `first`."""
        powers = np.maximum(distance * log(self.shape.ratio), self.floor)
        return np.asarray(powers + np.log(self.shape.height(first + distance, np)))

    def terms(self, first: float, start: int, stop: int, centre: float) -> int:
        """The coefficients that the distances [start, stop) need around `centre`."""
        distance = np.arange(start, stop, dtype=np.float64)
        log_ratio = self.log_height(first, distance) - self.log_height(first, np.array([centre]))
        return least_terms(log_ratio, self.log_weight(distance), self.need)


@dataclass(frozen=True)
class Panels:
    """Where the steps after a touch are cut, and around which distance each panel is centred."""

    window: int
    largest: int
    slope: float
    edges: tuple[int, ...]
    centres: tuple[float, ...]
    terms: int
    points: Points

    @cached_property
    def floor(self) -> float:
        """Where the c_s are held: so low that c_s x is nothing beside eps for every x in reach."""
        return exp(self.points.floor)

    @cached_property
    def powers(self) -> Array:
        """c_s without its height, at the distances 0, 1, ..., largest."""
        distance = np.arange(self.largest + 1, dtype=np.float64)
        return np.asarray(np.maximum(self.points.shape.ratio**distance, self.floor))

    @cached_property
    def panel_of(self) -> Array:
        """The panel of each of these distances."""
        return np.searchsorted(np.array(self.edges[1:]), np.arange(self.largest + 1), side="right")

    @cached_property
    def still_centres(self) -> list[float]:
        """The centre c0 of each panel, where the heights are 1."""
        return [max(self.points.shape.ratio**centre, self.floor) for centre in self.centres]


@lru_cache(maxsize=64)
def design(shape: Shape, epsilon: float, dtype: str, undivided: int = 0) -> Panels:
    """The panels for `shape`: windows from the tail of the measure, centres and terms from the bound of the series.

    What holds for a row that was touched after the first `undivided` steps holds for those that rest over some of them, too:
    windows are longer by as much, and the bound is asked from there on.

    Raises: ValueError where the window, or the memory for it, would be unreasonably large.
    """
    need = PRECISION[dtype]
    if shape.beta == 0.0:
        return Panels(0, 0, 0.0, (1, 1), (1.0,), 1, Points(shape, 0.0, -log(need.reach), need.series))
    fall, far = -log(shape.beta / shape.ratio), -log(shape.beta)
    beyond = max(0.0, log(need.reach) - log(epsilon))

    def reach(tail: float) -> int:
        by_reach = (beyond - log(tail)) / far
        return ceil(min(-log(tail) / fall, by_reach) if fall > 0 else by_reach) + undivided

    largest = reach(need.window * (1.0 / MOST_RISE))
    if largest > MOST_STEPS:
        raise too_wide(shape, f"a window of {largest:,} steps, where {MOST_STEPS:,} are the most")
    points = Points(shape, max(fall, 0.0), log(need.window) - beyond, need.series, undivided)
    edges, centres, terms = [1], [], 1
    while edges[-1] <= largest:
        stop, centre = _widest_panel(points, edges[-1], largest)
        terms = max(terms, points.terms(1.0, edges[-1], stop, centre))
        edges.append(stop)
        centres.append(float(centre))
    if len(centres) > 1:
        require_epsilon(epsilon, dtype, f"beta_1={shape.beta!r} is too near to beta_2")
    slope = 1.0 / fall if fall > 0 else 0.0
    return Panels(reach(need.window), largest, slope, tuple(edges), tuple(centres), terms, points)


def require_epsilon(epsilon: float, dtype: str, why: str) -> None:
    """Raise ValueError for an epsilon over which a momentum would overflow: there is a panel whose c0 x is far below it."""
    least = PRECISION[dtype].reach / float(np.finfo(dtype).max)
    if epsilon < least:
        raise ValueError(
            f"with these betas `epsilon` must be at least {least:.1g} in a {dtype} table: {why} for less."
            f" Received: epsilon={epsilon!r}."
        )


def too_wide(shape: Shape, what: str) -> ValueError:
    return ValueError(
        f"beta_1={shape.beta!r} is too near to 1 for this beta_2 and epsilon: the steps that still move a row after its last"
        f" gradient need {what}. Use a smaller beta_1: up to 0.997 there is no such limit."
    )


def _widest_panel(points: Points, start: int, largest: int) -> tuple[int, int]:
    """The panel [start, stop) and its centre that reaches farthest with MOST_TERMS terms, with the fewest terms if to the end.

    The c_s fall with the distance, so the farther the centre, the farther the panel reaches: the best is the last centre
    that still covers `start`.
    """
    distance = np.arange(start, largest + 1, dtype=np.float64)
    log_c = points.log_height(1.0, distance)
    log_weight = points.log_weight(distance)

    def terms(a: int, b: int, centre: int) -> int:
        span = slice(a - start, b - start)
        return least_terms(log_c[span] - log_c[centre - start], log_weight[span], points.need)

    centres = range(start, largest + 1)
    farthest = start + max(0, bisect_left(centres, True, key=lambda centre: terms(start, centre + 1, centre) > MOST_TERMS) - 1)
    stops = range(farthest + 1, largest + 2)
    stop = farthest + max(1, bisect_left(stops, True, key=lambda stop: terms(farthest, stop, farthest) > MOST_TERMS))
    if stop <= largest:
        return stop, farthest
    candidates, centre = [farthest], start
    while centre < farthest:
        candidates.append(centre)
        centre += 1 + (centre - start) // 16
    return stop, min(candidates, key=lambda centre: terms(start, stop, centre))


@lru_cache(maxsize=32)
def to_powers_of(terms: int) -> Array:
    """Rows: the Chebyshev polynomial T_i in powers of u."""
    table = np.zeros((terms, terms))
    table[0, 0] = 1.0
    if terms > 1:
        table[1, 1] = 1.0
    for i in range(2, terms):
        table[i, 1:] = 2.0 * table[i - 1, :-1]
        table[i] -= table[i - 2]
    return table

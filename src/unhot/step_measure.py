"""The step measure: what an Adam-like rule does to a row over many steps without a gradient, in a few coefficients.

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

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, expm1, log, sqrt
from typing import Any

import numpy as np

from unhot.deferral import BLOCK, Array, History, RateWindow
from unhot.kernels import active as kernels

MOST_TERMS = 20
"""Coefficients of a panel at most; a wider range of c_s is split into more panels."""


@dataclass(frozen=True)
class Shape:
    """The form of c_s = ratio**(s - t) * height(s), with the decay `beta` of the momentum per step.

    `corrected` is beta_2 where height(s) = 1/sqrt(1 - beta_2**s), and 0 where height is 1.
    """

    beta: float
    ratio: float
    corrected: float

    def height(self, step: Array) -> Array:
        """The height at each of the steps."""
        if not self.corrected:
            return np.ones_like(np.asarray(step, dtype=np.float64))
        return np.asarray(1.0 / np.sqrt(-np.expm1(np.asarray(step, np.float64) * log(self.corrected))))

    def height_at(self, step: float) -> float:
        """The height at one step."""
        return 1.0 / sqrt(-expm1(step * log(self.corrected))) if self.corrected else 1.0

    @property
    def settled(self) -> float:
        """The step from which on height is 1 to the last bit."""
        return 40.0 / -log(self.corrected) if self.corrected else 0.0


@dataclass(frozen=True)
class Precision:
    """What the coefficients must reach: relative errors, and the largest root x over eps that can occur."""

    series: float
    window: float
    reach: float


PRECISION = {
    "float32": Precision(series=2.0**-27, window=2.0**-30, reach=1e19),
    "float64": Precision(series=1e-12, window=1e-13, reach=1e30),
}


@dataclass(frozen=True)
class Panels:
    """Where the steps after a touch are cut, and around which distance each panel is centred."""

    window: int
    largest: int
    slope: float
    edges: tuple[int, ...]
    centres: tuple[float, ...]
    terms: int


def series_bound(root_ratio: Array, terms: int) -> Array:
    """The relative error of `terms` Chebyshev coefficients for c/c0 = root_ratio**2."""
    q = np.abs((root_ratio - 1.0) / (root_ratio + 1.0))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        bound = 2.0 * q**terms / (1.0 - q) * np.maximum(root_ratio, 1.0 / root_ratio)
    return np.nan_to_num(bound, nan=np.inf)


@lru_cache(maxsize=64)
def design(shape: Shape, epsilon: float, dtype: str) -> Panels:
    """The panels for `shape`: windows from the tail of the measure, centres and terms from the bound of the series.

    A term at distance j weighs r**j of the first, r = beta/ratio, at x >> eps, and beta**j at x << eps.  The bound is
    asked of each j with the square root of that weight, so that it still holds for rates that rise by the other half.
    """
    need = PRECISION[dtype]
    beta, ratio = shape.beta, shape.ratio
    if beta == 0.0:
        return Panels(0, 0, 0.0, (1, 1), (1.0,), 1)
    fall = -log(beta / ratio)
    far = -log(beta)

    def reach(tail: float) -> int:
        by_reach = (-log(tail) + log(max(1.0, need.reach / epsilon))) / far
        return ceil(min(-log(tail) / fall, by_reach) if fall > 0 else by_reach)

    largest = reach(need.window * 1e-9)
    distance = np.arange(1, largest + 1, dtype=np.float64)
    weight = np.exp(-0.5 * max(fall, 0.0) * distance)
    log_c = distance * log(ratio) + np.log(shape.height(1.0 + distance))
    edges, centres, terms = [1], [], 1
    while edges[-1] <= largest:
        stop, centre = _widest_panel(edges[-1], largest, log_c, weight, need.series)
        span = slice(edges[-1] - 1, stop - 1)
        terms = max(terms, _least_terms(log_c[span] - log_c[centre - 1], weight[span], need.series))
        edges.append(stop)
        centres.append(float(centre))
    return Panels(reach(need.window), largest, 1.0 / fall if fall > 0 else 0.0, tuple(edges), tuple(centres), terms)


def _least_terms(log_ratio: Array, weight: Array, tolerance: float) -> int:
    root = np.exp(0.5 * log_ratio)
    for terms in range(1, MOST_TERMS + 1):
        if np.max(weight * series_bound(root, terms)) <= tolerance:
            return terms
    return MOST_TERMS + 1


def _widest_panel(start: int, largest: int, log_c: Array, weight: Array, tolerance: float) -> tuple[int, int]:
    """The panel [start, stop) and its centre that reaches farthest with MOST_TERMS terms, with the fewest terms if all."""
    best = (start + 1, start)
    least = MOST_TERMS + 1
    centre = start
    while centre <= largest:
        with np.errstate(over="ignore"):
            bad = weight * series_bound(np.exp(0.5 * (log_c - log_c[centre - 1])), MOST_TERMS) > tolerance
        if bad[start - 1 : centre].any():
            break
        beyond = np.flatnonzero(bad[centre - 1 :])
        stop = centre + int(beyond[0]) if len(beyond) else largest + 1
        if stop > largest:
            span = slice(start - 1, largest)
            terms = _least_terms(log_c[span] - log_c[centre - 1], weight[span], tolerance)
            if terms < least:
                best, least = (stop, centre), terms
        elif least > MOST_TERMS and stop > best[0]:
            best = (stop, centre)
        centre += 1 + (centre - start) // 16
    return best


@lru_cache(maxsize=32)
def _to_powers(terms: int) -> Array:
    """Rows: the Chebyshev polynomial T_i in powers of u."""
    table = np.zeros((terms, terms))
    table[0, 0] = 1.0
    if terms > 1:
        table[1, 1] = 1.0
    for i in range(2, terms):
        table[i, 1:] = 2.0 * table[i - 1, :-1]
        table[i] -= table[i - 2]
    return table


class MeasureHistory(History):
    """The step measure of every t in the ring, with the decays of weight, momentum and second moment.

    scale[t] = (D, M, V): the products of 1 - rate decay, beta_1 and the moment's decay over t+1..now.
    polynomial[t, p] = (c0, K_0, K_1, ...): panel p's centre and its polynomial in u.
    """

    def __init__(self, rows: int, shape: Shape, epsilon: float, dtype: str) -> None:
        self.shape = shape
        self.panels = panels = design(shape, epsilon, dtype)
        super().__init__(rows, 4 + len(panels.centres) * (1 + panels.terms), 2 * panels.largest)
        self.terms = panels.terms
        self._need = PRECISION[dtype].series
        self.scale = np.ones((self.capacity, 3))
        self.suffix = np.ones((self.blocks, 3))
        self.polynomial = np.zeros((self.capacity, len(panels.centres), 1 + panels.terms))
        distance = np.arange(panels.largest + 1, dtype=np.float64)
        self._weight = np.exp(-0.5 * max(0.0, -log(shape.beta / shape.ratio)) * distance[1:]) if shape.beta else np.ones(0)
        self._powers = shape.ratio**distance
        self._panel_of = np.searchsorted(np.array(panels.edges[1:]), distance, side="right")
        self._centres = np.array(panels.centres)
        self._still_centres = shape.ratio**self._centres
        self._terms_from: dict[int, int] = {}
        self.used = np.ones(self.capacity, dtype=np.int64)
        self.restart(0)

    def restart(self, step: int) -> None:
        panels = self.panels
        self._window = RateWindow(panels.window, panels.largest, panels.slope)
        super().restart(step)

    def _begin(self, step: int, *, new_block: bool) -> None:
        position = step & self.mask
        self.scale[position] = 1.0
        self.used[position] = 1
        self.polynomial[position] = 0.0
        centres = self._still_centres
        self.polynomial[position, :, 0] = centres * self.shape.height(step + self._centres) if self.shape.corrected else centres
        if new_block:
            self.suffix[step // BLOCK % self.blocks] = 1.0

    def advance(self, decay: float, beta: float, moment: float, rate: float) -> None:
        """Extend every entry by the step now + 1.

        `decay` is the factor on the weight, `beta` on the momentum, `moment` on the second moment, and `rate` the step's
        a_s without the powers of beta.
        """
        step = self.now + 1
        window = self._window.width(step, rate) if self.panels.largest else 0
        self._open(max(self.origin, step - window) // BLOCK)
        factors = np.array((decay, beta, moment))
        oldest = max(self.origin, step - window)
        kernels.measure_extend(
            self.scale, self.polynomial, self.used, max(self.origin, self.first_open * BLOCK), step, window, self._powers,
            self._panel_of, self.shape.height_at(step), _to_powers(self._terms_at(oldest)), factors, rate,
        )  # fmt: skip
        for a, b in self.closed_blocks():
            self.suffix[a:b] *= factors
        self.now = step
        self._begin(step, new_block=step % BLOCK == 0)

    def _open(self, first: int) -> None:
        """Let block `first` be the oldest open one; a closed block that opens again takes its suffix into its entries."""
        for block in range(first, self.first_open):
            a = block % self.blocks
            factors = self.suffix[a]
            entries = slice(a * BLOCK, (a + 1) * BLOCK)
            self.scale[entries] *= factors
            self.polynomial[entries, :, 1:] *= factors[0]
            self.suffix[a] = 1.0
        self.first_open = first

    def _terms_at(self, t: int) -> int:
        """The coefficients that rows last touched at step t or later need, found anew at each power of two."""
        power = max(t, 1).bit_length() - 1 if t < self.shape.settled else -1
        if not self._weight.size:
            return 1
        if power not in self._terms_from:
            first = float(1 << power) if power >= 0 else self.shape.settled
            terms = 1
            for panel, centre in enumerate(self.panels.centres):
                start, stop = self.panels.edges[panel : panel + 2]
                distance = np.arange(start, stop, dtype=np.float64)
                log_ratio = (distance - centre) * log(self.shape.ratio) + np.log(
                    self.shape.height(first + distance) / self.shape.height_at(first + centre)
                )
                terms = max(terms, _least_terms(log_ratio, self._weight[start - 1 : stop - 1], self._need))
            self._terms_from[power] = min(terms, self.terms)
        return self._terms_from[power]

    def coefficients(self, steps: Array, dtype: np.dtype[Any]) -> Array:
        """What carries the rows last touched at `steps` to now: pairs of decays, terms used, and the polynomials."""
        return np.asarray(kernels.measure_coefficients(self.scale, self.suffix, self.polynomial, self.used, steps, dtype))

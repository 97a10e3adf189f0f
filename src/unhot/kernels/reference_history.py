"""The kernels that keep the history of the steps made and read coefficients from it, in NumPy (see `unhot.clock.history`).

The entries of a history lie in a ring: step t at position t & (len - 1), in blocks of `BLOCK` positions, each block with
one suffix that its entries are still to be composed with.
"""

from __future__ import annotations

from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from unhot.atomic import Call

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 256
"""Entries in a block: a step extends the open block(s) one by one, and one suffix for each closed block."""

HEAD = 7
"""Columns before the polynomials in a line of the step measure: three pairs, and the number of terms."""


def pair(factor: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Split a factor into (hi, lo) of `dtype`, to be applied as x hi + x lo.

    Near 1, where a rounded factor would lose the decay (1 - 1e-6 in float32 is off by 1 %), hi is exactly 1, and the sum is
    rounded once: a factor of 0.999 is applied again at each touch, and an error to one side would grow to a thousand times
    one rounding.
    """
    hi = np.where(factor >= 0.5, 1.0, factor).astype(dtype)
    with np.errstate(under="ignore"):
        return hi, (factor - hi).astype(dtype)


SMALL = 2.0**-100
"""Slots' factors below this are applied as x hi lo, so that large slots survive long rests: v of 1e38 times 1e-46, say."""


def slot_pair(factor: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """`pair` for a slot: a factor below `SMALL` in magnitude becomes its root and its root with its sign, |lo| = hi."""
    hi, lo = pair(factor, dtype)
    root, small = np.sqrt(np.abs(factor)), np.abs(factor) < SMALL
    return np.where(small, root, hi).astype(dtype), np.where(small, np.copysign(root, factor), lo).astype(dtype)


def matrix_extend(entries: Array, matrix: Array, average: float) -> Call:
    """What makes of entries[k] = (p00, p01, p10, p11, s) those of `matrix` after them, and of the decay `average`."""
    m00, m01, m10, m11 = matrix
    p00, p01, p10, p11, s = entries.T
    columns = (m00 * p00 + m01 * p10, m00 * p01 + m01 * p11, m10 * p00 + m11 * p10, m10 * p01 + m11 * p11, average * s)
    return partial(setitem, entries, ..., np.stack(columns, axis=1))


@np.errstate(all="ignore")
def matrix_coefficients(entry: Array, suffix: Array, steps: Array, dtype: np.dtype[Any]) -> Array:
    """(p00 as a pair, p01, p10, p11 and s as a slot's pairs) of `steps`, carried to now: (len(steps), 8)."""
    position = steps & (len(entry) - 1)
    e00, e01, e10, e11, es = entry[position].T
    f00, f01, f10, f11, fs = suffix[position // BLOCK].T
    p01, p10 = f00 * e01 + f01 * e11, f10 * e00 + f11 * e10
    w, b = pair(f00 * e00 + f01 * e10, dtype), slot_pair(f10 * e01 + f11 * e11, dtype)
    return np.stack([*w, p01.astype(dtype), p10.astype(dtype), *b, *slot_pair(fs * es, dtype)], axis=1)


def measure_extend(
    scale: Array,
    suffix: Array,
    polynomial: Array,
    used: Array,
    start: int,
    step: int,
    window: int,
    oldest: int,
    open_: int,
    powers: Array,
    panel_of: Array,
    height: float,
    to_powers: Array,
    factors: tuple[float, float, float],
    rate: float,
    centres: list[float],
) -> list[Call]:
    """What extends the entries of the steps from `start` to `step` (excluded) by `step`, whose terms reach back over `window`,
    and the suffixes of the closed blocks from `oldest` to `open_` (excluded), and begins the entry of `step` itself.

    c_s is powers[step - t] height, panel_of[step - t] its panel, and `factors` are those of weight, momentum and moment.
    `to_powers` holds the Chebyshev polynomials in powers of u, as many as terms are wanted; `centres` are those of the
    panels of the new entry.
    """
    mask, terms = len(scale) - 1, len(to_powers)
    t = np.arange(start, step)
    position = t & mask
    extended, panels = scale[position] * factors, polynomial[position]
    if factors[0] != 1.0:
        panels[:, :, 1:] *= factors[0]
    near = np.arange(max(start, step - window), step)
    entry, distance = near - start, step - near
    panel = panel_of[distance]
    root = np.sqrt(powers[distance] * height / panels[entry, panel, 0])
    panels[entry, panel, 1 : 1 + terms] += (rate * extended[entry, 1])[:, None] * series(root, to_powers)
    closed, now = np.arange(oldest, open_) % len(suffix), step & mask
    calls: list[Call] = [
        partial(setitem, scale, position, extended),
        partial(setitem, polynomial, position, panels),
        partial(setitem, used, near & mask, np.maximum(used[near & mask], terms)),
        partial(setitem, suffix, closed, suffix[closed] * factors),
        partial(setitem, scale, now, 1.0),
        partial(setitem, used, now, 1),
        partial(setitem, polynomial, now, 0.0),
        partial(setitem, polynomial, (now, slice(None), 0), np.array(centres)),
    ]
    return [*calls, partial(setitem, suffix, now // BLOCK, 1.0)] if step % BLOCK == 0 else calls


def series(root_ratio: Any, to_powers: Any) -> Any:
    """The coefficients, in powers of u, of (c0 x + eps)/(c x + eps) for c/c0 = root_ratio**2: (len, terms)."""
    q = (1.0 - root_ratio) / (1.0 + root_ratio)
    chebyshev = 1.0 / root_ratio
    out = chebyshev[:, None] * to_powers[0]
    chebyshev = chebyshev * 2.0
    for row in to_powers[1:]:
        chebyshev = chebyshev * q
        out = out + chebyshev[:, None] * row
    return out


@np.errstate(all="ignore")
def measure_coefficients(
    scale: Array, suffix: Array, polynomial: Array, used: Array, steps: Array, dtype: np.dtype[Any]
) -> Array:
    """(three pairs, terms, then the polynomials with their centres) of `steps`, carried to now."""
    position = steps & (len(scale) - 1)
    late = suffix[position // BLOCK]
    decay, beta, moment = (scale[position] * late).T
    carried = polynomial[position]
    carried[:, :, 1:] *= late[:, None, :1]
    pairs = (*pair(decay, dtype), *slot_pair(beta, dtype), *slot_pair(moment, dtype))
    head = np.stack([*pairs, used[position].astype(dtype)], axis=1)
    width = carried.shape[1] * carried.shape[2]
    return np.concatenate([head, carried.reshape(len(steps), width).astype(dtype)], axis=1)

"""Arithmetic that the laws share: products with factors that are held as two numbers of a dtype, hi + lo.

`xp` is the namespace of the arrays: NumPy, or what has the same operations for other arrays (`Namespace` of torch/kernels.py,
the `Operations` that graph/ is given), or for symbols, of which tools/print_kernels.py prints the native kernels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Elements = Any
"""An array of `xp`, of a row's elements or of one number for each row; or a number."""


def weight_by(xp: Any, w: Elements, hi: Elements, lo: Elements) -> Elements:
    """w (hi + lo): with a decay an infinite weight becomes NaN, as in w - rate decay w, and without one it stays."""
    return xp.where(lo != 0, w * hi + w * lo, w * hi)


def weight_moved(xp: Any, w: Elements, hi: Elements, lo: Elements, move: Elements) -> Elements:
    """w (hi + lo) + move, rounded at the size of w once: a decay below half a unit in the last place counts with the move."""
    return w * hi + xp.where(lo != 0, w * lo + move, move)


def weight_less(xp: Any, w: Elements, hi: Elements, lo: Elements, move: Elements) -> Elements:
    """w (hi + lo) - move, rounded as in `weight_moved`."""
    return w * hi - xp.where(lo != 0, move - w * lo, move)


def slot_by(xp: Any, x: Elements, hi: Elements, lo: Elements, more: Elements = 0.0) -> Elements:
    """x (hi + lo) + more, rounded at the size of x once; an infinite x stays, also where the factor has become 0."""
    return xp.where(xp.abs(x) == math.inf, x + more, x * hi + (x * lo + more))


def slot_carried(xp: Any, x: Elements, hi: Elements, lo: Elements, more: Elements = 0.0) -> Elements:
    """`slot_by` over the steps of a rest, whose factor may be small: x hi lo + more then (see `slot_pair`)."""
    small = (hi < 0.5) & (xp.abs(lo) == hi)
    y = (x * hi) * xp.where(small, lo, 1.0) + (x * xp.where(small, 0.0, lo) + more)
    return xp.where(xp.abs(x) == math.inf, x + more, y)


def clipped(xp: Any, x: Elements, most: Elements) -> Elements:
    """x, but no larger in magnitude than `most`."""
    return xp.minimum(xp.maximum(x, -most), most)


def mean_square(xp: Any, g: Elements) -> Elements:
    """The mean of g^2 over the elements of each row, (n, 1): in NumPy and in the native kernels summed in float64, in the order
    of the elements, and rounded once; elsewhere as exactly as the namespace can without taking much longer.
    """
    if xp is np:
        squares = np.zeros((len(g), 1 + g.shape[1]))  # after a 0: rows may be empty
        np.square(g, out=squares[:, 1:], dtype=np.float64)
        return (np.add.accumulate(squares, axis=1)[:, -1:] / max(g.shape[1], 1)).astype(g.dtype)
    return xp.mean_square(g)


def power(xp: Any, x: Elements, exponent: Elements) -> Elements:
    """x**exponent, in float64 where `xp` has one: what is left of a difference of powers counts."""
    if xp is np:
        return x.astype(np.float64) ** exponent
    return xp.power(x, exponent) if hasattr(xp, "narrowed") else x**exponent


def narrowed(xp: Any, x: Elements, like: Elements) -> Elements:
    """`x`, maybe a `power`, in the dtype of `like`."""
    if xp is np:
        return x.astype(like.dtype)
    return xp.narrowed(x, like) if hasattr(xp, "narrowed") else x

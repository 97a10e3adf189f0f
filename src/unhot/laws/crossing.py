"""The law of PyTorch's Adamax, whose divisor is a maximum with epsilon that the decaying norm crosses.

Over the skipped steps s = t+1..n an element moves by  -m sum_s a_s / max(c_s u, eps),  c_s = beta_2^(s-t).  While
c_s u >= eps (the first J steps, J = floor(log(u/eps) / -log beta_2)) the terms are a_s / (c_s u), from then on a_s / eps:

    head[J] / u + tail[J] / eps,      head[J] = sum of the first J a_s/c_s,  tail[J] = sum of the other a_s.

Both come from two sums per t that reach from t to now, H(t) = sum a_s/c_s and T(t) = sum a_s:
head[J] = H(t) - (beta_1^J/beta_2^J) H(t + J) and tail[J] = beta_1^J T(t + J), beta_1^J being the product of the momenta
of the J steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot.laws.arithmetic import Elements, slot_by, slot_carried
from unhot.laws.base import Law, Rows


class CrossingCoefficients(NamedTuple):
    """The decays of momentum and norm, H(t), and t: float64, whatever the table's dtype, since t is a step."""

    m_hi: Elements
    m_lo: Elements
    u_hi: Elements
    u_lo: Elements
    total: Elements
    start: Elements


class CrossingScalars(NamedTuple):
    """The decays of a step, the gradient's share in the momentum, and the corrected rate."""

    m_hi: Elements
    m_lo: Elements
    m_g: Elements
    u_hi: Elements
    u_lo: Elements
    alpha: Elements
    epsilon: Elements


class CrossingShared(NamedTuple):
    """What tells how an element has crossed epsilon: see `crossed`."""

    epsilon: float
    beta_2: float
    now: int
    mask: int
    sums: npt.NDArray[np.float64]
    """H(t), T(t) and the logarithm of the momenta's product up to t, at t & mask: (mask + 1, 3)."""


@dataclass(frozen=True)
class Crossing(Law):
    """The row state is (w, momentum, norm)."""

    name = "Crossing"
    native_settle = "CrossingSettle<T>"
    slots = ("momentum", "norm")
    parameters = len(CrossingShared._fields) - 1
    Coefficients = CrossingCoefficients
    Scalars = CrossingScalars
    Shared = CrossingShared

    @classmethod
    def variants(cls) -> Iterator[Crossing]:
        yield cls()

    def settle(self, xp: Any, rows: Rows, c: CrossingCoefficients, k: CrossingShared) -> Rows:
        w, m, u = rows
        m_hi, m_lo, u_hi, u_lo, total = (like(part, u) for part in c[:5])
        epsilon = float(on_host(u[:0]).dtype.type(k.epsilon))
        end = slot_carried(xp, u, u_hi, u_lo)
        movement = (m / xp.maximum(u, epsilon)) * total
        below = xp.maximum(end, epsilon) != end
        if below.any():
            exact = crossed(on_host(m), on_host(u), on_host(c.start), k)
            movement = xp.where(below, like(exact, movement), movement)
        return w - movement, slot_carried(xp, m, m_hi, m_lo), xp.maximum(end, epsilon)

    def update(self, xp: Any, rows: Rows, g: Elements, s: CrossingScalars, k: CrossingShared) -> Rows:
        w, m, u = rows
        m = slot_by(xp, m, s.m_hi, s.m_lo, g * s.m_g)
        u = xp.maximum(slot_by(xp, u, s.u_hi, s.u_lo), xp.abs(g) + s.epsilon)
        return w - (m * s.alpha) / u, m, u


def crossed(m: npt.NDArray[Any], u: npt.NDArray[Any], start: npt.NDArray[Any], k: CrossingShared) -> npt.NDArray[np.float64]:
    """m (head[J]/u + tail[J]/eps) in float64, for the elements that reach epsilon on the way."""
    u = np.maximum(u.astype(np.float64), k.epsilon)
    start = start.astype(np.int64)
    steps = np.floor(np.log(u / k.epsilon) / -np.log(k.beta_2))
    middle = start + np.clip(np.nan_to_num(steps), 0, k.now - start).astype(np.int64)
    h, _, log_start = np.moveaxis(k.sums[start & k.mask], -1, 0)
    h_middle, tail, log_middle = np.moveaxis(k.sums[middle & k.mask], -1, 0)
    beta = np.exp(log_middle - log_start)
    power = k.beta_2 ** (middle - start).astype(np.float64)
    m = m.astype(np.float64)  # divided first: of rows without gradients it is 0, where rate / epsilon may be infinite
    return np.asarray((m / u) * (h - beta / power * h_middle) + (m * beta / k.epsilon) * tail)


def on_host(x: Any) -> npt.NDArray[Any]:
    """`x`, an array or a torch tensor, as an array."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.cpu())


def like(x: Any, other: Any) -> Any:
    """`x` as `other` is: of its dtype, and a torch tensor on its device where that is one."""
    if isinstance(other, np.ndarray):
        return x.astype(other.dtype)
    return other.new_tensor(x) if isinstance(x, np.ndarray) else x.to(other)

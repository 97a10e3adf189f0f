"""Lion's sign is discontinuous: an argument within rounding of 0 falls either way in any float32 training.

So the streams for Lion are made such that none comes near: where an argument of the float64 reference would, the same amount
is added to the gradient of that element in every copy, and the guard verifies that the margin then holds.  The comparison
itself stays as strict as for every other rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .dense import Array
from .registry import Rule
from .streams import Step, Stream, rounded

MARGIN = 1e-3
"""Least |argument| relative to the sum of its terms' absolute values: ten thousand times float32's rounding."""


class SignGuard:
    """Follows the reference's momentum, and the same sum of absolute values, and amends gradients."""

    def __init__(self, rule: Rule, stream: Stream) -> None:
        self.hyper: dict[str, Any] = dict(rule.defaults)
        self.m = np.zeros(stream.weights.shape)
        self.size = np.zeros(stream.weights.shape)
        self.amended = 0

    def __call__(self, step: Step, gradients: Array) -> Array:
        """What to add to `gradients`, those of the reference, in every copy."""
        self.hyper.update(step.hyper)
        extra = np.zeros_like(gradients)
        rows, first, inverse = np.unique(step.ids, return_index=True, return_inverse=True)
        g = np.zeros((len(rows), self.m.shape[1]))
        np.add.at(g, inverse, gradients)
        a = np.zeros_like(g)
        np.add.at(a, inverse, np.abs(gradients) + step.pull)
        m, size = self.m[rows], self.size[rows]
        for factor in (0.5, 1.0, 2.0, 4.0):
            near = self.near(m, size, g, a)
            if not near.any():
                break
            shift = np.where(near, rounded(factor * (a + np.abs(m) / (1 - max(self.betas)))), 0.0)
            extra[first] += shift
            g, a = g + shift, a + shift
            self.amended += int(near.sum())
        assert not self.near(m, size, g, a).any(), "an argument of Lion's sign stayed near 0"
        beta_2 = self.hyper["beta_2"]
        self.m *= beta_2
        self.size *= beta_2
        self.m[rows] += (1 - beta_2) * g
        self.size[rows] += (1 - beta_2) * a
        return extra

    @property
    def betas(self) -> tuple[float, float]:
        return self.hyper["beta_1"], self.hyper["beta_2"]

    def near(self, m: Array, size: Array, g: Array, a: Array) -> Array:
        """Where this step's argument, or the momentum it leaves (the argument of the steps at rest), is near 0."""
        out = np.zeros(g.shape, dtype=bool)
        for beta in self.betas:
            out |= np.abs(beta * m + (1 - beta) * g) < MARGIN * (beta * size + (1 - beta) * a)
        return out


def guard(rule: Rule, stream: Stream) -> SignGuard | None:
    """The guard that `rule` needs on `stream`, if any."""
    return SignGuard(rule, stream) if rule.name == "Lion" else None

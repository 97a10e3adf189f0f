"""The training task: every id has a vector of its own, drawn at random, which its row is to become.

The loss is half the squared distance from it, averaged over the batch, so a gradient depends on the rows as they were read:
a route that read a stale row would go astray.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def targets(rows: int, dim: int, seed: int) -> Array:
    """A vector for each id, float32; elements of size 1 to 2, far from the initial weights."""
    rng = np.random.default_rng([seed, 1])
    sizes = 1 + rng.random((rows, dim), np.float32)
    return np.where(rng.random((rows, dim), np.float32) < 0.5, -sizes, sizes)


def gradients(vectors: Array, target: Array) -> Array:
    """The loss's gradient by the looked-up vectors, in their dtype."""
    return np.asarray((vectors - target.astype(vectors.dtype)) / len(vectors))

"""The training task: every id has its own random vector, which its row is to become.

The loss is half the squared distance from this vector, averaged over the batch. A gradient therefore depends on the rows as
they were read, and a route that reads a stale row goes astray.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def targets(rows: int, dim: int, seed: int) -> Array:
    """A float32 vector for each id, with elements of size 1 to 2, far from the initial weights."""
    rng = np.random.default_rng([seed, 1])
    sizes = 1 + rng.random((rows, dim), np.float32)
    return np.where(rng.random((rows, dim), np.float32) < 0.5, -sizes, sizes)


def gradients(vectors: Array, target: Array) -> Array:
    """The gradient of the loss with respect to the looked-up vectors, in their dtype."""
    return np.asarray((vectors - target.astype(vectors.dtype)) / len(vectors))

"""The routes that the table is compared with, in plain NumPy, trained by the ordinary dense optimizer.

They are one-hot x Dense, and the same without the one-hot matrix, as in PyTorch's and Keras's embedding layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.optimizers import Optimizer

Array = npt.NDArray[Any]

BLOCK = 1 << 15
"""Elements updated at a time, so that the optimizer's intermediate results stay in the cache."""


def one_hot(ids: Array, rows: int, dtype: np.dtype[Any]) -> Array:
    """The one-hot matrix, of shape (len(ids), rows).

    Writing zeros and then the ones is the fastest way in NumPy. The system may never put unwritten pages of zeros into memory,
    which saves the dense route time and memory.
    """
    x = np.zeros((len(ids), rows), dtype)
    x[np.arange(len(ids)), ids] = 1
    return x


class Dense:
    """A Dense layer without bias on one-hot vectors. It knows nothing about rows, deferring or `unhot.Table`."""

    def __init__(self, weights: Array, optimizer: Optimizer) -> None:
        self.weights = weights
        self.optimizer = optimizer
        shape = len(weights), optimizer.dense_slot_width(weights.shape[1])
        self.slots = [np.full(shape, start, weights.dtype) for start in optimizer.dense_slots()]
        self.steps = 0

    def forward(self, ids: Array) -> Array:
        """one_hot(ids) @ weights. The one-hot matrix is kept for `gradient`."""
        self.x = one_hot(ids, len(self.weights), self.weights.dtype)
        return np.asarray(self.x @ self.weights)

    def gradient(self, grads: Array) -> Array:
        """The gradient of all weights: one_hot(ids).T @ grads, with the ids of the last `forward`."""
        x = self.x
        del self.x  # or the next step would hold two
        return np.asarray(x.T @ grads)

    def step(self, gradient: Array) -> None:
        """One step of the dense optimizer, on every weight and every slot."""
        self.steps += 1
        hyper = self.optimizer.read(self.steps)
        height = max(1, BLOCK // self.weights.shape[1])
        for start in range(0, len(self.weights), height):
            block = slice(start, start + height)
            state = tuple(array[block] for array in (self.weights, *self.slots))
            after = self.optimizer.dense_step(self.steps, hyper, gradient[block], state)
            for old, new in zip(state, after, strict=True):
                old[:] = new

    def train(self, ids: Array, grads: Array) -> None:
        """Compute the gradient and make a step. `ids` are those of the last `forward`."""
        self.step(self.gradient(grads))


class Gathered(Dense):
    """An embedding layer with a dense optimizer. It gathers rows and scatters their gradients into a gradient of all rows."""

    def forward(self, ids: Array) -> Array:
        """weights[ids]. The ids are kept for `gradient`."""
        self.ids = ids
        return np.asarray(self.weights[ids])

    def gradient(self, grads: Array) -> Array:
        """The gradient of all weights: zeros, plus the gradients of the ids of the last `forward`."""
        gradient = np.zeros_like(self.weights)
        dim = gradient.shape[1]
        # One index for each element, for which NumPy has a loop in C.
        elements = self.ids[:, None] * dim + np.arange(dim)
        np.add.at(gradient.reshape(-1), elements.reshape(-1), grads.reshape(-1))
        return gradient

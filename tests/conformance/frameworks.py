"""Dense parameters under the frameworks' own optimizers, as copies for `training.train`.

A pitfall (recurrences.md): Keras keeps rates in its floatx, which is set to the copy's dtype around every call.  Those of
PyTorch are in torch_copy.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from .dense import Array
from .registry import Rule
from .torch_copy import TorchCopy, default_dtype
from .training import dense_gradient


@contextmanager
def floats(dtype: str) -> Iterator[None]:
    """Both frameworks' default dtype, for a while."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        with default_dtype(dtype):
            yield
    finally:
        keras.config.set_floatx(before)


class KerasCopy:
    """keras.optimizers on a dense keras.Variable.  Without `hyper`, the optimizer has all of its own defaults."""

    def __init__(self, rule: Rule, weights: Array, dtype: str, hyper: dict[str, Any] | None = None) -> None:
        self.dtype = dtype
        given = {"learning_rate": rule.rate, **rule.hyper} if hyper is None else hyper
        with floats(dtype):
            self.variable = keras.Variable(weights.astype(dtype), dtype=dtype, name="weights")
            self.optimizer = getattr(keras.optimizers, {"NAdam": "Nadam"}.get(rule.name, rule.name))(**given)
            self.optimizer.build([self.variable])

    def lookup(self, ids: Array) -> Array:
        return self.weights()[..., ids, :]

    def assign(self, hyper: dict[str, Any]) -> None:
        with floats(self.dtype):
            for name, value in hyper.items():
                setattr(self.optimizer, name, value)

    def step(self, ids: Array, gradients: Array) -> None:
        with floats(self.dtype):
            gradient = keras.ops.convert_to_tensor(dense_gradient(self.weights(), ids, gradients))
            self.optimizer.apply([gradient], [self.variable])

    def weights(self) -> Array:
        out: Array = self.variable.value.detach().numpy()
        return out.copy()


def framework_copy(rule: Rule, weights: Array, dtype: str, hyper: dict[str, Any] | None = None) -> TorchCopy | KerasCopy:
    """The dense training of the framework that the rule's convention names."""
    return (TorchCopy if rule.convention == "torch" else KerasCopy)(rule, weights, dtype, hyper)

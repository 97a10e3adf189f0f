"""Dense parameters under the frameworks' own optimizers, as copies for `training.train`.

Pitfalls (recurrences.md): PyTorch keeps NAdam's product in the default dtype, and Keras keeps rates in its floatx; both are
set to the copy's dtype around every call.  A parameter without a gradient would stop PyTorch's clock, so each step gives the
whole table a gradient, zeros included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import torch

from .dense import Array
from .registry import Rule
from .training import dense_gradient

TORCH_NAMES = {"learning_rate": "lr", "epsilon": "eps"}
DECOUPLED = ("Adam", "NAdam", "RAdam")
"""torch.optim's rules that have an option for decoupled weight decay."""


@contextmanager
def floats(dtype: str) -> Iterator[None]:
    """Both frameworks' default dtype, for a while."""
    before = torch.get_default_dtype(), keras.config.floatx()
    torch.set_default_dtype(getattr(torch, dtype))
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before[0])
        keras.config.set_floatx(before[1])


class TorchCopy:
    """torch.optim on a dense torch.nn.Parameter.  Without `hyper`, the optimizer has all of its own defaults."""

    def __init__(self, rule: Rule, weights: Array, dtype: str, hyper: dict[str, Any] | None = None) -> None:
        self.rule, self.dtype = rule, dtype
        self.betas = {"beta_1": rule.defaults.get("beta_1", 0.9), "beta_2": rule.defaults.get("beta_2", 0.999)}
        given = {"learning_rate": rule.rate, **rule.hyper} if hyper is None else hyper
        with floats(dtype):
            self.parameter = torch.nn.Parameter(torch.tensor(weights.astype(dtype)))
            names = self.translated(given)
            if rule.name in DECOUPLED and given.get("weight_decay"):
                names["decoupled_weight_decay"] = True
            self.optimizer = getattr(torch.optim, rule.name)([self.parameter], foreach=False, **names)

    def translated(self, hyper: dict[str, Any]) -> dict[str, Any]:
        """Keras's names to PyTorch's."""
        out: dict[str, Any] = {}
        for name, value in hyper.items():
            if name in self.betas:
                self.betas[name] = value
                out["betas"] = (self.betas["beta_1"], self.betas["beta_2"])
            elif name == "rho" and self.rule.name == "RMSprop":
                out["alpha"] = value
            else:
                out[TORCH_NAMES.get(name, name)] = value
        return out

    def lookup(self, ids: Array) -> Array:
        return self.weights()[..., ids, :]

    def assign(self, hyper: dict[str, Any]) -> None:
        for group in self.optimizer.param_groups:
            group.update(self.translated(hyper))

    def step(self, ids: Array, gradients: Array) -> None:
        with floats(self.dtype):
            self.parameter.grad = torch.from_numpy(dense_gradient(self.weights(), ids, gradients))
            self.optimizer.step()

    def weights(self) -> Array:
        out: Array = self.parameter.detach().numpy()
        return out.copy()


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

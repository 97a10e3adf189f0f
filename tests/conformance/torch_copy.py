"""A dense parameter under PyTorch's own optimizers, as a copy for `training.train`, on any device.

Pitfalls (recurrences.md): PyTorch keeps NAdam's product in the default dtype, which is set to the copy's dtype around every
call.  A parameter without a gradient would stop PyTorch's clock, so each step gives the whole table a gradient, zeros included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from .dense import Array
from .registry import Rule
from .training import dense_gradient

TORCH_NAMES = {"learning_rate": "lr", "epsilon": "eps"}
DECOUPLED = ("Adam", "NAdam", "RAdam")
"""torch.optim's rules that have an option for decoupled weight decay."""

ONE_BY_ONE: Mapping[str, bool] = {"foreach": False}


@contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """PyTorch's default dtype, for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class TorchCopy:
    """torch.optim on a dense torch.nn.Parameter.  Without `hyper`, the optimizer has all of its own defaults.

    `way` says which of its implementations makes the steps: its options `foreach`, `fused` and `capturable`.
    """

    def __init__(
        self,
        rule: Rule,
        weights: Array,
        dtype: str,
        hyper: dict[str, Any] | None = None,
        device: str = "cpu",
        way: Mapping[str, bool] = ONE_BY_ONE,
    ) -> None:
        self.rule, self.dtype = rule, dtype
        self.betas = {"beta_1": rule.defaults.get("beta_1", 0.9), "beta_2": rule.defaults.get("beta_2", 0.999)}
        given = {"learning_rate": rule.rate, **rule.hyper} if hyper is None else hyper
        with default_dtype(dtype):
            self.parameter = torch.nn.Parameter(torch.tensor(weights.astype(dtype), device=device))
            names = self.translated(given)
            if rule.name in DECOUPLED and given.get("weight_decay"):
                names["decoupled_weight_decay"] = True
            self.optimizer = getattr(torch.optim, rule.name)([self.parameter], **way, **names)

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
        with default_dtype(self.dtype):
            gradient = torch.from_numpy(dense_gradient(self.weights(), ids, gradients))
            self.parameter.grad = gradient.to(self.parameter.device)
            self.optimizer.step()

    def weights(self) -> Array:
        out: Array = self.parameter.detach().cpu().numpy()
        return out.copy()

"""`unhot.torch` under test, on any device: a layer and an optimizer in a training loop, and what they are trained on.

test_pytorch.py and benchmarks/gpu.py run it. It needs PyTorch and NumPy only: where a GPU is, pytest and Keras may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import unhot.torch

from . import signs
from .dense import Array
from .registry import EVERY, RULES, Rule
from .streams import Stream
from .torch_copy import DECOUPLED, ONE_BY_ONE, TorchCopy, default_dtype
from .training import Check, agree, train, versions

FRONT_END = [rule for rule in EVERY if rule.convention == "torch"]
"""Every rule with every pair of betas."""

USUAL = [rule for rule in RULES if rule.convention == "torch"]

WAYS: Mapping[str, Mapping[str, bool]] = {
    "one by one": ONE_BY_ONE,
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"foreach": False, "capturable": True},
}
"""torch.optim's implementations of a dense step."""

DENSE_EVERY = 7


def beside_dense_steps(device: str) -> list[tuple[str, Rule]]:
    """Each optimizer with each way of making dense steps that torch's own has on the device."""
    rules = {rule.name: rule for rule in USUAL}.values()
    return [(way, rule) for way in WAYS for rule in rules if torch_makes(rule, WAYS[way], device)]


def torch_makes(rule: Rule, way: Mapping[str, bool], device: str) -> bool:
    parameter = torch.nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        getattr(torch.optim, rule.name)([parameter], **way).step()
    except (TypeError, RuntimeError, AssertionError):  # no such option, or not on this device
        return False
    return True


class LayerCopy:
    """An `unhot.torch.Embedding` under the optimizer of the same name.

    Every third step has two lookups in one loss; every fifth is accumulated over two calls of `backward`.  With `dense_every`,
    some losses use the whole table, too, and the step is torch's own.
    """

    def __init__(
        self,
        rule: Rule,
        weights: Array,
        dtype: str,
        device: str = "cpu",
        way: Mapping[str, bool] | None = None,
        dense_every: int = 0,
    ) -> None:
        given = torch.tensor(weights.astype(dtype), device=device)
        self.layer = unhot.torch.Embedding.from_pretrained(given, freeze=False)
        self.names = TorchCopy(rule, weights, dtype)
        options: dict[str, Any] = self.names.translated({"learning_rate": rule.rate, **rule.hyper})
        if rule.name in DECOUPLED and rule.hyper.get("weight_decay"):
            options["decoupled_weight_decay"] = True
        with default_dtype(dtype if dense_every else "float32"):
            self.optimizer = getattr(unhot.torch, rule.name)(self.layer.parameters(), **(way or {}), **options)
        self.dtype, self.device, self.dense_every = dtype, device, dense_every
        self.steps = self.looks = 0

    def lookup(self, ids: Array) -> Array:
        found: Array = self.layer(self.tensor(ids)).detach().cpu().numpy()
        return found

    def tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def step(self, ids: Array, gradients: Array) -> None:
        self.steps += 1
        self.optimizer.zero_grad()
        wanted, given = self.tensor(gradients.astype(self.dtype)), self.tensor(ids)
        parts = [slice(None)] if self.steps % 3 else [slice(0, 1), slice(1, None)]
        losses = [(self.layer(given[part]) * wanted[part]).sum() for part in parts]
        dense = self.dense_every and self.steps % self.dense_every == 0
        if dense:
            losses.append((self.layer.weight * 0.0).sum())
        if self.steps % 5:
            losses = [torch.stack(losses).sum()]
        for loss in losses:
            loss.backward()
        gradient = self.layer.weight.grad
        assert gradient is not None
        assert dense or isinstance(gradient, unhot.torch.RowGradient)
        with default_dtype(self.dtype if self.dense_every else "float32"):
            self.optimizer.step()

    @property
    def kernels(self) -> str:
        """What works on the rows since the last step by rows."""
        weight: Any = self.layer.weight
        return str(weight.ownership.backend.engine.kernels.name)

    def assign(self, hyper: dict[str, Any]) -> None:
        self.optimizer.param_groups[0].update(self.names.translated(hyper))

    def weights(self) -> Array:
        self.looks += 1
        if self.looks % 2:
            return self.lookup(np.arange(self.layer.num_embeddings))
        held: Array = self.layer.weight.detach().cpu().numpy()
        return held.copy()


def compare(
    rule: Rule,
    given: Stream,
    device: str = "cpu",
    way: Mapping[str, bool] | None = None,
    dense_every: int = 0,
    check: Check = agree,
) -> list[LayerCopy]:
    """Train layers in both precisions and their dense twins, and check that they agree; the layers.

    The reference is torch.optim in float64, and "dense float32 training" torch.optim in float32, on the same device.
    """
    layers = [LayerCopy(rule, given.weights, dtype, device, way, dense_every) for dtype in ("float32", "float64")]
    reference = TorchCopy(rule, versions(given.weights), "float64", device=device)
    dense = TorchCopy(rule, given.weights, "float32", device=device, way=way or ONE_BY_ONE)
    train(given, reference, [dense, *layers], check, guard=signs.guard(rule, given))
    return layers

"""The registry through `unhot.torch`: a layer and an optimizer in a training loop, against torch.optim on a dense parameter.

The reference is torch.optim in float64, "dense float32 training" is torch.optim in float32, and the tables under test lie in
a layer that is looked up, differentiated and stepped as a user's would be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from selection import cover, label

import unhot.torch
from unhot.torch.placement import KERNELS

from . import signs
from .dense import Array
from .frameworks import DECOUPLED, TorchCopy, framework_copy
from .registry import EVERY, RULES, Rule
from .streams import make
from .training import agree, train, versions

FRONT_END = [rule for rule in EVERY if rule.convention == "torch"]


class LayerCopy:
    """An `unhot.torch.Embedding` under the optimizer of the same name.

    Every third step has two lookups in one loss; every fifth is accumulated over two calls of `backward`.
    """

    def __init__(self, rule: Rule, weights: Array, dtype: str) -> None:
        self.layer = unhot.torch.Embedding.from_pretrained(torch.tensor(weights.astype(dtype)), freeze=False)
        self.names = TorchCopy(rule, weights, dtype)
        options: dict[str, Any] = self.names.translated({"learning_rate": rule.rate, **rule.hyper})
        if rule.name in DECOUPLED and rule.hyper.get("weight_decay"):
            options["decoupled_weight_decay"] = True
        self.optimizer = getattr(unhot.torch, rule.name)(self.layer.parameters(), **options)
        self.steps = self.looks = 0

    def lookup(self, ids: Array) -> Array:
        found: Array = self.layer(torch.from_numpy(ids)).detach().numpy()
        return found

    def step(self, ids: Array, gradients: Array) -> None:
        self.steps += 1
        self.optimizer.zero_grad()
        wanted = torch.from_numpy(gradients.astype(str(self.layer.weight.dtype).removeprefix("torch.")))
        given = torch.from_numpy(ids)
        parts = [slice(None)] if self.steps % 3 else [slice(0, 1), slice(1, None)]
        losses = [(self.layer(given[part]) * wanted[part]).sum() for part in parts]
        if self.steps % 5:
            losses = [torch.stack(losses).sum()]
        for loss in losses:
            loss.backward()
        assert self.layer.weight.grad is not None
        assert isinstance(self.layer.weight.grad, unhot.torch.RowGradient)
        self.optimizer.step()

    def assign(self, hyper: dict[str, Any]) -> None:
        self.optimizer.param_groups[0].update(self.names.translated(hyper))

    def weights(self) -> Array:
        self.looks += 1
        if self.looks % 2:
            return self.lookup(np.arange(self.layer.num_embeddings))
        held: Array = self.layer.weight.detach().numpy()
        return held.copy()


USUAL = [rule for rule in RULES if rule.convention == "torch"]
NATIVE = [("native", "closed", "wandering", rule) for rule in FRONT_END]
NATIVE += [
    ("native", *way, rule) for way in (("mixed", "cosine"), ("tiny", "constant"), ("gaps", "constant")) for rule in USUAL
]
TORCH = [("torch", "closed", "wandering", rule) for rule in USUAL]
TORCH += [("torch", "tiny", "constant", rule) for rule in FRONT_END if rule not in RULES]
CASES = [*cover(NATIVE, by=1), *cover(TORCH, by=1)]
"""All betas once for each way: what they do to the rules is tested in test_against_dense.py, and this is what the front end
makes of it."""


@pytest.mark.parametrize(("kernels", "stream", "schedule", "rule"), CASES, ids=label)
def test_as_torch_trains(kernels: str, stream: str, schedule: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer holds what torch.optim makes of a dense parameter that gets one-hot(ids).T @ gradients."""
    monkeypatch.setenv(KERNELS, kernels)
    given = make(stream, schedule, rule.rate)
    layers = [LayerCopy(rule, given.weights, dtype) for dtype in ("float32", "float64")]
    reference = framework_copy(rule, versions(given.weights), "float64")
    train(
        given, reference, [framework_copy(rule, given.weights, "float32"), *layers], agree, guard=signs.guard(rule, given)
    )  # fmt: skip
    for layer in layers:
        engine = layer.layer.weight.ownership.backend.engine
        assert (engine.kernels.name == "torch") == (kernels == "torch")


def test_every_optimizer_of_the_front_end_is_registered() -> None:
    optimizers = {name for name in unhot.torch.__all__ if hasattr(torch.optim, name)}
    assert optimizers == {rule.name for rule in FRONT_END}

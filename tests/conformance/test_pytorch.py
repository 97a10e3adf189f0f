"""The registry through `unhot.torch`: a layer and an optimizer in a training loop, against torch.optim on a dense parameter.

The tables under test lie in a layer that is looked up, differentiated and stepped as a user's would be (torch_layer.py).  Where
there is a GPU, tables on it are tested, too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from selection import cover, label

import unhot.torch
from unhot.torch.placement import KERNELS

from .registry import RULES, Rule
from .streams import make
from .torch_layer import DENSE_EVERY, FRONT_END, USUAL, WAYS, beside_dense_steps, compare

NATIVE = [("native", "closed", "wandering", rule) for rule in FRONT_END]
NATIVE += [
    ("native", *way, rule) for way in (("mixed", "cosine"), ("tiny", "constant"), ("gaps", "constant")) for rule in USUAL
]
TORCH = [("torch", "closed", "wandering", rule) for rule in USUAL]
TORCH += [("torch", "tiny", "constant", rule) for rule in FRONT_END if rule not in RULES]
CUDA = [("cuda", *case) for _, *case in TORCH] if torch.cuda.is_available() else []
CASES = [*cover(NATIVE, by=1), *cover(TORCH, by=1), *cover(CUDA, by=1)]
"""All betas once for each way: what they do to the rules is tested in test_against_dense.py, and this is what the front end
makes of it."""


@pytest.mark.parametrize(("kernels", "stream", "schedule", "rule"), CASES, ids=label)
def test_as_torch_trains(kernels: str, stream: str, schedule: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer holds what torch.optim makes of a dense parameter that gets one-hot(ids).T @ gradients."""
    trained_by(kernels, monkeypatch, rule, stream, schedule)


def trained_by(kernels: str, monkeypatch: pytest.MonkeyPatch, rule: Rule, stream: str, schedule: str, **given: Any) -> None:
    device = "cuda" if kernels == "cuda" else "cpu"
    monkeypatch.setenv(KERNELS, "native" if kernels == "native" else "torch")
    layers = compare(rule, make(stream, schedule, rule.rate), device, **given)
    for layer in layers:
        assert (layer.kernels == "torch") == (kernels != "native")


BESIDE = [(kernels, *case) for kernels in ("native", "torch") for case in beside_dense_steps("cpu")]
BESIDE_ON_CUDA = [("cuda", *case) for case in beside_dense_steps("cuda")] if torch.cuda.is_available() else []


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize(("kernels", "way", "rule"), [*cover(BESIDE, by=1), *cover(BESIDE_ON_CUDA)], ids=label)
def test_beside_dense_steps(kernels: str, way: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps by rows go on from what torch's own steps leave, and these from what steps by rows leave."""
    trained_by(kernels, monkeypatch, rule, "closed", "wandering", way=WAYS[way], dense_every=DENSE_EVERY)


def test_every_optimizer_of_the_front_end_is_registered() -> None:
    optimizers = {name for name in unhot.torch.__all__ if hasattr(torch.optim, name)}
    assert optimizers == {rule.name for rule in FRONT_END}

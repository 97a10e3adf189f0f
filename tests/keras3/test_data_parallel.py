"""Keras's layers on PyTorch in its DistributedDataParallel: trained densely, with a warning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import unhot
import unhot.keras

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="it is PyTorch's")


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(layers: Any, optimizers: Any, wrapped: bool) -> list[Any]:
    """The weights after some steps."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(layers.Embedding(20, 4)(ids))))
    optimizer = optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    called = DistributedDataParallel(model) if wrapped else model
    for k in range(5):
        model.zero_grad()
        called(torch.tensor([[k, 1, k + 2], [3, k, 3]])).square().sum().backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in model.trainable_variables], model.trainable_variables)
    weights: list[Any] = model.get_weights()
    return weights


@pytest.mark.usefixtures("one_process")
def test_tables_are_trained_densely() -> None:
    expected = trained(keras.layers, keras.optimizers, wrapped=False)
    with pytest.warns(unhot.DenseFallbackWarning, match="DistributedDataParallel exchanges dense gradients") as told:
        found = trained(unhot.keras, unhot.keras, wrapped=True)
    assert len([warning for warning in told if warning.category is unhot.DenseFallbackWarning]) == 1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

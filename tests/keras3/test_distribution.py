"""Tables under `keras.distribution` on JAX, in a process with two devices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from jax_sharding.processes import Run, processes

import unhot.keras
from unhot.keras.backends import backend

from .models import EPSILON

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's devices")

ROWS, DIM, IDS, BATCH, STEPS = 1000, 2, 6, 8, 8


@pytest.fixture(scope="module")
def two_devices() -> Iterator[Run]:
    with processes(1, 2) as run:
        yield run


def trained(distribution: Any, optimizer: str) -> tuple[Any, list[Any]]:
    """A table that was trained under the distribution, by rows; and its weights and slots, half-way and at the end."""
    backend.FEWEST_ROWS = 0
    keras.distribution.set_distribution(distribution)
    try:
        keras.utils.set_random_seed(0)
        ids = keras.Input((IDS,), dtype="int32")
        table = unhot.keras.Embedding(ROWS, DIM)
        model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(table(ids))))
        model.compile(getattr(unhot.keras, optimizer)(0.01), "mse")
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 50, (BATCH * STEPS, IDS)).astype("int32"), rng.normal(size=(BATCH * STEPS, 1)).astype("float32")
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("error", unhot.DenseFallbackWarning)
            for _ in range(2):
                model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
                found += [*model.get_weights(), *(np.array(variable) for variable in model.optimizer.variables)]
                found.append(model.predict(x, batch_size=BATCH, verbose=0))
                table.set_weights([table.get_weights()[0] + 1])  # goes on from what others write
        assert model.optimizer.table(table.embeddings) is not None
        return table.embeddings._value, found
    finally:
        keras.distribution.set_distribution(None)


def trains_by_rows_as_without(optimizer: str) -> None:
    """All of a table's arrays are on all devices, and the results those of one device, but for the order of sums in a batch."""
    distribution = keras.distribution.DataParallel()
    assert distribution.device_mesh.shape == [2] or tuple(distribution.device_mesh.shape) == (2,)
    value, found = trained(distribution, optimizer)
    assert all(array.sharding.is_fully_replicated and len(array.devices()) == 2 for array in value.arrays.values())
    _, expected = trained(None, optimizer)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in `assert_same`


def test_trains_by_rows_as_without(two_devices: Run) -> None:
    two_devices(trains_by_rows_as_without, "Adam")

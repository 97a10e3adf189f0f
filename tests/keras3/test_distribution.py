"""Tables under `keras.distribution` on JAX, in a process with four devices."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import pytest
from jax_sharding.processes import Run, processes
from selection import label, product, slow, some

import unhot.keras
from unhot.keras.backends import backend

from .calls import ON
from .distributed_programs import (
    LAYOUTS,
    PROGRAMS,
    WHOLE,
    as_without,
    assert_close,
    grows_by_equal_parts,
    model_parallel,
    trains_densely,
    trains_together,
)

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's devices")

ROWS, DIM, IDS, BATCH, STEPS = 1000, 2, 6, 8, 8


apart = pytest.mark.skipif(not ON, reason="needs names that Keras does not publish")
"""Of tests in which tables are trained by rows."""


@pytest.fixture(scope="module")
def four_devices() -> Iterator[Run]:
    with processes(1, 4) as run:
        yield run


class Tied(keras.layers.Layer):  # type: ignore[misc]
    """Reads the whole of a table, as an output head that shares its weights does."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table

    def call(self, x: Any) -> Any:
        return x + keras.ops.mean(keras.ops.square(self.table.embeddings))


def trained(distribution: Any, optimizer: str, tied: bool = False, **options: Any) -> tuple[Any, list[Any]]:
    """A table that was trained under the distribution, by rows; and its weights and slots, half-way and at the end."""
    backend.FEWEST_ROWS = 0
    keras.distribution.set_distribution(distribution)
    try:
        keras.utils.set_random_seed(0)
        ids = keras.Input((IDS,), dtype="int32")
        table = unhot.keras.Embedding(ROWS, DIM, name="table")
        found = keras.layers.Dense(1)(keras.layers.Flatten()(table(ids)))
        model = keras.Model(ids, Tied(table)(found) if tied else found)
        model.compile(getattr(unhot.keras, optimizer)(0.01, **options), "mse")
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 50, (BATCH * STEPS, IDS)).astype("int32"), rng.normal(size=(BATCH * STEPS, 1)).astype("float32")
        seen: list[Any] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if tied else "error", unhot.DenseFallbackWarning)
            seen.append(model.predict(x[:BATCH], batch_size=BATCH, verbose=0))  # made before the optimizer
            for _ in range(2):
                model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
                seen += [*model.get_weights(), *(np.array(variable) for variable in model.optimizer.variables)]
                seen.append(model.predict(x, batch_size=BATCH, verbose=0))
                table.set_weights([table.get_weights()[0] + 1])  # goes on from what others write
                if optimizer == "Adam":
                    model.optimizer.beta_1 = 0.8  # the rows are then trained by another engine, in the same trainer
            seen.append(np.array(table(x[0])))
            with tempfile.TemporaryDirectory() as folder:
                model.save_weights(f"{folder}/model.weights.h5")
                model.load_weights(f"{folder}/model.weights.h5")
            model.compile(unhot.keras.SGD(0.01, momentum=0.9), "mse")  # takes the table over
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
            seen += model.get_weights()
        assert model.optimizer.table(table.embeddings) is not None
        return table.embeddings._value, seen
    finally:
        keras.distribution.set_distribution(None)


def equals_one_device(found: list[Any], *how: Any, **options: Any) -> None:
    """The results are those of one device, but for the order of sums in a batch."""
    assert_close(found, on_one_device(*how, **options))


@cache
def on_one_device(*how: Any, **options: Any) -> list[Any]:
    """The weights and slots of `trained` without a distribution, computed once in a process."""
    return trained(None, *how, **options)[1]


def trains_by_rows_as_without(optimizer: str) -> None:
    """All of a table's arrays are on all devices."""
    distribution = keras.distribution.DataParallel()
    assert tuple(distribution.device_mesh.shape) == (4,)
    value, found = trained(distribution, optimizer)
    assert all(array.sharding.is_fully_replicated and len(array.devices()) == 4 for array in value.arrays.values())
    equals_one_device(found, optimizer)


def trains_parts_by_rows(layout: str, *how: Any, **options: Any) -> None:
    """Each device has a part of all of a table's arrays that have lines for rows, or columns."""
    shape, spec = LAYOUTS[layout]
    value, found = trained(model_parallel(shape, spec), *how, **options)
    for name, array in value.arrays.items():
        parts = {tuple(shard.data.shape) for shard in array.addressable_shards}
        expected = list(array.shape)
        if array.ndim and array.shape[0] == ROWS and spec[0]:
            expected[0] //= 2
        if array.shape == (ROWS, DIM) and spec[1]:  # RowwiseAdagrad has one number for each row
            expected[1] //= 2
        assert parts == {tuple(expected)}, name
    equals_one_device(found, *how, **options)


@apart
def test_trains_by_rows_as_without(four_devices: Run) -> None:
    four_devices(trains_by_rows_as_without, "Adam")


@apart
@pytest.mark.parametrize(("layout", "optimizer"), product(LAYOUTS, ["Adam", "Ftrl", "RowwiseAdagrad"], by=1), ids=label)
def test_trains_parts_by_rows(four_devices: Run, layout: str, optimizer: str) -> None:
    four_devices(trains_parts_by_rows, layout, optimizer)


@apart
@pytest.mark.parametrize("layout", some(["rows, and the batch", "columns"], ["rows, and the batch"]))
def test_parts_with_clipping(four_devices: Run, layout: str) -> None:
    four_devices(partial(trains_parts_by_rows, global_clipnorm=0.1), layout, "Adam")


@apart
@pytest.mark.parametrize("layout", some(["rows, and the batch", "columns"], ["columns"]))
def test_parts_that_are_read_as_a_whole(four_devices: Run, layout: str) -> None:
    four_devices(trains_parts_by_rows, layout, "Adam", True)


def warns_of_rows_and_columns() -> None:
    backend.FEWEST_ROWS = 0
    keras.distribution.set_distribution(model_parallel((2, 2), ("batch", "model")))
    try:
        keras.utils.set_random_seed(0)
        table = unhot.keras.Embedding(ROWS, DIM, name="table")
        model = keras.Sequential([keras.Input((IDS,), dtype="int32"), table, keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(unhot.keras.Adam(0.01), "mse")
        with pytest.warns(unhot.DenseFallbackWarning, match="several axes"):
            model.fit(np.zeros((BATCH, IDS), "int32"), np.ones((BATCH, 1)), batch_size=BATCH, verbose=0)
    finally:
        keras.distribution.set_distribution(None)


@apart
def test_warns_of_rows_and_columns(four_devices: Run) -> None:
    four_devices(warns_of_rows_and_columns)


PARTS = [(layout, program) for program in PROGRAMS for layout in (WHOLE, "rows, and the batch", "columns, and the batch")]


@apart
@pytest.mark.parametrize(("layout", "program"), some(PARTS, [("rows, and the batch", "frozen rows")]))
def test_programs(four_devices: Run, layout: str, program: str) -> None:
    four_devices(as_without, layout, program)


@apart
@slow
def test_grows_by_equal_parts(four_devices: Run) -> None:
    four_devices(grows_by_equal_parts)


@apart
@slow
@pytest.mark.parametrize("layout", [WHOLE, "rows"])
def test_two_processes(layout: str) -> None:
    with processes(2, 2) as run:
        run(trains_together, layout)


@pytest.mark.skipif(ON, reason="tables are trained by rows")
@pytest.mark.parametrize("layout", [WHOLE, "rows, and the batch"])
def test_trains_densely_as_without(four_devices: Run, layout: str) -> None:
    """Where Keras does not tell which models call a table, with a warning."""
    four_devices(trains_densely, layout)

"""Several tables of one optimizer against Keras's own, of which each makes its step alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import unhot.keras
from unhot.graph import history

from .calls import BACKEND
from .models import DenselyTrained

ROWS, DIM, TABLES = 17_000, 3, 4  # more rows than are left to Keras on JAX and TensorFlow


class Model(keras.Model):  # type: ignore[misc]
    """The sum of the vectors of each table's ids."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.tables = [kind(ROWS + 50 * k, DIM, name=f"table_{k}") for k in range(TABLES)]
        self.out = keras.layers.Dense(1)

    def call(self, ids: Any) -> Any:
        return self.out(sum(ops.tanh(ops.sum(table(ids[:, k]), 1)) for k, table in enumerate(self.tables)))


def data(step: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(step)
    return rng.integers(0, 25, (6, TABLES, 2)).astype("int32"), rng.normal(size=(6, 1)).astype("float32")


@pytest.mark.parametrize("name", ["AdamW", "RMSprop"])
def test_as_one_by_one(name: str) -> None:
    """One table does not decay, the rate changes."""
    keras.utils.set_random_seed(0)
    models = Model(unhot.keras.Embedding), Model(DenselyTrained)
    for model, module in zip(models, (unhot.keras, keras.optimizers), strict=True):
        optimizer = getattr(module, name)(0.03, weight_decay=0.02)
        model.compile(optimizer, "mse")
        model(data(0)[0])
        optimizer.exclude_from_weight_decay(var_list=model.tables[1].weights)
    models[1].set_weights(models[0].get_weights())
    for step in range(18):
        for model in models:
            if step == 6:
                model.optimizer.learning_rate = 0.01
            model.train_on_batch(*data(step))
    if BACKEND == "torch":
        owned = [models[0].optimizer.table(table._embeddings) for table in models[0].tables]
        assert len({id(table.engine) for table in owned}) == 2, "one that decays, and one that does not"
    for mine, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="gradients are given by hand where steps are made call by call")
def test_tables_that_skip_steps() -> None:
    """Keras counts the step, and leaves a variable without a gradient as it is."""
    import torch

    keras.utils.set_random_seed(0)
    models = Model(unhot.keras.Embedding), Model(DenselyTrained)
    optimizers = unhot.keras.AdamW(0.03), keras.optimizers.AdamW(0.03)
    for model in models:
        model(data(0)[0])
    models[1].set_weights(models[0].get_weights())
    for step in range(24):
        for model, optimizer in zip(models, optimizers, strict=True):
            ids, wanted = data(step)
            model.zero_grad()
            ops.sum(ops.square(model(ids) - ops.convert_to_tensor(wanted))).backward()
            variables = list(model.trainable_variables)
            if step % 5 == 3:
                variables = [v for v in variables if "table_2" not in v.path]
            if step % 7 == 6:
                variables = variables[1:2]
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in variables], variables) if step else optimizer.build(variables)
    for mine, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere a step is compiled as a whole")
def test_tables_share_what_is_compiled() -> None:
    """Tables of all sizes are settled and stepped by functions that are traced once; one that does not decay has its own."""
    keras.utils.set_random_seed(0)
    model = Model(unhot.keras.Embedding)
    optimizer = unhot.keras.AdamW(0.03)
    model.compile(optimizer, "mse")
    model(data(0)[0])
    optimizer.exclude_from_weight_decay(var_list=model.tables[1].weights)
    for step in range(2):
        model.train_on_batch(*data(step))
    first, apart, *others = (optimizer.table(table._embeddings)._ops[1].compiled for table in model.tables)
    assert all(function.experimental_get_tracing_count() <= 2 for function in first.values())  # settled in turn, or all at once
    assert {"settled", "updated"} <= {name for name, *_ in first}
    for other in others:
        assert other == first
    assert not set(first) & set(apart)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere a step is compiled as a whole")
def test_tables_that_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with frozen rows, and those with a history of another length, for longer than which rows rest."""
    monkeypatch.setattr(history, "LARGE", ROWS + 60)
    monkeypatch.setattr(history, "SMALL_RING", 8)
    monkeypatch.setattr(history, "RING", 32)
    keras.utils.set_random_seed(0)
    models = Model(unhot.keras.Embedding), Model(DenselyTrained)
    for model, module in zip(models, (unhot.keras, keras.optimizers), strict=True):
        model.compile(module.Lion(0.01, weight_decay=0.1), "mse")
        model(data(0)[0])
    models[1].set_weights(models[0].get_weights())
    frozen = [1, 2]
    kept = models[0].tables[1].get_weights()[0][frozen]
    models[0].tables[1].frozen = frozen
    for step in range(40):
        for model in models:
            model.train_on_batch(*data(step // 20))
        weights = models[1].tables[1].get_weights()[0]
        weights[frozen] = kept
        models[1].tables[1].set_weights([weights])
    tables = [models[0].optimizer.table(table._embeddings) for table in models[0].tables]
    assert [(table.traced.family.capacity, table.traced.freezes) for table in tables] == [
        (8, False), (8, True), (32, False), (32, False),
    ]  # fmt: skip
    for mine, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)

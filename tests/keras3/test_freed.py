"""What was trained is freed with its model: nothing of it is kept elsewhere."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest
from selection import slow

import unhot.keras


def trained(*, grows: bool, tables: int) -> list[weakref.ref[Any]]:
    """References to a model that was trained, and to what it has."""
    ids = keras.Input((4,), dtype="int32")
    layers = [unhot.keras.Embedding(60, 2) for _ in range(tables)]
    vectors = [keras.layers.Flatten()(layer(ids)) for layer in layers]
    model = keras.Model(ids, keras.layers.Dense(1)(vectors[0] if tables == 1 else keras.layers.Concatenate()(vectors)))
    model.compile(unhot.keras.SGD(0.1, momentum=0.9), "mse")
    x, y = np.arange(64).reshape(16, 4) % 60, np.ones((16, 1))
    for _ in range(2):
        model.fit(x, y, verbose=0)
        model.predict(x, verbose=0)
        if grows:
            layers[0].grow(2)
    model.optimizer.apply([keras.ops.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    own = [model, model.optimizer, *layers, *model.variables, *model.optimizer.variables]
    assert model.optimizer.table(layers[0].embeddings) is not None
    return [weakref.ref(thing) for thing in own]


@pytest.mark.parametrize(("grows", "tables"), [(False, 2), pytest.param(True, 1, marks=slow)])
def test_is_freed(grows: bool, tables: int) -> None:
    references = trained(grows=grows, tables=tables)
    for _ in range(2):  # what a finalizer of the first pass reaches for a moment is freed by the second
        gc.collect()
    assert not [reference() for reference in references if reference() is not None]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere models share nothing")
@pytest.mark.parametrize("compiled", [True, False])
def test_a_model_is_freed_whose_functions_another_uses(compiled: bool) -> None:
    """Tables of other sizes share what is compiled, and leave each other's graphs alone."""

    def train(rows: int) -> keras.Model:
        ids = keras.Input((1,), dtype="int32")
        tables = [unhot.keras.Embedding(rows + number, 2) for number in range(2)]
        model = keras.Model(ids, keras.layers.Add()([table(ids) for table in tables]))
        model.compile(unhot.keras.SGD(0.1, momentum=0.9), "mse", jit_compile=compiled)
        model.train_on_batch(np.ones((4, 1), "int32"), np.ones((4, 1, 2), "float32"))
        return model

    gone, stays = train(30), train(40)
    functions = [model.optimizer.table(model.layers[1].embeddings)._ops[1].compiled.values() for model in (gone, stays)]
    assert {id(function) for function in functions[0]} == {id(function) for function in functions[1]}
    references = [weakref.ref(thing) for thing in (gone, gone.optimizer, *gone.layers)]
    del gone, functions
    for _ in range(2):
        gc.collect()
    assert not [reference() for reference in references if reference() is not None]

"""Rows that do not train: of large tables and small ones, by rows and densely, of several tables, and with LoRA."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from selection import some

import unhot.keras
from unhot.keras.backends import backend

from .calls import BACKEND, ON, unpublished
from .test_growth import DIM, FIRST, ROWS, model_of, numbers, of, owned, pair, start, train

WAYS = ["rows", "small", "dense", "accumulated"]
FROZEN = [*itertools.product(["Adagrad", "AdamW", "SGD", "Ftrl", "Lion"], WAYS), ("LazyAdam", "rows")]


@pytest.mark.parametrize(("name", "way"), some(FROZEN, [("Adagrad", "rows"), ("SGD", "rows"), ("SGD", "dense")]))
def test_frozen_rows(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step changes a bit of them or of their slots, by rows or densely; all others train as in Keras's layer."""
    if BACKEND == "jax" and not ON and way != "rows":
        pytest.skip("needs the model that calls a layer, which Keras does not publish")
    if way == "small":
        monkeypatch.setattr(backend, "FEWEST_ROWS", 100)
    layer, _, *models = pair(name, alone=True, **({"gradient_accumulation_steps": 2} if way == "accumulated" else {}))
    if way == "dense":
        layer._embeddings.regularizer = keras.regularizers.L2(0.0)
    layer.grow(ROWS - FIRST, of(start()[FIRST:]))
    frozen, others = [1, 4], [row for row in range(ROWS) if row not in (1, 4)]
    for number in range(3):
        if number:
            layer.frozen = frozen
            kept = rows_of(models[0], frozen)
        train(models, ROWS, number)
        if number:
            assert rows_of(models[0], frozen) == kept
            assert owned(layer) == (way in ("rows", "small"))
    both = [numbers(model.weights[0])[others] for model in models]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)
    layer.only_train(frozen)
    kept = rows_of(models[0], others)
    train(models[:1], ROWS, 9)
    assert rows_of(models[0], others) == kept
    assert layer.frozen.tolist() == others


def rows_of(model: keras.Model, rows: Any) -> list[bytes]:
    """These rows of a table that has all rows, and of its slots."""
    table = model.get_layer("table")._embeddings
    slots = (model.optimizer.slot_of(table, name) for name in model.optimizer._names.slots)
    return [numbers(variable)[rows].tobytes() for variable in (table, *slots) if variable is not None]


def test_averages_of_frozen_rows() -> None:
    """They are averages of what these rows hold, and not of what a dense step has made of them in between."""
    layer = unhot.keras.Embedding(ROWS, DIM, frozen=[1, 4], name="table")
    model = model_of(layer, unhot.keras.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5), alone=True)
    for _ in range(3):
        model.train_on_batch(np.arange(ROWS)[:, None], np.ones((ROWS, 1), np.float32))
    (average,) = (average for average in model.optimizer.averages() if tuple(average.shape) == (ROWS, DIM))
    np.testing.assert_allclose(numbers(average)[[1, 4]], numbers(layer._embeddings)[[1, 4]], rtol=1e-6)


@unpublished
def test_several_tables() -> None:
    """Each has its own, also where one call makes the steps of all."""
    ids = keras.Input((1,), dtype="int32")
    layers = [unhot.keras.Embedding(ROWS, DIM, frozen=rows) for rows in ([1], [4, 6], None, [0, 11])]
    model = keras.Model(ids, ops.sum(ops.concatenate([layer(ids) for layer in layers], axis=-1), axis=(1, 2))[:, None])
    model.compile(unhot.keras.AdamW(0.1, weight_decay=0.1), "mse")
    everything = np.arange(ROWS)[:, None], np.ones((ROWS, 1), np.float32)
    for change in ({}, {2: [8], 1: None}):
        for place, rows in change.items():
            layers[place].frozen = rows
        before = [numbers(layer._embeddings) for layer in layers]
        for _ in range(2):
            model.train_on_batch(*everything)
        for layer, held in zip(layers, before, strict=True):
            stood = (numbers(layer._embeddings) == held).all(axis=1)
            assert np.flatnonzero(stood).tolist() == layer.frozen.tolist()


@unpublished
def test_lora() -> None:
    """Frozen rows of the low-rank table stand still, others train."""
    layer = unhot.keras.Embedding(ROWS, DIM, lora_rank=2)
    model = model_of(layer, unhot.keras.AdamW(0.1, weight_decay=0.1), alone=True)
    everything = np.arange(ROWS)[:, None], np.ones((ROWS, 1), np.float32)
    model.train_on_batch(*everything)
    layer.frozen = [2, 5]
    before, shared = numbers(layer.lora_embeddings_a), numbers(layer.lora_embeddings_b)
    for _ in range(2):
        model.train_on_batch(*everything)
    stood = (numbers(layer.lora_embeddings_a) == before).all(axis=1)
    assert np.flatnonzero(stood).tolist() == [2, 5]
    assert (numbers(layer.lora_embeddings_b) != shared).any()

"""Reversible embeddings that grow in training and lose rows, against Keras's with all rows from the start."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from selection import some

import unhot.keras

from .calls import unpublished
from .test_growth import DIM, FIRST, ROWS, numbers, start


def by_position(shape: Any, dtype: Any = None) -> Any:
    """An initializer of the rows of a table, or of the columns of the matrix that gives logits."""
    return ops.convert_to_tensor(start()[: shape[0]] if shape[1] == DIM else -start().T[:, : shape[1]])


def logits_of(layer: Any, optimizer: Any) -> keras.Model:
    """ids, others -> the logits of these others for each id, so that no other row has a gradient from them."""
    ids, others = keras.Input((2,), dtype="int32"), keras.Input((2,), dtype="int32")
    model = keras.Model([ids, others], ops.take_along_axis(layer(layer(ids), reverse=True), others[:, :, None], axis=2)[..., 0])
    model.compile(optimizer, loss="mse")
    return model


REVERSIBLE: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "no slots": (unhot.keras, "SGD", {"weight_decay": 0.1}),
    "momentum": (unhot.keras, "SGD", {"momentum": 0.9}),
    "AdamW": (unhot.keras, "AdamW", {"weight_decay": 0.3}),
    "Ftrl": (unhot.keras, "Ftrl", {"l2_shrinkage_regularization_strength": 0.1}),
    "Keras's own": (keras.optimizers, "SGD", {}),
}
TIES = list(itertools.product(REVERSIBLE, [True, False]))


@unpublished
@pytest.mark.parametrize(("name", "tied"), some(TIES, [("no slots", False), ("AdamW", False)]))
def test_reversible_embeddings_that_train(name: str, tied: bool) -> None:
    """The table, the matrix that gives logits and their slots, as if all rows had been there; removed ones begin anew."""
    library, kind, hyper = REVERSIBLE[name]
    options = {"tie_weights": tied, "embeddings_initializer": by_position}
    layer = unhot.keras.ReversibleEmbedding(FIRST, DIM, **options, name="table")
    stock = keras.layers.ReversibleEmbedding(ROWS, DIM, **options, name="table")
    models = [
        logits_of(each, getattr(owner, kind)(learning_rate=0.05, **hyper))
        for each, owner in ((layer, library), (stock, keras.optimizers))
    ]
    random = np.random.default_rng(0)

    def train(rows: Any) -> None:
        for _ in range(3):  # ids that repeat would be applied one by one by Keras's optimizers on TensorFlow
            ids, others = (random.permutation(rows)[:4].reshape(2, 2).astype("int32") for _ in range(2))
            for model in models:
                model.fit([ids, others], np.ones((2, 2), np.float32), verbose=0)

    def compile_anew() -> None:
        if library is keras.optimizers:  # whose optimizers cannot follow
            models[0].compile(getattr(library, kind)(learning_rate=0.05, **hyper), loss="mse")

    def assert_same(rows: Any) -> None:
        both = ([*model.weights, *model.optimizer.variables[2:]] for model in models)
        for ours, theirs in zip(*both, strict=True):
            axis = 0 if ours.shape[1] == DIM else 1
            found, expected = (numbers(variable).take(rows, axis) for variable in (ours, theirs))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=ours.path)

    train(np.arange(FIRST))
    layer.grow(ROWS - FIRST)
    compile_anew()
    assert_same(np.arange(ROWS))
    train(np.arange(ROWS))
    assert_same(np.arange(ROWS))
    layer.remove([9, 7])
    for variable in (*models[0].weights, *([] if kind == "Ftrl" else models[0].optimizer.variables[2:])):
        assert not numbers(variable).take([7, 9], 0 if variable.shape[1] == DIM else 1).any(), variable.path
    compile_anew()
    left = np.setdiff1d(np.arange(ROWS), [7, 9])
    train(left)
    assert_same(left)
    before = numbers(layer._embeddings)
    assert layer.grow(2).tolist() == [7, 9]
    compile_anew()
    for _ in range(3):
        train(np.arange(ROWS))
    assert (numbers(layer._embeddings)[[7, 9]] != before[[7, 9]]).all()

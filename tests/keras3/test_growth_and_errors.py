"""Rows that change within `fit`, which an error then ends before the next step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from selection import some

import unhot.keras
from unhot.keras._private import ON

from .test_growth import BACKEND, DIM, FIRST, model_of, numbers

MOMENTS = {"on_epoch_begin": 0, "on_epoch_end": 0, "on_train_batch_end": 1}
"""When rows change, and the batch of the second epoch that cannot be read then, with no step in between."""

CHANGES: dict[str, Callable[[Any], object]] = {
    "grow": lambda layer: layer.grow(2, "ones"),
    "remove": lambda layer: layer.remove([1]),
    "freeze": lambda layer: setattr(layer, "frozen", [1]),
}


class Unreadable(keras.utils.PyDataset):  # type: ignore[misc]
    """A data set of which a batch cannot be read in the second epoch."""

    def __init__(self, bad: int | None) -> None:
        super().__init__()
        self.epoch, self.bad = 0, bad

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        if self.epoch == 1 and number == self.bad:
            raise IndexError("this batch cannot be read")
        return np.array([[0, 1], [2, 3]], np.int32), np.ones((2, 1), np.float32)


class Changes(keras.callbacks.Callback):  # type: ignore[misc]
    """Changes rows at a moment of `fit`, and notes what all variables hold then."""

    def __init__(self, layer: Any, change: str, moment: str, data: Unreadable) -> None:
        super().__init__()
        self.layer, self.change, self.moment, self.data = layer, CHANGES[change], moment, data

    def at(self, moment: str) -> None:
        if moment == self.moment:
            if BACKEND == "jax":
                self.model.jax_state_sync()
            self.change(self.layer)
            self.held = everything_of(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.data.epoch = epoch
        if epoch == 1:
            self.at("on_epoch_begin")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.at("on_epoch_end")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.data.epoch == 1 and batch == 0:
            self.at("on_train_batch_end")


def everything_of(model: keras.Model) -> list[Any]:
    return [numbers(variable) for variable in (*model.weights, *model.optimizer.variables)]


ALL_CHANGES = list(itertools.product(CHANGES, MOMENTS))


@pytest.mark.skipif(not ON, reason="needs names that Keras does not publish")
@pytest.mark.parametrize(("change", "moment"), some(ALL_CHANGES, [("grow", "on_epoch_begin")]))
def test_fit_is_stopped_by_an_error_after_a_change(change: str, moment: str) -> None:
    """The error is the user's, the layer is as it was changed, and training goes on from there."""
    layer = unhot.keras.Embedding(FIRST, DIM, name="table")
    model = model_of(layer, unhot.keras.AdamW(0.05, weight_decay=0.1))
    data = Unreadable(MOMENTS[moment])
    changes = Changes(layer, change, moment, data)
    with pytest.raises(Exception, match="this batch cannot be read") as caught:
        model.fit(data, epochs=3, callbacks=[changes], verbose=0, shuffle=False)
    assert BACKEND == "tensorflow" or caught.type is IndexError
    for found, expected in zip(everything_of(model), changes.held, strict=True):
        np.testing.assert_array_equal(found, expected)
    model.fit(Unreadable(None), verbose=0)
    assert (numbers(layer._embeddings)[0] != changes.held[0][0]).all()

"""Keras's own tests of the embedding layers, which are part of its package, with ours in their place.

One thing is changed in them: on TensorFlow, a test of an exported model draws its ids from a normal distribution.  Keras's
layer cuts off fractions and counts negative ids from the end; ours refuses both, so the draws are made row numbers.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import keras
import pytest
from keras import ops
from keras.src import layers, optimizers
from selection import slow

import unhot.keras
from unhot.keras.backends import backend

from .calls import slow_but_on_torch

pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = ("Embedding", "ReversibleEmbedding")


@cache
def keras_tests(name: str) -> Any:
    """Keras's tests of the layer.  Two thirds of their time goes to quantized ones, of which the fast set has ours."""
    where = {"Embedding": "embedding_test", "ReversibleEmbedding": "reversible_embedding_test"}[name]
    tests = getattr(importlib.import_module(f"keras.src.layers.core.{where}"), f"{name}Test")
    for each in quantized(tests):
        slow(getattr(tests, each))
    return tests


def quantized(tests: Any) -> list[str]:
    return [
        name for name in dir(tests) if name.startswith("test") and any(word in name for word in ("quantize", "int4", "int8"))
    ]


class TestEmbedding(keras_tests("Embedding")):  # type: ignore[misc]
    owned = False


class TestReversibleEmbedding(keras_tests("ReversibleEmbedding")):  # type: ignore[misc]
    owned = False


def unquantized(tests: Any) -> Any:
    """Those in which there is a table: numbers of 8 and 4 bits are trained by nobody."""
    return type(tests.__name__, (tests,), dict.fromkeys(quantized(tests)))


@slow_but_on_torch
class TestOwnedEmbedding(unquantized(keras_tests("Embedding"))):  # type: ignore[misc]
    """Each table belongs to an optimizer from the start: lookups, reads and writes take the way of a table in training."""

    owned = True

    def test_tables_are_owned(self) -> None:
        assert type(optimizers.get("sgd")) is unhot.keras.SGD
        for name in LAYERS:
            layer = getattr(layers, name)(4, 3)
            layer.build()
            assert backend.look_up(layer._embeddings, ops.convert_to_tensor([0])) is not None


@slow_but_on_torch
class TestOwnedReversibleEmbedding(unquantized(keras_tests("ReversibleEmbedding"))):  # type: ignore[misc]
    owned = True


@pytest.fixture(autouse=True)
def _ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in LAYERS:
        monkeypatch.setattr(layers, name, getattr(unhot.keras, name))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        monkeypatch.setattr(tf.random, "normal", lambda shape: tf.floor(tf.random.uniform(shape, 0, 3)))
    if request.cls.owned:
        monkeypatch.setitem(optimizers.ALL_OBJECTS_DICT, "sgd", unhot.keras.SGD)
        for name in LAYERS:
            layer = getattr(unhot.keras, name)
            monkeypatch.setattr(layer, "build", _then_owned(layer.build))
    yield
    keras.config.enable_traceback_filtering()  # which Keras's tests disable


def _then_owned(build: Any) -> Any:
    def built(self: Any, input_shape: Any = None) -> None:
        if self.built:
            return
        build(self, input_shape)
        if self.quantization_mode is None and self.trainable_variables:
            self.owner = unhot.keras.SGD(0.1, momentum=0.9)
            self.owner.build(self.trainable_variables)

    return built

"""What Keras does around a call of a layer (scopes, masks, losses, specifications, hooks), it does around calls of ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.backend.common.remat import get_current_remat_mode
from keras.src.backend.common.variables import AutocastScope
from selection import product

import unhot.keras

from .calls import BACKEND, IDS, numbers
from .test_embedding import stock_and_ours

Observed = list[Any]


def called(layer: Any) -> Any:
    return layer(ops.convert_to_tensor(IDS))


def result(layer: Any, vectors: Any) -> Observed:
    mask = getattr(vectors, "_keras_mask", None)
    losses = [float(numbers(loss)) for loss in layer.losses]
    values = numbers(ops.cast(vectors, "float32")).tolist()
    return [keras.backend.standardize_dtype(vectors.dtype), values, mask is not None, losses]


def once(layer: Any) -> Observed:
    return result(layer, called(layer))


def autocast(layer: Any) -> Observed:
    with AutocastScope("float16"):
        return once(layer)


def masked(layer: Any) -> Observed:
    ids = ops.convert_to_tensor(IDS)
    keras.src.backend.set_keras_mask(ids, ops.not_equal(ids, 0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return [*result(layer, layer(ids)), len(told)]


def specified(layer: Any) -> Observed:
    layer.input_spec = keras.layers.InputSpec(ndim=3)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        called(layer)
    return []


def with_losses(layer: Any) -> Observed:
    layer.add_loss(ops.convert_to_tensor(3.0))
    return once(layer)  # a call forgets those of the last one


def within_another(layer: Any) -> Observed:
    """In a layer whose loss and training argument are its own."""

    class Outer(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.seen = layer, []

        def call(self, ids: Any, training: Any = None) -> Any:
            self.add_loss(ops.convert_to_tensor(2.0))
            vectors = self.inner(ids)
            self.seen.append(training)
            return self.inner(ids) + vectors

    outer = Outer()
    ids = ops.convert_to_tensor(IDS)
    return [*result(outer, outer(ids, training=True)), *result(outer, outer(ids)), outer.seen]


def low_rank(layer: Any) -> Observed:
    layer.lora_embeddings_b.assign(layer.lora_embeddings_b + 0.3)
    return once(layer)


def hooked(layer: Any) -> Observed:
    if BACKEND != "torch":
        pytest.skip("hooks are torch's")
    seen: Observed = []
    before = layer.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs)))
    after = layer.register_forward_hook(lambda module, inputs, vectors: vectors * 2)
    once_more = numbers(called(layer)) / 2
    before.remove(), after.remove()
    return [*seen, (once_more == numbers(called(layer))).all()]


def rematerialized(layer: Any) -> Observed:
    """A layer as one that was made in a RematScope; what Keras then calls runs once more in the backward pass."""
    with keras.RematScope("full"):
        layer._remat_mode = get_current_remat_mode()
    before, found = layer.rematerialized_call, []
    layer.rematerialized_call = lambda *given: found.append(1) or before(*given)
    return [*once(layer), *found]


def replaced(layer: Any) -> Observed:
    """A layer of which someone has replaced the method."""
    before = layer.call
    layer.call = lambda ids: before(ids) + 1.0
    return once(layer)


POLICIES = keras.dtype_policies.DTypePolicyMap("float32", {"words": keras.DTypePolicy("mixed_bfloat16")})

OPTIONS: dict[str, tuple[dict[str, Any], Callable[[Any], Observed]]] = {
    "plain": ({}, once),
    "autocast": ({}, autocast),
    "no-autocast": ({"autocast": False}, autocast),
    "mixed": ({"dtype": "mixed_bfloat16"}, once),
    "policies": ({"name": "words", "dtype": POLICIES}, once),
    "mask": ({}, masked),
    "mask_zero": ({"mask_zero": True}, once),
    "activity_regularizer": ({"activity_regularizer": "l1"}, once),
    "input_spec": ({}, specified),
    "add_loss": ({}, with_losses),
    "nested": ({}, within_another),
    "nested-regularizer": ({"activity_regularizer": "l1"}, within_another),
    "mixed-lora": ({"lora_rank": 2, "dtype": "mixed_bfloat16"}, low_rank),
    "hooks": ({}, hooked),
    "rematerialized": ({}, rematerialized),
    "replaced": ({}, replaced),
}


@pytest.mark.parametrize(("name", "owned"), product(OPTIONS, [False, True], by=1))
def test_as_keras(name: str, owned: bool) -> None:
    if owned and name == "mixed-lora":
        pytest.skip("rows of owned tables are multiplied before they are rounded to bfloat16")
    options, observe = OPTIONS[name]
    stock, ours = stock_and_ours(**options)
    for layer in (stock, ours):
        called(layer)
    optimizer = unhot.keras.Adam()
    if owned:
        optimizer.build(ours.trainable_variables)
        assert optimizer._tables
    assert observe(ours) == observe(stock)


@pytest.mark.parametrize("owned", [False, True], ids=["free", "owned"])
def test_an_error_tells_the_arguments(owned: bool) -> None:
    layer, optimizer = unhot.keras.Embedding(40, 3), unhot.keras.Adam()
    layer(IDS)
    if owned:
        optimizer.build(layer.trainable_variables)
    with pytest.raises(IndexError, match="Arguments received by Embedding"):
        layer(ops.convert_to_tensor(IDS + 40))


@pytest.mark.parametrize("trained", [False, True])
def test_a_stateless_call_looks_up_what_it_is_given(trained: bool) -> None:
    """Other values than the variable's, of a table that an optimizer owns, too: a target network, say."""
    layer = unhot.keras.Embedding(10, 2)
    layer.build()
    if trained:
        optimizer = unhot.keras.Adam(0.1)
        optimizer.build(layer.trainable_variables)
    other = ops.reshape(ops.arange(20, dtype="float32"), (10, 2))
    found, _ = layer.stateless_call([other], [], ops.convert_to_tensor([[1, 3]]))
    assert numbers(found).tolist() == [[[2, 3], [6, 7]]]
    with keras.StatelessScope(state_mapping=[(layer.embeddings, other)]):
        assert numbers(layer(ops.convert_to_tensor([[9]]))).tolist() == [[[18, 19]]]
    with keras.StatelessScope():
        inside = numbers(layer(ops.convert_to_tensor([[9]])))
    np.testing.assert_array_equal(inside[0, 0], numbers(layer.embeddings)[9])

"""Language models of KerasHub, made from their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.layers.modeling import token_and_position_embedding

import unhot.keras

from .twins import ADAM, COMPILED, ROWS, assert_same, compiled, ids

LENGTH, BATCH, STEPS = 5, 4, 4
SIZES = {
    "vocabulary_size": ROWS, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8,
    "max_sequence_length": LENGTH, "dropout": 0.0,
}  # fmt: skip


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes the library build its models with the layers given."""
    return lambda names: monkeypatch.setattr(
        token_and_position_embedding, "ReversibleEmbedding", names.ReversibleEmbedding
    )  # fmt: skip


def fit(model: keras.Model, names: Any, *, next_token: bool, **given: Any) -> keras.Model:
    tokens = ids(BATCH * STEPS, LENGTH)
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    if any(one.name == "segment_ids" for one in model.inputs):
        inputs["segment_ids"] = np.zeros_like(tokens)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(model, names.Adam(**ADAM, **given), loss=loss)
    model.fit(inputs, tokens if next_token else tokens[:, 0] % 2, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    return model


def gpt2() -> keras.Model:
    backbone = keras_hub.models.GPT2Backbone(**SIZES)
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)


def bert() -> keras.Model:
    backbone = keras_hub.models.BertBackbone(**SIZES)
    return keras_hub.models.BertTextClassifier(backbone=backbone, num_classes=2, preprocessor=None)


def around_layer() -> keras.Model:
    tokens, mask = (keras.Input((LENGTH,), dtype="int32", name=name) for name in ("token_ids", "padding_mask"))
    vectors = keras_hub.layers.TokenAndPositionEmbedding(ROWS, LENGTH, 8)(tokens)
    vectors = keras_hub.layers.TransformerDecoder(8, 2)(vectors, decoder_padding_mask=mask)
    pooled = keras.layers.GlobalAveragePooling1D()(vectors)
    return keras.Model({"token_ids": tokens, "padding_mask": mask}, keras.layers.Dense(2)(pooled))


def test_causal_language_model(library: Any) -> None:
    """GPT-2, whose head uses the whole table, with the library's embedding layer replaced by its twin."""

    def train(names: Any) -> keras.Model:
        library(names)
        return fit(gpt2(), names, next_token=True, weight_decay=0.125, global_clipnorm=0.125)

    assert_same(train)


def test_weights_go_back_to_the_stock_model(library: Any, tmp_path: Path) -> None:
    """Saved after training, and loaded by the library as it is."""

    def train(names: Any) -> keras.Model:
        library(names)
        file = tmp_path / f"{'ours' if names is unhot.keras else 'theirs'}.weights.h5"
        fit(around_layer(), names, next_token=False).save_weights(file)
        library(keras.layers)
        stock = around_layer()
        stock.load_weights(file)
        return stock

    assert_same(train)


@pytest.mark.parametrize("build", [around_layer] if COMPILED else [gpt2, bert, around_layer])
def test_optimizer_alone(build: Any) -> None:
    """With the library's own layers."""
    assert_same(lambda names: fit(build(), names, next_token=build is gpt2, weight_decay=0.125))


# BERT's segments repeat in a batch, which Keras on TensorFlow does not train exactly (see `ids`).
@pytest.mark.parametrize("build", [around_layer] if COMPILED else [gpt2, bert, around_layer])
def test_converted(build: Any) -> None:
    """The table within the library's layers is found, and then trained by rows."""

    def train(names: Any) -> keras.Model:
        model, report = names.convert(build())
        if names is unhot.keras:
            assert report.swapped, report
        return fit(model, names, next_token=build is gpt2, weight_decay=0.125)

    assert_same(train)

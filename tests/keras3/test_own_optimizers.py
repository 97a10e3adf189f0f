"""The optimizers that Keras has not: saved and loaded with a model, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import unhot.keras

from .calls import FIT, few
from .models import data, model_with, table

OWN: dict[str, dict[str, Any]] = {"RAdam": {"learning_rate": 0.02, "beta_2": 0.99, "weight_decay": 0.1}}


def fitted(name: str, **options: Any) -> Any:
    model = model_with(table())
    model.compile(optimizer=getattr(unhot.keras, name)(**{**OWN[name], **options}), loss="mse")
    model.fit(*data(), **FIT)
    return model


@pytest.mark.parametrize("name", few(OWN, ["RAdam"]))
def test_a_saved_model_goes_on(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is getattr(unhot.keras, name)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for copy in (model, loaded):
        copy.fit(*data(seed=1), **FIT)
    for mine, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_hyperparameters_out_of_their_range() -> None:
    """Refused when the optimizer is made, since Keras could not go on with them."""
    for name, value in (("beta_1", 1.0), ("beta_2", 0.6), ("epsilon", 0.0)):
        with pytest.raises(ValueError, match=f"RAdam: `{name}` must lie in"):
            unhot.keras.RAdam(**{name: value})

"""Giving tables back to Keras."""

from __future__ import annotations

from typing import Any

import keras


def release(model: Any) -> None:
    """Let another optimizer train the tables of a model: their deferred steps are applied, and nobody owns them any more.

    An optimizer of `unhot.keras` owns a table from its `build` on, and may have deferred steps of its rows.  Another optimizer
    of `unhot.keras` takes over by itself; before one of Keras's own, or any other, is compiled in, call this.  The old
    optimizer cannot train the tables again.

    Args:
        model: a Keras model or layer.

    Raises: TypeError for anything else.

    Example:
        >>> import numpy as np, keras, unhot.keras
        >>> model = keras.Sequential([unhot.keras.Embedding(1000, 4), keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> model.compile(optimizer=unhot.keras.Adam(0.01), loss="mse")
        >>> history = model.fit(np.array([[3, 7], [3, 5]]), np.array([[1.0], [0.0]]), verbose=0)
        >>> unhot.keras.release(model)
        >>> model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
        >>> history = model.fit(np.array([[3, 7], [3, 5]]), np.array([[1.0], [0.0]]), verbose=0)
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"`release` takes a Keras model or layer. Received: {model!r} (of type {type(model).__name__}).")
    for variable in model.weights:
        training = getattr(variable, "training", None)
        if training is not None:
            training.give_back()

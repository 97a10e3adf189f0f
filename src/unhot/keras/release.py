"""`release`: tables are let go of, so that other optimizers train them."""

from __future__ import annotations

from typing import Any

import keras

from unhot.keras.backends import backend


def release(model: Any) -> None:
    """Apply the deferred steps of a model's tables, and let go of them: no optimizer owns them any more.

    You need not call it to change optimizers. A new optimizer of `unhot.keras` takes tables over by itself, and one of Keras's
    own trains them as they stand. Call it before the latter, which then need not look for deferred steps any more.

    If the old optimizer makes another step, it owns the tables again, on torch. On JAX and TensorFlow, it trains them densely.
    Both continue from the optimizer's own state.

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
        tie = backend.ownable(variable).ownership if backend.is_table(variable) else None
        if tie is not None:
            tie.release()

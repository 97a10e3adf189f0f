"""Chooses the class for the backend that Keras runs on."""

from __future__ import annotations

import keras

from unhot.keras.backend import KerasBackend


def _backend() -> type[KerasBackend]:
    name = keras.backend.backend()
    if name == "torch":
        from unhot.keras.torch_tables import TorchKerasBackend

        return TorchKerasBackend
    if name == "jax":
        from unhot.keras.jax_tables import JaxBackend

        return JaxBackend
    if name == "tensorflow":
        from unhot.keras.tensorflow_tables import TensorFlowBackend

        return TensorFlowBackend
    raise ImportError(f"unhot.keras runs on Keras's backends torch, jax and tensorflow. Received: backend {name!r}.")


backend: type[KerasBackend] = _backend()

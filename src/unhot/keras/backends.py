"""The port of the backend that Keras runs on: what its tables are, and what trains them."""

from __future__ import annotations

from typing import Any

import keras


def _port() -> Any:
    backend = keras.backend.backend()
    if backend == "torch":
        from unhot.keras import torch_tables

        return torch_tables
    if backend == "jax":
        from unhot.keras import jax_tables

        return jax_tables
    if backend == "tensorflow":
        from unhot.keras import tensorflow_tables

        return tensorflow_tables
    raise ImportError(f"unhot.keras runs on Keras's backends torch, jax and tensorflow. Received: backend {backend!r}.")


port: Any = _port()

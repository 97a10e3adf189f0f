"""Settings of the tests of Keras's libraries, which run on the backend of the environment variable KERAS_BACKEND."""

import os
from collections.abc import Iterator

os.environ["JAX_ENABLE_X64"] = "1"
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # most of the time goes into compiling

import keras
import pytest


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """In float64, where rounding cannot be taken for another algorithm."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.backend.clear_session()

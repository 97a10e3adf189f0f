"""These tests run on the backend of the environment variable KERAS_BACKEND: `make test-keras` runs them on each."""

import os
from collections.abc import Iterator

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

from unhot.keras.backends import backend


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires_trainable_backend: a mark of Keras's own tests")


@pytest.fixture(autouse=True, scope="module")
def _forgotten() -> Iterator[None]:
    """What has been compiled is let go of: some hundred graphs take gigabytes."""
    yield
    keras.backend.clear_session()
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(1)


@pytest.fixture(autouse=True)
def _small_tables_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as small as tests want them, and yet trained as large ones."""
    monkeypatch.setattr(backend, "FEWEST_ROWS", 0)

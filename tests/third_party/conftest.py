"""Other libraries, in their own environment: `make test-third-party`.

Each test trains a tiny model of the library twice from the same seeds: as it is with the framework's own optimizer, and with
unhot's layers and optimizer in their place. The right value is what the library and the framework do by themselves.
"""

import os
import sys

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Models are made from configurations. What asks for a download is a mistake in a test.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["KAGGLEHUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On arrays as small as these, threads would only wait for each other."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

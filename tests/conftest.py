"""Settings of the whole test suite."""

import os

from hypothesis import settings

settings.register_profile("unhot", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("unhot")

os.environ.setdefault("KERAS_BACKEND", "torch")

"""The variables of tables and of their slots on TensorFlow: whoever reads or writes one finds all steps applied."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from unhot.keras.backend import KerasBackend
from unhot.keras.settled import Settled
from unhot.keras.tensorflow_graphs import Readers, note_read
from unhot.training import Ownership


class TableVariable(Settled, keras.Variable):  # type: ignore[misc]  # Keras comes without types
    """The variable of a table."""

    ownership: Ownership[KerasBackend] | None = None
    """The tie that holds now."""

    frozen_rows = np.empty(0, np.int64)

    def __init__(self, *args: Any, **options: Any) -> None:
        self.readers = Readers()
        super().__init__(*args, **options)

    def settle(self) -> None:
        backend = None if self.ownership is None else self.ownership.backend
        note_read(self, backend)
        if backend is not None:
            backend.settle()


class SlotVariable(Settled, keras.Variable):  # type: ignore[misc]
    """The variable of a table's slot."""

"""The variables of tables and of their slots on TensorFlow: whoever reads or writes one finds all steps applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from unhot.keras.tensorflow_graphs import Readers, note_read
from unhot.training import Ownership

if TYPE_CHECKING:
    from unhot.keras.tensorflow_tables import TensorFlowBackend


class SettledVariable(keras.Variable):  # type: ignore[misc]  # Keras comes without types
    """A variable that is settled before anyone sees or writes it."""

    def settle(self) -> None:
        """Apply all deferred steps, in a graph whenever it runs."""

    @property
    def value(self) -> Any:
        self.settle()
        return super().value

    def assign(self, value: Any) -> Any:
        self.settle()
        return super().assign(value)

    @property
    def handle(self) -> Any:  # which shows nothing
        return self._value.handle

    def __repr__(self) -> str:
        self.settle()
        described: str = super().__repr__()
        return described


class TableVariable(SettledVariable):
    """The variable of a table."""

    ownership: Ownership[TensorFlowBackend] | None = None
    """The tie that holds now."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.readers = Readers()
        super().__init__(*args, **options)

    def settle(self) -> None:
        backend = None if self.ownership is None else self.ownership.backend
        note_read(self, backend)
        if backend is not None:
            backend.settle()


class SlotVariable(SettledVariable):
    """The variable of a table's slot."""

    training: TensorFlowBackend | None = None
    """What trains the table for the optimizer whose slot it is."""

    def settle(self) -> None:
        if self.training is not None:
            self.training.settle()

"""Variables of Keras whose rows an optimizer here trains: what they show is settled."""

from __future__ import annotations

from typing import Any


class Settled:
    """A variable that is settled before anyone sees or writes it."""

    training: Any = None
    """What trains its rows, or None while nobody does."""

    def settle(self) -> None:
        """Apply all deferred steps."""
        if self.training is not None:
            self.training.settle()

    @property
    def value(self) -> Any:
        self.settle()
        return super().value  # type: ignore[misc]

    def assign(self, value: Any) -> Any:
        self.settle()
        return super().assign(value)  # type: ignore[misc]

    @property
    def handle(self) -> Any:  # TensorFlow's, which shows nothing
        this: Any = self
        return this._value.handle

    def __repr__(self) -> str:
        self.settle()
        return super().__repr__()

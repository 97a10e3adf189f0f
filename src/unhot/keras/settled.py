"""Variables of Keras whose rows an optimizer here trains: what they show is settled."""

from __future__ import annotations

import functools
from typing import Any


def become(variable: Any, trait: type, training: Any) -> None:
    """Let the variable behave as `trait` says from now on, under the name of its class; once it does, know the new training."""
    if not isinstance(variable, Owned):
        variable.__class__ = trait_of(trait, type(variable))  # type: ignore[arg-type]
    variable.training = training


@functools.cache
def trait_of(trait: Any, kind: Any) -> Any:
    """The class of this kind of variable that behaves as `trait` says, under the kind's name."""
    return type(kind.__name__, (trait, kind), {"__qualname__": kind.__qualname__, "__module__": kind.__module__})


class Owned:
    """A variable that an optimizer of `unhot.keras` trains."""

    training: Any
    """What trains its rows, or None once nobody does."""

    def settle(self) -> None:
        """Apply all deferred steps."""
        if self.training is not None:
            self.training.settle()


class Settled(Owned):
    """A variable that is settled before anyone sees or writes it."""

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

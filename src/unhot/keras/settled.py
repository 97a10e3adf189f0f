"""Variables of Keras whose rows an optimizer here trains: what they show is settled, and other optimizers are told off."""

from __future__ import annotations

import functools
import sys
from typing import Any

import keras


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

    @property
    def overwrite_with_gradient(self) -> bool:
        """Optimizers ask this of every variable, at first and at each step, which shows who they are."""
        asking: Any = sys._getframe(1).f_locals.get("self")
        asking = getattr(asking, "inner_optimizer", asking)
        stranger = isinstance(asking, keras.optimizers.Optimizer) and not hasattr(asking, "row_rule")
        if stranger and self.training is not None and self.training.optimizer is not None:
            this: Any = self
            raise ValueError(
                f"{this.path} is trained by an optimizer of unhot.keras, which may have deferred steps of its rows, and now"
                f" given to another. Received: {type(asking).__name__}. Call `unhot.keras.release(model)` before you compile or"
                " train with another optimizer."
            )
        return False


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

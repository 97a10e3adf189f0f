"""The models that call tables, whose compiled functions are made anew when a table changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import keras

from unhot.keras._private import entry_layer, tell_trainer
from unhot.keras.kinds import Tensor, Variable

CALLERS: weakref.WeakSet[keras.Model] = weakref.WeakSet()
"""Models that have called a table."""


def note_caller() -> None:
    """Note the model that is being called."""
    model = entry_layer()
    if isinstance(model, keras.Model):
        CALLERS.add(model)


def call_anew(variable: Variable) -> None:
    """Have the models that call a table make their functions for `fit`, `evaluate` and `predict` anew, also within `fit`."""
    for model in _callers_of(variable):
        for kind in ("train", "test", "predict"):
            if getattr(model, f"{kind}_function", None) is not None:
                getattr(model, f"make_{kind}_function")(force=True)


def note_change(variable: Variable, values: Callable[[Iterable[Variable]], list[Tensor]]) -> None:
    """Tell the trainers of the models that call a table of its new value, which they go back to after an error in `fit`.

    `values` gives them for variables.
    """
    for model in _callers_of(variable):
        tell_trainer(model, values)


def _callers_of(variable: Variable) -> list[keras.Model]:
    return [model for model in list(CALLERS) if any(variable is other for other in model.variables)]

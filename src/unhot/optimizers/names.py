"""What a framework calls an optimizer, its hyperparameters and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Place = str | tuple[str, int]
"""A name, or a name and a place: where one of several numbers that go by one name stands."""


@dataclass(frozen=True)
class Names:
    """The names of one framework for an optimizer; each mapping leads from our names to the framework's.

    Args:
        stock: the framework's own class, in `torch.optim` or `keras.optimizers`; "" if it has none.
        hyperparameters: the keys of PyTorch's parameter groups, or the attributes of Keras's optimizers. Keras's rate and decay
            are left out: they have the same names in all of them, and the decay depends on the variable.
        slots: the keys of PyTorch's state of a parameter, or the attributes that hold the variables of Keras's optimizer.
        numbers: the same for what is kept beside slots: "step", the number of steps, and those of `Clock.state`.
        implied: hyperparameters of ours that the framework's class stands for.
    """

    stock: str
    hyperparameters: Mapping[str, Place]
    slots: Mapping[str, str]
    numbers: Mapping[str, str] = field(default_factory=dict)
    implied: Mapping[str, Any] = field(default_factory=dict)


def same(*names: str) -> dict[str, Place]:
    """Names that are the same in the framework."""
    return {name: name for name in names}
